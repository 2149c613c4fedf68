//! What a package says of itself, as `spk verify` prints it: in the form that today's tool has,
//! which is for people, and as strict JSON with nothing left out.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use capnp::{dynamic_struct, dynamic_value};
use sandstorm_schema::ids::{AppId, PackageId};
use sandstorm_schema::package_capnp::manifest;

use crate::error::{Error, Result, is_hidden};

/// Texts and data up to this many bytes are printed whole for people.
const SHORT: usize = 256;

/// A value with its order kept.
enum Value {
    Null,
    Bool(bool),
    /// A number, or `true`-like word that needs no quotes.
    Word(String),
    Text(String),
    Data(Vec<u8>),
    List(Vec<Value>),
    Object(Vec<(String, Value)>),
}

/// The facts about a verified package.
pub struct Info(Value);

impl Info {
    /// Collects them. `fingerprint` is that of the author's PGP key, when it was checked.
    ///
    /// # Errors
    /// A manifest that was not checked before.
    pub fn new(
        app: AppId,
        package: PackageId,
        manifest: manifest::Reader<'_>,
        fingerprint: Option<&str>,
    ) -> Result<Info> {
        let fields = collect(app, package, manifest, fingerprint);
        Ok(Info(Value::Object(fields.map_err(|e| Error::Manifest(e.to_string()))?)))
    }

    /// For people: long values are replaced by their size.
    pub fn for_people(&self) -> String {
        let mut out = String::new();
        print(&self.0, Style::People, 0, &mut out);
        out.push('\n');
        out
    }

    /// Strict JSON; data is base64 in a string.
    pub fn json(&self) -> String {
        let mut out = String::new();
        print(&self.0, Style::Json, 0, &mut out);
        out.push('\n');
        out
    }
}

fn collect(
    app: AppId,
    package: PackageId,
    manifest: manifest::Reader<'_>,
    fingerprint: Option<&str>,
) -> capnp::Result<Vec<(String, Value)>> {
    let mut fields = vec![
        ("appId".to_owned(), Value::Text(app.to_string())),
        ("packageId".to_owned(), Value::Text(package.to_string())),
    ];
    if manifest.has_app_title() {
        fields.push(("title".into(), any(manifest.get_app_title()?)?));
    }
    fields.push(("version".into(), Value::Word(manifest.get_app_version().to_string())));
    if manifest.has_app_marketing_version() {
        fields.push(("marketingVersion".into(), any(manifest.get_app_marketing_version()?)?));
    }
    if let Some(fingerprint) = fingerprint {
        fields.push(("authorPgpKeyFingerprint".into(), Value::Text(fingerprint.into())));
    }
    if manifest.has_metadata() {
        fields.push(("metadata".into(), any(manifest.get_metadata()?)?));
    }
    Ok(fields)
}

fn any<'a>(value: impl Into<dynamic_value::Reader<'a>>) -> capnp::Result<Value> {
    convert(value.into())
}

fn convert(value: dynamic_value::Reader<'_>) -> capnp::Result<Value> {
    use dynamic_value::Reader as R;
    Ok(match value {
        R::Void => Value::Null,
        R::Bool(b) => Value::Bool(b),
        R::Int8(n) => Value::Word(n.to_string()),
        R::Int16(n) => Value::Word(n.to_string()),
        R::Int32(n) => Value::Word(n.to_string()),
        R::UInt8(n) => Value::Word(n.to_string()),
        R::UInt16(n) => Value::Word(n.to_string()),
        R::UInt32(n) => Value::Word(n.to_string()),
        // JSON's numbers are not wide enough.
        R::Int64(n) => Value::Text(n.to_string()),
        R::UInt64(n) => Value::Text(n.to_string()),
        R::Float32(n) => Value::Word(n.to_string()),
        R::Float64(n) => Value::Word(n.to_string()),
        R::Enum(e) => match e.get_enumerant()? {
            Some(known) => Value::Text(
                String::from_utf8_lossy(known.get_proto().get_name()?.as_bytes()).into(),
            ),
            None => Value::Word(e.get_value().to_string()),
        },
        R::Text(text) => Value::Text(String::from_utf8_lossy(text.as_bytes()).into()),
        R::Data(data) => Value::Data(data.to_vec()),
        R::Struct(object) => Value::Object(convert_struct(object)?),
        R::List(list) => {
            Value::List(list.iter().map(|item| convert(item?)).collect::<capnp::Result<_>>()?)
        }
        R::AnyPointer(_) | R::Capability(_) => Value::Null,
    })
}

fn convert_struct(object: dynamic_struct::Reader<'_>) -> capnp::Result<Vec<(String, Value)>> {
    let mut fields = Vec::new();
    let union_member = object.which()?;
    for field in object.get_schema().get_non_union_fields()?.iter().chain(union_member) {
        if object.has(field)? {
            let name = String::from_utf8_lossy(field.get_proto().get_name()?.as_bytes()).into();
            fields.push((name, convert(object.get(field)?)?));
        }
    }
    Ok(fields)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    People,
    Json,
}

fn print(value: &Value, style: Style, indent: usize, out: &mut String) {
    // Writing to a String cannot fail.
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Word(word) => out.push_str(word),
        Value::Text(text) if style == Style::People && text.len() > SHORT => {
            let _ = write!(out, "LargeTextBlob({})", text.len());
        }
        Value::Text(text) => quote(text, style, out),
        Value::Data(data) => match style {
            Style::Json => quote(&BASE64.encode(data), style, out),
            Style::People if data.len() > SHORT => {
                let _ = write!(out, "LargeDataBlob({})", data.len());
            }
            Style::People => {
                let _ = write!(out, "Base64(\"{}\")", BASE64.encode(data));
            }
        },
        Value::List(items) => {
            let printed = items.iter().map(|item| (None, item)).collect::<Vec<_>>();
            group(&printed, ('[', ']'), style, indent, out);
        }
        Value::Object(fields) => {
            let printed =
                fields.iter().map(|(name, value)| (Some(&name[..]), value)).collect::<Vec<_>>();
            group(&printed, ('{', '}'), style, indent, out);
        }
    }
}

