//! What the supervisor serves on the grain's socket besides the app.

use super::*;

pub fn the_log_can_be_watched(bench: &Bench) -> Result<()> {
    let running = bench.start(&["--new"], GRAIN)?;
    on_one_thread(async {
        let grain = running.connect().await?;
        let session = grain.session("Ada").await?;
        let (stream, mut receiver) = sandstorm_schema::rpc::body::pipe();
        let mut request = grain.supervisor.watch_log_request();
        request.get().set_backlog_amount(10_000);
        request.get().set_stream(stream);
        let response = within(request.send().promise).await?;
        let handle = response.get()?.get_handle()?;
        let mut seen = String::new();
        let mut read_until = async |what: &str| -> Result<()> {
            while !seen.contains(what) {
                let chunk = tokio::time::timeout(Duration::from_secs(5), receiver.next())
                    .await
                    .with_context(|| format!("no {what:?} in {seen:?}"))?
                    .context("the stream ended")??;
                seen.push_str(&String::from_utf8_lossy(&chunk));
            }
            Ok(())
        };
        read_until("native app: ready").await?;
        let mut big = String::new();
        for _ in 0..2 {
            big = session.get("/log?mib=1").await?;
        }
        ensure!(big == "logged");
        read_until("000000000000000000000016000").await?;
        drop(handle);
        Ok(())
    })
}

pub fn published_files_are_served_without_the_app(bench: &Bench) -> Result<()> {
    let running = bench.start(&["--new"], GRAIN)?;
    let www = running.grain_dir.join("sandbox/www");
    fs::create_dir(&www)?;
    fs::write(www.join("index.html"), "published")?;
    symlink("/etc/passwd", www.join("leak"))?;
    for path in [&www, &www.join("index.html")] {
        bench.give(path)?;
    }
    on_one_thread(async {
        use sandstorm_schema::supervisor_capnp::supervisor::WwwFileStatus;
        let grain = running.connect().await?;
        let ask = async |path: &str| -> Result<(WwwFileStatus, Vec<u8>)> {
            let (stream, mut receiver) = sandstorm_schema::rpc::body::pipe();
            let mut request = grain.supervisor.get_www_file_hack_request();
            request.get().set_path(path);
            request.get().set_stream(stream);
            let response = within(request.send().promise).await?;
            let status = response.get()?.get_status()?;
            let mut bytes = Vec::new();
            while let Some(Ok(chunk)) = receiver.next().await {
                bytes.extend_from_slice(&chunk);
            }
            Ok((status, bytes))
        };
        ensure!(ask("index.html").await? == (WwwFileStatus::File, b"published".to_vec()));
        ensure!(ask("/").await?.0 == WwwFileStatus::Directory);
        for path in ["leak", "../text", "nothing"] {
            ensure!(ask(path).await? == (WwwFileStatus::NotFound, Vec::new()), "{path}");
        }
        Ok(())
    })?;
    // Init, and what waits to become the app: both still run our own program.
    for process in running.inside() {
        let program = fs::read_link(format!("/proc/{}/exe", process.pid))?;
        ensure!(
            program.ends_with("sandstorm-supervisor"),
            "the app was started for a file: {}",
            program.display()
        );
    }
    Ok(())
}

pub fn a_wake_lock_holds_and_the_owner_can_end_it(bench: &Bench) -> Result<()> {
    let mut running = bench.start(&["--new", "--idle-seconds", "2"], GRAIN)?;
    on_one_thread(async {
        let grain = running.connect().await?;
        let core = Rc::new(FakeCore::default());
        grain.give_core(&core).await?;
        let session = grain.session("Ada").await?;
        ensure!(session.get("/awake").await? == "awake");
        ensure!(*core.shown.borrow() == ["working"]);
        tokio::time::sleep(Duration::from_secs(5)).await;
        ensure!(session.get("/text").await?.is_empty(), "it fell asleep in spite of its lock");
        // The app lets go of it by itself.
        session.get("/asleep").await?;
        eventually_async("the notification's end", Duration::from_secs(2), || async {
            core.shown.borrow().is_empty().then_some(())
        })
        .await?;
        // And once more; now the owner ends it.
        session.get("/awake").await?;
        let notification = core.notification.borrow().clone().context("it was shown")?;
        within(notification.cancel_request().send().promise).await?;
        eventually_async("the notification's end", Duration::from_secs(2), || async {
            core.shown.borrow().is_empty().then_some(())
        })
        .await
    })?;
    ensure!(running.exit_within(Duration::from_secs(6))?.code() == Some(0));
    ensure!(running.log().contains("was cancelled"), "{}", running.log());
    Ok(())
}

pub fn objects_are_saved_across_the_border_and_only_so(bench: &Bench) -> Result<()> {
    use capnp::capability::FromClientHook;
    use sandstorm_schema::grain_capnp::{app_persistent, main_view};
    use sandstorm_schema::persistent_capnp::persistent;
    use sandstorm_schema::supervisor_capnp::api_token_owner;
    use sandstorm_schema::util_capnp::handle;
    type Save = persistent::Client<capnp::data::Owned, api_token_owner::Owned>;

    let running = bench.start(&["--new"], GRAIN)?;
    on_one_thread(async {
        let grain = running.connect().await?;
        let core = Rc::new(FakeCore::default());
        grain.give_core(&core).await?;
        // From inside, by the API.
        let session = grain.session("Ada").await?;
        ensure!(session.get("/save?one").await.context("from inside")? == "token of one");
        ensure!(*core.saved.borrow() == ["one"]);

        // From outside: the object answers, and can be saved.
        let object = grain.restore("two", b"").await.context("restore")?;
        let ping: handle::Client = object.clone().cast_to();
        within(ping.ping_request().send().promise).await.context("ping")?;
        let save = async |object: &capnp::capability::Client| -> Result<Vec<u8>> {
            let mut request = object.clone().cast_to::<Save>().save_request();
            request.get().init_seal_for().set_webkey(());
            let answer = within(request.send().promise).await?;
            Ok(answer.get()?.get_sturdy_ref()?.to_vec())
        };
        ensure!(save(&object).await? == b"token of two");
        let again = grain.restore("three", b"some token").await?;
        ensure!(save(&again).await? == b"child of some token");

        // The system's own interfaces end at the border.
        let id: app_persistent::Client<capnp::text::Owned> = object.cast_to();
        let refused = within(id.save_request().send().promise).await.map(|_| ()).unwrap_err();
        ensure!(refused.to_string().contains("only the system"), "{refused}");
        let view: main_view::Client<capnp::text::Owned> = grain.view().await?.cast_to();
        let mut request = view.restore_request();
        request.get().set_object_id("four")?;
        let refused = within(request.send().promise).await.map(|_| ()).unwrap_err();
        ensure!(refused.to_string().contains("only the system"), "{refused}");
        Ok(())
    })
}

pub fn callers_hear_why_the_app_is_gone(bench: &Bench) -> Result<()> {
    let mut running = bench.start(&["--new"], GRAIN)?;
    on_one_thread(async {
        let grain = running.connect().await?;
        let session = grain.session("Ada").await?;
        let waiting = session.get("/hang");
        let dying = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            session.get("/exit?status=9").await
        };
        let (waiting, dying) = tokio::join!(waiting, dying);
        for answer in [waiting, dying] {
            let error = answer.err().context("the app is gone, yet it answered")?;
            ensure!(error.to_string().contains("exit status 9"), "{error}");
        }
        Ok(())
    })?;
    running.exit_within(Duration::from_secs(2))?;
    Ok(())
}
