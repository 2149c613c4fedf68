//! The text and the counter, in /var, durable before a write is acknowledged.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

const TEXT: &str = "/var/text";
const COUNT: &str = "/var/count";

/// What the grain remembers.
#[derive(Debug)]
pub struct Store;

impl Store {
    /// # Errors
    /// When /var cannot be read.
    pub fn open() -> io::Result<Store> {
        fs::read_dir("/var")?;
        Ok(Store)
    }

    /// The stored text; empty at first.
    pub fn text(&self) -> String {
        fs::read(TEXT).map_or_else(|_| String::new(), |b| String::from_utf8_lossy(&b).into_owned())
    }

    /// How often something was stored.
    pub fn count(&self) -> u64 {
        fs::read_to_string(COUNT).ok().and_then(|t| t.trim().parse().ok()).unwrap_or(0)
    }

    /// Replaces the text and counts; both are on disk when this returns.
    ///
    /// # Errors
    /// A full disk, say.
    pub fn save(&self, text: &[u8]) -> io::Result<u64> {
        let count = self.count() + 1;
        write_durably(TEXT, text)?;
        write_durably(COUNT, count.to_string().as_bytes())?;
        Ok(count)
    }
}

fn write_durably(path: &str, bytes: &[u8]) -> io::Result<()> {
    let new = format!("{path}.new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(Path::new(path).parent().unwrap_or(Path::new("/")))?.sync_all()
}
