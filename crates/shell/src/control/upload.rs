//! A package file that a sub-command streams in.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use sandstorm_schema::ext_control_capnp::{app_upload, install_progress};
use sandstorm_schema::rpc::error::failed;
use sandstorm_schema::util_capnp::byte_stream;
use tokio::sync::{mpsc, oneshot};

use super::server::{describe, finish, for_everybody};
use crate::ids::{AccountId, PackageId};
use crate::state::App;

/// Chunks that wait for the disk.
const QUEUE: usize = 8;

pub struct AppUploadImpl {
    app: App,
    by: AccountId,
    chunks: RefCell<Option<mpsc::Sender<Option<Bytes>>>>,
    received: RefCell<Option<oneshot::Receiver<Result<PackageId, String>>>>,
    progress: Option<install_progress::Client>,
    done: Cell<bool>,
}

/// The chunks as the installer reads them: an end without `done` is an error.
struct Chunks(mpsc::Receiver<Option<Bytes>>, bool);

impl Stream for Chunks {
    type Item = Result<Bytes, &'static str>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.1 {
            return Poll::Ready(None);
        }
        self.0.poll_recv(cx).map(|chunk| match chunk {
            Some(Some(bytes)) => Some(Ok(bytes)),
            Some(None) => {
                self.1 = true;
                None
            }
            None => Some(Err("the upload broke off")),
        })
    }
}

impl AppUploadImpl {
    pub fn begin(
        app: App,
        by: AccountId,
        size: u64,
        progress: Option<install_progress::Client>,
    ) -> AppUploadImpl {
        let (send, receive) = mpsc::channel(QUEUE);
        let (answer, received) = oneshot::channel();
        let installer = app.installer.clone();
        let announced = (size > 0).then_some(size);
        tokio::task::spawn_local(async move {
            let result = installer.receive(Chunks(receive, false), announced, by).await;
            let _ = answer.send(result.map_err(|e| format!("{} ({})", e.words, e.code)));
        });
        AppUploadImpl {
            app,
            by,
            chunks: RefCell::new(Some(send)),
            received: RefCell::new(Some(received)),
            progress,
            done: Cell::new(false),
        }
    }

    fn sender(&self) -> capnp::Result<mpsc::Sender<Option<Bytes>>> {
        self.chunks.borrow().clone().ok_or_else(|| failed("the upload is over"))
    }
}

impl byte_stream::Server for AppUploadImpl {
    async fn write(self: Rc<Self>, params: byte_stream::WriteParams) -> capnp::Result<()> {
        let data = Bytes::copy_from_slice(params.get()?.get_data()?);
        drop(params);
        if self.done.get() {
            return Err(failed("write after done"));
        }
        if data.is_empty() {
            return Ok(());
        }
        let sender = self.sender()?;
        sender.send(Some(data)).await.map_err(|_| failed("the file was refused"))
    }

    async fn done(
        self: Rc<Self>,
        _: byte_stream::DoneParams,
        _: byte_stream::DoneResults,
    ) -> capnp::Result<()> {
        if self.done.replace(true) {
            return Err(failed("done was called twice"));
        }
        let sender = self.sender()?;
        self.chunks.borrow_mut().take();
        // A refusal that came first is told by `finish`.
        let _ = sender.send(None).await;
        Ok(())
    }

    async fn expect_size(
        self: Rc<Self>,
        _: byte_stream::ExpectSizeParams,
        _: byte_stream::ExpectSizeResults,
    ) -> capnp::Result<()> {
        // `appInstall` was told already.
        Ok(())
    }
}

impl app_upload::Server for AppUploadImpl {
    async fn finish(
        self: Rc<Self>,
        _: app_upload::FinishParams,
        mut results: app_upload::FinishResults,
    ) -> capnp::Result<()> {
        let received = self.received.borrow_mut().take();
        let received = received.ok_or_else(|| failed("finish was called twice"))?;
        let id = received.await.map_err(|_| failed("the server is ending"))?.map_err(failed)?;
        let package = finish(&self.app, id, self.by, self.progress.as_ref()).await?;
        for_everybody(&self.app, &package).await?;
        describe(&self.app, &package, results.get().init_app()).await
    }
}
