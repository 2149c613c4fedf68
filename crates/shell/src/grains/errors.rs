//! Answers that a grain host gives in the shell's own name, in the form the client asked for.

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use crate::edge::EdgeBody;
use crate::error::Error;

/// An error as people see it: what happened, why, what to do, and a code that is in the log too.
#[derive(Clone, Debug)]
pub struct Fault {
    pub status: StatusCode,
    pub title: String,
    pub why: String,
    pub advice: String,
    pub code: String,
    /// Last lines of the app's log, for its owner only.
    pub log_tail: String,
}

impl Fault {
    pub fn new(
        status: StatusCode,
        kind: &str,
        title: impl Into<String>,
        why: impl Into<String>,
        advice: impl Into<String>,
    ) -> Fault {
        Fault {
            status,
            title: title.into(),
            why: why.into(),
            advice: advice.into(),
            code: code(kind),
            log_tail: String::new(),
        }
    }

    /// `owner`: may see what the app wrote.
    pub fn of(error: Error, owner: bool) -> Fault {
        let status = error.status();
        let kind = error.code();
        match error {
            Error::GrainFailed { reason, code, log_tail } => Fault {
                status,
                title: "The app stopped".into(),
                why: if owner { reason } else { "It did not answer.".into() },
                advice: "Load this page again to start it.".into(),
                code,
                log_tail: if owner { log_tail } else { String::new() },
            },
            Error::Disconnected(why) => Fault::new(
                status,
                kind,
                "The app stopped",
                if owner { why } else { "It went away before it answered.".into() },
                "Load this page again to start it.",
            ),
            Error::NotFound(what) => Fault::new(
                status,
                kind,
                "Not here for you",
                format!("There is no such {what}, or it is not shared with you."),
                "Open it from your list of grains.",
            ),
            Error::Forbidden(why) => {
                Fault::new(status, kind, "This is not allowed", why, String::new())
            }
            Error::BadRequest(why) => {
                Fault::new(status, kind, "This request makes no sense", why, String::new())
            }
            Error::Unimplemented(why) => {
                Fault::new(status, kind, "This app does not offer that", why, String::new())
            }
            Error::Overloaded(why) => {
                Fault::new(status, kind, "The app is busy", why, "Try again in a moment.")
            }
            Error::BadGateway(why) => Fault::new(
                status,
                kind,
                "The app's answer makes no sense",
                why,
                "Tell the app's author, with the code below.",
            ),
            Error::Timeout(what) => Fault::new(
                status,
                kind,
                "This took too long",
                format!("{what} did not finish in time."),
                "Load this page again, or restart the app from its menu.",
            ),
            other => {
                let fault = Fault::new(
                    status,
                    kind,
                    "We could not finish this",
                    "Nothing was changed.",
                    "Try again.",
                );
                tracing::error!(code = fault.code, "{other}");
                fault
            }
        }
    }

    /// As a page, JSON or text, by what the client accepts.
    pub fn answer(&self, request: &HeaderMap) -> Response<EdgeBody> {
        tracing::info!(
            code = self.code,
            status = self.status.as_u16(),
            "{}: {}",
            self.title,
            self.why
        );
        let accept = request.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
        let (kind, body) = if accept.contains("text/html") {
            ("text/html; charset=utf-8", self.html())
        } else if accept.contains("json") {
            ("application/json", self.json())
        } else {
            ("text/plain; charset=utf-8", self.text())
        };
        let mut answer = Response::new(EdgeBody::full(body));
        *answer.status_mut() = self.status;
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        }
        answer
    }

    fn text(&self) -> String {
        let mut text = format!("{}\n{}\n", self.title, self.why);
        if !self.advice.is_empty() {
            text += &format!("{}\n", self.advice);
        }
        text += &format!("Code {}\n", self.code);
        if !self.log_tail.is_empty() {
            text += &format!("\nLast lines of its log:\n{}\n", self.log_tail);
        }
        text
    }

    fn json(&self) -> String {
        serde_json::json!({
            "error": { "title": self.title, "why": self.why, "advice": self.advice,
                       "code": self.code }
        })
        .to_string()
    }

    fn html(&self) -> String {
        maud::html! {
            (maud::DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    title { "Error: " (self.title) }
                    style { (maud::PreEscaped(STYLE)) }
                }
                body {
                    main {
                        h1 { (self.title) }
                        p { (self.why) }
                        @if !self.advice.is_empty() { p { (self.advice) } }
                        @if self.status.is_server_error() {
                            p { a href="" { "Try again" } }
                        }
                        @if !self.log_tail.is_empty() {
                            h2 { "Last lines of its log" }
                            pre { (self.log_tail) }
                        }
                        p.code { "Code " (self.code) }
                    }
                }
            }
        }
        .into_string()
    }
}

const STYLE: &str = ":root{color-scheme:light dark}body{font:1rem/1.5 system-ui,sans-serif;\
    margin:0;background:light-dark(#fbf9f5,#171512);color:light-dark(#221e19,#f3efe8)}\
    main{max-width:40rem;margin:3rem auto;padding:0 1rem}h1{font-size:1.75rem;line-height:1.2}\
    h2{font-size:1.125rem}pre{overflow:auto;padding:1rem;border-radius:6px;\
    background:light-dark(#f2eee7,#0f0e0c)}a{color:light-dark(#09565a,#72d2c9)}\
    .code{color:light-dark(#665e52,#aba294);font-size:.8125rem}";

/// `kind` with four random characters, so that one occurrence can be found in the log.
pub fn code(kind: &str) -> String {
    const LETTERS: &[u8; 32] = b"23456789ABCDEFGHJKLMNPQRSTUVWXYZ";
    let tail: String = crate::store::random::<4>()
        .iter()
        .map(|byte| char::from(LETTERS[usize::from(byte % 32)]))
        .collect();
    format!("{kind}-{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_app_wrote_is_escaped_and_its_owners_alone() {
        let error = || Error::GrainFailed {
            reason: "status 3 <script>".into(),
            code: "G-START-AAAA".into(),
            log_tail: "<b>".into(),
        };
        let page = Fault::of(error(), true).html();
        assert!(page.contains("status 3 &lt;script&gt;") && page.contains("&lt;b&gt;"));
        let page = Fault::of(error(), false).html();
        assert!(!page.contains("status 3") && !page.contains("&lt;b&gt;"));
        assert!(page.contains("G-START-AAAA"));
    }

    #[test]
    fn the_form_follows_the_client() {
        let fault = Fault::new(StatusCode::FORBIDDEN, "S-403", "No", "Because", "");
        let kind = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            fault.answer(&headers).headers()[header::CONTENT_TYPE].to_str().unwrap().to_owned()
        };
        assert_eq!(kind("text/html,*/*;q=0.8"), "text/html; charset=utf-8");
        assert_eq!(kind("application/json"), "application/json");
        assert_eq!(kind("*/*"), "text/plain; charset=utf-8");
    }
}
