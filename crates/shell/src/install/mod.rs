//! From a package file or address to an installed app.
//!
//! Trust: the file is hostile until `child` has verified it, and its texts stay hostile after.
//! Steps: get (here, hashing), check (size and hash), unpack (a locked-down child), confirm (each
//! person's yes). One job a package id, whoever asks; its row in the database is what every
//! viewer sees, with the bytes of this moment laid over it from memory. Until one file is whole,
//! whoever brings another copy joins the job, and the first whole one wins: a slow download keeps
//! a package from nobody.

pub mod budget;
mod child;
pub mod failure;
mod job;
pub mod manifest;
pub mod place;
mod receive;
mod removal;
mod turns;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc, watch};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::ids::{AccountId, PackageId};
use crate::limits::Chosen;
use crate::net::Private;
use crate::state::{Event, Events};
use crate::store::{Install, InstallState, Package, Store, now_ms};
use failure::Failure;
use receive::{Download, Received, Receiver, TempFile};
use turns::{Turn, Turns};

pub use receive::MAX_FILE;

/// Children at once: each may use 128 MiB for decompression.
const UNPACKERS: usize = 2;
/// A download may take this long in all, and this long without a byte.
const DOWNLOAD: Duration = Duration::from_secs(3600);
const STALL: Duration = Duration::from_secs(60);
/// A file that failed only because of this machine is kept so long for another try.
const KEEP: Duration = Duration::from_secs(3600);
/// Viewers hear of progress this often.
const TELL: Duration = Duration::from_millis(250);

/// Installs packages. Cheap to clone.
#[derive(Clone)]
pub struct Installer(Arc<Inner>);

struct Inner {
    store: Store,
    events: Events,
    home: PathBuf,
    spk: PathBuf,
    allow_private: bool,
    unpackers: Semaphore,
    jobs: Mutex<HashMap<PackageId, Job>>,
    kept: Mutex<HashMap<PackageId, Kept>>,
    turns: Turns,
    limits: Chosen,
    /// Held from the look at the budget, and at what is there, to the row in the database, and from
    /// a row's end to that of its files: of two jobs one would not see the other.
    placing: tokio::sync::Mutex<()>,
}

/// A job that runs.
struct Job {
    moment: watch::Sender<Moment>,
    /// Takes further sources. While the job waits for its first whole file they compete; after that
    /// they wait, in case the job fails.
    more: mpsc::UnboundedSender<Source>,
    /// Who asked for the package, each once.
    asked: Vec<AccountId>,
    /// How many of these were looked at when it was judged whose budget has room.
    judged: usize,
}

/// A file that waits for another try.
struct Kept {
    since: Instant,
    file: TempFile,
    size: u64,
    by: AccountId,
    /// Why it was not installed.
    failure: Failure,
}

/// A file that is whole, whose bytes hash to the id that was asked for.
struct Whole {
    file: TempFile,
    size: u64,
    turn: Turn,
}

/// Where a running job is at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The step.
    pub state: InstallState,
    /// Bytes.
    pub done: u64,
    /// Bytes in all; 0 when unknown.
    pub total: u64,
}

/// Where a job's bytes come from. The turn is its sender's until the job is over: what waits to be
/// unpacked fills the disk as much as what is still coming.
enum Source {
    File(Whole),
    Url(String, Turn, Private),
}

impl Job {
    fn ask(&mut self, by: AccountId) {
        if !self.asked.contains(&by) {
            self.asked.push(by);
        }
    }
}

impl Whole {
    fn new(received: Received, turn: Turn) -> Whole {
        Whole { file: received.file, size: received.size, turn }
    }
}

impl Source {
    fn by(&self) -> AccountId {
        let (Source::File(Whole { turn, .. }) | Source::Url(_, turn, _)) = self;
        turn.by()
    }
}

