//! The table of system calls: the only place that says what an app may ask of the kernel.
//!
//! One row a group of calls: their numbers on x86_64 and aarch64, the verdict, and why. The filter that the
//! kernel runs (`bpf`), its reference in the tests and the page in the documentation are all made
//! from it. A call that is not here answers ENOSYS, on x86_64 also every x32 call; another
//! architecture's call ends the process. Conditions look at the low 32 bits of an argument,
//! because that is all that the kernel itself reads of these; but for one that asks whether a pointer is null.
//!
//! Where a call has several cases the first that applies decides; errors within one call stand in
//! the order of `ERRNO_ORDER`, which is how stacked filters would answer too.
#![forbid(unsafe_code)]

/// What happens to a call.
#[derive(Debug, Clone, Copy)]
pub enum Verdict {
    Allow,
    /// Always this error.
    Refuse(i32),
    /// The error of the first case that applies; allowed when none does.
    RefuseIf(&'static [Case]),
}

/// All tests must hold for `errno` to be the answer.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub errno: i32,
    pub tests: &'static [Test],
}

/// A test of one argument (0 to 5).
#[derive(Debug, Clone, Copy)]
pub struct Test {
    pub arg: u8,
    pub is: Is,
}

/// What is asked of the low 32 bits; the last, of the high ones.
#[derive(Debug, Clone, Copy)]
pub enum Is {
    Equal(u32),
    NotEqual(u32),
    /// `value & mask == wanted`.
    Masked(u32, u32),
    /// Any of these bits is set.
    AnyBit(u32),
    /// `value & mask` is none of these.
    MaskedNot(u32, &'static [u32]),
    /// The high 32 bits, of a pointer.
    HighNotZero,
}

impl Is {
    /// Whether the argument's low half is still at hand after this test.
    pub const fn keeps(self) -> bool {
        matches!(self, Is::Equal(_) | Is::NotEqual(_) | Is::AnyBit(_))
    }
}

/// Calls with one verdict and one reason.
#[derive(Debug)]
pub struct Group {
    pub verdict: Verdict,
    pub reason: &'static str,
    pub calls: &'static [Call],
}

/// A call's name and numbers; `None` where an architecture does not have it.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub name: &'static str,
    pub x86_64: Option<u32>,
    pub aarch64: Option<u32>,
}

/// Architectures for which a filter can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    X86_64,
    Aarch64,
}

impl Arch {
    /// The one that this program was built for.
    pub const fn own() -> Arch {
        if cfg!(target_arch = "aarch64") { Arch::Aarch64 } else { Arch::X86_64 }
    }

    /// The kernel's AUDIT_ARCH number.
    pub const fn audit(self) -> u32 {
        match self {
            Arch::X86_64 => 0xC000_003E,
            Arch::Aarch64 => 0xC000_00B7,
        }
    }
}

impl Call {
    pub const fn number(&self, arch: Arch) -> Option<u32> {
        match arch {
            Arch::X86_64 => self.x86_64,
            Arch::Aarch64 => self.aarch64,
        }
    }
}

/// The call of that name in the table. That it has none is an error when this is compiled.
pub const fn named(name: &str) -> Call {
    let mut group = 0;
    while group < TABLE.len() {
        let calls = TABLE[group].calls;
        let mut n = 0;
        while n < calls.len() {
            if same(calls[n].name.as_bytes(), name.as_bytes()) {
                return calls[n];
            }
            n += 1;
        }
        group += 1;
    }
    panic!("no such call in the table");
}

/// `==`, which is not to be had in a constant.
const fn same(a: &[u8], b: &[u8]) -> bool {
    let mut n = 0;
    while n < a.len() && n < b.len() && a[n] == b[n] {
        n += 1;
    }
    n == a.len() && n == b.len()
}

/// The answer to a call that has no row.
pub const UNKNOWN: i32 = libc::ENOSYS;

/// Errors of conditional rows, the stronger first.
#[cfg(test)]
pub const ERRNO_ORDER: &[i32] = &[
    libc::EAFNOSUPPORT,
    libc::EPROTONOSUPPORT,
    libc::EPERM,
    libc::EOPNOTSUPP,
    libc::EINVAL,
    libc::ENOTTY,
    libc::ENOSYS,
    // No error, and no effect.
    0,
];

/// No number on this architecture.
const NONE: u32 = u32::MAX;

const fn call(name: &'static str, x86_64: u32, aarch64: u32) -> Call {
    const fn known(n: u32) -> Option<u32> {
        if n == NONE { None } else { Some(n) }
    }
    Call { name, x86_64: known(x86_64), aarch64: known(aarch64) }
}

const fn case(errno: i32, tests: &'static [Test]) -> Case {
    Case { errno, tests }
}
const fn eq(arg: u8, value: u32) -> Test {
    Test { arg, is: Is::Equal(value) }
}
const fn ne(arg: u8, value: u32) -> Test {
    Test { arg, is: Is::NotEqual(value) }
}
const fn masked(arg: u8, mask: u32, wanted: u32) -> Test {
    Test { arg, is: Is::Masked(mask, wanted) }
}
const fn any_bit(arg: u8, bits: u32) -> Test {
    Test { arg, is: Is::AnyBit(bits) }
}
const fn masked_not(arg: u8, mask: u32, values: &'static [u32]) -> Test {
    Test { arg, is: Is::MaskedNot(mask, values) }
}

/// CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}. NEWTIME shares its bit with the exit signal here and
/// is only known to clone3 and unshare.
const CLONE_CASES: &[Case] = &[case(libc::EPERM, &[any_bit(0, 0x7E02_0000)])];

/// Init shares the app's uid, and is pid 1 and its own process group.
const NOT_INIT: &[Case] = &[case(libc::EPERM, &[eq(0, 1)])];
/// PRIO_USER is 2.
const SETPRIORITY_CASES: &[Case] =
    &[case(libc::EPERM, &[eq(1, 1)]), case(libc::EPERM, &[eq(0, 2)])];

/// RLIMIT_FSIZE is 1. A new limit is given where either half of the pointer is not zero.
const FSIZE: &[Case] = &[case(libc::EPERM, &[eq(0, 1)])];
const FSIZE_OF: &[Case] = &[
    case(libc::EPERM, &[eq(1, 1), ne(2, 0)]),
    case(libc::EPERM, &[eq(1, 1), Test { arg: 2, is: Is::HighNotZero }]),
];

/// On top of `TABLE`, for the app and not for init: the soft limit on file size is how the disk
/// limit is enforced, by init, so the app must not set it. Everything else is left to `TABLE`.
pub const APP_ONLY: &[Group] = &[
    Group {
        verdict: Verdict::Refuse(libc::ENOSYS),
        reason: "filters of the app's own: listeners and nesting have had holes; programs do without",
        calls: &[call("seccomp", 317, 277)],
    },
    Group {
        verdict: Verdict::RefuseIf(FSIZE),
        reason: "the disk limit is kept by the file size limit",
        calls: &[call("setrlimit", 160, 164)],
    },
    Group {
        verdict: Verdict::RefuseIf(FSIZE_OF),
        reason: "the disk limit is kept by the file size limit",
        calls: &[call("prlimit64", 302, 261)],
    },
];

const SETUID_BIT: u32 = 0o4000;
const SETUID_ARG1: &[Case] = &[case(libc::EPERM, &[any_bit(1, SETUID_BIT)])];
const SETUID_ARG2: &[Case] = &[case(libc::EPERM, &[any_bit(2, SETUID_BIT)])];
/// O_CREAT and the bit of O_TMPFILE that is not O_DIRECTORY: only then is there a mode argument.
const CREATES: u32 = 0o100 | 0o20_000_000;
const OPEN_CASES: &[Case] = &[case(libc::EPERM, &[any_bit(1, CREATES), any_bit(2, SETUID_BIT)])];
const OPENAT_CASES: &[Case] = &[case(libc::EPERM, &[any_bit(2, CREATES), any_bit(3, SETUID_BIT)])];
const FILE_TYPE: u32 = 0o170_000;
const MKNOD_CASES: &[Case] = &[
    case(libc::EPERM, &[masked(1, FILE_TYPE, 0o020_000)]),
    case(libc::EPERM, &[masked(1, FILE_TYPE, 0o060_000)]),
    case(libc::EPERM, &[any_bit(1, SETUID_BIT)]),
];
const MKNODAT_CASES: &[Case] = &[
    case(libc::EPERM, &[masked(2, FILE_TYPE, 0o020_000)]),
    case(libc::EPERM, &[masked(2, FILE_TYPE, 0o060_000)]),
    case(libc::EPERM, &[any_bit(2, SETUID_BIT)]),
];

/// MAP_HUGETLB, SHM_HUGETLB, MFD_HUGETLB.
const MMAP_CASES: &[Case] = &[case(libc::EPERM, &[any_bit(3, 0x4_0000)])];
const SHMGET_CASES: &[Case] = &[case(libc::EPERM, &[any_bit(2, 0o4000)])];
const MEMFD_CASES: &[Case] = &[case(libc::EPERM, &[any_bit(1, 4)])];

/// The command without FUTEX_PRIVATE_FLAG and FUTEX_CLOCK_REALTIME.
const FUTEX_COMMAND: u32 = !(128 | 256);
const FUTEX_CASES: &[Case] = &[
    // FUTEX_WAIT_REQUEUE_PI, FUTEX_CMP_REQUEUE_PI.
    case(libc::ENOSYS, &[masked(1, FUTEX_COMMAND, 11)]),
    case(libc::ENOSYS, &[masked(1, FUTEX_COMMAND, 12)]),
];

const FCNTL_CASES: &[Case] = &[
    // F_SETLEASE, F_NOTIFY, F_SETPIPE_SZ.
    case(libc::EPERM, &[eq(1, 1024)]),
    case(libc::EPERM, &[eq(1, 1026)]),
    case(libc::EPERM, &[eq(1, 1031)]),
];

