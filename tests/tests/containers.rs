//! The whole system inside containers, without extra rights: each script under `tests/containers`
//! starts it there for real and runs the main job (install, create, write, read, sleep, wake).
//! systemd-nspawn in every run, podman with and without root and Docker in the soak. There too `tests/vm`: a
//! virtual machine with another kernel, systemd as pid 1, control groups of version 2 alone and
//! project quotas, whatever this machine has.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sandstorm_tests::{apps, bin, built, is_root, skip, soak, top};

/// Status of a script that cannot run here, beside the word that says why.
const SKIPPED: i32 = 77;

/// Runs one script, which knows itself what it needs beside our own programs.
fn runs_in(script: &str) -> Result<()> {
    let done = Command::new("timeout")
        .arg(Duration::from_secs(300).as_secs().to_string())
        .arg(top().join("tests/containers").join(script))
        .env("SANDSTORM_BIN", bin())
        .env("PACKAGE", apps::package("dufs")?)
        .output()
        .with_context(|| format!("cannot start {script}"))?;
    let said = String::from_utf8_lossy(&done.stdout);
    println!("{said}");
    if let Some(why) = skipped(&done, "CONTAINER SKIPPED: ") {
        skip::announce(script, &why);
        return Ok(());
    }
    ensure!(
        done.status.success() && said.contains("CONTAINER OK"),
        "{script}: {}\n{said}\n{}",
        done.status,
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(())
}

fn skipped(done: &Output, word: &str) -> Option<String> {
    let said = String::from_utf8_lossy(&done.stdout);
    let why = said.lines().find_map(|line| line.strip_prefix(word)).map(str::to_owned);
    why.filter(|_| done.status.code() == Some(SKIPPED))
}

/// By hand and from here alike: the word and the status, for want of rights and for want of tools.
#[test]
fn what_cannot_run_says_so() -> Result<()> {
    if !is_root() {
        sandstorm_tests::skip!(Ok(()), "becomes another user");
    }
    for (script, word) in [
        ("containers/nspawn.sh", "CONTAINER SKIPPED: "),
        ("containers/podman-rootful.sh", "CONTAINER SKIPPED: "),
        ("containers/podman-rootless.sh", "CONTAINER SKIPPED: "),
        ("containers/docker.sh", "CONTAINER SKIPPED: "),
        ("containers/inside.sh", "CONTAINER SKIPPED: "),
        ("vm/vm.sh", "VM SKIPPED: "),
        ("vm/inside.sh", "VM SKIPPED: "),
    ] {
        let text = std::fs::read(top().join("tests").join(script))?;
        let scripts = tempfile::tempdir().context("cannot make a directory")?;
        let place = scripts.path().join(script);
        let dir = place.parent().context("a script has a directory")?;
        std::fs::create_dir(dir)?;
        std::fs::write(&place, text)?;
        let tree = top().join("tests").join(script).with_file_name("tree.sh");
        std::fs::copy(tree, dir.join("tree.sh"))?;
        std::fs::set_permissions(scripts.path(), std::fs::Permissions::from_mode(0o755))?;
        // What every machine has, and nothing else.
        let few = scripts.path().join("few");
        std::fs::create_dir(&few)?;
        for tool in ["dirname", "id"] {
            symlink(Path::new("/usr/bin").join(tool), few.join(tool))?;
        }
        for (tools, user) in [(Path::new("/usr/bin:/bin"), "65534"), (&few, "0")] {
            let done = Command::new("/usr/bin/setpriv")
                .args(["--reuid", user, "--clear-groups", "/bin/sh"])
                .arg(&place)
                .env("PATH", tools)
                .output()
                .context("cannot start setpriv")?;
            let why = skipped(&done, word).with_context(|| format!("{script}: {done:?}"))?;
            ensure!(!why.is_empty() && done.stderr.is_empty(), "{script}: {done:?}");
        }
    }
    Ok(())
}

/// Everything that `tests/vm/inside.sh` does, the hostile suite on the other kernel among it. An
/// emulated processor is ten times slower than this one, and the first run makes the machine's file
/// system from Debian's packages.
#[test]
fn virtual_machine() -> Result<()> {
    if !soak() {
        sandstorm_tests::skip!(Ok(()), "a virtual machine: in the soak");
    }
    let packages = tempfile::tempdir().context("cannot make a directory")?;
    for app in ["dufs", "greedy"] {
        let to = packages.path().join(app).with_extension("spk");
        std::fs::copy(apps::package(app)?, to).with_context(|| format!("cannot copy {app}"))?;
    }
    let suites = tempfile::tempdir().context("cannot make a directory")?;
    for (name, from) in [
        ("hostile", built::suite("hostile")?),
        ("greedy", built::suite("greedy")?),
        ("hostile-app", built::beside("hostile-app")),
        ("greedy-app", built::beside("greedy-app")),
        ("unsafe-supervisor", built::unsafe_supervisor()?),
    ] {
        let to = suites.path().join(name);
        std::fs::copy(&from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    let done = Command::new("timeout")
        .arg(Duration::from_secs(7200).as_secs().to_string())
        .arg(top().join("tests/vm/vm.sh"))
        .env("SANDSTORM_BIN", bin())
        .env("PACKAGES", packages.path())
        .env("SUITES", suites.path())
        .output()
        .context("cannot start vm.sh")?;
    let said = String::from_utf8_lossy(&done.stdout);
    println!("{said}");
    if let Some(why) = skipped(&done, "VM SKIPPED: ") {
        sandstorm_tests::skip!(Ok(()), "{why}");
    }
    for skipped in said.lines().filter_map(|line| line.strip_prefix("SKIPPED ")) {
        let (test, reason) = skipped.split_once(": ").unwrap_or(("a test", skipped));
        skip::announce(&format!("{test} in the virtual machine"), reason);
    }
    ensure!(
        done.status.success() && said.trim_end().ends_with("VM OK"),
        "vm.sh: {}\n{said}\n{}",
        done.status,
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(())
}

#[test]
fn systemd_nspawn() -> Result<()> {
    runs_in("nspawn.sh")
}

#[test]
fn podman_with_root() -> Result<()> {
    if !soak() {
        sandstorm_tests::skip!(Ok(()), "podman with root: in the soak");
    }
    runs_in("podman-rootful.sh")
}

#[test]
fn podman_without_root() -> Result<()> {
    if !soak() {
        sandstorm_tests::skip!(Ok(()), "podman without root: in the soak");
    }
    runs_in("podman-rootless.sh")
}

#[test]
fn docker() -> Result<()> {
    if !soak() {
        sandstorm_tests::skip!(Ok(()), "Docker: in the soak");
    }
    runs_in("docker.sh")
}
