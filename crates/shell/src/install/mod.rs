//! From a package file or address to an installed app.
//!
//! Trust: the file is hostile until `child` has verified it, and its texts stay hostile after.
//! Steps: get (here, hashing), check (size and hash), unpack (a locked-down child), confirm (each
//! person's yes). One job a package id, whoever asks; its row in the database is what every
//! viewer sees, with the bytes of this moment laid over it from memory.

mod child;
pub mod failure;
pub mod manifest;
mod place;
mod receive;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Semaphore, watch};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::ids::{AccountId, PackageId};
use crate::state::{Event, Events};
use crate::store::{Install, InstallState, NewPackage, Package, Store, now_ms};
use failure::Failure;
use receive::{Receiver, TempFile};

pub use receive::MAX_FILE;

/// Children at once: each may use 128 MiB for decompression.
const UNPACKERS: usize = 2;
/// A download may take this long in all, and this long without a byte.
const DOWNLOAD: Duration = Duration::from_secs(3600);
const STALL: Duration = Duration::from_secs(60);
/// A file that failed only because of this machine is kept so long for another try.
const KEEP: Duration = Duration::from_secs(3600);
/// Files that are sent at once, by all and by one account: each may fill a gigabyte of the disk.
const SENDERS: usize = 16;
const SENDERS_EACH: usize = 4;
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
    jobs: Mutex<HashMap<PackageId, watch::Sender<Moment>>>,
    kept: Mutex<HashMap<PackageId, (Instant, TempFile, u64)>>,
    /// Files that each account is sending.
    senders: Mutex<HashMap<AccountId, usize>>,
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