impl Installer {
    /// Prepares the folders and forgets what an earlier run left half-done.
    pub async fn start(config: &Config, store: Store, events: Events) -> Result<Installer> {
        let left = place::prepare(&config.home)
            .map_err(Error::io(format!("preparing {}", config.home.display())))?;
        // A large tree takes its time, and the names of new ones are never those of old ones.
        tokio::task::spawn_blocking(move || place::remove_left_overs(&left));
        let interrupted = store.fail_interrupted_installs().await?;
        if interrupted > 0 {
            tracing::info!("{interrupted} installations were interrupted by the last stop");
        }
        let installer = Installer(Arc::new(Inner {
            store,
            events,
            home: config.home.clone(),
            spk: config.bin.join("spk"),
            allow_private: config.allow_private_downloads,
            unpackers: Semaphore::new(UNPACKERS),
            jobs: Mutex::default(),
            kept: Mutex::default(),
            turns: Turns::default(),
            limits: config.grain_limits.clone(),
            placing: tokio::sync::Mutex::default(),
        }));
        let this = installer.clone();
        tokio::spawn(async move { this.finish_removals().await });
        Ok(installer)
    }

    /// Receives a file and starts its installation; the answer is its id, at once when it is whole.
    pub async fn receive<E: std::fmt::Display>(
        &self,
        stream: impl futures::Stream<Item = std::result::Result<bytes::Bytes, E>> + Unpin,
        announced: Option<u64>,
        by: AccountId,
    ) -> std::result::Result<PackageId, Failure> {
        let turn = self.turn(by).await?;
        let received = Receiver::begin(&self.0.home, announced)?.receive(stream).await?;
        let id = received.id;
        self.begin(id, Source::File(Whole::new(received, turn))).await;
        Ok(id)
    }

    /// The right to send a file, for who has room for what it may hold.
    async fn turn(&self, by: AccountId) -> std::result::Result<Turn, Failure> {
        let budget = self.budget_of(by).await?;
        budget.check_any()?;
        self.0.turns.take(by, budget.most.is_none())
    }

    /// Forgets files that were kept for another try which nobody made, and goes on with removals
    /// that did not come to their end.
    pub async fn sweep(&self) {
        lock(&self.0.kept).retain(|_, kept| kept.since.elapsed() < KEEP);
        self.finish_removals().await;
    }

    /// Downloads, without knowing the id beforehand, installs, and waits for the end. For whoever is at
    /// the control socket.
    pub async fn install_url(&self, url: &str, by: AccountId) -> Result<Package> {
        let turn = self.turn(by).await?;
        let received = self.download(url, Private::Named, |_| ()).await?.finish()?;
        let id = received.id;
        self.begin(id, Source::File(Whole::new(received, turn))).await;
        self.finished(&id, by).await
    }

    /// Starts the download of the package `id` from `url`; whoever watches sees it come.
    ///
    /// # Errors
    /// `BadRequest` for an address that is none, `NotInstalled` while all places are taken.
    pub async fn start_url(
        &self,
        id: PackageId,
        url: &str,
        by: AccountId,
        private: Private,
    ) -> Result<()> {
        let url = checked_url(url)?;
        // What is here is not got again: nobody shall hold a slow address against those who use it.
        let name = id.to_string();
        if self.0.home.join("apps").join(&name).is_dir()
            && self.0.store.package(&name).await?.is_some()
        {
            return Ok(());
        }
        let turn = self.turn(by).await?;
        self.begin(id, Source::Url(url, turn, private)).await;
        Ok(())
    }

    /// Tries a failed installation again, with the file that is still here or the address that is
    /// known; false when there is neither.
    ///
    /// # Errors
    /// `NotInstalled` while all places are taken.
    pub async fn retry(&self, id: &PackageId, by: AccountId) -> Result<bool> {
        let turn = self.turn(by).await?;
        let install = self.status(id).await?;
        // From here to the job nothing fails and nobody is waited for: the file is tried, or stays.
        if let Some(job) = lock(&self.0.jobs).get_mut(id) {
            // Pressed twice, or by two people.
            job.ask(by);
            return Ok(true);
        }
        let kept = lock(&self.0.kept).remove(id);
        let source = match (kept, install) {
            (Some(kept), _) => Source::File(Whole { file: kept.file, size: kept.size, turn }),
            (None, Some(Install { state: InstallState::Failed, url: Some(url), .. })) => {
                Source::Url(url, turn, Private::No)
            }
            (None, _) => return Ok(false),
        };
        self.begin(*id, source).await;
        Ok(true)
    }

