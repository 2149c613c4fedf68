//! The unprivileged life of the supervisor: socket, connections, the app's RPC, and the end.
//!
//! Trust: everything here runs after the last privilege is gone. Connections on the socket come
//! from the shell (checked by the kernel's peer credentials); the app's end is hostile and guarded.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use capnp_rpc::rpc_twoparty_capnp::Side;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;
use sandstorm_schema::grain_capnp::sandstorm_api;
use sandstorm_schema::memory;
use sandstorm_schema::rpc::connect::{self, GuardLimits, Trust, Vat};
use sandstorm_schema::supervisor_capnp::supervisor;
use tokio::net::{UnixListener, UnixStream, unix::pipe};
use tokio::sync::Notify;

use crate::args::Args;
use crate::error::Error;
use crate::grain::allowance::Allowance;
use crate::grain::app::App;
use crate::grain::book::{Book, Keepers};
use crate::grain::disk;
use crate::grain::image::{self, Image};
use crate::grain::life::Life;
use crate::grain::log::{self, Log};
use crate::grain::memory::Memory;
use crate::home::GrainDirs;
use crate::mode::Caller;
use crate::rpc::border;
use crate::rpc::connections::Connections;
use crate::rpc::core::CoreSlot;
use crate::rpc::sandstorm_api::SandstormApiImpl;
use crate::rpc::supervisor::Grain;
use crate::rpc::wake_lock::WakeLocks;
use crate::sandbox::{Outside, outer};
use crate::sys::process::{self, SingleThread};
use crate::sys::{fd, net};

/// Without a call for so long, the supervisor is idle.
pub const REST_AFTER: Duration = Duration::from_secs(2);
/// How often it is looked whether it is, and what was mapped again while it is; much more seldom
/// once nobody has called for half a minute.
const LOOK: Duration = Duration::from_millis(500);
const LOOK_AT_REST: Duration = Duration::from_secs(15);
/// After the app closed fd 3, how long its exit status is waited for.
const EXIT_GRACE: Duration = Duration::from_secs(1);
/// How long the end may take to collect the app's last output.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Why the grain ends.
enum End {
    /// Asked for, or nobody wants it: exit status 0.
    Wanted(&'static str),
    /// The app is over, by itself.
    App(String),
    /// It takes space without end.
    Greed(String),
}

/// Serves the grain until its end. From here on there may be threads, so nothing forks any more.
///
/// # Errors
/// `Sandbox` when it could not be built, `App` when the app could not be started or ended.
pub fn run(
    _given_up: SingleThread,
    outside: Outside,
    dirs: GrainDirs,
    args: &Args,
    caller: Caller,
) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build_local(tokio::runtime::LocalOptions::default())
        .map_err(Error::kernel("make the async runtime"))?;
    memory::keep_room();
    runtime.block_on(serve(outside, dirs, args, caller))
}

/// Asks the supervisor at the other end of `stream` whether it serves, for five seconds.
pub fn is_serving(stream: std::os::unix::net::UnixStream) -> bool {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return false;
    };
    let ask = async {
        stream.set_nonblocking(true).ok()?;
        let stream = UnixStream::from_std(stream).ok()?;
        let vat = Vat::spawn(stream, Side::Client, None, Trust::Peer);
        let other: supervisor::Client = vat.bootstrap();
        let call = other.keep_alive_request().send().promise;
        tokio::time::timeout(Duration::from_secs(5), call).await.ok()?.ok()
    };
    tokio::task::LocalSet::new().block_on(&runtime, ask).is_some()
}

