//! The life of one grain on its home thread: asleep, starting, running, stopping.
//!
//! One start at a time: whoever needs the grain meanwhile waits for the same start. A start that
//! somebody gives up waiting for goes on.

use std::cell::RefCell;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::{LocalBoxFuture, Shared as SharedFuture};
use sandstorm_schema::grain_limits::EXIT_GREED;
use sandstorm_schema::rpc::connect::connect_at;
use tokio::net::UnixStream;
use tokio::sync::Mutex;

use super::conn::Conn;
use super::crowd;
use super::group;
use super::manifest::{self, Which};
use super::pause::{Failure, Pauses};
use super::pool::Local;
use super::shared::{Entry, give_room_back};
use super::spawn::{self, Child, Started, printable, sentence};
use super::{GrainState, errors};
use crate::error::{Error, Result};
use crate::identity::text::one_line;
use crate::limits;
use crate::state::Event;
use crate::store::Tone;

/// Between two signs of life of ours to a supervisor.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// How long a supervisor has to end its grain before it is killed.
const STOP_TIME: Duration = Duration::from_secs(10);
/// How the reason of an end for taking disk space without end begins.
const GREED: &str = "Ended: it went on taking disk space";
/// A first run that lasted this long has set the grain up.
const SETTLED: Duration = Duration::from_secs(5);
/// What of a log is shown with a failure.
const LOG_TAIL: u64 = 4096;

/// A grain that has slept for so long is not kept in memory: longer than its ends count in a row.
const FORGET: Duration = Duration::from_secs(15 * 60);

type Starting = SharedFuture<LocalBoxFuture<'static, std::result::Result<Rc<Conn>, Failure>>>;

pub struct Slot {
    pub entry: Arc<Entry>,
    conn: RefCell<Option<Rc<Conn>>>,
    starting: RefCell<Option<Starting>>,
    /// Start and stop exclude each other.
    pub(super) gate: Mutex<()>,
    pauses: Pauses,
}

impl Local {
    pub fn slot(&self, entry: &Arc<Entry>) -> Rc<Slot> {
        let mut slots = self.slots.borrow_mut();
        slots
            .entry(entry.grain.clone())
            .or_insert_with(|| {
                Rc::new(Slot {
                    entry: entry.clone(),
                    conn: RefCell::new(None),
                    starting: RefCell::new(None),
                    gate: Mutex::new(()),
                    pauses: Pauses::default(),
                })
            })
            .clone()
    }

    /// Forgets the grains of this thread that have slept for `long`, which cost memory and a look at
    /// every tick. What was held against them must be over.
    fn forget_sleepers(&self, long: Duration) {
        let mut slots = self.slots.borrow_mut();
        slots.retain(|_, slot| {
            // Who is about to use it holds on to it.
            Rc::strong_count(slot) > 1
                || slot.conn.borrow().is_some()
                || slot.starting.borrow().is_some()
                || slot.entry.is_awake()
                || slot.entry.quiet_for() < long
                || !slot.pauses.are_over()
        });
        give_room_back(&mut slots);
    }
}

impl Slot {
    /// The running connection, if there is one.
    pub fn running(&self) -> Option<Rc<Conn>> {
        self.conn.borrow().clone().filter(|conn| conn.is_alive())
    }

    /// The connection, started if need be. `again`: try even right after a failure.
    pub async fn conn(self: &Rc<Slot>, local: &Rc<Local>, again: bool) -> Result<Rc<Conn>> {
        if let Some(conn) = self.running() {
            return Ok(conn);
        }
        if let Some(lost) = &*self.conn.borrow() {
            // Whoever saw the end before its watch did must not start the grain in a pause.
            self.ended(lost);
        }
        self.pauses.admit(again)?;
        let starting = {
            let mut starting = self.starting.borrow_mut();
            match &*starting {
                Some(starting) => starting.clone(),
                None => {
                    let task = tokio::task::spawn_local(start(self.clone(), local.clone()));
                    let started: Starting = async move {
                        task.await
                            .unwrap_or_else(|_| Err(Failure::Other("the start failed".into())))
                    }
                    .boxed_local()
                    .shared();
                    *starting = Some(started.clone());
                    started
                }
            }
        };
        Ok(starting.await?)
    }

