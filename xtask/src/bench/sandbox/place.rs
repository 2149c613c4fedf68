//! Where the measurement lives: a home with one package, the measured programs compiled from C, an
//! ordinary user, and the commands of the peers.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use rustix::thread::{self, Gid, Uid};

use super::Peer;
use crate::{paths, shell_out};

/// How the sandbox gets its rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Setuid,
    UserNamespace,
}

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Mode::Setuid => "setuid",
            Mode::UserNamespace => "user namespace",
        }
    }
}

/// A number that nobody else has; it needs no name.
const UID: u32 = 60_901;
pub const PACKAGE: &str = "bench";
/// podman as it works where systemd is not in charge.
const PODMAN: &[&str] = &[
    "--storage-driver=vfs",
    "--cgroup-manager=cgroupfs",
    "--events-backend=file",
    "--runtime=runc",
];
const IMAGE: &str = "localhost/sandstorm-bench";

pub struct Place {
    dir: tempfile::TempDir,
    /// uid and gid, when we are root and may choose.
    user: Option<u32>,
    podman: bool,
}

impl Place {
    pub fn new() -> Result<Place> {
        let dir = tempfile::Builder::new().prefix("sandstorm-bench-").tempdir()?;
        let user = nix::unistd::geteuid().is_root().then_some(UID);
        let place = Place { dir, user, podman: false };
        fs::set_permissions(place.dir.path(), fs::Permissions::from_mode(0o755))?;
        for (mode, name) in [(0o4750, "setuid"), (0o755, "plain")] {
            let to = place.dir.path().join(name);
            fs::copy(paths::program("sandstorm-supervisor")?, &to)?;
            chown(&to, None, user)?;
            fs::set_permissions(&to, fs::Permissions::from_mode(mode))?;
        }
        place.make_home()?;
        let podman = user.is_some() && place.import_image();
        Ok(Place { podman, ..place })
    }

    fn make_home(&self) -> Result<()> {
        for name in ["home", "home/grains", "home/apps", "home/apps/bench", "var"] {
            self.directory(Path::new(name))?;
        }
        for name in ["dev", "tmp", "var", "proc"] {
            self.directory(&Path::new("home/apps/bench").join(name))?;
        }
        let source = paths::top().join("xtask/src/bench/sandbox");
        let bare = ["-nostdlib", "-ffreestanding"];
        self.compile(&source.join("first.c"), &self.package().join("first"), &bare)?;
        self.compile(
            &source.join("first.c"),
            &self.package().join("stay"),
            &[bare[0], bare[1], "-DSTAY"],
        )?;
        self.compile(&source.join("calls.c"), &self.package().join("calls"), &[])?;
        self.compile(&source.join("launch.c"), &self.dir.path().join("launch"), &[])
    }

    fn compile(&self, source: &Path, to: &Path, options: &[&str]) -> Result<()> {
        let mut cc = Command::new("cc");
        cc.args(["-O2", "-static", "-o"]).arg(to).args(options).arg(source);
        shell_out::run(&mut cc).with_context(|| format!("cannot compile {}", source.display()))?;
        fs::set_permissions(to, fs::Permissions::from_mode(0o755))?;
        chown(to, self.user, self.user)?;
        Ok(())
    }

