//! Grain sessions: which browser may use which grain, on which host.
//!
//! The host is public; the `sandstorm-sid` cookie is the secret. Both are derived from the
//! sign-in's own secret, so that a grain has the same host at each opening and the database, which
//! keeps hashes only, opens nothing. A session is looked up by the hash of the cookie *and* must
//! belong to the host that was asked: a cookie planted by a sibling host counts for nothing.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hmac::{Hmac, Mac};
use http::HeaderValue;
use sha2::Sha256;
use tokio_util::sync::CancellationToken;

use super::room::Room;
use super::shared::{Entry, Shared, give_room_back};
use super::{Frame, LoginKey, Permissions, ScriptSession, cookies, policy};
use crate::config::{Config, GrainHosts};
use crate::edge::{GrainHost, route::port_name};
use crate::error::{Error, Result};
use crate::ids::{AccountId, GrainId, LoginId};
use crate::store::{Audit, By, Grain, GrainSessionRow, hash_secret, now_ms, random};

/// A ticket must be used this soon: the page that carries it loads its frame at once.
const TICKET_TIME: Duration = Duration::from_secs(60);
/// Waiting tickets; more than this and the oldest give way.
const MAX_TICKETS: usize = 100_000;
/// Sessions that only the memory knows.
const MAX_UNSAVED: usize = 10_000;
/// After so long a session is checked against the database again, in case its sign-in expired.
const RECHECK: Duration = Duration::from_secs(300);
/// Cookies of our name that are looked at in one request: more than a browser keeps for a whole site
/// (Firefox and Chrome 180, Safari a few hundred).
const MAX_SIDS: usize = 512;
/// How often a session is read again because another was ended meanwhile.
const TRIES: usize = 8;
/// How long a script's session lasts.
const SCRIPT_HOURS: i64 = 12;

/// One (sign-in, grain).
pub struct GrainSession {
    /// SHA-256 of the cookie: the session's name in memory.
    pub sid_hash: [u8; 32],
    pub entry: Arc<Entry>,
    pub host: GrainHost,
    /// `scheme://host[:port]`: what the app sees as its base path.
    pub origin: String,
    /// The `Content-Security-Policy` of this session's answers.
    pub policy: HeaderValue,
    pub login: Option<LoginId>,
    pub display_name: String,
    pub handle: String,
    /// What the names of the app's cookies begin with in the browser.
    pub cookie_prefix: String,
    /// What the app may know this person by.
    pub identity: [u8; 32],
    pub permissions: Permissions,
    /// Memory for bodies that travel whole: the grain's owner's.
    pub room: Room,
    pub tab_id: [u8; 16],
    /// Made for curl and scripts: no browser, so no browser's headers.
    pub script: bool,
    expires: Option<i64>,
    checked: Instant,
    /// Cancelled at sign-out: requests end, sockets close.
    pub revoked: CancellationToken,
}

#[derive(Default)]
pub struct Sessions(Mutex<Tables>);

#[derive(Default)]
struct Tables {
    by_sid: HashMap<[u8; 32], Arc<GrainSession>>,
    tickets: HashMap<[u8; 32], Ticket>,
    /// Home threads, so that a connection can be placed by its host.
    homes: HashMap<GrainHost, usize>,
    /// Rows of sessions that the database could not take, by their keys. Who frees space on a full
    /// disk must be let in first, and a restart forgets them.
    unsaved: HashMap<String, GrainSessionRow>,
    /// How often sessions were ended, so that a lookup under way cannot bring one back.
    ended: u64,
}

/// A way into a session that works once.
#[derive(Clone)]
pub struct Ticket {
    pub host: GrainHost,
    /// Value for the cookie.
    pub sid: String,
    /// The port was another grain's: browsers without this mark forget what that left there.
    pub mark: Option<String>,
    until: Instant,
}

impl Sessions {
    fn tables(&self) -> std::sync::MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn home_of(&self, host: &GrainHost) -> Option<usize> {
        self.tables().homes.get(host).copied()
    }

    /// Uses a ticket up; it must belong to `host`.
    pub fn redeem(&self, ticket: &str, host: &GrainHost) -> Option<Ticket> {
        let ticket = self.tables().tickets.remove(&hash_secret(ticket.as_bytes()))?;
        (ticket.until > Instant::now() && ticket.host == *host).then_some(ticket)
    }

