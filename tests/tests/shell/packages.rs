//! Packages on their way in and out: who may send how many, who holds up whom.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sandstorm_tests::{Client, Mode, Server, eventually, eventually_async};

use crate::support::{package, person, upload};

/// The id of a package file.
fn id_of(file: &[u8]) -> String {
    use sha2::Digest;
    hex::encode(&sha2::Sha256::digest(file)[..16])
}

/// A web server that answers every GET with these bytes, or begins an answer and never goes on.
/// Its address; connections stay open as long as the second value lives.
fn web_server(answer: Option<Vec<u8>>) -> Result<(String, Arc<Mutex<Vec<TcpStream>>>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = format!("http://{}/app.spk", listener.local_addr()?);
    let open = Arc::new(Mutex::new(Vec::new()));
    let held = open.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.read(&mut [0; 4096]);
            let length = answer.as_ref().map_or(1_000_000, Vec::len);
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
            let _ = stream.write_all(answer.as_deref().unwrap_or(b"x"));
            if answer.is_none() {
                held.lock().unwrap().push(stream);
            }
        }
    });
    Ok((address, open))
}

async fn fetch(browser: &Client, id: &str, url: &str) -> Result<sandstorm_tests::Answer> {
    browser.submit("/install", &format!("/install/{id}"), &format!("act=get&url={url}")).await
}

async fn installed(browser: &Client, id: &str) -> Result<()> {
    eventually_async(format!("{id} is in place"), Duration::from_secs(30), async || {
        let page = browser.get(&format!("/install/{id}")).await.ok()?.text();
        page.contains("Install this app?").then_some(())
    })
    .await
}

/// One person's downloads leave places for others, and the slow download of a package keeps nobody
/// from it: not who has the file, nor who knows a better address.
#[tokio::test]
async fn slow_downloads_hold_up_nobody() -> Result<()> {
    let Some(server) = Server::builder(Mode::Setuid)
        .env("ALLOW_DEV_ACCOUNTS", "true")
        .env("ALLOW_PRIVATE_DOWNLOADS", "true")
        .start()?
    else {
        return Ok(());
    };
    let (ada, ben) =
        (person(&server, "Ada", "member").await?, person(&server, "Ben", "member").await?);
    let one = std::fs::read(package(&server, 1, "")?)?;
    let two = std::fs::read(package(&server, 2, "")?)?;
    let (tarpit, open) = web_server(None)?;

    for id in [id_of(&one), id_of(&two), "0".repeat(32), "1".repeat(32)] {
        ensure!(fetch(&ada, &id, &tarpit).await?.status == 303, "{id}");
    }
    let fifth = fetch(&ada, &"2".repeat(32), &tarpit).await?;
    ensure!(fifth.status == 503 && fifth.text().contains("are on their way"), "{fifth:?}");
    let file = upload(&ada, one.clone()).await?;
    ensure!(file.status == 503 && file.text().contains("are on their way"), "{file:?}");
    eventually_async("four downloads hang", Duration::from_secs(10), async || {
        (open.lock().unwrap().len() == 4).then_some(())
    })
    .await?;

    // Ben has the one file and a working address of the other.
    let sent = upload(&ben, one.clone()).await?;
    ensure!(sent.status == 200 && sent.text() == id_of(&one), "{sent:?}");
    installed(&ben, &id_of(&one)).await?;
    let (good, _) = web_server(Some(two.clone()))?;
    let page = ben.get(&format!("/install/{}?url={good}", id_of(&two))).await?.text();
    ensure!(page.contains("from another address already") && page.contains("Download"), "{page}");
    ensure!(fetch(&ben, &id_of(&two), &good).await?.status == 303);
    installed(&ben, &id_of(&two)).await?;
    // Ada's places are free again.
    ensure!(fetch(&ada, &"2".repeat(32), &tarpit).await?.status == 303);
    ensure!(fetch(&ada, &"3".repeat(32), &tarpit).await?.status == 303);
    ensure!(fetch(&ada, &"4".repeat(32), &tarpit).await?.status == 503);
    // Nor does an address that failed stand in the way of the link's own.
    let (gone, listener) = {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        (format!("http://{}/", listener.local_addr()?), listener)
    };
    drop(listener);
    let three = std::fs::read(package(&server, 3, "")?)?;
    ensure!(fetch(&ben, &id_of(&three), &gone).await?.status == 303);
    let path = format!("/install/{}", id_of(&three));
    eventually_async("it failed", Duration::from_secs(30), async || {
        ben.get(&path).await.ok()?.text().contains("Not installed").then_some(())
    })
    .await?;
    let (good, _) = web_server(Some(three))?;
    let page = ben.get(&format!("{path}?url={good}")).await?.text();
    ensure!(page.contains("Get this app?"), "{page}");
    Ok(())
}

