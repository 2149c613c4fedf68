//! What a package says of itself, read from its manifest message.
//!
//! Trust: the whole message is hostile text from an author; every text is cut and cleaned here,
//! and a part that cannot be read is treated as absent, so that a page can always be shown.

use capnp::{message, serialize};
use sandstorm_schema::{package_capnp as package, util_capnp::localized_text};

use crate::identity::text::{MAX_TITLE, lines, one_line};
use crate::store::{Action, Store};

/// Largest manifest, in words of 8 bytes.
pub const MAX_WORDS: usize = 1 << 20;
/// The version of the app interface that this server speaks.
const API_VERSION: u32 = 0;
/// Actions beyond these are not offered.
const MAX_ACTIONS: usize = 32;
const MAX_PROSE: usize = 20_000;

/// Held while a page reads a manifest out of the database: each may have 8 MiB, and anybody can ask
/// for pages in any number.
pub static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// What a package's page shows, out of the database; nothing where it has no manifest.
///
/// # Errors
/// The database's.
pub async fn details(store: &Store, package: &str) -> crate::store::Result<Details> {
    let _turn = TURN.lock().await;
    let Some(bytes) = store.manifest(package).await? else { return Ok(Details::default()) };
    let read = move || Manifest::parse(&bytes).map(|m| m.details()).unwrap_or_default();
    Ok(tokio::task::spawn_blocking(read).await.unwrap_or_default())
}

/// A manifest message, as stored.
pub struct Manifest(message::Reader<serialize::OwnedSegments>);

/// What lists show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The app's title, never empty.
    pub title: String,
    /// Orders versions of one app.
    pub app_version: u32,
    /// The version as people say it; may be empty.
    pub marketing_version: String,
    /// Ways to make a grain.
    pub actions: Vec<Action>,
}

/// What the app page shows besides. Empty text: not stated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// One to three words.
    pub short: String,
    /// Several lines, Markdown that is shown as plain text.
    pub description: String,
    /// http(s) address, else empty.
    pub website: String,
    /// http(s) address, else empty.
    pub code: String,
    /// The licence's name or kind.
    pub licence: String,
    /// The author must be asked: a licence that each person agrees to.
    pub terms: String,
    /// Who wrote it.
    pub author: String,
    /// Where to write to.
    pub email: String,
    /// What changed, several lines.
    pub changes: String,
}

/// An image in the manifest.
#[derive(Debug, PartialEq, Eq)]
pub struct Icon {
    /// `image/png` or `image/svg+xml`.
    pub mime: &'static str,
    /// Its bytes, hostile.
    pub bytes: Vec<u8>,
}

/// Sizes of icons that we ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IconSize {
    /// 24 pixels: rows, the grain's bar.
    Grain,
    /// 128 pixels: the app's page.
    App,
}

impl std::fmt::Debug for Manifest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Manifest")
    }
}

/// Copies a manifest out of an answer into a message of its own; bytes fit for the database.
pub fn copy(reader: package::manifest::Reader<'_>) -> capnp::Result<Vec<u8>> {
    let size = reader.total_size()?.word_count;
    if size > MAX_WORDS as u64 {
        return Err(capnp::Error::failed(format!(
            "its manifest has {size} words, and {MAX_WORDS} are allowed"
        )));
    }
    let mut message = message::Builder::new_default();
    message.set_root(reader)?;
    Ok(serialize::write_message_to_words(&message))
}

impl Manifest {
    /// Reads a stored message.
    pub fn parse(bytes: &[u8]) -> capnp::Result<Manifest> {
        let mut options = message::ReaderOptions::new();
        options.traversal_limit_in_words(Some(8 * MAX_WORDS)).nesting_limit(64);
        Ok(Manifest(serialize::read_message(bytes, options)?))
    }

