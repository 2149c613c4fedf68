//! `spk unpack-server`: the locked-down process that reads a hostile file.
//!
//! It inherits three descriptors and nothing else: 3 the RPC socket, 4 the package (read only),
//! 5 an empty folder. Whoever subverts it can answer what he likes; so the connection is guarded,
//! its answers are checked by the caller, and time is bounded.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use capnp_rpc::rpc_twoparty_capnp::Side;
use sandstorm_schema::limits::INSTALL_RESERVE;
use sandstorm_schema::rpc::connect::{GuardLimits, Trust, Vat};
use sandstorm_schema::unpack_capnp::{Step, progress, unpacker};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::failure::{Failure, free_bytes};
use super::manifest;

/// No report for so long, and the child is ended.
const SILENCE: Duration = Duration::from_secs(120);
/// The same of one that goes on reporting: twice the processor time that its own limit leaves it.
const LONGEST: Duration = Duration::from_secs(2 * 3600);
/// The disk is looked at this often while it writes: what a fast one takes in that time is less
/// than half of what is kept back, so grains go on saving.
const LOOK: Duration = Duration::from_millis(25);
/// Lines of its stderr kept for the log (bytes).
const MAX_STDERR: u64 = 16 * 1024;

/// What the child found. Every field is as hostile as the file was.
#[derive(Debug)]
pub struct Unpacked {
    /// As it claims.
    pub app_id: String,
    /// As it claims.
    pub package_id: String,
    /// A framed manifest message of bounded size.
    pub manifest: Vec<u8>,
    /// Empty when there is none.
    pub fingerprint: String,
    /// Bytes of all files.
    pub size: u64,
}

/// One report: the step's ordinal, bytes done, bytes in all (0: unknown).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// 0 verify, 1 extract, 2 sync.
    pub step: u8,
    /// Bytes.
    pub done: u64,
    /// Bytes.
    pub total: u64,
}

/// Unpacks `file` into `work`, a folder below `home`, as long as the disk has more room than what is
/// kept back. Runs its own thread, because RPC objects stay on one.
pub async fn unpack(
    spk: &Path,
    home: &Path,
    file: File,
    work: File,
    report: impl Fn(Report) + Send + 'static,
) -> Result<Unpacked, Failure> {
    let (spk, home) = (spk.to_owned(), home.to_owned());
    let (done, wait) = tokio::sync::oneshot::channel();
    let spawned = std::thread::Builder::new().name("unpack".into()).spawn(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(done.send(Err(failed_to_start(&spk, &error)))),
        };
        let local = tokio::task::LocalSet::new();
        let result = local.block_on(&runtime, talk(&spk, &home, file, work, report));
        // The caller may have gone, then nobody waits for the answer.
        let _ = done.send(result);
    });
    if let Err(error) = spawned {
        return Err(Failure::machine("PKG-CHILD", format!("No thread could be started: {error}.")));
    }
    wait.await.unwrap_or_else(|_| {
        Err(Failure::machine("PKG-CHILD", "Unpacking stopped without an answer. Try again."))
    })
}

fn failed_to_start(spk: &Path, error: &io::Error) -> Failure {
    Failure::machine(
        "PKG-CHILD",
        format!("The program {} could not be started: {error}.", spk.display()),
    )
}

async fn talk(
    spk: &Path,
    home: &Path,
    file: File,
    work: File,
    report: impl Fn(Report) + 'static,
) -> Result<Unpacked, Failure> {
    let start = |error: io::Error| failed_to_start(spk, &error);
    let is_full = || free_bytes(home).is_some_and(|free| free < INSTALL_RESERVE);
    if is_full() {
        return Err(Failure::disk_full(home, None));
    }
    let (ours, theirs) = UnixStream::pair().map_err(start)?;
    let mut child = spawn(spk, theirs.into(), file.into(), work.into()).map_err(start)?;
    let stderr = child.stderr.take();
    let log = tokio::task::spawn_local(async move {
        match stderr {
            Some(stderr) => words(stderr).await,
            None => String::new(),
        }
    });
    ours.set_nonblocking(true).map_err(start)?;
    let stream = tokio::net::UnixStream::from_std(ours).map_err(start)?;
    let vat = Vat::spawn(stream, Side::Client, None, Trust::Hostile(GuardLimits::unpacker()));

    let (alive, mut heard) = tokio::sync::watch::channel(());
    let progress = ProgressImpl { report: Box::new(report), alive };
    let unpacker: unpacker::Client = vat.bootstrap();
    let mut request = unpacker.unpack_request();
    request.get().set_progress(capnp_rpc::new_client(progress));
    let answer = request.send().promise;
    tokio::pin!(answer);
    let end = tokio::time::sleep(LONGEST);
    tokio::pin!(end);
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut heard_at = Instant::now();
    let mut alive = true;
    let result = loop {
        tokio::select! {
            answer = &mut answer => break answer.map_err(refusal).and_then(|a| read(&a)),
            // Once it has let go of the progress object, its answer is still to come.
            news = heard.changed(), if alive => {
                alive = news.is_ok();
                heard_at = Instant::now();
            }
            () = &mut end => break Err(Failure::machine(
                "PKG-TIME",
                "Unpacking took longer than two hours and was stopped.",
            )),
            _ = looks.tick() => {
                if is_full() {
                    break Err(Failure::disk_full(home, None));
                }
                if heard_at.elapsed() >= SILENCE {
                    break Err(Failure::machine(
                        "PKG-TIME",
                        "Unpacking made no progress for two minutes and was stopped. Try again.",
                    ));
                }
            }
        }
    };
    drop(unpacker);
    vat.disconnect().await;
    // It has nothing left to do; a healthy child has ended by itself.
    let _ = child.kill().await;
    if let Ok(text) = tokio::time::timeout(Duration::from_secs(1), log).await {
        for line in text.unwrap_or_default().lines() {
            tracing::warn!(target: "spk", "{}", crate::identity::text::one_line(line, 500));
        }
    }
    result
}