    fn add_ticket(&self, host: GrainHost, sid: String, mark: Option<String>) -> String {
        let secret = hex::encode(random::<32>());
        let now = Instant::now();
        let mut tables = self.tables();
        if tables.tickets.len() >= 64 {
            tables.tickets.retain(|_, ticket| ticket.until > now);
        }
        if tables.tickets.len() >= MAX_TICKETS {
            let oldest = tables.tickets.iter().min_by_key(|(_, ticket)| ticket.until);
            if let Some(oldest) = oldest.map(|(hash, _)| *hash) {
                tables.tickets.remove(&oldest);
            }
        }
        let ticket = Ticket { host, sid, mark, until: now + TICKET_TIME };
        tables.tickets.insert(hash_secret(secret.as_bytes()), ticket);
        secret
    }

    fn ended(&self) -> u64 {
        self.tables().ended
    }

    /// Puts a session into memory; one that is there already with the same rights stays. `None` when any
    /// was ended since `ended` was asked for, before this one was read from the database.
    fn keep(&self, session: GrainSession, ended: u64) -> Option<Arc<GrainSession>> {
        let mut tables = self.tables();
        if tables.ended != ended {
            return None;
        }
        tables.homes.insert(session.host.clone(), session.entry.home);
        if let Some(old) = tables.by_sid.get(&session.sid_hash) {
            if old.permissions == session.permissions && old.display_name == session.display_name {
                if old.checked.elapsed() < RECHECK {
                    return Some(old.clone());
                }
                // Same session, fresh time of its check: its open sockets stay open.
                let fresh = GrainSession { revoked: old.revoked.clone(), ..session };
                let fresh = Arc::new(fresh);
                tables.by_sid.insert(fresh.sid_hash, fresh.clone());
                return Some(fresh);
            }
            old.revoked.cancel();
        }
        let session = Arc::new(session);
        tables.by_sid.insert(session.sid_hash, session.clone());
        Some(session)
    }

    /// Those of this host that the database does not know any more.
    fn end<'a>(&self, gone: impl Iterator<Item = &'a [u8; 32]>, host: &GrainHost) {
        let mut tables = self.tables();
        for sid_hash in gone {
            if tables.by_sid.get(sid_hash).is_some_and(|session| session.host == *host) {
                if let Some(session) = tables.by_sid.remove(sid_hash) {
                    session.revoked.cancel();
                }
                tables.unsaved.remove(&row_key(host, sid_hash));
            }
        }
    }

    fn unsaved(&self, keys: &BTreeSet<String>) -> Vec<GrainSessionRow> {
        let tables = self.tables();
        keys.iter().filter_map(|key| tables.unsaved.get(key).cloned()).collect()
    }

    /// Remembers a row that could not be written; false when there are too many.
    fn keep_unsaved(&self, row: &GrainSessionRow) -> bool {
        let mut tables = self.tables();
        let has_room = tables.unsaved.len() < MAX_UNSAVED;
        if has_room {
            tables.unsaved.insert(row.host.clone(), row.clone());
        }
        has_room
    }

    fn saved(&self, row: &GrainSessionRow) {
        self.tables().unsaved.remove(&row.host);
    }

    fn known(&self, sid_hash: &[u8; 32], host: &GrainHost) -> Option<Arc<GrainSession>> {
        let mut tables = self.tables();
        let session = tables.by_sid.get(sid_hash)?;
        if session.host != *host {
            return None;
        }
        let stale = session.checked.elapsed() > RECHECK
            || session.expires.is_some_and(|expires| expires <= now_ms());
        if stale {
            if session.expires.is_some_and(|expires| expires <= now_ms()) {
                session.revoked.cancel();
                tables.by_sid.remove(sid_hash);
            }
            return None;
        }
        Some(session.clone())
    }

    /// Ends every session for which `which` holds.
    pub fn revoke(&self, which: impl Fn(&GrainSession) -> bool) {
        let mut tables = self.tables();
        tables.ended += 1;
        let mut hosts = Vec::new();
        let Tables { by_sid, unsaved, .. } = &mut *tables;
        by_sid.retain(|_, session| {
            let end = which(session);
            if end {
                session.revoked.cancel();
                unsaved.remove(&row_key(&session.host, &session.sid_hash));
                hosts.push(session.host.clone());
            }
            !end
        });
        // Tickets of these hosts lead nowhere any more.
        tables.tickets.retain(|_, ticket| !hosts.contains(&ticket.host));
    }

    /// Those of grains that something uses now.
    fn in_use(&self) -> Vec<(GrainHost, [u8; 32])> {
        let tables = self.tables();
        let of_live = tables.by_sid.values().filter(|session| session.entry.live_count() > 0);
        of_live.map(|session| (session.host.clone(), session.sid_hash)).collect()
    }

    /// Forgets sessions that nobody used for a while; the database still knows them.
    pub fn sweep(&self) {
        let mut tables = self.tables();
        let Tables { by_sid, homes, unsaved, .. } = &mut *tables;
        by_sid.retain(|_, session| {
            session.checked.elapsed() < RECHECK * 4
                || Arc::strong_count(session) > 1
                // Its sockets and streams hold the token of an earlier copy of it, and end by that.
                || session.entry.live_count() > 0
        });
        let keys: HashSet<String> =
            by_sid.values().map(|session| row_key(&session.host, &session.sid_hash)).collect();
        unsaved.retain(|key, _| keys.contains(key));
        let hosts: HashSet<&GrainHost> = by_sid.values().map(|session| &session.host).collect();
        homes.retain(|host, _| hosts.contains(host));
        give_room_back(homes);
        give_room_back(by_sid);
    }
}

