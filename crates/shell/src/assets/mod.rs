//! Style sheet, script and symbols, built into the program.
//!
//! Each has the hash of its content in its name, so browsers keep it for good, and a new version
//! has a new name. Compressed once, at the first request.

use std::io::Write;
use std::sync::LazyLock;

use axum::{Router, extract::Path, response::IntoResponse, routing::get};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::pages::PageError;
use crate::state::App;

/// A file that pages refer to.
pub struct Asset {
    path: String,
    mime: &'static str,
    plain: Bytes,
    packed: Bytes,
}

impl std::fmt::Debug for Asset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Asset({})", self.path)
    }
}

/// The style sheet: tokens first, then from the small to the large.
pub static STYLE: LazyLock<Asset> = LazyLock::new(|| {
    let text = concat!(
        include_str!("tokens.css"),
        include_str!("base.css"),
        include_str!("parts.css"),
        include_str!("pages.css"),
        include_str!("grain.css"),
    );
    Asset::new("style", "css", "text/css; charset=utf-8", text)
});
/// The one script: a module, so it runs after the page is read.
pub static SCRIPT: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new("shell", "js", "text/javascript; charset=utf-8", include_str!("shell.js"))
});
/// Every symbol, by its fragment.
pub static ICONS: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("icons", "svg", "image/svg+xml", include_str!("icons.svg")));
/// The mark in the browser's tab.
pub static FAVICON: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("mark", "svg", "image/svg+xml", include_str!("mark.svg")));

impl Asset {
    fn new(name: &str, extension: &str, mime: &'static str, text: &'static str) -> Asset {
        let hash = hex::encode(&crate::store::hash_secret(text.as_bytes())[..6]);
        Asset {
            path: format!("/assets/{name}.{hash}.{extension}"),
            mime,
            plain: Bytes::from_static(text.as_bytes()),
            packed: gzip(text.as_bytes(), Compression::best()),
        }
    }

    /// Its address on this server.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its size on the way (bytes, compressed).
    #[cfg(test)]
    pub fn weight(&self) -> usize {
        self.packed.len()
    }
}

/// `/assets/...` and the names that browsers ask for on their own.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/assets/{name}", get(serve))
        .route("/favicon.ico", get(async || axum::response::Redirect::permanent(FAVICON.path())))
        .route("/robots.txt", get(async || "User-agent: *\nDisallow: /\n"))
}

async fn serve(
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, PageError> {
    let path = format!("/assets/{name}");
    let asset = [&*STYLE, &*SCRIPT, &*ICONS, &*FAVICON]
        .into_iter()
        .find(|asset| asset.path == path)
        .ok_or_else(PageError::not_found)?;
    let packed = accepts_gzip(&headers);
    let body = if packed { asset.packed.clone() } else { asset.plain.clone() };
    let mut out = HeaderMap::new();
    let mut set = |name: HeaderName, value: &'static str| {
        out.insert(name, HeaderValue::from_static(value));
    };
    set(header::CONTENT_TYPE, asset.mime);
    set(header::CACHE_CONTROL, "public, max-age=31536000, immutable");
    set(header::VARY, "accept-encoding");
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'");
    set(HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
    if packed {
        set(header::CONTENT_ENCODING, "gzip");
    }
    Ok((StatusCode::OK, out, body))
}

/// Whether the browser says that it can unpack gzip.
pub fn accepts_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT_ENCODING).and_then(|v| v.to_str().ok());
    accepted.is_some_and(|list| {
        list.split(',').any(|item| {
            let (name, quality) = item.split_once(';').unwrap_or((item, ""));
            name.trim().eq_ignore_ascii_case("gzip") && quality.trim() != "q=0"
        })
    })
}

/// Compresses.
pub fn gzip(bytes: &[u8], level: Compression) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), level);
    // Writing to memory does not fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weights_stay_within_their_budget() {
        for (asset, budget) in [(&STYLE, 14_000), (&SCRIPT, 20_000), (&ICONS, 8_000)] {
            assert!(asset.weight() <= budget, "{asset:?} has {} bytes", asset.weight());
        }
    }

    #[test]
    fn compression_is_asked_for() {
        let with = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(value));
            accepts_gzip(&headers)
        };
        assert!(with("gzip, deflate, br") && with("br;q=1, gzip;q=0.5"));
        assert!(!with("identity") && !with("gzip;q=0"));
    }

    #[test]
    fn every_symbol_that_the_pages_name_is_there() {
        let icons = include_str!("icons.svg");
        let sources = [
            include_str!("../pages/layout.rs"),
            include_str!("../pages/parts.rs"),
            include_str!("../pages/home.rs"),
            include_str!("../pages/grain.rs"),
            include_str!("../pages/grain_acts.rs"),
            include_str!("../pages/grain_log.rs"),
            include_str!("../pages/live_parts.rs"),
            include_str!("../pages/apps.rs"),
            include_str!("../pages/install.rs"),
            include_str!("../pages/admin.rs"),
            include_str!("../pages/you.rs"),
            include_str!("../pages/sign_in.rs"),
        ];
        let mut seen = 0;
        for source in sources {
            for part in source.split("icon(\"").skip(1) {
                let name = part.split('"').next().unwrap_or_default();
                assert!(icons.contains(&format!("id=\"{name}\"")), "no symbol {name}");
                seen += 1;
            }
        }
        assert!(seen > 20);
    }
}
