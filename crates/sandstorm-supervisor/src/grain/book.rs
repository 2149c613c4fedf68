//! The grain's limits as they stand: what keeps each, how much is used, how often it was met.
//!
//! Trust: numbers of the kernel and of this program; nothing of the app's.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use super::app::App;
use super::life::Life;
use super::log::Log;
use super::storage::Usage;
use crate::sandbox::counters::{Counters, MemoryEvents};
use crate::sandbox::limits::{Floor, Limits};
use crate::sandbox::share::{CPU, MEMORY, PIDS};

/// One limit now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub name: &'static str,
    pub value: u64,
    /// What keeps it.
    pub by: &'static str,
    /// In the limit's unit; 0 where nobody counts.
    pub used: u64,
    /// Times it was met.
    pub hits: u64,
}

/// What keeps them.
pub struct Keepers {
    pub floor: Floor,
    /// What keeps the limits of bytes and inodes.
    pub disk: &'static str,
    /// Which control group version keeps memory, pids, cpu; 0 for none.
    pub limited: [u8; 3],
}

/// Everything that is known about them.
pub struct Book {
    pub limits: Limits,
    keepers: Keepers,
    pub counters: Counters,
    pub memory: Option<Rc<MemoryEvents>>,
    pub log: Rc<Log>,
    app: Rc<App>,
    usage: Cell<Usage>,
    filled: Cell<u64>,
    /// How often `/tmp` or `/dev/shm` was found full, and whether it was at the last look.
    crammed: Cell<(u64, bool)>,
}

impl Book {
    pub fn new(
        limits: Limits,
        keepers: Keepers,
        counters: Counters,
        memory: Option<Rc<MemoryEvents>>,
        log: Rc<Log>,
        app: Rc<App>,
    ) -> Rc<Book> {
        let (usage, filled, crammed) = (Cell::default(), Cell::default(), Cell::default());
        Rc::new(Book { limits, keepers, counters, memory, log, app, usage, filled, crammed })
    }

    /// A new measurement of the disk.
    pub fn measured(&self, usage: Usage) {
        self.usage.set(usage);
    }

    /// The disk limit was reached.
    pub fn filled_up(&self) {
        self.filled.set(self.filled.get() + 1);
    }

    /// Bytes in the fuller of `/tmp` and `/dev/shm`, and how often one was found full.
    fn temporary(&self) -> (u64, u64) {
        let (mut most, mut full) = (0, false);
        for mount in self.app.temporary().into_iter().flatten() {
            let Ok(now) = rustix::fs::fstatvfs(mount) else { continue };
            most = most.max((now.f_blocks - now.f_bfree) * now.f_frsize);
            full |= now.f_bfree == 0 || now.f_ffree == 0;
        }
        let (times, was) = self.crammed.get();
        let times = times + u64::from(full && !was);
        self.crammed.set((times, full));
        (most, times)
    }

    fn by(&self, controller: usize, else_by: &'static str) -> &'static str {
        match self.keepers.limited[controller] {
            2 => "cgroup v2",
            1 => "cgroup v1",
            _ => else_by,
        }
    }

    /// In the order of the table of limits.
    pub fn rows(&self) -> Vec<Row> {
        let (limits, usage) = (&self.limits, self.usage.get());
        let row = |name, value, by, used, hits| Row { name, value, by, used, hits };
        let (pids, refused) = self.counters.pids().unwrap_or_default();
        let (temporary, crammed) = self.temporary();
        let killed = self.memory.as_ref().map_or(0, |m| m.kills());
        let processes = if self.keepers.floor.processes { "rlimit" } else { "nothing" };
        vec![
            row(
                "memory",
                limits.memory,
                // A process at a time.
                self.by(MEMORY, "rlimit"),
                self.counters.memory().unwrap_or(0),
                killed,
            ),
            row("pids", limits.pids, self.by(PIDS, processes), pids, refused),
            row(
                "cpu",
                limits.cpu,
                self.by(CPU, "nothing"),
                0,
                self.counters.throttled().unwrap_or(0),
            ),
            row("weight", limits.weight, self.by(CPU, "nice"), 0, 0),
            row("files", limits.files, "rlimit", 0, 0),
            row("disk", limits.disk, self.keepers.disk, usage.bytes, self.filled.get()),
            row("inodes", limits.inodes, self.keepers.disk, usage.inodes, self.filled.get()),
            row("tmpfs", limits.tmpfs, "tmpfs", temporary, crammed),
            row("log", limits.log, "supervisor", self.log.size(), self.log.slowed()),
        ]
    }

    /// Notes in the log what the app will wonder about: forks that fail, output that is held up.
    pub async fn tell(&self, life: &Life) {
        let told: RefCell<BTreeMap<&str, u64>> = RefCell::default();
        loop {
            let wait = if life.is_recent(Duration::from_secs(30)) { 2 } else { 15 };
            tokio::time::sleep(Duration::from_secs(wait)).await;
            let rows = self.rows();
            for Row { name, hits, value, .. } in rows {
                let last = told.borrow().get(name).copied().unwrap_or(0);
                // The first time, and then each time that the count has grown tenfold.
                if hits == 0 || hits < last.saturating_mul(10) {
                    continue;
                }
                let text = match name {
                    "pids" => format!("no more processes than {value}: refused {hits} times"),
                    "log" => format!("output is taken at 1 MiB a second: held up {hits} times"),
                    "tmpfs" => {
                        format!("/tmp or /dev/shm was full {hits} times ({} MiB)", value >> 20)
                    }
                    _ => continue,
                };
                told.borrow_mut().insert(name, hits);
                self.log.note(&text);
            }
        }
    }
}
