//! A grain's data in an image file: the kernel keeps the disk limit, nothing but what root made is
//! mounted, and it all ends with the grain.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use sandstorm_tests::supervisor::Refusal;
use sandstorm_tests::{Server, apps};

use super::*;

const SMALL: &[&str] = &["--new", "--image", "--limit", "disk=24M", "--limit", "inodes=500"];

/// `None` where no image can be mounted (announced).
fn bench() -> Result<Option<Bench>> {
    for path in ["/dev/loop-control", "/usr/sbin/mke2fs"] {
        if !Path::new(path).exists() {
            sandstorm_tests::skip::announce(
                &sandstorm_tests::skip::current_test(),
                &format!("no {path} here"),
            );
            return Ok(None);
        }
    }
    Bench::new(Mode::Setuid)
}

fn file(bench: &Bench, grain: &str) -> std::path::PathBuf {
    bench.installation.grain_dir(grain).join("image")
}

/// Loop devices of files below the test's directory.
fn loop_devices(bench: &Bench) -> Vec<String> {
    let home = bench.installation.dir().display().to_string();
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let files = devices.filter_map(|d| fs::read_to_string(d.path().join("loop/backing_file")).ok());
    files.filter(|file| file.starts_with(&home)).collect()
}

fn no_loop_device_is_left(bench: &Bench) -> Result<()> {
    eventually("the end of the loop devices", Duration::from_secs(10), || {
        loop_devices(bench).is_empty().then_some(())
    })
}

/// MiB on the host's disk.
fn allocated(bench: &Bench, grain: &str) -> Result<u64> {
    Ok(fs::metadata(file(bench, grain))?.blocks() / 2048)
}

/// MiB and files that the log says the newest image holds.
fn size(running: &Running) -> Result<(u64, u64)> {
    let log = running.log();
    let line = log.lines().rfind(|line| line.contains("image file of")).context("no line")?;
    let words = line.split_whitespace().filter_map(|word| word.parse().ok());
    let numbers: Vec<u64> = words.collect();
    ensure!(numbers.len() >= 2, "{line}");
    Ok((numbers[0], numbers[1]))
}

/// Ends it and waits until the next start can begin.
fn end(mut running: Running) -> Result<()> {
    on_one_thread(async {
        let grain = running.connect().await?;
        let _ = within(grain.supervisor.shutdown_request().send().promise).await;
        Ok(())
    })?;
    running.exit_within(Duration::from_secs(5))?;
    Ok(())
}

fn refusal(bench: &Bench, options: &[&str], grain: &str, words: &str) -> Result<()> {
    let Refusal { status, stderr, .. } = bench.refused(options, PACKAGE, grain)?;
    println!("{}", stderr.trim());
    ensure!(stderr.contains(words) && matches!(status, Some(4 | 5)), "{status:?} {stderr}");
    Ok(())
}

/// How far the app came, by its answer.
fn stopped(answer: &str) -> Result<u64> {
    ensure!(answer.contains("No space left on device"), "{answer}");
    let number =
        answer.split_whitespace().nth(2).and_then(|n| n.trim_end_matches(':').parse().ok());
    number.with_context(|| answer.to_owned())
}