    /// The same for a person who asked for a start.
    pub async fn conn_for_person(self: &Rc<Slot>, local: &Rc<Local>) -> Result<Rc<Conn>> {
        self.pauses.lift();
        self.conn(local, true).await
    }

    /// Puts the grain to sleep, unless something has used it in the last `quiet`.
    pub async fn sleep(self: &Rc<Slot>, local: &Rc<Local>, quiet: Duration) -> Result<()> {
        let _gate = self.gate.lock().await;
        if self.running().is_some() && self.entry.quiet_for() >= quiet {
            return self.stop_gated(local, false).await;
        }
        Ok(())
    }

    /// Ends the grain's processes; `now` does not ask first.
    pub async fn stop(self: &Rc<Slot>, local: &Rc<Local>, now: bool) -> Result<()> {
        let _gate = self.gate.lock().await;
        self.stop_gated(local, now).await
    }

    /// Ends what runs of a grain in the trash. Looks for it under the gate: a start that was under way
    /// may be that of somebody who has taken the grain out again.
    pub async fn stop_in_trash(self: &Rc<Slot>, local: &Rc<Local>) -> Result<()> {
        let _gate = self.gate.lock().await;
        match local.shared.store.grain(self.entry.grain.as_str()).await? {
            Some(row) if row.trashed_at.is_none() => Ok(()),
            _ => self.stop_gated(local, false).await,
        }
    }

    async fn stop_gated(self: &Rc<Slot>, local: &Rc<Local>, now: bool) -> Result<()> {
        let conn = match self.running() {
            Some(conn) => conn,
            // Perhaps one of an earlier shell, which need not answer to be ended.
            None => match socket(local, &self.entry).await {
                Ok(stream) => Conn::open_fresh(&local.shared, &self.entry, stream, None),
                Err(error) if nobody_listens(&error) => {
                    self.pauses.lift();
                    self.entry.set_state(GrainState::Asleep);
                    return Ok(());
                }
                Err(error) => return Err(error),
            },
        };
        // From here on whoever needs the grain waits for its next start.
        conn.stopping.set(true);
        self.entry.set_state(GrainState::Stopping);
        self.settle(local, &conn).await;
        let ended = async {
            if !now && let Err(e) = conn.shutdown().await {
                tracing::warn!("grain {}: shutdown: {e}", self.entry.grain);
            }
            conn.closed().await;
        };
        let wait = if now { Duration::ZERO } else { STOP_TIME };
        if tokio::time::timeout(wait, ended).await.is_err() {
            if let Some(pid) = conn.pid {
                spawn::kill(pid);
            }
            // The kernel closes the socket of a killed process.
            if tokio::time::timeout(STOP_TIME, conn.closed()).await.is_err() {
                let grain = &self.entry.grain;
                tracing::error!("grain {grain}: its supervisor {:?} cannot be ended", conn.pid);
                return Err(Error::Timeout("ending the app"));
            }
        }
        if let Some(child) = &conn.child {
            child.exited(STOP_TIME).await;
        }
        self.conn.borrow_mut().take_if(|held| Rc::ptr_eq(held, &conn));
        group::clear(self, local);
        self.pauses.lift();
        self.entry.set_state(GrainState::Asleep);
        Ok(())
    }

    /// The grain has set itself up: from now on the continue command runs.
    pub async fn settle(&self, local: &Local, conn: &Conn) {
        if conn.settled.get() || !(conn.answered.get() || conn.ran() > SETTLED) {
            return;
        }
        match local.shared.store.grain_started(self.entry.grain.as_str()).await {
            Ok(()) => conn.settled.set(true),
            Err(e) => tracing::error!("grain {}: {e}", self.entry.grain),
        }
    }

