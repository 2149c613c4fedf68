//! Starts a bridge with an app and opens sessions.

use std::future::Future;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use capnp_rpc::rpc_twoparty_capnp::Side;
use sandstorm_schema::grain_capnp::main_view;
use sandstorm_schema::rpc::connect::{Trust, Vat};
use sandstorm_tests::server::free_port;

use crate::client::Session;

/// What runs and how.
pub struct Setup {
    /// Options before the address.
    pub options: Vec<String>,
    /// After the address: the command.
    pub command: Vec<String>,
    /// Use `PORT --` instead of `ADDR:PORT`.
    pub todays_form: bool,
    /// Name to start the bridge by.
    pub name: &'static str,
    /// Bytes of `/sandstorm-http-bridge-config`.
    pub config: Option<Vec<u8>>,
    /// Programs to put beside the probe.
    pub files: Vec<PathBuf>,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            options: vec![],
            command: vec![],
            todays_form: false,
            name: "legacy-bridge",
            config: None,
            files: vec![],
        }
    }
}

/// A running bridge.
pub struct Grain {
    pub child: Child,
    pub port: u16,
    vat: Option<Vat>,
    log: Arc<Mutex<String>>,
    _root: tempfile::TempDir,
}

/// Runs a test's story on one thread, as capnp-rpc wants it, with an end.
pub fn story<F: Future<Output = ()>>(story: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(60), story).await.expect("the test hangs");
    });
}

/// A program that cargo built beside this test, or that `make` put into `bin/`.
pub fn program(name: &str) -> PathBuf {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|exe| exe.parent()?.parent().map(|dir| dir.join(name)))
        .filter(|path| path.is_file());
    beside.unwrap_or_else(|| sandstorm_tests::program(name))
}

impl Grain {
    /// The probe app behind the bridge, nothing special.
    pub async fn start() -> Grain {
        Grain::with(Setup::default(), &[])
    }

    /// The probe app with these arguments.
    pub fn with(setup: Setup, probe_args: &[&str]) -> Grain {
        Grain::on("127.0.0.1", setup, probe_args)
    }

    /// The probe app listening on this address.
    pub fn on(host: &str, mut setup: Setup, probe_args: &[&str]) -> Grain {
        let port = free_port().unwrap();
        if setup.command.is_empty() {
            setup.command = vec!["/probe-app".into(), format!("{host}:{port}")];
            setup.command.extend(probe_args.iter().map(|a| (*a).to_owned()));
        }
        Grain::spawn(setup, port)
    }

