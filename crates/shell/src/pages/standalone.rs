//! A page that needs nothing but itself: for hosts that may not load the shell's style sheet (a
//! grain's), and for answers given before it is known who asks.
//!
//! Trust: every text in it may come from an app or the network; `maud` escapes all of them.

use std::sync::LazyLock;

use base64::Engine as _;
use maud::{DOCTYPE, PreEscaped, html};
use sha2::Digest as _;

/// What such a page says. All but `title` and `code` may be empty.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sheet<'a> {
    /// What happened.
    pub title: &'a str,
    /// Why, with values.
    pub why: &'a str,
    /// What to do about it.
    pub advice: &'a str,
    /// The same in the log.
    pub code: &'a str,
    /// The last lines of an app's log, for its owner.
    pub log_tail: &'a str,
    /// The button that loads this address again.
    pub again: Option<&'a str>,
    /// Address of the shell, for a button that leads there; none inside a grain's frame, where the
    /// bar around it does that.
    pub home: Option<&'a str>,
}

impl Sheet<'_> {
    /// The whole document.
    pub fn html(&self) -> String {
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { "Error: " (self.title) }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    main {
                        p.from { (PreEscaped(MARK)) "From the server, not from the app" }
                        h1 { (self.title) }
                        @if !self.why.is_empty() { p { bdi { (self.why) } } }
                        @if !self.advice.is_empty() { p { bdi { (self.advice) } } }
                        @if self.again.is_some() || self.home.is_some() {
                            p.buttons {
                                @if let Some(again) = self.again { a.main href="" { (again) } }
                                @if let Some(home) = self.home {
                                    a.main[self.again.is_none()] href=(home) { "My grains" }
                                }
                            }
                        }
                        p.hint { "Code " code { (self.code) } }
                        @if !self.log_tail.trim().is_empty() {
                            h2 { "The last lines of its log" }
                            div.tail tabindex="0" role="region" aria-label="The last lines of its log" {
                                pre { (self.log_tail) }
                            }
                        }
                    }
                }
            }
        }
        .into_string()
    }
}

/// The source that a `style-src` must name for the page to have its look.
pub fn style_source() -> &'static str {
    static SOURCE: LazyLock<String> = LazyLock::new(|| {
        let hash = sha2::Sha256::digest(STYLE.as_bytes());
        format!("'sha256-{}'", base64::engine::general_purpose::STANDARD.encode(hash))
    });
    &SOURCE
}

const STYLE: &str =
    concat!(include_str!("../assets/tokens.css"), include_str!("../assets/standalone.css"));

/// The mark, small.
const MARK: &str = "<svg viewBox=\"0 0 24 24\" width=\"18\" height=\"18\" aria-hidden=\"true\">\
    <path fill=\"none\" stroke=\"currentColor\" stroke-width=\"2.6\" stroke-linecap=\"round\" \
    d=\"M3 4.5v12a4.5 4.5 0 0 0 4.5 4.5h9a4.5 4.5 0 0 0 4.5-4.5v-12\"/>\
    <circle cx=\"12\" cy=\"12\" r=\"5\" fill=\"currentColor\"/></svg>";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_whole_and_escaped() {
        let page =
            Sheet { title: "The app <stopped>", why: "a & b", code: "G-X", ..Sheet::default() };
        let html = page.html();
        assert!(html.contains("<title>Error: The app &lt;stopped&gt;</title>"), "{html}");
        assert!(!html.contains("<stopped>") && !html.contains("class=\"buttons\""));
        assert!(!html.contains("style=\"") && !html.contains("<script"));
        assert!(style_source().starts_with("'sha256-"));
    }
}
