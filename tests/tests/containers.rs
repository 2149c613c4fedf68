//! The whole system inside containers, without extra rights: each script under `tests/containers`
//! starts it there for real and runs the main job (install, create, write, read, sleep, wake).
//! systemd-nspawn in every run, podman with and without root and Docker in the soak. There too `tests/vm`: a
//! virtual machine with another kernel, systemd as pid 1, control groups of version 2 alone and
//! project quotas, whatever this machine has.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sandstorm_tests::{apps, bin, built, is_root, skip, soak, top};

/// Runs one script; `tool` is what it needs beside our own programs.
fn runs_in(script: &str, tool: &str) -> Result<()> {
    if Command::new(tool).arg("--version").output().is_err() {
        skip::announce(script, &format!("{tool} is not installed (prepare.sh soak installs it)"));
        return Ok(());
    }
    let done = Command::new("timeout")
        .arg(Duration::from_secs(300).as_secs().to_string())
        .arg(top().join("tests/containers").join(script))
        .env("SANDSTORM_BIN", bin())
        .env("PACKAGE", apps::package("dufs")?)
        .output()
        .with_context(|| format!("cannot start {script}"))?;
    let said = String::from_utf8_lossy(&done.stdout);
    println!("{said}");
    if let Some(why) = said.lines().find_map(|l| l.strip_prefix("CONTAINER SKIPPED: ")) {
        skip::announce(script, why);
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

/// Everything that `tests/vm/inside.sh` does, the hostile suite on the other kernel among it. An
/// emulated processor is ten times slower than this one, and the first run makes the machine's file
/// system from Debian's packages.
#[test]
fn virtual_machine() -> Result<()> {
    if !soak() {
        sandstorm_tests::skip!(Ok(()), "a virtual machine: in the soak");
    }
    if !is_root() {
        sandstorm_tests::skip!(Ok(()), "the virtual machine's file system is made by root");
    }
    for tool in ["qemu-system-x86_64", "debootstrap"] {
        if Command::new(tool).arg("--version").output().is_err() {
            sandstorm_tests::skip!(Ok(()), "{tool} is not installed (prepare.sh soak installs it)");
        }
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
    if !is_root() {
        sandstorm_tests::skip!(Ok(()), "systemd-nspawn wants root");
    }
    runs_in("nspawn.sh", "systemd-nspawn")
}

#[test]
fn podman_with_root() -> Result<()> {
    if !soak() {
        sandstorm_tests::skip!(Ok(()), "podman with root: in the soak");
    }
    if !is_root() {
        sandstorm_tests::skip!(Ok(()), "podman with root wants root");
    }
    runs_in("podman-rootful.sh", "podman")
}

#[test]
fn podman_without_root() -> Result<()> {
    if !soak() {
        sandstorm_tests::skip!(Ok(()), "podman without root: in the soak");
    }
    runs_in("podman-rootless.sh", "podman")
}

#[test]
fn docker() -> Result<()> {
    if !soak() {
        sandstorm_tests::skip!(Ok(()), "Docker: in the soak");
    }
    if !is_root() {
        sandstorm_tests::skip!(Ok(()), "Docker's daemon wants root");
    }
    runs_in("docker.sh", "dockerd")
}