    pub fn spawn(setup: Setup, port: u16) -> Grain {
        let root = tempfile::tempdir().unwrap();
        for (name, target) in [("legacy-bridge", setup.name), ("probe-app", "probe-app")] {
            std::fs::copy(program(name), root.path().join(target)).unwrap();
        }
        for file in &setup.files {
            std::fs::copy(file, root.path().join(file.file_name().unwrap())).unwrap();
        }
        std::fs::create_dir(root.path().join("var")).unwrap();
        if let Some(config) = &setup.config {
            std::fs::write(root.path().join("sandstorm-http-bridge-config"), config).unwrap();
        }
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut command = Command::new(format!("/{}", setup.name));
        command.args(&setup.options);
        if setup.todays_form {
            command.args([&port.to_string(), "--"]);
        } else {
            command.arg(format!("127.0.0.1:{port}"));
        }
        command.args(&setup.command).env_clear().env("PATH", "/");
        command.stdin(Stdio::null()).stdout(Stdio::inherit()).stderr(Stdio::piped());
        into_chroot(&mut command, root.path(), Some(theirs.as_raw_fd()));
        let mut child = command.spawn().unwrap();
        drop(theirs);
        let log = Arc::new(Mutex::new(String::new()));
        let (mut pipe, sink) = (child.stderr.take().unwrap(), Arc::clone(&log));
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(n) = pipe.read(&mut piece) {
                if n == 0 {
                    break;
                }
                sink.lock().unwrap().push_str(&String::from_utf8_lossy(&piece[..n]));
            }
        });
        ours.set_nonblocking(true).unwrap();
        let stream = tokio::net::UnixStream::from_std(ours).unwrap();
        let vat = Vat::spawn(stream, Side::Server, None, Trust::Peer);
        Grain { child, port, vat: Some(vat), log, _root: root }
    }

    pub fn view(&self) -> main_view::Client<capnp::any_pointer::Owned> {
        self.vat.as_ref().unwrap().bootstrap()
    }

    /// A session of a person called Ada, with base path.
    pub async fn session(&self) -> Session {
        Session::open(self.view()).await
    }

    /// What stands in the grain's log.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits for words in the log.
    pub async fn wait_for_log(&self, words: &str) -> String {
        // Longer than the bridge keeps back what it only counts.
        for _ in 0..1000 {
            let log = self.log();
            if log.contains(words) {
                return log;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{words:?} does not appear in the log:\n{}", self.log());
    }

    /// Closes the supervisor's end.
    pub async fn hang_up(&mut self) {
        self.vat.take().unwrap().disconnect().await;
    }

    /// Waits for the bridge's end.
    pub async fn wait(&mut self) -> ExitStatus {
        for _ in 0..500 {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the bridge does not end; its log:\n{}", self.log());
    }

    /// Memory that is the bridge's own, in KiB (proportional set size).
    pub fn memory_kib(&self) -> u64 {
        let path = format!("/proc/{}/smaps_rollup", self.child.id());
        let text = std::fs::read_to_string(path).unwrap();
        let line = text.lines().find(|l| l.starts_with("Pss:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// What the probe knows of a tagged request, asked past the bridge.
    pub fn tag(&self, tag: &str) -> Tag {
        let stats = self.probe(&format!("/stats?tag={tag}"));
        let entry = &stats["tags"][tag];
        Tag {
            state: entry["state"].as_str().unwrap_or("unknown").to_owned(),
            read: entry["read"].as_u64().unwrap_or(0),
            written: entry["written"].as_u64().unwrap_or(0),
        }
    }

    /// Waits until a tagged request is in one of these states.
    pub async fn wait_for_tag(&self, tag: &str, states: &[&str]) -> Tag {
        for _ in 0..250 {
            let now = self.tag(tag);
            if states.contains(&now.state.as_str()) {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{tag} stays {:?}, log:\n{}", self.tag(tag).state, self.log());
    }

    /// Asks the probe something directly, past the bridge.
    pub fn probe(&self, path: &str) -> serde_json::Value {
        use std::io::Write;
        // The app may still be starting.
        let mut stream = (0..250)
            .find_map(|_| {
                std::net::TcpStream::connect(("127.0.0.1", self.port))
                    .inspect_err(|_| std::thread::sleep(Duration::from_millis(20)))
                    .ok()
            })
            .expect("the probe does not listen");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {body}"))
    }
}

/// Where a tagged request stands.
#[derive(Debug)]
pub struct Tag {
    pub state: String,
    pub read: u64,
    pub written: u64,
}

impl Drop for Grain {
    fn drop(&mut self) {
        // The app is the bridge's child; it dies of the lost listener's parent only if told.
        let children =
            std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.child.id()))
                .unwrap_or_default();
        let _ = self.child.kill();
        let _ = self.child.wait();
        for pid in children.split_whitespace().filter_map(|p| p.parse().ok()) {
            let pid = nix::unistd::Pid::from_raw(pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// Makes the command run with `root` as its `/`, and `fd` (if any) as its fd 3.
pub fn into_chroot(command: &mut Command, root: &Path, fd: Option<i32>) {
    let root = root.to_owned();
    let is_root = sandstorm_tests::is_root();
    let setup = move || {
        if !is_root {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER)?;
        }
        nix::unistd::chroot(root.as_path())?;
        nix::unistd::chdir("/")?;
        // SAFETY: plain calls on descriptor numbers between fork and exec; 3 is nobody's here.
        unsafe {
            match fd {
                Some(3) => libc::fcntl(3, libc::F_SETFD, 0),
                Some(fd) => libc::dup2(fd, 3),
                None => libc::close(3),
            };
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls only; it allocates nothing after the fork (`root` is
    // turned into a C string on the stack by nix).
    unsafe {
        command.pre_exec(setup);
    }
}
