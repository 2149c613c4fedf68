//! Attacks on the kernel's surface: calls that past holes came through.

use crate::attack::{Attack, Context, Outcome, answer, refused};
use crate::sys::{c, call};

macro_rules! row {
    ($name:literal, $bare:literal, $tries:literal, $attempt:expr) => {
        Attack { name: $name, tries: $tries, layer: "seccomp", safe_bare: $bare, attempt: $attempt }
    };
}

pub const ATTACKS: &[Attack] = &[
    row!("io-uring", true, "io_uring_setup", |_| {
        let params = [0u64; 15];
        answer(call(libc::SYS_io_uring_setup, &[8, params.as_ptr() as i64]), "a ring")
    }),
    row!("bpf", true, "bpf(BPF_PROG_LOAD)", |_| {
        // Socket filter: r0 = 0; exit.
        let program: [u64; 2] = [0xb7, 0x95];
        let licence = c("GPL");
        let mut attr = [0u64; 16];
        attr[0] = 1 | (2 << 32);
        attr[1] = program.as_ptr() as u64;
        attr[2] = licence.as_ptr() as u64;
        answer(call(libc::SYS_bpf, &[5, attr.as_ptr() as i64, 128]), "a program")
    }),
    row!("perf", true, "perf_event_open", |_| {
        let mut attr = [0u64; 16];
        attr[0] = 1 | (128 << 32); // PERF_TYPE_SOFTWARE, size 128
        attr[5] = 0b1100001; // disabled, exclude_kernel, exclude_hv
        answer(call(libc::SYS_perf_event_open, &[attr.as_ptr() as i64, 0, -1, -1, 0]), "a counter")
    }),
    row!("userfaultfd", true, "userfaultfd(UFFD_USER_MODE_ONLY)", |_| {
        answer(call(libc::SYS_userfaultfd, &[1]), "a descriptor")
    }),
    row!("kexec", false, "kexec_load", |_| answer(
        call(libc::SYS_kexec_load, &[0, 0, 0, 0]),
        "loaded"
    )),
    row!("init-module", false, "init_module", |_| {
        let (image, options) = (c("x"), c(""));
        answer(
            call(libc::SYS_init_module, &[image.as_ptr() as i64, 1, options.as_ptr() as i64]),
            "loaded",
        )
    }),
    row!("delete-module", false, "delete_module", |_| {
        let name = c("hostile");
        answer(call(libc::SYS_delete_module, &[name.as_ptr() as i64, 0]), "unloaded")
    }),
    row!("kernel-log", true, "syslog: read the kernel's log", |_| {
        let mut buffer = [0u8; 4096];
        answer(call(libc::SYS_syslog, &[3, buffer.as_mut_ptr() as i64, 4096]), "the kernel's log")
    }),
    row!("reboot", false, "reboot", |_| {
        // CAD_OFF: the mildest of its commands.
        answer(call(libc::SYS_reboot, &[0xfee1_dead, 672_274_793, 0, 0]), "allowed")
    }),
    row!("sethostname", false, "sethostname", |_| {
        let name = c("hostile");
        answer(call(libc::SYS_sethostname, &[name.as_ptr() as i64, 7]), "renamed")
    }),
    row!("set-clock", false, "clock_settime", |_| {
        let time: [i64; 2] = [1_000_000_000, 0];
        answer(call(libc::SYS_clock_settime, &[0, time.as_ptr() as i64]), "the clock was set")
    }),
    row!("adjtimex", false, "adjtimex: bend the clock", |_| {
        let mut timex = [0u64; 32];
        timex[0] = 0x0002; // ADJ_FREQUENCY, to 0
        answer(call(libc::SYS_adjtimex, &[timex.as_mut_ptr() as i64]), "the clock was bent")
    }),
    row!("personality", true, "personality(ADDR_NO_RANDOMIZE)", |_| {
        answer(call(libc::SYS_personality, &[0x0004_0000]), "no randomised addresses")
    }),
    row!("acct", false, "acct: have the kernel write to a file", |_| {
        let path = c("/var/acct");
        answer(call(libc::SYS_acct, &[path.as_ptr() as i64]), "accounting on")
    }),
    row!("fanotify", true, "fanotify_init", |_| {
        answer(call(libc::SYS_fanotify_init, &[0, 0]), "a watcher of the whole file system")
    }),
    row!("vhangup", false, "vhangup", |_| answer(call(libc::SYS_vhangup, &[]), "hung up")),
    row!("futex-requeue-pi", true, "FUTEX_CMP_REQUEUE_PI (2014-3153)", |_| {
        let words = [0u32; 2];
        let (from, to) = (&raw const words[0] as i64, &raw const words[1] as i64);
        answer(call(libc::SYS_futex, &[from, 12 | 128, 1, 0, to, 0]), "requeued")
    }),
    row!("vmsplice", true, "vmsplice our pages into a pipe", |_| {
        let mut pipe = [0i32; 2];
        call(libc::SYS_pipe2, &[pipe.as_mut_ptr() as i64, 0]);
        let data = [7u8; 64];
        let vector: [u64; 2] = [data.as_ptr() as u64, 64];
        answer(
            call(libc::SYS_vmsplice, &[i64::from(pipe[1]), vector.as_ptr() as i64, 1, 0]),
            "spliced",
        )
    }),
    row!("message-queue", true, "mq_open", |_| {
        let name = c("hostile");
        let made = call(libc::SYS_mq_open, &[name.as_ptr() as i64, 0o102, 0o600, 0]);
        call(libc::SYS_mq_unlink, &[name.as_ptr() as i64]);
        answer(made, "a queue")
    }),
    row!("numa", true, "mbind", |_| {
        let page = [0u8; 8192];
        let start = (page.as_ptr() as i64 + 4095) & !4095;
        answer(call(libc::SYS_mbind, &[start, 4096, 0, 0, 0, 0]), "a memory policy")
    }),
    row!("memfd-secret", true, "memfd_secret", |_| answer(call(447, &[0]), "secret memory")),
    #[cfg(target_arch = "x86_64")]
    row!("modify-ldt", true, "modify_ldt", |_| {
        let mut buffer = [0u8; 64];
        answer(call(libc::SYS_modify_ldt, &[0, buffer.as_mut_ptr() as i64, 64]), "read")
    }),
    #[cfg(target_arch = "x86_64")]
    row!("io-ports", true, "iopl(3)", |_| answer(call(libc::SYS_iopl, &[3]), "every I/O port")),
    #[cfg(target_arch = "x86_64")]
    row!("x32", true, "a call by its x32 number", |_| {
        answer(call(0x4000_0000 + libc::SYS_getpid, &[]), "x32 answered")
    }),
    #[cfg(target_arch = "x86_64")]
    row!("i386", true, "a call by int 0x80, where numbers mean other calls", i386),
    row!("sysv-shm-outside", true, "find a System V segment of the host", shm_outside),
    row!("tiocsti", false, "TIOCSTI: type on the terminal that started us", |_| {
        let byte = c("x");
        let codes: Vec<_> = (0..4)
            .filter(|fd| {
                call(libc::SYS_ioctl, &[*fd, libc::TIOCSTI as i64, byte.as_ptr() as i64]) == 0
            })
            .collect();
        if codes.is_empty() { refused() } else { Outcome::Succeeded(format!("fds {codes:?}")) }
    }),
    row!("tioclinux", false, "TIOCLINUX: paste from the console", |_| {
        let code = c("\u{3}");
        answer(call(libc::SYS_ioctl, &[0, 0x541C, code.as_ptr() as i64]), "pasted")
    }),
    row!("boot-time", true, "read how long the host has been up", |_| {
        let mut time = [0i64; 2];
        if call(libc::SYS_clock_gettime, &[7, time.as_mut_ptr() as i64]) == -1 {
            return refused();
        }
        // A machine that was started within two minutes proves nothing either way.
        if time[0] > 120 {
            Outcome::Succeeded(format!("up for {} s", time[0]))
        } else {
            Outcome::Refused(format!("the box has been up for {} s", time[0]))
        }
    }),
    row!("host-name", true, "read the host's name", |_| {
        let mut name = [0u8; 390];
        call(libc::SYS_uname, &[name.as_mut_ptr() as i64]);
        let node: String =
            name[65..].iter().take_while(|b| **b != 0).map(|b| char::from(*b)).collect();
        if node == "sandbox" { Outcome::Refused(node) } else { Outcome::Succeeded(node) }
    }),
];

fn shm_outside(context: &Context) -> Outcome {
    let Some(key) = context.shm else {
        return Outcome::Refused("no segment was named".into());
    };
    answer(call(libc::SYS_shmget, &[i64::from(key), 0, 0]), "a segment of the host")
}

/// getpid by the 32-bit gate. A kernel without it kills us, which is an answer too.
#[cfg(target_arch = "x86_64")]
fn i386(_: &Context) -> Outcome {
    let result: i64;
    // SAFETY: call 20 of the 32-bit table is getpid: no argument, no memory. The gate may
    // clobber r8 to r11, which are declared.
    unsafe {
        std::arch::asm!(
            "int 0x80",
            inlateout("rax") 20i64 => result,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    if result > 0 {
        Outcome::Succeeded("the 32-bit gate answered".into())
    } else {
        Outcome::Refused(format!("answer {result}"))
    }
}
