//! A sign-out against lookups that were under way.

use super::*;
use crate::config::{Listen, Settings};
use crate::grains::pool;
use crate::state::Events;
use crate::store::{Action, CredentialKind, NewGrain, NewPackage, Package, Role, Store};

struct Place {
    shared: Arc<Shared>,
    ada: AccountId,
    grain: GrainId,
    _home: tempfile::TempDir,
}

/// An opened session, forgotten by the memory: the next lookup reads the database.
struct Opened {
    login: LoginId,
    host: GrainHost,
    sid: String,
}

impl Place {
    async fn new() -> Place {
        let home = tempfile::tempdir().unwrap();
        let settings = Settings::default();
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
        let shared = Shared::new(config, store, Events::new(), threads, new_ports);
        Place { shared: Arc::new(shared), ada, grain, _home: home }
    }

    async fn open(&self) -> Opened {
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