impl Shared {
    /// Makes or refreshes the session of a sign-in and a ticket for its frame.
    pub async fn open(
        &self,
        key: &LoginKey,
        grain: &GrainId,
        permissions: Permissions,
        path: &str,
    ) -> Result<Frame> {
        let row = self.usable_grain(grain).await?;
        let account = key.account.ok_or_else(|| {
            Error::Forbidden(
                "Sign in first: grains cannot be opened without an account yet.".into(),
            )
        })?;
        let sid = hex::encode(derive(&key.secret, "sid", grain));
        let (host, mark) = match &self.config.grain_hosts {
            GrainHosts::Wildcard(_) => {
                let label = hex::encode(&derive(&key.secret, "host", grain)[..16]);
                (GrainHost::Label(format!("ui-{label}")), None)
            }
            GrainHosts::Port { .. } => self.port_host(grain, account).await?,
        };
        let session =
            self.save(&row, host, &sid, account, Some(key.login), permissions, None, None).await?;
        let ticket = self.sessions.add_ticket(session.host.clone(), sid, mark);
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let path = percent_encoding::utf8_percent_encode(&path, QUERY_VALUE);
        Ok(Frame {
            origin: session.origin.clone(),
            init_url: format!("{}/_sandstorm-init?ticket={ticket}&path={path}", session.origin),
        })
    }

    /// A session for curl and scripts, of a grain's owner, for the operator: the audit log says so.
    pub async fn open_for_script(
        &self,
        grain: &GrainId,
        permissions: Permissions,
    ) -> Result<ScriptSession> {
        let row = self.usable_grain(grain).await?;
        let sid = hex::encode(random::<32>());
        let host = match &self.config.grain_hosts {
            GrainHosts::Wildcard(_) => {
                GrainHost::Label(format!("ui-{}", hex::encode(random::<16>())))
            }
            GrainHosts::Port { .. } => self.port_host(grain, row.owner).await?.0,
        };
        let expires = now_ms() + SCRIPT_HOURS * 3_600_000;
        let owner = row.owner;
        let detail = match &permissions {
            Permissions::All => "all permissions".to_owned(),
            Permissions::Names(names) => names.join(","),
        };
        let (action, target) = ("grain-session", grain.as_str());
        let audit = Some(&Audit { by: By::Command, action, target, detail: &detail });
        let until = Some(expires);
        let session = self.save(&row, host, &sid, owner, None, permissions, until, audit).await?;
        Ok(ScriptSession {
            origin: session.origin.clone(),
            cookie: format!("{}={sid}", cookie_name(&session.host)),
            expires: expires / 1000,
        })
    }