    /// Takes over a supervisor that runs already.
    pub async fn adopt(self: &Rc<Slot>, local: &Rc<Local>) {
        let _gate = self.gate.lock().await;
        if self.running().is_none() {
            if let Some(conn) = connect(local, &self.entry).await {
                self.entry.touch();
                self.install(local, &conn);
            }
        }
    }

    /// Replaces a worn connection, while nothing uses it.
    async fn renew(self: &Rc<Slot>, local: &Rc<Local>) {
        let _gate = self.gate.lock().await;
        let Some(old) = self.running().filter(|conn| conn.is_worn()) else { return };
        let Ok(new) = open(local, &self.entry, old.child.clone()).await else { return };
        if self.entry.live_count() > 0 {
            new.disconnect().await;
            // The supervisor has turned to the new core, its wake locks with it.
            if let Err(e) = old.keep_alive().await {
                tracing::warn!("grain {}: keepAlive: {e}", self.entry.grain);
            }
            return;
        }
        new.answered.set(old.answered.get());
        new.settled.set(old.settled.get());
        new.since.set(old.since.get());
        old.stopping.set(true);
        self.install(local, &new);
        old.disconnect().await;
        tracing::info!("grain {}: a fresh connection for a worn one", self.entry.grain);
    }

    fn install(self: &Rc<Slot>, local: &Rc<Local>, conn: &Rc<Conn>) {
        *self.conn.borrow_mut() = Some(conn.clone());
        self.entry.set_state(GrainState::Running);
        tokio::task::spawn_local(watch(self.clone(), local.clone(), conn.clone()));
    }
}

fn grain_dir(local: &Local, entry: &Entry) -> PathBuf {
    local.shared.config.home.join("grains").join(entry.grain.as_str())
}

/// A connection to a supervisor that listens already, or none.
async fn connect(local: &Rc<Local>, entry: &Arc<Entry>) -> Option<Rc<Conn>> {
    open(local, entry, None).await.ok()
}

async fn open(local: &Rc<Local>, entry: &Arc<Entry>, child: Option<Child>) -> Result<Rc<Conn>> {
    let stream = socket(local, entry).await?;
    Conn::open(&local.shared, entry, stream, child).await
}

async fn socket(local: &Local, entry: &Entry) -> Result<UnixStream> {
    let dir =
        std::fs::File::open(grain_dir(local, entry)).map_err(Error::io("the grain's directory"))?;
    connect_at(dir.as_fd(), "socket").await.map_err(Error::io("the grain's socket"))
}

/// Whether a grain's socket is not there or nobody's, which is what a grain that sleeps has.
fn nobody_listens(error: &Error) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    matches!(error, Error::Io { source, .. } if matches!(source.kind(), NotFound | ConnectionRefused))
}

async fn start(slot: Rc<Slot>, local: Rc<Local>) -> std::result::Result<Rc<Conn>, Failure> {
    let result = {
        let _gate = slot.gate.lock().await;
        match slot.running() {
            Some(conn) => Ok(conn),
            None => start_gated(&slot, &local).await,
        }
    };
    // Who comes from now on asks anew.
    *slot.starting.borrow_mut() = None;
    result.map_err(|error| {
        let failure = Failure::from(error);
        slot.pauses.failed(&failure);
        failure
    })
}

