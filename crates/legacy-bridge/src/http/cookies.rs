//! `Set-Cookie` lines: what WebSession can carry of them.
//!
//! Read as browsers read them (RFC 6265 §5.2): an attribute that makes no sense is ignored, and a
//! line without a name is left out, so that one bad date never costs the whole answer. Domain,
//! Secure and SameSite have no place in the interface; the shell sets its own.

/// When a cookie ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expires {
    /// With the browser's session.
    Never,
    /// At this Unix time, in seconds.
    At(i64),
    /// This many seconds from now; 0 removes it.
    After(u64),
}

/// One cookie to set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetCookie {
    /// Never empty; no `=`, `;`, or control character.
    pub name: String,
    /// No `;` or control character. Quotes are part of it.
    pub value: String,
    /// Begins with `/`; empty for the browser's default.
    pub path: String,
    /// Hidden from scripts.
    pub http_only: bool,
    /// Max-Age if there is one, else Expires.
    pub expires: Expires,
}

/// Reads one `Set-Cookie` value; `None` when there is no cookie in it that can be set.
pub fn parse_set_cookie(line: &str) -> Option<SetCookie> {
    if line.chars().any(|c| c.is_control() && c != '\t') {
        return None;
    }
    let mut parts = line.split(';');
    let (name, value) = parts.next()?.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    if name.is_empty() {
        return None;
    }
    let mut cookie = SetCookie {
        name: name.to_owned(),
        value: value.to_owned(),
        path: String::new(),
        http_only: false,
        expires: Expires::Never,
    };
    let mut max_age = None;
    for part in parts {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        let (key, value) = (key.trim(), value.trim());
        if key.eq_ignore_ascii_case("expires") {
            if let Some(time) = parse_cookie_date(value) {
                cookie.expires = Expires::At(time);
            }
        } else if key.eq_ignore_ascii_case("max-age") {
            max_age = parse_max_age(value).or(max_age);
        } else if key.eq_ignore_ascii_case("path") {
            cookie.path = if value.starts_with('/') { value.to_owned() } else { String::new() };
        } else if key.eq_ignore_ascii_case("httponly") {
            cookie.http_only = true;
        }
    }
    if let Some(seconds) = max_age {
        cookie.expires = Expires::After(seconds);
    }
    Some(cookie)
}

/// Zero and negative numbers remove the cookie now.
fn parse_max_age(value: &str) -> Option<u64> {
    let (negative, digits) = match value.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // Browsers cap it far below this.
    Some(if negative { 0 } else { digits.parse().unwrap_or(u64::from(u32::MAX)) })
}

/// The forgiving date of RFC 6265 §5.1.1: it takes every spelling in use, RFC 1123, RFC 850,
/// asctime, Netscape's with dashes, with two or four digits of the year. Unix seconds.
pub fn parse_cookie_date(text: &str) -> Option<i64> {
    let (mut time, mut day, mut month, mut year) = (None, None, None, None);
    let is_delimiter =
        |c: char| matches!(c, '\t' | ' '..='/' | ';'..='@' | '['..='`' | '{'..='~') && c != ':';
    for token in text.split(is_delimiter).filter(|t| !t.is_empty()) {
        if time.is_none() && token.contains(':') {
            time = parse_clock(token);
            continue;
        }
        let digits = token.bytes().take_while(u8::is_ascii_digit).count();
        if day.is_none() && (1..=2).contains(&digits) {
            day = token[..digits].parse::<i64>().ok();
        } else if month.is_none() && digits == 0 {
            month = parse_month(token);
        } else if year.is_none() && (2..=4).contains(&digits) {
            year = token[..digits].parse::<i64>().ok().map(|y| match (digits, y) {
                (2, 70..=99) => y + 1900,
                (2, 0..=69) => y + 2000,
                _ => y,
            });
        }
    }
    let (time, day, month, year) = (time?, day?, month?, year?);
    if !(1..=31).contains(&day) || year < 1601 {
        return None;
    }
    Some(days_since_epoch(year, month, day) * 86_400 + time)
}

