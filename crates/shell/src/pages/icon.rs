//! Pictures of apps and people.
//!
//! Trust: an app's icon is a file from a stranger, and SVG can hold scripts. Icons are only ever
//! shown by `<img>`, where no script runs; whoever opens one by its address meets a policy that
//! allows nothing, in a sandbox. Only two kinds are served, by their first bytes.

use std::fmt::Write as _;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};

use super::PageError;
use crate::error::Error;
use crate::identity::Login;
use crate::install::manifest::{self, Icon, IconSize, Manifest};
use crate::state::App;

/// Larger icons are not shown (bytes).
const MAX_ICON: usize = 512 * 1024;
const ACCENTS: [&str; 12] = [
    "#AF544F", "#AB5931", "#976502", "#737308", "#437C36", "#067F5C", "#047C7C", "#09789F",
    "#486EB6", "#7264B3", "#925A9F", "#A95378",
];

/// `GET /icon/PACKAGE/SIZE`.
pub async fn of_package(
    State(app): State<App>,
    Path((package, size)): Path<(String, String)>,
    _login: Login,
) -> Result<Response, PageError> {
    let kind = match size.as_str() {
        "grain" => IconSize::Grain,
        "app" => IconSize::App,
        _ => return Err(PageError::not_found()),
    };
    let kept = match app.store.icon(&package, &size).await? {
        Some(kept) => kept,
        None => first_time(&app, &package, &size, kind).await?,
    };
    Ok(match kept {
        (mime, bytes) if !bytes.is_empty() => image(known(&mime), bytes),
        _ => {
            let app_id = app.store.package(&package).await?.map(|p| p.app_id).unwrap_or_default();
            image("image/svg+xml", pattern(&app_id, false).into_bytes())
        }
    })
}

/// Takes the icon out of the manifest and keeps it: later requests read nothing else. One at a time,
/// and whoever waited for another's looks whether it is there.
async fn first_time(
    app: &App,
    package: &str,
    size: &str,
    kind: IconSize,
) -> Result<(String, Vec<u8>), PageError> {
    let _turn = manifest::TURN.lock().await;
    if let Some(kept) = app.store.icon(package, size).await? {
        return Ok(kept);
    }
    let Some(bytes) = app.store.manifest(package).await? else {
        return Err(Error::NotFound("icon").into());
    };
    let find = move || Manifest::parse(&bytes).ok()?.icon(kind).filter(is_what_it_says);
    let found = tokio::task::spawn_blocking(find).await.unwrap_or_default();
    let (mime, bytes) = found.map(|icon| (icon.mime, icon.bytes)).unwrap_or_default();
    if let Err(error) = app.store.keep_icon(package, size, (mime, &bytes)).await {
        // It is shown all the same, and looked for again the next time.
        tracing::warn!("an icon of package {package} could not be kept: {error}");
    }
    Ok((mime.to_owned(), bytes))
}

/// The types that are served.
fn known(mime: &str) -> &'static str {
    if mime == "image/png" { "image/png" } else { "image/svg+xml" }
}

/// `GET /face/HANDLE`.
pub async fn of_person(Path(seed): Path<String>, _login: Login) -> Response {
    image("image/svg+xml", pattern(&seed, true).into_bytes())
}

fn is_what_it_says(icon: &Icon) -> bool {
    let bytes = &icon.bytes;
    bytes.len() <= MAX_ICON
        && match icon.mime {
            "image/png" => bytes.starts_with(b"\x89PNG\r\n\x1a\n"),
            _ => std::str::from_utf8(bytes).is_ok_and(|text| text.contains("<svg")),
        }
}

fn image(mime: &'static str, bytes: Vec<u8>) -> Response {
    let mut response = bytes.into_response();
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, mime),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'; sandbox"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        // A package never changes; who may see one is asked again after a day.
        (header::CACHE_CONTROL, "private, max-age=86400"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    response
}

/// A tile with a mirrored 5x5 field of discs, made of a name.
fn pattern(seed: &str, round: bool) -> String {
    let hash = crate::store::hash_secret(seed.as_bytes());
    let accent = ACCENTS[usize::from(hash[0]) % ACCENTS.len()];
    let radius = if round { 32 } else { 14 };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 64 64\">\
         <rect width=\"64\" height=\"64\" rx=\"{radius}\" fill=\"{accent}\"/><g fill=\"#fff\">"
    );
    for row in 0..5 {
        for column in 0..3 {
            let bit = row * 3 + column;
            if hash[1 + bit / 8] >> (bit % 8) & 1 == 1 {
                for x in if column == 2 { vec![2] } else { vec![column, 4 - column] } {
                    let (cx, cy) = (14 + 9 * x, 14 + 9 * row);
                    let _ = write!(svg, "<circle cx=\"{cx}\" cy=\"{cy}\" r=\"4\"/>");
                }
            }
        }
    }
    svg.push_str("</g></svg>");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_images_are_images() {
        let icon = |mime, bytes: &[u8]| Icon { mime, bytes: bytes.to_vec() };
        assert!(is_what_it_says(&icon("image/png", b"\x89PNG\r\n\x1a\n...")));
        assert!(!is_what_it_says(&icon("image/png", b"<html>")));
        assert!(is_what_it_says(&icon("image/svg+xml", b"<?xml?><svg/>")));
        assert!(!is_what_it_says(&icon("image/svg+xml", b"hello")));
        let response = image("image/svg+xml", b"<svg onload='x'/>".to_vec());
        let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.contains("default-src 'none'") && policy.ends_with("sandbox"));
    }

    #[test]
    fn a_pattern_is_its_names_own() {
        assert_eq!(pattern("ada", true), pattern("ada", true));
        assert_ne!(pattern("ada", true), pattern("ben", true));
        assert!(!pattern("<script>", false).contains("script"));
    }
}
