//! Small header values: ETag, Content-Disposition's file name, DAV classes, percent-encoding, quality.

/// An entity tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ETag {
    /// Between the quotes.
    pub value: String,
    /// `W/`.
    pub weak: bool,
}

impl ETag {
    /// Reads `"…"` or `W/"…"`; `None` for everything else.
    pub fn parse(text: &str) -> Option<ETag> {
        let (weak, rest) = match text.strip_prefix("W/") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let value = rest.strip_prefix('"')?.strip_suffix('"')?;
        let clean = value.chars().all(|c| c != '"' && c > ' ' && c != '\u{7f}');
        clean.then(|| ETag { value: value.to_owned(), weak })
    }

    /// As it stands in a header. `None` when the value cannot stand in quotes.
    pub fn write(value: &str, weak: bool) -> Option<String> {
        let clean = value.chars().all(|c| c != '"' && !c.is_control());
        clean.then(|| format!("{}\"{value}\"", if weak { "W/" } else { "" }))
    }
}

/// The plain `filename` of `attachment; filename="…"`. Quoted names may use backslashes; unquoted
/// ones end at a blank or semicolon. `None` unless this is an attachment with such a name.
pub fn attachment_name(value: &str) -> Option<String> {
    let (kind, mut rest) = value.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("attachment") {
        return None;
    }
    loop {
        rest = rest.trim_start_matches([' ', '\t', ';']);
        let (key, after) = rest.split_once('=')?;
        let (text, after) = take_parameter(after.trim_start())?;
        if key.trim().eq_ignore_ascii_case("filename") {
            return Some(text);
        }
        rest = after;
    }
}

/// One parameter's value and what follows it.
fn take_parameter(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([';', ' ', '\t']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut out = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((out, &quoted[at + 1..])),
            '\\' => out.push(chars.next()?.1),
            c => out.push(c),
        }
    }
    None
}

/// What an OPTIONS answer says of WebDAV.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct DavClasses {
    /// Class 1.
    pub class1: bool,
    /// Class 2.
    pub class2: bool,
    /// Class 3.
    pub class3: bool,
    /// All other words, in order.
    pub extensions: Vec<String>,
}

impl DavClasses {
    /// Adds the words of one `DAV` header.
    pub fn add(&mut self, value: &str) {
        for word in value.split(',').map(str::trim).filter(|w| !w.is_empty()) {
            match word {
                "1" => self.class1 = true,
                "2" => self.class2 = true,
                "3" => self.class3 = true,
                other => self.extensions.push(other.to_owned()),
            }
        }
    }
}

/// Percent-encodes as JavaScript's encodeURIComponent does, UTF-8.
pub fn encode_uri_component(text: &str) -> String {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    const SET: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'_')
        .remove(b'.')
        .remove(b'!')
        .remove(b'~')
        .remove(b'*')
        .remove(b'\'')
        .remove(b'(')
        .remove(b')');
    utf8_percent_encode(text, SET).to_string()
}

/// A quality value as HTTP writes it, `None` for 1: at most three decimals, never above 1.
pub fn q_value(q: f32) -> Option<String> {
    if !(0.0..1.0).contains(&q) {
        return None;
    }
    let text = format!("{q:.3}");
    Some(text.trim_end_matches('0').trim_end_matches('.').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etags() {
        let tag = |value: &str, weak| Some(ETag { value: value.into(), weak });
        assert_eq!(ETag::parse("\"a\""), tag("a", false));
        assert_eq!(ETag::parse("W/\"a-b\""), tag("a-b", true));
        assert_eq!(ETag::parse("\"\""), tag("", false));
        for bad in ["abc", "\"a", "a\"", "\"a\"b\"", "w/\"a\"", "\"a b\"", "\"", ""] {
            assert_eq!(ETag::parse(bad), None, "{bad}");
        }
        assert_eq!(ETag::write("a", true).as_deref(), Some("W/\"a\""));
        assert_eq!(ETag::write("a\"", false), None);
    }

    #[test]
    fn attachment_names() {
        for (value, name) in [
            ("attachment; filename=\"r.txt\"; filename*=UTF-8''r%C3%A9.txt", Some("r.txt")),
            ("attachment; filename*=UTF-8''x; filename=\"r.txt\"", Some("r.txt")),
            ("Attachment;filename=plain.txt", Some("plain.txt")),
            ("attachment; filename=\"a\\\"b;c.txt\"; size=3", Some("a\"b;c.txt")),
            ("attachment; size=\"1;2\"; filename=x", Some("x")),
            ("attachment", None),
            ("inline; filename=\"x\"", None),
            ("attachment; filename=\"open", None),
            ("attachment; filename*=UTF-8''x", None),
        ] {
            assert_eq!(attachment_name(value).as_deref(), name, "{value}");
        }
    }

    #[test]
    fn dav() {
        let mut classes = DavClasses::default();
        classes.add("1, 2, calendar-access");
        classes.add("addressbook");
        assert!(classes.class1 && classes.class2 && !classes.class3);
        assert_eq!(classes.extensions, ["calendar-access", "addressbook"]);
    }

    #[test]
    fn encodings() {
        assert_eq!(encode_uri_component("Anonymous User"), "Anonymous%20User");
        assert_eq!(encode_uri_component("Žába/(x)'!"), "%C5%BD%C3%A1ba%2F(x)'!");
        assert_eq!(q_value(0.5).as_deref(), Some("0.5"));
        assert_eq!(q_value(0.0).as_deref(), Some("0"));
        assert_eq!(q_value(1.0), None);
        assert_eq!(q_value(f32::NAN), None);
    }

    proptest::proptest! {
        #[test]
        fn no_panic(text in "\\PC{0,60}") {
            let _ = attachment_name(&text);
            let _ = attachment_name(&format!("attachment; {text}"));
            if let Some(tag) = ETag::parse(&text) {
                proptest::prop_assert_eq!(ETag::write(&tag.value, tag.weak), Some(text));
            }
        }
    }
}
