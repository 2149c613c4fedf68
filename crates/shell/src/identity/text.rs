//! What people and apps write is hostile: made fit for one line of a page.

/// Longest title or name, in characters.
pub const MAX_TITLE: usize = 200;

/// One line: no control characters, no invisible characters that turn text around, blanks
/// collapsed, cut at `max` characters. May come out empty.
pub fn one_line(text: &str, max: usize) -> String {
    let mut out = String::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()) {
        let word: String = word.chars().filter(|c| !is_format(*c)).collect();
        if word.is_empty() {
            continue;
        }
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(&word);
    }
    if out.chars().all(is_blank) {
        return String::new();
    }
    if out.chars().count() > max {
        out = out.chars().take(max.saturating_sub(1)).collect::<String>().trim_end().to_owned();
        out.push('…');
    }
    out
}

/// Several lines: control characters other than line ends and tabs are dropped.
pub fn lines(text: &str, max: usize) -> String {
    text.chars()
        .filter(|c| matches!(c, '\n' | '\t') || (!c.is_control() && !is_format(*c)))
        .take(max)
        .collect()
}

/// Characters that show nothing but change how their neighbours show (directions, tags, BOM).
/// ZWJ and ZWNJ stay: emoji and Persian need them.
fn is_format(c: char) -> bool {
    matches!(c,
        '\u{00ad}' | '\u{061c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}'
        | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Characters that have their use among others, and alone show nothing: joiners, fillers, variation
/// selectors, the empty Braille cell.
fn is_blank(c: char) -> bool {
    c.is_whitespace()
        || matches!(c,
            '\u{034f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200c}' | '\u{200d}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}'
            | '\u{e0100}'..='\u{e01ef}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_stay_on_one_line() {
        assert_eq!(one_line("  a\u{0}b\n\tc \u{202e}d\u{200b} ", 50), "a b c d");
        assert_eq!(one_line("\u{1b}[31m", 50), "[31m");
        assert_eq!(one_line("abcdef", 4), "abc…");
        assert_eq!(one_line("👩‍💻", 4), "👩‍💻");
        assert_eq!(one_line("\u{202e}\u{7}", 4), "");
        assert_eq!(one_line("\u{3164} \u{2800}\u{fe0f}\u{200d}", 9), "");
        assert_eq!(one_line("\u{2801}\u{2800}\u{2802}", 9), "\u{2801}\u{2800}\u{2802}");
        assert_eq!(lines("a\r\nb\u{7}\tc", 50), "a\nb\tc");
    }
}