    fn root(&self) -> capnp::Result<package::manifest::Reader<'_>> {
        self.0.get_root()
    }

    /// Why this server cannot run the app, whoever made it; `None` when it can.
    pub fn refusal(&self) -> capnp::Result<Option<String>> {
        let root = self.root()?;
        let (least, most) = (root.get_min_api_version(), root.get_max_api_version());
        Ok(if least > most {
            Some(format!(
                "The package contradicts itself: it needs version {least} of the app interface or \
                 newer, and {most} or older. Ask the app's author."
            ))
        } else if least > API_VERSION {
            Some(format!(
                "The app needs version {least} of the app interface, and this server has \
                 {API_VERSION}. Install a newer server, or an older version of the app."
            ))
        } else {
            None
        })
    }

    /// What lists show. `app_id` stands in where a 2014 package has no title.
    pub fn summary(&self, app_id: &str) -> capnp::Result<Summary> {
        let root = self.root()?;
        let mut actions = Vec::new();
        let list = root.get_actions()?;
        for (position, action) in list.iter().enumerate() {
            if actions.len() == MAX_ACTIONS {
                break;
            }
            use package::manifest::action::input;
            // Actions that begin with something chosen elsewhere need a powerbox.
            let Ok(input::None(())) = action.get_input().which() else { continue };
            let noun = text(action.get_noun_phrase());
            let noun = if noun.is_empty() { without_new(&text(action.get_title())) } else { noun };
            actions.push(Action {
                position: position as i64,
                noun,
                description: text(action.get_description()),
            });
        }
        let mut title = text(root.get_app_title());
        if title.is_empty() {
            title = actions.first().map(|a| capitalized(&a.noun)).unwrap_or_default();
        }
        if title.is_empty() {
            title = format!("App {}", app_id.get(..8).unwrap_or(app_id));
        }
        for action in &mut actions {
            if action.noun.is_empty() {
                action.noun.clone_from(&title);
            }
        }
        Ok(Summary {
            title,
            app_version: root.get_app_version(),
            marketing_version: text(root.get_app_marketing_version()),
            actions,
        })
    }

    /// What the app page shows besides.
    pub fn details(&self) -> Details {
        self.try_details().unwrap_or_default()
    }

    fn try_details(&self) -> capnp::Result<Details> {
        let root = self.root()?;
        if !root.has_metadata() {
            return Ok(Details::default());
        }
        let data = root.get_metadata()?;
        let author = data.get_author();
        let (licence, terms) = licence(data.get_license());
        Ok(Details {
            short: text(data.get_short_description()),
            description: prose(data.get_description()),
            website: address(plain(data.get_website())),
            code: address(plain(data.get_code_url())),
            licence,
            terms,
            author: one_line(&plain(author.get_upstream_author()), MAX_TITLE),
            email: one_line(&plain(author.get_contact_email()), MAX_TITLE),
            changes: prose(data.get_change_log()),
        })
    }

    /// The icon nearest to what is asked for.
    pub fn icon(&self, size: IconSize) -> Option<Icon> {
        let data = self.root().ok()?.get_metadata().ok()?;
        let icons = data.get_icons();
        let grid = || icons.get_app_grid().ok().and_then(icon);
        match size {
            IconSize::Grain => icons.get_grain().ok().and_then(icon).or_else(grid),
            IconSize::App => grid(),
        }
    }
}

fn icon(reader: package::metadata::icon::Reader<'_>) -> Option<Icon> {
    use package::metadata::icon::Which;
    match reader.which().ok()? {
        Which::Unknown(()) => None,
        Which::Svg(svg) => {
            let bytes = svg.ok()?.as_bytes().to_vec();
            (!bytes.is_empty()).then_some(Icon { mime: "image/svg+xml", bytes })
        }
        Which::Png(png) => {
            let sharp = png.get_dpi2x().ok().filter(|bytes| !bytes.is_empty());
            let bytes = sharp.or_else(|| png.get_dpi1x().ok())?.to_vec();
            (!bytes.is_empty()).then_some(Icon { mime: "image/png", bytes })
        }
    }
}

fn licence(reader: package::metadata::license::Reader<'_>) -> (String, String) {
    use package::metadata::license::Which;
    match reader.which() {
        Ok(Which::OpenSource(Ok(kind))) => (open_source(kind).to_owned(), String::new()),
        Ok(Which::Proprietary(terms)) => ("Proprietary".into(), prose(terms)),
        Ok(Which::PublicDomain(_)) => ("Public domain".into(), String::new()),
        _ => (String::new(), String::new()),
    }
}

fn open_source(kind: package::OpenSourceLicense) -> &'static str {
    use package::OpenSourceLicense as L;
    match kind {
        L::Invalid => "",
        L::Mit => "MIT",
        L::Apache2 => "Apache-2.0",
        L::Gpl3 => "GPL-3.0",
        L::Agpl3 => "AGPL-3.0",
        L::Bsd3Clause => "BSD-3-Clause",
        L::Bsd2Clause => "BSD-2-Clause",
        L::Gpl2 => "GPL-2.0",
        L::Lgpl2 => "LGPL-2.1",
        L::Lgpl3 => "LGPL-3.0",
        L::Isc => "ISC",
        L::Artistic2 => "Artistic-2.0",
        L::Python2 => "Python-2.0",
        L::Php3 => "PHP-3.0",
        L::Mpl2 => "MPL-2.0",
        L::Cddl => "CDDL-1.0",
        L::Epl => "EPL-1.0",
        L::Cpal => "CPAL-1.0",
        L::Zlib => "Zlib",
    }
}

