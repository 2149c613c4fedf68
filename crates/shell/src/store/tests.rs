use std::net::{IpAddr, Ipv4Addr};

use super::*;

pub(super) async fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("db.sqlite")).await.unwrap();
    (dir, store)
}

pub(super) async fn person(store: &Store, name: &str) -> Account {
    store.account_for_credential(CredentialKind::Dev, name, name, Role::Member).await.unwrap()
}

pub(super) async fn package(store: &Store, id: &str, app: &str, version: i64) -> Package {
    let package = Package {
        package_id: id.into(),
        app_id: app.into(),
        title: "Notes".into(),
        app_version: version,
        marketing_version: "1.0".into(),
        fingerprint: None,
        packed_size: 10,
        unpacked_size: 20,
        disk: 4096,
        entries: 3,
        installed_by: None,
        installed: version,
    };
    let actions = [Action { position: 0, noun: "note".into(), description: String::new() }];
    let new = NewPackage { package: &package, manifest: b"m", actions: &actions };
    store.add_package(&new).await.unwrap();
    store.add_package(&new).await.unwrap();
    package
}

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const LINE: Audit<'_> = Audit { by: By::Command, action: "test", target: "", detail: "" };

pub(super) async fn grain(
    store: &Store,
    id: &str,
    owner: &Account,
    package: &Package,
    title: &str,
) {
    let new = NewGrain { id, package, owner: owner.id, title, noun: "note", action: 0 };
    store.create_grain(&new).await.unwrap();
}

#[tokio::test]
async fn the_file_is_private_and_migrates_once() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, store) = store().await;
    let mode = std::fs::metadata(dir.path().join("db.sqlite")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    store.set_setting("name", "Ada's", &LINE).await.unwrap();
    store.close().await;
    let again = Store::open(&dir.path().join("db.sqlite")).await.unwrap();
    assert_eq!(again.setting("name").await.unwrap().as_deref(), Some("Ada's"));
    assert_eq!(again.setting("none").await.unwrap(), None);
}

/// A database as the first version wrote it: today's server opens it, and who was signed in stays so.
#[tokio::test]
async fn a_database_of_the_first_version_migrates() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db.sqlite");
    let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let old = SqlitePool::connect_with(options).await.unwrap();
    let all = sqlx::migrate!("./migrations");
    let first = sqlx::migrate::Migrator {
        migrations: all.migrations[..1].to_vec().into(),
        ..sqlx::migrate::Migrator::DEFAULT
    };
    first.run(&old).await.unwrap();
    let secret = [7; 32];
    sqlx::query("INSERT INTO accounts VALUES (1, 'Ada', 'ada', 'admin', 5, NULL)")
        .execute(&old)
        .await
        .unwrap();
    sqlx::query("INSERT INTO login_sessions VALUES (1, $1, 1, 5, 5, $2, 'a browser', $3)")
        .bind(&hash_secret(&secret)[..])
        .bind(now_ms() + 1_000_000)
        .bind(&[1; 32][..])
        .execute(&old)
        .await
        .unwrap();
    old.close().await;

    let store = Store::open(&path).await.unwrap();
    let session = store.login(&secret).await.unwrap().expect("still signed in");
    assert_eq!(
        (session.account.handle.as_str(), session.user_agent.as_str()),
        ("ada", "a browser")
    );
    let columns: Vec<String> =
        sqlx::query_scalar("SELECT name FROM pragma_table_info('login_sessions')")
            .fetch_all(&store.read)
            .await
            .unwrap();
    assert!(!columns.contains(&"host_key".to_owned()), "{columns:?}");
    store.create_login(session.account.id, "another browser").await.unwrap().unwrap();
    // And it stays at this version.
    store.close().await;
    assert!(Store::open(&path).await.unwrap().login(&secret).await.unwrap().is_some());
}

#[tokio::test]
async fn one_credential_is_one_account() {
    let (_dir, store) = store().await;
    let ada = person(&store, "Ada").await;
    assert_eq!(person(&store, "Ada").await.id, ada.id);
    let other = store
        .account_for_credential(CredentialKind::Operator, "local", "Ada", Role::Member)
        .await
        .unwrap();
    assert_ne!(other.id, ada.id);
    assert_eq!(other.handle, "ada-2");
    assert!(!store.has_admin().await.unwrap());
    let same = store
        .account_for_credential(CredentialKind::Operator, "local", "Ada", Role::Admin)
        .await
        .unwrap();
    assert_eq!((same.id, same.role), (other.id, Role::Admin));
    assert!(store.has_admin().await.unwrap());
    assert_eq!(store.account_by_handle("ada-2").await.unwrap().unwrap().id, other.id);
}