async fn serve(
    outside: Outside,
    dirs: GrainDirs,
    args: &Args,
    caller: Caller,
) -> Result<(), Error> {
    let storage_error = |action: &'static str| {
        let path = dirs.home_path.join("grains").join(&*dirs.grain_name.to_string_lossy());
        move |source: io::Error| Error::Storage { action, path, source }
    };
    let duplicate = || dirs.grain.try_clone().map_err(Error::kernel("duplicate a descriptor"));
    let log = Log::open(duplicate()?, args.limits.log).map_err(storage_error("open the log of"))?;
    let listener = bind(&dirs.grain).map_err(storage_error("make the socket of"))?;
    let null = fd::open(c"/dev/null", OFlags::RDWR).map_err(Error::kernel("open /dev/null"))?;
    let app = App::new(outside.link).map_err(Error::kernel("listen to init"))?;
    let output = pipe::Receiver::from_owned_fd(outside.output)
        .map_err(Error::kernel("read the log pipe"))?;

    for note in &outside.notes {
        log.note(note);
    }
    let (mut limits, mut data, mut disk) = (args.limits.clone(), dirs.sandbox, "accounting");
    if outside.disk.quota {
        disk = "quota";
    }
    let image = match outside.disk.image {
        None => None,
        Some(mounted) => {
            let image =
                Image::new(&mounted, duplicate()?).map_err(Error::kernel("open the image"))?;
            let capacity = image.capacity().map_err(Error::kernel("measure the image"))?;
            log.note(&image::note(capacity, limits.disk));
            (limits.disk, limits.inodes) = (capacity.bytes, capacity.inodes);
            (data, disk) = (mounted, "image");
            Some(image)
        }
    };
    let pump = {
        let log = log.clone();
        tokio::task::spawn_local(async move { log::pump(&log, output).await })
    };

    let memory = Memory::watch(outside.watch.memory, args.limits.memory)
        .map_err(Error::kernel("listen for want of memory"))?;
    let book = Book::new(
        limits,
        Keepers { floor: outside.floor, disk, limited: outside.limited },
        outside.watch.counters,
        memory.events.clone(),
        log.clone(),
        app.clone(),
    );
    let life = Life::new(args.idle);
    let core = CoreSlot::new();
    let locks = Rc::new(WakeLocks::default());
    let border = border::around_the_app(&life, &core, None);
    let api: sandstorm_api::Client<capnp::any_pointer::Owned> =
        capnp_rpc::new_client(SandstormApiImpl {
            grain_id: dirs.grain_name.to_string_lossy().into_owned(),
            core: core.clone(),
            life: life.clone(),
            log: log.clone(),
            locks: locks.clone(),
        });
    // An app has none to give; closing one that it did give could keep us waiting.
    let _ = net::refuse_descriptors(&outside.door);
    let app_stream = std::os::unix::net::UnixStream::from(outside.door);
    let app_stream = app_stream
        .set_nonblocking(true)
        .and_then(|()| UnixStream::from_std(app_stream))
        .map_err(Error::kernel("use the app's socket"))?;
    let app_vat = Vat::spawn(
        app_stream,
        Side::Server,
        Some(border.inward_face(api.client)),
        Trust::Hostile(GuardLimits::app()),
    );
    let grain = Rc::new(Grain {
        app: app.clone(),
        app_view: app_vat.bootstrap(),
        border,
        restored: RefCell::default(),
        core,
        life: life.clone(),
        log: log.clone(),
        locks,
        book: book.clone(),
        dir: duplicate()?,
        data,
        image,
        shutdown: Notify::new(),
        watchers: Rc::new(()),
    });
    // Everything that has to be opened is open, and init still builds.
    if let Some(note) =
        outer::confine(dirs.grain.as_fd(), grain.image.as_ref().map(|image| image.top().as_fd()))
            .map_err(Error::kernel("confine the supervisor"))?
    {
        log.note(&note);
    }
    match app.built().await {
        Ok(notes) if notes.is_empty() => {}
        Ok(notes) => log.note(&notes),
        Err(error) => {
            log.note(&error.to_string());
            return Err(error);
        }
    }
    let limits = &grain.book.limits;
    let mut allowance = Allowance::new(limits.disk, limits.inodes, limits.log);
    if disk != "accounting" {
        allowance.kept_by_the_kernel();
    }
    let mut sizes = tokio::task::spawn_local(disk::watch(duplicate()?, grain.clone(), allowance));
    let telling = {
        let life = life.clone();
        tokio::task::spawn_local(async move { book.tell(&life).await })
    };
    let connections = Rc::new(Connections::default());
    let accepting =
        tokio::task::spawn_local(connections.clone().accept(listener, grain.clone(), caller));

    if args.start {
        // A start that fails says so before anybody relies on it, while stderr is still the caller's.
        if let Err(why) = app.started_at_once().await {
            log.note(&why);
            return Err(Error::App(why));
        }
    }
    announce("Listening...\n");
    tokio::task::spawn_local(rest(life.clone()));
    // Whoever started us may go; the library prints to stdout what only we should know.
    for n in 0..3 {
        let _ = fd::dup_onto(&null, n);
    }

    let end = tokio::select! {
        () = grain.shutdown.notified() => End::Wanted("shut down as asked"),
        () = life.ended() => End::Wanted("nobody uses the grain: falling asleep"),
        why = app.follow() => End::App(why),
        () = memory.ran_out() => End::App(String::new()),
        why = &mut sizes => match why {
            Ok(why) => End::Greed(why),
            Err(e) => End::App(format!("the disk watch broke down: {e}")),
        },
        _ = app_vat.closed() => {
            // Its exit status says more than the closed connection.
            let why = tokio::time::timeout(EXIT_GRACE, app.follow()).await;
            End::App(why.unwrap_or_else(|_| "the app closed its connection (fd 3)".into()))
        }
    };
    accepting.abort();
    sizes.abort();
    telling.abort();
    let (why, result) = match end {
        End::Wanted(why) => (why.to_owned(), Ok(())),
        End::App(why) => {
            let why = memory.reason().unwrap_or(why);
            (why.clone(), Err(Error::App(why)))
        }
        End::Greed(why) => (why.clone(), Err(Error::Greed(why))),
    };
    log.note(&why);
    // Calls that wait for the app hear why it does not answer.
    grain.close_border(&why);
    let _ = fd::unlink_if_there(&dirs.grain, c"socket");
    // Init kills the app, waits for all of its processes and ends; the pipe ends with the app's
    // last words.
    app.end();
    let _ = tokio::time::timeout(LAST_WORDS, app_vat.disconnect()).await;
    let _ = tokio::time::timeout(LAST_WORDS, pump).await;
    connections.close(result.is_err()).await;
    // Whoever waits for our end may rely on it: every process of the grain is gone, and only then
    // its lock and its uid.
    let gone = |patience| {
        let init = PollFd::new(&outside.init, PollFlags::IN);
        matches!(fd::poll(&mut [init], patience), Ok(1..))
    };
    if !gone(Some(LAST_WORDS)) {
        // A frozen grain, say. This reaches also what cannot run.
        if let Some(kill) = &outside.watch.kill {
            let _ = rustix::io::write(kill, b"1");
        }
        // A process that waits for a dead disk may still write one day: the lock is kept.
        gone(None);
    }
    // No zombie is left to whoever is pid 1, which may be a server that knows only its own children.
    while matches!(process::reap_one(), Ok(Some(_))) {}
    drop((outside.lock, outside.slot));
    result
}