async fn start_gated(slot: &Rc<Slot>, local: &Rc<Local>) -> Result<Rc<Conn>> {
    let entry = &slot.entry;
    let shared = &local.shared;
    let row = shared.usable_grain(&entry.grain).await?;
    let _ = entry.owner.set(row.owner);
    entry.set_state(GrainState::Starting { step: "Opening its box" });
    // A request is a sign of life, also for a start that takes long.
    let _live = entry.live();
    let found = connect(local, entry).await;
    // One that ends while we ask it is the last run's, whose end is counted where it is seen.
    let is_new = found.is_none();
    let conn = match found {
        Some(conn) => conn,
        None => {
            let started = launch(slot, local, &row).await;
            match started {
                Ok(conn) => conn,
                Err(error @ Error::Busy(_)) => {
                    entry.set_state(GrainState::Asleep);
                    return Err(error);
                }
                Err(error) => {
                    group::clear(slot, local);
                    slot.did_not_start(&error);
                    return Err(slot.crashed(local, error, None).await);
                }
            }
        }
    };
    entry.set_state(GrainState::Starting { step: "Starting the app" });
    conn.settled.set(row.started.is_some());
    let child = conn.child.clone();
    match conn.permission_names().await {
        Ok(_) => {
            slot.pauses.started();
            slot.install(local, &conn);
            let (store, grain) = (shared.store.clone(), entry.grain.clone());
            // Nobody waits for it.
            tokio::task::spawn_local(async move {
                if let Err(e) = store.grain_exit(grain.as_str(), None).await {
                    tracing::error!("grain {grain}: {e}");
                }
            });
            Ok(conn)
        }
        Err(error) => {
            if !matches!(error, Error::Disconnected(_)) {
                if let Some(pid) = conn.pid {
                    spawn::kill(pid);
                }
            }
            group::clear(slot, local);
            if is_new {
                slot.did_not_start(&error);
            }
            Err(slot.crashed(local, error, child).await)
        }
    }
}

async fn launch(slot: &Rc<Slot>, local: &Rc<Local>, row: &crate::store::Grain) -> Result<Rc<Conn>> {
    let config = &local.shared.config;
    let entry = &slot.entry;
    let package = row.package_id.parse().map_err(|_| Error::NotFound("package"))?;
    let which = match row.started {
        Some(_) => Which::Continue,
        None => Which::Action(usize::try_from(row.action).unwrap_or(usize::MAX)),
    };
    let home = config.home.clone();
    let (command, limits) = tokio::join!(
        tokio::task::spawn_blocking(move || manifest::command(&home, &package, which)),
        limits::effective(&local.shared.store, &config.grain_limits, &row.app_id, row.owner),
    );
    let (command, limits) = (command.map_err(|e| Error::Internal(e.to_string()))??, limits?);
    crowd::make_room(local, row.owner, limits::running(&limits)).await?;
    let state = spawn::State::of(&grain_dir(local, entry));
    if row.started.is_some() && state == spawn::State::New {
        // An empty one in its place would look like a loss, and take what is lost later.
        return Err(Error::GrainFailed {
            reason: format!(
                "Its data are gone: there is no directory grains/{} in the server's home. Whoever \
                 runs this server must put it back, or mount the disk that it is on",
                entry.grain
            ),
            code: errors::code("G-DATA"),
            log_tail: String::new(),
        });
    }
    match spawn::spawn(config, &entry.grain, &package, state, &limits, &command).await? {
        Started::Listening(child) => {
            // It may have ended since: then its log says why.
            let gone = |error: Error| Error::Disconnected(error.to_string());
            let stream = socket(local, entry).await.map_err(gone)?;
            Ok(Conn::open_fresh(&local.shared, entry, stream, Some(child)))
        }
        Started::AlreadyRunning => open(local, entry, None).await,
    }
}

/// Waits for a connection's end and finds out what it means.
async fn watch(slot: Rc<Slot>, local: Rc<Local>, conn: Rc<Conn>) {
    conn.closed().await;
    if conn.stopping.get() {
        return;
    }
    slot.ended(&conn);
    slot.settle(&local, &conn).await;
    slot.conn.borrow_mut().take_if(|held| Rc::ptr_eq(held, &conn));
    group::clear(&slot, &local);
    let status = match &conn.child {
        Some(child) => child.exited(Duration::from_secs(3)).await,
        None => None,
    };
    let greedy = slot.was_greedy(&local, status).await;
    if greedy {
        let reason = format!("{GREED} past its limit.");
        let (code, log_tail) = (errors::code("G-EXIT"), String::new());
        slot.pauses.greedy(conn.ran(), Failure::Grain { reason, code, log_tail });
    }
    // From here on a start waits until the end is told, or it would be told of the new run.
    let gate = slot.gate.lock().await;
    if slot.starting.borrow().is_some() || slot.running().is_some() {
        return;
    }
    if status.is_some_and(|status| status.success()) && slot.pauses.in_loop().is_none() {
        slot.entry.set_state(GrainState::Asleep);
        return;
    }
    let error = Error::Disconnected("The app ended by itself.".into());
    let ended = slot.crashed(&local, error, conn.child.clone()).await;
    drop(gate);
    if let (true, Error::GrainFailed { reason, .. }) = (greedy, ended) {
        slot.tell_owner(&local, &reason).await;
    }
}

