//! Attacks by way of files: the package, planted links and devices, leaked descriptors.

use std::path::Path;

use crate::attack::{Attack, Context, Outcome, answer, refused};
use crate::sys::{c, call, is_open, write_file};

macro_rules! row {
    ($name:literal, $layer:literal, $bare:literal, $tries:literal, $attempt:expr) => {
        Attack { name: $name, tries: $tries, layer: $layer, safe_bare: $bare, attempt: $attempt }
    };
}

pub const ATTACKS: &[Attack] = &[
    row!("write-package", "read-only package", false, "create a file in the package", |_| {
        done(write_file("/hostile", b"x"), "written")
    }),
    row!("chmod-package", "read-only package", false, "chmod this program", |_| {
        let own = c(&std::env::args().next().unwrap_or_default());
        answer(call(libc::SYS_chmod, &[own.as_ptr() as i64, 0o777]), "changed")
    }),
    row!(
        "hard-link-package",
        "read-only package, separate mounts",
        false,
        "hard-link this program into /var",
        |_| {
            let (own, there) = (c(&std::env::args().next().unwrap_or_default()), c("/var/link"));
            let here = libc::AT_FDCWD as i64;
            answer(
                call(
                    libc::SYS_linkat,
                    &[here, own.as_ptr() as i64, here, there.as_ptr() as i64, 0],
                ),
                "linked",
            )
        }
    ),
    row!(
        "map-package-writable",
        "read-only package",
        false,
        "open this program for writing",
        |_| {
            let own = std::env::args().next().unwrap_or_default();
            done(std::fs::OpenOptions::new().write(true).open(own).is_ok(), "opened for writing")
        }
    ),
    row!("proc", "no /proc", true, "read /proc/self/maps", |_| seen("/proc/self/maps")),
    row!("proc-root", "no /proc", true, "walk to /proc/1/root", |_| seen("/proc/1/root/.")),
    row!("proc-other", "no /proc", true, "read another process's environment", |_| {
        seen(&format!("/proc/{}/environ", call(libc::SYS_getppid, &[])))
    }),
    row!("sys", "no /sys", true, "list /sys/class", |_| seen("/sys/class")),
    row!("cgroup-files", "no /sys", true, "reach the cgroup tree", |_| {
        match seen("/sys/fs/cgroup/cgroup.procs") {
            Outcome::Refused(_) => seen("/sys/fs/cgroup/pids/cgroup.procs"),
            there => there,
        }
    }),
    row!("dev-mem", "own /dev", true, "look for memory, disks or a terminal in /dev", |_| {
        let there: Vec<_> = [
            "mem",
            "kmem",
            "kmsg",
            "port",
            "sda",
            "vda",
            "nvme0n1",
            "fuse",
            "kvm",
            "ptmx",
            "tty",
            "net/tun",
            "loop-control",
        ]
        .into_iter()
        .filter(|name| Path::new("/dev").join(name).symlink_metadata().is_ok())
        .collect();
        if there.is_empty() {
            Outcome::Refused("none of them".into())
        } else {
            Outcome::Succeeded(format!("{there:?}"))
        }
    }),
    row!("dev-writable", "own /dev", false, "create a file in /dev", |_| {
        done(write_file("/dev/hostile", b"x"), "written")
    }),
    row!("mknod-char", "no capabilities, nodev", false, "make a memory device in /var", |_| node(
        libc::S_IFCHR,
        1,
        1
    )),
    row!("mknod-block", "no capabilities, nodev", false, "make a disk device in /var", |_| node(
        libc::S_IFBLK,
        254,
        0
    )),
    row!("dot-dot-root", "pivot_root", true, "walk above /", |_| {
        use std::os::unix::fs::MetadataExt;
        let identity = |path: &str| std::fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
        let outside = Path::new("/../../../../../../root/.profile").exists()
            || Path::new("/../../../etc/shadow").exists()
            || identity("/") != identity("/../../..");
        done(outside, "something above /")
    }),
    row!(
        "leaked-fds",
        "descriptors closed",
        true,
        "look for open descriptors beyond 0 to 3",
        |_| {
            // 4 and 5 are this program's own pipe to its parent.
            let open: Vec<_> = (6..4096).filter(|fd| is_open(*fd)).collect();
            if open.is_empty() {
                Outcome::Refused("none".into())
            } else {
                Outcome::Succeeded(format!("{open:?}"))
            }
        }
    ),
    row!(
        "old-root-fd",
        "descriptors closed",
        true,
        "open the host's etc/passwd by way of every open descriptor",
        |_| {
            let path = c("etc/passwd");
            let hit = (0..4096).find(|fd| {
                is_open(*fd)
                    && call(libc::SYS_openat, &[i64::from(*fd), path.as_ptr() as i64, 0]) != -1
            });
            let by_cwd =
                call(libc::SYS_openat, &[libc::AT_FDCWD as i64, path.as_ptr() as i64, 0]) != -1;
            done(hit.is_some() || by_cwd, "the host's file opened")
        }
    ),
    row!("supervisor-socket", "own mounts", true, "connect to the grain's socket", |_| {
        let tried = ["/socket", "/var/../socket", "/var/socket", "../socket", "/run/socket"];
        let hit =
            tried.into_iter().find(|path| std::os::unix::net::UnixStream::connect(path).is_ok());
        match hit {
            Some(path) => Outcome::Succeeded(path.into()),
            None => Outcome::Refused("no such socket here".into()),
        }
    }),
    row!("host-files", "own mounts", true, "read files of the host", |_| {
        let there: Vec<_> = [
            "/etc/shadow",
            "/etc/machine-id",
            "/root",
            "/home",
            "/run",
            "/boot",
            "/var/lib/dpkg",
            "/var/sandstorm",
        ]
        .into_iter()
        .filter(|path| Path::new(path).exists())
        .collect();
        if there.is_empty() {
            Outcome::Refused("none of them".into())
        } else {
            Outcome::Succeeded(format!("{there:?}"))
        }
    }),
    row!(
        "inherited-environment",
        "own environment",
        true,
        "look for the host's environment",
        |_| {
            let names: Vec<_> = std::env::vars()
                .map(|(name, _)| name)
                .filter(|name| !["SANDSTORM", "PATH", "HOSTILE"].contains(&name.as_str()))
                .collect();
            if names.is_empty() {
                Outcome::Refused("nothing but what the manifest gives".into())
            } else {
                Outcome::Succeeded(format!("{names:?}"))
            }
        }
    ),
    row!(
        "plant-traps",
        "the platform follows no link",
        false,
        "plant links, a FIFO, a socket and locked directories in /var",
        plant
    ),
];

