//! What all threads know of grains: settings, state, signs of life, sessions.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::GrainState;
use super::pool::Thread;
use super::ports::NewPort;
use super::room::Rooms;
use super::session::Sessions;
use crate::config::Config;
use crate::ids::{AccountId, GrainId};
use crate::state::{Event, Events};
use crate::store::Store;

pub struct Shared {
    pub config: Config,
    pub store: Store,
    pub events: Events,
    pub sessions: Sessions,
    pub rooms: Rooms,
    pub threads: Vec<Thread>,
    entries: Mutex<HashMap<GrainId, Arc<Entry>>>,
    /// Ports of port mode that are listened on.
    ports: Mutex<HashSet<u16>>,
    new_ports: mpsc::UnboundedSender<NewPort>,
    /// The control group below which grains have theirs, where it was delegated to us.
    pub groups: Option<PathBuf>,
    /// Whose turn it is to remove files of destroyed grains.
    pub removing: tokio::sync::Mutex<()>,
    start: Instant,
}

/// What any thread may know of one grain.
pub struct Entry {
    pub grain: GrainId,
    /// Index of its thread.
    pub home: usize,
    /// Whose it is; known once its row was read.
    pub owner: OnceLock<AccountId>,
    state: watch::Sender<GrainState>,
    /// Tabs, requests, bodies and sockets that are open now.
    live: AtomicUsize,
    /// Wake locks that the app holds.
    pub locks: AtomicUsize,
    /// When `live` last fell to zero, in milliseconds of [`Shared::start`]'s clock.
    quiet_since: AtomicU64,
    events: Events,
    start: Instant,
}

impl Shared {
    pub fn new(
        config: Config,
        store: Store,
        events: Events,
        threads: Vec<Thread>,
        new_ports: mpsc::UnboundedSender<NewPort>,
        groups: Option<PathBuf>,
    ) -> Shared {
        Shared {
            sessions: Sessions::default(),
            rooms: Rooms::default(),
            config,
            store,
            events,
            threads,
            entries: Mutex::default(),
            ports: Mutex::default(),
            new_ports,
            groups,
            removing: tokio::sync::Mutex::default(),
            start: Instant::now(),
        }
    }

    /// The grain's entry, made if it is new.
    pub fn entry(&self, grain: &GrainId) -> Arc<Entry> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get(grain) {
            return entry.clone();
        }
        let mut hasher = DefaultHasher::new();
        grain.hash(&mut hasher);
        let entry = Arc::new(Entry {
            grain: grain.clone(),
            home: (hasher.finish() % self.threads.len().max(1) as u64) as usize,
            owner: OnceLock::new(),
            state: watch::channel(GrainState::Asleep).0,
            live: AtomicUsize::new(0),
            locks: AtomicUsize::new(0),
            quiet_since: AtomicU64::new(self.start.elapsed().as_millis() as u64),
            events: self.events.clone(),
            start: self.start,
        });
        entries.insert(grain.clone(), entry.clone());
        entry
    }

    /// What is known of a grain without beginning to know of it: most of a long list sleep.
    pub fn known(&self, grain: &GrainId) -> Option<Arc<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).get(grain).cloned()
    }

    /// Forgets the grains that have slept for `long` and that nobody holds on to: no slot, no session,
    /// nobody who watches them. Whoever wants one later begins anew.
    pub fn forget_sleepers(&self, long: Duration) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|_, entry| match Arc::get_mut(entry) {
            // It is handed out under this lock only, so nobody gets it meanwhile.
            // How one ended is shown to its owner and to administrators.
            Some(entry) => {
                entry.state() != GrainState::Asleep
                    || entry.is_watched()
                    || entry.quiet_for() < long
            }
            None => true,
        });
        give_room_back(&mut entries);
    }

    /// The grains of this owner that run, start or stop now.
    pub fn running_of(&self, owner: AccountId) -> Vec<Arc<Entry>> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let of_owner = entries.values().filter(|entry| entry.owner.get() == Some(&owner));
        of_owner.filter(|entry| entry.is_awake()).cloned().collect()
    }

    /// Forgets a destroyed grain.
    pub fn forget(&self, grain: &GrainId) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).remove(grain);
    }

    /// True for the first who wants to listen on a port.
    pub fn claim_port(&self, port: u16) -> bool {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner).insert(port)
    }

    pub fn release_port(&self, port: u16) {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner).remove(&port);
    }

    /// Hands a listener to the edge, which ends only with the process.
    pub fn hand_port(&self, port: NewPort) {
        let _ = self.new_ports.send(port);
    }

    pub fn thread(&self, entry: &Entry) -> &Thread {
        &self.threads[entry.home]
    }
}

/// A table does not shrink by itself, and every tick walks through all of it.
pub fn give_room_back<K: Eq + Hash, V>(table: &mut HashMap<K, V>) {
    if table.len() < table.capacity() / 4 {
        table.shrink_to(table.len() * 2);
    }
}

#[cfg(test)]
impl Shared {
    pub fn count(&self) -> usize {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Entry {
    pub fn state(&self) -> GrainState {
        self.state.borrow().clone()
    }

    fn is_watched(&self) -> bool {
        self.state.receiver_count() > 0
    }

    pub fn is_awake(&self) -> bool {
        !matches!(*self.state.borrow(), GrainState::Asleep | GrainState::Crashed { .. })
    }

    pub fn watch(&self) -> watch::Receiver<GrainState> {
        self.state.subscribe()
    }

    pub fn set_state(&self, state: GrainState) {
        let changed = self.state.send_if_modified(|old| {
            let changed = *old != state;
            *old = state;
            changed
        });
        if changed {
            self.tell();
        }
    }

    /// Tells whoever shows the grain that it has changed.
    pub fn tell(&self) {
        let owner = self.owner.get().copied();
        self.events.send(Event::GrainChanged { grain: self.grain.clone(), owner });
    }

    /// Counts something that keeps the grain awake, until the guard drops.
    pub fn live(self: &Arc<Entry>) -> Live {
        self.live.fetch_add(1, Ordering::Relaxed);
        Live(self.clone())
    }

    /// A sign of life that is over at once.
    pub fn touch(&self) {
        self.quiet_since.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// How long nothing has used the grain; zero while something does.
    pub fn quiet_for(&self) -> Duration {
        if self.live.load(Ordering::Relaxed) > 0 || self.locks.load(Ordering::Relaxed) > 0 {
            return Duration::ZERO;
        }
        let since = Duration::from_millis(self.quiet_since.load(Ordering::Relaxed));
        self.start.elapsed().saturating_sub(since)
    }

    /// How many requests, bodies, sockets and tabs are open.
    pub fn live_count(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }
}

/// Keeps a grain awake.
pub struct Live(Arc<Entry>);

impl Drop for Live {
    fn drop(&mut self) {
        // The order matters: whoever sees zero must see the new time.
        self.0.touch();
        self.0.live.fetch_sub(1, Ordering::Release);
    }
}