impl Slot {
    /// Whether its supervisor ended it because it takes disk space without end.
    async fn was_greedy(&self, local: &Local, status: Option<ExitStatus>) -> bool {
        match status {
            Some(status) => status.code() == Some(EXIT_GREED),
            // A supervisor that an earlier shell started says it in the log only.
            None => last_words(&self.log_tail(local).await).is_some_and(|w| w.starts_with(GREED)),
        }
    }

    /// Counts an end that nobody asked for, once.
    fn ended(&self, conn: &Conn) {
        if !conn.is_alive() && !conn.stopping.get() && !conn.counted_end.replace(true) {
            self.pauses.ended(conn.ran(), || errors::code("G-EXIT"));
        }
    }

    /// Counts a start that came to nothing.
    fn did_not_start(&self, error: &Error) {
        if !matches!(error, Error::NotFound(_)) {
            self.pauses.ended(Duration::ZERO, || errors::code("G-EXIT"));
        }
    }

    /// A notice about a grain that was ended for its greed: the first time in a row.
    async fn tell_owner(&self, local: &Local, reason: &str) {
        if !self.pauses.is_first_greed() {
            return;
        }
        let store = &local.shared.store;
        let told = match store.grain(self.entry.grain.as_str()).await {
            Ok(Some(row)) => {
                let text = format!("“{}” was stopped. {reason}", one_line(&row.title, 60));
                local.shared.events.send(Event::AccountChanged(row.owner));
                store.notify(row.owner, Tone::Bad, &text, None).await.map(drop)
            }
            Ok(None) => Ok(()),
            Err(e) => Err(e),
        };
        if let Err(e) = told {
            tracing::error!("grain {}: {e}", self.entry.grain);
        }
    }

    /// Makes the state, the record and the error of a grain that ended or did not start. Under the
    /// gate: nothing starts meanwhile.
    async fn crashed(&self, local: &Local, error: Error, child: Option<Child>) -> Error {
        let log_tail = self.log_tail(local).await;
        let (reason, code) = match error {
            Error::GrainFailed { reason, code, .. } => (reason, code),
            Error::NotFound(_) => return error,
            other => {
                let status = match &child {
                    Some(child) => child.exited(Duration::from_secs(3)).await,
                    None => None,
                };
                let said = child.as_ref().map(Child::errors).unwrap_or_default();
                // Where nothing was started the log is of an earlier run.
                let started = child.is_some() || matches!(other, Error::Disconnected(_));
                let words = started.then(|| last_words(&log_tail)).flatten();
                let reason = match (words, spawn::own_words(&said)) {
                    (Some(words), _) => words,
                    (None, Some(words)) => sentence(&one_line(words, spawn::WORDS)),
                    (None, None) => match (&other, status) {
                        (Error::Disconnected(_), Some(status)) => {
                            format!("The app's box ended: {}.", spawn::describe(Some(status)))
                        }
                        (Error::Disconnected(_), None) => "The app ended by itself.".into(),
                        (other, _) => other.to_string(),
                    },
                };
                (reason, errors::code("G-EXIT"))
            }
        };
        tracing::warn!(code, "grain {}: {reason}", self.entry.grain);
        let stored =
            local.shared.store.grain_exit(self.entry.grain.as_str(), Some((&code, &reason))).await;
        if let Err(e) = stored {
            tracing::error!("grain {}: {e}", self.entry.grain);
        }
        self.pauses.explain(Failure::Grain {
            reason: reason.clone(),
            code: code.clone(),
            log_tail: log_tail.clone(),
        });
        self.entry.set_state(GrainState::Crashed {
            reason: reason.clone(),
            code: code.clone(),
            log_tail: log_tail.clone(),
            pause: self.pauses.in_loop(),
        });
        Error::GrainFailed { reason, code, log_tail }
    }

