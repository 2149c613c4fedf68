//! `Supervisor`: what the shell asks of a grain. Its caller is more trusted than we are.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use bytes::Bytes;
use capnp::Error;
use sandstorm_schema::grain_capnp::{main_view, ui_view};
use sandstorm_schema::rpc::body::BodyWriter;
use sandstorm_schema::supervisor_capnp::supervisor::{self, WwwFileStatus};
use sandstorm_schema::supervisor_capnp::supervisor_object_id;
use tokio::sync::Notify;

use super::core::CoreSlot;
use super::log_watch;
use super::wake_lock::WakeLocks;
use crate::grain::app::App;
use crate::grain::life::Life;
use crate::grain::log::Log;
use crate::grain::www::{self, Found};
use crate::sys::fd;

/// What the object of every connection shares.
pub struct Grain {
    pub app: Rc<App>,
    /// The app's first object, as the outside may see it.
    pub view: main_view::Client<capnp::any_pointer::Owned>,
    pub core: Rc<CoreSlot>,
    pub life: Rc<Life>,
    pub log: Rc<Log>,
    pub locks: Rc<WakeLocks>,
    /// The grain's directory.
    pub dir: OwnedFd,
    /// Told when the grain is to end.
    pub shutdown: Notify,
    /// Counts log watchers.
    pub watchers: Rc<()>,
}

/// The bootstrap object of a connection to the grain's socket.
pub struct SupervisorImpl(pub Rc<Grain>);

impl supervisor::Server for SupervisorImpl {
    async fn get_main_view(
        self: Rc<Self>,
        _: supervisor::GetMainViewParams,
        mut results: supervisor::GetMainViewResults,
    ) -> Result<(), Error> {
        self.0.app.ensure_started().await?;
        let view: ui_view::Client = capnp::capability::FromClientHook::cast_to(self.0.view.clone());
        results.get().set_view(view);
        Ok(())
    }

    async fn keep_alive(
        self: Rc<Self>,
        params: supervisor::KeepAliveParams,
        _: supervisor::KeepAliveResults,
    ) -> Result<(), Error> {
        self.0.life.sign();
        let params = params.get()?;
        if params.has_core() {
            self.0.core.set(params.get_core()?);
        }
        Ok(())
    }

    async fn sync_storage(
        self: Rc<Self>,
        _: supervisor::SyncStorageParams,
        _: supervisor::SyncStorageResults,
    ) -> Result<(), Error> {
        // Blocks this process; only this grain waits for it.
        fd::syncfs(self.0.dir.as_fd()).map_err(|e| Error::failed(format!("syncfs: {e}")))
    }

    async fn shutdown(
        self: Rc<Self>,
        _: supervisor::ShutdownParams,
        _: supervisor::ShutdownResults,
    ) -> Result<(), Error> {
        self.0.shutdown.notify_one();
        // The answer is the disconnect.
        futures::future::pending().await
    }

    async fn restore(
        self: Rc<Self>,
        params: supervisor::RestoreParams,
        mut results: supervisor::RestoreResults,
    ) -> Result<(), Error> {
        let params = params.get()?;
        match params.get_ref()?.which()? {
            supervisor_object_id::AppRef(object_id) => {
                let mut request = self.0.view.restore_request();
                request.get().init_object_id().set_as(object_id?)?;
                self.0.app.ensure_started().await?;
                let response = request.send().promise.await?;
                results.get().init_cap().set_as(response.get()?.get_cap())?;
                Ok(())
            }
            supervisor_object_id::WakeLockNotification(number) => {
                let shown = self.0.locks.notification(number).ok_or_else(|| {
                    Error::failed(format!(
                        "wake lock {number} ended, with the run of the grain that took it if not before"
                    ))
                })?;
                results.get().init_cap().set_as_capability(shown.client.hook);
                Ok(())
            }
        }
    }

    async fn drop(
        self: Rc<Self>,
        params: supervisor::DropParams,
        _: supervisor::DropResults,
    ) -> Result<(), Error> {
        match params.get()?.get_ref()?.which()? {
            supervisor_object_id::WakeLockNotification(number) => {
                self.0.life.cancel(number);
                Ok(())
            }
            supervisor_object_id::AppRef(_) => Err(Error::failed(
                "an object of the app is dropped by its tokens, not by its reference".into(),
            )),
        }
    }

    async fn watch_log(
        self: Rc<Self>,
        params: supervisor::WatchLogParams,
        mut results: supervisor::WatchLogResults,
    ) -> Result<(), Error> {
        let params = params.get()?;
        if Rc::strong_count(&self.0.watchers) > log_watch::MAX_WATCHERS {
            return Err(Error::overloaded("too many watch this log already".into()));
        }
        let handle = log_watch::start(
            &self.0.log,
            params.get_backlog_amount(),
            params.get_stream()?,
            self.0.watchers.clone(),
        );
        results.get().set_handle(handle);
        Ok(())
    }

    async fn get_www_file_hack(
        self: Rc<Self>,
        params: supervisor::GetWwwFileHackParams,
        mut results: supervisor::GetWwwFileHackResults,
    ) -> Result<(), Error> {
        let (path, stream) = {
            let params = params.get()?;
            (params.get_path()?.to_string()?, params.get_stream()?)
        };
        let found = www::find(&self.0.dir, &path)
            .map_err(|e| Error::failed(format!("cannot look up a published file: {e}")))?;
        let status = match found {
            Found::Directory => WwwFileStatus::Directory,
            Found::Nothing => WwwFileStatus::NotFound,
            Found::File(file, size) => {
                send_file(file, size, stream).await?;
                WwwFileStatus::File
            }
        };
        results.get().set_status(status);
        Ok(())
    }
}

/// Writes a file into a stream, as long as it was when it was opened.
async fn send_file(
    mut file: std::fs::File,
    size: u64,
    stream: sandstorm_schema::util_capnp::byte_stream::Client,
) -> Result<(), Error> {
    let mut writer = BodyWriter::new(stream);
    writer.expect_size(size).await?;
    let mut left = size;
    while left > 0 {
        let mut chunk = vec![0; usize::try_from(left).unwrap_or(usize::MAX).min(64 << 10)];
        let n = std::io::Read::read(&mut file, &mut chunk)
            .map_err(|e| Error::failed(format!("cannot read a published file: {e}")))?;
        if n == 0 {
            return Err(Error::failed("a published file became shorter while it was read".into()));
        }
        chunk.truncate(n);
        left -= n as u64;
        writer.write(Bytes::from(chunk)).await?;
    }
    writer.done().await
}
