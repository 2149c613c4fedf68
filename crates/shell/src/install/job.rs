//! One installation: its steps, from the first source to the row in the database.

use std::collections::HashSet;

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::budget::Taken;
use super::*;
use crate::store::{NewPackage, now_ms};

/// What unpacking brought.
struct Ready {
    unpacked: child::Unpacked,
    summary: manifest::Summary,
    work: place::WorkDir,
    takes: Taken,
}

/// Where it goes.
struct Place {
    name: String,
    /// In whose budget.
    by: AccountId,
    /// Its files are nobody's until it has its row; false for one that has a row and lost its files.
    noted: bool,
}

impl Source {
    /// The step that it begins with.
    pub(super) fn begins(&self) -> Moment {
        match self {
            Source::File(whole) => whole.begins(),
            Source::Url(..) => Moment { state: InstallState::Get, done: 0, total: 0 },
        }
    }
}

impl Whole {
    fn begins(&self) -> Moment {
        Moment { state: InstallState::Check, done: 0, total: self.size }
    }
}

impl Installer {
    /// All steps. `sources`: what others bring while this job has no whole file yet.
    pub(super) async fn run(
        &self,
        id: &PackageId,
        first: Source,
        sources: &mut mpsc::UnboundedReceiver<Source>,
    ) -> std::result::Result<(), Failure> {
        // This try brings its own bytes; a file kept from an earlier one is not needed any more.
        drop(lock(&self.0.kept).remove(id));
        let mut whole = self.get(id, first, sources).await?;
        let done = self.install(id, &mut whole).await;
        match &done {
            Err(failure) if failure.again => self.keep_for_retry(id, whole, failure),
            _ => {}
        }
        done
    }

    /// What follows once the file is whole.
    async fn install(&self, id: &PackageId, whole: &mut Whole) -> std::result::Result<(), Failure> {
        let by = whole.turn.by();
        let Moment { state, total, .. } = whole.begins();
        self.enter(id, state, total, None, Some(by)).await?;
        if self.known(&id.to_string()).await? {
            return Ok(());
        }
        let ready = self.unpack(id, &whole.file, by).await?;
        let _placing = self.0.placing.lock().await;
        let place = self.admit(id, by, ready.takes).await?;
        self.place(whole, ready, place).await
    }

    /// Whose it will be, with a note that its files come: from here on a kill, or a database that
    /// does not take the package's row, leaves files that are found by the note and go.
    async fn admit(
        &self,
        id: &PackageId,
        sent_by: AccountId,
        takes: Taken,
    ) -> std::result::Result<Place, Failure> {
        let by = self.payer(id, sent_by, takes).await?;
        let name = id.to_string();
        let noted = self.0.store.note_placing(&name).await.map_err(|e| self.database(e))?;
        Ok(Place { name, by, noted })
    }

    /// The first file that is whole, of all that are sent and downloaded.
    async fn get(
        &self,
        id: &PackageId,
        first: Source,
        sources: &mut mpsc::UnboundedReceiver<Source>,
    ) -> std::result::Result<Whole, Failure> {
        let mut addresses = HashSet::new();
        let mut downloads = FuturesUnordered::new();
        let mut next = Some(first);
        loop {
            match next.take() {
                Some(Source::File(whole)) => return Ok(whole),
                // Twice from one address is no faster.
                Some(Source::Url(url, turn, private)) if addresses.insert(url.clone()) => {
                    downloads.push(self.fetch(id, url, turn, private));
                }
                _ => {}
            }
            tokio::select! {
                Some(source) = sources.recv() => next = Some(source),
                Some(done) = downloads.next() => match done {
                    Ok(whole) => return Ok(whole),
                    Err(failure) if downloads.is_empty() => return Err(failure),
                    Err(failure) => {
                        tracing::info!(package = %id, code = failure.code,
                            "one of several downloads failed: {}", failure.words);
                    }
                },
                else => return Err(Failure::machine("PKG-GET", "Nothing was sent. Try again.")),
            }
        }
    }

    /// Downloads, and compares the bytes with the id.
    async fn fetch(
        &self,
        id: &PackageId,
        url: String,
        turn: Turn,
        private: Private,
    ) -> std::result::Result<Whole, Failure> {
        let mut told = Instant::now();
        let receiver = self
            .download(&url, private, |p| {
                let (done, total) = (p.done, p.total.unwrap_or(0));
                self.tell(id, Moment { state: InstallState::Get, done, total }, &mut told);
            })
            .await?;
        let received = receiver.finish()?;
        if received.id != *id {
            return Err(Failure::file(
                "PKG-HASH",
                format!(
                    "The file at that address is another one: its id is {}, and the link asks for \
                     {id}. Ask whoever gave you the link for a new one.",
                    received.id
                ),
            ));
        }
        Ok(Whole::new(received, turn))
    }

