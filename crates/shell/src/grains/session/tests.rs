//! A sign-out against lookups that were under way.

use super::*;
use crate::config::{Listen, Settings};
use crate::grains::pool;
use crate::state::Events;
use crate::store::{Action, CredentialKind, NewGrain, NewPackage, Package, Role, Store};

pub struct Place {
    pub shared: Arc<Shared>,
    ada: AccountId,
    grain: GrainId,
    _home: tempfile::TempDir,
}

/// An opened session, forgotten by the memory: the next lookup reads the database.
pub struct Opened {
    login: LoginId,
    pub host: GrainHost,
    pub sid: String,
}

impl Place {
    pub async fn new() -> Place {
        Place::with(Settings::default()).await
    }

    async fn with(settings: Settings) -> Place {
        let home = tempfile::tempdir().unwrap();
        let listen = Listen::check(&settings).unwrap();
        let config = Config::check(&settings, home.path().to_owned(), listen).unwrap();
        let store = Store::open(&home.path().join("db")).await.unwrap();
        let role = Role::Member;
        let ada = store.account_for_credential(CredentialKind::Dev, "ada", "Ada", role).await;
        let ada = ada.unwrap().id;
        let package = Package {
            package_id: "p".into(),
            app_id: "a".into(),
            title: "Notes".into(),
            app_version: 1,
            marketing_version: "1".into(),
            fingerprint: None,
            packed_size: 1,
            unpacked_size: 1,
            disk: 1,
            entries: 1,
            installed_by: None,
            installed: 1,
        };
        let actions = [Action { position: 0, noun: "note".into(), description: String::new() }];
        let new = NewPackage { package: &package, manifest: b"", actions: &actions };
        store.add_package(&new).await.unwrap();
        let grain = GrainId::generate(getrandom::fill).unwrap();
        let new = NewGrain {
            id: grain.as_str(),
            package: &package,
            owner: ada,
            title: "x",
            noun: "note",
            action: 0,
        };
        store.create_grain(&new).await.unwrap();
        let (threads, _) = pool::prepare(1);
        let (new_ports, _) = tokio::sync::mpsc::unbounded_channel();
        let shared = Shared::new(config, store, Events::new(), threads, new_ports, None);
        Place { shared: Arc::new(shared), ada, grain, _home: home }
    }

    pub async fn open(&self) -> Opened {
        let login = self.shared.store.create_login(self.ada, "").await.unwrap().unwrap();
        let key = LoginKey { login: login.id, account: Some(self.ada), secret: login.secret };
        self.shared.open(&key, &self.grain, Permissions::All, "/").await.unwrap();
        let mut tables = self.shared.sessions.tables();
        let session = tables.by_sid.values().find(|s| s.login == Some(login.id)).unwrap();
        let host = session.host.clone();
        tables.by_sid.clear();
        let sid = hex::encode(derive(&login.secret, "sid", &self.grain));
        Opened { login: login.id, host, sid }
    }

    /// As `identity::sign_out`.
    async fn sign_out(&self, login: LoginId) {
        assert!(self.shared.store.end_login(self.ada, login).await.unwrap());
        self.shared.sessions.revoke(|session| session.login == Some(login));
    }

    fn remembers(&self, opened: &Opened) -> bool {
        self.shared.sessions.known(&hash_secret(opened.sid.as_bytes()), &opened.host).is_some()
    }
}

#[tokio::test]
async fn a_lookup_under_way_does_not_undo_a_sign_out() {
    let place = Place::new().await;
    let opened = place.open().await;
    let (shared, hash) = (&place.shared, hash_secret(opened.sid.as_bytes()));
    // A lookup that has read its row just before…
    let ended = shared.sessions.ended();
    let row = shared.store.grain_session(&row_key(&opened.host, &hash)).await.unwrap().unwrap();
    let session = shared.build(&place.grain, opened.host.clone(), hash, &row).await.unwrap();
    place.sign_out(opened.login).await;
    // …ends just after.
    assert!(shared.sessions.keep(session, ended).is_none());
    assert!(!place.remembers(&opened));
    let found = shared.session_by_cookie(&opened.host, &[&opened.sid]).await.unwrap();
    assert!(found.is_none());
}

/// The same with whole lookups, whose steps come in any order.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_sign_out_holds_whatever_is_asked_meanwhile() {
    let place = Place::new().await;
    for round in 0..150_u64 {
        let opened = place.open().await;
        let lookups: Vec<_> = (0..6)
            .map(|number| {
                let (shared, host) = (place.shared.clone(), opened.host.clone());
                let sid = opened.sid.clone();
                tokio::spawn(async move {
                    let pause = Duration::from_micros((round * 7 + number * 61) % 600);
                    std::thread::sleep(pause);
                    shared.session_by_cookie(&host, &[&sid]).await.map(drop)
                })
            })
            .collect();
        place.sign_out(opened.login).await;
        for lookup in lookups {
            lookup.await.unwrap().unwrap();
        }
        assert!(!place.remembers(&opened), "round {round}: the session is back");
    }
}