fn bind(dir: &OwnedFd) -> io::Result<UnixListener> {
    // Ours by the lock: whatever is there is the remains of a supervisor that was killed.
    fd::unlink_if_there(dir, c"socket")?;
    connect::bind_at(dir.as_fd(), "socket")
}

/// Keeps the supervisor small while it has nothing to do: free memory goes back each time that it
/// falls idle, and code that only a start, a call, or a rare look at things needed is let go of.
async fn rest(life: Rc<Life>) {
    loop {
        while life.is_recent(REST_AFTER) {
            tokio::time::sleep(LOOK).await;
            if !life.is_recent(LOOK / 2) {
                memory::forget_code();
            }
        }
        loop {
            memory::give_back();
            memory::forget_code();
            let pause = if life.is_recent(LOOK_AT_REST * 2) { LOOK } else { LOOK_AT_REST };
            // The next call ends the rest, be it only the shell's sign of life.
            if tokio::time::timeout(pause, life.wanted()).await.is_ok() {
                break;
            }
        }
    }
}

/// How long whoever started us may leave a line unread.
const READERS_PATIENCE: Duration = Duration::from_secs(5);

/// A line on stdout for whoever started us, who may not be reading.
pub fn announce(line: &str) {
    let stdout = rustix::stdio::stdout();
    let mut stdout = [PollFd::from_borrowed_fd(stdout, PollFlags::OUT)];
    let ready = fd::poll(&mut stdout, Some(READERS_PATIENCE)).is_ok_and(|n| n == 1);
    if ready && stdout[0].revents().contains(PollFlags::OUT) {
        let _ = io::stdout().write_all(line.as_bytes());
        let _ = io::stdout().flush();
    }
}
