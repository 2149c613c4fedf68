//! Making room for grains in the control group that a service manager has delegated to the server.
//!
//! In version 2 a group that hands controllers on may hold no process itself. So the server moves
//! into `main`, and its supervisors make a group for each grain beside that. They know the place by
//! this name: see the supervisor's `privileged::groups`. What they leave there is
//! removed by `grains::group`.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Group that the server itself lives in.
const MAIN: &str = "main";
/// What grains are limited by.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// Moves this process into `main` of its group, where that has been delegated: it belongs to the
/// server's user, who is not root, and has a controller that limits grains. Anything else is left as
/// it is: then grains are limited by what the supervisor finds itself.
///
/// Returns the delegated group, also where this process is in its `main` already, or nothing where
/// there is none.
///
/// # Errors
/// The kernel's refusal in a group that is delegated.
pub fn step_aside() -> io::Result<Option<PathBuf>> {
    let top = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .map(Path::new)
        .into_iter()
        .find(|top| top.join("cgroup.controllers").exists());
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let (Some(top), Some(path)) = (top, unified(&text)) else { return Ok(None) };
    step_aside_in(&top.join(path.trim_start_matches('/')), nix::unistd::geteuid().as_raw())
}

fn step_aside_in(group: &Path, user: u32) -> io::Result<Option<PathBuf>> {
    // A program that a service manager has started there, or that has replaced one of ours.
    let parent = group.parent().filter(|_| group.ends_with(MAIN));
    let (group, is_aside) = (parent.unwrap_or(group), parent.is_some());
    let delegated = user != 0 && fs::metadata(group).is_ok_and(|meta| meta.uid() == user);
    let controllers = fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
    let useful = controllers.split_ascii_whitespace().any(|word| CONTROLLERS.contains(&word));
    if !delegated || !useful {
        return Ok(None);
    }
    if is_aside {
        return Ok(Some(group.to_owned()));
    }
    let main = group.join(MAIN);
    match fs::create_dir(&main) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    fs::write(main.join("cgroup.procs"), std::process::id().to_string())?;
    Ok(Some(group.to_owned()))
}

/// The path of the version 2 group in the text of /proc/self/cgroup; none outside our own part of
/// the tree.
fn unified(text: &str) -> Option<&str> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    (path.starts_with('/') && !path.split('/').any(|name| name == "..")).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_path_of_ones_own_is_taken() {
        let text = "4:memory:/a\n0::/system.slice/sandstorm.service\n";
        assert_eq!(unified(text), Some("/system.slice/sandstorm.service"));
        assert_eq!(unified("4:memory:/a\n"), None);
        assert_eq!(unified("0::/../other\n"), None);
        assert_eq!(unified("0::/a/../b\n"), None);
    }

    #[test]
    fn only_a_useful_group_that_is_ours_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let group = dir.path().join("sandstorm.service");
        fs::create_dir(&group).unwrap();
        let owner = fs::metadata(&group).unwrap().uid();
        // Who owns it is made up for a test that root runs.
        let (user, other) = (owner.max(1), owner.max(1) + 1);
        if owner != user {
            std::os::unix::fs::chown(&group, Some(user), None).unwrap();
        }
        let aside = |group: &Path, user| step_aside_in(group, user).unwrap();
        fs::write(group.join("cgroup.controllers"), "hugetlb\n").unwrap();
        assert_eq!(aside(&group, user), None, "nothing there that limits");
        fs::write(group.join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        assert_eq!(aside(&group, other), None, "somebody else's");
        assert_eq!(aside(&group, 0), None, "root's");
        assert!(!group.join("main").exists());
        assert_eq!(aside(&group, user), Some(group.clone()));
        let inside = fs::read_to_string(group.join("main/cgroup.procs")).unwrap();
        assert_eq!(inside, std::process::id().to_string());
        assert_eq!(aside(&group, user), Some(group.clone()), "and at the next start");
        fs::write(group.join("main/cgroup.controllers"), "cpu\n").unwrap();
        if owner != user {
            std::os::unix::fs::chown(group.join("main"), Some(user), None).unwrap();
        }
        fs::remove_file(group.join("main/cgroup.procs")).unwrap();
        let main = group.join("main");
        assert_eq!(aside(&main, user), Some(group.clone()), "it is there already");
        assert!(!main.join("main").exists() && !main.join("cgroup.procs").exists());
        assert_eq!(aside(&main, other), None);
    }
}
