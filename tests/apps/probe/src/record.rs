//! What the probe remembers for the tests, and how it writes JSON.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Requests that are remembered.
const MAX_REQUESTS: usize = 64;

/// Everything the probe remembers.
pub struct Record {
    pub connections: AtomicU64,
    open: AtomicU64,
    requests: Mutex<Vec<String>>,
    tags: Mutex<BTreeMap<String, Tag>>,
    pub scripts: Mutex<BTreeMap<String, String>>,
    bells: Mutex<BTreeMap<String, u64>>,
    start: Instant,
}

/// One tagged request.
#[derive(Clone)]
struct Tag {
    state: &'static str,
    read: u64,
    written: u64,
    since: u128,
}

impl Default for Record {
    fn default() -> Self {
        Record {
            connections: AtomicU64::new(0),
            open: AtomicU64::new(0),
            requests: Mutex::default(),
            tags: Mutex::default(),
            scripts: Mutex::default(),
            bells: Mutex::default(),
            start: Instant::now(),
        }
    }
}

/// Counts an open connection while it lives.
pub struct Open<'a>(&'a Record);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Record {
    pub fn open_guard(&self) -> Open<'_> {
        self.open.fetch_add(1, Ordering::SeqCst);
        Open(self)
    }

    pub fn remember(&self, json: String) {
        let mut requests = self.requests.lock().expect("lock");
        if requests.len() == MAX_REQUESTS {
            requests.remove(0);
        }
        requests.push(json);
    }

    pub fn requests_json(&self) -> String {
        format!("[{}]", self.requests.lock().expect("lock").join(",\n"))
    }

    /// Lets whoever waits for this bell go one step on.
    pub fn ring(&self, bell: &str) {
        *self.bells.lock().expect("lock").entry(bell.to_owned()).or_default() += 1;
    }

    /// How often the bell was rung so far.
    pub fn rung(&self, bell: &str) -> u64 {
        self.bells.lock().expect("lock").get(bell).copied().unwrap_or(0)
    }

    /// Notes where a tagged request stands.
    pub fn tag(&self, tag: Option<&str>, state: &'static str, read: u64, written: u64) {
        let Some(tag) = tag else { return };
        let since = self.start.elapsed().as_millis();
        let entry = Tag { state, read, written, since };
        self.tags.lock().expect("lock").insert(tag.to_owned(), entry);
    }

    pub fn stats_json(&self, only: Option<&str>) -> String {
        let tags: Vec<String> = self
            .tags
            .lock()
            .expect("lock")
            .iter()
            .filter(|(name, _)| only.is_none_or(|o| o == *name))
            .map(|(name, t)| {
                format!(
                    "{}:{{\"state\":\"{}\",\"read\":{},\"written\":{},\"since\":{}}}",
                    quote(name),
                    t.state,
                    t.read,
                    t.written,
                    t.since
                )
            })
            .collect();
        format!(
            "{{\"now\":{},\"connections\":{},\"open\":{},\"tags\":{{{}}}}}",
            self.start.elapsed().as_millis(),
            self.connections.load(Ordering::SeqCst),
            self.open.load(Ordering::SeqCst),
            tags.join(",")
        )
    }
}

/// A JSON string.
pub fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if (c as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