#[test]
fn the_kernel_refuses_at_the_limit_and_freed_space_goes_back() -> Result<()> {
    let Some(bench) = bench()? else { return Ok(()) };
    let running = bench.start(SMALL, GRAIN)?;
    let empty = allocated(&bench, GRAIN)?;
    on_one_thread(async {
        let grain = running.connect().await?;
        let session = grain.session("Ada").await?;
        session.post("before").await?;
        let bytes = stopped(&session.get("/fill?mib=200").await?)?;
        let full = allocated(&bench, GRAIN)?;
        println!("{bytes} MiB written; the file had {empty} MiB, has {full}");
        ensure!((23..=25).contains(&bytes), "{bytes} MiB of 24");
        ensure!(full >= bytes);
        ensure!(session.get("/text").await? == "before");
        // The last part of a mebibyte stays free.
        eventually_async("the owner is told", Duration::from_secs(3), || async {
            let told = ["the disk limit is reached", "95 %", "96 %", "97 %", "98 %"];
            let log = running.log();
            told.iter().any(|words| log.contains(words)).then_some(())
        })
        .await?;
        session.get("/unfill").await?;
        ensure!(session.get("/fill?mib=5").await? == "wrote 5");
        session.get("/unfill").await?;
        // ext4 tells its device what is free when its journal is written, every five seconds.
        eventually_async("freed space goes back", Duration::from_secs(20), || async {
            allocated(&bench, GRAIN).ok().filter(|now| *now < full - 15)
        })
        .await?;
        let names = stopped(&session.get("/names?n=2000").await?)?;
        println!("{names} names made");
        ensure!((450..=600).contains(&names), "{names} names of 500");
        session.get("/unnames").await?;
        session.post("after").await?;
        ensure!(session.get("/text").await? == "after");
        Ok(())
    })?;
    end(running)?;
    no_loop_device_is_left(&bench)
}

/// Programs that look for what a device holds look at its end as well.
#[test]
fn the_end_of_the_file_is_never_the_apps() -> Result<()> {
    let Some(bench) = bench()? else { return Ok(()) };
    let running = bench.start(SMALL, GRAIN)?;
    on_one_thread(async {
        let session = running.connect().await?.session("Ada").await?;
        stopped(&session.get("/fill?mib=200").await?).map(drop)
    })?;
    end(running)?;
    no_loop_device_is_left(&bench)?;
    let image = fs::read(bench.installation.grain_dir(GRAIN).join("image"))?;
    let (body, tail) = image.split_at(image.len() - (1 << 20));
    // The app's own part ends just before it.
    let apps = body.iter().rev().take(4 << 20).filter(|byte| **byte != 0).count();
    ensure!(apps > 1 << 20, "{apps} bytes of the app's in front of the end");
    ensure!(tail.iter().all(|byte| *byte == 0), "something is in the last MiB");
    Ok(())
}

#[test]
fn an_image_holds_about_what_its_limit_says() -> Result<()> {
    let Some(bench) = bench()? else { return Ok(()) };
    for (n, (disk, inodes)) in
        [(1, 100), (8, 1_000_000), (100, 1000), (300, 70_000), (10_240, 1_000_000), (1 << 20, 1000)]
            .into_iter()
            .enumerate()
    {
        let grain = format!("grain{n}");
        let limits = [format!("disk={disk}M"), format!("inodes={inodes}")];
        let options = ["--new", "--image", "--limit", &limits[0], "--limit", &limits[1]];
        let running = bench.start(&options, &grain)?;
        let (mib, files) = size(&running)?;
        println!("limits of {disk} MiB and {inodes} files: {mib} and {files}");
        let least = disk.max(8);
        ensure!((least..=least + least / 200 + 2).contains(&mib), "{mib} of {least} MiB");
        let inodes = inodes.min(least * 256);
        ensure!(
            (inodes..=inodes + inodes / 100 + disk / 128 * 16 + 16).contains(&files),
            "{files} of {inodes}"
        );
        ensure!(allocated(&bench, &grain)? < 40, "{} MiB for nothing", allocated(&bench, &grain)?);
        end(running)?;
    }
    no_loop_device_is_left(&bench)
}

