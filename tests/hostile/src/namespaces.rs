//! Attacks that look for a new namespace, where every capability comes back.

use crate::attack::{Attack, Outcome, answer, refused};
use crate::sys::call;

const LAYER: &str = "seccomp (clone, clone3, unshare, setns)";

macro_rules! unshare_row {
    ($name:literal, $flag:expr, $tries:literal) => {
        Attack {
            name: $name,
            tries: $tries,
            layer: LAYER,
            safe_bare: true,
            attempt: |_| answer(call(libc::SYS_unshare, &[$flag as i64]), "a new namespace"),
        }
    };
}

pub const ATTACKS: &[Attack] = &[
    unshare_row!("unshare-user", libc::CLONE_NEWUSER, "unshare a user namespace"),
    unshare_row!("unshare-mount", libc::CLONE_NEWNS, "unshare a mount namespace"),
    unshare_row!("unshare-net", libc::CLONE_NEWNET, "unshare a network namespace"),
    unshare_row!("unshare-pid", libc::CLONE_NEWPID, "unshare a pid namespace"),
    unshare_row!("unshare-ipc", libc::CLONE_NEWIPC, "unshare an ipc namespace"),
    unshare_row!("unshare-uts", libc::CLONE_NEWUTS, "unshare a uts namespace"),
    unshare_row!("unshare-cgroup", libc::CLONE_NEWCGROUP, "unshare a cgroup namespace"),
    unshare_row!("unshare-time", 0x80, "unshare a time namespace"),
    unshare_row!(
        "unshare-user-and-all",
        libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWPID,
        "unshare user, mount, net and pid at once"
    ),
    Attack {
        name: "clone-user",
        tries: "clone(CLONE_NEWUSER)",
        layer: LAYER,
        safe_bare: true,
        attempt: |_| {
            child(call(
                libc::SYS_clone,
                &[(libc::CLONE_NEWUSER | libc::SIGCHLD) as i64, 0, 0, 0, 0],
            ))
        },
    },
    Attack {
        name: "clone-mount",
        tries: "clone(CLONE_NEWNS)",
        layer: LAYER,
        safe_bare: true,
        attempt: |_| {
            child(call(libc::SYS_clone, &[(libc::CLONE_NEWNS | libc::SIGCHLD) as i64, 0, 0, 0, 0]))
        },
    },
    Attack {
        name: "clone3-user",
        tries: "clone3(CLONE_NEWUSER), whose flags no filter can see",
        layer: LAYER,
        safe_bare: true,
        attempt: |_| {
            let args: [u64; 11] =
                [libc::CLONE_NEWUSER as u64, 0, 0, 0, libc::SIGCHLD as u64, 0, 0, 0, 0, 0, 0];
            child(call(libc::SYS_clone3, &[args.as_ptr() as i64, 88]))
        },
    },
    Attack {
        name: "clone3-plain",
        tries: "clone3 without any flag: must be ENOSYS, so that libraries fall back",
        layer: LAYER,
        safe_bare: true,
        attempt: |_| {
            let args: [u64; 11] = [0, 0, 0, 0, libc::SIGCHLD as u64, 0, 0, 0, 0, 0, 0];
            child(call(libc::SYS_clone3, &[args.as_ptr() as i64, 88]))
        },
    },
    Attack {
        name: "setns",
        tries: "setns through a pidfd of itself",
        layer: LAYER,
        safe_bare: true,
        attempt: |_| {
            let me = i64::from(std::process::id());
            let fd = call(libc::SYS_pidfd_open, &[me, 0]);
            if fd == -1 {
                return refused();
            }
            answer(call(libc::SYS_setns, &[fd, libc::CLONE_NEWUTS as i64]), "joined")
        },
    },
];

/// The new child of a clone ends at once; its existence is the effect.
fn child(pid: i64) -> Outcome {
    if pid == 0 {
        // SAFETY: leaves the child without running anything of the parent's.
        unsafe { libc::_exit(0) };
    }
    answer(pid, "a child in a namespace of its own")
}
