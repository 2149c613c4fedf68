//! A disk without a free byte: what is there is read all the same, or nobody could make room.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use sandstorm_tests::skip;

use crate::probe;

/// A small file system in memory at a directory, with what was in that.
struct Small(PathBuf);

impl Small {
    fn at(dir: &Path) -> Result<Small> {
        let aside = dir.with_extension("aside");
        std::fs::rename(dir, &aside)?;
        std::fs::create_dir(dir)?;
        mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), Some("size=96M,mode=755"))?;
        let small = Small(dir.to_owned());
        let copied = std::process::Command::new("cp")
            .args(["-a", "--no-target-directory"])
            .args([&aside, dir])
            .status()?;
        ensure!(copied.success(), "cp: {copied}");
        Ok(small)
    }

    /// Leaves not even a block.
    fn fill(&self) -> Result<()> {
        let mut file = std::fs::File::create(self.0.join("filler"))?;
        for piece in [1 << 20, 4096, 1] {
            let bytes = vec![1; piece];
            while file.write_all(&bytes).is_ok() {}
        }
        Ok(())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[tokio::test]
async fn a_grain_is_opened_and_read_on_a_full_disk() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        skip!(Ok(()), "a small file system can only be mounted by root");
    }
    let mut probe = probe!();
    probe.client.put("/store/x", "kept").await?;
    let link = || -> Result<String> {
        let link = probe.server.json(&["grain", "open", &probe.grain])?;
        Ok(link["url"].as_str().context("a link")?.to_owned())
    };
    let shell = probe.server.client()?;
    let (before, fresh) = (shell.sign_in(&link()?).await?, shell.sign_in(&link()?).await?);
    let page = format!("/grain/{}", probe.grain);
    ensure!(before.get(&page).await?.text().contains("<iframe"));
    probe.server.json(&["grain", "stop", &probe.grain])?;
    probe.server.terminate(Duration::from_secs(20))?;

    let small = match Small::at(&probe.server.home()) {
        Ok(small) => small,
        Err(error) => skip!(Ok(()), "no small file system here: {error:#}"),
    };
    probe.server.run()?;
    small.fill()?;
    // Nobody signs in any more; who was in opens what they opened before, and what not.
    ensure!(probe.server.json(&["grain", "open", &probe.grain]).is_err(), "there is room");
    for browser in [&before, &fresh] {
        let shown = browser.get(&page).await?;
        ensure!(shown.status == 200 && shown.text().contains("<iframe"), "{shown:?}");
    }
    let kept = probe.client.get("/store/x").await?;
    ensure!(kept.status == 200 && kept.text() == "kept", "{kept:?}");
    println!("read on a full disk: {}", kept.text());
    Ok(())
}
