//! What fails half-way, and what ends meanwhile.

use std::time::Duration;

use super::*;
use crate::state::Event;
use crate::store::Tone;

#[tokio::test]
async fn a_followed_log_ends_with_the_sign_in() {
    let server = Server::start(true).await;
    let ada = server.person("Ada", "member").await;
    let grain = server.grain("ada", "x").await;
    let path = format!("/grains/{grain}/log/text?follow");
    let mut body = server.ask(&ada, Request::get(&path)).await.into_body();
    let more = tokio::time::timeout(Duration::from_millis(200), body.frame()).await;
    assert!(more.is_err(), "it ended while somebody was signed in: {more:?}");
    assert_eq!(ada.post("/sign-out", "").await.status, StatusCode::SEE_OTHER);
    let end = tokio::time::timeout(Duration::from_secs(5), body.frame()).await;
    assert!(end.expect("an end").is_none());
}

/// Nobody told: an account that is suspended, an event that was lost.
#[tokio::test]
async fn a_sign_in_is_looked_at_again_when_news_were_missed() {
    let server = Server::start(true).await;
    server.person("Ada", "member").await;
    let store = &server.app.store;
    let ada = store.account_by_handle("ada").await.unwrap().unwrap().id;
    let session = store.logins_of(ada).await.unwrap()[0].id;
    let mut end = Box::pin(crate::identity::ended(server.app.clone(), session));
    assert!(tokio::time::timeout(Duration::from_millis(200), &mut end).await.is_err());
    assert!(store.end_login(ada, session).await.unwrap());
    for _ in 0..2000 {
        server.app.events.send(Event::AccountChanged(ada));
    }
    tokio::time::timeout(Duration::from_secs(5), &mut end).await.expect("it looks again");
    // And where it had ended before anybody listened.
    let end = crate::identity::ended(server.app.clone(), session);
    tokio::time::timeout(Duration::from_secs(5), end).await.expect("it looks at once");
}

#[tokio::test]
async fn a_quiet_act_leaves_other_news_to_be_read() {
    let server = Server::start(true).await;
    let ada = server.person("Ada", "member").await;
    let grain = server.grain("ada", "Plan").await;
    let owner = server.app.store.account_by_handle("ada").await.unwrap().unwrap().id;
    server.app.store.notify(owner, Tone::Warning, "The disk is full.", None).await.unwrap();
    let act = format!("/grains/{grain}/act");
    for form in ["act=star&quiet=1", "act=rename&title=Better+plan&quiet=1"] {
        assert_eq!(ada.post(&act, form).await.status, StatusCode::SEE_OTHER, "{form}");
    }
    let home = ada.get("/").await.body;
    assert!(home.contains("The disk is full."));
    assert!(!home.contains("Renamed to Better plan."));
    assert!(ada.get("/notices").await.body.contains("Renamed to Better plan."));
}

#[tokio::test]
async fn a_form_names_each_grain_once_and_not_too_many() {
    let server = Server::start(true).await;
    let ada = server.person("Ada", "member").await;
    let owner = server.app.store.account_by_handle("ada").await.unwrap().unwrap().id;
    let (one, other) = (server.grain("ada", "A").await, server.grain("ada", "B").await);
    let mut events = server.app.events.subscribe();
    let form = format!("act=star{}&grain={other}", format!("&grain={one}").repeat(900));
    assert_eq!(ada.post("/grains/act", &form).await.status, StatusCode::SEE_OTHER);
    let Ok(Event::GrainsChanged(told)) = events.try_recv() else { panic!("no word of the grains") };
    assert!(told.len() == 2 && told.contains(&one) && told.contains(&other), "{told:?}");
    assert_eq!(events.try_recv(), Ok(Event::AccountChanged(owner)));
    assert!(events.try_recv().is_err());
    let many: String = (0..1001).map(|n| format!("&grain={n}")).collect();
    let refused = ada.post("/grains/act", &format!("act=star{many}")).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert!(refused.body.contains("1,000 grains"), "{}", refused.body);
}