    /// The session that one of these cookie values proves for this host.
    pub async fn session_by_cookie(
        &self,
        host: &GrainHost,
        values: &[&str],
    ) -> Result<Option<Arc<GrainSession>>> {
        // A sibling host can plant cookies of our name, and browsers send those for longer paths
        // first: only the one that fits this host counts, wherever it stands among them.
        let hashes: Vec<[u8; 32]> = values
            .iter()
            .filter(|sid| sid.len() == 64)
            .take(MAX_SIDS)
            .map(|sid| hash_secret(sid.as_bytes()))
            .collect();
        if let Some(session) = hashes.iter().find_map(|hash| self.sessions.known(hash, host)) {
            return Ok(Some(session));
        }
        self.session_of_row(host, &hashes).await
    }

    /// The session that the database knows by this host and one of these hashes of cookies.
    async fn session_of_row(
        &self,
        host: &GrainHost,
        hashes: &[[u8; 32]],
    ) -> Result<Option<Arc<GrainSession>>> {
        if hashes.is_empty() {
            return Ok(None);
        }
        for _ in 0..TRIES {
            let ended = self.sessions.ended();
            let rows = self.rows_of(host, hashes).await?;
            let keys: HashSet<&str> = rows.iter().map(|row| row.host.as_str()).collect();
            let has_row = |hash: &[u8; 32]| keys.contains(row_key(host, hash).as_str());
            self.sessions.end(hashes.iter().filter(|hash| !has_row(hash)), host);
            let fits = |row: &GrainSessionRow, hash: &[u8; 32]| {
                bool::from(subtle::ConstantTimeEq::ct_eq(&row.sid_hash[..], &hash[..]))
            };
            let found = rows
                .iter()
                .find_map(|row| Some((row, *hashes.iter().find(|hash| fits(row, hash))?)));
            let Some((row, sid_hash)) = found else { return Ok(None) };
            let Ok(grain) = row.grain.parse() else { return Ok(None) };
            let session = self.build(&grain, host.clone(), sid_hash, row).await?;
            // Someone signed out meanwhile, maybe this one: the row says.
            if let Some(session) = self.sessions.keep(session, ended) {
                return Ok(Some(session));
            }
        }
        Err(Error::Busy("Too many people sign out just now: try again".into()))
    }

    /// Ends what goes on in sessions that are over without anybody's saying so: their sign-in has expired,
    /// or the account is suspended. A request finds that by itself; a socket that is open makes none.
    pub async fn recheck(&self) {
        for (host, sid_hash) in self.sessions.in_use() {
            if let Err(error) = self.session_of_row(&host, &[sid_hash]).await {
                tracing::warn!("a session could not be looked at: {error}");
            }
        }
    }

    /// The rows that these hashes of cookies may belong to, read at once: a label has one, whatever
    /// is in the cookies. Also those that could not be written: they are as good as their sign-ins.
    async fn rows_of(&self, host: &GrainHost, hashes: &[[u8; 32]]) -> Result<Vec<GrainSessionRow>> {
        let keys: BTreeSet<String> = hashes.iter().map(|hash| row_key(host, hash)).collect();
        let asked: Vec<&str> = keys.iter().map(String::as_str).collect();
        let mut rows = self.store.grain_sessions(&asked).await?;
        for row in self.sessions.unsaved(&keys) {
            let is_written = rows.iter().any(|written| written.host == row.host);
            if !is_written && self.store.is_grain_session_good(&row).await? {
                rows.push(row);
            }
        }
        Ok(rows)
    }

    /// The grain's row, if it is there and not in the trash.
    pub async fn usable_grain(&self, grain: &GrainId) -> Result<Grain> {
        match self.store.grain(grain.as_str()).await? {
            Some(row) if row.trashed_at.is_none() => Ok(row),
            _ => Err(Error::NotFound("grain")),
        }
    }

    async fn port_host(
        &self,
        grain: &GrainId,
        account: AccountId,
    ) -> Result<(GrainHost, Option<String>)> {
        let port = super::ports::grant(self, grain, account).await?;
        Ok((GrainHost::Port(port.port), port.mark))
    }

