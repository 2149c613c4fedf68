//! Why an installation ended, in the words of its page.

use std::fmt;

use http::StatusCode;
use sandstorm_schema::limits::INSTALL_RESERVE;

use crate::disk::Disk;

/// A failure with a code that stands on the page and in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Such as `PKG-SIG-8K2M`.
    pub code: String,
    /// One or two sentences: what happened, and what to do.
    pub words: String,
    /// The machine was at fault, not the file: the same file may work later.
    pub again: bool,
}

impl Failure {
    /// Of the answer that tells it.
    pub fn status(&self) -> StatusCode {
        let is = |kind: &str| self.code.starts_with(kind);
        match self.again {
            false => StatusCode::UNPROCESSABLE_ENTITY,
            true if is("PKG-BUSY") => StatusCode::SERVICE_UNAVAILABLE,
            true if is("PKG-DISK") => StatusCode::INSUFFICIENT_STORAGE,
            // More than this person may have; the server itself is well.
            true if is(super::budget::NO_ROOM) => StatusCode::PAYLOAD_TOO_LARGE,
            true => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The file is at fault.
    pub fn file(kind: &str, words: impl Into<String>) -> Failure {
        Failure { code: coded(kind), words: words.into(), again: false }
    }

    /// This machine is at fault.
    pub fn machine(kind: &str, words: impl Into<String>) -> Failure {
        Failure { code: coded(kind), words: words.into(), again: true }
    }

    /// An input or output error here; a full disk is told with its numbers.
    pub fn io(home: &std::path::Path, doing: &str, error: &std::io::Error) -> Failure {
        if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) {
            return Failure::disk_full(home, None);
        }
        Failure::machine("PKG-IO", format!("This server could not {doing}: {error}."))
    }

    /// No room: what is free, what of it is kept back, and who can help. `size`: bytes of the file,
    /// where they are known.
    pub fn disk_full(home: &std::path::Path, size: Option<u64>) -> Failure {
        let free = free_bytes(home);
        let kept = bytes(INSTALL_RESERVE);
        let free_words = free.map(bytes);
        let what = match (size, free_words) {
            (Some(size), Some(free)) => format!(
                "There is no room for this file on the server's disk: it has {}, {free} are free, \
                 and {kept} are kept back so that grains can go on saving.",
                bytes(size)
            ),
            (None, Some(free)) => format!(
                "The server's disk is full: {free} are free, and the last {kept} are kept back so \
                 that grains can go on saving."
            ),
            (_, None) => "The server's disk is full.".to_owned(),
        };
        Failure::machine(
            "PKG-DISK",
            format!("{what} Ask whoever runs this server to make room, then try again."),
        )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} Code {}", self.words, self.code)
    }
}

/// A kind with four random characters behind it, so that one occurrence can be found in the log.
pub fn coded(kind: &str) -> String {
    const LETTERS: &[u8; 32] = b"23456789ABCDEFGHJKLMNPQRSTUVWXYZ";
    let random: [u8; 4] = crate::store::random();
    let suffix: String = random.iter().map(|b| LETTERS[usize::from(b % 32)] as char).collect();
    format!("{kind}-{suffix}")
}

/// Bytes free to us on the file system of `path`.
pub fn free_bytes(path: &std::path::Path) -> Option<u64> {
    Disk::of(path).map(|disk| disk.free)
}

/// A number with commas: "4,000,000".
pub fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// A size as people read it: "2.1 GB".
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if n < 1000 {
        return if n == 1 { "1 byte".into() } else { format!("{n} bytes") };
    }
    let mut value = n as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if value < 9.95 {
        format!("{value:.1} {}", UNITS[unit])
    } else {
        format!("{value:.0} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        for (n, text) in [
            (0, "0 bytes"),
            (1, "1 byte"),
            (999, "999 bytes"),
            (1000, "1.0 kB"),
            (9_949, "9.9 kB"),
            (9_950, "10 kB"),
            (28_000_000, "28 MB"),
            (999_600, "1.0 MB"),
            (2_100_000_000, "2.1 GB"),
        ] {
            assert_eq!(bytes(n), text);
        }
    }

    #[test]
    fn the_status_says_whose_fault_it_is() {
        let of = |failure: Failure| failure.status().as_u16();
        assert_eq!(of(Failure::file("PKG-BAD", "")), 422);
        assert_eq!(of(Failure::machine("PKG-BUSY", "")), 503);
        assert_eq!(of(Failure::disk_full(std::path::Path::new("/"), None)), 507);
        assert_eq!(of(Failure::machine("PKG-BUDGET", "")), 413);
        assert_eq!(of(Failure::machine("S-DB", "")), 500);
    }

    #[test]
    fn a_full_disk_is_told_with_numbers() {
        let failure = Failure::disk_full(std::path::Path::new("/"), Some(2_100_000_000));
        assert!(failure.words.contains("it has 2.1 GB, "), "{failure}");
        assert!(failure.words.contains("268 MB are kept back"), "{failure}");
        assert!(failure.code.starts_with("PKG-DISK-") && failure.code.len() == 13);
        let error = std::io::Error::from_raw_os_error(libc::ENOSPC);
        let failure = Failure::io(std::path::Path::new("/"), "write", &error);
        assert!(failure.words.contains("the last 268 MB are kept back"), "{failure}");
    }
}