    /// Forgets an installation that failed, and the file that was kept for another try.
    ///
    /// # Errors
    /// `Forbidden` for what somebody else began, unless `all`: for an administrator.
    pub async fn forget(&self, id: &PackageId, by: AccountId, all: bool) -> Result<()> {
        let Some(install) = self.status(id).await? else { return Ok(()) };
        if !all && install.started_by != Some(by) {
            return Err(Error::Forbidden("somebody else began this installation".into()));
        }
        if self.is_running(id) {
            return Err(Error::Conflict("it is being installed just now".into()));
        }
        drop(lock(&self.0.kept).remove(id));
        Ok(self.0.store.forget_install(&id.to_string()).await?)
    }

    /// Whether [`Installer::retry`] could do something.
    pub fn can_retry(&self, install: &Install, id: &PackageId) -> bool {
        install.url.is_some() || lock(&self.0.kept).contains_key(id)
    }

    /// Changes of a running job; none when nothing runs.
    pub fn watch(&self, id: &PackageId) -> Option<watch::Receiver<Moment>> {
        lock(&self.0.jobs).get(id).map(|job| job.moment.subscribe())
    }

    fn is_running(&self, id: &PackageId) -> bool {
        lock(&self.0.jobs).contains_key(id)
    }

    /// The installation as it stands at this moment.
    pub async fn status(&self, id: &PackageId) -> Result<Option<Install>> {
        let before = self.watch(id).map(|watch| *watch.borrow());
        let Some(mut install) = self.0.store.install(&id.to_string()).await? else {
            return Ok(self.kept_alone(id));
        };
        match before {
            Some(moment) if install.state == moment.state => {
                install.done = moment.done as i64;
                install.total = moment.total as i64;
            }
            Some(_) => {}
            // Nobody works on it, and why could not be kept: a full disk takes no words either.
            None if install.state.is_under_way() && !self.is_running(id) => {
                install.state = InstallState::Failed;
                install.failure = Some((
                    "PKG-LOST".into(),
                    "The server could not finish this, and could not keep why: its log says it. Try \
                     again."
                        .into(),
                ));
            }
            None => {}
        }
        Ok(Some(install))
    }

    /// An installation that the database did not take, whose file waits for another try.
    fn kept_alone(&self, id: &PackageId) -> Option<Install> {
        let kept = lock(&self.0.kept);
        let kept = kept.get(id)?;
        let age = i64::try_from(kept.since.elapsed().as_millis()).unwrap_or(0);
        Some(Install {
            package_id: id.to_string(),
            state: InstallState::Failed,
            step: InstallState::Check,
            done: 0,
            total: i64::try_from(kept.size).unwrap_or(0),
            url: None,
            failure: Some((kept.failure.code.clone(), kept.failure.words.clone())),
            started_by: Some(kept.by),
            updated: now_ms() - age,
        })
    }

    /// Waits until the job is over; the package, or why not, as it is told to `by`.
    pub async fn finished(&self, id: &PackageId, by: AccountId) -> Result<Package> {
        if let Some(mut watch) = self.watch(id) {
            // The sender is dropped when the job is over.
            while watch.changed().await.is_ok() {}
        }
        if let Some(package) = self.0.store.package(&id.to_string()).await? {
            return Ok(package);
        }
        let Some(install) = self.status(id).await? else {
            return Err(Error::Conflict("the installation was forgotten meanwhile".into()));
        };
        let room = self.room_of(&install, by).await?.map(|room| format!(" {room}"));
        let (code, words) = install.failure.unwrap_or_default();
        Err(Error::BadRequest(format!("{words}{} ({code})", room.unwrap_or_default())))
    }

