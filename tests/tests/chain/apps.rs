//! Four real apps and two of ours, in both modes: each does what it is for.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::{SinkExt, StreamExt};
use sandstorm_tests::{Answer, Client, Mode, Server, skip};
use tokio_tungstenite::tungstenite::Message;

use crate::with_app;

/// Runs a story in both modes, one after the other.
async fn in_both_modes<F>(
    name: &str,
    story: impl Fn(Arc<Server>, String, Client) -> F,
) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    for mode in [Mode::Setuid, Mode::UserNamespace] {
        let Some(server) = Server::start(mode)? else { continue };
        // Kept here, so that it outlives a story that does not ask for it.
        let server = Arc::new(server);
        let app = with_app(&server, name)?;
        let grain = server.create(&app.app_id)?;
        let session = server.session(&grain)?;
        story(server.clone(), grain, session)
            .await
            .with_context(|| format!("{name} in {mode:?}"))?;
    }
    Ok(())
}

fn expect(answer: &Answer, status: u16) -> Result<()> {
    anyhow::ensure!(
        answer.status == status,
        "{} instead of {status}: {}",
        answer.status,
        answer.text()
    );
    Ok(())
}

#[tokio::test]
async fn pages_shows_a_page_and_takes_a_form() -> Result<()> {
    in_both_modes("pages", |_server, _grain, session| async move {
        let page = session.get("/").await?;
        expect(&page, 200)?;
        assert!(page.text().contains("<h1>Pages</h1>"));
        let kind = "application/x-www-form-urlencoded";
        let echo = session.post("/cgi-bin/echo", kind, "word=two%20words").await?;
        assert!(echo.text().contains("POST word=two%20words"), "{}", echo.text());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn tiddlywiki_knows_the_person_and_keeps_notes() -> Result<()> {
    in_both_modes("tiddlywiki", |server, grain, session| async move {
        let status = session.get("/status").await?;
        expect(&status, 200)?;
        let status: serde_json::Value = serde_json::from_slice(&status.body)?;
        assert_eq!(status["anonymous"], false, "{status}");
        assert_eq!(status["tiddlywiki_version"], "5.4.1");
        let headers = [
            ("x-requested-with", "TiddlyWiki"),
            ("content-type", "application/json"),
            ("origin", session.origin.as_str()),
        ];
        let note = r#"{"title":"Shopping","text":"bread and dates"}"#;
        let path = "/recipes/default/tiddlers/Shopping";
        expect(&session.request("PUT", path, &headers, note).await?, 204)?;
        // It is on disk a moment later; then the app may go.
        let file = server.installation.grain_dir(&grain).join("sandbox/wiki/tiddlers/Shopping.tid");
        sandstorm_tests::eventually("the note is on disk", Duration::from_secs(10), || {
            std::fs::read_to_string(&file).ok()?.contains("bread and dates").then_some(())
        })?;
        server.json(&["grain", "stop", &grain])?;
        server.wait_gone(&grain, Duration::from_secs(10))?;
        let again = session.get(path).await?;
        expect(&again, 200)?;
        assert!(again.text().contains("bread and dates"), "{}", again.text());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn dufs_takes_files_gives_ranges_and_speaks_webdav() -> Result<()> {
    in_both_modes("dufs", |_server, _grain, session| async move {
        let bytes: Vec<u8> = (0..5000u32).map(|i| (i % 251) as u8).collect();
        expect(&session.put("/v.bin", bytes.clone()).await?, 201)?;
        let whole = session.get("/v.bin").await?;
        expect(&whole, 200)?;
        assert_eq!(whole.body, bytes);
        assert_eq!(whole.header("accept-ranges"), "bytes");
        let part = session.request("GET", "/v.bin", &[("range", "bytes=1000-1999")], "").await?;
        expect(&part, 206)?;
        assert_eq!(part.header("content-range"), "bytes 1000-1999/5000");
        assert_eq!(part.body, bytes[1000..2000]);
        let head = session.request("HEAD", "/v.bin", &[], "").await?;
        expect(&head, 200)?;
        assert_eq!(head.header("content-length"), "5000");
        let origin = ("origin", session.origin.as_str());
        expect(&session.request("MKCOL", "/dir", &[origin], "").await?, 201)?;
        let destination = format!("{}/dir/b%20c.bin", session.origin);
        let headers = [("destination", destination.as_str()), origin];
        let moved = session.request("MOVE", "/v.bin", &headers, "").await?;
        assert!([201, 204].contains(&moved.status), "{} {}", moved.status, moved.text());
        let list = session.request("PROPFIND", "/dir/", &[("depth", "1"), origin], "").await?;
        expect(&list, 207)?;
        assert!(list.text().contains("b%20c.bin"), "{}", list.text());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn radicale_makes_a_calendar_by_its_own_verb() -> Result<()> {
    in_both_modes("radicale", |_server, _grain, session| async move {
        let origin = ("origin", session.origin.as_str());
        let body = r#"<?xml version="1.0"?><propfind xmlns="DAV:"><prop><current-user-principal/></prop></propfind>"#;
        let found = session.request("PROPFIND", "/", &[("depth", "0"), origin], body).await?;
        expect(&found, 207)?;
        assert!(found.text().contains("<href>/grain/</href>"), "{}", found.text());
        expect(&session.request("MKCALENDAR", "/grain/cal/", &[origin], "").await?, 201)?;
        let event = "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//test//\r\nBEGIN:VEVENT\r\n\
                     UID:one\r\nDTSTAMP:20260101T000000Z\r\nDTSTART:20260101T100000Z\r\n\
                     SUMMARY:Harvest\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n";
        let headers = [("content-type", "text/calendar"), origin];
        expect(&session.request("PUT", "/grain/cal/one.ics", &headers, event).await?, 201)?;
        let query = r#"<?xml version="1.0"?><C:calendar-query xmlns:D="DAV:" xmlns:C="urn:ietf:params:xml:ns:caldav"><D:prop><C:calendar-data/></D:prop><C:filter><C:comp-filter name="VCALENDAR"/></C:filter></C:calendar-query>"#;
        let headers = [("depth", "1"), ("content-type", "application/xml"), origin];
        let report = session.request("REPORT", "/grain/cal/", &headers, query).await?;
        expect(&report, 207)?;
        assert!(report.text().contains("SUMMARY:Harvest"), "{}", report.text());
        let options = session.request("OPTIONS", "/", &[origin], "").await?;
        assert!(options.header("dav").contains("calendar-access"), "{:?}", options.headers);
        assert!(options.header("allow").contains("MKCALENDAR"), "{:?}", options.headers);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn node_red_speaks_json_and_websocket() -> Result<()> {
    in_both_modes("node-red", |_server, _grain, session| async move {
        expect(&session.get("/").await?, 200)?;
        // It serves its page before it has read its flows, and says 400 until then.
        let begun = std::time::Instant::now();
        let flows = loop {
            let json = [("accept", "application/json")];
            let flows = session.request("GET", "/flows", &json, "").await?;
            let early = String::from_utf8_lossy(&flows.body).contains("properties of null");
            if !early || begun.elapsed() > Duration::from_secs(20) {
                break flows;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        expect(&flows, 200)?;
        serde_json::from_slice::<serde_json::Value>(&flows.body)?;
        let (mut socket, _) = session.websocket("/comms", &[]).await?;
        socket.send(Message::text(r#"{"subscribe":"notification/#"}"#)).await?;
        let first = tokio::time::timeout(Duration::from_secs(20), socket.next())
            .await
            .context("nothing came over the WebSocket")?
            .context("the WebSocket ended")??;
        assert!(first.is_text(), "{first:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_native_app_answers_without_a_bridge() -> Result<()> {
    in_both_modes("native", |server, grain, session| async move {
        expect(&session.get("/").await?, 200)?;
        let names: Vec<_> = server.processes(&grain).into_iter().map(|p| p.name).collect();
        assert!(!names.iter().any(|name| name.contains("bridge")), "{names:?}");
        Ok(())
    })
    .await
}

/// The skip macro is for single tests; here one mode of two may be missing, which Server::start has
/// said already. Without root at least this is told.
#[test]
fn both_modes_were_meant() {
    if !sandstorm_tests::is_root() {
        skip!("only user namespaces are tried without root");
    }
}
