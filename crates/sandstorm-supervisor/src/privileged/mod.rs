//! Everything that runs with root's rights, in its order. Nothing outside this directory does, but
//! for the system calls in `sys` that it makes.
//!
//! 1. `reset`: take back what the caller's exec handed on.
//! 2. `begin`: who we are, from the kernel's answer on uids and the mode of our own file; the ends of
//!    the pipes that join this process and the grain's init.
//! 3. A helper is forked (`helper`), which stays root. It is told numbers and checked directory
//!    descriptors, nothing else: it takes a uid (`slot`), makes control groups (`groups`), clones
//!    init into its namespaces, makes two id-mapped mounts, writes the id maps, answers with
//!    descriptors, and ends.
//! 4. `give_up`: this process drops every privilege for good, before it looks at its arguments.
//!
//! So a fault in the parsing of arguments, in opening the home or in anything later is a fault in
//! an unprivileged program. Without the setuid bit and without root there is no helper, and the
//! same steps are done with the caller's own rights (`sandbox`).
//!
//! Trust: none in the caller, who chose all that exec hands on and may signal this process at any
//! step (the helper has none of the caller's ids and a session of its own; who owns the control
//! group that we are started in can still stop or end it, and gains nothing).
#![forbid(unsafe_code)]

pub mod groups;
pub mod helper;
pub mod quota;
mod reset;
mod slot;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use self::helper::Helper;
use crate::error::Error;
use crate::link::Link;
use crate::sys::process::{self, Child, Forked, SingleThread};
use crate::sys::{creds, fd};

/// How this process can build a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Installed setuid root, started by an ordinary user.
    Setuid,
    /// Started by root.
    Root,
    /// Neither: everything happens inside a user namespace.
    UserNamespace,
}

/// The user who started us: owner of the home and of everything on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
}

/// Init's ends of all that joins it with the supervisor.
#[derive(Debug)]
pub struct InitEnds {
    pub link: Link,
    /// The app's fd 3.
    pub app: OwnedFd,
    /// The app's fds 1 and 2.
    pub output: OwnedFd,
    pub null: OwnedFd,
}

/// This process without any privilege, and what it has in hand.
#[derive(Debug)]
pub struct Begun {
    pub caller: Caller,
    pub mode: Mode,
    /// The file is setuid root, and the kernel did not honour that.
    pub bit_ignored: bool,
    /// Commands to init and its reports; closing it ends the grain.
    pub link: Link,
    /// Other end of the app's fd 3.
    pub app: OwnedFd,
    /// Read end of the app's stdout and stderr.
    pub output: OwnedFd,
    pub half: Half,
}

/// Who makes the sandbox from outside.
#[derive(Debug)]
pub enum Half {
    Root(Helper),
    /// We ourselves, with init's ends.
    Own(InitEnds),
}

/// Resets, forks the helper where there is root's power to keep, and gives up every privilege.
///
/// # Errors
/// `Kernel` for a refused step, `Installation` when a setuid copy has another mode than 4750 or
/// another owner than root.
pub fn begin(one_thread: &SingleThread) -> Result<Begun, Error> {
    reset::first_steps(one_thread)?;
    let (real, _, saved) = creds::uids();
    let caller = Caller { uid: real, gid: creds::gid() };
    let (mode, bit_ignored) = mode(real, saved)?;
    let (link, inits_link) = Link::pair().map_err(Error::kernel("make the link to init"))?;
    let (app, inits_app) =
        fd::socketpair(libc::SOCK_STREAM).map_err(Error::kernel("make the app's socket"))?;
    let (output, inits_output) = fd::pipe().map_err(Error::kernel("make the log pipe"))?;
    let null = fd::open(c"/dev/null", libc::O_RDWR, 0).map_err(Error::kernel("open /dev/null"))?;
    let ends = InitEnds { link: inits_link, app: inits_app, output: inits_output, null };
    let half = match mode {
        Mode::UserNamespace => Half::Own(ends),
        Mode::Setuid | Mode::Root => {
            let helper = Helper::fork(one_thread, caller, ends);
            Half::Root(helper.map_err(Error::kernel("fork the privileged helper"))?)
        }
    };
    give_up(mode, caller).map_err(|(step, source)| Error::kernel(step)(source))?;
    Ok(Begun { caller, mode, bit_ignored, link, app, output, half })
}

/// The mode, and whether a setuid bit had no effect. By now the effective uid is the caller's; the
/// saved one is what the file's bit gave.
fn mode(real: u32, saved: u32) -> Result<(Mode, bool), Error> {
    let own = fd::open(c"/proc/self/exe", libc::O_PATH, 0)
        .and_then(|exe| fd::stat(exe.as_fd()))
        .map_err(Error::kernel("look at the program's own file (/proc/self/exe)"))?;
    match (saved, real) {
        (0, 0) => Ok((Mode::Root, false)),
        // The kernel let GROUP and nobody else get here only if the mode says so.
        (0, _) if own.st_uid == 0 && own.st_mode & 0o7777 == 0o4750 => Ok((Mode::Setuid, false)),
        (0, _) => Err(Error::Installation {
            path: fd::read_link(c"/proc/self/exe")
                .map(|path| String::from_utf8_lossy(&path).into_owned())
                .unwrap_or_default(),
            uid: own.st_uid,
            mode: own.st_mode & 0o7777,
        }),
        _ => Ok((Mode::UserNamespace, own.st_mode & libc::S_ISUID != 0 && own.st_uid == 0)),
    }
}

