//! `unpack-server`: takes a stranger's package apart for the shell.
//!
//! Inherits fd 3 (RPC), fd 4 (the package) and fd 5 (an empty directory), and confines itself to
//! them before it reads a byte of any. One `unpack`, then the end.

use std::cell::RefCell;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::mpsc::{SyncSender, sync_channel};

use capnp_rpc::rpc_twoparty_capnp::Side;
use sandstorm_schema::rpc::connect::{Trust, Vat};
use sandstorm_schema::rpc::error::{failed, overloaded};
use sandstorm_schema::unpack_capnp::{Step, progress, unpacked_info, unpacker};
use spk::error::{Error, Result};
use spk::format::archive::Totals;
use spk::format::manifest::Manifest;
use spk::pgp::{Author, Helper};
use spk::progress::{self as local, Progress};
use spk::sys::inherited::{close_others, inherited};
use spk::sys::lockdown;
use spk::sys::scratch::Scratch;
use spk::{info, unpack};
use tokio::sync::{oneshot, watch};

/// What the work needs and only one call gets.
struct Task {
    package: File,
    work: OwnedFd,
    helper: Helper,
}

/// Serves until the shell lets go.
pub fn run() -> Result<()> {
    let (socket, package, work) = (inherited(3)?, inherited(4)?, inherited(5)?);
    // Whatever else was left open by whoever started us.
    close_others(6);
    let helper = Helper::start()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("event loop"))?;
    // From here on hostile bytes may come.
    if let Some(note) = lockdown::confine_unpacker(work.as_fd())? {
        super::warn(format_args!("{note}"));
    }
    let stream = std::os::unix::net::UnixStream::from(socket);
    stream.set_nonblocking(true).map_err(Error::io("socket"))?;
    let task = Task { package: File::from(package), work, helper };
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async move {
        let stream = tokio::net::UnixStream::from_std(stream).map_err(Error::io("socket"))?;
        let server = UnpackerImpl { task: RefCell::new(Some(task)) };
        let bootstrap: unpacker::Client = capnp_rpc::new_client(server);
        // The shell is our better.
        let vat = Vat::spawn(stream, Side::Server, Some(bootstrap.client), Trust::Peer);
        let _ = vat.closed().await;
        Ok(())
    })
}

struct UnpackerImpl {
    task: RefCell<Option<Task>>,
}

impl unpacker::Server for UnpackerImpl {
    async fn unpack(
        self: Rc<Self>,
        params: unpacker::UnpackParams,
        mut results: unpacker::UnpackResults,
    ) -> capnp::Result<()> {
        let Some(task) = self.task.borrow_mut().take() else {
            return Err(failed("this process unpacks one package"));
        };
        let progress = params.get()?.get_progress().ok();
        drop(params);
        let (report, heard) = watch::channel(Report { step: Step::Verify, done: 0, total: 0 });
        let (send, done) = oneshot::channel();
        let (keep, kept) = sync_channel::<()>(0);
        std::thread::Builder::new()
            .name("unpack".into())
            .spawn(move || {
                let watcher = Watcher { report, keep };
                let _ = send.send(task.work(&watcher));
            })
            .map_err(|e| overloaded(format!("no thread: {e}")))?;
        let tell = async {
            match progress {
                Some(progress) => pass_on(progress, heard).await,
                None => std::future::pending().await,
            }
        };
        let found = tokio::select! {
            found = done => found.map_err(|_| overloaded("the unpacking thread broke down"))?,
            () = tell => return Err(overloaded("the unpacking thread broke down")),
        };
        drop(kept);
        let found = found.map_err(refusal)?;
        found.fill(results.get().init_info())
    }
}

/// A refused package is `failed`, a machine in trouble `overloaded`.
fn refusal(error: Error) -> capnp::Error {
    let text = error.to_string().replace('\n', " ");
    if error.is_transient() { overloaded(text) } else { failed(text) }
}

/// Everything that the shell wants to know.
struct Found {
    app: String,
    package: String,
    manifest: Manifest,
    fingerprint: String,
    totals: Totals,
}

impl Found {
    fn fill(&self, mut info: unpacked_info::Builder<'_>) -> capnp::Result<()> {
        info.set_app_id(&self.app);
        info.set_package_id(&self.package);
        let root = self.manifest.root().map_err(|e| failed(e.to_string()))?;
        info.set_manifest(root)?;
        info.set_author_pgp_key_fingerprint(&self.fingerprint);
        info.set_unpacked_bytes(self.totals.bytes);
        info.set_entry_count(self.totals.entries);
        Ok(())
    }
}

impl Task {
    fn work(self, progress: &dyn Progress) -> Result<Found> {
        let size = self.package.metadata().map_err(Error::io("package"))?.len();
        let scratch = Scratch::new_in(self.work.as_fd(), None)?;
        let unpacked = unpack::check(&self.package, size, scratch, progress)?;
        let result = unpacked.extract(self.work.as_fd(), progress);
        let verified = &unpacked.verified;
        let (app, package) = (verified.app_id, verified.package_id);
        let totals = unpacked.checked.totals;
        let found = result.and_then(|()| {
            let manifest = unpacked.checked.into_manifest()?;
            info::check_links(manifest.root()?)?;
            let fingerprint = match self.helper.check(app, manifest.root()?)? {
                Author::Key(key) => key,
                Author::Unsigned | Author::Unchecked => String::new(),
            };
            progress.begin(local::Step::Sync, 0);
            nix::unistd::syncfs(&self.work).map_err(Error::sys("cannot write to the disk"))?;
            Ok(Found {
                app: app.to_string(),
                package: package.to_string(),
                manifest,
                fingerprint,
                totals,
            })
        });
        if found.is_err() {
            let _ = spk::sys::tree::remove_content(self.work.as_fd());
        }
        found
    }
}

#[derive(Debug, Clone, Copy)]
struct Report {
    step: Step,
    done: u64,
    total: u64,
}

/// Carries progress from the working thread to the RPC thread.
struct Watcher {
    report: watch::Sender<Report>,
    /// Never sent to: an error means that nobody waits any more.
    keep: SyncSender<()>,
}

impl Progress for Watcher {
    fn begin(&self, step: local::Step, total: u64) {
        let step = match step {
            local::Step::Extract => Step::Extract,
            local::Step::Sync => Step::Sync,
            _ => Step::Verify,
        };
        self.report.send_replace(Report { step, done: 0, total });
    }

    fn done(&self, done: u64) -> Result<()> {
        use std::sync::mpsc::TrySendError;
        if let Err(TrySendError::Disconnected(())) = self.keep.try_send(()) {
            return Err(Error::Interrupted);
        }
        self.report.send_modify(|report| report.done = report.done.max(done));
        Ok(())
    }
}

/// Tells the shell the newest state, one report at a time.
async fn pass_on(progress: progress::Client, mut heard: watch::Receiver<Report>) {
    loop {
        let Report { step, done, total } = *heard.borrow_and_update();
        let mut request = progress.report_request();
        let mut params = request.get();
        params.set_step(step);
        params.set_done(done);
        params.set_total(total);
        // A report that fails does not stop the work.
        let _ = request.send().promise.await;
        if heard.changed().await.is_err() {
            // The thread has ended; its answer is on its way.
            std::future::pending::<()>().await;
        }
    }
}
