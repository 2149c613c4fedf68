//! Memory for bodies that travel whole: requests that the interface cannot stream, and answers
//! that an app gives in one message; and for an app's messages that wait for readers.
//!
//! Both ends are hostile: an app that never answers keeps its requests here, a visitor who does
//! not read keeps its answers. Each owner's grains have a share, so that nobody else waits for
//! them, and all together have a bound.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use sandstorm_schema::limits::SMALL_BODY;
use sandstorm_schema::rpc::{Budget, GuardLimits};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::errors::Fault;
use super::shared::Live;
use crate::ids::AccountId;

const KIB: usize = 1024;
/// KiB for the grains of one owner: four requests of the largest size.
const OWNER: usize = 64 * KIB;
/// KiB for all.
const SERVER: usize = 512 * KIB;
/// Bytes of messages that the apps of one owner sent and that wait here: as many as the supervisor
/// of a single grain may have.
const OWNER_MESSAGES: usize = GuardLimits::supervisor().held_bytes;
/// Bytes of those of all.
const SERVER_MESSAGES: usize = 512 << 20;
/// How long a body waits for room.
const PATIENCE: Duration = Duration::from_secs(30);
/// Answers that are here and wait for room; each has at most the size of a message.
const WAITING: usize = 32;

/// All the room there is.
pub struct Rooms {
    server: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    owners: Mutex<HashMap<AccountId, Owner>>,
    freed: Arc<AtomicBool>,
    messages: Arc<Budget>,
}

struct Owner {
    bodies: Arc<Semaphore>,
    messages: Arc<Budget>,
}

/// One owner's. Cheap to clone.
#[derive(Clone)]
pub struct Room {
    owner: Arc<Semaphore>,
    server: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    freed: Arc<AtomicBool>,
}

/// What one body holds, until it is dropped.
pub struct Share {
    room: Room,
    bytes: usize,
    owner: Option<OwnedSemaphorePermit>,
    server: Option<OwnedSemaphorePermit>,
}

impl Default for Rooms {
    fn default() -> Rooms {
        Rooms {
            server: Arc::new(Semaphore::new(SERVER)),
            waiting: Arc::new(Semaphore::new(WAITING)),
            owners: Mutex::default(),
            freed: Arc::default(),
            messages: Budget::new(SERVER_MESSAGES),
        }
    }
}

impl Rooms {
    pub fn of(&self, owner: AccountId) -> Room {
        Room {
            owner: self.with(owner, |owner| owner.bodies.clone()),
            server: self.server.clone(),
            waiting: self.waiting.clone(),
            freed: self.freed.clone(),
        }
    }

    /// For what the apps of an owner send; `None`: it is not known whose they are.
    pub fn messages_of(&self, owner: Option<AccountId>) -> Arc<Budget> {
        match owner {
            Some(owner) => self.with(owner, |owner| owner.messages.clone()),
            None => self.messages.clone(),
        }
    }

    fn with<T>(&self, owner: AccountId, of: impl FnOnce(&Owner) -> T) -> T {
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        of(owners.entry(owner).or_insert_with(|| Owner {
            bodies: Arc::new(Semaphore::new(OWNER)),
            messages: Budget::part_of(&self.messages, OWNER_MESSAGES),
        }))
    }

    /// True once after large bodies have gone and none is left.
    pub fn just_emptied(&self) -> bool {
        self.server.available_permits() == SERVER && self.freed.swap(false, Ordering::Relaxed)
    }
}

impl Room {
    /// A share of nothing yet.
    pub fn share(&self) -> Share {
        Share { room: self.clone(), bytes: 0, owner: None, server: None }
    }

    /// A whole answer that holds its share, and keeps its grain awake, until it is written.
    ///
    /// # Errors
    /// 503 when readers leave no room.
    pub async fn hold(&self, bytes: Bytes, live: Live) -> Result<Bytes, Fault> {
        let mut share = self.share();
        if !share.try_grow(bytes.len()) {
            let _waits = self.waiting.clone().try_acquire_owned().map_err(|_| full())?;
            share.grow(bytes.len()).await?;
        }
        Ok(Bytes::from_owner(Held { bytes, _share: share, _live: live }))
    }