/// `h:m:s`, in seconds.
fn parse_clock(token: &str) -> Option<i64> {
    let mut total = 0;
    let mut parts = token.split(':');
    for limit in [23, 59, 59] {
        let part = parts.next()?;
        let digits = part.bytes().take_while(u8::is_ascii_digit).count();
        let value =
            if (1..=2).contains(&digits) { part[..digits].parse::<i64>().ok()? } else { 60 };
        if value > limit {
            return None;
        }
        total = total * 60 + value;
    }
    Some(total)
}

fn parse_month(token: &str) -> Option<i64> {
    const MONTHS: [&str; 12] =
        ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let prefix = token.get(..3)?.to_ascii_lowercase();
    MONTHS.iter().position(|m| *m == prefix).map(|at| at as i64 + 1)
}

/// Days from 1970-01-01 in the Gregorian calendar; years are counted from March so that the leap
/// day comes last.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let era_days = year * 365 + year / 4 - year / 100 + year / 400;
    era_days + (month * 153 + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_spellings_of_a_date() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "Sun, 06-Nov-1994 08:49:37 GMT",
            "6 November 1994 8:49:37",
        ] {
            assert_eq!(parse_cookie_date(text), Some(784_111_777), "{text}");
        }
        assert_eq!(parse_cookie_date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(parse_cookie_date("Tue, 29 Feb 2028 12:00:00 GMT"), Some(1_835_438_400));
        for text in ["", "never", "Sun, 06 Nov 1994", "Sun, 41 Nov 1994 08:49:37", "1:2:3 4 May 1"]
        {
            assert_eq!(parse_cookie_date(text), None, "{text}");
        }
    }

    #[test]
    fn ordinary_and_removed() {
        let s = parse_set_cookie("s=1; Path=/").unwrap();
        assert_eq!((s.name.as_str(), s.value.as_str(), s.path.as_str()), ("s", "1", "/"));
        assert_eq!(s.expires, Expires::Never);
        let t = parse_set_cookie("t=; Expires=Thu, 01 Jan 1970 00:00:00 GMT").unwrap();
        assert_eq!((t.value.as_str(), t.expires), ("", Expires::At(0)));
        let u = parse_set_cookie("u=\"a=b\"; HttpOnly; Max-Age=-5; SameSite=Lax").unwrap();
        assert_eq!((u.value.as_str(), u.http_only), ("\"a=b\"", true));
        assert_eq!(u.expires, Expires::After(0));
    }

    #[test]
    fn bad_attributes_are_ignored_and_nameless_lines_left_out() {
        let c = parse_set_cookie("a=b; Expires=soon; Max-Age=x; Path=rel; Foo").unwrap();
        assert_eq!((c.expires, c.path.as_str()), (Expires::Never, ""));
        let c = parse_set_cookie("a=b; Max-Age=10; Expires=Thu, 01 Jan 1970 00:00:00 GMT").unwrap();
        assert_eq!(c.expires, Expires::After(10));
        for line in ["", "novalue", "=x", "a\u{1}=b", "a=b\r\nc: d"] {
            assert_eq!(parse_set_cookie(line), None, "{line:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_stays_clean(line in "\\PC{0,80}") {
            if let Some(c) = parse_set_cookie(&line) {
                proptest::prop_assert!(!c.name.is_empty() && !c.name.contains(['=', ';']));
                proptest::prop_assert!(!c.value.contains(';'));
            }
        }

        #[test]
        fn dates_round_trip(day in 0i64..40_000, clock in 0i64..86_400) {
            let time = std::time::UNIX_EPOCH
                + std::time::Duration::from_secs((day * 86_400 + clock) as u64);
            let text = httpdate::fmt_http_date(time);
            proptest::prop_assert_eq!(parse_cookie_date(&text), Some(day * 86_400 + clock));
        }
    }
}
