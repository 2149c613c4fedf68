//! What becomes of a package's files, and of the job itself, when something is cut off in between.

use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};

use super::*;
use crate::config::{Listen, Settings};
use crate::install::manifest::Summary;
use crate::store::{Audit, By, CredentialKind, LimitSubject, Role};

struct Server {
    installer: Installer,
    config: Config,
    home: tempfile::TempDir,
}

impl Server {
    async fn start() -> Server {
        let home = tempfile::tempdir().unwrap();
        let settings = Settings::default();
        let listen = Listen::check(&settings).unwrap();
        let mut config = Config::check(&settings, home.path().to_owned(), listen).unwrap();
        // No program is there: every unpacking ends at once.
        config.bin = home.path().to_owned();
        let store = Store::open(&home.path().join("db")).await.unwrap();
        let installer = Installer::start(&config, store, Events::new()).await.unwrap();
        Server { installer, config, home }
    }

    /// As after a kill.
    async fn start_again(&mut self) {
        let store = self.installer.0.store.clone();
        self.installer = Installer::start(&self.config, store, Events::new()).await.unwrap();
    }

    async fn member(&self, name: &str) -> AccountId {
        let store = &self.installer.0.store;
        let account =
            store.account_for_credential(CredentialKind::Dev, name, name, Role::Member).await;
        account.unwrap().id
    }

    /// A second hand on the database.
    async fn database(&self) -> SqliteConnection {
        let options = SqliteConnectOptions::new().filename(self.home.path().join("db"));
        SqliteConnection::connect_with(&options).await.unwrap()
    }

    /// A file that is whole, and where it is.
    fn whole(&self, by: AccountId) -> (PackageId, Whole, std::path::PathBuf) {
        let mut receiver = Receiver::begin(self.home.path(), None).unwrap();
        receiver.push(b"spk").unwrap();
        let received = receiver.finish().unwrap();
        let (id, path) = (received.id, received.file.path().to_owned());
        (id, Whole::new(received, self.installer.0.turns.take(by, false).ok().unwrap()), path)
    }

