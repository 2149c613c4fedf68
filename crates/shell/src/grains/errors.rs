//! Answers that a grain host gives in the shell's own name, in the form the client asked for.

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use crate::edge::EdgeBody;
use crate::error::Error;
use crate::identity::text::one_line;
use crate::pace;
use crate::pages::errors::sentence;
use crate::pages::standalone::Sheet;

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
    /// Seconds after which another try makes sense, where that is known.
    pub retry_after: Option<u64>,
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
            retry_after: None,
        }
    }

    /// `owner`: may see what the app wrote.
    pub fn of(error: Error, owner: bool) -> Fault {
        let status = error.status();
        let kind = error.code();
        let told = |title: &str, why: String, advice: &str| {
            Fault::new(status, kind, title, sentence(&why), advice)
        };
        match error {
            Error::GrainFailed { reason, code, log_tail } => Fault {
                status,
                title: "The app stopped".into(),
                why: if owner { sentence(&reason) } else { "It did not answer.".into() },
                advice: "What was saved is still there. Start it again; if it stops again, its \
                         log says more."
                    .into(),
                code,
                log_tail: if owner { log_tail } else { String::new() },
                retry_after: None,
            },
            Error::GrainPaused { reason, code, log_tail, pause } => {
                let waits = pause.words().unwrap_or_default();
                Fault {
                    status,
                    title: "The app stops again and again".into(),
                    why: if owner { format!("{} {waits}", sentence(&reason)) } else { waits },
                    advice: "What was saved is still there. Wait, then try again. Its owner can \
                             restart it at once from its menu, and read its log there."
                        .into(),
                    code,
                    log_tail: if owner { log_tail } else { String::new() },
                    retry_after: Some(pause.seconds().unwrap_or(1)),
                }
            }
            Error::Disconnected(why) => told(
                "The app stopped",
                if owner { why } else { "It went away before it answered.".into() },
                "What was saved is still there. Start it again.",
            ),
            Error::NotFound(what) => told(
                "Not here for you",
                format!("There is no such {what}, or it is not shared with you."),
                "Open it from your list of grains.",
            ),
            Error::Forbidden(why) => {
                told("This is not allowed", why, "Open the grain from your list of grains.")
            }
            Error::TooLarge(why) => told(
                "This is too large",
                why,
                "This app takes only small files: tell its author, or send less at a time.",
            ),
            Error::MediaType(why) => told(
                "The app cannot take this kind of file",
                why,
                "Send it as the app's own pages do.",
            ),
            Error::BadRequest(why) => told(
                "The server did not understand this request",
                why,
                "Go back and try again. If it happens again, tell the app's author.",
            ),
            Error::Unimplemented(why) => told(
                "This app does not offer that",
                why,
                "Go back. If you expected it to, tell the app's author.",
            ),
            Error::Busy(why) => told(
                "Too many grains are in use",
                why,
                "Close some of them, wait a moment, and try again. Whoever runs this server can \
                 allow more.",
            ),
            Error::Overloaded(why) => {
                told("The app has too much to do", why, "Wait a moment, then try again.")
            }
            Error::AppFailed(why) => {
                let fault = told(
                    "The app reported an error",
                    if owner { why.clone() } else { "It could not do what was asked.".into() },
                    "Try again. If it happens again, tell the app's author, with the code below.",
                );
                if !owner {
                    tracing::info!(code = fault.code, "the app reported: {}", one_line(&why, 500));
                }
                fault
            }
            Error::BadGateway(why) => told(
                "The app's answer makes no sense",
                why,
                "Try again. If it happens again, tell the app's author, with the code below.",
            ),
            Error::Timeout(what) => told(
                "This took too long",
                format!("{what} did not finish in time"),
                "Try again, or restart the app from its menu.",
            ),
            other => {
                let fault = told(
                    "We could not finish this",
                    "Something went wrong on this server".into(),
                    "Try again. If it happens again, whoever runs this server finds the code in \
                     its log.",
                );
                tracing::error!(code = fault.code, "{other}");
                fault
            }
        }
    }

    /// As a page, JSON or text, by what the client accepts. `home`: the shell's address.
    pub fn answer(&self, request: &HeaderMap, home: &impl std::fmt::Display) -> Response<EdgeBody> {
        if pace::may_log(&self.code) {
            let status = self.status.as_u16();
            tracing::info!(code = self.code, status, "{}: {}", self.title, self.why);
        }
        let accept = request.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
        let (kind, body) = if accept.contains("text/html") {
            // The bar around a frame leads home by itself, and the frame could not.
            let framed = request
                .get("sec-fetch-dest")
                .is_some_and(|dest| ["iframe", "frame"].iter().any(|frame| dest == frame));
            let home = format!("{home}/");
            ("text/html; charset=utf-8", self.html((!framed).then_some(&home)))
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
            headers.insert(header::RETRY_AFTER, self.retry_after.unwrap_or(2).into());
        }
        if self.status == StatusCode::UPGRADE_REQUIRED {
            // RFC 9110 §15.5.22, RFC 6455 §4.4.
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
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
            text += &format!("\nThe last lines of its log:\n{}\n", self.log_tail);
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

    fn html(&self, home: Option<&String>) -> String {
        let again = match self.status {
            StatusCode::BAD_GATEWAY if self.title == "The app stopped" => Some("Start again"),
            status if status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED => {
                Some("Try again")
            }
            _ => None,
        };
        Sheet {
            title: &self.title,
            why: &self.why,
            advice: &self.advice,
            code: &self.code,
            log_tail: &self.log_tail,
            again,
            home: home.map(String::as_str),
        }
        .html()
    }
}

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
        let page = Fault::of(error(), true).html(None);
        assert!(page.contains("Status 3 &lt;script&gt;") && page.contains("&lt;b&gt;"));
        assert!(page.contains(">Start again</a>") && !page.contains("My grains"));
        let page = Fault::of(error(), false).html(Some(&"http://box/".to_owned()));
        assert!(page.contains("href=\"http://box/\""));
        assert!(!page.contains("tatus 3") && !page.contains("&lt;b&gt;"));
        assert!(page.contains("G-START-AAAA"));
    }

    #[test]
    fn the_form_follows_the_client() {
        let fault = Fault::new(StatusCode::FORBIDDEN, "S-403", "No", "Because", "");
        let kind = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            fault.answer(&headers, &"http://box").headers()[header::CONTENT_TYPE]
                .to_str()
                .unwrap()
                .to_owned()
        };
        assert_eq!(kind("text/html,*/*;q=0.8"), "text/html; charset=utf-8");
        assert_eq!(kind("application/json"), "application/json");
        assert_eq!(kind("*/*"), "text/plain; charset=utf-8");
    }
}