const IOCTL_CASES: &[Case] = &[case(
    libc::ENOTTY,
    &[
        ne(1, 0x5401),      // TCGETS: isatty
        ne(1, 0x5413),      // TIOCGWINSZ
        ne(1, 0x540F),      // TIOCGPGRP
        ne(1, 0x802C_542A), // TCGETS2
        ne(1, 0x5411),      // TIOCOUTQ, SIOCOUTQ
        ne(1, 0x541B),      // FIONREAD
        ne(1, 0x5421),      // FIONBIO
        ne(1, 0x5450),      // FIONCLEX
        ne(1, 0x5451),      // FIOCLEX
        ne(1, 0x5452),      // FIOASYNC
        ne(1, 0x5460),      // FIOQSIZE
        ne(1, 0x4004_9409), // FICLONE
        ne(1, 0x4020_940D), // FICLONERANGE
        ne(1, 0x8910),      // SIOCGIFNAME
        ne(1, 0x8912),      // SIOCGIFCONF
        ne(1, 0x8913),      // SIOCGIFFLAGS
        ne(1, 0x8915),      // SIOCGIFADDR
        ne(1, 0x8919),      // SIOCGIFBRDADDR
        ne(1, 0x891B),      // SIOCGIFNETMASK
        ne(1, 0x8921),      // SIOCGIFMTU
        ne(1, 0x8927),      // SIOCGIFHWADDR
        ne(1, 0x8933),      // SIOCGIFINDEX
    ],
)];

const PRCTL_CASES: &[Case] = &[case(
    libc::EINVAL,
    &[
        ne(0, 1),           // PR_SET_PDEATHSIG
        ne(0, 2),           // PR_GET_PDEATHSIG
        ne(0, 3),           // PR_GET_DUMPABLE
        ne(0, 4),           // PR_SET_DUMPABLE
        ne(0, 7),           // PR_GET_KEEPCAPS
        ne(0, 15),          // PR_SET_NAME
        ne(0, 16),          // PR_GET_NAME
        ne(0, 21),          // PR_GET_SECCOMP
        ne(0, 23),          // PR_CAPBSET_READ
        ne(0, 27),          // PR_GET_SECUREBITS
        ne(0, 29),          // PR_SET_TIMERSLACK
        ne(0, 30),          // PR_GET_TIMERSLACK
        ne(0, 36),          // PR_SET_CHILD_SUBREAPER
        ne(0, 37),          // PR_GET_CHILD_SUBREAPER
        ne(0, 38),          // PR_SET_NO_NEW_PRIVS
        ne(0, 39),          // PR_GET_NO_NEW_PRIVS
        ne(0, 40),          // PR_GET_TID_ADDRESS
        ne(0, 41),          // PR_SET_THP_DISABLE
        ne(0, 42),          // PR_GET_THP_DISABLE
        ne(0, 47),          // PR_CAP_AMBIENT
        ne(0, 0x5356_4D41), // PR_SET_VMA: names for memory areas
    ],
)];

const PERSONALITY_CASES: &[Case] = &[case(libc::EPERM, &[ne(0, 0), ne(0, 0xFFFF_FFFF)])];

const UNIX: u32 = 1;
const INET: u32 = 2;
const INET6: u32 = 10;
const NETLINK: u32 = 16;
/// The type argument without SOCK_NONBLOCK and SOCK_CLOEXEC.
const SOCKET_TYPE: u32 = 0xF;
const SOCKET_CASES: &[Case] = &[
    case(libc::EAFNOSUPPORT, &[ne(0, UNIX), ne(0, INET), ne(0, INET6), ne(0, NETLINK)]),
    // IPv4 and IPv6: protocol 0, TCP or UDP.
    case(libc::EPROTONOSUPPORT, &[ne(0, UNIX), ne(0, NETLINK), ne(2, 0), ne(2, 6), ne(2, 17)]),
    // NETLINK_ROUTE is 0.
    case(libc::EPROTONOSUPPORT, &[eq(0, NETLINK), ne(2, 0)]),
    // Netlink's usual type is SOCK_RAW; elsewhere only STREAM, DGRAM and SEQPACKET.
    case(libc::EPERM, &[ne(0, NETLINK), masked_not(1, SOCKET_TYPE, &[1, 2, 5])]),
];
const SOCKETPAIR_CASES: &[Case] = &[
    case(libc::EAFNOSUPPORT, &[ne(0, UNIX)]),
    case(libc::EPERM, &[masked_not(1, SOCKET_TYPE, &[1, 2, 5])]),
];

const SETSOCKOPT_CASES: &[Case] = &[
    // SOL_SOCKET: ATTACH_FILTER, ATTACH_BPF, ATTACH_REUSEPORT_CBPF and _EBPF, ZEROCOPY.
    case(libc::EPERM, &[eq(1, 1), eq(2, 26)]),
    case(libc::EPERM, &[eq(1, 1), eq(2, 50)]),
    case(libc::EPERM, &[eq(1, 1), eq(2, 51)]),
    case(libc::EPERM, &[eq(1, 1), eq(2, 52)]),
    case(libc::EPERM, &[eq(1, 1), eq(2, 60)]),
    // TCP_ULP; packet tables of IPv4 and IPv6.
    case(libc::EPERM, &[eq(1, 6), eq(2, 31)]),
    case(libc::EPERM, &[eq(1, 0), masked(2, !1, 64)]),
    case(libc::EPERM, &[eq(1, 41), masked(2, !1, 64)]),
    // SO_LINGER, without which it closes in the background: with it whoever closes waits for the other end,
    // and an app can have that done by a worker of the kernel's, or by us, in its place. Servers set it to
    // throw connections away, and take a refusal for a fault.
    case(0, &[eq(1, 1), eq(2, 13)]),
];

/// MSG_OOB.
const OOB_ARG2: &[Case] = &[case(libc::EOPNOTSUPP, &[any_bit(2, 1)])];
const OOB_ARG3: &[Case] = &[case(libc::EOPNOTSUPP, &[any_bit(3, 1)])];

