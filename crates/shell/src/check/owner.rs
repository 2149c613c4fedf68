//! Judging as the server's user where root asks.
//!
//! Root may do everything, so what root finds possible says nothing about the server. Before it
//! looks, the check becomes the user that the home belongs to, with the groups that a service
//! manager would give them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

/// Gives the rights of root up for good, if this is root and the home belongs to somebody else.
///
/// # Errors
/// In a sentence, where this root is not allowed to (a container without CAP_SETUID or CAP_SETGID).
pub fn become_owner(home: &Path) -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let Ok(metadata) = fs::metadata(home) else { return Ok(()) };
    let uid = metadata.uid();
    if uid == 0 {
        return Ok(());
    }
    // Read by hand: glibc's own look-up loads modules, which a static program should not.
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let (gid, groups) = groups(uid, metadata.gid(), &read("/etc/passwd"), &read("/etc/group"));
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    let groups: Vec<Gid> = groups.into_iter().map(Gid::from_raw).collect();
    setgroups(&groups)
        .and_then(|()| setresgid(gid, gid, gid))
        .and_then(|()| setresuid(uid, uid, uid))
        .map_err(|e| {
            format!(
                "{} belongs to uid {uid}, and this process cannot act as that: {e}",
                home.display()
            )
        })
}

/// The user's own group, and all groups that they are in. `home`: the group of somebody who is in
/// no file, as a number that only a unit or a directory service knows.
fn groups(uid: u32, home: u32, passwd: &str, group: &str) -> (u32, Vec<u32>) {
    let user = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number, gid) = (fields.next()?, fields.nth(1)?, fields.next()?);
        (number.parse() == Ok(uid)).then_some((name, gid.parse().ok()?))
    });
    let (name, own) = user.unwrap_or(("", home));
    let mut all = vec![own];
    for line in group.lines() {
        let mut fields = line.split(':');
        let Some(gid) = fields.nth(2).and_then(|gid| gid.parse().ok()) else { continue };
        let mut members = fields.next().unwrap_or_default().split(',');
        if !name.is_empty() && members.any(|member| member.trim() == name) && !all.contains(&gid) {
            all.push(gid);
        }
    }
    (own, all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_those_of_the_files() {
        let passwd =
            "root:x:0:0::/root:/bin/sh\nbad\nsandstorm:x:977:970::/var/sandstorm:/bin/false\n";
        let group = "root:x:0:\nsandstorm:x:970:\ndisk:x:6:root,sandstorm\nbad:x\n\
                     kvm:x:108:sandstorm\nother:x:9:sandstorm2\n";
        assert_eq!(groups(977, 5, passwd, group), (970, vec![970, 6, 108]));
        assert_eq!(groups(61_000, 61_001, passwd, group), (61_001, vec![61_001]));
    }
}