    async fn no_job_runs(&self) {
        for _ in 0..500 {
            if lock(&self.installer.0.jobs).is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the job stands still");
    }

    /// A package that is unpacked and judged, and its file.
    async fn unpacked(&self, by: AccountId) -> (PackageId, Whole, Ready) {
        let (id, whole, _) = self.whole(by);
        let name = id.to_string();
        let store = &self.installer.0.store;
        store.install_step(&name, InstallState::Unpack, 0, None, Some(by)).await.unwrap();
        let unpacked = child::Unpacked {
            app_id: "a".into(),
            package_id: name,
            manifest: vec![],
            fingerprint: String::new(),
            size: 1,
        };
        let summary = Summary {
            title: "Notes".into(),
            app_version: 1,
            marketing_version: "1".into(),
            actions: vec![],
        };
        let work = place::WorkDir::create(self.home.path()).unwrap();
        let takes = Taken { bytes: 8192, entries: 1 };
        (id, whole, Ready { unpacked, summary, work, takes })
    }

    fn left(&self) -> usize {
        let count = |folder| std::fs::read_dir(self.home.path().join(folder)).unwrap().count();
        count("apps") + count("packages") + count("tmp")
    }

    async fn nothing_is_left(&self) {
        for _ in 0..500 {
            let removals = self.installer.0.store.removals().await.unwrap();
            if self.left() == 0 && removals.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} files or trees are left", self.left());
    }
}

/// A full disk takes the files and not the row.
#[tokio::test]
async fn a_package_that_gets_no_row_leaves_no_files() {
    let server = Server::start().await;
    let ada = server.member("Ada").await;
    let no = "CREATE TRIGGER no BEFORE INSERT ON packages BEGIN SELECT RAISE(ABORT, 'full'); END";
    sqlx::query(no).execute(&mut server.database().await).await.unwrap();
    let (id, mut whole, ready) = server.unpacked(ada).await;
    let place = server.installer.admit(&id, ada, ready.takes).await.unwrap();
    let failure = server.installer.place(&mut whole, ready, place).await.unwrap_err();
    assert!(failure.code.starts_with("S-DB") && failure.again, "{failure}");
    // But the file itself, for another try.
    assert_eq!(std::fs::read(whole.file.path()).unwrap(), b"spk");
    drop(whole);
    server.nothing_is_left().await;
}

/// Nor does a kill between the two, whatever the installation's own row said by then.
#[tokio::test]
async fn files_that_a_kill_left_without_a_row_go_at_the_next_start() {
    for state in ["unpack", "failed"] {
        let mut server = Server::start().await;
        let ada = server.member("Ada").await;
        let (id, mut whole, ready) = server.unpacked(ada).await;
        server.installer.admit(&id, ada, ready.takes).await.unwrap();
        place::keep(server.home.path(), &id.to_string(), ready.work, &mut whole.file).unwrap();
        if state == "failed" {
            let store = &server.installer.0.store;
            store.install_failed(&id.to_string(), "PKG-X", "No.").await.unwrap();
        }
        assert_eq!(server.left(), 2);
        server.start_again().await;
        server.nothing_is_left().await;
        // What has its row stays, also where it came again because its files were lost.
        let (id, mut whole, ready) = server.unpacked(ada).await;
        let place = server.installer.admit(&id, ada, ready.takes).await.unwrap();
        server.installer.place(&mut whole, ready, place).await.unwrap();
        std::fs::remove_dir(server.home.path().join("apps").join(id.to_string())).unwrap();
        let (id, mut whole, ready) = server.unpacked(ada).await;
        let place = server.installer.admit(&id, ada, ready.takes).await.unwrap();
        assert!(!place.noted);
        place::keep(server.home.path(), &id.to_string(), ready.work, &mut whole.file).unwrap();
        server.start_again().await;
        server.installer.finish_removals().await;
        assert_eq!(server.left(), 2);
    }
}

/// It goes into the budget of whoever asked and has the room, and nobody reads another's numbers.
#[tokio::test]
async fn one_persons_budget_is_not_anothers() {
    let server = Server::start().await;
    let (ada, ben) = (server.member("Ada").await, server.member("Ben").await);
    let store = &server.installer.0.store;
    let line = Audit { by: By::Command, action: "limit-set", target: "", detail: "" };
    for (who, most) in [(ada, 4096), (ben, 8192)] {
        store.set_limit(&LimitSubject::Account(who), "installed", most, &line).await.unwrap();
    }
    let (id, ..) = server.unpacked(ada).await;
    let takes = Taken { bytes: 8192, entries: 1 };
    let failure = server.installer.payer(&id, ada, takes).await.unwrap_err();
    assert!(failure.words.contains("8.2 kB") && !failure.words.contains("4.1 kB"), "{failure}");
    store.install_failed(&id.to_string(), &failure.code, &failure.words).await.unwrap();
    let install = server.installer.status(&id).await.unwrap().unwrap();
    for (who, own, other) in [(ada, "4.1 kB", "8.2 kB"), (ben, "8.2 kB", "4.1 kB")] {
        let words = server.installer.room_of(&install, who).await.unwrap().unwrap();
        assert!(words.contains(own) && !words.contains(other), "{words}");
    }
    let (more, _sources) = mpsc::unbounded_channel();
    let moment = Moment { state: InstallState::Unpack, done: 0, total: 0 };
    let mut job = Job { moment: watch::Sender::new(moment), more, asked: vec![ada], judged: 0 };
    job.ask(ben);
    job.ask(ben);
    lock(&server.installer.0.jobs).insert(id, job);
    assert_eq!(server.installer.payer(&id, ada, takes).await.unwrap(), ben);
    assert_eq!(lock(&server.installer.0.jobs)[&id].judged, 2);
}

/// A browser that leaves just when its file is whole leaves no job behind that nobody works on:
/// the package could not be installed by anybody until the next start.
#[tokio::test]
async fn whoever_leaves_while_a_job_begins_blocks_nobody() {
    let server = Server::start().await;
    let ada = server.member("Ada").await;
    // The database is busy for a moment.
    let mut busy = server.database().await;
    sqlx::query("BEGIN IMMEDIATE").execute(&mut busy).await.unwrap();
    let stream = futures::stream::iter([Ok::<_, std::io::Error>(bytes::Bytes::from_static(b"x"))]);
    let sending = server.installer.receive(stream, None, ada);
    assert!(tokio::time::timeout(Duration::from_millis(300), sending).await.is_err());
    assert_eq!(lock(&server.installer.0.jobs).len(), 1);
    sqlx::query("ROLLBACK").execute(&mut busy).await.unwrap();
    server.no_job_runs().await;
}

/// An installation that nobody works on is not shown as under way for ever.
#[tokio::test]
async fn what_nobody_works_on_has_failed() {
    let server = Server::start().await;
    let (ada, ben) = (server.member("Ada").await, server.member("Ben").await);
    let (id, ..) = server.unpacked(ada).await;
    let install = server.installer.status(&id).await.unwrap().unwrap();
    assert_eq!(install.state, InstallState::Failed);
    let said = server.installer.finished(&id, ada).await.unwrap_err().to_string();
    assert!(said.contains("could not finish") && said.contains("PKG-LOST"), "{said}");
    // And who began it can forget it; others cannot.
    let other = server.installer.forget(&id, ben, false).await;
    assert!(matches!(other, Err(Error::Forbidden(_))), "{other:?}");
    server.installer.forget(&id, ada, false).await.unwrap();
    assert!(server.installer.status(&id).await.unwrap().is_none());
}

/// "Try again" must find the file, whichever statement it was that failed, and also where no row
/// tells of it.
#[tokio::test]
async fn a_whole_file_outlives_an_error_of_the_database() {
    let breaks = [
        (
            "CREATE TRIGGER no BEFORE INSERT ON installs BEGIN SELECT RAISE(ABORT, 'no'); END",
            "DROP TRIGGER no",
        ),
        ("ALTER TABLE packages RENAME TO elsewhere", "ALTER TABLE elsewhere RENAME TO packages"),
    ];
    for (breaks, mends) in breaks {
        let server = Server::start().await;
        let ada = server.member("Ada").await;
        let mut database = server.database().await;
        sqlx::query(breaks).execute(&mut database).await.unwrap();
        let (id, whole, kept) = server.whole(ada);
        server.installer.begin(id, Source::File(whole)).await;
        server.no_job_runs().await;
        assert_eq!(std::fs::read(&kept).unwrap(), b"spk", "{breaks}");
        let install = server.installer.status(&id).await.unwrap().expect("it is told");
        assert_eq!((install.state, install.started_by), (InstallState::Failed, Some(ada)));
        assert!(install.failure.as_ref().unwrap().0.starts_with("S-DB"), "{install:?}");
        assert!(server.installer.can_retry(&install, &id));
        // Trying again while the database does not answer does not lose it either.
        let gone = "ALTER TABLE installs RENAME TO nowhere";
        sqlx::query(gone).execute(&mut database).await.unwrap();
        server.installer.retry(&id, ada).await.unwrap_err();
        assert!(kept.exists(), "{breaks}");
        let back = "ALTER TABLE nowhere RENAME TO installs";
        sqlx::query(back).execute(&mut database).await.unwrap();
        sqlx::query(mends).execute(&mut database).await.unwrap();
        assert!(server.installer.retry(&id, ada).await.unwrap());
        server.no_job_runs().await;
        let install = server.installer.status(&id).await.unwrap().unwrap();
        // There is no program to unpack with.
        assert!(install.failure.as_ref().unwrap().0.starts_with("PKG-CHILD"), "{install:?}");
        server.installer.forget(&id, ada, false).await.unwrap();
        assert!(!kept.exists(), "{breaks}");
    }
}