    async fn log_tail(&self, local: &Local) -> String {
        let path = grain_dir(local, &self.entry).join("log");
        let read = move || super::log::tail(&path, LOG_TAIL);
        let bytes = tokio::task::spawn_blocking(read).await.unwrap_or_default();
        printable(&bytes)
    }
}

/// The supervisor's last line in the log says why the app ended, if it had time to say so, and
/// the line before it, of the bridge as it says itself, what that means.
fn last_words(log: &str) -> Option<String> {
    const SUPERVISOR: &str = "** SANDSTORM SUPERVISOR: ";
    let lines: Vec<&str> = log.lines().collect();
    let at = lines.iter().rposition(|line| line.contains(SUPERVISOR))?;
    // The last: an app can leave a line unfinished before it.
    let (_, words) = lines[at].rsplit_once(SUPERVISOR)?;
    // Other lines are about starts.
    if !["the app ", "ended: ", "killed: "].iter().any(|start| words.starts_with(start)) {
        return None;
    }
    let before = at.checked_sub(1).and_then(|at| lines[at].strip_prefix("** HTTP-BRIDGE: "));
    // "The app exited with status 3" again, in the bridge's words, adds nothing.
    let before = before.filter(|cause| !cause.starts_with("the app exited with status"));
    let ended = sentence(&one_line(words, spawn::WORDS));
    // Any app can write such a line, so its words are shown as the app's.
    let cause = before.map(|cause| one_line(&cause.replace(['“', '”'], "\""), spawn::WORDS));
    Some(match cause.filter(|cause| !cause.is_empty()) {
        Some(cause) => format!("{ended} The app wrote: “{cause}”"),
        None => ended,
    })
}

