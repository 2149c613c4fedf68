//! An app's output on a person's terminal.
//!
//! Trust: the bytes are the app's choice, and a terminal obeys what it is sent: titles, colours,
//! its own answers typed into the shell that comes next. So only text, line ends and tabs reach
//! one; everything else is shown as an escape, which costs nothing where it is honest.

use std::io::{self, Write};

/// Longest character in UTF-8.
const LONGEST: usize = 4;

/// Passes bytes on and shows what a terminal would obey.
pub struct Shown<W> {
    out: W,
    /// The beginning of a character whose rest comes with the next chunk.
    begun: Vec<u8>,
}

impl<W: Write> Shown<W> {
    pub fn new(out: W) -> Shown<W> {
        Shown { out, begun: Vec::with_capacity(LONGEST) }
    }

    /// The last piece: what was begun does not go on.
    ///
    /// # Errors
    /// Those of the output.
    pub fn finish(mut self) -> io::Result<()> {
        let begun = std::mem::take(&mut self.begun);
        self.out.write_all(bytes(&begun).as_bytes())?;
        self.out.flush()
    }
}

impl<W: Write> Write for Shown<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut all = std::mem::take(&mut self.begun);
        all.extend_from_slice(data);
        // Whether it ends a line shows with the next byte.
        let returns = all.pop_if(|last| *last == b'\r');
        let mut shown = String::with_capacity(all.len());
        let mut rest = &all[..];
        while let Some(chunk) = rest.utf8_chunks().next() {
            text(chunk.valid(), &mut shown);
            let invalid = chunk.invalid();
            rest = &rest[chunk.valid().len() + invalid.len()..];
            if rest.is_empty() && is_begun(invalid) {
                self.begun = invalid.to_vec();
            } else {
                shown.push_str(&bytes(invalid));
            }
        }
        self.begun.extend(returns);
        self.out.write_all(shown.as_bytes())?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Could these bytes, at the end of a chunk, be the beginning of a character?
fn is_begun(bytes: &[u8]) -> bool {
    !bytes.is_empty() && std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

/// The same of a text that is whole.
pub fn shown(said: &str) -> String {
    let mut out = String::with_capacity(said.len());
    text(said, &mut out);
    out
}

fn text(said: &str, out: &mut String) {
    let mut rest = said.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\n' | '\t' => out.push(c),
            // A line end as some systems write it. Alone it would write over the line.
            '\r' if rest.peek() == Some(&'\n') => {}
            // C0, DEL and C1 (among them the one-character form of ESC [), and what turns
            // neighbours around.
            c if c.is_control() || turns_text(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
}

/// Characters that set the direction of text: a line would read as another.
fn turns_text(c: char) -> bool {
    matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
}

/// Bytes that are no text: some terminals take 0x80 to 0x9f for commands.
fn bytes(data: &[u8]) -> String {
    data.iter().map(|byte| format!("\\x{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_chunks(data: &[u8], size: usize) -> String {
        let mut out = Vec::new();
        let mut shown = Shown::new(&mut out);
        for chunk in data.chunks(size) {
            shown.write_all(chunk).unwrap();
        }
        shown.finish().unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_passes_and_commands_are_shown() {
        for (data, shown) in [
            (&b"plain\ttext\n"[..], "plain\ttext\n"),
            ("Grün 👩‍💻 ok\n".as_bytes(), "Grün 👩‍💻 ok\n"),
            (b"\x1b]0;title\x07\x1b[31mred\n", "\\u{1b}]0;title\\u{7}\\u{1b}[31mred\n"),
            (b"a\r\nb\rc\n", "a\nb\\u{d}c\n"),
            ("\u{9b}31m \u{202e}x".as_bytes(), "\\u{9b}31m \\u{202e}x"),
            (b"\x9b31m \xff\xc3", "\\x9b31m \\xff\\xc3"),
            (b"\x08\x7f\0", "\\u{8}\\u{7f}\\u{0}"),
        ] {
            for size in [1, 2, 3, 1000] {
                assert_eq!(in_chunks(data, size), shown, "{data:?} by {size}");
            }
        }
    }

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        for byte in 0..=255u8 {
            for next in [b'a', 0x1b, 0x9b, 0xc2, 0xe2] {
                let shown = in_chunks(&[byte, next, b'['], 2);
                let bad = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
                assert!(!shown.contains(bad), "{byte:x} {next:x}: {shown:?}");
            }
        }
    }
}
