//! Attacks that look for privilege: ids, capabilities, set-id files, locked bits.

use crate::attack::{Attack, Context, Outcome, answer};
use crate::sys::{c, call, write_file};

macro_rules! row {
    ($name:literal, $layer:literal, $bare:literal, $tries:literal, $attempt:expr) => {
        Attack { name: $name, tries: $tries, layer: $layer, safe_bare: $bare, attempt: $attempt }
    };
}

pub const ATTACKS: &[Attack] = &[
    row!("setuid-0", "one uid mapped", true, "setuid(0)", |_| {
        answer(call(libc::SYS_setuid, &[0]), "uid 0")
    }),
    row!("setresuid-other", "one uid mapped", true, "setresuid to the next uid", |_| {
        let next = call(libc::SYS_getuid, &[]) + 1;
        answer(call(libc::SYS_setresuid, &[next, next, next]), "another uid")
    }),
    row!("setgroups", "setgroups denied", true, "setgroups(0)", |_| {
        let group = 0u32;
        answer(call(libc::SYS_setgroups, &[1, &raw const group as i64]), "group 0")
    }),
    row!(
        "capabilities-held",
        "capabilities dropped",
        true,
        "ask for any capability in any set",
        held
    ),
    row!("capset", "capabilities dropped", false, "capset of everything", |_| {
        let header: [u32; 2] = [0x2008_0522, 0];
        let data = [u32::MAX; 6];
        answer(
            call(libc::SYS_capset, &[header.as_ptr() as i64, data.as_ptr() as i64]),
            "capabilities",
        )
    }),
    row!("bounding-set", "bounding set empty", true, "look for a bit in the bounding set", |_| {
        let set: Vec<_> = (0..41)
            .filter(|cap| call(libc::SYS_prctl, &[i64::from(libc::PR_CAPBSET_READ), *cap]) == 1)
            .collect();
        found(!set.is_empty(), format!("bits {set:?}"))
    }),
    row!("securebits", "securebits locked", true, "change the secure bits", |_| {
        answer(
            call(libc::SYS_prctl, &[i64::from(libc::PR_SET_SECUREBITS), 0]),
            "secure bits cleared",
        )
    }),
    row!("ambient", "capabilities dropped", true, "raise an ambient capability", |_| {
        answer(
            call(libc::SYS_prctl, &[i64::from(libc::PR_CAP_AMBIENT), 2, 21, 0, 0]),
            "CAP_SYS_ADMIN is ambient",
        )
    }),
    row!("new-privileges", "no_new_privs", true, "see whether set-id bits would count", |_| {
        found(
            call(libc::SYS_prctl, &[i64::from(libc::PR_GET_NO_NEW_PRIVS), 0, 0, 0, 0]) == 0,
            "no_new_privs is off".into(),
        )
    }),
    row!("suid-mounts", "nosuid mounts", true, "look for a mount where set-id bits count", |_| {
        let loose: Vec<_> = ["/", "/var", "/tmp", "/dev", "/dev/shm"]
            .into_iter()
            .filter(|path| std::path::Path::new(path).exists() && !flag(path, libc::ST_NOSUID))
            .collect();
        found(!loose.is_empty(), format!("set-id bits count on {loose:?}"))
    }),
    row!(
        "device-mounts",
        "nodev mounts",
        true,
        "look for a writable mount where device nodes count",
        |_| {
            let loose: Vec<_> = ["/var", "/tmp", "/dev/shm"]
                .into_iter()
                .filter(|path| std::path::Path::new(path).exists() && !flag(path, libc::ST_NODEV))
                .collect();
            found(!loose.is_empty(), format!("device nodes count on {loose:?}"))
        }
    ),
    row!(
        "suid-file",
        "no_new_privs, nosuid mounts",
        false,
        "plant a set-id copy of this program and run it",
        suid_file
    ),
    row!("seccomp-listener", "seccomp", false, "install a filter with a listener", |_| {
        let filter: [u64; 1] = [0x7fff_0000_0000_0006]; // BPF_RET|BPF_K ALLOW
        let program: [u64; 2] = [1, filter.as_ptr() as u64];
        answer(call(libc::SYS_seccomp, &[1, 8, program.as_ptr() as i64]), "a listener")
    }),
    row!("keyring-add", "seccomp", true, "add_key to the session keyring", |_| {
        let (kind, name) = (c("user"), c("hostile"));
        answer(
            call(
                libc::SYS_add_key,
                &[kind.as_ptr() as i64, name.as_ptr() as i64, name.as_ptr() as i64, 7, -2],
            ),
            "a key",
        )
    }),
    row!("keyring-read", "seccomp", true, "keyctl: find the session keyring", |_| {
        answer(call(libc::SYS_keyctl, &[0, -3, 1]), "a keyring")
    }),
];

fn found(yes: bool, what: String) -> Outcome {
    if yes { Outcome::Succeeded(what) } else { Outcome::Refused("nothing found".into()) }
}

fn flag(path: &str, bit: u64) -> bool {
    let path = c(path);
    // SAFETY: statvfs is plain old data, written by the call before it is read.
    unsafe {
        let mut info: libc::statvfs = std::mem::zeroed();
        libc::statvfs(path.as_ptr(), &mut info) == 0 && info.f_flag & bit != 0
    }
}

fn held(_: &Context) -> Outcome {
    let header: [u32; 2] = [0x2008_0522, 0];
    let mut data = [0u32; 6];
    if call(libc::SYS_capget, &[header.as_ptr() as i64, data.as_mut_ptr() as i64]) == -1 {
        return crate::attack::refused();
    }
    found(data.iter().any(|set| *set != 0), format!("sets {data:x?}"))
}

fn suid_file(_: &Context) -> Outcome {
    let Some(own) = std::env::args().next().and_then(|path| std::fs::read(path).ok()) else {
        return Outcome::Refused("cannot read this program".into());
    };
    let path = "/var/suid-copy";
    if !write_file(path, &own) {
        return Outcome::Refused("cannot write to /var".into());
    }
    let name = c(path);
    if call(libc::SYS_chmod, &[name.as_ptr() as i64, 0o6755]) == -1 {
        return crate::attack::refused();
    }
    match std::process::Command::new(path).arg("--suid-probe").status() {
        Ok(status) => found(status.code() == Some(1), "the set-id bit took effect".into()),
        Err(error) => Outcome::Refused(error.to_string()),
    }
}