#[tokio::test]
async fn an_icon_is_looked_for_in_the_manifest_once() {
    let server = Server::start(true).await;
    let ada = server.person("Ada", "member").await;
    let mut message = capnp::message::Builder::new_default();
    let mut icons = message
        .init_root::<sandstorm_schema::package_capnp::manifest::Builder<'_>>()
        .init_metadata()
        .init_icons();
    icons.reborrow().init_grain().init_png().set_dpi1x(b"\x89PNG\r\n\x1a\nsmall");
    let package = server.package_with(1, &capnp::serialize::write_message_to_words(&message)).await;
    let path = |size: &str| format!("/icon/{}/{size}", package.package_id);
    let (grain, app) = (ada.get(&path("grain")).await, ada.get(&path("app")).await);
    assert!(grain.body.ends_with("small") && grain.header("content-type") == "image/png");
    assert!(app.body.contains("<circle") && app.header("content-type") == "image/svg+xml");
    // From then on nobody reads the manifest for it.
    server.app.store.lose_manifests().await;
    for (size, first) in [("grain", &grain), ("app", &app)] {
        let again = ada.get(&path(size)).await;
        assert_eq!((again.status, &again.body), (StatusCode::OK, &first.body));
        assert_eq!(again.header("content-type"), first.header("content-type"));
    }
    assert_eq!(ada.get(&format!("/icon/{:032x}/grain", 9)).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn pages_are_read_while_the_database_cannot_write() {
    let server = Server::start(true).await;
    let ada = server.person("Ada", "admin").await;
    let owner = server.app.store.account_by_handle("ada").await.unwrap().unwrap().id;
    server.app.store.notify(owner, Tone::Good, "Moved.", None).await.unwrap();
    let grain = server.grain("ada", "Plan").await;
    let page = format!("/grain/{grain}");
    assert_eq!(ada.get(&page).await.status, StatusCode::OK);
    server.app.store.break_writing().await;
    for path in ["/", "/admin", "/notices", "/you", &page] {
        assert_eq!(ada.get(path).await.status, StatusCode::OK, "{path}");
    }
    assert!(ada.get(&page).await.body.contains("<iframe"));
    server.app.store.mend_writing().await;
}

/// The script shows what it gets for a part, so the sign-in page is no answer to it; and who only
/// looks gets what who reads would get.
#[tokio::test]
async fn who_is_signed_out_is_told_in_the_way_they_asked() {
    let server = Server::start(true).await;
    let nobody = server.nobody();
    let path = format!("/grains/{}/status", "a".repeat(22));
    let status = async |head: http::request::Builder| server.ask(&nobody, head).await.status();
    assert_eq!(status(Request::get(&path)).await, StatusCode::SEE_OTHER);
    assert_eq!(status(Request::head(&path)).await, StatusCode::SEE_OTHER);
    let part = Request::get(&path).header("x-sandstorm-part", "1");
    assert_eq!(status(part).await, StatusCode::FORBIDDEN);
}

/// A script and a form are told the same, with a status that says whose fault it is.
#[tokio::test]
async fn what_is_not_taken_has_the_status_of_its_reason() {
    let server = Server::start(true).await;
    let ada = server.person("Ada", "member").await;
    let token = ada.token().await;
    let upload = async |body: &'static str| {
        let request = same_origin(Request::post("/upload"))
            .header(header::COOKIE, &ada.cookie)
            .header("x-sandstorm-token", &token);
        server.send(request.body(Body::from(body)).unwrap()).await
    };
    let empty = upload("").await;
    assert_eq!(empty.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", empty.body);
    // Four files of one account at once are the most.
    let pending = || Box::pin(futures::stream::pending::<Result<axum::body::Bytes, String>>());
    let by = server.app.store.account_by_handle("ada").await.unwrap().unwrap().id;
    let mut senders = Vec::new();
    for _ in 0..4 {
        let installer = server.app.installer.clone();
        let stream = pending();
        senders.push(tokio::spawn(async move { installer.receive(stream, None, by).await }));
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let busy = upload("x").await;
    assert_eq!(busy.status, StatusCode::SERVICE_UNAVAILABLE, "{}", busy.body);
    assert!(busy.body.contains("PKG-BUSY"), "{}", busy.body);
    let id = "a".repeat(32);
    let get = ada.post(&format!("/install/{id}"), "act=get&url=http://127.0.0.1:1/x").await;
    assert_eq!(get.status, StatusCode::SERVICE_UNAVAILABLE, "{}", get.body);
    senders.iter().for_each(tokio::task::JoinHandle::abort);
}

/// In real time: the database does not bear a paused clock.
#[tokio::test]
async fn a_form_that_does_not_come_is_answered_and_its_place_given_back() {
    let stalled = |path: &str, kind: &str, first: String| {
        use futures::StreamExt;
        let first = futures::stream::iter([Ok::<_, String>(axum::body::Bytes::from(first))]);
        let body = Body::from_stream(first.chain(futures::stream::pending()));
        same_origin(Request::post(path)).header(header::CONTENT_TYPE, kind).body(body).unwrap()
    };
    let form = "application/x-www-form-urlencoded";
    let server = Server::start(true).await;
    let ada = server.person("Ada", "member").await;
    let signed_in = |mut request: Request<Body>| {
        request.headers_mut().insert(header::COOKIE, ada.cookie.parse().unwrap());
        server.send(request)
    };
    // Up to its file an upload is a form like any other.
    let begun = format!(
        "--x\r\nContent-Disposition: form-data; name=\"token\"\r\n\r\n{}",
        ada.token().await
    );
    let upload = stalled("/install", "multipart/form-data; boundary=x", begun);
    // As many as one person may have at once.
    let acts = (0..15).map(|_| signed_in(stalled("/you/look", form, "token".into())));
    let (open, upload, acts) = tokio::join!(
        server.send(stalled("/sign-in/dev", form, "name=Ad".into())),
        signed_in(upload),
        futures::future::join_all(acts),
    );
    assert_eq!(open.status, StatusCode::REQUEST_TIMEOUT);
    assert_eq!(open.header("connection"), "close");
    assert!(open.body.contains("did not come in time") && open.body.contains("S-408"));
    for own in acts.iter().chain([&upload]) {
        assert_eq!(own.status, StatusCode::REQUEST_TIMEOUT, "{}", own.body);
    }
    // All places are given back.
    assert_ne!(ada.post("/you/look", "").await.status, StatusCode::SERVICE_UNAVAILABLE);
    // Where there is nothing to sign in to, nothing is read.
    let server = Server::start(false).await;
    let answer = server.send(stalled("/sign-in/dev", form, "name=Ad".into()));
    let answer = tokio::time::timeout(Duration::from_secs(5), answer).await.expect("an answer");
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_undo_that_fails_can_be_pressed_again() {
    let server = Server::start(true).await;
    let ada = server.person("Ada", "member").await;
    let store = &server.app.store;
    let owner = store.account_by_handle("ada").await.unwrap().unwrap().id;
    let undo = Some("rename nosuchgrain Plan");
    let notice = store.notify(owner, Tone::Good, "Renamed.", undo).await.unwrap();
    for _ in 0..2 {
        let answer = ada.post("/notices/undo", &format!("notice={notice}")).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
    }
    assert_eq!(store.take_undo(owner, notice).await.unwrap().as_deref(), undo);
}

/// Whoever asks for a grain's end may leave before its processes have gone.
#[tokio::test]
async fn a_grain_is_destroyed_though_nobody_waits() {
    let server = Server::start(true).await;
    server.person("Ada", "member").await;
    let grain = server.grain("ada", "x").await;
    let home = &server.app.config.home;
    let dir = home.join("grains").join(grain.as_str());
    std::fs::create_dir_all(&dir).unwrap();
    let lock = std::fs::File::create(dir.join("lock")).unwrap();
    let lock = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive).unwrap();
    let destroyed = server.app.grains.destroy(&grain, None);
    assert!(tokio::time::timeout(Duration::from_millis(300), destroyed).await.is_err());
    drop(lock);
    let tmp = home.join("tmp");
    let is_gone = async || {
        let row = server.app.store.grain(grain.as_str()).await.unwrap();
        row.is_none() && !dir.exists() && std::fs::read_dir(&tmp).unwrap().next().is_none()
    };
    for _ in 0..100 {
        if is_gone().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("a part of it is left");
}