/// A web server that begins its answer at once and gives the file when it is told to.
fn slow_server(file: Vec<u8>) -> Result<(String, std::sync::mpsc::Sender<()>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = format!("http://{}/app.spk", listener.local_addr()?);
    let (go, gate) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let Ok((mut stream, _)) = listener.accept() else { return };
        let _ = stream.read(&mut [0; 4096]);
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", file.len());
        let _ = gate.recv();
        let _ = stream.write_all(&file);
    });
    Ok((address, go))
}

/// Two people want one package. Whose copy is whole first has no room for it: it goes into the other's
/// budget, and where neither has room, each reads their own numbers alone.
#[tokio::test]
async fn one_persons_budget_does_not_fail_anothers_install() -> Result<()> {
    let Some(server) = Server::builder(Mode::Setuid)
        .env("ALLOW_DEV_ACCOUNTS", "true")
        .env("ALLOW_PRIVATE_DOWNLOADS", "true")
        .start()?
    else {
        return Ok(());
    };
    let (ada, ben) =
        (person(&server, "Ada", "member").await?, person(&server, "Ben", "member").await?);
    for (who, most) in [("ada", "installed=5000"), ("ben", "installed=20K")] {
        server.json(&["limit", "set", "--account", who, most])?;
    }
    let files: Vec<String> = (1..=3).map(|n| package(&server, n, "")).collect::<Result<_>>()?;
    let files: Vec<Vec<u8>> = files.iter().map(std::fs::read).collect::<Result<_, _>>()?;
    let (tarpit, _open) = web_server(None)?;
    for file in &files[..2] {
        let id = id_of(file);
        let (slow, go) = slow_server(file.clone())?;
        ensure!(fetch(&ada, &id, &slow).await?.status == 303);
        ensure!(fetch(&ben, &id, &tarpit).await?.status == 303);
        go.send(())?;
        installed(&ben, &id).await?;
        ensure!(ben.get("/apps").await?.text().contains("What you brought"));
        ensure!(!ada.get("/apps").await?.text().contains("What you brought"));
    }
    let id = id_of(&files[2]);
    ensure!(upload(&ada, files[2].clone()).await?.status == 200);
    let path = format!("/install/{id}");
    eventually_async("it is refused", Duration::from_secs(30), async || {
        ada.get(&path).await.ok()?.text().contains("PKG-BUDGET").then_some(())
    })
    .await?;
    let (own, other) = (ada.get(&path).await?.text(), ben.get(&path).await?.text());
    ensure!(own.contains("5.0 kB and 4,000,000 files") && own.contains("Forget it"), "{own}");
    ensure!(other.contains("16 kB of the 20 kB") && !other.contains("5.0 kB"), "{other}");
    // He did not ask for it, and may have the room.
    ensure!(other.contains("Where that leaves room") && !other.contains("Delete one"), "{other}");
    // Nor is the other's failure theirs to forget.
    ensure!(!other.contains("Forget it"), "{other}");
    let refused = ben.submit(&path, &path, "act=forget").await?;
    ensure!(refused.status == 403, "{refused:?}");
    // With more room they try again, with the file that is still here.
    server.json(&["limit", "set", "--account", "ben", "installed=1M"])?;
    ensure!(ben.submit(&path, &path, "act=retry").await?.status == 303);
    installed(&ben, &id).await
}