/// Gives up every privilege of this process for good: capabilities out of every set, securebits
/// locked, no_new_privs, not dumpable, the caller's ids everywhere, no supplementary group. (Without
/// root's help the process stays the caller's to look into until it has written init's id maps, since
/// its own files in /proc are the caller's only so long.)
fn give_up(mode: Mode, caller: Caller) -> Result<(), (&'static str, io::Error)> {
    let step = |what, result: io::Result<()>| result.map_err(|e| (what, e));
    step("set no_new_privs", creds::set_no_new_privs())?;
    if mode != Mode::UserNamespace {
        step("take root's rights to drop them", creds::set_effective_uid(0))?;
        match creds::clear_groups() {
            // Root of a user namespace whose maker has forbidden setgroups keeps what it has.
            Err(e) if mode == Mode::Root && e.raw_os_error() == Some(libc::EPERM) => {}
            result => step("drop supplementary groups", result)?,
        }
        step("lock the capability sets", creds::lock_capability_sets())?;
        step("set the caller's gid", creds::set_all_gids(caller.gid))?;
        step("set the caller's uid", creds::set_all_uids(caller.uid))?;
        step("make the process undumpable", creds::set_dumpable(false))?;
    }
    step("drop capabilities", creds::drop_capabilities())?;
    if caller.uid != 0 && creds::set_effective_uid(0).is_ok() {
        // The one thing that must never work from here on.
        process::exit_now(4);
    }
    Ok(())
}

/// Clones into the namespaces and, where the kernel lets us, straight into the version 2 group. The
/// child is the supervisor's, whoever of the two halves calls this.
///
/// # Errors
/// What the kernel answers.
pub fn clone_init(
    one_thread: &SingleThread,
    flags: i32,
    groups: &groups::Groups,
) -> io::Result<Forked> {
    let born_into = groups.unified.as_ref().map(AsFd::as_fd);
    let (forked, joined) = match process::clone(one_thread, flags, born_into) {
        Ok(forked) => (forked, born_into.is_some()),
        // A group of another kind, an older kernel or a filter without clone3: join afterwards.
        Err(_) if born_into.is_some() => (process::clone(one_thread, flags, None)?, false),
        Err(e) => return Err(e),
    };
    match &forked {
        Forked::Parent(child) if !joined => groups.join(child.pid)?,
        _ => {}
    }
    Ok(forked)
}

/// One line of an id map: `inside` in the namespace is `outside` in ours.
#[derive(Debug, Clone, Copy)]
pub struct IdMap {
    pub inside: (u32, u32),
    pub outside: (u32, u32),
}

/// Writes uid and gid map of a child. An unprivileged writer must first deny setgroups.
///
/// # Errors
/// EPERM where the kernel or an LSM does not let us use user namespaces.
pub fn write_maps(child: &Child, map: IdMap, privileged: bool) -> io::Result<()> {
    let path = std::ffi::CString::new(format!("/proc/{}", child.pid))?;
    let process = fd::open(&path, libc::O_PATH | libc::O_DIRECTORY, 0)?;
    // Not another process that has got its number meanwhile.
    if !process::is_unreaped(child) {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    if !privileged {
        write_in(process.as_fd(), c"setgroups", "deny")?;
    }
    let line = |inside: u32, outside: u32| format!("{inside} {outside} 1");
    write_in(process.as_fd(), c"uid_map", &line(map.inside.0, map.outside.0))?;
    write_in(process.as_fd(), c"gid_map", &line(map.inside.1, map.outside.1))
}

/// Writes a file in one piece, as those of /proc want it.
///
/// # Errors
/// What open and write answer.
pub fn write_in(dir: BorrowedFd<'_>, name: &std::ffi::CStr, text: &str) -> io::Result<()> {
    let file = fd::openat2(dir, name, libc::O_WRONLY, 0, fd::BENEATH)?;
    fd::write_all_at_once(&file, text.as_bytes())
}

#[cfg(test)]
mod tests {
    const FILES: [(&str, &str); 6] = [
        ("mod", include_str!("mod.rs")),
        ("reset", include_str!("reset.rs")),
        ("helper", include_str!("helper.rs")),
        ("slot", include_str!("slot.rs")),
        ("groups", include_str!("groups.rs")),
        ("quota", include_str!("quota.rs")),
    ];

    fn code(text: &str) -> impl Iterator<Item = &str> {
        let lines = text.lines().take_while(|line| *line != "#[cfg(test)]").map(str::trim);
        lines.filter(|line| !line.is_empty() && !line.starts_with("//"))
    }

    /// The number in docs/security.md is this one, less what runs after `give_up`.
    #[test]
    fn what_root_runs_stays_small() {
        let lines: usize = FILES.iter().map(|(_, text)| code(text).count()).sum();
        assert!(lines <= 830, "{lines} lines of code: think again, or change docs/security.md");
    }

    /// No parser of arguments, no home, no server, no library but the standard one and the ceilings.
    #[test]
    fn what_root_runs_calls_little_else() {
        const MAY: [&str; 10] = [
            "use crate::error::Error;",
            "use crate::init::",
            "use crate::layers;",
            "use crate::link::",
            "use crate::sandbox::namespaces::",
            "use crate::sys::",
            "use sandstorm_schema::grain_limits;",
            "use self::",
            "use std::",
            "use super::",
        ];
        for (name, text) in FILES {
            for line in code(text).filter(|line| line.starts_with("use ")) {
                assert!(MAY.iter().any(|start| line.starts_with(start)), "{name}: {line}");
            }
            assert!(!code(text).any(|line| line.contains("unsafe {")), "{name}");
        }
    }
}