#[test]
fn a_raised_limit_makes_the_image_larger() -> Result<()> {
    let Some(bench) = bench()? else { return Ok(()) };
    let running = bench.start(SMALL, GRAIN)?;
    on_one_thread(async { running.connect().await?.session("Ada").await?.post("kept").await })?;
    end(running)?;
    for disk in [100, 24] {
        let running = bench.start(&["--limit", &format!("disk={disk}M")], GRAIN)?;
        let (mib, _) = size(&running)?;
        let may = fs::read_to_string("/proc/self/status")?
            .lines()
            .filter_map(|l| u64::from_str_radix(l.strip_prefix("CapEff:")?.trim(), 16).ok())
            .any(|caps| caps & 1 << 24 != 0);
        if may {
            ensure!((100..=105).contains(&mib), "{mib} MiB");
        } else {
            ensure!(disk == 24 || running.log().contains("less than the limit of 100 MiB"));
            ensure!((24..=26).contains(&mib), "{mib} MiB");
        }
        on_one_thread(async {
            let session = running.connect().await?.session("Ada").await?;
            ensure!(session.get("/text").await? == "kept");
            session.post("kept").await
        })?;
        end(running)?;
        if !may {
            sandstorm_tests::skip!(Ok(()), "root without CAP_SYS_RESOURCE makes no ext4 larger");
        }
    }
    no_loop_device_is_left(&bench)
}

#[test]
fn what_was_written_survives_a_kill() -> Result<()> {
    let Some(bench) = bench()? else { return Ok(()) };
    let mut running = bench.start(SMALL, GRAIN)?;
    for round in 0..3 {
        let text = format!("round {round}");
        on_one_thread(async { running.connect().await?.session("Ada").await?.post(&text).await })?;
        ensure!(loop_devices(&bench).len() == 1, "{:?}", loop_devices(&bench));
        let init = running.inside().first().context("no init")?.pid;
        processes::kill(running.pid());
        processes::kill(init);
        // At once: the mounts of the last run end meanwhile.
        let next = bench.start(&["--limit", "disk=24M"], GRAIN)?;
        on_one_thread(async {
            let told = next.connect().await?.session("Ada").await?.get("/text").await?;
            ensure!(told == text, "{told}");
            Ok(())
        })?;
        running = next;
    }
    processes::kill(running.pid());
    no_loop_device_is_left(&bench)?;
    ensure!(fs::read_dir(running.grain_dir.join("sandbox"))?.next().is_none());
    Ok(())
}

/// What a start that is killed leaves, the next one starts; and it has an image.
#[test]
fn a_start_that_is_killed_leaves_nothing_half_made() -> Result<()> {
    let Some(bench) = bench()? else { return Ok(()) };
    let options = &SMALL[1..];
    let mut made = 0;
    for round in 0..24 {
        let grain = format!("grain{round}");
        let mut child = bench.command(SMALL, PACKAGE, &grain, &["/app"]).spawn()?;
        std::thread::sleep(Duration::from_millis(round * 2));
        processes::kill(child.id() as i32);
        child.wait()?;
        made += u32::from(file(&bench, &grain).exists());
        let dir = bench.installation.grain_dir(&grain);
        let new = if dir.join("sandbox").exists() { options } else { SMALL };
        let running = bench.start(new, &grain)?;
        size(&running)?;
        on_one_thread(async {
            running.connect().await?.session("Ada").await?.post("works").await
        })?;
        end(running)?;
    }
    println!("{made} of 24 were killed after the image was made");
    no_loop_device_is_left(&bench)
}

#[test]
fn no_image_is_mounted_twice() -> Result<()> {
    let Some(bench) = bench()? else { return Ok(()) };
    let running = bench.start(SMALL, GRAIN)?;
    end(bench.start(&["--new"], "other")?)?;
    // The caller owns both directories.
    fs::rename(file(&bench, GRAIN), file(&bench, "other"))?;
    refusal(&bench, &[], "other", "it is mounted already")?;
    ensure!(loop_devices(&bench).len() == 1);
    on_one_thread(async { running.connect().await?.session("Ada").await?.post("mine").await })?;
    end(running)?;
    fs::hard_link(file(&bench, "other"), file(&bench, GRAIN))?;
    for grain in [GRAIN, "other"] {
        refusal(&bench, &[], grain, "is not one that this program made")?;
    }
    // The twin: moved for good, it is the other's.
    fs::remove_file(file(&bench, GRAIN))?;
    let running = bench.start(&[], "other")?;
    on_one_thread(async {
        let told = running.connect().await?.session("Ada").await?.get("/text").await?;
        ensure!(told == "mine", "{told}");
        Ok(())
    })
}

