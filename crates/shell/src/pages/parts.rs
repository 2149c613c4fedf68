//! The pieces that pages are made of. Each is in the gallery, in all its states.

use maud::{Markup, html};

use super::layout::token_field;
use super::viewer::Viewer;
use crate::assets;
use crate::install::failure::{self, bytes};
use crate::store::{Account, Notice, Tone};

/// A symbol of the sprite. Decoration: the words stand beside it or in an `aria-label`.
pub fn icon(name: &str) -> Markup {
    html! {
        svg.icon aria-hidden="true" width="20" height="20" {
            use href=(format!("{}#{name}", assets::ICONS.path())) {}
        }
    }
}

/// The mark: a box open at the top, three grains heaped inside.
pub fn mark() -> Markup {
    html! {
        svg.mark aria-hidden="true" width="24" height="24" {
            use href=(format!("{}#mark", assets::ICONS.path())) {}
        }
    }
}

/// A person's picture: made of their handle until they have one.
pub fn avatar(account: &Account) -> Markup {
    html! {
        img.face src=(format!("/face/{}", account.handle)) alt="" width="32" height="32"
            loading="lazy";
    }
}

/// An app's icon, 24 or 128 pixels of design.
pub fn app_icon(package_id: &str, large: bool) -> Markup {
    let (size, px) = if large { ("app", "64") } else { ("grain", "24") };
    html! {
        img.app-icon.large[large] src=(format!("/icon/{package_id}/{size}")) alt="" width=(px)
            height=(px) loading="lazy";
    }
}

/// Which of the twelve accents an app has.
pub fn accent(app_id: &str) -> String {
    // As in `icon::pattern`, so that a row's edge has the colour of its tile.
    let hash = crate::store::hash_secret(app_id.as_bytes());
    format!("a{}", hash[0] % 12)
}

/// A moment, in the server's words; the script makes it relative and local.
pub fn when(ms: i64) -> Markup {
    let iso = iso(ms);
    let text = iso.get(..16).unwrap_or(&iso).replace('T', " ");
    html! { time datetime=(iso) { (text) " UTC" } }
}

/// A moment as machines read it.
pub fn iso(ms: i64) -> String {
    use time::{OffsetDateTime, format_description::well_known::Rfc3339};
    OffsetDateTime::from_unix_timestamp(ms.div_euclid(1000))
        .ok()
        .and_then(|t| t.format(&Rfc3339).ok())
        .unwrap_or_default()
}

/// A size.
pub fn size(n: i64) -> String {
    bytes(n.max(0) as u64)
}

/// "1 grain", "2,014 grains".
pub fn count(n: i64, one: &str, many: &str) -> String {
    format!("{} {}", number(n), if n == 1 { one } else { many })
}

/// 2,014.
pub fn number(n: i64) -> String {
    let sign = if n < 0 { "-" } else { "" };
    sign.to_owned() + &failure::number(n.unsigned_abs())
}

/// An app id or fingerprint in groups of four, so that people can compare it.
pub fn fingerprint(text: &str) -> Markup {
    let groups: Vec<String> = text
        .as_bytes()
        .chunks(4)
        .map(|group| String::from_utf8_lossy(group).into_owned())
        .collect();
    html! { code.key { (groups.join(" ")) } }
}

/// A list of errors at the top of a form, and the words beside a field.
pub fn field_error(id: &str, words: Option<&str>) -> Markup {
    html! { @if let Some(words) = words { p.field-error #(id) { (words) } } }
}

/// What happened since the last page, with undo.
pub fn notices(viewer: &Viewer) -> Markup {
    html! {
        div #notices { @for notice in &viewer.notices { (one_notice(viewer, notice)) } }
    }
}

fn one_notice(viewer: &Viewer, notice: &Notice) -> Markup {
    let symbol = match notice.tone {
        Tone::Good => "check",
        Tone::Warning => "warning",
        Tone::Bad => "stop",
    };
    html! {
        output class={ "notice " (notice.tone.as_str()) } {
            (icon(symbol))
            span { bdi { (notice.text) } }
            @if notice.undo.is_some() {
                form.inline action="/notices/undo" method="post" {
                    (token_field(viewer))
                    button.small name="notice" value=(notice.id) { "Undo" }
                }
            }
        }
    }
}

/// An empty place that says what belongs there.
pub fn empty(what: &str, why: Markup, button: Markup) -> Markup {
    html! {
        section.empty {
            h2 { (what) }
            (why)
            div.buttons { (button) }
        }
    }
}

/// A bar of progress with its words: never a bar alone.
pub fn progress(label: &str, done: i64, total: i64) -> Markup {
    let percent = (total > 0).then(|| (done.clamp(0, total) * 100 / total).to_string());
    html! {
        div.progress {
            progress max="100" value=[percent.as_deref()] aria-label=(label) {}
            span.figures {
                @match &percent {
                    Some(percent) => { (size(done)) " of " (size(total)) ", " (percent) "%" }
                    None if done > 0 => { (size(done)) }
                    None => { "Under way" }
                }
            }
        }
    }
}

/// Text with blank lines as paragraphs; nothing in it is markup.
pub fn paragraphs(text: &str) -> Markup {
    html! {
        @for part in text.split("\n\n").map(str::trim).filter(|part| !part.is_empty()) {
            p.prose { bdi { (part) } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_their_commas() {
        for (n, text) in [(0, "0"), (999, "999"), (2014, "2,014"), (1234567, "1,234,567")] {
            assert_eq!(number(n), text);
        }
        assert_eq!(count(1, "grain", "grains"), "1 grain");
        assert_eq!(iso(0), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn hostile_text_stays_text() {
        let html = paragraphs("<script>alert(1)</script>\n\n\"'&").into_string();
        assert!(!html.contains("<script>"), "{html}");
        assert_eq!(html.matches("<p").count(), 2);
    }
}
