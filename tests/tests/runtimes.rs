//! Real programs in the box: each runs a small workload of threads, processes, files and sockets
//! under the filter, in both modes. Node and Python in every run, the others in the soak.
//!
//! A package is the program as Debian installed it here, with the libraries that it names, and a
//! workload from `tests/runtimes/`. The workload's last line says `RUNTIME OK`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use sandstorm_tests::supervisor::{Bench, on_one_thread};
use sandstorm_tests::{Mode, eventually, skip, soak, top};

const GRAIN: &str = "RuntimeGrain1234567890";
/// The slowest is a database's first start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// A program, what it needs of this machine, and how it is started.
struct Program {
    name: &'static str,
    /// Its Debian package, for the word about a skip.
    debian: &'static str,
    /// Files and directories of this machine, with `*` for a version.
    host: &'static [&'static str],
    workload: &'static str,
    command: &'static [&'static str],
    options: &'static [&'static str],
}

const NODE: Program = Program {
    name: "node",
    debian: "nodejs",
    host: &[
        "/usr/bin/node",
        "/usr/share/nodejs/undici*",
        "/usr/share/nodejs/acorn*",
        "/usr/share/nodejs/cjs-module-lexer*",
    ],
    workload: "node.js",
    command: &["/usr/bin/node", "/node.js"],
    options: &[],
};
const PYTHON: Program = Program {
    name: "python",
    debian: "python3",
    host: &["/usr/bin/python3", "/usr/bin/python3.*[0-9]", "/usr/lib/python3.*[0-9]"],
    workload: "python.py",
    command: &["/usr/bin/python3", "/python.py"],
    options: &[],
};
const SOAK: &[Program] = &[
    Program {
        name: "php",
        debian: "php-cli",
        host: &[
            "/usr/bin/php",
            "/usr/bin/php.default",
            "/usr/bin/php[0-9]*",
            "/etc/alternatives/php",
            "/usr/lib/php",
            "/etc/php",
        ],
        workload: "php.php",
        command: &["/usr/bin/php", "/php.php"],
        options: &[],
    },
    Program {
        name: "ruby",
        debian: "ruby",
        host: &[
            "/usr/bin/ruby",
            "/usr/bin/ruby[0-9]*",
            "/usr/lib/ruby",
            "/usr/lib/x86_64-linux-gnu/ruby",
            "/usr/share/rubygems-integration",
        ],
        workload: "ruby.rb",
        command: &["/usr/bin/ruby", "/ruby.rb"],
        options: &[],
    },
    Program {
        name: "java",
        debian: "openjdk-17-jdk-headless",
        host: &["/usr/lib/jvm/java-17-openjdk-amd64", "/etc/java-17-openjdk"],
        workload: "Runtime.java",
        command: &["/usr/lib/jvm/java-17-openjdk-amd64/bin/java", "-cp", "/", "Runtime"],
        // The loader finds $ORIGIN by /proc/self/exe, which a grain does not have.
        options: &[
            "LD_LIBRARY_PATH=/usr/lib/jvm/java-17-openjdk-amd64/lib:/usr/lib/jvm/java-17-openjdk-amd64/lib/server",
        ],
    },
    Program {
        name: "go",
        debian: "golang-go",
        host: &[],
        workload: "go.go",
        command: &["/go"],
        options: &[],
    },
    Program {
        name: "sqlite",
        debian: "sqlite3",
        host: &["/usr/bin/sqlite3"],
        workload: "sqlite.sh",
        command: &["/bin/sh", "/sqlite.sh"],
        options: &["PATH=/usr/bin:/bin"],
    },
    Program {
        name: "git",
        debian: "git",
        host: &["/usr/bin/git", "/usr/lib/git-core", "/usr/share/git-core"],
        workload: "git.sh",
        command: &["/bin/sh", "/git.sh"],
        options: &[],
    },
    Program {
        name: "postgresql",
        debian: "postgresql",
        host: &[
            "/usr/lib/postgresql/*",
            "/usr/share/postgresql/*",
            "/usr/share/postgresql-common/pgxs_debian_control.mk",
            "/usr/share/zoneinfo",
        ],
        workload: "postgresql.sh",
        command: &["/bin/sh", "/postgresql.sh"],
        options: &[],
    },
    Program {
        name: "mariadb",
        debian: "mariadb-server-core",
        host: &["/usr/sbin/mariadbd", "/usr/bin/mariadb", "/usr/share/mysql"],
        workload: "mariadb.sh",
        command: &["/bin/sh", "/mariadb.sh"],
        options: &[],
    },
];

