//! `make install` and `make uninstall`.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Output};

use anyhow::{Context, Result};
use sandstorm_tests::{bin, is_root, skip, top};

fn make(target: &str, dest: &str, variables: &[(&str, &str)]) -> Result<Output> {
    Command::new("make")
        .arg(target)
        .arg(format!("DESTDIR={dest}"))
        .args(variables.iter().map(|(name, value)| format!("{name}={value}")))
        .env("SANDSTORM_BIN", bin())
        .current_dir(top())
        .output()
        .context("cannot start make")
}

#[test]
fn puts_everything_in_its_place_and_takes_it_away() -> Result<()> {
    if !is_root() {
        skip!(Ok(()), "make install needs root");
    }
    let dir = tempfile::tempdir()?;
    let dest = dir.path().to_str().context("plain text")?;
    // daemon and nogroup are there on every Debian.
    let user = [("SANDSTORM_USER", "daemon:nogroup"), ("PREFIX", "/opt/box")];
    let done = make("install", dest, &user)?;
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));

    let at = |path: &str| dir.path().join(path);
    let supervisor = fs::metadata(at("opt/box/bin/sandstorm-supervisor"))?;
    assert_eq!(supervisor.permissions().mode() & 0o7777, 0o4750);
    assert_eq!(supervisor.uid(), 0);
    let nogroup = fs::read_to_string("/etc/group")?
        .lines()
        .find_map(|line| line.strip_prefix("nogroup:x:")?.split(":").next()?.parse::<u32>().ok())
        .context("no group nogroup")?;
    assert_eq!(supervisor.gid(), nogroup);
    for program in ["sandstorm", "spk", "legacy-bridge"] {
        let meta = fs::metadata(at("opt/box/bin").join(program))?;
        assert_eq!(meta.permissions().mode() & 0o7777, 0o755, "{program}");
    }
    for place in ["", "/apps", "/packages", "/grains", "/tmp"] {
        let meta = fs::metadata(at(&format!("var/sandstorm{place}")))?;
        assert_eq!(meta.gid(), nogroup, "{place}");
        assert_ne!(meta.uid(), 0, "{place}");
        assert_eq!(meta.permissions().mode() & 0o022, 0, "{place}");
    }
    // Authors' imports resolve from there alone.
    let text = r#"@0xf1ddb6d3b831f794; using P = import "/sandstorm/package.capnp";
        const manifest :P.Manifest = (appVersion = 7);"#;
    fs::write(at("m.capnp"), text)?;
    let evaluated = Command::new("capnp")
        .args(["eval", "--no-standard-import", "-I"])
        .arg(at("opt/box/include"))
        .arg(at("m.capnp"))
        .arg("manifest")
        .output()?;
    assert!(evaluated.status.success(), "{}", String::from_utf8_lossy(&evaluated.stderr));

    let done = make("uninstall", dest, &user)?;
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(fs::read_dir(at("opt/box/bin"))?.count(), 0);
    assert_eq!(fs::read_dir(at("opt/box/include"))?.count(), 0);
    assert!(at("var/sandstorm/grains").is_dir(), "data stays");
    Ok(())
}

#[test]
fn refuses_with_the_command_that_helps() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let dest = dir.path().to_str().context("plain text")?;
    for (user, says) in [
        ("", "SANDSTORM_USER=user:group"),
        ("daemon", "SANDSTORM_USER=user:group"),
        ("no-such-user-here:daemon", "useradd"),
        ("root:root", "no rights of root"),
        ("daemon:no-such-group-here", "groupadd"),
    ] {
        let done = make("install", dest, &[("SANDSTORM_USER", user)])?;
        assert!(!done.status.success(), "{user:?}");
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(said.contains(says), "{user:?}: {said}");
        assert_eq!(fs::read_dir(dir.path())?.count(), 0, "{user:?} left something");
    }
    Ok(())
}