enum Source {
    File(TempFile, u64),
    Url(String),
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
        Ok(Installer(Arc::new(Inner {
            store,
            events,
            home: config.home.clone(),
            spk: config.bin.join("spk"),
            allow_private: config.allow_private_downloads,
            unpackers: Semaphore::new(UNPACKERS),
            jobs: Mutex::default(),
            kept: Mutex::default(),
            senders: Mutex::default(),
        })))
    }

    /// Receives a file and starts its installation; the answer is its id, at once when it is whole.
    pub async fn receive<E: std::fmt::Display>(
        &self,
        stream: impl futures::Stream<Item = std::result::Result<bytes::Bytes, E>> + Unpin,
        announced: Option<u64>,
        by: AccountId,
    ) -> std::result::Result<PackageId, Failure> {
        let _turn = self.turn(by)?;
        let received = Receiver::begin(&self.0.home, announced)?.receive(stream).await?;
        let id = received.id;
        self.begin(id, Source::File(received.file, received.size), Some(by)).await;
        Ok(id)
    }

    /// A place among those who send a file just now.
    fn turn(&self, by: AccountId) -> std::result::Result<Turn, Failure> {
        let mut senders = lock(&self.0.senders);
        if senders.values().sum::<usize>() >= SENDERS
            || senders.get(&by).is_some_and(|own| *own >= SENDERS_EACH)
        {
            return Err(Failure::machine(
                "PKG-BUSY",
                "Other files are being sent to this server just now. Try again when they are done.",
            ));
        }
        *senders.entry(by).or_default() += 1;
        Ok(Turn(self.clone(), by))
    }

    /// Forgets files that were kept for another try which nobody made.
    pub fn sweep(&self) {
        lock(&self.0.kept).retain(|_, (since, ..)| since.elapsed() < KEEP);
    }

    /// Downloads, without knowing the id beforehand, installs, and waits for the end.
    pub async fn install_url(&self, url: &str, by: AccountId) -> Result<Package> {
        let receiver = self.download(url, |_| ()).await.map_err(into_error)?;
        let received = receiver.finish().map_err(into_error)?;
        let id = received.id;
        self.begin(id, Source::File(received.file, received.size), Some(by)).await;
        self.finished(&id).await
    }

    /// Starts the download of the package `id` from `url`; whoever watches sees it come.
    pub async fn start_url(&self, id: PackageId, url: &str, by: AccountId) -> Result<()> {
        let url = checked_url(url)?;
        self.begin(id, Source::Url(url), Some(by)).await;
        Ok(())
    }

    /// Tries a failed installation again, with the file that is still here or the address that is
    /// known; false when there is neither.
    pub async fn retry(&self, id: &PackageId, by: AccountId) -> Result<bool> {
        let kept = lock(&self.0.kept).remove(id);
        if let Some((_, file, size)) = kept {
            self.begin(*id, Source::File(file, size), Some(by)).await;
            return Ok(true);
        }
        match self.0.store.install(&id.to_string()).await? {
            Some(Install { state: InstallState::Failed, url: Some(url), .. }) => {
                self.begin(*id, Source::Url(url), Some(by)).await;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Whether [`Installer::retry`] could do something.
    pub fn can_retry(&self, install: &Install, id: &PackageId) -> bool {
        install.url.is_some() || lock(&self.0.kept).contains_key(id)
    }

    /// Changes of a running job; none when nothing runs.
    pub fn watch(&self, id: &PackageId) -> Option<watch::Receiver<Moment>> {
        lock(&self.0.jobs).get(id).map(watch::Sender::subscribe)
    }

    /// The installation as it stands at this moment.
    pub async fn status(&self, id: &PackageId) -> Result<Option<Install>> {
        let moment = self.watch(id).map(|watch| *watch.borrow());
        let mut install = self.0.store.install(&id.to_string()).await?;
        if let (Some(install), Some(moment)) = (&mut install, moment) {
            if install.state == moment.state {
                install.done = moment.done as i64;
                install.total = moment.total as i64;
            }
        }
        Ok(install)
    }

    /// Waits until the job is over; the package, or why not.
    pub async fn finished(&self, id: &PackageId) -> Result<Package> {
        if let Some(mut watch) = self.watch(id) {
            // The sender is dropped when the job is over.
            while watch.changed().await.is_ok() {}
        }
        let name = id.to_string();
        if let Some(package) = self.0.store.package(&name).await? {
            return Ok(package);
        }
        let failure = self.0.store.install(&name).await?.and_then(|install| install.failure);
        let (code, words) = failure.unwrap_or_default();
        Err(Error::BadRequest(format!("{words} ({code})")))
    }

    /// Starts the job unless one runs for this id already.
    async fn begin(&self, id: PackageId, source: Source, by: Option<AccountId>) {
        let (total, url) = match &source {
            Source::File(_, size) => (*size, None),
            Source::Url(url) => (0, Some(url.clone())),
        };
        let state = if url.is_some() { InstallState::Get } else { InstallState::Check };
        {
            let mut jobs = lock(&self.0.jobs);
            if jobs.contains_key(&id) {
                return;
            }
            jobs.insert(id, watch::Sender::new(Moment { state, done: 0, total }));
        }
        // Written before anybody is told the id: the page that they are sent to must find it.
        let entered = self.enter(&id, state, total, url.as_deref(), by).await;
        let this = self.clone();
        // On its own task: the viewer who began it may leave.
        let job = tokio::spawn(async move {
            let result = match entered {
                Ok(()) => this.run(&id, source, by).await,
                Err(failure) => Err(failure),
            };
            if let Err(failure) = result {
                tracing::warn!(package = %id, code = failure.code, "install failed: {}", failure.words);
                let name = id.to_string();
                if let Err(error) =
                    this.0.store.install_failed(&name, &failure.code, &failure.words).await
                {
                    tracing::error!(package = %id, "the failure could not be kept: {error}");
                }
            }
            lock(&this.0.jobs).remove(&id);
            this.0.events.send(Event::InstallChanged(id));
        });
        drop(job);
    }

    async fn run(
        &self,
        id: &PackageId,
        source: Source,
        by: Option<AccountId>,
    ) -> std::result::Result<(), Failure> {
        let name = id.to_string();
        // This try brings its own bytes; a file kept from an earlier one is not needed any more.
        drop(lock(&self.0.kept).remove(id));
        let (file, size) = match source {
            Source::File(file, size) => (file, size),
            Source::Url(url) => {
                let (this, of) = (self.clone(), *id);
                let mut told = Instant::now();
                let receiver = self
                    .download(&url, move |p| {
                        let moment = Moment {
                            state: InstallState::Get,
                            done: p.done,
                            total: p.total.unwrap_or(0),
                        };
                        this.tell(&of, moment, &mut told);
                    })
                    .await?;
                let received = receiver.finish()?;
                self.enter(id, InstallState::Check, received.size, None, None).await?;
                if received.id != *id {
                    return Err(Failure::file(
                        "PKG-HASH",
                        format!(
                            "The file at that address is another one: its id is {}, and the link \
                             asks for {id}. Ask whoever gave you the link for a new one.",
                            received.id
                        ),
                    ));
                }
                (received.file, received.size)
            }
        };
        if self.known(&name).await? {
            return Ok(());
        }
        let unpacked = self.unpack(id, &file, by).await;
        match unpacked {
            Ok((unpacked, work)) => self.place(id, file, size, work, unpacked, by).await,
            Err(failure) => {
                if failure.again {
                    self.keep_for_retry(id, file, size);
                }
                Err(failure)
            }
        }
    }

    /// A package that is in place already only has to be confirmed.
    async fn known(&self, name: &str) -> std::result::Result<bool, Failure> {
        let Some(package) = self.0.store.package(name).await.map_err(database)? else {
            return Ok(false);
        };
        if !self.0.home.join("apps").join(name).is_dir() {
            return Ok(false);
        }
        let nothing =
            NewPackage { package: &package, manifest: &[], actions: &[], installed_by: None };
        self.0.store.add_package(&nothing).await.map_err(database)?;
        Ok(true)
    }

    async fn unpack(
        &self,
        id: &PackageId,
        file: &TempFile,
        by: Option<AccountId>,
    ) -> std::result::Result<(child::Unpacked, place::WorkDir), Failure> {
        let home = &self.0.home;
        let io =
            |doing: &'static str| move |error: std::io::Error| Failure::io(home, doing, &error);
        let _turn = self.0.unpackers.acquire().await;
        self.enter(id, InstallState::Unpack, 0, None, by).await?;
        let work = place::WorkDir::create(home).map_err(io("make a folder"))?;
        let package = std::fs::File::open(file.path()).map_err(io("open the file"))?;
        let into = work.open().map_err(io("open a folder"))?;
        let (this, of) = (self.clone(), *id);
        let told = Mutex::new(Instant::now());
        let unpacked = child::unpack(&self.0.spk, package, into, move |report| {
            // Two passes over the same bytes make one bar: verify is its first half.
            let total = report.total;
            let done = match report.step {
                0 => report.done / 2,
                1 => total / 2 + report.done / 2,
                _ => total,
            };
            let moment = Moment { state: InstallState::Unpack, done, total };
            this.tell(&of, moment, &mut lock(&told));
        })
        .await
        .map_err(|mut failure| {
            if failure.code.starts_with("PKG-FULL")
                && failure::free_bytes(home).is_some_and(|free| free < 64 << 20)
            {
                failure = Failure::disk_full(home, None);
            }
            failure
        })?;
        if unpacked.package_id != id.to_string() {
            return Err(Failure::file(
                "PKG-HASH",
                format!("The package's id is {}, and not {id}.", unpacked.package_id),
            ));
        }
        if unpacked.app_id.parse::<sandstorm_schema::ids::AppId>().is_err() {
            return Err(Failure::file("PKG-APPID", "The package names no valid app id."));
        }
        Ok((unpacked, work))
    }

    async fn place(
        &self,
        id: &PackageId,
        file: TempFile,
        size: u64,
        work: place::WorkDir,
        unpacked: child::Unpacked,
        by: Option<AccountId>,
    ) -> std::result::Result<(), Failure> {
        let (summary, refusal) = manifest::Manifest::parse(&unpacked.manifest)
            .and_then(|m| Ok((m.summary(&unpacked.app_id)?, m.refusal()?)))
            .map_err(|error| {
                Failure::file(
                    "PKG-MANIFEST",
                    format!("The package's manifest cannot be read: {}.", error.extra),
                )
            })?;
        if let Some(words) = refusal {
            return Err(Failure::file("PKG-API", words));
        }
        let name = id.to_string();
        let (home, of) = (self.0.home.clone(), name.clone());
        tokio::task::spawn_blocking(move || {
            place::keep(&home, &of, work, file)
                .map_err(|error| Failure::io(&home, "put the package in place", &error))
        })
        .await
        .map_err(|_| Failure::machine("PKG-IO", "The server is stopping. Try again."))??;
        let fingerprint = Some(unpacked.fingerprint)
            .filter(|f| !f.is_empty() && f.len() <= 64 && f.bytes().all(|b| b.is_ascii_hexdigit()));
        let package = Package {
            package_id: name,
            app_id: unpacked.app_id,
            title: summary.title,
            app_version: summary.app_version.into(),
            marketing_version: summary.marketing_version,
            fingerprint,
            packed_size: size as i64,
            unpacked_size: i64::try_from(unpacked.size).unwrap_or(i64::MAX),
            installed: now_ms(),
        };
        let new = NewPackage {
            package: &package,
            manifest: &unpacked.manifest,
            actions: &summary.actions,
            installed_by: by,
        };
        self.0.store.add_package(&new).await.map_err(database)?;
        tracing::info!(package = %id, app = package.app_id, "installed {}", package.title);
        Ok(())
    }

    async fn download(
        &self,
        url: &str,
        progress: impl FnMut(crate::net::Progress),
    ) -> std::result::Result<Receiver, Failure> {
        let url = checked_url(url).map_err(|e| Failure::file("PKG-URL", format!("{e}.")))?;
        let mut receiver = Receiver::begin(&self.0.home, None)?;
        let limits = crate::net::Limits {
            max_bytes: MAX_FILE,
            total_time: DOWNLOAD,
            stall_time: STALL,
            allow_private: self.0.allow_private,
        };
        crate::net::fetch(&url, &mut receiver, limits, progress).await.map_err(|error| {
            Failure::machine("PKG-GET", format!("The download did not work: {error}."))
        })?;
        Ok(receiver)
    }

    async fn enter(
        &self,
        id: &PackageId,
        state: InstallState,
        total: u64,
        url: Option<&str>,
        by: Option<AccountId>,
    ) -> std::result::Result<(), Failure> {
        let store = &self.0.store;
        store
            .install_step(&id.to_string(), state, total as i64, url, by)
            .await
            .map_err(database)?;
        if let Some(watch) = lock(&self.0.jobs).get(id) {
            watch.send_replace(Moment { state, done: 0, total });
        }
        self.0.events.send(Event::InstallChanged(*id));
        Ok(())
    }

    fn tell(&self, id: &PackageId, moment: Moment, told: &mut Instant) {
        if let Some(watch) = lock(&self.0.jobs).get(id) {
            watch.send_replace(moment);
        }
        if told.elapsed() >= TELL {
            *told = Instant::now();
            self.0.events.send(Event::InstallChanged(*id));
        }
    }

    fn keep_for_retry(&self, id: &PackageId, file: TempFile, size: u64) {
        let mut kept = lock(&self.0.kept);
        kept.retain(|_, (since, ..)| since.elapsed() < KEEP);
        kept.insert(*id, (Instant::now(), file, size));
    }
}

/// Counts as one of the senders until it is dropped.
struct Turn(Installer, AccountId);

impl Drop for Turn {
    fn drop(&mut self) {
        let mut senders = lock(&self.0.0.senders);
        if let Some(own) = senders.get_mut(&self.1) {
            *own -= 1;
            if *own == 0 {
                senders.remove(&self.1);
            }
        }
    }
}

/// An address that a download can be tried from.
pub fn is_web_address(url: &str) -> bool {
    checked_url(url).is_ok()
}

/// http(s) only, and in its normal form.
fn checked_url(url: &str) -> Result<String> {
    match url::Url::parse(url.trim()) {
        Ok(parsed)
            if matches!(parsed.scheme(), "http" | "https")
                && parsed.has_host()
                && url.len() < 4096 =>
        {
            Ok(parsed.into())
        }
        _ => Err(Error::BadRequest(
            "The address must begin with http:// or https://, like https://example.org/app.spk"
                .into(),
        )),
    }
}

fn database(error: crate::store::StoreError) -> Failure {
    tracing::error!("{error}");
    Failure::machine("S-DB", "The server's database did not answer. Try again.")
}

fn into_error(failure: Failure) -> Error {
    Error::BadRequest(format!("{} ({})", failure.words, failure.code))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing here panics half-way through a change, so the data is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
