//! Attacks on the file system's shape: mounts, roots, handles.

use crate::attack::{Attack, Context, Outcome, answer};
use crate::sys::{c, call};

const LAYER: &str = "seccomp (mount family), no capabilities";

macro_rules! row {
    ($name:literal, $tries:literal, $bare:literal, $attempt:expr) => {
        Attack { name: $name, tries: $tries, layer: LAYER, safe_bare: $bare, attempt: $attempt }
    };
}

pub const ATTACKS: &[Attack] = &[
    row!("mount-tmpfs", "mount a tmpfs on /tmp", false, |_| mount("none", "/tmp", "tmpfs", 0)),
    row!("mount-proc", "mount proc on /tmp", false, |_| mount("proc", "/tmp", "proc", 0)),
    row!("mount-sysfs", "mount sysfs on /tmp", false, |_| mount("sysfs", "/tmp", "sysfs", 0)),
    row!("mount-bind", "bind / on /tmp", false, |_| mount("/", "/tmp", "", libc::MS_BIND)),
    row!("remount-rw", "make the package writable again", false, |_| mount(
        "none",
        "/",
        "",
        libc::MS_REMOUNT | libc::MS_BIND
    )),
    row!("mount-shared", "make / shared, to send mounts outside", false, |_| mount(
        "none",
        "/",
        "",
        libc::MS_SHARED | libc::MS_REC
    )),
    row!("umount-dev", "take /dev away", false, |_| {
        let path = c("/dev");
        answer(
            call(libc::SYS_umount2, &[path.as_ptr() as i64, libc::MNT_DETACH as i64]),
            "/dev is gone",
        )
    }),
    row!("pivot-root", "pivot_root(., .)", false, |_| {
        let dot = c(".");
        answer(call(libc::SYS_pivot_root, &[dot.as_ptr() as i64, dot.as_ptr() as i64]), "pivoted")
    }),
    row!("chroot", "chroot to /tmp, for the classic walk out", true, |_| {
        let path = c("/tmp");
        answer(call(libc::SYS_chroot, &[path.as_ptr() as i64]), "chrooted")
    }),
    row!("open-tree", "open_tree(/, CLONE|RECURSIVE)", true, |_| {
        let path = c("/");
        let flags = 1 | 0x8000; // OPEN_TREE_CLONE | AT_RECURSIVE
        answer(
            call(libc::SYS_open_tree, &[libc::AT_FDCWD as i64, path.as_ptr() as i64, flags]),
            "a detached copy of the tree",
        )
    }),
    row!("fsopen", "fsopen(tmpfs)", true, |_| {
        let name = c("tmpfs");
        answer(call(libc::SYS_fsopen, &[name.as_ptr() as i64, 0]), "a file system context")
    }),
    row!("fspick", "fspick(/), to change its options", true, |_| {
        let path = c("/");
        answer(
            call(libc::SYS_fspick, &[libc::AT_FDCWD as i64, path.as_ptr() as i64, 0]),
            "a file system context",
        )
    }),
    row!("move-mount", "move_mount of /dev onto /tmp", false, |_| {
        let (from, to) = (c("/dev"), c("/tmp"));
        let here = libc::AT_FDCWD as i64;
        answer(
            call(libc::SYS_move_mount, &[here, from.as_ptr() as i64, here, to.as_ptr() as i64, 0]),
            "moved",
        )
    }),
    row!("mount-setattr", "mount_setattr(/) without read-only", false, |_| {
        let path = c("/");
        let attr: [u64; 4] = [0, 1, 0, 0]; // clear MOUNT_ATTR_RDONLY
        answer(
            call(
                libc::SYS_mount_setattr,
                &[libc::AT_FDCWD as i64, path.as_ptr() as i64, 0, attr.as_ptr() as i64, 32],
            ),
            "flags changed",
        )
    }),
    row!("file-handle", "open_by_handle_at: reach files by inode number", true, file_handle),
    row!("swapon", "swap to a file of ours", false, |_| {
        let path = c("/var/swap");
        answer(call(libc::SYS_swapon, &[path.as_ptr() as i64, 0]), "swapping")
    }),
    row!("quotactl", "ask for disk quota of the host", true, |_| {
        let path = c("/");
        let mut info = [0u64; 32];
        answer(
            call(
                libc::SYS_quotactl,
                &[0x80000100u32 as i64, path.as_ptr() as i64, 0, info.as_mut_ptr() as i64],
            ),
            "answered",
        )
    }),
];

fn mount(from: &str, to: &str, kind: &str, flags: u64) -> Outcome {
    let (from, to, kind) = (c(from), c(to), c(kind));
    answer(
        call(
            libc::SYS_mount,
            &[from.as_ptr() as i64, to.as_ptr() as i64, kind.as_ptr() as i64, flags as i64, 0],
        ),
        "mounted",
    )
}

/// Names a file by handle and opens it again through the mount's descriptor.
fn file_handle(_: &Context) -> Outcome {
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        data: [u8; 128],
    }
    let mut handle = Handle { bytes: 128, kind: 0, data: [0; 128] };
    let mut mount_id = 0i32;
    let path = c("/");
    let named = call(
        libc::SYS_name_to_handle_at,
        &[
            libc::AT_FDCWD as i64,
            path.as_ptr() as i64,
            &raw mut handle as i64,
            &raw mut mount_id as i64,
            0,
        ],
    );
    if named == -1 {
        return crate::attack::refused();
    }
    let root = call(libc::SYS_openat, &[libc::AT_FDCWD as i64, path.as_ptr() as i64, 0]);
    answer(
        call(libc::SYS_open_by_handle_at, &[root, &raw mut handle as i64, 0]),
        "a file by its handle",
    )
}