fn group(
    items: &[(Option<&str>, &Value)],
    brackets: (char, char),
    style: Style,
    indent: usize,
    out: &mut String,
) {
    // A lone simple member stays on its line: {"defaultText": "…"}.
    let short = match items {
        [] => true,
        [(_, only)] => !matches!(only, Value::List(_) | Value::Object(_)),
        _ => false,
    };
    out.push(brackets.0);
    for (i, (name, value)) in items.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        if !short {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', 2 * (indent + 1)));
        }
        if let Some(name) = name {
            quote(name, style, out);
            out.push_str(": ");
        }
        print(value, style, indent + 1, out);
    }
    if !short {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', 2 * indent));
    }
    out.push(brackets.1);
}

fn quote(text: &str, style: Style, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '/' if style == Style::People => out.push_str("\\/"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // The package chose these; a terminal must not obey them.
            c if c.is_control() || is_hidden(c) => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Links that a store page would show must lead to the web.
///
/// # Errors
/// `website` or `codeUrl` is something else.
pub fn check_links(manifest: manifest::Reader<'_>) -> Result<()> {
    let failed = |e: capnp::Error| Error::Manifest(e.to_string());
    if !manifest.has_metadata() {
        return Ok(());
    }
    let metadata = manifest.get_metadata().map_err(failed)?;
    let links = [("website", metadata.get_website()), ("codeUrl", metadata.get_code_url())];
    for (name, link) in links {
        let link = link.map_err(failed)?;
        let link = link.as_bytes();
        if !link.is_empty() && !link.starts_with(b"http://") && !link.starts_with(b"https://") {
            return Err(Error::Manifest(format!(
                "{name} must begin with http:// or https://, not `{}`",
                crate::error::display_bytes(link)
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use capnp::message::Builder;
    use sandstorm_schema::package_capnp::{Category, OpenSourceLicense};

    fn sample() -> Builder<capnp::message::HeapAllocator> {
        let mut message = Builder::new_default();
        let mut root = message.init_root::<manifest::Builder<'_>>();
        root.set_app_version(7);
        root.reborrow().init_app_title().set_default_text("A \"b\"/c\u{1b}");
        let mut metadata = root.init_metadata();
        metadata.set_website("https://example.com/");
        metadata.reborrow().init_license().set_open_source(OpenSourceLicense::Mit);
        metadata.reborrow().init_categories(1).set(0, Category::Office);
        metadata.set_pgp_keyring(&[1, 2, 3]);
        metadata.reborrow().init_description().set_default_text("x".repeat(257));
        let mut icon = metadata.init_icons().init_grain().init_png();
        icon.set_dpi1x(&[0; 257]);
        message
    }

    fn info() -> Info {
        let message = sample();
        let root = message.get_root_as_reader::<manifest::Reader<'_>>().unwrap();
        check_links(root).unwrap();
        Info::new(AppId([255; 32]), PackageId([1; 16]), root, Some("ABCD")).unwrap()
    }

    #[test]
    fn people_see_sizes_and_escapes() {
        let text = info().for_people();
        for part in [
            "\"appId\": \"zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzh\"",
            "\"packageId\": \"01010101010101010101010101010101\"",
            "\"title\": {\"defaultText\": \"A \\\"b\\\"\\/c\\u001b\"}",
            "\"version\": 7",
            "\"authorPgpKeyFingerprint\": \"ABCD\"",
            "\"website\": \"https:\\/\\/example.com\\/\"",
            "\"openSource\": \"mit\"",
            "\"categories\": [\"office\"]",
            "\"pgpKeyring\": Base64(\"AQID\")",
            "\"defaultText\": LargeTextBlob(257)",
            "\"dpi1x\": LargeDataBlob(257)",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert!(!text.contains("marketingVersion") && !text.contains("codeUrl"));
    }

    #[test]
    fn json_is_json_and_whole() {
        let value: serde_json::Value = serde_json::from_str(&info().json()).unwrap();
        assert_eq!(value["title"]["defaultText"], "A \"b\"/c\u{1b}");
        assert_eq!(value["metadata"]["pgpKeyring"], "AQID");
        assert_eq!(
            value["metadata"]["description"]["defaultText"].as_str().map(str::len),
            Some(257)
        );
    }

    #[test]
    fn nothing_turns_the_direction_of_a_terminal() {
        let mut out = String::new();
        quote("a\u{202e}b\u{85}\u{feff}", Style::People, &mut out);
        assert_eq!(out, "\"a\\u202eb\\u0085\\ufeff\"");
        assert_eq!(serde_json::from_str::<String>(&out).unwrap(), "a\u{202e}b\u{85}\u{feff}");
    }

    #[test]
    fn links_must_lead_to_the_web() {
        let mut message = sample();
        let root = message.get_root::<manifest::Builder<'_>>().unwrap();
        root.get_metadata().unwrap().set_code_url("javascript:alert(1)");
        let root = message.get_root_as_reader::<manifest::Reader<'_>>().unwrap();
        assert!(check_links(root).unwrap_err().to_string().contains("codeUrl"));
    }
}