    /// The same for bytes whose order would be lost by waiting: `None` when there is no room now.
    pub fn try_hold(&self, bytes: Bytes, live: Live) -> Option<Bytes> {
        let mut share = self.share();
        share
            .try_grow(bytes.len())
            .then(|| Bytes::from_owner(Held { bytes, _share: share, _live: live }))
    }
}

impl Share {
    /// Takes `more` bytes of room, after waiting for it if need be.
    ///
    /// # Errors
    /// 503 after [`PATIENCE`].
    pub async fn grow(&mut self, more: usize) -> Result<(), Fault> {
        let kib = self.needs(more);
        let room = self.room.clone();
        let wait = async {
            let owner = room.owner.acquire_many_owned(kib).await;
            (owner, room.server.acquire_many_owned(kib).await)
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok((Ok(owner), Ok(server))) => {
                self.take(more, owner, server);
                Ok(())
            }
            _ => Err(full()),
        }
    }

    /// The same, if there is room now.
    fn try_grow(&mut self, more: usize) -> bool {
        let kib = self.needs(more);
        let owner = self.room.owner.clone().try_acquire_many_owned(kib);
        let server = self.room.server.clone().try_acquire_many_owned(kib);
        let (Ok(owner), Ok(server)) = (owner, server) else { return false };
        self.take(more, owner, server);
        true
    }

    /// KiB that are missing. Small bodies hold nothing: the number of connections bounds them, and
    /// they shall not wait for large ones.
    fn needs(&self, more: usize) -> u32 {
        let total = self.bytes.saturating_add(more);
        if total <= SMALL_BODY {
            return 0;
        }
        let held = self.owner.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        // At most OWNER: one message may be larger than all the room, and then waits for all of it.
        total.div_ceil(KIB).min(OWNER).saturating_sub(held) as u32
    }

    fn take(&mut self, more: usize, owner: OwnedSemaphorePermit, server: OwnedSemaphorePermit) {
        self.bytes = self.bytes.saturating_add(more);
        for (mine, new) in [(&mut self.owner, owner), (&mut self.server, server)] {
            match mine {
                Some(mine) => mine.merge(new),
                None => *mine = Some(new),
            }
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.bytes > SMALL_BODY {
            self.room.freed.store(true, Ordering::Relaxed);
        }
    }
}

/// Bytes that take their share along.
struct Held {
    bytes: Bytes,
    _share: Share,
    _live: Live,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn full() -> Fault {
    Fault::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "S-ROOM",
        "Too much is under way",
        "Requests and answers of this person's grains that wait to be taken fill their share of \
         the server's memory.",
        "Try again in a minute.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_owner_waits_for_their_own_room_only() {
        let rooms = Rooms::default();
        let mut held = Vec::new();
        for _ in 0..4 {
            let mut share = rooms.of(AccountId(1)).share();
            for _ in 0..16 {
                share.grow(KIB * KIB).await.unwrap();
            }
            held.push(share);
        }
        let refused = rooms.of(AccountId(1)).share().grow(SMALL_BODY + 1).await.unwrap_err();
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
        rooms.of(AccountId(2)).share().grow(16 * KIB * KIB).await.unwrap();
        assert!(!rooms.just_emptied());
        let mut waits = rooms.of(AccountId(1)).share();
        let (grown, ()) = tokio::join!(waits.grow(KIB * KIB), async {
            tokio::time::sleep(PATIENCE / 2).await;
            held.pop();
        });
        grown.unwrap();
        drop((held, waits));
        assert!(rooms.just_emptied());
        assert!(!rooms.just_emptied());
    }

    #[tokio::test]
    async fn small_bodies_wait_for_nothing() {
        let rooms = Rooms::default();
        let mut share = rooms.of(AccountId(1)).share();
        share.grow(SMALL_BODY).await.unwrap();
        assert_eq!(rooms.of(AccountId(1)).owner.available_permits(), OWNER);
        share.grow(1).await.unwrap();
        assert_eq!(rooms.server.available_permits(), SERVER - 65);
        let mut huge = rooms.of(AccountId(2)).share();
        huge.grow(OWNER * KIB * 2).await.unwrap();
        drop((share, huge));
        assert_eq!(rooms.server.available_permits(), SERVER);
        assert_eq!(rooms.of(AccountId(2)).owner.available_permits(), OWNER);
    }
}