#[test]
fn nothing_is_mounted_that_root_did_not_make() -> Result<()> {
    let Some(bench) = bench()? else { return Ok(()) };
    end(bench.start(SMALL, GRAIN)?)?;
    no_loop_device_is_left(&bench)?;
    end(bench.start(&["--new"], "forged")?)?;
    let (real, forged) = (file(&bench, GRAIN), file(&bench, "forged"));
    let ours = "is not one that this program made";
    let mark = |path: &Path| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(path, "trusted.sandstorm.image", b"1", flags)
    };
    let root = |path: &Path| -> Result<()> {
        chown(path, Some(0), Some(0))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(())
    };
    // Its bytes are those of an image; only the mark is missing.
    fs::copy(&real, &forged)?;
    root(&forged)?;
    refusal(&bench, &[], "forged", ours)?;
    // A mark and another owner, or a mode that lets others write.
    mark(&forged)?;
    bench.give(&forged)?;
    refusal(&bench, &[], "forged", ours)?;
    root(&forged)?;
    fs::set_permissions(&forged, fs::Permissions::from_mode(0o660))?;
    refusal(&bench, &[], "forged", ours)?;
    // The twin: with all of it root says that it is one.
    root(&forged)?;
    end(bench.start(&[], "forged")?)?;
    no_loop_device_is_left(&bench)?;
    fs::remove_file(&forged)?;
    symlink(&real, &forged)?;
    refusal(&bench, &[], "forged", ours)?;
    fs::remove_file(&forged)?;
    nix::unistd::mkfifo(&forged, nix::sys::stat::Mode::from_bits_truncate(0o600))?;
    refusal(&bench, &[], "forged", ours)?;
    fs::remove_file(&forged)?;
    fs::create_dir(&forged)?;
    refusal(&bench, &[], "forged", ours)?;
    // Marked, root's, and no file system.
    fs::remove_dir(&forged)?;
    fs::write(&forged, vec![0; 1 << 20])?;
    root(&forged)?;
    mark(&forged)?;
    refusal(&bench, &[], "forged", "mount the grain's image file")?;
    no_loop_device_is_left(&bench)
}

#[test]
fn without_root_there_is_no_image_and_none_is_ignored() -> Result<()> {
    let Some(bench) = Bench::new(Mode::UserNamespace)? else { return Ok(()) };
    refusal(&bench, &["--new", "--image"], GRAIN, "--image needs the supervisor setuid root")?;
    ensure!(!bench.installation.grain_dir(GRAIN).exists(), "half a grain");
    end(bench.start(&["--new"], GRAIN)?)?;
    fs::write(file(&bench, GRAIN), "")?;
    refusal(&bench, &[], GRAIN, "which only root mounts")
}

#[test]
fn the_owner_of_the_home_deletes_a_grain_with_an_image() -> Result<()> {
    let Some(bench) = bench()? else { return Ok(()) };
    end(bench.start(SMALL, GRAIN)?)?;
    let dir = bench.installation.grain_dir(GRAIN);
    let (uid, gid) = (bench.installation.uid, bench.installation.gid);
    let run = |program: &str, words: &[&str]| {
        Command::new(program).args(words).arg(file(&bench, GRAIN)).uid(uid).gid(gid).status()
    };
    ensure!(!run("cat", &[])?.success() && !run("truncate", &["-s", "0"])?.success());
    ensure!(run("rm", &["-rf", &dir.display().to_string()])?.success() && !dir.exists());
    no_loop_device_is_left(&bench)
}

