//! A tiny app that speaks to Sandstorm itself, without any bridge: fd 3 is its whole world.
//!
//! It keeps one text and a counter in /var and shows them on one page. The tests use it as the
//! plainest possible grain; its other paths make it misbehave in the ways that they need.

mod session;
mod store;
mod view;

use std::os::fd::FromRawFd;
use std::rc::Rc;

use capnp_rpc::{RpcSystem, rpc_twoparty_capnp::Side, twoparty};
use futures::AsyncReadExt;
use sandstorm_schema::grain_capnp::sandstorm_api;
use tokio_util::compat::TokioAsyncReadCompatExt;

/// The system's end, as the app sees it. Object ids of this app are texts.
pub type Api = sandstorm_api::Client<capnp::text::Owned>;

fn main() {
    // As a helper process (`/spawn`): wait until somebody ends us.
    if std::env::args().nth(1).as_deref() == Some("spin") {
        // Until all of them have been started.
        std::thread::sleep(std::time::Duration::from_secs(2));
        loop {
            std::hint::spin_loop();
        }
    }
    if std::env::args().nth(1).as_deref() == Some("pester") {
        loop {
            // SAFETY: a plain signal, to the grain's init.
            unsafe { libc::kill(1, libc::SIGTERM) };
        }
    }
    if std::env::args().nth(1).as_deref() == Some("wait") {
        loop {
            std::thread::sleep(std::time::Duration::from_secs(3600));
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
    let result = tokio::task::LocalSet::new().block_on(&runtime, serve());
    if let Err(error) = result {
        eprintln!("native app: {error}");
        std::process::exit(1);
    }
}

async fn serve() -> Result<(), Box<dyn std::error::Error>> {
    // SAFETY: the runtime contract gives this process fd 3, a connected Unix stream socket that
    // nothing else in the process uses.
    let stream = unsafe { std::os::unix::net::UnixStream::from_raw_fd(3) };
    stream.set_nonblocking(true)?;
    let (read, write) = tokio::net::UnixStream::from_std(stream)?.compat().split();
    let network = twoparty::VatNetwork::new(
        futures::io::BufReader::new(read),
        futures::io::BufWriter::new(write),
        Side::Client,
        capnp::message::ReaderOptions::new(),
    );
    // The view wants the system's API, which exists only once the connection does.
    let api = Rc::new(view::ApiSlot::default());
    let view: sandstorm_schema::grain_capnp::main_view::Client<capnp::text::Owned> =
        capnp_rpc::new_client(view::View::new(store::Store::open()?, api.clone()));
    let mut system = RpcSystem::new(Box::new(network), Some(view.client));
    api.set(system.bootstrap(Side::Server));
    println!("native app: ready");
    system.await?;
    Ok(())
}