/// Every call that has a verdict of its own.
#[rustfmt::skip]
pub const TABLE: &[Group] = &[
    Group {
        verdict: Verdict::Allow,
        reason: "reading, writing and positioning in open files",
        calls: &[
            call("read", 0, 63),
            call("write", 1, 64),
            call("pread64", 17, 67),
            call("pwrite64", 18, 68),
            call("readv", 19, 65),
            call("writev", 20, 66),
            call("preadv", 295, 69),
            call("pwritev", 296, 70),
            call("preadv2", 327, 286),
            call("pwritev2", 328, 287),
            call("lseek", 8, 62),
            call("close", 3, 57),
            call("close_range", 436, 436),
            call("dup", 32, 23),
            call("dup2", 33, NONE),
            call("dup3", 292, 24),
            call("pipe", 22, NONE),
            call("pipe2", 293, 59),
            call("flock", 73, 32),
            call("fsync", 74, 82),
            call("fdatasync", 75, 83),
            call("sync_file_range", 277, 84),
            call("truncate", 76, 45),
            call("ftruncate", 77, 46),
            call("fallocate", 285, 47),
            call("fadvise64", 221, 223),
            call("readahead", 187, 213),
            call("copy_file_range", 326, 285),
            call("sendfile", 40, 71),
        ],
    },
    Group {
        verdict: Verdict::Allow,
        reason: "names and directories of the own tree",
        calls: &[
            call("access", 21, NONE),
            call("faccessat", 269, 48),
            call("faccessat2", 439, 439),
            call("stat", 4, NONE),
            call("fstat", 5, 80),
            call("lstat", 6, NONE),
            call("newfstatat", 262, 79),
            call("statx", 332, 291),
            call("getdents", 78, NONE),
            call("getdents64", 217, 61),
            call("getcwd", 79, 17),
            call("chdir", 80, 49),
            call("fchdir", 81, 50),
            call("rename", 82, NONE),
            call("renameat", 264, 38),
            call("renameat2", 316, 276),
            call("mkdir", 83, NONE),
            call("mkdirat", 258, 34),
            call("rmdir", 84, NONE),
            call("link", 86, NONE),
            call("linkat", 265, 37),
            call("unlink", 87, NONE),
            call("unlinkat", 263, 35),
            call("symlink", 88, NONE),
            call("symlinkat", 266, 36),
            call("readlink", 89, NONE),
            call("readlinkat", 267, 78),
            call("chown", 92, NONE),
            call("fchown", 93, 55),
            call("lchown", 94, NONE),
            call("fchownat", 260, 54),
            call("umask", 95, 166),
            call("utime", 132, NONE),
            call("utimes", 235, NONE),
            call("utimensat", 280, 88),
            call("futimesat", 261, NONE),
            call("statfs", 137, 43),
            call("fstatfs", 138, 44),
        ],
    },
    Group {
        verdict: Verdict::Allow,
        reason: "noticing changes of own files",
        calls: &[
            call("inotify_init", 253, NONE),
            call("inotify_init1", 294, 26),
            call("inotify_add_watch", 254, 27),
            call("inotify_rm_watch", 255, 28),
        ],
    },
    Group {
        verdict: Verdict::Allow,
        reason: "memory of its own",
        calls: &[
            call("brk", 12, 214),
            call("munmap", 11, 215),
            call("mprotect", 10, 226),
            call("mremap", 25, 216),
            call("madvise", 28, 233),
            call("mincore", 27, 232),
            call("msync", 26, 227),
            call("mlock", 149, 228),
            call("mlock2", 325, 284),
            call("munlock", 150, 229),
            call("mlockall", 151, 230),
            call("munlockall", 152, 231),
            call("membarrier", 324, 283),
        ],
    },
    Group {
        verdict: Verdict::Allow,
        reason: "shared memory and semaphores inside the own ipc namespace",
        calls: &[
            call("shmat", 30, 196),
            call("shmdt", 67, 197),
            call("shmctl", 31, 195),
            call("semget", 64, 190),
            call("semop", 65, 193),
            call("semtimedop", 220, 192),
            call("semctl", 66, 191),
        ],
    },
    Group {
        verdict: Verdict::Allow,
        reason: "own processes and threads",
        calls: &[
            call("fork", 57, NONE),
            call("vfork", 58, NONE),
            call("execve", 59, 221),
            call("execveat", 322, 281),
            call("exit", 60, 93),
            call("exit_group", 231, 94),
            call("wait4", 61, 260),
            call("waitid", 247, 95),
            call("kill", 62, 129),
            call("tkill", 200, 130),
            call("tgkill", 234, 131),
            call("getpid", 39, 172),
            call("getppid", 110, 173),
            call("gettid", 186, 178),
            call("setpgid", 109, 154),
            call("getpgid", 121, 155),
            call("getpgrp", 111, NONE),
            call("setsid", 112, 157),
            call("getsid", 124, 156),
            call("set_tid_address", 218, 96),
            call("set_robust_list", 273, 99),
            call("arch_prctl", 158, NONE),
            call("restart_syscall", 219, 128),
            call("pidfd_open", 434, 434),
            call("pidfd_send_signal", 424, 424),
        ],
    },
    Group {
        verdict: Verdict::Allow,
        reason: "scheduling within what limits and cgroup give",
        calls: &[
            call("sched_yield", 24, 124),
            call("sched_getaffinity", 204, 123),
            call("sched_getparam", 143, 121),
            call("sched_getscheduler", 145, 120),
            call("sched_getattr", 315, 275),
            call("sched_get_priority_max", 146, 125),
            call("sched_get_priority_min", 147, 126),
            call("sched_rr_get_interval", 148, 127),
            call("getpriority", 140, 141),
            call("ioprio_get", 252, 31),
            call("getcpu", 309, 168),
        ],
    },
    Group {
        verdict: Verdict::Allow,
        reason: "limits and usage of own processes",
        calls: &[
            call("getrlimit", 97, 163),
            call("setrlimit", 160, 164),
            call("getrusage", 98, 165),
            call("times", 100, 153),
            call("sysinfo", 99, 179),
            call("uname", 63, 160),
        ],
    },
    Group {
        verdict: Verdict::Allow,
        reason: "signals among own processes",
        calls: &[
            call("rt_sigaction", 13, 134),
            call("rt_sigprocmask", 14, 135),
            call("rt_sigpending", 127, 136),
            call("rt_sigtimedwait", 128, 137),
            call("rt_sigqueueinfo", 129, 138),
            call("rt_tgsigqueueinfo", 297, 240),
            call("rt_sigsuspend", 130, 133),
            call("rt_sigreturn", 15, 139),
            call("sigaltstack", 131, 132),
            call("signalfd", 282, NONE),
            call("signalfd4", 289, 74),
            call("pause", 34, NONE),
        ],
    },
    Group {
        verdict: Verdict::Allow,
        reason: "clocks and timers; the clock cannot be set",
        calls: &[
            call("alarm", 37, NONE),
            call("setitimer", 38, 103),
            call("getitimer", 36, 102),
            call("timer_create", 222, 107),
            call("timer_settime", 223, 110),
            call("timer_gettime", 224, 108),
            call("timer_getoverrun", 225, 109),
            call("timer_delete", 226, 111),
            call("timerfd_create", 283, 85),
            call("timerfd_settime", 286, 86),
            call("timerfd_gettime", 287, 87),
            call("nanosleep", 35, 101),
            call("clock_nanosleep", 230, 115),
            call("clock_gettime", 228, 113),
            call("clock_getres", 229, 114),
            call("gettimeofday", 96, 169),
            call("time", 201, NONE),
        ],
    },
    Group {
        verdict: Verdict::Allow,
        reason: "waiting for many descriptors",
        calls: &[
            call("poll", 7, NONE),
            call("ppoll", 271, 73),
            call("select", 23, NONE),
            call("pselect6", 270, 72),
            call("epoll_create", 213, NONE),
            call("epoll_create1", 291, 20),
            call("epoll_ctl", 233, 21),
            call("epoll_wait", 232, NONE),
            call("epoll_pwait", 281, 22),
            call("epoll_pwait2", 441, 441),
            call("eventfd", 284, NONE),
            call("eventfd2", 290, 19),
        ],
    },
    Group {
        verdict: Verdict::Allow,
        reason: "sockets that were allowed to be made; only loopback is there",
        calls: &[
            call("bind", 49, 200),
            call("connect", 42, 203),
            call("listen", 50, 201),
            call("accept", 43, 202),
            call("accept4", 288, 242),
            call("getsockname", 51, 204),
            call("getpeername", 52, 205),
            call("getsockopt", 55, 209),
            call("shutdown", 48, 210),
        ],
    },
    Group {
        verdict: Verdict::Allow,
        reason: "own ids; there is one uid and no capability",
        calls: &[
            call("getuid", 102, 174),
            call("geteuid", 107, 175),
            call("getgid", 104, 176),
            call("getegid", 108, 177),
            call("getgroups", 115, 158),
            call("getresuid", 118, 148),
            call("getresgid", 120, 150),
            call("setuid", 105, 146),
            call("setgid", 106, 144),
            call("setreuid", 113, 145),
            call("setregid", 114, 143),
            call("setresuid", 117, 147),
            call("setresgid", 119, 149),
            call("setgroups", 116, 159),
            call("setfsuid", 122, 151),
            call("setfsgid", 123, 152),
            call("capget", 125, 90),
            call("capset", 126, 91),
        ],
    },
    Group {
        verdict: Verdict::Allow,
        reason: "random numbers for keys and hashes",
        calls: &[
            call("getrandom", 318, 278),
        ],
    },
    // Conditional calls.
    Group {
        verdict: Verdict::RefuseIf(NOT_INIT),
        reason: "limits and scheduling of own processes, but not of init, which must be able to end them",
        calls: &[
            call("sched_setaffinity", 203, 122),
            call("sched_setparam", 142, 118),
            call("sched_setscheduler", 144, 119),
            call("prlimit64", 302, 261),
        ],
    },
    Group {
        verdict: Verdict::RefuseIf(SETPRIORITY_CASES),
        reason: "priority of own processes, but not of init, nor of the whole uid",
        calls: &[
            call("setpriority", 141, 140),
        ],
    },
    Group {
        verdict: Verdict::RefuseIf(CLONE_CASES),
        reason: "threads and processes, but no new namespace: in a nested user namespace every capability would come back",
        calls: &[
            call("clone", 56, 220),
        ],
    },
    Group {
        verdict: Verdict::RefuseIf(OPEN_CASES),
        reason: "files, but none that is set-uid from its making",
        calls: &[
            call("open", 2, NONE),
        ],
    },
    Group {
        verdict: Verdict::RefuseIf(OPENAT_CASES),
        reason: "files, but none that is set-uid from its making",
        calls: &[
            call("openat", 257, 56),
        ],
    },
    Group {
        verdict: Verdict::RefuseIf(SETUID_ARG1),
        reason: "modes, but not set-uid: files in /var lie on the host too",
        calls: &[
            call("creat", 85, NONE),
            call("chmod", 90, NONE),
            call("fchmod", 91, 52),
        ],
    },
    Group {
        verdict: Verdict::RefuseIf(SETUID_ARG2),
        reason: "modes, but not set-uid: files in /var lie on the host too",
        calls: &[
            call("fchmodat", 268, 53),
            call("fchmodat2", 452, 452),
        ],
    },
    Group {
        verdict: Verdict::RefuseIf(MKNOD_CASES),
        reason: "FIFOs, sockets and files, but no device nodes",
        calls: &[
            call("mknod", 133, NONE),
        ],
    },
    Group {
        verdict: Verdict::RefuseIf(MKNODAT_CASES),
        reason: "FIFOs, sockets and files, but no device nodes",
        calls: &[
            call("mknodat", 259, 33),
        ],
    },
    Group {
        verdict: Verdict::RefuseIf(MMAP_CASES),
        reason: "memory, but not from the machine's pool of huge pages",
        calls: &[
            call("mmap", 9, 222),
        ],
    },
    Group {
        verdict: Verdict::RefuseIf(SHMGET_CASES),
        reason: "memory, but not from the machine's pool of huge pages",
        calls: &[
            call("shmget", 29, 194),
        ],
    },
    Group {
        verdict: Verdict::RefuseIf(MEMFD_CASES),
        reason: "memory, but not from the machine's pool of huge pages",
        calls: &[
            call("memfd_create", 319, 279),
        ],
    },
    Group {
        verdict: Verdict::RefuseIf(FUTEX_CASES),
        reason: "locks, but not requeueing to priority-inheriting ones (CVE-2014-3153)",
        calls: &[
            call("futex", 202, 98),
        ],
    },
    Group {
        verdict: Verdict::RefuseIf(FCNTL_CASES),
        reason: "descriptor flags and locks, but no leases, no directory signals and no larger pipes",
        calls: &[
            call("fcntl", 72, 25),
        ],
    },
    Group {
        verdict: Verdict::RefuseIf(IOCTL_CASES),
        reason: "the few requests that programs make of files, pipes, terminals and loopback; TIOCSTI and the rest of the devices are out",
        calls: &[
            call("ioctl", 16, 29),
        ],
    },
    Group {
        verdict: Verdict::RefuseIf(PRCTL_CASES),
        reason: "the few options that runtimes use; a filter of its own, speculation and memory layout are out",
        calls: &[
            call("prctl", 157, 167),
        ],
    },
    Group {
        verdict: Verdict::RefuseIf(PERSONALITY_CASES),
        reason: "asking for it, or the usual one; not turning address randomisation off",
        calls: &[
            call("personality", 135, 92),
        ],
    },
    Group {
        verdict: Verdict::RefuseIf(SOCKET_CASES),
        reason: "Unix, IPv4 and IPv6 streams and datagrams, and the route netlink that getifaddrs wants",
        calls: &[
            call("socket", 41, 198),
        ],
    },
    Group {
        verdict: Verdict::RefuseIf(SOCKETPAIR_CASES),
        reason: "Unix socket pairs",
        calls: &[
            call("socketpair", 53, 199),
        ],
    },
    Group {
        verdict: Verdict::RefuseIf(SETSOCKOPT_CASES),
        reason: "options, but no socket filters, upper layer protocols, zero copy or packet tables, and no waiting at close",
        calls: &[
            call("setsockopt", 54, 208),
        ],
    },
    Group {
        verdict: Verdict::RefuseIf(OOB_ARG3),
        reason: "data, but not out of band (CVE-2025-38236)",
        calls: &[
            call("sendto", 44, 206),
            call("recvfrom", 45, 207),
            call("sendmmsg", 307, 269),
            call("recvmmsg", 299, 243),
        ],
    },
    Group {
        verdict: Verdict::RefuseIf(OOB_ARG2),
        reason: "data, but not out of band (CVE-2025-38236)",
        calls: &[
            call("sendmsg", 46, 211),
            call("recvmsg", 47, 212),
        ],
    },
    Group {
        verdict: Verdict::Allow,
        reason: "init adds the rules that only the app has, which refuse this call to the app",
        calls: &[
            call("seccomp", 317, 277),
        ],
    },
    // Refused by name, so that programs hear the answer that they cope with.
    Group {
        verdict: Verdict::Refuse(libc::ENOSYS),
        reason: "flags behind a pointer cannot be checked; libraries fall back to clone and openat",
        calls: &[
            call("clone3", 435, 435),
            call("openat2", 437, 437),
        ],
    },
    Group {
        verdict: Verdict::Refuse(libc::ENOSYS),
        reason: "asynchronous I/O rings and queues, a steady source of holes; libraries fall back",
        calls: &[
            call("io_uring_setup", 425, 425),
            call("io_uring_enter", 426, 426),
            call("io_uring_register", 427, 427),
            call("io_setup", 206, 0),
            call("io_destroy", 207, 1),
            call("io_getevents", 208, 4),
            call("io_pgetevents", 333, 292),
            call("io_submit", 209, 2),
            call("io_cancel", 210, 3),
        ],
    },
    Group {
        verdict: Verdict::Refuse(libc::ENOSYS),
        reason: "newer lock calls; libraries fall back",
        calls: &[
            call("futex_waitv", 449, 449),
            call("futex_wake", 454, 454),
            call("futex_wait", 455, 455),
            call("futex_requeue", 456, 456),
            call("get_robust_list", 274, 100),
            call("rseq", 334, 293),
        ],
    },
    Group {
        verdict: Verdict::Refuse(libc::ENOSYS),
        reason: "kernel keys (CVE-2016-0728)",
        calls: &[
            call("add_key", 248, 217),
            call("request_key", 249, 218),
            call("keyctl", 250, 219),
        ],
    },
    Group {
        verdict: Verdict::Refuse(libc::EPERM),
        reason: "programs in the kernel, tracing and measuring it",
        calls: &[
            call("bpf", 321, 280),
            call("perf_event_open", 298, 241),
        ],
    },
    Group {
        verdict: Verdict::Refuse(libc::EPERM),
        reason: "memory that another process serves",
        calls: &[
            call("userfaultfd", 323, 282),
        ],
    },
    Group {
        verdict: Verdict::Refuse(libc::ENOSYS),
        reason: "rare memory calls",
        calls: &[
            call("remap_file_pages", 216, 234),
            call("mbind", 237, 235),
            call("get_mempolicy", 239, 236),
            call("set_mempolicy", 238, 237),
            call("set_mempolicy_home_node", 450, 450),
            call("migrate_pages", 256, 238),
            call("move_pages", 279, 239),
            call("memfd_secret", 447, 447),
            call("pkey_mprotect", 329, 288),
            call("pkey_alloc", 330, 289),
            call("pkey_free", 331, 290),
            call("map_shadow_stack", 453, 453),
            call("mseal", 462, 462),
            call("cachestat", 451, 451),
        ],
    },
    Group {
        verdict: Verdict::Refuse(libc::EPERM),
        reason: "looking into other processes",
        calls: &[
            call("ptrace", 101, 117),
            call("process_vm_readv", 310, 270),
            call("process_vm_writev", 311, 271),
            call("process_madvise", 440, 440),
            call("process_mrelease", 448, 448),
            call("kcmp", 312, 272),
            call("pidfd_getfd", 438, 438),
        ],
    },
    Group {
        verdict: Verdict::Refuse(libc::EPERM),
        reason: "ways into another namespace or root",
        calls: &[
            call("unshare", 272, 97),
            call("setns", 308, 268),
            call("chroot", 161, 51),
            call("pivot_root", 155, 41),
        ],
    },
    Group {
        verdict: Verdict::Refuse(libc::EPERM),
        reason: "mounting, by every old and new call",
        calls: &[
            call("mount", 165, 40),
            call("umount2", 166, 39),
            call("fsopen", 430, 430),
            call("fsconfig", 431, 431),
            call("fsmount", 432, 432),
            call("fspick", 433, 433),
            call("move_mount", 429, 429),
            call("open_tree", 428, 428),
            call("open_tree_attr", 467, 467),
            call("mount_setattr", 442, 442),
            call("statmount", 457, 457),
            call("listmount", 458, 458),
        ],
    },
    Group {
        verdict: Verdict::Refuse(libc::EPERM),
        reason: "file handles pass directory permissions",
        calls: &[
            call("open_by_handle_at", 304, 265),
        ],
    },
    Group {
        verdict: Verdict::Refuse(libc::EOPNOTSUPP),
        reason: "file handles pass directory permissions",
        calls: &[
            call("name_to_handle_at", 303, 264),
        ],
    },
    Group {
        verdict: Verdict::Refuse(libc::EOPNOTSUPP),
        reason: "extended attributes: backups do not carry them",
        calls: &[
            call("setxattr", 188, 5),
            call("lsetxattr", 189, 6),
            call("fsetxattr", 190, 7),
            call("getxattr", 191, 8),
            call("lgetxattr", 192, 9),
            call("fgetxattr", 193, 10),
            call("listxattr", 194, 11),
            call("llistxattr", 195, 12),
            call("flistxattr", 196, 13),
            call("removexattr", 197, 14),
            call("lremovexattr", 198, 15),
            call("fremovexattr", 199, 16),
            call("setxattrat", 463, 463),
            call("getxattrat", 464, 464),
            call("listxattrat", 465, 465),
            call("removexattrat", 466, 466),
        ],
    },
    Group {
        verdict: Verdict::Refuse(libc::EINVAL),
        reason: "moving pages between pipes and files (CVE-2022-0847); programs fall back to read and write",
        calls: &[
            call("splice", 275, 76),
            call("tee", 276, 77),
            call("vmsplice", 278, 75),
        ],
    },
    Group {
        verdict: Verdict::Refuse(libc::EPERM),
        reason: "flushing the whole machine's disks",
        calls: &[
            call("sync", 162, 81),
            call("syncfs", 306, 267),
        ],
    },
    Group {
        verdict: Verdict::Refuse(libc::EPERM),
        reason: "the machine: clock, name, modules, swap, quota, log, reboot",
        calls: &[
            call("settimeofday", 164, 170),
            call("clock_settime", 227, 112),
            call("adjtimex", 159, 171),
            call("clock_adjtime", 305, 266),
            call("sethostname", 170, 161),
            call("setdomainname", 171, 162),
            call("init_module", 175, 105),
            call("finit_module", 313, 273),
            call("delete_module", 176, 106),
            call("kexec_load", 246, 104),
            call("kexec_file_load", 320, 294),
            call("swapon", 167, 224),
            call("swapoff", 168, 225),
            call("quotactl", 179, 60),
            call("quotactl_fd", 443, 443),
            call("acct", 163, 89),
            call("syslog", 103, 116),
            call("reboot", 169, 142),
            call("vhangup", 153, 58),
            call("iopl", 172, NONE),
            call("ioperm", 173, NONE),
            call("ioprio_set", 251, 30),
            call("sched_setattr", 314, 274),
            call("lookup_dcookie", 212, 18),
            call("fanotify_init", 300, 262),
            call("fanotify_mark", 301, 263),
            call("lsm_get_self_attr", 459, 459),
            call("lsm_set_self_attr", 460, 460),
            call("lsm_list_modules", 461, 461),
        ],
    },
    Group {
        verdict: Verdict::Refuse(libc::ENOSYS),
        reason: "old calls of one architecture",
        calls: &[
            call("modify_ldt", 154, NONE),
            call("uselib", 134, NONE),
            call("_sysctl", 156, NONE),
            call("ustat", 136, NONE),
            call("sysfs", 139, NONE),
            call("nfsservctl", 180, 42),
            call("set_thread_area", 205, NONE),
            call("get_thread_area", 211, NONE),
            call("create_module", 174, NONE),
            call("get_kernel_syms", 177, NONE),
            call("query_module", 178, NONE),
        ],
    },
    Group {
        verdict: Verdict::Refuse(libc::ENOSYS),
        reason: "message queues (CVE-2017-11176) and System V messages",
        calls: &[
            call("mq_open", 240, 180),
            call("mq_unlink", 241, 181),
            call("mq_timedsend", 242, 182),
            call("mq_timedreceive", 243, 183),
            call("mq_notify", 244, 184),
            call("mq_getsetattr", 245, 185),
            call("msgget", 68, 186),
            call("msgsnd", 69, 189),
            call("msgrcv", 70, 188),
            call("msgctl", 71, 187),
        ],
    },
    Group {
        verdict: Verdict::Refuse(libc::ENOSYS),
        reason: "rule sets of the app's own; programs do without",
        calls: &[
            call("landlock_create_ruleset", 444, 444),
            call("landlock_add_rule", 445, 445),
            call("landlock_restrict_self", 446, 446),
        ],
    },];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn names_and_numbers_are_unique() {
        let mut names = BTreeMap::new();
        for arch in [Arch::X86_64, Arch::Aarch64] {
            let mut numbers = BTreeMap::new();
            for call in TABLE.iter().flat_map(|g| g.calls) {
                if arch == Arch::X86_64 {
                    assert!(names.insert(call.name, ()).is_none(), "{} twice", call.name);
                }
                if let Some(n) = call.number(arch) {
                    assert!(n < 1024);
                    if let Some(other) = numbers.insert(n, call.name) {
                        panic!("{arch:?} {n} is {} and {other}", call.name);
                    }
                }
            }
        }
    }

    #[test]
    fn numbers_are_those_of_libc() {
        // A sample over the whole range, for the architecture of the build.
        for (name, number) in [
            ("read", libc::SYS_read),
            ("clone", libc::SYS_clone),
            ("execve", libc::SYS_execve),
            ("ptrace", libc::SYS_ptrace),
            ("unshare", libc::SYS_unshare),
            ("setns", libc::SYS_setns),
            ("bpf", libc::SYS_bpf),
            ("socket", libc::SYS_socket),
            ("keyctl", libc::SYS_keyctl),
            ("statx", libc::SYS_statx),
            ("io_uring_setup", libc::SYS_io_uring_setup),
            ("clone3", libc::SYS_clone3),
            ("faccessat2", libc::SYS_faccessat2),
            ("mount_setattr", libc::SYS_mount_setattr),
            ("fchmodat2", libc::SYS_fchmodat2),
        ] {
            let row = TABLE.iter().flat_map(|g| g.calls).find(|c| c.name == name).unwrap();
            assert_eq!(row.number(Arch::own()), Some(number as u32), "{name}");
        }
    }

    #[test]
    fn cases_of_a_call_stand_in_the_order_of_their_errors() {
        for group in TABLE {
            if let Verdict::RefuseIf(cases) = group.verdict {
                let ranks: Vec<_> = cases
                    .iter()
                    .map(|c| ERRNO_ORDER.iter().position(|e| *e == c.errno).unwrap())
                    .collect();
                assert!(ranks.is_sorted(), "{}", group.calls[0].name);
                assert!(cases.iter().all(|c| !c.tests.is_empty()));
            }
        }
    }

    #[test]
    fn every_group_has_a_reason() {
        for group in TABLE {
            assert!(group.reason.len() > 10 && !group.calls.is_empty());
        }
    }
}