type Text<'a> = capnp::Result<capnp::text::Reader<'a>>;
type Localized<'a> = capnp::Result<localized_text::Reader<'a>>;

fn plain(text: Text<'_>) -> String {
    text.ok().map(|text| String::from_utf8_lossy(text.as_bytes()).into_owned()).unwrap_or_default()
}

fn text(localized: Localized<'_>) -> String {
    one_line(&localized.map(|l| plain(l.get_default_text())).unwrap_or_default(), MAX_TITLE)
}

fn prose(localized: Localized<'_>) -> String {
    lines(&localized.map(|l| plain(l.get_default_text())).unwrap_or_default(), MAX_PROSE)
        .trim()
        .to_owned()
}

/// Only http(s): nothing else becomes a link.
fn address(text: String) -> String {
    match url::Url::parse(text.trim()) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => url.into(),
        _ => String::new(),
    }
}

/// 2014's only label is a whole button ("New board").
fn without_new(title: &str) -> String {
    title
        .get(..4)
        .filter(|start| start.eq_ignore_ascii_case("new "))
        .map_or(title, |_| title[4..].trim())
        .to_owned()
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(build: impl FnOnce(package::manifest::Builder<'_>)) -> Manifest {
        let mut message = message::Builder::new_default();
        build(message.init_root());
        let reader = message.get_root_as_reader().unwrap();
        Manifest::parse(&copy(reader).unwrap()).unwrap()
    }

    #[test]
    fn what_this_server_cannot_run_is_refused() {
        for (least, most, word) in
            [(0, 0, None), (0, 7, None), (1, 1, Some("has 0")), (3, 2, Some("contradicts"))]
        {
            let manifest = manifest(|mut m| {
                m.set_min_api_version(least);
                m.set_max_api_version(most);
            });
            let refusal = manifest.refusal().unwrap();
            assert_eq!(refusal.is_some(), word.is_some(), "{least} {most}");
            assert!(word.is_none_or(|word| refusal.unwrap().contains(word)), "{least} {most}");
        }
    }

    #[test]
    fn a_2014_manifest_has_a_title_all_the_same() {
        let m = manifest(|mut root| {
            let mut action = root.reborrow().init_actions(1).get(0);
            action.reborrow().init_title().set_default_text("New text\nfile");
        });
        let summary = m.summary("abcdefghij").unwrap();
        assert_eq!(summary.title, "Text file");
        assert_eq!(summary.actions[0].noun, "text file");
        assert_eq!(m.details(), Details::default());
        assert_eq!(m.icon(IconSize::App), None);
        assert_eq!(manifest(|_| ()).summary("abcdefghij").unwrap().title, "App abcdefgh");
    }

    #[test]
    fn todays_manifest_is_cleaned() {
        let m = manifest(|mut root| {
            root.set_app_version(7);
            root.reborrow().init_app_title().set_default_text("Bo\u{202e}ard\u{7}");
            let mut actions = root.reborrow().init_actions(2);
            actions.reborrow().get(0).get_input().init_capability(0);
            actions.get(1).init_noun_phrase().set_default_text("board");
            let mut data = root.init_metadata();
            data.set_website("javascript:alert(1)");
            data.set_code_url("https://example.org/x");
            data.reborrow().get_license().set_open_source(package::OpenSourceLicense::Mit);
            let mut icons = data.get_icons();
            icons.reborrow().init_app_grid().set_svg("<svg/>");
            icons.init_grain().init_png().set_dpi1x(b"png");
        });
        let summary = m.summary("x").unwrap();
        assert_eq!((summary.title.as_str(), summary.app_version), ("Board", 7));
        let action = Action { position: 1, noun: "board".into(), description: String::new() };
        assert_eq!(summary.actions, [action]);
        let details = m.details();
        assert_eq!((details.website.as_str(), details.licence.as_str()), ("", "MIT"));
        assert_eq!(details.code, "https://example.org/x");
        assert_eq!(m.icon(IconSize::App).unwrap().mime, "image/svg+xml");
        assert_eq!(m.icon(IconSize::Grain).unwrap().bytes, b"png");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(0u8.., 0..300)) {
            if let Ok(m) = Manifest::parse(&bytes) {
                let _ = m.summary("x");
                let _ = (m.details(), m.icon(IconSize::Grain));
            }
        }
    }
}