/// A small file that unpacks to much more than there is room for: what is kept back for grains and the
/// database stays free.
#[tokio::test]
async fn unpacking_leaves_what_is_kept_back() -> Result<()> {
    let Some(mut server) =
        Server::builder(Mode::Setuid).env("ALLOW_DEV_ACCOUNTS", "true").start()?
    else {
        return Ok(());
    };
    let dir = server.installation.directory("version-1")?;
    std::fs::write(dir.join("big"), vec![0; 200 << 20])?;
    let file = std::fs::read(package(&server, 1, "")?)?;
    ensure!(file.len() < 1 << 20, "{} bytes", file.len());
    server.kill();
    let home = server.home();
    let uid = server.installation.uid;
    let options = format!("size=320m,mode=700,uid={uid},gid={uid}");
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
        .arg(&home)
        .status()?;
    ensure!(mounted.success());
    let tried = async {
        server.run()?;
        let ada = person(&server, "Ada", "member").await?;
        let free = |home: &std::path::Path| {
            nix::sys::statvfs::statvfs(home)
                .map_or(u64::MAX, |s| s.blocks_available() * s.fragment_size())
        };
        let (watched, at) = (home.clone(), Arc::new(Mutex::new(u64::MAX)));
        let (least, end) = (at.clone(), Arc::new(std::sync::atomic::AtomicBool::new(false)));
        let ended = end.clone();
        let watcher = std::thread::spawn(move || {
            while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                let now = free(&watched);
                let mut least = at.lock().unwrap();
                *least = (*least).min(now);
                drop(least);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let sent = upload(&ada, file.clone()).await?;
        ensure!(sent.status == 200, "{sent:?}");
        let path = format!("/install/{}", id_of(&file));
        eventually_async("it is refused", Duration::from_secs(60), async || {
            let page = ada.get(&path).await.ok()?.text();
            (page.contains("PKG-DISK") && page.contains("kept back")).then_some(())
        })
        .await?;
        end.store(true, std::sync::atomic::Ordering::Relaxed);
        watcher.join().ok().context("the watcher")?;
        let least = *least.lock().unwrap();
        println!("at least {} MiB were free", least >> 20);
        ensure!(least > 128 << 20, "only {} MiB were free", least >> 20);
        eventually("the room is back", Duration::from_secs(20), || {
            (free(&home) > 300 << 20).then_some(())
        })
    }
    .await;
    server.kill();
    let unmounted = std::process::Command::new("umount").arg(&home).status()?;
    ensure!(unmounted.success());
    tried
}

fn said(done: &std::process::Output) -> String {
    String::from_utf8_lossy(&done.stderr).into_owned()
}

/// A member's budget ends their installing, not others'; what they delete makes room.
#[tokio::test]
async fn a_member_has_a_budget_and_can_delete_what_nobody_uses() -> Result<()> {
    // Each package is a file and a tree of one file: two blocks.
    let Some(server) = Server::builder(Mode::Setuid)
        .env("ALLOW_DEV_ACCOUNTS", "true")
        .env("GRAIN_LIMITS", "installed=20K")
        .start()?
    else {
        return Ok(());
    };
    let (ada, ben) =
        (person(&server, "Ada", "member").await?, person(&server, "Ben", "member").await?);
    let files: Vec<String> = (1..=5).map(|n| package(&server, n, "")).collect::<Result<_>>()?;
    let files: Vec<Vec<u8>> = files.iter().map(std::fs::read).collect::<Result<_, _>>()?;
    for file in &files[..2] {
        ensure!(upload(&ben, file.clone()).await?.status == 200);
        installed(&ben, &id_of(file)).await?;
    }
    let third = id_of(&files[2]);
    ensure!(upload(&ben, files[2].clone()).await?.status == 200);
    let path = format!("/install/{third}");
    eventually_async("the third is refused", Duration::from_secs(30), async || {
        let page = ben.get(&path).await.ok()?.text();
        (page.contains("PKG-BUDGET")
            && page.contains("that you may have")
            && page.contains("retry"))
        .then_some(())
    })
    .await?;
    ensure!(!server.home().join("apps").join(&third).exists(), "it took room all the same");
    // Others, and the operator, have their own.
    ensure!(upload(&ada, files[3].clone()).await?.status == 200);
    installed(&ada, &id_of(&files[3])).await?;
    let app = server.json(&["app", "list"])?[0]["appId"].as_str().context("an app")?.to_owned();
    let wrong = server.try_command(&["limit", "set", "--app", &app, "installed=1M"])?;
    ensure!(wrong.status.code() == Some(1) && said(&wrong).contains("account"), "{wrong:?}");

    // What Ben brought is his to delete, and nobody else's.
    let first = id_of(&files[0]);
    let list = ben.get("/apps").await?.text();
    ensure!(list.contains("What you brought") && list.contains("of the 20 kB"), "{list}");
    ensure!(list.contains(" in 2 files of 4,000,000"), "{list}");
    let here = format!("/apps/{app}");
    let act = format!("{here}/act");
    let page = ben.get(&here).await?.text();
    let button = |page: &str, id: &str| page.contains(&format!("name=\"package\" value=\"{id}\""));
    ensure!(button(&page, &first) && !button(&page, &id_of(&files[3])), "{page}");
    let refused = ada.submit("/install", &act, &format!("act=delete-now&package={first}")).await?;
    // As if it were not there.
    ensure!(refused.status == 404, "{refused:?}");
    let asked = ben.submit(&here, &act, &format!("act=delete&package={first}")).await?;
    ensure!(asked.status == 200 && asked.text().contains("Delete <bdi>Versioned"), "{asked:?}");
    // Not while others have it: they are counted for nobody but administrators.
    let second = id_of(&files[1]);
    let path_of_second = format!("/install/{second}");
    ensure!(ada.submit(&path_of_second, &path_of_second, "act=confirm").await?.status == 303);
    let page = ben.get(&here).await?.text();
    ensure!(page.contains("in the lists of others") && !button(&page, &second), "{page}");
    for act_of_it in ["delete", "delete-now"] {
        let form = format!("act={act_of_it}&package={second}");
        let kept = ben.submit(&here, &act, &form).await?;
        ensure!(kept.status == 409 && kept.text().contains("list of apps of other"), "{kept:?}");
    }
    let made = ada.submit("/new", "/new", &format!("make={app}+0")).await?;
    ensure!(made.status == 303, "{made:?}");
    let page = ben.get(&here).await?.text();
    ensure!(page.contains("grains of other people") && !page.contains("1 grain"), "{page}");
    let gone = ben.submit(&here, &act, &format!("act=delete-now&package={first}")).await?;
    ensure!(gone.status == 303, "{gone:?}");
    for name in ["apps/".to_owned() + &first, format!("packages/{first}.spk")] {
        ensure!(!server.home().join(&name).exists(), "{name} stayed");
    }
    ensure!(ben.submit(&path, &path, "act=retry").await?.status == 303);
    installed(&ben, &third).await?;
    // More by an administrator's exception.
    ensure!(upload(&ben, files[4].clone()).await?.status == 200);
    let path = format!("/install/{}", id_of(&files[4]));
    eventually_async("one more is refused", Duration::from_secs(30), async || {
        ben.get(&path).await.ok()?.text().contains("PKG-BUDGET").then_some(())
    })
    .await?;
    server.json(&["limit", "set", "--account", "Ben", "installed=1M"])?;
    ben.submit("/install", &path, "act=retry").await?;
    installed(&ben, &id_of(&files[4])).await
}

/// `shell app delete`: never what a grain uses, and all or nothing of the files.
#[tokio::test]
async fn an_app_is_deleted_when_no_grain_uses_it() -> Result<()> {
    let Some(server) = Server::start(Mode::Setuid)? else { return Ok(()) };
    let probe = sandstorm_tests::apps::package("probe")?;
    let app = server.install(&probe)?;
    let grain = server.create(&app.app_id)?;
    let (apps, packages) = (server.home().join("apps"), server.home().join("packages"));
    for (id, why) in [
        (app.package_id.as_str(), "used by 1 grain,"),
        (app.app_id.as_str(), "used by 1 grain,"),
        ("00000000000000000000000000000000", "app list"),
        ("nothing", "app list"),
    ] {
        let done = server.try_command(&["app", "delete", id])?;
        ensure!(done.status.code() == Some(1) && said(&done).contains(why), "{id}: {done:?}");
    }
    server.json(&["grain", "delete", &grain])?;
    let done = server.try_command(&["app", "delete", &app.app_id])?;
    ensure!(said(&done).contains("in the trash"), "{done:?}");
    ensure!(apps.join(&app.package_id).join("sandstorm-manifest").exists());
    server.json(&["grain", "delete", &grain, "--now"])?;
    server.json(&["limit", "set", "--app", &app.app_id, "memory=512M"])?;
    let gone = server.json(&["app", "delete", &app.app_id])?;
    ensure!(gone["packageIds"][0] == app.package_id.as_str(), "{gone}");
    ensure!(server.json(&["app", "list"])? == serde_json::json!([]));
    for folder in [&apps, &packages] {
        ensure!(std::fs::read_dir(folder)?.count() == 0, "{folder:?} is not empty");
    }
    // Its limits wait for its return, since who deletes it may not be who set them; until then they
    // can be taken back, and no new ones made.
    let new = server.try_command(&["limit", "set", "--app", &app.app_id, "memory=1G"])?;
    ensure!(said(&new).contains("no app"), "{new:?}");
    ensure!(server.json(&["limit", "clear", "--app", &app.app_id])?["cleared"] == 1);
    let none = server.try_command(&["limit", "clear", "--app", &app.app_id])?;
    ensure!(said(&none).contains("no app"), "{none:?}");
    // It comes back as if it had never been here.
    server.install(&probe)?;

    // Files that nobody knows are found, and go when they are named.
    let lost = "1".repeat(32);
    std::fs::create_dir(apps.join(&lost))?;
    let check = || -> Result<String> {
        let done = server.try_command(&["check", "--json"])?;
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    };
    ensure!(check()?.contains(&format!("app delete {lost}")), "{}", check()?);
    std::os::unix::fs::chown(apps.join(&lost), Some(server.installation.uid), None)?;
    server.json(&["app", "delete", &lost])?;
    ensure!(!apps.join(&lost).exists() && !check()?.contains(&lost));
    Ok(())
}

/// A kill at any moment of a deletion leaves the package whole, or gone once the server runs again.
#[tokio::test]
async fn a_deletion_that_is_cut_off_is_finished() -> Result<()> {
    let Some(mut server) = Server::start(Mode::Setuid)? else { return Ok(()) };
    let file = package(&server, 1, "")?;
    let (mut whole, mut gone) = (0, 0);
    for round in 0..12u64 {
        let id = server.json(&["app", "install", &file])?["packageId"]
            .as_str()
            .context("an id")?
            .to_owned();
        let mut deleting = server
            .command(&["app", "delete", &id])
            .stderr(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .spawn()?;
        std::thread::sleep(Duration::from_millis(round * 4));
        server.kill();
        deleting.wait()?;
        server.run()?;
        let tree = server.home().join("apps").join(&id);
        let spk = server.home().join("packages").join(format!("{id}.spk"));
        if server.json(&["app", "list"])? == serde_json::json!([]) {
            gone += 1;
            eventually("its files are gone", Duration::from_secs(10), || {
                (!tree.exists() && !spk.exists()).then_some(())
            })?;
        } else {
            whole += 1;
            ensure!(tree.join("sandstorm-manifest").exists() && spk.exists(), "round {round}");
        }
    }
    println!("deletions cut off: {whole} left whole, {gone} gone");
    Ok(())
}

/// A kill at any moment of an installation leaves the package whole, or nothing of it.
#[tokio::test]
async fn an_installation_that_is_cut_off_is_whole_or_gone() -> Result<()> {
    let Some(mut server) = Server::start(Mode::Setuid)? else { return Ok(()) };
    let file = package(&server, 1, "")?;
    let id = id_of(&std::fs::read(&file)?);
    let tree = server.home().join("apps").join(&id);
    let spk = server.home().join("packages").join(format!("{id}.spk"));
    let (mut whole, mut gone) = (0, 0);
    for round in 0..16u64 {
        let mut installing = server
            .command(&["app", "install", &file])
            .stderr(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .spawn()?;
        std::thread::sleep(Duration::from_millis(20 + round * 8));
        server.kill();
        installing.wait()?;
        server.run()?;
        // The home's folders tell it: what is in everybody's list is one step later.
        let link = server.json(&["admin-link"])?;
        let ada = server.client()?.sign_in(link["url"].as_str().context("a link")?).await?;
        let page = ada.get("/admin/packages").await?.text();
        if page.contains("Versioned") {
            whole += 1;
            ensure!(tree.join("sandstorm-manifest").exists() && spk.exists(), "round {round}");
            server.json(&["app", "delete", &id])?;
        } else {
            gone += 1;
            eventually("nothing is left of it", Duration::from_secs(10), || {
                (!tree.exists() && !spk.exists()).then_some(())
            })?;
        }
    }
    println!("installations cut off: {whole} whole, {gone} gone");
    Ok(())
}

/// A change goes on when its browser leaves; a file of which no more comes is none.
#[tokio::test]
async fn an_upload_ends_with_its_sender() -> Result<()> {
    use tokio::io::AsyncWriteExt;
    let started = Server::builder(Mode::Setuid).env("ALLOW_DEV_ACCOUNTS", "true").start()?;
    let Some(server) = started else { return Ok(()) };
    let ada = person(&server, "Ada", "member").await?;
    let page = ada.get("/install").await?.text();
    let token = page.split("name=\"token\" value=\"").nth(1).context("a token")?;
    let token = token.split('"').next().unwrap_or_default();
    let (host, origin) = (&ada.host, &ada.origin);
    let cookie = ada.cookie.as_deref().unwrap_or_default();
    let common = format!(
        "Host: {host}\r\nOrigin: {origin}\r\nCookie: {cookie}\r\nX-Sandstorm-Token: {token}\r\n"
    );
    let field = format!(
        "--b\r\nContent-Disposition: form-data; name=\"token\"\r\n\r\n{token}\r\n--b\r\n\
         Content-Disposition: form-data; name=\"package\"; filename=\"x\"\r\n\r\nx"
    );
    let multipart = "Content-Type: multipart/form-data; boundary=b\r\n";
    let heads = [
        format!("POST /upload HTTP/1.1\r\n{common}Content-Length: 1000000\r\n\r\nx"),
        format!("POST /upload HTTP/1.1\r\n{common}Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"),
        format!(
            "POST /install HTTP/1.1\r\n{common}{multipart}Content-Length: 1000000\r\n\r\n{field}"
        ),
    ];
    let tmp = server.home().join("tmp");
    let on_their_way = || std::fs::read_dir(&tmp).map(Iterator::count).ok();
    // More than one person may have on their way at once.
    for round in 0..2 {
        let mut begun = Vec::new();
        for head in &heads {
            let mut stream = ada.connect().await?;
            stream.write_all(head.as_bytes()).await?;
            begun.push(stream);
        }
        eventually("all have begun", Duration::from_secs(10), || {
            (on_their_way()? == heads.len()).then_some(())
        })?;
        drop(begun);
        eventually("nothing is left", Duration::from_secs(10), || {
            (on_their_way()? == 0).then_some(())
        })
        .with_context(|| format!("round {round}"))?;
    }
    Ok(())
}