/// Who wants to make room on a full disk must get to what they can delete.
#[tokio::test]
async fn a_grain_is_opened_while_the_database_cannot_be_written() {
    let place = Place::new().await;
    let store = &place.shared.store;
    let again = place.open().await;
    // The app knows this person already; this sign-in has not opened the grain.
    let login = store.create_login(place.ada, "").await.unwrap().unwrap();
    let key = LoginKey { login: login.id, account: Some(place.ada), secret: login.secret };
    store.break_writing().await;
    place.shared.open(&key, &place.grain, Permissions::All, "/").await.unwrap();
    let sid = hex::encode(derive(&login.secret, "sid", &place.grain));
    let label = hex::encode(&derive(&login.secret, "host", &place.grain)[..16]);
    let host = GrainHost::Label(format!("ui-{label}"));
    let new = Opened { login: login.id, host, sid };
    for opened in [&again, &new] {
        // Whether the memory knows it or has to look.
        for _ in 0..2 {
            let found = place.shared.session_by_cookie(&opened.host, &[&opened.sid]).await;
            assert_eq!(found.unwrap().unwrap().login, Some(opened.login));
            place.shared.sessions.tables().by_sid.clear();
        }
        let found = place.shared.session_by_cookie(&opened.host, &["0".repeat(64).as_str()]).await;
        assert!(found.unwrap().is_none());
    }
    // Scripts' sessions, which the audit log must know of, need the database.
    assert!(place.shared.open_for_script(&place.grain, Permissions::All).await.is_err());

    // The end of the sign-in is the end of it, by either way of hearing.
    store.mend_writing().await;
    assert!(store.end_login(place.ada, new.login).await.unwrap());
    let found = place.shared.session_by_cookie(&new.host, &[&new.sid]).await.unwrap();
    assert!(found.is_none() && !place.remembers(&new));
}

/// Fewer rights are not taken for more because they could not be written down.
#[tokio::test]
async fn rights_that_cannot_be_written_are_not_given() {
    let place = Place::new().await;
    let login = place.shared.store.create_login(place.ada, "").await.unwrap().unwrap();
    let key = LoginKey { login: login.id, account: Some(place.ada), secret: login.secret };
    place.shared.open(&key, &place.grain, Permissions::All, "/").await.unwrap();
    place.shared.store.break_writing().await;
    place.shared.open(&key, &place.grain, Permissions::All, "/").await.unwrap();
    let fewer = Permissions::Names(vec!["view".into()]);
    assert!(place.shared.open(&key, &place.grain, fewer, "/").await.is_err());
}

/// A page of another grain can set cookies of this name for the domain above, and for many paths.
#[tokio::test]
async fn planted_cookies_lock_nobody_out() {
    for mode in ["wildcard", "port"] {
        // A port that is free now: other servers may run here.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let settings = Settings {
            grain_mode: Some(mode.into()),
            grain_ports: Some(format!("{free}-{free}")),
            ..Settings::default()
        };
        let place = Place::with(settings).await;
        let opened = place.open().await;
        let mut values: Vec<String> = (0..500).map(|n| format!("{n:064x}")).collect();
        values.push(opened.sid.clone());
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        // Whether the database knows it or the memory.
        for _ in 0..2 {
            let found = place.shared.session_by_cookie(&opened.host, &values).await.unwrap();
            assert_eq!(found.unwrap().login, Some(opened.login), "{mode}");
        }
        let strangers = &values[..500];
        assert!(place.shared.session_by_cookie(&opened.host, strangers).await.unwrap().is_none());
        assert!(place.remembers(&opened), "{mode}");
    }
}

/// A session that was checked again is another in memory than the one that its sockets began with.
#[tokio::test]
async fn what_goes_on_in_a_session_ends_with_its_sign_in() {
    let place = Place::new().await;
    let shared = &place.shared;
    for expired in [false, true] {
        let opened = place.open().await;
        let hash = hash_secret(opened.sid.as_bytes());
        let first = shared.session_by_cookie(&opened.host, &[&opened.sid]).await.unwrap().unwrap();
        let (revoked, live) = (first.revoked.clone(), first.entry.live());
        // As after five minutes and a request, and after twenty without one.
        let old = |age: Duration| {
            let mut tables = shared.sessions.tables();
            let session = tables.by_sid.remove(&hash).unwrap();
            let mut session = Arc::try_unwrap(session).unwrap_or_else(|_| panic!("held"));
            session.checked = Instant::now().checked_sub(age).unwrap();
            tables.by_sid.insert(hash, Arc::new(session));
        };
        drop(first);
        old(RECHECK * 2);
        let again = shared.session_by_cookie(&opened.host, &[&opened.sid]).await.unwrap().unwrap();
        drop(again);
        old(RECHECK * 5);
        shared.sessions.sweep();
        shared.recheck().await;
        assert!(!revoked.is_cancelled());
        if expired {
            shared.store.expire_login(opened.login).await;
            shared.recheck().await;
        } else {
            old(RECHECK * 5);
            shared.sessions.sweep();
            place.sign_out(opened.login).await;
        }
        assert!(revoked.is_cancelled(), "its sockets stay open");
        drop(live);
    }
}
