//! Why the kernel refused: from a failed step to a sentence that says what to change.
//!
//! Trust: reads a few files of /proc after the failure, with the caller's rights; their values
//! only choose between fixed sentences.
#![forbid(unsafe_code)]

use std::io;

/// What was being tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// clone into new namespaces.
    Namespaces,
    /// Writing the id map, or a mount, inside them.
    Inside,
    /// The newer mount calls.
    MountCalls,
}

/// What the machine says of itself.
#[derive(Debug, Default, Clone)]
pub struct Signs {
    pub unprivileged_userns_clone: Option<u64>,
    pub apparmor_restricts: Option<u64>,
    pub seccomp_filtered: bool,
    pub setuid_mode: bool,
    /// Those of `KINDS` of which the caller may have none at all.
    pub forbidden: Vec<&'static str>,
}

/// Kinds of namespaces, as the files `/proc/sys/user/max_*_namespaces` name them: init's clone makes the
/// first six, init itself the last and one more user namespace.
const KINDS: [&str; 7] = ["mnt", "pid", "ipc", "uts", "cgroup", "user", "net"];

impl Signs {
    /// Reads them.
    pub fn read(setuid_mode: bool) -> Signs {
        let number =
            |path: &str| std::fs::read_to_string(path).ok().and_then(|t| t.trim().parse().ok());
        Signs {
            unprivileged_userns_clone: number("/proc/sys/kernel/unprivileged_userns_clone"),
            apparmor_restricts: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
            seccomp_filtered: std::fs::read_to_string("/proc/self/status")
                .is_ok_and(|t| t.lines().any(|l| l.starts_with("Seccomp:\t2"))),
            setuid_mode,
            forbidden: KINDS
                .into_iter()
                .filter(|kind| number(&format!("/proc/sys/user/max_{kind}_namespaces")) == Some(0))
                .collect(),
        }
    }

    /// What to set where a limit of namespaces was met: those that are 0, else whichever it can be.
    fn more_of(&self, kinds: &[&str]) -> String {
        let mut met: Vec<&str> =
            kinds.iter().copied().filter(|kind| self.forbidden.contains(kind)).collect();
        if met.is_empty() {
            met = kinds.to_vec();
        }
        let set: Vec<String> =
            met.iter().map(|kind| format!("user.max_{kind}_namespaces=15000")).collect();
        format!("a limit of namespaces is 0 or used up: sysctl -w {}", set.join(" "))
    }
}

/// Advice for an error of a step: empty, or a sentence that starts on a new line.
pub fn advice(step: Step, error: &io::Error, signs: &Signs) -> String {
    let errno = error.raw_os_error().unwrap_or(0);
    let refused = errno == libc::EPERM || errno == libc::EACCES;
    let text = match step {
        Step::Namespaces if errno == libc::ENOSPC => &signs.more_of(&KINDS[..6]),
        Step::Inside if errno == libc::ENOSPC => &signs.more_of(&KINDS[5..]),
        Step::Namespaces
            if refused && signs.unprivileged_userns_clone == Some(0) && !signs.setuid_mode =>
        {
            "this kernel keeps user namespaces to root: sysctl -w kernel.unprivileged_userns_clone=1, \
             or install the supervisor setuid root (make install)"
        }
        Step::Namespaces | Step::Inside if refused && signs.apparmor_restricts == Some(1) => {
            "AppArmor keeps unprivileged programs from using user namespaces: load a profile with `userns,` for \
             this program, or install the supervisor setuid root (make install)"
        }
        Step::Namespaces | Step::Inside if refused && signs.seccomp_filtered => {
            "this process runs under a container's seccomp filter that forbids namespaces or mounts: start the \
             container with our profile (--security-opt seccomp=FILE), with apparmor=unconfined where AppArmor is in use, \
             or, for the setuid mode, with --cap-add SYS_ADMIN"
        }
        Step::Namespaces | Step::Inside if refused && signs.setuid_mode => {
            "the container or service that started this lacks CAP_SYS_ADMIN, SETUID, SETGID or SETPCAP in its bounding set: \
             add what is missing, or take the setuid bit off to use user namespaces"
        }
        Step::Namespaces if errno == libc::EINVAL => {
            "this kernel was built without one of the namespaces (user, pid, net, ipc, uts, cgroup)"
        }
        Step::MountCalls if errno == libc::ENOSYS => "Linux 5.12 or newer is needed",
        _ => return String::new(),
    };
    format!("\n{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(step: Step, errno: i32, signs: Signs) -> String {
        advice(step, &io::Error::from_raw_os_error(errno), &signs)
    }

    #[test]
    fn each_sign_has_its_advice() {
        let none = Signs::default();
        let any = told(Step::Namespaces, libc::ENOSPC, none.clone());
        assert!(any.contains("max_user_namespaces") && any.contains("max_cgroup_namespaces"));
        let no_pid = Signs { forbidden: vec!["pid", "net"], ..none.clone() };
        assert_eq!(
            told(Step::Namespaces, libc::ENOSPC, no_pid.clone()),
            "\na limit of namespaces is 0 or used up: sysctl -w user.max_pid_namespaces=15000"
        );
        assert!(told(Step::Inside, libc::ENOSPC, no_pid).contains("max_net_namespaces=15000"));
        let old = Signs { unprivileged_userns_clone: Some(0), ..none.clone() };
        assert!(told(Step::Namespaces, libc::EPERM, old).contains("unprivileged_userns_clone=1"));
        let ubuntu = Signs { apparmor_restricts: Some(1), ..none.clone() };
        assert!(told(Step::Inside, libc::EACCES, ubuntu).contains("AppArmor"));
        let docker = Signs { seccomp_filtered: true, ..none.clone() };
        assert!(told(Step::Namespaces, libc::EPERM, docker).contains("seccomp="));
        assert!(told(Step::MountCalls, libc::ENOSYS, none.clone()).contains("5.12"));
        assert_eq!(told(Step::Namespaces, libc::ENOMEM, none), "");
    }
}
