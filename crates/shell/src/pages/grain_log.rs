//! A grain's log, for its owner: the last lines, then what comes.
//!
//! Trust: the app writes these bytes. They are served as plain text that no browser takes for
//! anything else, without terminal sequences and other control characters.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderValue, header};
use maud::html;

use super::grain::mine;
use super::layout::{self, Nav, Page};
use super::parts::icon;
use super::viewer::Person;
use super::{PageError, PageResult};
use crate::error::Error;
use crate::identity::{self, Login};
use crate::ids::GrainId;
use crate::state::App;

/// How much of the past is shown (bytes).
const BACKLOG: u64 = 64 * 1024;
/// How much of it is downloaded (bytes): as much as is kept, of a grain with the largest log.
const DOWNLOAD: u64 = 16 << 20;

/// `GET /grains/ID/log`.
pub async fn page(State(app): State<App>, Path(id): Path<String>, person: Person) -> PageResult {
    let (grain_id, grain) = mine(&app, &person.login, &id).await?;
    let text = so_far(&app, &grain_id, BACKLOG).await.unwrap_or_else(|error| {
        tracing::info!(grain = id, "log: {error}");
        String::new()
    });
    let source = format!("/grains/{id}/log/text");
    let body = html! {
        div.heading {
            h1 { "Log of " bdi { (grain.title) } }
        }
        p.hint { "What the app wrote. Only you can read it." }
        div.buttons {
            a.button href=(format!("/grain/{id}")) { "Open" }
            a.button href=(person.viewer.path) data-hide { (icon("again")) "Load again" }
            label.check data-show hidden { input #follow type="checkbox" checked; " Follow" }
            a.button href=(source) download=(format!("{id}.log")) data-once {
                (icon("down-to")) "Download"
            }
        }
        pre.log.tall #log tabindex="0" data-stream=(format!("{source}?follow")) {
            @if text.is_empty() { "Nothing was written yet." } @else { (text) }
        }
    };
    let page = Page::new(&format!("{}: log", grain.title), Nav::Grains, body);
    Ok(layout::respond(&person.viewer, page.icon(&grain.package_id).wide()))
}

/// `GET /grains/ID/log/text`: what there is; with `?follow` what comes, too, until the reader goes
/// or is signed out.
pub async fn text(
    State(app): State<App>,
    Path(id): Path<String>,
    axum::extract::RawQuery(query): axum::extract::RawQuery,
    login: Login,
) -> Result<Response, PageError> {
    let (grain_id, _) = mine(&app, &login, &id).await?;
    let body = if query.is_some() {
        let receiver = app.grains.log(&grain_id, BACKLOG).await?;
        let clean = Cleaner::default();
        let stream =
            futures::stream::unfold((receiver, clean), |(mut receiver, mut clean)| async {
                let chunk = receiver.recv().await?;
                let text = clean.push(&chunk);
                Some((Ok::<_, std::io::Error>(Bytes::from(text)), (receiver, clean)))
            });
        let end = identity::ended(app, login.session.id);
        Body::from_stream(stream.take_until(Box::pin(end)))
    } else {
        Body::from(so_far(&app, &grain_id, DOWNLOAD).await?)
    };
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; sandbox"),
    );
    Ok(response)
}

/// The last `bytes` as they stand in the files, whether the grain runs or not.
async fn so_far(app: &App, grain: &GrainId, bytes: u64) -> Result<String, Error> {
    let log = app.grains.log_so_far(grain, bytes).await?;
    // A tenth of a second for the longest: not on the runtime's own threads.
    tokio::task::spawn_blocking(move || Cleaner::default().push(&log))
        .await
        .map_err(|e| Error::Internal(e.to_string()))
}

/// Takes terminal sequences, control characters and broken UTF-8 out of a stream of bytes.
#[derive(Debug, Default)]
struct Cleaner {
    /// Bytes of a character that is not whole yet.
    rest: Vec<u8>,
    escape: Escape,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Escape {
    #[default]
    No,
    /// After ESC.
    Begun,
    /// In a sequence that ends with a letter or similar.
    Csi,
    /// In a string that ends with BEL or ESC.
    Osc,
}

impl Cleaner {
    fn push(&mut self, bytes: &[u8]) -> String {
        self.rest.extend_from_slice(bytes);
        let whole = match std::str::from_utf8(&self.rest) {
            Ok(_) => self.rest.len(),
            // Cut in the middle of a character: keep its beginning for the next piece.
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => self.rest.len(),
        };
        let rest = self.rest.split_off(whole);
        let piece = std::mem::replace(&mut self.rest, rest);
        let text = String::from_utf8_lossy(&piece);
        text.chars().filter(|c| self.keep(*c)).collect()
    }

    fn keep(&mut self, c: char) -> bool {
        match (self.escape, c) {
            (_, '\u{1b}') => self.escape = Escape::Begun,
            (Escape::Begun, '[') => self.escape = Escape::Csi,
            (Escape::Begun, ']' | 'P' | '_' | '^' | 'X') => self.escape = Escape::Osc,
            (Escape::Begun, _) => self.escape = Escape::No,
            (Escape::Csi, '@'..='~') => self.escape = Escape::No,
            (Escape::Csi, '\n') => self.escape = Escape::No,
            (Escape::Osc, '\u{7}' | '\n') => self.escape = Escape::No,
            (Escape::Csi | Escape::Osc, _) => {}
            (Escape::No, '\n' | '\t') => return true,
            (Escape::No, c) => return !c.is_control(),
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clean(pieces: &[&[u8]]) -> String {
        let mut cleaner = Cleaner::default();
        pieces.iter().map(|piece| cleaner.push(piece)).collect()
    }

    #[test]
    fn a_log_is_text() {
        assert_eq!(clean(&[b"\x1b[1;31mred\x1b[0m\r\nnext\x07\x00"]), "red\nnext");
        assert_eq!(clean(&[b"\x1b]0;title\x07after \x1b(", b"Bx"]), "after Bx");
        assert_eq!(clean(&["ä".as_bytes(), &[0xc3], &[0xa4]]), "ää");
        assert_eq!(clean(&[b"a\xff\xfeb"]), "a\u{fffd}\u{fffd}b");
    }

    proptest::proptest! {
        #[test]
        fn nothing_else_gets_through(bytes in proptest::collection::vec(0u8.., 0..200), at in 0usize..200) {
            let at = at.min(bytes.len());
            let text = clean(&[&bytes[..at], &bytes[at..]]);
            proptest::prop_assert!(text.chars().all(|c| !c.is_control() || c == '\n' || c == '\t'));
        }
    }
}