/// What a child writes, as far as it is text: names in a package may be anything.
async fn words(from: impl AsyncRead + Unpin) -> String {
    let mut bytes = Vec::new();
    // What came before an error is told.
    let _ = from.take(MAX_STDERR).read_to_end(&mut bytes).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The child's `failed` is about the file, everything else about the machine.
fn refusal(error: capnp::Error) -> Failure {
    let said = error.extra.rsplit("remote exception: ").next().unwrap_or_default();
    let said = crate::identity::text::one_line(said, 300);
    let said = said.trim_end_matches('.');
    let said = said.strip_prefix("not a package: ").unwrap_or(said);
    match error.kind {
        capnp::ErrorKind::Failed => Failure::file(
            "PKG-BAD",
            format!("This is not a package that can be installed: {said}."),
        ),
        capnp::ErrorKind::Overloaded => {
            Failure::machine("PKG-FULL", format!("This server could not unpack it: {said}."))
        }
        _ => Failure::machine(
            "PKG-CHILD",
            format!("The program that unpacks ended before it was done: {said}."),
        ),
    }
}

fn read(
    answer: &capnp::capability::Response<unpacker::unpack_results::Owned>,
) -> Result<Unpacked, Failure> {
    let parse = || -> capnp::Result<Unpacked> {
        let info = answer.get()?.get_info()?;
        let text = |t: capnp::Result<capnp::text::Reader<'_>>| -> capnp::Result<String> {
            t?.to_string().map_err(|_| capnp::Error::failed("text is not UTF-8".into()))
        };
        Ok(Unpacked {
            app_id: text(info.get_app_id())?,
            package_id: text(info.get_package_id())?,
            manifest: manifest::copy(info.get_manifest()?)?,
            fingerprint: text(info.get_author_pgp_key_fingerprint())?,
            size: info.get_unpacked_bytes(),
        })
    };
    parse().map_err(|error| {
        Failure::file(
            "PKG-MANIFEST",
            format!("The package's manifest cannot be read: {}.", error.extra),
        )
    })
}

struct ProgressImpl {
    report: Box<dyn Fn(Report)>,
    alive: tokio::sync::watch::Sender<()>,
}

impl progress::Server for ProgressImpl {
    async fn report(
        self: std::rc::Rc<Self>,
        params: progress::ReportParams,
        _: progress::ReportResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        let step = match params.get_step() {
            Ok(Step::Verify) => 0,
            Ok(Step::Extract) => 1,
            Ok(Step::Sync) | Err(_) => 2,
        };
        self.alive.send_replace(());
        (self.report)(Report { step, done: params.get_done(), total: params.get_total() });
        Ok(())
    }
}

/// Starts the child with exactly the three descriptors, and an empty environment.
#[allow(unsafe_code)]
fn spawn(
    spk: &Path,
    socket: OwnedFd,
    file: OwnedFd,
    work: OwnedFd,
) -> io::Result<tokio::process::Child> {
    // Above the numbers that they get in the child, so that no dup2 overwrites another's source.
    let fds: Vec<OwnedFd> = [socket, file, work].iter().map(above).collect::<io::Result<_>>()?;
    let raw: [RawFd; 3] = [fds[0].as_raw_fd(), fds[1].as_raw_fd(), fds[2].as_raw_fd()];
    let mut command = tokio::process::Command::new(spk);
    command
        .arg("unpack-server")
        .env_clear()
        .current_dir("/")
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true);
    // SAFETY: between fork and exec only dup2 runs, which is async-signal-safe, on descriptors
    // that `fds` keeps open until the exec is done.
    unsafe {
        command.pre_exec(move || {
            for (target, source) in (3..).zip(raw) {
                if libc::dup2(source, target) < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    command.spawn()
}

/// A copy of the descriptor with a number of 10 or more.
fn above(fd: &OwnedFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, 10)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_byte_that_is_no_text_hides_no_other_word() {
        let said = words(&b"bad entry \xff: \xc3\xa4\nsecond line\n"[..]).await;
        assert_eq!(said, "bad entry \u{fffd}: ä\nsecond line\n");
    }
}