#[test]
fn files_of_an_image_are_published_and_others_not() -> Result<()> {
    use sandstorm_schema::supervisor_capnp::supervisor::WwwFileStatus;
    let Some(bench) = bench()? else { return Ok(()) };
    let running = bench.start(SMALL, GRAIN)?;
    on_one_thread(async {
        let grain = running.connect().await?;
        grain.session("Ada").await?.get("/publish").await?;
        let ask = async |path: &str| -> Result<WwwFileStatus> {
            let (stream, mut receiver) = sandstorm_schema::rpc::body::pipe();
            let mut request = grain.supervisor.get_www_file_hack_request();
            request.get().set_path(path);
            request.get().set_stream(stream);
            let response = within(request.send().promise).await?;
            while let Some(Ok(_)) = receiver.next().await {}
            Ok(response.get()?.get_status()?)
        };
        ensure!(ask("index.html").await? == WwwFileStatus::File);
        ensure!(ask("../count").await? == WwwFileStatus::NotFound);
        within(grain.supervisor.sync_storage_request().send().promise).await?;
        Ok(())
    })
}

/// An image on a full disk would lose what the app believes to be written: as for other grains, writes fail
/// before that.
#[test]
fn a_nearly_full_disk_of_the_host_stops_writes() -> Result<()> {
    let Some(bench) = bench()? else { return Ok(()) };
    let grains = bench.home().join("grains");
    let disk = Mounted::tmpfs(&grains, "size=800m,mode=0700")?;
    // Kept back is a twentieth of a small disk.
    fs::write(grains.join("ballast"), vec![1; 700 << 20])?;
    bench.give(&grains)?;
    let running = bench.start(&["--new", "--image", "--limit", "disk=1G"], GRAIN)?;
    on_one_thread(async {
        let session = running.connect().await?.session("Ada").await?;
        let told = session.get("/fill?mib=200").await?;
        println!("{told}");
        ensure!(told.contains("File too large"), "{told}");
        ensure!(running.log().contains("the server's disk is nearly full"), "{}", running.log());
        session.get("/unfill").await?;
        eventually_async("there is room again", Duration::from_secs(20), || async {
            session.post("after").await.ok()
        })
        .await?;
        ensure!(session.get("/text").await? == "after");
        Ok(())
    })?;
    end(running)?;
    no_loop_device_is_left(&bench)?;
    drop(disk);
    Ok(())
}

/// Unmounted at the end.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn tmpfs(at: &Path, options: &str) -> Result<Mounted> {
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), at, Some("tmpfs"), flags, Some(options))?;
        Ok(Mounted(at.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_gives_new_grains_an_image_and_deletes_it() -> Result<()> {
    if bench()?.is_none() {
        return Ok(());
    }
    let server = Server::builder(Mode::Setuid)
        .env("GRAIN_IMAGE", "true")
        .env("GRAIN_LIMITS", "disk=24M,inodes=500");
    let Some(server) = server.start()? else { return Ok(()) };
    let checked = String::from_utf8(server.try_command(&["check"])?.stdout)?;
    ensure!(!checked.contains("GRAIN_IMAGE"), "{checked}");
    let app = server.install(&apps::package("native")?)?;
    let grain = server.create(&app.app_id)?;
    for _ in 0..2 {
        let answer = server.session(&grain)?.get("/fill?mib=200").await?.text();
        ensure!(answer.contains("No space left on device"), "{answer}");
        let list = server.json(&["grain", "list"])?;
        let limits = list[0]["limits"].to_string();
        ensure!(limits.contains(r#""by":"image""#), "{list}");
        server.json(&["grain", "stop", &grain])?;
    }
    let dir = server.home().join("grains").join(&grain);
    let image = fs::metadata(dir.join("image"))?;
    ensure!((image.uid(), image.mode() & 0o7777) == (0, 0o600));
    server.json(&["grain", "delete", &grain])?;
    server.json(&["grain", "delete", &grain, "--now"])?;
    ensure!(!dir.exists());
    let trash = server.home().join("tmp");
    eventually("the end of the image", Duration::from_secs(10), || {
        fs::read_dir(&trash).is_ok_and(|mut left| left.next().is_none()).then_some(())
    })
}