    fn directory(&self, name: &Path) -> Result<()> {
        let path = self.dir.path().join(name);
        fs::create_dir(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        chown(&path, self.user, self.user)?;
        Ok(())
    }

    pub fn package(&self) -> PathBuf {
        self.home().join("apps").join(PACKAGE)
    }

    pub fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    pub fn grain_dir(&self, grain: &str) -> PathBuf {
        self.home().join("grains").join(grain)
    }

    /// The modes that can be measured: setuid only when root installs it.
    pub fn modes(&self) -> Vec<Mode> {
        match self.user {
            Some(_) => vec![Mode::Setuid, Mode::UserNamespace],
            None => vec![Mode::UserNamespace],
        }
    }

    /// Spawns as the ordinary user. This thread's ids are changed for that moment, by the raw calls
    /// (glibc's would change every thread's): std then spawns the cheap way, as for all the peers,
    /// which it does not when it has to change ids itself.
    pub fn spawn_as_user(&self, command: &mut Command) -> Result<Child> {
        let Some(id) = self.user else { return Ok(command.spawn()?) };
        let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
        let taken = thread::set_thread_groups(&[])
            .and_then(|()| thread::set_thread_res_gid(gid, gid, Gid::ROOT))
            .and_then(|()| thread::set_thread_res_uid(uid, uid, Uid::ROOT));
        let child = taken.map_err(std::io::Error::from).and_then(|()| command.spawn());
        thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)
            .and_then(|()| thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT))
            .context("cannot be root again")?;
        child.with_context(|| format!("cannot start {:?} as uid {id}", command.get_program()))
    }

    /// The supervisor for one grain, for `spawn_as_user`.
    pub fn supervisor(&self, mode: Mode, grain: &str, options: &[&str], app: &str) -> Command {
        let program = if mode == Mode::Setuid { "setuid" } else { "plain" };
        let mut command = Command::new(self.dir.path().join(program));
        command
            .env_clear()
            .arg("--home")
            .arg(self.home())
            .args(options)
            .args([PACKAGE, grain, "--", app])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        command
    }

    /// Makes the minimal launcher's command: as root where ours is setuid, else as the user.
    pub fn launcher(&self, mode: Mode) -> impl Fn() -> Command + use<> {
        let (program, package) = (self.dir.path().join("launch"), self.package());
        let var = self.dir.path().join("var");
        let user = self.user.filter(|_| mode == Mode::UserNamespace);
        move || {
            let mut command = Command::new(&program);
            command.arg(&package).arg(&var).arg("/first");
            if let Some(id) = user {
                command.uid(id).gid(id);
            }
            command
        }
    }

    pub fn peers(&self) -> Vec<Peer> {
        let peer = |name, mode, every, command: Box<dyn Fn() -> Command>| Peer {
            name,
            mode,
            command,
            every,
            took: Vec::new(),
        };
        let first = self.package().join("first");
        let mut peers =
            vec![peer("fork+exec", None, 1, Box::new(move || Command::new(&first)) as Box<_>)];
        for mode in self.modes() {
            peers.push(peer("launcher", Some(mode), 1, Box::new(self.launcher(mode))));
        }
        let (package, var, user) = (self.package(), self.dir.path().join("var"), self.user);
        peers.push(peer(
            "bwrap",
            None,
            1,
            Box::new(move || {
                let mut command = Command::new("bwrap");
                command.args([
                    "--unshare-all",
                    "--uid",
                    "1000",
                    "--gid",
                    "1000",
                    "--hostname",
                    "sandbox",
                ]);
                command.arg("--ro-bind").arg(&package).arg("/");
                command.args(["--dev", "/dev", "--tmpfs", "/tmp", "--bind"]).arg(&var).arg("/var");
                command.args(["--die-with-parent", "--cap-drop", "ALL", "/first"]);
                if let Some(id) = user {
                    command.uid(id).gid(id);
                }
                command
            }),
        ));
        if self.podman {
            let root = self.dir.path().join("podman");
            peers.push(peer(
                "podman run",
                None,
                super::PODMAN_EVERY,
                Box::new(move || {
                    let mut command = podman(&root);
                    command.args(["run", "--rm", "--read-only", "--network=none"]);
                    command.args(["--ulimit=nofile=1024:4096", "--ulimit=nproc=4096:4096"]);
                    command.args([IMAGE, "/first"]);
                    command
                }),
            ));
        }
        peers
    }

    /// The package as a container image; without podman, or where it fails, that peer is left out.
    fn import_image(&self) -> bool {
        let imported = (|| {
            let tar = self.dir.path().join("image.tar");
            let mut pack = Command::new("tar");
            shell_out::run(pack.arg("-cf").arg(&tar).arg("-C").arg(self.package()).arg("."))?;
            let done = podman(&self.dir.path().join("podman"))
                .arg("import")
                .arg(&tar)
                .arg(IMAGE)
                .output()?;
            if !done.status.success() {
                bail!("{}", String::from_utf8_lossy(&done.stderr).trim());
            }
            Ok(())
        })();
        if let Err(error) = &imported {
            eprintln!("without podman (prepare.sh bench installs it): {error:#}");
        }
        imported.is_ok()
    }
}

fn podman(root: &Path) -> Command {
    let mut command = Command::new("podman");
    command
        .args(PODMAN)
        .arg("--root")
        .arg(root.join("root"))
        .arg("--runroot")
        .arg(root.join("run"));
    command
}