impl Program {
    /// Lays out the package. `None` when this machine does not have the program.
    fn pack(&self, root: &Path) -> Result<Option<()>> {
        for dir in ["dev", "tmp", "var", "etc", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64"] {
            fs::create_dir_all(root.join(dir))?;
        }
        for name in ["bin", "sbin", "lib", "lib64"] {
            symlink(format!("usr/{name}"), root.join(name))?;
        }
        fs::write(root.join("etc/passwd"), "app:x:1000:1000::/var:/bin/sh\n")?;
        fs::write(root.join("etc/group"), "app:x:1000:\n")?;
        for pattern in self.host {
            // The shell expands the pattern; a part that is not there may be no part of this version.
            let script = "for f in $1; do if [ -e \"$f\" ]; then \
                tar -C / -cf - \"${f#/}\" | tar -C \"$2\" -xf -; fi; done";
            run(Command::new("sh").args(["-c", script, "sh", pattern]).arg(root))?;
        }
        if self
            .host
            .first()
            .is_some_and(|first| !first.contains('*') && !root.join(&first[1..]).exists())
        {
            return Ok(None);
        }
        let source = top().join("tests/runtimes").join(self.workload);
        match self.name {
            "go" => {
                let mut go = Command::new("go");
                go.args(["build", "-o"]).arg(root.join("go")).arg(&source);
                go.env("CGO_ENABLED", "0").env("GOFLAGS", "-mod=mod").env("GO111MODULE", "off");
                if std::env::var_os("HOME").is_none() {
                    go.env("HOME", root.join("tmp"));
                }
                match go.output() {
                    Err(_) => return Ok(None),
                    Ok(done) => {
                        ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
                    }
                }
            }
            "java" => {
                let javac = Path::new("/usr/lib/jvm/java-17-openjdk-amd64/bin/javac");
                if !javac.exists() {
                    return Ok(None);
                }
                run(Command::new(javac).arg("-d").arg(root).arg(&source))?;
            }
            _ => {
                fs::copy(&source, root.join(self.workload))?;
                let to = root.join("usr/bin/busybox");
                fs::copy("/bin/busybox", &to).context("prepare.sh test installs busybox-static")?;
                for tool in ["sh", "seq", "sleep", "cut", "cat", "touch", "mkdir", "test", "true"] {
                    symlink("busybox", root.join("usr/bin").join(tool))?;
                }
            }
        }
        libraries(root)?;
        Ok(Some(()))
    }
}

/// Copies the libraries and loaders that ELF files below `root` name, until nothing is missing.
fn libraries(root: &Path) -> Result<()> {
    let script = "find \"$1\" -type f \\( -perm -100 -o -name '*.so*' \\) -print0 | xargs -0 -r ldd 2>/dev/null || :";
    let mut had = BTreeSet::new();
    for _ in 0..4 {
        let done = Command::new("sh").args(["-c", script, "sh"]).arg(root).output()?;
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        let named: BTreeSet<PathBuf> = text
            .lines()
            .filter_map(|line| {
                line.split_whitespace()
                    .find(|word| word.starts_with("/lib") || word.starts_with("/usr/lib"))
            })
            .map(PathBuf::from)
            .filter(|path| !path.starts_with(root) && path.is_file())
            .collect();
        let new: Vec<_> = named.difference(&had).cloned().collect();
        if new.is_empty() {
            return Ok(());
        }
        for library in &new {
            // `/lib` is `/usr/lib` in the package.
            let to = root.join(library.strip_prefix("/")?);
            if !to.exists() {
                fs::create_dir_all(to.parent().context("a library lies in a directory")?)?;
                fs::copy(library, &to).with_context(|| format!("{}", library.display()))?;
            }
        }
        had.extend(new);
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let done = command.output().with_context(|| format!("{:?}", command.get_program()))?;
    ensure!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

fn works_in(mode: Mode, program: &Program) -> Result<()> {
    let Some(bench) = Bench::new(mode)? else { return Ok(()) };
    let root = bench.home().join("apps").join(program.name);
    fs::create_dir(&root)?;
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755))?;
    if program.pack(&root)?.is_none() {
        let test = format!("{} in {mode:?} mode", program.name);
        skip::announce(
            &test,
            &format!("{} is not installed (prepare.sh soak installs it)", program.debian),
        );
        return Ok(());
    }
    let owner = format!("{}:{}", bench.installation.uid, bench.installation.gid);
    run(Command::new("chown").args(["-hR", &owner]).arg(&root))?;
    let mut options = vec!["--new"];
    for value in program.options {
        options.extend(["-e", value]);
    }
    let running = bench.start_app(&options, program.name, GRAIN, program.command)?;
    on_one_thread(async {
        // Starts the app, which speaks no RPC; that it is asked is enough.
        let grain = running.connect().await?;
        let asked = grain.supervisor.get_main_view_request().send().promise;
        let _ = tokio::time::timeout(Duration::from_secs(20), asked).await;
        Ok(())
    })?;
    let last = eventually("the workload's last line", PATIENCE, || {
        let log = running.log();
        let over = log.contains("the app ended") || log.contains("could not be started");
        (log.contains("RUNTIME ") || over).then_some(log)
    });
    let log = last.with_context(|| running.log())?;
    let Some(line) = log.lines().find(|line| line.contains("RUNTIME OK")) else {
        bail!("{} in {mode:?} mode:\n{log}", program.name);
    };
    println!("{mode:?}: {line}");
    Ok(())
}

fn works(program: &Program) -> Result<()> {
    works_in(Mode::Setuid, program)?;
    works_in(Mode::UserNamespace, program)
}

#[test]
fn node_runs() -> Result<()> {
    works(&NODE)
}

#[test]
fn python_runs() -> Result<()> {
    works(&PYTHON)
}

/// Rust with tokio is the native app of `supervisor.rs`. `RUNTIME=NAME` chooses one.
#[test]
fn the_others_run() -> Result<()> {
    let chosen = std::env::var("RUNTIME").ok();
    if !soak() && chosen.is_none() {
        skip::announce(
            &skip::current_test(),
            "PHP, Ruby, Java, Go, SQLite, git, PostgreSQL and MariaDB run in the soak",
        );
        return Ok(());
    }
    let mut failed = Vec::new();
    for program in SOAK.iter().filter(|p| chosen.as_ref().is_none_or(|name| name == p.name)) {
        if let Err(error) = works(program) {
            failed.push(format!("{}: {error:#}", program.name));
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n\n"));
    Ok(())
}
