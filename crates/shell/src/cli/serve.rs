//! `shell serve`: from settings to a running server, and its end.

use std::fs;
use std::io::IsTerminal;
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::delegated;
use super::output::{called, try_line};
use crate::config::{Config, Listen, Settings};
use crate::control::HomeLock;
use crate::edge::{Edge, Via};
use crate::error::{Error, Result};
use crate::grains::Grains;
use crate::install::Installer;
use crate::state::{App, Events};
use crate::store::{Store, now_ms};
use crate::{control, identity, router};

/// Grains stay in the trash for so long.
const TRASH_TIME: i64 = 30 * 24 * 3600 * 1000;
/// Between two sweeps of what has expired.
const SWEEP: Duration = Duration::from_secs(3600);

pub fn run(home: &Path, settings: Settings, json: bool) -> Result<ExitCode> {
    start_log();
    // Files are the server's own unless a mode is set on purpose.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    raise_file_limit();
    let groups = delegated::step_aside().unwrap_or_else(|e| {
        tracing::warn!(
            "the control group that this server was given cannot be used for grains: {e}"
        );
        None
    });
    if let Some(group) = &groups {
        tracing::info!("grains get control groups below {}", group.display());
    }
    if nix::unistd::geteuid().is_root() {
        tracing::warn!(
            "the server runs as root; it needs no rights of root: make a user for it, and install \
             the supervisor setuid root for that user's group"
        );
    }
    prepare_home(home)?;
    let settings = settings.with_file(home)?;
    let mut listen = Listen::check(&settings)?;
    let lock = Arc::new(control::lock_home(home)?);
    let listener = bind(listen)?;
    listen.port = listener.local_addr().map_err(Error::io("listening"))?.port();
    let config = Config::check(&settings, home.to_owned(), listen)?;
    for warning in &config.warnings {
        tracing::warn!("{} {}", warning.what, warning.fix);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("main")
        .build()
        .map_err(Error::io("starting"))?;
    let result = runtime.block_on(serve(config, listener, lock.clone(), json, groups));
    drop(lock);
    // Grains go on; what still runs here (a download, a slow page) ends with the process.
    runtime.shutdown_timeout(Duration::from_millis(200));
    result.map(|()| ExitCode::SUCCESS)
}

async fn serve(
    config: Config,
    listener: TcpListener,
    lock: Arc<HomeLock>,
    json: bool,
    groups: Option<PathBuf>,
) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::io("signals"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::io("signals"))?;
    // The terminal is gone.
    let mut hangup = signal(SignalKind::hangup()).map_err(Error::io("signals"))?;
    let events = Events::new();
    let store = Store::open(&config.home.join("sandstorm.sqlite")).await?;
    let installer = Installer::start(&config, store.clone(), events.clone()).await?;
    let (grains, mut ports) = Grains::start(&config, &store, &events, groups)?;
    let app = App::new(config, store, grains, installer, events);
    let edge = Edge::new(app.clone(), router::router(app.clone()));
    let end = CancellationToken::new();
    app.grains.find_running().await?;
    let listener = tokio::net::TcpListener::from_std(listener).map_err(Error::io("listening"))?;
    tokio::spawn(edge.clone().listen(listener, Via::Main));
    let port_edge = edge.clone();
    tokio::spawn(async move {
        while let Some((port, listener)) = ports.recv().await {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => {
                    tokio::spawn(port_edge.clone().listen(listener, Via::GrainPort(port)));
                }
                Err(e) => tracing::error!("port {port}: {e}"),
            }
        }
    });
    let sweeping = tokio::spawn(sweep(app.clone()));
    tokio::spawn(crate::disk::watch(app.config.home.clone()));
    let control = control::start(app.clone(), lock, end.clone()).await?;
    announce(&app, json).await?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = hangup.recv() => {}
    }
    tracing::info!("ending: waiting for answers that are under way");
    end.cancel();
    // It would only say that the database is closed. What it has not swept waits for the next start.
    sweeping.abort();
    let close = async {
        edge.drain().await;
        let _ = control.await;
        app.store.close().await;
    };
    tokio::select! {
        () = close => {}
        // Asked twice, it means now: what the database has not written back, its next start does.
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Says where the server is; as long as nobody administers it, with a link that makes the reader
/// the administrator. A file and a journal keep what they are given, so there only the command is
/// named. Nobody has to read it: the server serves wherever its output goes.
async fn announce(app: &App, json: bool) -> Result<()> {
    let root = &app.config.root;
    let address = std::net::SocketAddr::new(app.config.bind_ip, app.config.port);
    tracing::info!("serving {root} on {address}");
    let says = |url: String, words: &str| match json {
        true => serde_json::json!({ "url": url }).to_string(),
        false => format!("{words} {url}"),
    };
    let named = || match json {
        true => says(format!("{root}/"), "Serving"),
        false => format!(
            "Serving {root}/ which has no administrator yet: run `{} admin-link --home {}`",
            called(),
            app.config.home.display()
        ),
    };
    let line = if app.store.has_admin().await? {
        says(format!("{root}/"), "Serving")
    } else if !passes_on(std::io::stdout()) {
        named()
    } else {
        match identity::admin_link(app, None).await {
            Ok(url) => says(url, "Open"),
            // On a full disk who mends that must still get in.
            Err(error) => {
                tracing::error!("no link for an administrator can be made: {error}");
                named()
            }
        }
    };
    if let Err(error) = try_line(format_args!("{line}")) {
        tracing::warn!(
            "stdout cannot be written to ({error}); `{} admin-link --home {}` prints a link",
            called(),
            app.config.home.display()
        );
    }
    Ok(())
}

/// Is this a terminal or a pipe, where a secret comes to whoever started the server? In anything
/// else it would stay: a file; the journal, whose stream is a socket; a device.
fn passes_on(stream: impl std::os::fd::AsFd) -> bool {
    use nix::sys::stat::{SFlag, fstat};
    stream.as_fd().is_terminal()
        || fstat(&stream).is_ok_and(|stat| {
            SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFIFO
        })
}

/// Removes what has expired: sessions, links, grains that were long in the trash.
async fn sweep(app: App) {
    let mut every = tokio::time::interval(SWEEP);
    // What lies in `tmp/` at the start is removed with all else there.
    for round in 0_u64.. {
        every.tick().await;
        if round > 0 {
            app.grains.clone().remove_aside().await;
        }
        app.installer.sweep().await;
        if let Err(e) = app.store.sweep().await {
            tracing::error!("sweeping: {e}");
        }
        let before = now_ms() - TRASH_TIME;
        let old = match app.store.trashed_before(before).await {
            Ok(old) => old,
            Err(e) => {
                tracing::error!("sweeping: {e}");
                continue;
            }
        };
        for grain in old.iter().filter_map(|id| id.parse().ok()) {
            match app.grains.destroy_trashed(&grain, before).await {
                Ok(true) => {
                    tracing::info!(
                        "grain {grain} is destroyed: it was in the trash for 30 days, or a \
                         destruction was cut short"
                    );
                }
                // Restored meanwhile.
                Ok(false) => {}
                Err(e) => tracing::error!("grain {grain}: {e}"),
            }
        }
    }
}

fn bind(listen: Listen) -> Result<TcpListener> {
    let bound = TcpListener::bind((listen.ip, listen.port))
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
    bound.map_err(|e| {
        let Listen { ip, port } = listen;
        Error::Config(match e.kind() {
            std::io::ErrorKind::AddrInUse => format!(
                "PORT {port} on {ip} is in use by another program: end that program, or set PORT \
                 to a free one, for example PORT={}",
                port.checked_add(1).unwrap_or(3000)
            ),
            std::io::ErrorKind::PermissionDenied => format!(
                "PORT {port} on {ip} needs rights of root; set PORT to 1024 or more, and put a \
                 proxy such as nginx in front for port 80 or 443"
            ),
            std::io::ErrorKind::AddrNotAvailable => {
                format!("BIND_IP {ip} is no address of this machine; 0.0.0.0 means all of them")
            }
            _ => format!("PORT {port} on {ip} cannot be listened on: {e}"),
        })
    })
}

/// The home and the directory of grains. The supervisor wants both to be writable by their
/// owner alone.
fn prepare_home(home: &Path) -> Result<()> {
    let make = |path: &Path, mode| match fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
    {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => Err(Error::Config(format!(
            "{} cannot be made: {e}; make it for this user, or set SANDSTORM_HOME to a directory \
             of theirs",
            path.display()
        ))),
        Err(e) if e.kind() == std::io::ErrorKind::ReadOnlyFilesystem => {
            Err(control::read_only(home))
        }
        Err(_) if path.exists() && !path.is_dir() => Err(Error::Config(format!(
            "{} is not a directory; set SANDSTORM_HOME to one",
            path.display()
        ))),
        Err(e) => Err(Error::io(path.display().to_string())(e)),
    };
    make(home, 0o700)?;
    make(&home.join("grains"), 0o700)
}

/// Every browser and every grain is a descriptor.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let wanted = hard.min(65_536);
        if soft < wanted && setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_err() {
            tracing::warn!("the limit of open files stays at {soft}");
        }
    }
}

fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("SANDSTORM_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,sqlx=warn,hyper=warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        // Reported by `eprintln!`, which panics where the log cannot be written: on a full disk,
        // say, or when its reader has gone. Serving goes on without.
        .log_internal_errors(false)
        .init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_terminals_and_pipes_pass_a_secret_on() {
        let (reader, writer) = std::io::pipe().unwrap();
        assert!(passes_on(&writer));
        drop(reader);
        let terminal = nix::pty::openpty(None, None).unwrap();
        assert!(passes_on(&terminal.slave));
        let (journal, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(!passes_on(&journal));
        assert!(!passes_on(std::fs::File::open("/dev/null").unwrap()));
        assert!(!passes_on(tempfile::tempfile().unwrap()));
    }
}
