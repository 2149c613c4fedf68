//! Attacks on other processes: tracing, reading, signalling, borrowing descriptors.

use crate::attack::{Attack, Context, Outcome, answer, refused};
use crate::sys::call;

macro_rules! row {
    ($name:literal, $layer:literal, $bare:literal, $tries:literal, $attempt:expr) => {
        Attack { name: $name, tries: $tries, layer: $layer, safe_bare: $bare, attempt: $attempt }
    };
}

pub const ATTACKS: &[Attack] = &[
    row!("ptrace-traceme", "seccomp", true, "PTRACE_TRACEME", |_| {
        answer(call(libc::SYS_ptrace, &[libc::PTRACE_TRACEME as i64, 0, 0, 0]), "traced")
    }),
    row!(
        "ptrace-parent",
        "seccomp, init not dumpable",
        false,
        "PTRACE_SEIZE of our parent",
        |_| {
            answer(call(libc::SYS_ptrace, &[libc::PTRACE_SEIZE as i64, parent(), 0, 0]), "attached")
        }
    ),
    row!("ptrace-init", "seccomp, init not dumpable", false, "PTRACE_SEIZE of pid 1", |_| {
        answer(call(libc::SYS_ptrace, &[libc::PTRACE_SEIZE as i64, 1, 0, 0]), "seized")
    }),
    row!("read-memory", "seccomp", true, "process_vm_readv of our parent", |_| vm(
        libc::SYS_process_vm_readv
    )),
    row!("write-memory", "seccomp", false, "process_vm_writev to our parent", |_| vm(
        libc::SYS_process_vm_writev
    )),
    row!(
        "steal-fd",
        "seccomp, init not dumpable",
        true,
        "pidfd_getfd of our parent's standard output",
        |_| {
            let fd = call(libc::SYS_pidfd_open, &[parent(), 0]);
            if fd == -1 {
                return refused();
            }
            answer(call(libc::SYS_pidfd_getfd, &[fd, 1, 0]), "a descriptor of another process")
        }
    ),
    row!("process-madvise", "seccomp", true, "process_madvise on our parent", |_| {
        let fd = call(libc::SYS_pidfd_open, &[parent(), 0]);
        if fd == -1 {
            return refused();
        }
        let vector: [u64; 2] = [(&raw const fd as u64) & !4095, 4096];
        answer(
            call(
                libc::SYS_process_madvise,
                &[fd, vector.as_ptr() as i64, 1, libc::MADV_COLD as i64, 0],
            ),
            "advised another process's memory",
        )
    }),
    row!("kill-init", "pid namespace", false, "SIGKILL to pid 1", |_| {
        call(libc::SYS_kill, &[1, i64::from(libc::SIGKILL)]);
        std::thread::sleep(std::time::Duration::from_millis(200));
        Outcome::Refused("still here: the kernel shields pid 1 from inside".into())
    }),
    row!("stop-init", "pid namespace", false, "SIGSTOP to pid 1", |_| {
        call(libc::SYS_kill, &[1, i64::from(libc::SIGSTOP)]);
        Outcome::Refused("the kernel shields pid 1 from inside".into())
    }),
    row!("see-outside-pids", "pid namespace", true, "kill(pid, 0) over 40,000 pids", see_pids),
    row!("nice-up", "no capabilities", true, "nice -20", |_| {
        answer(call(libc::SYS_setpriority, &[0, 0, -20]), "a higher priority")
    }),
    row!("realtime", "no capabilities, seccomp", true, "SCHED_FIFO", |_| {
        let priority = 50i32;
        answer(
            call(
                libc::SYS_sched_setscheduler,
                &[0, i64::from(libc::SCHED_FIFO), &raw const priority as i64],
            ),
            "real-time scheduling",
        )
    }),
    row!("raise-nofile", "no capabilities", true, "raise the hard limit of open files", |_| {
        let limit: [u64; 2] = [1 << 19, 1 << 19];
        answer(
            call(libc::SYS_prlimit64, &[0, libc::RLIMIT_NOFILE as i64, limit.as_ptr() as i64, 0]),
            "half a million descriptors",
        )
    }),
    row!("limit-init", "no capabilities, init not dumpable", false, "prlimit on pid 1", |_| {
        let limit: [u64; 2] = [0, 0];
        answer(
            call(libc::SYS_prlimit64, &[1, libc::RLIMIT_NOFILE as i64, limit.as_ptr() as i64, 0]),
            "init's limits changed",
        )
    }),
];

fn parent() -> i64 {
    call(libc::SYS_getppid, &[])
}

fn vm(number: i64) -> Outcome {
    // The parent is a fork of this program: the same addresses are mapped there, and there this word
    // means nothing.
    static WORD: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(7);
    let local: [u64; 2] = [WORD.as_ptr() as u64, 8];
    let remote = local;
    answer(
        call(number, &[parent(), local.as_ptr() as i64, 1, remote.as_ptr() as i64, 1, 0]),
        "another process's memory",
    )
}

/// Counts processes that a signal could reach: the box holds a handful.
fn see_pids(_: &Context) -> Outcome {
    let seen = (2..40_000)
        .filter(|pid| {
            call(libc::SYS_kill, &[*pid, 0]) == 0
                || std::io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
        })
        .count();
    if seen > 12 {
        Outcome::Succeeded(format!("{seen} processes seen"))
    } else {
        Outcome::Refused(format!("{seen} processes, all of the box"))
    }
}