/// Puts quiet grains to sleep and keeps the others alive, for ever.
pub async fn tick(local: Rc<Local>) {
    let mut every = tokio::time::interval(Duration::from_millis(500));
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut kept = Instant::now();
    loop {
        every.tick().await;
        if local.index == 0 && local.shared.rooms.just_emptied() {
            tokio::task::spawn_blocking(sandstorm_schema::memory::give_back);
        }
        let keep = kept.elapsed() >= KEEP_ALIVE;
        if keep {
            kept = Instant::now();
        }
        let slots: Vec<_> = local.slots.borrow().values().cloned().collect();
        for slot in slots {
            let Some(conn) = slot.running() else { continue };
            if slot.entry.quiet_for() >= local.shared.config.idle {
                let local = local.clone();
                tokio::task::spawn_local(async move {
                    if let Err(e) = slot.sleep(&local, local.shared.config.idle).await {
                        tracing::warn!("grain {}: {e}", slot.entry.grain);
                    }
                });
            } else if conn.is_worn() && slot.entry.live_count() == 0 {
                let local = local.clone();
                tokio::task::spawn_local(async move { slot.renew(&local).await });
            } else if keep {
                tokio::task::spawn_local(async move {
                    if let Err(e) = conn.keep_alive().await {
                        tracing::warn!("grain {}: keepAlive: {e}", slot.entry.grain);
                    }
                });
            }
        }
        if keep {
            local.forget_sleepers(FORGET);
        }
        if keep && local.index == 0 {
            local.shared.forget_sleepers(FORGET);
            local.shared.sessions.sweep();
            let local = local.clone();
            tokio::task::spawn_local(async move { local.shared.recheck().await });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::time::Duration;

    use super::{GREED, last_words};
    use crate::grains::GrainState;
    use crate::grains::pool::Local;
    use crate::grains::session::tests::Place;
    use crate::ids::GrainId;

    /// A server of many grains, each of which was opened once.
    #[tokio::test]
    async fn grains_that_have_slept_long_are_not_kept_in_memory() {
        const MANY: usize = 100_000;
        const LONG: Duration = Duration::from_millis(2);
        let shared = Place::new().await.shared;
        let local = Local { index: 0, shared: shared.clone(), slots: RefCell::default() };
        let grains: Vec<GrainId> =
            (0..MANY).map(|_| GrainId::generate(getrandom::fill).unwrap()).collect();
        for grain in &grains {
            local.slot(&shared.entry(grain));
        }
        assert_eq!((local.slots.borrow().len(), shared.count()), (MANY, MANY));
        local.forget_sleepers(Duration::from_secs(3600));
        shared.forget_sleepers(Duration::from_secs(3600));
        assert_eq!((local.slots.borrow().len(), shared.count()), (MANY, MANY));

        // In use, awake, held by somebody, not to be started again at once; and looked at.
        let live = shared.entry(&grains[0]).live();
        shared.entry(&grains[1]).set_state(GrainState::Running);
        let slot = local.slot(&shared.entry(&grains[2]));
        for _ in 0..9 {
            local.slot(&shared.entry(&grains[3])).pauses.ended(Duration::ZERO, String::new);
        }
        let watch = shared.entry(&grains[4]).watch();
        shared.entry(&grains[5]).set_state(GrainState::Crashed {
            reason: String::new(),
            code: String::new(),
            log_tail: String::new(),
            pause: None,
        });
        let forget = || {
            std::thread::sleep(LONG * 2);
            local.forget_sleepers(LONG);
            shared.forget_sleepers(LONG);
            assert!(local.slots.borrow().capacity() < 100, "{}", local.slots.borrow().capacity());
            (local.slots.borrow().len(), shared.count())
        };
        assert_eq!(forget(), (4, 6));
        assert!(grains[..6].iter().all(|grain| shared.known(grain).is_some()));
        drop((live, slot, watch));
        shared.entry(&grains[1]).set_state(GrainState::Asleep);
        assert_eq!(forget(), (1, 2));
        assert!(local.slots.borrow()[&grains[3]].pauses.in_loop().is_some());
    }

    #[test]
    fn what_the_log_says_of_an_end() {
        let log = "** SANDSTORM SUPERVISOR: limits by cgroup\nhello\n";
        assert_eq!(last_words(log), None);
        let log = format!(
            "{log}** HTTP-BRIDGE: the app exited with status 3\n\
             ** SANDSTORM SUPERVISOR: the app ended with exit status 3\n"
        );
        assert_eq!(last_words(&log).as_deref(), Some("The app ended with exit status 3."));
        let log = "** HTTP-BRIDGE: cannot run /app: not found\n\
                   ** SANDSTORM SUPERVISOR: the app ended with exit status 127\n";
        assert_eq!(
            last_words(log).as_deref(),
            Some("The app ended with exit status 127. The app wrote: “cannot run /app: not found”")
        );
        // An app that speaks as the bridge, or begins the supervisor's line.
        let log = format!(
            "** HTTP-BRIDGE: URGENT ”\u{202e}pay\u{2066}{}\nx ** SANDSTORM SUPERVISOR: the app \
             is fine** SANDSTORM SUPERVISOR: the app ended with exit status 1\n",
            "Z".repeat(3000)
        );
        let words = last_words(&log).unwrap();
        assert!(
            words.starts_with("The app ended with exit status 1. The app wrote: “URGENT \"pay")
        );
        assert!(words.ends_with("…”") && words.matches('”').count() == 1, "{words}");
        assert!(words.chars().count() < 700 && !words.contains(['\u{202e}', '\u{2066}']));
        let log = format!("{log}** SANDSTORM SUPERVISOR: shut down as asked\n");
        assert_eq!(last_words(&log), None);
        let log = format!(
            "{log}** SANDSTORM SUPERVISOR: ended: it went on taking disk space past its limit\n"
        );
        assert!(last_words(&log).unwrap().starts_with(GREED));
        let log = format!("{log}** SANDSTORM SUPERVISOR: killed: the grain ran out of memory\n");
        assert_eq!(last_words(&log).as_deref(), Some("Killed: the grain ran out of memory."));
    }
}
