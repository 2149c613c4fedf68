//! For each attack the layers of the sandbox without which it succeeds (names of the supervisor's
//! `--unsafe-disable`), or why that cannot be shown. Several layers stand together where each of
//! them stops the attack alone.

/// How it is shown that an attack is a real one.
pub enum Proof {
    /// It succeeds in a sandbox without these.
    Without(&'static [&'static str]),
    /// Not inside; outside where it can be tried there, else not at all, for this reason.
    Untried(&'static str),
}

use Proof::{Untried, Without};

/// Capabilities in the grain's own user namespace do not count for what belongs to the machine.
const MACHINE: Proof =
    Untried("only the host's own root may, and no layer of ours makes an app that");
const TERMINAL: Proof = Untried("a grain has no terminal to try it on");
const SHIELDED: Proof = Untried("the kernel itself shields pid 1 of a namespace");

/// Layers for the attack of this name.
pub fn proof(attack: &str) -> Proof {
    match attack {
        "mount-tmpfs" | "mount-bind" | "mount-shared" | "umount-dev" | "fsopen" => {
            Without(&["seccomp", "caps", "owner"])
        }
        "open-tree" => Without(&["seccomp", "caps", "owner"]),
        "chroot" => Without(&["seccomp", "caps"]),
        "mount-proc" | "mount-sysfs" => Without(&["seccomp", "caps", "owner", "no-proc"]),
        "remount-rw" | "mount-setattr" | "move-mount" | "pivot-root" => {
            Untried("the kernel locks the mounts that come from a namespace above")
        }
        "fspick" | "file-handle" | "swapon" | "quotactl" => MACHINE,
        "unshare-user" | "unshare-user-and-all" | "clone-user" | "clone3-user" => {
            Without(&["seccomp", "nested"])
        }
        "unshare-mount" | "unshare-net" | "unshare-pid" | "unshare-ipc" | "unshare-uts"
        | "unshare-cgroup" | "unshare-time" | "clone-mount" => Without(&["seccomp", "caps"]),
        "setns" => Without(&["seccomp", "caps", "owner"]),
        "ptrace-init" | "limit-init" => Without(&["seccomp", "dumpable"]),
        "kill-init" | "stop-init" => SHIELDED,
        "see-outside-pids" => Without(&["pid-ns"]),
        "nice-up" | "realtime" | "raise-nofile" => MACHINE,
        "setuid-0" | "setresuid-other" | "setgroups" => {
            Untried("one id is mapped, and no layer of ours maps more")
        }
        "capabilities-held" | "capset" | "bounding-set" => Without(&["caps"]),
        "securebits" | "ambient" => Without(&["seccomp", "caps"]),
        "new-privileges" => Without(&["seccomp", "no-new-privs"]),
        "suid-mounts" | "device-mounts" => Without(&["mount-flags"]),
        "suid-file" => Untried("an app cannot make a file of another owner than itself"),
        "packet" | "raw-inet" | "raw-inet6" | "netlink-netfilter" | "xdp" | "sethostname" => {
            Without(&["seccomp", "caps", "owner"])
        }
        "alg" | "tipc" | "bluetooth" | "can" | "rds" | "smc" | "sctp" => Without(&["seccomp"]),
        "tcp-outside" | "abstract-outside" | "interfaces" | "door-interfaces" | "door-name"
        | "route-out" => Without(&["net-ns"]),
        "kexec" | "init-module" | "delete-module" | "reboot" | "set-clock" | "adjtimex"
        | "acct" | "vhangup" | "kernel-log" | "io-ports" | "bpf" | "perf" => MACHINE,
        "sysv-shm-outside" => Without(&["ipc-ns"]),
        "boot-time" => Without(&["time-ns"]),
        "host-name" => Without(&["uts-ns"]),
        "tiocsti" | "tioclinux" => TERMINAL,
        "write-package" | "chmod-package" => Without(&["readonly"]),
        "hard-link-package" => Untried("no link crosses two mounts, whatever their flags"),
        "map-package-writable" => Untried("the kernel lets nobody write to a running program"),
        "ping" => Untried("the kernel's own setting (ping_group_range) forbids it as well"),
        "message-queue" => Untried("the limit on the size of message queues is 0 as well"),
        "proc" | "proc-other" | "sys" => Without(&["no-proc"]),
        "proc-root" => Without(&["no-proc", "dumpable"]),
        "cgroup-files" | "dev-mem" | "dot-dot-root" | "host-files" => Without(&["pivot"]),
        "dev-writable" => Untried("the directory does not belong to the app either"),
        "mknod-char" | "mknod-block" => MACHINE,
        "leaked-fds" | "old-root-fd" => Without(&["descriptors"]),
        "supervisor-socket" => Untried("its directory is closed to the grain's uid as well"),
        "inherited-environment" => {
            Untried("the supervisor forgets its environment in its first steps")
        }
        "plant-traps" => Untried("it is the platform that must not follow them: see tests/shell"),
        // Every other is a system call that the filter alone refuses.
        _ => Without(&["seccomp"]),
    }
}
