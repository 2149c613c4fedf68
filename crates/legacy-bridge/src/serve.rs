//! From a started process to a served grain, and to its end.

use std::rc::Rc;
use std::time::Duration;

use capnp_rpc::rpc_twoparty_capnp::Side;
use nix::sys::signal::Signal;
use sandstorm_schema::memory;
use sandstorm_schema::rpc::connect::{Trust, Vat};
use tokio::net::UnixStream;

use crate::app::{App, Ending, wait_for_port};
use crate::args::Run;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::http1::Upstream;
use crate::log;
use crate::rpc::{Bridge, ViewImpl};
use crate::sys;

/// After the app's end, answers that it wrote before may still reach the shell.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// After the supervisor's end, how long the app may take to end by itself.
const LAST_CHANCE: Duration = Duration::from_secs(2);

/// Without a request for so long, the bridge is idle.
const REST_AFTER: Duration = Duration::from_secs(2);
/// Processor time that an idle bridge does not need.
const WORK: Duration = Duration::from_millis(10);
/// How often a resting bridge looks whether it has worked meanwhile.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Starts the app and serves it until it or the supervisor ends. Returns the exit status.
///
/// # Errors
/// When the app cannot be started or does not accept connections in time.
pub fn run(run: &Run, config: Config, socket: std::os::unix::net::UnixStream) -> Result<i32> {
    memory::keep_room();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .map_err(|source| Error::System { step: "starting the event loop", source })?;
    runtime.block_on(serve(run, config, socket))
}

async fn serve(run: &Run, config: Config, socket: std::os::unix::net::UnixStream) -> Result<i32> {
    let socket = UnixStream::from_std(socket)
        .map_err(|source| Error::System { step: "preparing fd 3", source })?;
    let app = App::start(&run.command)?;
    let upstream = Upstream::new(run.addr);
    let view = ViewImpl(Bridge::new(Rc::clone(&upstream), config)).client();
    // The supervisor is our better: it could do to us what it likes anyway, so no guard.
    let vat = Vat::spawn(socket, Side::Client, Some(view.client), Trust::Peer);
    let rpc = vat.closed();
    tokio::pin!(rpc);
    let ending = app.wait();
    tokio::pin!(ending);
    tokio::task::spawn_local(rest(Rc::clone(&upstream)));
    let ready = wait_for_port(&upstream, run.start_timeout);
    tokio::pin!(ready);
    let mut is_ready = false;
    loop {
        tokio::select! {
            ending = &mut ending => {
                let Ending { words, code } = ending?;
                log!("the app {words}");
                let _ = tokio::time::timeout(LAST_WORDS, &mut rpc).await;
                return Ok(code);
            }
            outcome = &mut ready, if !is_ready => match outcome {
                Ok(()) => is_ready = true,
                Err(error) => {
                    app.signal(Signal::SIGKILL);
                    return Err(error);
                }
            },
            _ = &mut rpc => {
                log!("the supervisor closed the connection; ending the app");
                app.signal(Signal::SIGTERM);
                if tokio::time::timeout(LAST_CHANCE, &mut ending).await.is_err() {
                    app.signal(Signal::SIGKILL);
                }
                return Ok(0);
            }
        }
    }
}

/// Gives memory back when nothing was asked for a while and no body flows.
async fn rest(upstream: Rc<Upstream>) {
    upstream.ready().await;
    loop {
        let (requests, worked) = (upstream.requests(), sys::processor_time());
        tokio::time::sleep(REST_AFTER).await;
        if upstream.requests() != requests || sys::processor_time().saturating_sub(worked) > WORK {
            continue;
        }
        memory::give_back();
        memory::forget_code();
        let worked = sys::processor_time();
        // A request is the usual end of the rest; a body that stood still may go on, too.
        while tokio::time::timeout(LOOK_AGAIN, upstream.next_request()).await.is_err() {
            if sys::processor_time().saturating_sub(worked) > WORK {
                break;
            }
        }
    }
}