#[tokio::test]
async fn a_login_lives_until_it_is_ended() {
    let (_dir, store) = store().await;
    let (ada, ben) = (person(&store, "Ada").await, person(&store, "Ben").await);
    let login = store.create_login(ada.id, "Firefox\u{7}").await.unwrap().unwrap();
    let found = store.login(&login.secret).await.unwrap().unwrap();
    assert_eq!((found.account.id, found.user_agent.as_str()), (ada.id, "Firefox"));
    let mut wrong = login.secret;
    wrong[0] ^= 1;
    assert!(store.login(&wrong).await.unwrap().is_none());
    assert!(!store.end_login(ben.id, login.id).await.unwrap());
    assert!(store.login(&login.secret).await.unwrap().is_some());
    assert!(store.end_login(ada.id, login.id).await.unwrap());
    assert!(store.login(&login.secret).await.unwrap().is_none());
}

#[tokio::test]
async fn a_suspended_account_is_signed_out() {
    let (_dir, store) = store().await;
    let ada = person(&store, "Ada").await;
    let login = store.create_login(ada.id, "x").await.unwrap().unwrap();
    let link = store.create_link(LinkPurpose::OpenGrain, Some(ada.id), Some("g"), 60, None).await;
    let link = link.unwrap();
    sqlx::query("UPDATE accounts SET suspended = 1").execute(&store.write).await.unwrap();
    assert!(store.login(&login.secret).await.unwrap().is_none());
    // Nor does it come in by another door; its link waits.
    assert!(store.create_login(ada.id, "x").await.unwrap().is_none());
    assert!(matches!(store.sign_in_by_link(&link, "x", HERE).await.unwrap(), ByLink::Suspended));
    assert!(store.is_link_good(&link).await.unwrap());
    assert!(store.audit_lines(1, 1).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_link_works_once_and_expires() {
    let (_dir, store) = store().await;
    let secret = store.create_link(LinkPurpose::Admin, None, None, 60, None).await.unwrap();
    let (a, b) = tokio::join!(
        store.sign_in_by_link(&secret, "a", HERE),
        store.sign_in_by_link(&secret, "b", HERE)
    );
    let is_in = |by: &ByLink| matches!(by, ByLink::In { grain: None, .. });
    assert_eq!([a.unwrap(), b.unwrap()].iter().filter(|by| is_in(by)).count(), 1);
    let late = store.create_link(LinkPurpose::Admin, None, None, -1, None).await.unwrap();
    assert!(matches!(store.sign_in_by_link(&late, "", HERE).await.unwrap(), ByLink::NotGood));
}

#[tokio::test]
async fn a_link_is_not_used_up_for_who_does_not_come_in() {
    let (_dir, store) = store().await;
    let secret = store.create_link(LinkPurpose::Admin, None, None, 60, None).await.unwrap();
    for (table, last) in [("accounts", false), ("audit", false), ("login_sessions", true)] {
        let trigger = format!(
            "CREATE TRIGGER broken BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'no'); END"
        );
        sqlx::query(&trigger).execute(&store.write).await.unwrap();
        store.sign_in_by_link(&secret, "", HERE).await.unwrap_err();
        sqlx::query("DROP TRIGGER broken").execute(&store.write).await.unwrap();
        assert!(store.is_link_good(&secret).await.unwrap(), "{table}");
        assert!(!store.has_admin().await.unwrap(), "{table}");
        if last {
            let entered = store.sign_in_by_link(&secret, "Firefox", HERE).await.unwrap();
            let ByLink::In { login, grain: None } = entered else { panic!("{entered:?}") };
            let session = store.login(&login.secret).await.unwrap().unwrap();
            assert_eq!(session.account.role, Role::Admin);
            let [line] = &store.audit_lines(9, 9).await.unwrap()[..] else { panic!("one line") };
            assert_eq!(line.address, Some(HERE));
        }
    }
}

#[tokio::test]
async fn what_is_only_read_needs_no_writing() {
    let (_dir, store) = store().await;
    let ada = person(&store, "Ada").await;
    let login = store.create_login(ada.id, "x").await.unwrap().unwrap();
    store.notify(ada.id, Tone::Good, "Moved", None).await.unwrap();
    store.break_writing().await;
    store.notify(ada.id, Tone::Good, "Lost", None).await.unwrap_err();
    assert!(store.login(&login.secret).await.unwrap().is_some());
    for _ in 0..2 {
        let notices = store.take_notices(ada.id).await.unwrap();
        assert_eq!(notices.iter().map(|n| n.text.as_str()).collect::<Vec<_>>(), ["Moved"]);
    }
}

impl Store {
    /// From here on nothing can be written, as on a full disk, and every sign-in was last seen long
    /// ago.
    pub async fn break_writing(&self) {
        for sql in ["UPDATE login_sessions SET last_seen = 0", "PRAGMA query_only = 1"] {
            sqlx::query(sql).execute(&self.write).await.unwrap();
        }
    }

    /// As whoever opens an administrator's link.
    pub async fn make_admin(&self, account: crate::ids::AccountId) {
        sqlx::query("UPDATE accounts SET role = 'admin' WHERE id = $1")
            .bind(account)
            .execute(&self.write)
            .await
            .unwrap();
    }

    /// As when its days are over.
    pub async fn expire_login(&self, login: crate::ids::LoginId) {
        sqlx::query("UPDATE login_sessions SET expires = 1 WHERE id = $1")
            .bind(login)
            .execute(&self.write)
            .await
            .unwrap();
    }

    /// As if nobody could read a manifest any more.
    pub async fn lose_manifests(&self) {
        sqlx::query("DELETE FROM manifests").execute(&self.write).await.unwrap();
    }

    /// Ends what [`Store::break_writing`] began.
    pub async fn mend_writing(&self) {
        sqlx::query("PRAGMA query_only = 0").execute(&self.write).await.unwrap();
    }
}

#[tokio::test]
async fn own_choice_of_app_wins_over_the_servers() {
    let (_dir, store) = store().await;
    let (ada, ben) = (person(&store, "Ada").await, person(&store, "Ben").await);
    let one = package(&store, "p1", "app", 1).await;
    let two = package(&store, "p2", "app", 2).await;
    assert!(store.apps_of(ada.id).await.unwrap().is_empty());
    store.choose_app_for_all(&one, &LINE).await.unwrap();
    store.choose_app(ada.id, &two).await.unwrap();
    let apps = store.apps_of(ada.id).await.unwrap();
    assert_eq!((apps.len(), apps[0].package.package_id.as_str(), apps[0].own), (1, "p2", true));
    assert_eq!(apps[0].actions.len(), 1);
    let apps = store.apps_of(ben.id).await.unwrap();
    assert_eq!((apps.len(), apps[0].package.package_id.as_str(), apps[0].own), (1, "p1", false));
    assert_eq!(store.app_of(ben.id, "app").await.unwrap().unwrap().package_id, "p1");
    let offered = async || store.offered_packages().await.unwrap();
    let listed = offered().await;
    assert_eq!((listed.len(), listed[0].0.package_id.as_str(), listed[0].1.len()), (1, "p1", 1));
    // An app that nobody was given for all is listed in its newest version.
    for (id, number) in [("q1", 1), ("q3", 3), ("q2", 2)] {
        package(&store, id, "other", number).await;
    }
    let listed = offered().await;
    assert_eq!(listed.len(), 2);
    assert!(listed.iter().any(|(package, _)| package.package_id == "q3"));
    assert_eq!(store.drop_app(ada.id, "app").await.unwrap().as_deref(), Some("p2"));
    assert_eq!(store.app_of(ada.id, "app").await.unwrap().unwrap().package_id, "p1");
}

#[tokio::test]
async fn the_list_searches_filters_and_pages() {
    let (_dir, store) = store().await;
    let (ada, ben) = (person(&store, "Ada").await, person(&store, "Ben").await);
    let app = package(&store, "p1", "app", 1).await;
    for n in 0..205 {
        grain(&store, &format!("g{n:03}"), &ada, &app, &format!("Ärger 100% {n:03}")).await;
    }
    grain(&store, "ben", &ben, &app, "Ben's").await;
    let q =
        |search: &str| GrainQuery { search: search.into(), page: Some(0), ..Default::default() };
    let page = store.list_grains(ada.id, &q("")).await.unwrap();
    assert_eq!((page.rows.len() as i64, page.total), (PAGE_ROWS, 205));
    let last = GrainQuery { page: Some(2), sort: Sort::Name, ..Default::default() };
    let page = store.list_grains(ada.id, &last).await.unwrap();
    assert_eq!(page.rows.len(), 5);
    assert_eq!(page.rows[4].grain.id, "g204");
    // All words, in any order, in title or app; the pattern characters are ordinary.
    for (words, hits) in [("ärger NOTES", 205), ("100% 007", 1), ("1_0", 0), ("%", 205), ("ben", 0)]
    {
        assert_eq!(store.list_grains(ada.id, &q(words)).await.unwrap().total, hits, "{words}");
    }
    store.star(ada.id, "g007", true).await.unwrap();
    store.star(ada.id, "g007", true).await.unwrap();
    let starred = GrainQuery { filter: Filter::Starred, ..Default::default() };
    let page = store.list_grains(ada.id, &starred).await.unwrap();
    assert_eq!((page.total, page.rows[0].starred), (1, true));
    let shared = GrainQuery { filter: Filter::Shared, ..Default::default() };
    assert_eq!(store.list_grains(ada.id, &shared).await.unwrap().total, 0);
    let of_app = GrainQuery { filter: Filter::App("app".into()), ..Default::default() };
    assert_eq!(store.list_grains(ben.id, &of_app).await.unwrap().total, 1);
}

#[tokio::test]
async fn trash_is_the_owners_and_can_be_undone() {
    let (_dir, store) = store().await;
    let (ada, ben) = (person(&store, "Ada").await, person(&store, "Ben").await);
    let app = package(&store, "p1", "app", 1).await;
    grain(&store, "g1", &ada, &app, "One").await;
    assert_eq!(store.trash_grains(ben.id, &["g1"], true, None).await.unwrap(), 0);
    assert_eq!(store.trash_grains(ada.id, &["g1", "nope"], true, None).await.unwrap(), 1);
    let counts = store.count_grains(ada.id).await.unwrap();
    assert_eq!((counts.all, counts.trash), (0, 1));
    assert_eq!(store.trashed_before(now_ms() + 1).await.unwrap(), ["g1"]);
    assert!(store.trashed_before(1).await.unwrap().is_empty());
    assert_eq!(store.trash_grains(ada.id, &["g1"], false, None).await.unwrap(), 1);
    assert_eq!(store.count_grains(ada.id).await.unwrap().all, 1);

    // Restored before its end began: it stays. Once that has begun it is nobody's to restore, and is
    // found again after a kill.
    assert!(!store.doom_grain("g1", Some(i64::MAX), None).await.unwrap());
    store.trash_grains(ada.id, &["g1"], true, None).await.unwrap();
    assert!(!store.doom_grain("g1", Some(1), None).await.unwrap());
    assert!(store.doom_grain("g1", Some(i64::MAX), None).await.unwrap());
    assert_eq!(store.trash_grains(ada.id, &["g1"], false, None).await.unwrap(), 0);
    assert_eq!(store.count_grains(ada.id).await.unwrap().trash, 0);
    assert_eq!(store.trashed_before(1).await.unwrap(), ["g1"]);
    store.spare_grain("g1").await.unwrap();
    assert_eq!(store.trash_grains(ada.id, &["g1"], false, None).await.unwrap(), 1);
    assert!(store.doom_grain("g1", None, None).await.unwrap());
}

#[tokio::test]
async fn a_person_is_another_in_each_grain() {
    let (_dir, store) = store().await;
    let ada = person(&store, "Ada").await;
    let app = package(&store, "p1", "app", 1).await;
    grain(&store, "g1", &ada, &app, "One").await;
    grain(&store, "g2", &ada, &app, "Two").await;
    let one = store.grain_identity("g1", ada.id).await.unwrap();
    assert_eq!(store.grain_identity("g1", ada.id).await.unwrap(), one);
    assert_ne!(store.grain_identity("g2", ada.id).await.unwrap(), one);
    store.destroy_grain("g1").await.unwrap();
    assert!(store.grain("g1").await.unwrap().is_none());
}

#[tokio::test]
async fn an_install_keeps_its_failure_until_it_is_tried_again() {
    let (_dir, store) = store().await;
    store.install_step("h", InstallState::Get, 5, Some("http://x/"), None).await.unwrap();
    store.install_step("h", InstallState::Unpack, 5, None, None).await.unwrap();
    store.install_failed("h", "PKG-SIG", "No").await.unwrap();
    let row = store.install("h").await.unwrap().unwrap();
    assert_eq!((row.state, row.step), (InstallState::Failed, InstallState::Unpack));
    assert_eq!(row.failure, Some(("PKG-SIG".into(), "No".into())));
    store.install_step("h", InstallState::Check, 5, None, None).await.unwrap();
    let row = store.install("h").await.unwrap().unwrap();
    assert_eq!((row.failure, row.url.as_deref()), (None, Some("http://x/")));
    assert_eq!(store.fail_interrupted_installs().await.unwrap(), 1);
    assert_eq!(store.installs_pending().await.unwrap().len(), 1);
    // Nobody goes on with a download either: it can be tried again.
    store.install_step("i", InstallState::Get, 5, Some("http://y/"), None).await.unwrap();
    assert_eq!(store.fail_interrupted_installs().await.unwrap(), 1);
    let row = store.install("i").await.unwrap().unwrap();
    assert_eq!((row.state, row.url.as_deref()), (InstallState::Failed, Some("http://y/")));
    store.install_step("p1", InstallState::Unpack, 5, None, None).await.unwrap();
    package(&store, "p1", "app", 1).await;
    assert_eq!(store.install("p1").await.unwrap().unwrap().state, InstallState::Confirm);
    store.install_ready("p1").await.unwrap();
    assert_eq!(store.install("p1").await.unwrap().unwrap().state, InstallState::Ready);
}

#[tokio::test]
async fn failures_of_one_account_do_not_pile_up() {
    let (_dir, store) = store().await;
    let (ada, ben) = (person(&store, "Ada").await, person(&store, "Ben").await);
    let fail = async |id: &str, by: &Account| {
        store.install_step(id, InstallState::Get, 0, Some("http://x/"), Some(by.id)).await.unwrap();
        store.install_failed(id, "PKG-GET", "No").await.unwrap();
    };
    fail("bens", &ben).await;
    for n in 0..60 {
        fail(&format!("a{n:02}"), &ada).await;
    }
    let pending = store.installs_pending().await.unwrap();
    assert_eq!(pending.len(), 51);
    assert!(pending.iter().any(|one| one.package_id == "a59"));
    assert!(pending.iter().any(|one| one.package_id == "bens"));
    sqlx::query("UPDATE installs SET updated = 1").execute(&store.write).await.unwrap();
    store.sweep().await.unwrap();
    assert!(store.installs_pending().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_notice_shows_once_and_undoes_once() {
    let (_dir, store) = store().await;
    let (ada, ben) = (person(&store, "Ada").await, person(&store, "Ben").await);
    let id = store.notify(ada.id, Tone::Good, "Moved", Some("restore g1")).await.unwrap();
    assert_eq!(store.take_notices(ben.id).await.unwrap().len(), 0);
    assert_eq!(store.take_notices(ada.id).await.unwrap()[0].text, "Moved");
    assert_eq!(store.take_notices(ada.id).await.unwrap().len(), 0);
    assert_eq!(store.recent_notices(ada.id, 9).await.unwrap().len(), 1);
    assert_eq!(store.take_undo(ben.id, id).await.unwrap(), None);
    assert_eq!(store.take_undo(ada.id, id).await.unwrap().as_deref(), Some("restore g1"));
    assert_eq!(store.take_undo(ada.id, id).await.unwrap(), None);
}

/// What a full disk does: the transaction is gone before sqlx rolls it back.
#[tokio::test]
async fn a_transaction_that_sqlite_ended_itself_does_not_swallow_later_ones() {
    let (_dir, store) = store().await;
    let mut lost = store.write.begin().await.unwrap();
    sqlx::query("ROLLBACK").execute(&mut *lost).await.unwrap();
    drop(lost);
    // The next that fails would be rolled back to its savepoint, and stay open around all others.
    drop(store.write.begin().await.unwrap());
    store.set_setting("name", "after", &LINE).await.unwrap();
    let mut kept = store.write.begin().await.unwrap();
    sqlx::query("INSERT INTO settings (name, value) VALUES ('other', 'kept')")
        .execute(&mut *kept)
        .await
        .unwrap();
    kept.commit().await.unwrap();
    // The readers see only what was committed.
    assert_eq!(store.setting("name").await.unwrap().as_deref(), Some("after"));
    assert_eq!(store.setting("other").await.unwrap().as_deref(), Some("kept"));
}

#[tokio::test]
async fn what_happens_again_and_again_is_told_once_a_day() {
    let (_dir, store) = store().await;
    let ada = person(&store, "Ada").await;
    for _ in 0..5 {
        store.notify_daily(ada.id, Tone::Warning, "nearly full").await.unwrap();
    }
    assert_eq!(store.take_notices(ada.id).await.unwrap().len(), 1);
    for n in 0..30 {
        store.notify(ada.id, Tone::Good, &n.to_string(), None).await.unwrap();
    }
    let shown = store.take_notices(ada.id).await.unwrap();
    assert_eq!((shown.len(), shown[9].text.as_str()), (10, "29"));
    assert!(store.take_notices(ada.id).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_account_keeps_so_many_notices() {
    let (_dir, store) = store().await;
    let (ada, ben) = (person(&store, "Ada").await, person(&store, "Ben").await);
    let most = super::notices::MOST_KEPT;
    let kept = |of: AccountId| store.recent_notices(of, 10_000);
    store.notify(ben.id, Tone::Good, "Ben's", None).await.unwrap();
    store.notify(ada.id, Tone::Warning, "read me", None).await.unwrap();
    // Those that the page showed itself go first.
    for n in 0..most + 50 {
        let id = store.notify(ada.id, Tone::Good, &format!("quiet {n}"), None).await.unwrap();
        store.notice_shown(ada.id, id).await.unwrap();
    }
    let now = kept(ada.id).await.unwrap();
    assert_eq!(now.len() as i64, most);
    assert_eq!((&*now[0].text, &*now[199].text), ("quiet 249", "read me"));
    for n in 0..most {
        store.notify(ada.id, Tone::Good, &format!("loud {n}"), None).await.unwrap();
    }
    let now = kept(ada.id).await.unwrap();
    assert_eq!((now.len() as i64, &*now[199].text), (most, "loud 0"));
    // The same again, about the same grain, is one.
    for undo in [Some("rename g1 a"), Some("rename g1 a"), Some("rename g2 a"), None, None] {
        store.notify(ada.id, Tone::Good, "Renamed to b.", undo).await.unwrap();
    }
    let shown = store.take_notices(ada.id).await.unwrap();
    assert_eq!(shown.iter().filter(|n| n.text == "Renamed to b.").count(), 3);
    assert_eq!(kept(ben.id).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_package_goes_when_nobody_uses_it() {
    let (dir, store) = store().await;
    let (ada, ben) = (person(&store, "ada").await, person(&store, "ben").await);
    let p = package(&store, "p1", "app", 1).await;
    grain(&store, "g1", &ada, &p, "Trip").await;
    store.choose_app(ben.id, &p).await.unwrap();
    let uses = store.package_uses("p1", None).await.unwrap();
    assert_eq!(uses, Uses { grains: 1, people: 1, ..Uses::default() });
    let own = store.package_uses("p1", Some(ada.id)).await.unwrap();
    assert_eq!(own, Uses { own: 1, ..uses });
    assert!(own.in_other_lists() && store.package_uses("p1", Some(ben.id)).await.unwrap().own_list);
    assert_eq!(store.remove_package("p1", None, &LINE).await.unwrap(), Removal::Used(uses));
    store.destroy_grain("g1").await.unwrap();
    // Not out of somebody else's list, but an administrator may.
    assert!(matches!(store.remove_package("p1", Some(ada.id), &LINE).await, Ok(Removal::Used(_))));
    assert_eq!(store.remove_package("p1", None, &LINE).await.unwrap(), Removal::Gone(vec![ben.id]));
    assert_eq!(store.remove_package("p1", None, &LINE).await.unwrap(), Removal::Unknown);
    assert!(store.package("p1").await.unwrap().is_none());
    assert!(store.apps_of(ben.id).await.unwrap().is_empty());
    assert_eq!(store.removals().await.unwrap(), ["p1"]);
    // Installed again before its files were gone: these are new ones.
    package(&store, "p1", "app", 1).await;
    assert!(store.removals().await.unwrap().is_empty());
    // An installation that was cut off between its files and its row.
    store.install_step("p2", InstallState::Unpack, 0, None, None).await.unwrap();
    store.install_step("p1", InstallState::Unpack, 0, None, None).await.unwrap();
    store.fail_interrupted_installs().await.unwrap();
    assert_eq!(store.removals().await.unwrap(), ["p2"]);
    store.removal_done("p2").await.unwrap();
    assert!(store.removals().await.unwrap().is_empty());
    // Nobody can have in their list what was deleted in the meantime.
    store.remove_package("p1", None, &LINE).await.unwrap();
    assert!(!store.choose_app(ada.id, &p).await.unwrap());
    // What is coming, or has just gone, is no file that nobody knows.
    assert!(store.note_placing("p3").await.unwrap());
    let known = Store::known_packages(&dir.path().join("db.sqlite")).await.unwrap();
    assert!(known.contains("p3") && known.contains("p1"), "{known:?}");
    sqlx::query("UPDATE removals SET at = 1").execute(&store.write).await.unwrap();
    assert!(Store::known_packages(&dir.path().join("db.sqlite")).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_somebody_brought_is_summed() {
    let (_dir, store) = store().await;
    let ada = person(&store, "ada").await;
    for (id, disk) in [("p1", 4096), ("p2", 8192)] {
        let package = Package {
            package_id: id.into(),
            app_id: id.into(),
            title: "Notes".into(),
            app_version: 1,
            marketing_version: "1".into(),
            fingerprint: None,
            packed_size: 1,
            unpacked_size: 1,
            disk,
            entries: 2,
            installed: 1,
            installed_by: Some(ada.id),
        };
        let new = NewPackage { package: &package, manifest: b"m", actions: &[] };
        store.add_package(&new).await.unwrap();
    }
    package(&store, "p3", "p3", 1).await;
    let brought = Brought { packages: 2, disk: 12_288, entries: 4 };
    assert_eq!(store.brought_by(ada.id).await.unwrap(), brought);
    assert_eq!(store.brought_by_each().await.unwrap(), [(ada.id, 12_288)]);
    let largest: Vec<_> = store.packages_of(ada.id).await.unwrap();
    assert_eq!(largest[0].package_id, "p2");
}

/// A change and its line in the audit log: both or neither.
#[tokio::test]
async fn what_cannot_be_told_in_the_audit_log_does_not_happen() {
    let (_dir, store) = store().await;
    let ada = person(&store, "Ada").await;
    let one = package(&store, "p1", "app", 1).await;
    grain(&store, "g1", &ada, &one, "x").await;
    let subject = LimitSubject::Account(ada.id);
    store.set_limit(&subject, "memory", 1, &LINE).await.unwrap();
    let told = store.audit_lines(100, 100).await.unwrap().len();
    assert_eq!(told, 1);
    sqlx::query("CREATE TRIGGER no BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no'); END")
        .execute(&store.write)
        .await
        .unwrap();

    let line = Some(&LINE);
    assert!(store.set_setting("name", "new", &LINE).await.is_err());
    assert_eq!(store.setting("name").await.unwrap(), None);
    assert!(store.set_limit(&subject, "memory", 2, &LINE).await.is_err());
    assert!(store.clear_limits(&subject, None, &LINE).await.is_err());
    assert_eq!(store.limits_of(&subject).await.unwrap(), [("memory".to_owned(), 1)]);
    assert_eq!(store.clear_limits(&subject, Some("pids"), &LINE).await.unwrap(), 0);
    assert!(store.create_link(LinkPurpose::Admin, None, None, 60, line).await.is_err());
    let row = GrainSessionRow {
        host: "ui-1".into(),
        grain: "g1".into(),
        account: ada.id,
        login_session: None,
        sid_hash: vec![1; 32],
        permissions: None,
        expires: None,
    };
    assert!(store.save_grain_session(&row, line).await.is_err());
    assert!(store.grain_session("ui-1").await.unwrap().is_none());
    assert!(store.trash_grains(ada.id, &["g1"], true, line).await.is_err());
    assert!(store.doom_grain("g1", None, line).await.is_err());
    assert_eq!(store.grain("g1").await.unwrap().unwrap().trashed_at, None);
    assert!(store.choose_app_for_all(&one, &LINE).await.is_err());
    assert!(store.app_of(ada.id, &one.app_id).await.unwrap().is_none());
    store.destroy_grain("g1").await.unwrap();
    assert!(store.remove_package("p1", None, &LINE).await.is_err());
    assert!(store.package("p1").await.unwrap().is_some());

    sqlx::query("DROP TRIGGER no").execute(&store.write).await.unwrap();
    assert_eq!(store.audit_lines(100, 100).await.unwrap().len(), told);
    store.choose_app_for_all(&one, &LINE).await.unwrap();
    assert!(!store.choose_app_for_all(&one, &LINE).await.unwrap());
    assert_eq!(store.clear_limits(&subject, None, &LINE).await.unwrap(), 1);
    assert_eq!(store.clear_limits(&subject, None, &LINE).await.unwrap(), 0);
    assert_eq!(store.audit_lines(100, 100).await.unwrap().len(), told + 2);
}

#[tokio::test]
async fn a_flood_of_one_kind_of_lines_pushes_out_its_own() {
    let (_dir, store) = store().await;
    let (ada, eve) = (person(&store, "Ada").await.id, person(&store, "Eve").await.id);
    let line = async |by: By, action: &str, target: &str| {
        store.audit(&Audit { by, action, target, detail: "" }).await.unwrap();
    };
    let [ada, eve] = [ada, eve].map(|id| By::Person(id, HERE));
    line(By::Command, "admin-link", "first").await;
    line(ada, "stop grain", "second").await;
    line(eve, "sign-in", "third").await;
    for n in 0..40 {
        line(eve, "app-delete", &n.to_string()).await;
        // A script of the operator's.
        line(By::Command, "grain-session", &n.to_string()).await;
    }
    line(ada, "app-delete", "last").await;
    let mut tx = store.write.begin().await.unwrap();
    audit::forget_old(&mut tx, now_ms(), 20).await.unwrap();
    tx.commit().await.unwrap();
    let shown = store.audit_lines(100, 2).await.unwrap();
    let kinds: std::collections::HashSet<_> =
        shown.iter().map(|line| (line.account, &*line.action)).collect();
    assert!(shown.len() > 2 && shown.len() <= kinds.len() * 2, "{shown:?}");
    let left = store.audit_lines(100, 100).await.unwrap();
    assert_eq!(left.len(), 20);
    let mut of: Vec<_> = left.iter().map(|l| (l.action.as_str(), l.target.as_str())).collect();
    of.reverse();
    assert_eq!(of[..3], [("admin-link", "first"), ("stop grain", "second"), ("sign-in", "third")]);
    assert_eq!(of[19], ("app-delete", "last"));
    for (kind, many) in [("app-delete", 9), ("grain-session", 8)] {
        let kept: Vec<_> = of.iter().filter(|(action, _)| *action == kind).collect();
        assert!(kept.len() == many && kept.iter().any(|(_, target)| *target == "39"), "{kept:?}");
    }
    assert_eq!(left.iter().filter(|l| l.address.is_none()).count(), 9);
}

#[tokio::test]
async fn audit_lines_go_after_a_year_and_a_month() {
    let (_dir, store) = store().await;
    for at in [now_ms() - (audit::AUDIT_DAYS + 1) * DAY, now_ms() - 390 * DAY, now_ms()] {
        store.audit(&LINE).await.unwrap();
        sqlx::query("UPDATE audit SET at = $1 WHERE id = (SELECT MAX(id) FROM audit)")
            .bind(at)
            .execute(&store.write)
            .await
            .unwrap();
    }
    store.sweep().await.unwrap();
    assert_eq!(store.audit_lines(9, 9).await.unwrap().len(), 2);
}
