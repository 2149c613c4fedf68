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
    ensure!(file.status == 422 && file.text().contains("are on their way"), "{file:?}");
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
    let here = format!("/apps/{app}");
    let act = format!("{here}/act");
    let page = ben.get(&here).await?.text();
    let button = |id: &str| page.contains(&format!("name=\"package\" value=\"{id}\""));
    ensure!(button(&first) && !button(&id_of(&files[3])), "{page}");
    let refused = ada.submit("/install", &act, &format!("act=delete-now&package={first}")).await?;
    ensure!(refused.status == 403, "{refused:?}");
    let asked = ben.submit(&here, &act, &format!("act=delete&package={first}")).await?;
    ensure!(asked.status == 200 && asked.text().contains("Delete <bdi>Versioned"), "{asked:?}");
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
    let gone = server.json(&["app", "delete", &app.app_id])?;
    ensure!(gone["packageIds"][0] == app.package_id.as_str(), "{gone}");
    ensure!(server.json(&["app", "list"])? == serde_json::json!([]));
    for folder in [&apps, &packages] {
        ensure!(std::fs::read_dir(folder)?.count() == 0, "{folder:?} is not empty");
    }
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
