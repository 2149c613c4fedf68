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
use super::syscalls::{Case, Group, Is, Test, Verdict, named};
use crate::sys::process;

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

/// What the serving supervisor may call, by names of the app's table. Anything else answers EPERM.
#[rustfmt::skip]
pub const TABLE: &[Group] = &[
    Group {
        verdict: Verdict::Allow,
        reason: "open descriptors: log, link, connections, published files",
        calls: &[
            named("read"), named("write"), named("pread64"), named("readv"), named("writev"),
            named("lseek"), named("close"), named("dup3"), named("dup2"), named("fcntl"),
            named("fstat"), named("newfstatat"), named("statx"), named("fstatfs"),
            named("syncfs"),
        ],
    },
    Group {
        verdict: Verdict::Allow,
        reason: "files of the grain's directory, which Landlock bounds",
        calls: &[
            named("openat2"), named("openat"), named("getdents64"), named("renameat"),
            named("unlinkat"),
        ],
    },
    Group {
        verdict: Verdict::Allow,
        reason: "connections that come in; none can be made",
        calls: &[
            named("accept4"), named("recvfrom"), named("recvmsg"), named("sendto"),
            named("sendmsg"), named("shutdown"), named("getsockopt"), named("getsockname"),
            named("getpeername"),
        ],
    },
    Group {
        verdict: Verdict::Allow,
        reason: "waiting and time",
        calls: &[
            named("epoll_ctl"), named("epoll_wait"), named("epoll_pwait"), named("epoll_pwait2"),
            named("poll"), named("ppoll"), named("futex"), named("clock_gettime"),
            named("clock_nanosleep"), named("nanosleep"), named("restart_syscall"),
            named("sched_yield"), named("wait4"),
        ],
    },
    Group {
        verdict: Verdict::Allow,
        reason: "memory, signals and the end of the process",
        calls: &[
            named("munmap"), named("mremap"), named("madvise"), named("brk"),
            named("rt_sigaction"), named("rt_sigprocmask"), named("rt_sigreturn"),
            named("sigaltstack"), named("getpid"), named("gettid"), named("tgkill"),
            named("getrandom"), named("exit"), named("exit_group"),
        ],
    },
    Group {
        verdict: Verdict::RefuseIf(NO_NEW_CODE),
        reason: "memory, but none that can be executed",
        calls: &[named("mmap"), named("mprotect")],
    },
    Group {
        verdict: Verdict::RefuseIf(FIONBIO_ONLY),
        reason: "sockets are set non-blocking",
        calls: &[named("ioctl")],
    },
];

/// Confines this process for good. `grain` is all that stays reachable by name, and `image`, to read, where
/// the grain's data is in a file system of its own.
///
/// # Errors
/// What the kernel answers, but for a kernel without Landlock: then the text says so and the
/// filter stands alone.
pub fn confine(grain: BorrowedFd<'_>, image: Option<BorrowedFd<'_>>) -> io::Result<Option<String>> {
    let note = match landlock(grain, image) {
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

fn landlock(
    grain: BorrowedFd<'_>,
    image: Option<BorrowedFd<'_>>,
) -> Result<RulesetStatus, landlock::RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
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
            read | AccessFs::WriteFile
                | AccessFs::Truncate
                | AccessFs::MakeReg
                | AccessFs::RemoveFile,
        ))?
        .add_rules(
            image.map(|image| Ok::<_, landlock::RulesetError>(PathBeneath::new(image, read))),
        )?
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
