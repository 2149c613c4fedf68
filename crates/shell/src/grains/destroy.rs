//! The end of a grain: its files leave `grains/` in one step, and only when nothing writes them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::{GrainId, Grains};
use crate::error::{Error, Result};
use crate::remove;
use crate::store::Audit;

/// How the names in `tmp/` begin under which the files of destroyed grains wait for their end.
const ASIDE: &str = "deleting.";
/// How long a grain's processes may take to end after they were killed.
const END_TIME: Duration = Duration::from_secs(15);

impl Grains {
    /// Stops it and removes its data for good, its row in the database included.
    ///
    /// # Errors
    /// `Timeout` while processes of it are still there: then nothing was removed, and it is in the
    /// trash.
    pub async fn destroy(&self, grain: &GrainId, audit: Option<&Audit<'_>>) -> Result<()> {
        self.destroy_if(grain, None, audit).await.map(drop)
    }

    /// The same for one that is in the trash, since before `trashed_before` (ms since 1970); `Ok(false)`
    /// when it is not, because somebody has restored it, say.
    ///
    /// # Errors
    /// As `destroy`.
    pub async fn destroy_trashed(&self, grain: &GrainId, trashed_before: i64) -> Result<bool> {
        self.destroy_if(grain, Some(trashed_before), None).await
    }

    async fn destroy_if(
        &self,
        grain: &GrainId,
        trashed_before: Option<i64>,
        audit: Option<&Audit<'_>>,
    ) -> Result<bool> {
        let (grains, grain) = (self.clone(), grain.clone());
        let owned = |audit: &Audit<'_>| {
            (audit.by, [audit.action, audit.target, audit.detail].map(str::to_owned))
        };
        let audit = audit.map(owned);
        // In a task of its own: a caller that gives up must not leave it half-done.
        let work = tokio::spawn(async move {
            let line = audit.as_ref().map(|(by, [action, target, detail])| Audit {
                by: *by,
                action,
                target,
                detail,
            });
            grains.destroy_now(&grain, trashed_before, line.as_ref()).await
        });
        work.await.map_err(|e| Error::Internal(e.to_string()))?
    }

    async fn destroy_now(
        &self,
        grain: &GrainId,
        trashed_before: Option<i64>,
        audit: Option<&Audit<'_>>,
    ) -> Result<bool> {
        let store = &self.0.store;
        // Before anything else, or a restore could come between, and a kill leave a row without files.
        if !store.doom_grain(grain.as_str(), trashed_before, audit).await? {
            return Ok(false);
        }
        if let Err(error) = self.end_and_set_aside(grain).await {
            store.spare_grain(grain.as_str()).await?;
            return Err(error);
        }
        store.destroy_grain(grain.as_str()).await?;
        self.forget(grain);
        // Nobody waits for it.
        tokio::spawn(self.clone().remove_aside());
        Ok(true)
    }

    /// Removes the files of destroyed grains, also those that an earlier try has left.
    pub async fn remove_aside(self) {
        // One at a time, or two would take the same tree apart and meet what the other has removed.
        let _turn = self.0.removing.lock().await;
        let tmp = self.0.config.home.join("tmp");
        let removed = tokio::task::spawn_blocking(move || remove_aside(&tmp)).await;
        if let Err(e) = removed.unwrap_or_else(|e| Err(io::Error::other(e))) {
            tracing::warn!("removing the files of destroyed grains: {e}");
        }
    }

    /// Nothing of it is kept in memory, neither here nor on its thread.
    fn forget(&self, grain: &GrainId) {
        let entry = self.0.entry(grain);
        let id = grain.clone();
        let slot = self.on_home(entry, move |local, _| {
            Box::pin(async move { drop(local.slots.borrow_mut().remove(&id)) })
        });
        tokio::spawn(slot);
        self.0.forget(grain);
    }

    async fn end_and_set_aside(&self, grain: &GrainId) -> Result<()> {
        self.revoke_grain(grain);
        self.kill(grain).await?;
        let home = self.0.config.home.clone();
        let id = grain.clone();
        tokio::task::spawn_blocking(move || set_aside(&home, id.as_str()))
            .await
            .map_err(|e| Error::Internal(e.to_string()))?
    }
}

/// Moves the grain's directory out of `grains/`, if there is one. One rename: after a
/// crash the files are whole or gone, and the doomed row says that the rest is to be done.
fn set_aside(home: &Path, grain: &str) -> Result<()> {
    let from = home.join("grains").join(grain);
    let tmp = home.join("tmp");
    fs::create_dir_all(&tmp).map_err(Error::io(tmp.display().to_string()))?;
    // Held until the directory is away, so that no start gets between.
    let _lock = lock(&from, END_TIME)?;
    let to = tmp.join(format!("{ASIDE}{grain}.{}", super::random_name()));
    match fs::rename(&from, &to) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", from.display()))(e))
        }
        _ => Ok(()),
    }
}

/// Removes what was set aside; the first error after all were tried.
fn remove_aside(tmp: &Path) -> io::Result<()> {
    let mut result = Ok(());
    for entry in fs::read_dir(tmp)? {
        let entry = entry?;
        if entry.file_name().as_bytes().starts_with(ASIDE.as_bytes()) {
            result = result.and(remove::remove_all(&entry.path()));
        }
    }
    result
}

/// Takes the lock that supervisor and init hold as long as a process of the grain is alive: the
/// supervisor's own end alone does not say that its app has ended.
fn lock(grain: &Path, patience: Duration) -> Result<Option<Flock<File>>> {
    let path = grain.join("lock");
    let opened =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(&path);
    let mut file = match opened {
        Ok(file) => file,
        // Never started.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(path.display().to_string())(e)),
    };
    let begin = Instant::now();
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(Some(lock)),
            Err((back, Errno::EWOULDBLOCK | Errno::EINTR)) => file = back,
            Err((_, errno)) => return Err(Error::io(path.display().to_string())(errno.into())),
        }
        if begin.elapsed() > patience {
            return Err(Error::Timeout("ending the app's processes"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grain_is_set_aside_only_when_nobody_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let grain = dir.path().join("grains/g1");
        fs::create_dir_all(&grain).unwrap();
        fs::write(grain.join("lock"), "").unwrap();
        let held = lock(&grain, Duration::ZERO).unwrap().unwrap();
        assert!(matches!(lock(&grain, Duration::ZERO), Err(Error::Timeout(_))));
        let waiting = {
            let home = dir.path().to_owned();
            std::thread::spawn(move || set_aside(&home, "g1"))
        };
        std::thread::sleep(Duration::from_millis(100));
        assert!(grain.exists());
        drop(held);
        waiting.join().unwrap().unwrap();
        let tmp = dir.path().join("tmp");
        let aside = || fs::read_dir(&tmp).unwrap().map(|entry| entry.unwrap().path());
        assert!(!grain.exists() && aside().next().unwrap().join("lock").exists());
        set_aside(dir.path(), "g1").unwrap();
        assert_eq!(aside().count(), 1);
        fs::write(tmp.join("upload.1"), "on its way").unwrap();
        remove_aside(&tmp).unwrap();
        assert!(aside().eq([tmp.join("upload.1")]));
    }
}