    #[allow(clippy::too_many_arguments)]
    async fn save(
        &self,
        grain: &Grain,
        host: GrainHost,
        sid: &str,
        account: AccountId,
        login: Option<LoginId>,
        permissions: Permissions,
        expires: Option<i64>,
        audit: Option<&Audit<'_>>,
    ) -> Result<Arc<GrainSession>> {
        let sid_hash = hash_secret(sid.as_bytes());
        let row = GrainSessionRow {
            host: row_key(&host, &sid_hash),
            grain: grain.id.clone(),
            account,
            login_session: login,
            sid_hash: sid_hash.to_vec(),
            permissions: match &permissions {
                Permissions::All => None,
                Permissions::Names(names) => {
                    Some(serde_json::to_string(names).map_err(|e| Error::Internal(e.to_string()))?)
                }
            },
            expires,
        };
        let known = self.store.grain_session(&row.host).await?;
        // What is there already costs no write.
        if known.as_ref() != Some(&row) || audit.is_some() {
            match self.store.save_grain_session(&row, audit).await {
                Ok(()) => self.sessions.saved(&row),
                // Only for a person, and never in place of a row that says something else.
                Err(error)
                    if known.is_none()
                        && row.login_session.is_some()
                        && audit.is_none()
                        && self.sessions.keep_unsaved(&row) =>
                {
                    let grain = &row.grain;
                    tracing::warn!("grain {grain}: an opening could not be noted: {error}");
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.session_of_row(&host, &[sid_hash]).await?.ok_or(Error::NotFound("grain"))
    }

    async fn build(
        &self,
        grain: &GrainId,
        host: GrainHost,
        sid_hash: [u8; 32],
        row: &GrainSessionRow,
    ) -> Result<GrainSession> {
        let identity = self.store.grain_identity(grain.as_str(), row.account).await?;
        let account = self.store.account(row.account).await?.ok_or(Error::NotFound("account"))?;
        let owner = self.store.grain(grain.as_str()).await?.ok_or(Error::NotFound("grain"))?.owner;
        let permissions = match &row.permissions {
            None => Permissions::All,
            Some(names) => Permissions::Names(
                serde_json::from_str(names).map_err(|e| Error::Internal(e.to_string()))?,
            ),
        };
        let generation = match host {
            GrainHost::Label(_) => 0,
            GrainHost::Port(port) => self.store.port_generation(port).await?,
        };
        let origin = origin(&self.config, &host);
        let mut tab_id = [0; 16];
        tab_id.copy_from_slice(&hash_secret(&[b"tab:", &sid_hash[..]].concat())[..16]);
        Ok(GrainSession {
            sid_hash,
            entry: self.entry(grain),
            policy: policy::content_security(&self.config, &origin),
            origin,
            cookie_prefix: cookies::prefix(&host, generation),
            host,
            login: row.login_session,
            display_name: account.display_name,
            handle: account.handle,
            identity,
            permissions,
            room: self.rooms.of(owner),
            tab_id,
            script: row.login_session.is_none(),
            expires: row.expires,
            checked: Instant::now(),
            revoked: CancellationToken::new(),
        })
    }
}

/// The cookie's name: in port mode all ports of a host share their cookies.
pub fn cookie_name(host: &GrainHost) -> String {
    match host {
        GrainHost::Label(_) => "sandstorm-sid".to_owned(),
        GrainHost::Port(port) => format!("sandstorm-sid-{port}"),
    }
}

/// The origin of a grain's host, as a browser sees it.
pub fn origin(config: &Config, host: &GrainHost) -> String {
    let root = &config.root;
    let mut origin = root.clone();
    match (host, &config.grain_hosts) {
        (GrainHost::Label(label), GrainHosts::Wildcard(wildcard)) => {
            origin.host = wildcard.host(label);
            origin.port = wildcard.port;
        }
        (GrainHost::Port(port), _) if root.https => origin.host = port_name(root, *port),
        (GrainHost::Port(port), _) => origin.port = *port,
        // A label from before the mode was changed leads nowhere.
        (GrainHost::Label(label), _) => origin.host = format!("{label}.invalid"),
    }
    origin.to_string()
}

/// Key of the session's row: a port is shared by an account's sign-ins, a label is not.
fn row_key(host: &GrainHost, sid_hash: &[u8; 32]) -> String {
    match host {
        GrainHost::Label(label) => label.clone(),
        GrainHost::Port(port) => format!("{port}/{}", hex::encode(&sid_hash[..8])),
    }
}

fn derive(secret: &[u8; 32], what: &str, grain: &GrainId) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(b"grain session ");
    mac.update(what.as_bytes());
    mac.update(b"\0");
    mac.update(grain.as_str().as_bytes());
    mac.finalize().into_bytes().into()
}

/// What a query's value may not hold bare.
const QUERY_VALUE: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

#[cfg(test)]
pub mod tests;
