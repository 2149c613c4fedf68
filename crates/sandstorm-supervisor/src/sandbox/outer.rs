//! The supervisor's own cage, once it serves: Landlock to the grain's directory, and a filter
//! without `socket`, `connect` or `execve`.
//!
//! It shares the uid of the shell, whose sockets and files it must not reach if a message of the
//! app should ever take it over. Landlock before ABI 9 does not stop a connect to a path socket,
//! so the filter does. Everything it still needs was opened before.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};

use super::bpf;
use super::syscalls::{Call, Case, Group, Is, Test, Verdict};
use crate::sys::process;

const fn call(name: &'static str, x86_64: Option<u32>, aarch64: u32) -> Call {
    Call { name, x86_64, aarch64: Some(aarch64) }
}
const fn x86_only(name: &'static str, x86_64: u32) -> Call {
    Call { name, x86_64: Some(x86_64), aarch64: None }
}

/// PROT_EXEC in the third argument.
const NO_NEW_CODE: &[Case] = &[Case {
    errno: libc::EPERM,
    tests: &[Test { arg: 2, is: Is::AnyBit(libc::PROT_EXEC as u32) }],
}];
/// FIONBIO is the one request that is made.
const FIONBIO_ONLY: &[Case] = &[Case {
    errno: libc::EPERM,
    tests: &[Test { arg: 1, is: Is::NotEqual(libc::FIONBIO as u32) }],
}];

/// What the serving supervisor may call. Anything else answers EPERM.
#[rustfmt::skip]
pub const TABLE: &[Group] = &[
    Group {
        verdict: Verdict::Allow,
        reason: "open descriptors: log, link, connections, published files",
        calls: &[
            call("read", Some(0), 63), call("write", Some(1), 64), call("pread64", Some(17), 67),
            call("readv", Some(19), 65), call("writev", Some(20), 66), call("lseek", Some(8), 62),
            call("close", Some(3), 57), call("dup3", Some(292), 24), x86_only("dup2", 33),
            call("fcntl", Some(72), 25), call("fstat", Some(5), 80),
            call("newfstatat", Some(262), 79), call("statx", Some(332), 291),
            call("fstatfs", Some(138), 44),
            call("fsync", Some(74), 82), call("syncfs", Some(306), 267),
        ],
    },
    Group {
        verdict: Verdict::Allow,
        reason: "files of the grain's directory, which Landlock bounds",
        calls: &[
            call("openat2", Some(437), 437), call("openat", Some(257), 56),
            call("getdents64", Some(217), 61), call("renameat", Some(264), 38),
            call("unlinkat", Some(263), 35),
        ],
    },
    Group {
        verdict: Verdict::Allow,
        reason: "connections that come in; none can be made",
        calls: &[
            call("accept4", Some(288), 242), call("recvfrom", Some(45), 207),
            call("recvmsg", Some(47), 212), call("sendto", Some(44), 206),
            call("sendmsg", Some(46), 211), call("shutdown", Some(48), 210),
            call("getsockopt", Some(55), 209), call("getsockname", Some(51), 204),
            call("getpeername", Some(52), 205),
        ],
    },
    Group {
        verdict: Verdict::Allow,
        reason: "waiting and time",
        calls: &[
            call("epoll_ctl", Some(233), 21), x86_only("epoll_wait", 232),
            call("epoll_pwait", Some(281), 22), call("epoll_pwait2", Some(441), 441),
            x86_only("poll", 7), call("ppoll", Some(271), 73), call("futex", Some(202), 98),
            call("clock_gettime", Some(228), 113), call("clock_nanosleep", Some(230), 115),
            call("nanosleep", Some(35), 101), call("restart_syscall", Some(219), 128),
            call("sched_yield", Some(24), 124), call("wait4", Some(61), 260),
        ],
    },
    Group {
        verdict: Verdict::Allow,
        reason: "memory, signals and the end of the process",
        calls: &[
            call("munmap", Some(11), 215), call("mremap", Some(25), 216),
            call("madvise", Some(28), 233), call("brk", Some(12), 214),
            call("rt_sigaction", Some(13), 134), call("rt_sigprocmask", Some(14), 135),
            call("rt_sigreturn", Some(15), 139), call("sigaltstack", Some(131), 132),
            call("getpid", Some(39), 172), call("gettid", Some(186), 178),
            call("tgkill", Some(234), 131), call("getrandom", Some(318), 278),
            call("exit", Some(60), 93), call("exit_group", Some(231), 94),
        ],
    },
    Group {
        verdict: Verdict::RefuseIf(NO_NEW_CODE),
        reason: "memory, but none that can be executed",
        calls: &[call("mmap", Some(9), 222), call("mprotect", Some(10), 226)],
    },
    Group {
        verdict: Verdict::RefuseIf(FIONBIO_ONLY),
        reason: "sockets are set non-blocking",
        calls: &[call("ioctl", Some(16), 29)],
    },
];

/// Confines this process for good. `grain` is all that stays reachable by name.
///
/// # Errors
/// What the kernel answers, but for a kernel without Landlock: then the text says so and the
/// filter stands alone.
pub fn confine(grain: BorrowedFd<'_>) -> io::Result<Option<String>> {
    let note = match landlock(grain) {
        Ok(RulesetStatus::FullyEnforced) => None,
        Ok(RulesetStatus::PartiallyEnforced) => {
            Some("the supervisor is confined by an older Landlock than it could use".to_owned())
        }
        Ok(RulesetStatus::NotEnforced) => {
            Some("this kernel has no Landlock: the supervisor's filter stands alone".to_owned())
        }
        Err(e) => return Err(io::Error::other(e)),
    };
    process::install_filter(&bpf::OUTER)?;
    Ok(note)
}

fn landlock(grain: BorrowedFd<'_>) -> Result<RulesetStatus, landlock::RulesetError> {
    let newest = ABI::V6;
    let every = AccessFs::from_all(newest);
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(every)?
        .handle_access(AccessNet::from_all(newest))?
        .scope(Scope::from_all(newest))?
        .create()?
        .add_rule(PathBeneath::new(
            grain,
            AccessFs::ReadFile
                | AccessFs::ReadDir
                | AccessFs::WriteFile
                | AccessFs::Truncate
                | AccessFs::MakeReg
                | AccessFs::RemoveFile,
        ))?
        .restrict_self()?;
    Ok(status.ruleset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::syscalls;

    #[test]
    fn numbers_agree_with_the_apps_table() {
        for group in TABLE {
            for own in group.calls {
                let row = syscalls::TABLE
                    .iter()
                    .flat_map(|g| g.calls)
                    .find(|c| c.name == own.name)
                    .unwrap_or_else(|| panic!("{} is in no table", own.name));
                assert_eq!(own.x86_64, row.x86_64, "{}", own.name);
                assert_eq!(own.aarch64, row.aarch64, "{}", own.name);
            }
        }
    }

    #[test]
    fn nothing_leads_out() {
        for name in ["socket", "connect", "execve", "execveat", "clone", "clone3", "fork", "ptrace"]
        {
            assert!(TABLE.iter().flat_map(|g| g.calls).all(|c| c.name != name), "{name}");
        }
    }
}