fn done(yes: bool, effect: &str) -> Outcome {
    if yes { Outcome::Succeeded(effect.into()) } else { refused() }
}

fn seen(path: &str) -> Outcome {
    match std::fs::metadata(path) {
        Ok(_) => Outcome::Succeeded(format!("{path} is there")),
        Err(error) => Outcome::Refused(error.to_string()),
    }
}

fn node(kind: u32, major: u32, minor: u32) -> Outcome {
    let path = c("/var/device");
    let made = call(
        libc::SYS_mknod,
        &[path.as_ptr() as i64, i64::from(kind | 0o666), libc::makedev(major, minor) as i64],
    );
    if made == -1 {
        return refused();
    }
    match std::fs::File::open("/var/device") {
        Ok(_) => Outcome::Succeeded("a device opened".into()),
        Err(error) => Outcome::Refused(format!("made, but: {error}")),
    }
}

/// Leaves in /var what backup, log, size and delete code must not follow or choke on.
///
/// Allowed by design, so always "refused" here: the test looks at what the platform does next.
fn plant(_: &Context) -> Outcome {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let _ = symlink("/etc/shadow", "/var/link-out");
    let _ = symlink("../log", "/var/link-log");
    let _ = symlink("../../../..", "/var/link-up");
    let _ = symlink("/etc", "/var/www");
    let _ = symlink("loop", "/var/loop");
    let fifo = c("/var/fifo");
    call(libc::SYS_mknod, &[fifo.as_ptr() as i64, i64::from(libc::S_IFIFO | 0o600), 0]);
    drop(std::os::unix::net::UnixListener::bind("/var/planted-socket"));
    if std::fs::create_dir_all("/var/locked/inner").is_ok() {
        write_file("/var/locked/inner/file", b"kept");
        let _ = std::fs::set_permissions("/var/locked/inner", PermissionsExt::from_mode(0o000));
        let _ = std::fs::set_permissions("/var/locked", PermissionsExt::from_mode(0o000));
    }
    Outcome::Refused("planted: the platform's next steps are the test".into())
}