    /// Starts a job, or adds the source to the one that runs for this id. Whoever asked may leave at
    /// any moment; what was begun goes on.
    async fn begin(&self, id: PackageId, source: Source) {
        let mut sources = {
            let mut jobs = lock(&self.0.jobs);
            if let Some(job) = jobs.get_mut(&id) {
                job.ask(source.by());
                let _ = job.more.send(source);
                return;
            }
            let (more, sources) = mpsc::unbounded_channel();
            let moment = watch::Sender::new(source.begins());
            let job = Job { moment, more, asked: vec![source.by()], judged: 0 };
            jobs.insert(id, job);
            sources
        };
        let this = self.clone();
        let (first, is_entered) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let mut entered = this.enter_with(&id, &source).await;
            let _ = first.send(());
            let mut source = source;
            loop {
                let result = match entered {
                    Ok(()) => this.run(&id, source, &mut sources).await,
                    Err(failure) => {
                        if let Source::File(whole) = source {
                            this.keep_for_retry(&id, whole, &failure);
                        }
                        Err(failure)
                    }
                };
                if let Err(failure) = &result {
                    this.failed(&id, failure).await;
                }
                {
                    let mut jobs = lock(&this.0.jobs);
                    let next = match (&result, jobs.get(&id)) {
                        (Err(failure), Some(job)) => this.next(&id, job, failure, &mut sources),
                        _ => None,
                    };
                    match next {
                        Some(next) => source = next,
                        None => {
                            jobs.remove(&id);
                            break;
                        }
                    }
                }
                entered = this.enter_with(&id, &source).await;
            }
            this.0.events.send(Event::InstallChanged(id));
        });
        // Before anybody is told the id: the page that they are sent to must find its row.
        let _ = is_entered.await;
    }

    /// What others brought while a job ran that failed, if it may succeed where that did not.
    fn next(
        &self,
        id: &PackageId,
        job: &Job,
        failure: &Failure,
        sources: &mut mpsc::UnboundedReceiver<Source>,
    ) -> Option<Source> {
        let was_whole = job.moment.borrow().state != InstallState::Get;
        if was_whole && !failure.again {
            // The same bytes would fail in the same way.
            return None;
        }
        let no_room = failure.code.starts_with(budget::NO_ROOM);
        while let Ok(source) = sources.try_recv() {
            if no_room && job.asked[..job.judged].contains(&source.by()) {
                continue;
            }
            let kept = lock(&self.0.kept).remove(id);
            return Some(match (source, kept) {
                (Source::Url(_, turn, _), Some(kept)) => {
                    Source::File(Whole { file: kept.file, size: kept.size, turn })
                }
                (source, _) => source,
            });
        }
        None
    }

    /// The database's error in a person's words; the log has its own.
    fn database(&self, error: crate::store::StoreError) -> Failure {
        tracing::error!("{error}");
        match error.is_disk_full() {
            true => Failure::disk_full(&self.0.home, None),
            false => Failure::machine("S-DB", "The server's database did not answer. Try again."),
        }
    }
}

/// Characters of an address; no server is known to want more.
const MAX_URL: usize = 4096;

/// An address that a download can be tried from, in its normal form.
pub fn web_address(url: &str) -> Option<String> {
    checked_url(url).ok()
}

/// http(s) only, and in its normal form.
fn checked_url(url: &str) -> Result<String> {
    let url = url.trim();
    let begins = |scheme: &str| {
        url.get(..scheme.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(scheme))
    };
    let web = begins("http://") || begins("https://");
    let why = match url::Url::parse(url) {
        _ if url.len() > MAX_URL => {
            format!("The address has more than {MAX_URL} characters, which is the most")
        }
        Ok(parsed) if matches!(parsed.scheme(), "http" | "https") && parsed.has_host() => {
            return Ok(parsed.into());
        }
        Err(why) if web => format!("The address cannot be read: {why}"),
        _ => "The address must begin with http:// or https://, like https://example.org/app.spk"
            .into(),
    };
    Err(Error::BadRequest(why))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing here panics half-way through a change, so the data is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