    /// A package that is in place already only has to be confirmed.
    async fn known(&self, name: &str) -> std::result::Result<bool, Failure> {
        let _placing = self.0.placing.lock().await;
        let store = &self.0.store;
        let Some(package) = store.package(name).await.map_err(|e| self.database(e))? else {
            return Ok(false);
        };
        if !self.0.home.join("apps").join(name).is_dir() {
            return Ok(false);
        }
        let nothing = NewPackage { package: &package, manifest: &[], actions: &[] };
        store.add_package(&nothing).await.map_err(|e| self.database(e))?;
        Ok(true)
    }

    async fn unpack(
        &self,
        id: &PackageId,
        file: &TempFile,
        by: AccountId,
    ) -> std::result::Result<Ready, Failure> {
        let home = &self.0.home;
        let io =
            |doing: &'static str| move |error: std::io::Error| Failure::io(home, doing, &error);
        let _turn = self.0.unpackers.acquire().await;
        self.enter(id, InstallState::Unpack, 0, None, Some(by)).await?;
        let work = place::WorkDir::create(home).map_err(io("make a folder"))?;
        let package = std::fs::File::open(file.path()).map_err(io("open the file"))?;
        let into = work.open().map_err(io("open a folder"))?;
        let (this, of) = (self.clone(), *id);
        let told = Mutex::new(Instant::now());
        let unpacked = child::unpack(&self.0.spk, home, package, into, move |report| {
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
        .await?;
        if unpacked.package_id != id.to_string() {
            return Err(Failure::file(
                "PKG-HASH",
                format!("The package's id is {}, and not {id}.", unpacked.package_id),
            ));
        }
        if unpacked.app_id.parse::<sandstorm_schema::ids::AppId>().is_err() {
            return Err(Failure::file("PKG-APPID", "The package names no valid app id."));
        }
        let packed = file.path().to_owned();
        let measured = tokio::task::spawn_blocking(move || {
            let takes = place::measure(&work, &packed)?;
            Ok((work, takes))
        })
        .await
        .map_err(|_| Failure::machine("PKG-IO", "The server is stopping. Try again."))?;
        let (work, takes) = measured.map_err(io("measure the app"))?;
        let (summary, refusal) = manifest::Manifest::parse(&unpacked.manifest)
            .and_then(|m| Ok((m.summary(&unpacked.app_id)?, m.refusal()?)))
            .map_err(|error| {
                Failure::file(
                    "PKG-MANIFEST",
                    format!("The package's manifest cannot be read: {}.", error.extra),
                )
            })?;
        match refusal {
            Some(words) => Err(Failure::file("PKG-API", words)),
            None => Ok(Ready { unpacked, summary, work, takes }),
        }
    }

    /// Files and row, or neither: then `whole` has its file again.
    async fn place(
        &self,
        whole: &mut Whole,
        ready: Ready,
        place: Place,
    ) -> std::result::Result<(), Failure> {
        let Ready { unpacked, summary, work, takes } = ready;
        let (home, of) = (self.0.home.clone(), place.name.clone());
        let packed = home.join("packages").join(format!("{of}.spk"));
        let mut file = std::mem::take(&mut whole.file);
        let stopping = || Failure::machine("PKG-IO", "The server is stopping. Try again.");
        let (file, kept) = tokio::task::spawn_blocking(move || {
            let kept = place::keep(&home, &of, work, &mut file)
                .map_err(|error| Failure::io(&home, "put the package in place", &error));
            (file, kept)
        })
        .await
        .map_err(|_| stopping())?;
        whole.file = file;
        let fingerprint = Some(unpacked.fingerprint)
            .filter(|f| !f.is_empty() && f.len() <= 64 && f.bytes().all(|b| b.is_ascii_hexdigit()));
        let package = Package {
            package_id: place.name,
            app_id: unpacked.app_id,
            title: summary.title,
            app_version: summary.app_version.into(),
            marketing_version: summary.marketing_version,
            fingerprint,
            packed_size: whole.size as i64,
            unpacked_size: i64::try_from(unpacked.size).unwrap_or(i64::MAX),
            disk: i64::try_from(takes.bytes).unwrap_or(i64::MAX),
            entries: i64::try_from(takes.entries).unwrap_or(i64::MAX),
            installed: now_ms(),
            installed_by: Some(place.by),
        };
        let new = NewPackage {
            package: &package,
            manifest: &unpacked.manifest,
            actions: &summary.actions,
        };
        let done = match kept {
            Ok(()) => self.0.store.add_package(&new).await.map_err(|e| self.database(e)),
            Err(failure) => Err(failure),
        };
        let (name, app) = (&package.package_id, &package.app_id);
        match &done {
            Ok(()) => tracing::info!(package = name, app, "installed {}", package.title),
            Err(_) if place.noted => {
                if let Err(error) = whole.file.take_back(&packed) {
                    tracing::error!(package = name, "its file could not be kept: {error}");
                }
                self.remove_aside(self.set_aside(name).await);
            }
            // What is in place now is of a package that has its row.
            Err(_) => {}
        }
        done
    }

    pub(super) async fn download(
        &self,
        url: &str,
        private: Private,
        progress: impl FnMut(crate::net::Progress),
    ) -> std::result::Result<Receiver, Failure> {
        let url = checked_url(url).map_err(|e| Failure::file("PKG-URL", format!("{e}.")))?;
        let mut download = Download::begin(&self.0.home)?;
        let limits = crate::net::Limits {
            max_bytes: MAX_FILE,
            total_time: DOWNLOAD,
            stall_time: STALL,
            private: if self.0.allow_private { Private::Yes } else { private },
        };
        let fetched = crate::net::fetch(&url, &mut download, limits, progress).await;
        let receiver = download.into_receiver()?;
        match fetched {
            Ok(_) => Ok(receiver),
            Err(error) => {
                Err(Failure::machine("PKG-GET", format!("The download did not work: {error}.")))
            }
        }
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
            .map_err(|e| self.database(e))?;
        if let Some(job) = lock(&self.0.jobs).get(id) {
            job.moment.send_replace(Moment { state, done: 0, total });
        }
        self.0.events.send(Event::InstallChanged(*id));
        Ok(())
    }

    /// Enters the step that this source begins with.
    pub(super) async fn enter_with(
        &self,
        id: &PackageId,
        source: &Source,
    ) -> std::result::Result<(), Failure> {
        let Moment { state, total, .. } = source.begins();
        let url = match source {
            Source::File(..) => None,
            Source::Url(url, ..) => Some(url.as_str()),
        };
        self.enter(id, state, total, url, Some(source.by())).await
    }

    /// Keeps why the job ended, for its page and for the log.
    pub(super) async fn failed(&self, id: &PackageId, failure: &Failure) {
        tracing::warn!(package = %id, code = failure.code, "install failed: {}", failure.words);
        let kept =
            self.0.store.install_failed(&id.to_string(), &failure.code, &failure.words).await;
        if let Err(error) = kept {
            tracing::error!(package = %id, "the failure could not be kept: {error}");
        }
    }

    fn tell(&self, id: &PackageId, moment: Moment, told: &mut Instant) {
        if let Some(job) = lock(&self.0.jobs).get(id) {
            // Of several downloads the furthest is shown.
            job.moment.send_if_modified(|shown| {
                let further = shown.state != moment.state || moment.done >= shown.done;
                if further {
                    *shown = moment;
                }
                further
            });
        }
        if told.elapsed() >= TELL {
            *told = Instant::now();
            self.0.events.send(Event::InstallChanged(*id));
        }
    }

    /// Keeps the file for another try, but of one account no more than it may send at once.
    pub(super) fn keep_for_retry(&self, id: &PackageId, whole: Whole, failure: &Failure) {
        let Whole { file, size, turn } = whole;
        if !file.path().exists() {
            return;
        }
        let (by, failure) = (turn.by(), failure.clone());
        let mut kept = lock(&self.0.kept);
        kept.retain(|_, kept| kept.since.elapsed() < KEEP);
        let own = kept.iter().filter(|(_, kept)| kept.by == by);
        if own.clone().count() >= turns::EACH
            && let Some(oldest) = own.min_by_key(|(_, kept)| kept.since).map(|(id, _)| *id)
        {
            kept.remove(&oldest);
        }
        kept.insert(*id, Kept { since: Instant::now(), file, size, by, failure });
    }
}

#[cfg(test)]
mod tests;
