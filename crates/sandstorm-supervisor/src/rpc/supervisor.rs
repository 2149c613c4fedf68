//! `Supervisor`: what the shell asks of a grain. Its caller is more trusted than we are.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use capnp::Error;
use capnp::capability::{Client, FromClientHook};
use sandstorm_schema::ext_report_capnp::{grain_report, reporting_supervisor};
use sandstorm_schema::grain_capnp::{main_view, ui_view};
use sandstorm_schema::rpc::body::BodyWriter;
use sandstorm_schema::rpc::membrane::Membrane;
use sandstorm_schema::supervisor_capnp::supervisor::{self, WwwFileStatus};
use sandstorm_schema::supervisor_capnp::supervisor_object_id;
use tokio::sync::Notify;

use super::core::CoreSlot;
use super::wake_lock::WakeLocks;
use super::{border, log_watch};
use crate::grain::app::App;
use crate::grain::book::Book;
use crate::grain::image::Image;
use crate::grain::life::Life;
use crate::grain::log::Log;
use crate::grain::www::{self, Found};

/// How long the app may take over a question of ours; its own callers set their own limits.
const APP_ANSWER: Duration = Duration::from_secs(60);

/// What the object of every connection shares.
pub struct Grain {
    pub app: Rc<App>,
    /// The app's first object itself. Only its restore and drop are called from here; what comes
    /// of it passes a membrane before anybody outside sees it.
    pub app_view: main_view::Client<capnp::any_pointer::Owned>,
    /// Between the app and everybody else.
    pub border: Membrane,
    /// Further membranes, around objects that were restored by tokens.
    pub restored: RefCell<Vec<Membrane>>,
    pub core: Rc<CoreSlot>,
    pub life: Rc<Life>,
    pub log: Rc<Log>,
    pub locks: Rc<WakeLocks>,
    pub book: Rc<Book>,
    /// The grain's directory.
    pub dir: OwnedFd,
    /// The app's `/var`.
    pub data: OwnedFd,
    /// Which is of a file system of its own here.
    pub image: Option<Image>,
    /// Told when the grain is to end.
    pub shutdown: Notify,
    /// Counts log watchers.
    pub watchers: Rc<()>,
}

impl Grain {
    /// A restored object as the outside may have it, behind a membrane that knows its token.
    fn face_of_restored(&self, object: Client, token: Vec<u8>) -> Client {
        if token.is_empty() {
            return self.border.outward_face(object);
        }
        let root = object.hook.get_ptr();
        let membrane = border::around_the_app(&self.life, &self.core, Some((token, root)));
        let mut all = self.restored.borrow_mut();
        all.retain(|m| m.nodes() > 0);
        all.push(membrane.clone());
        membrane.outward_face(object)
    }

    /// Nothing crosses the border any more; calls on their way hear why.
    pub fn close_border(&self, why: &str) {
        for membrane in self.restored.borrow().iter().chain([&self.border]) {
            membrane.revoke(Error::disconnected(why.to_owned()));
        }
    }
}

/// The bootstrap object of a connection to the grain's socket.
pub struct SupervisorImpl(pub Rc<Grain>);

fn size_is_reported() -> Error {
    Error::unimplemented(
        "sizes are no longer asked for: give a SandstormCore, whose reportGrainSize is called"
            .into(),
    )
}

impl supervisor::Server for SupervisorImpl {
    async fn get_main_view(
        self: Rc<Self>,
        _: supervisor::GetMainViewParams,
        mut results: supervisor::GetMainViewResults,
    ) -> Result<(), Error> {
        self.0.app.ensure_started().await?;
        let view = self.0.border.outward_face(self.0.app_view.clone());
        results.get().set_view(view.cast_to::<ui_view::Client>());
        Ok(())
    }

    async fn obsolete_get_grain_size(
        self: Rc<Self>,
        _: supervisor::ObsoleteGetGrainSizeParams,
        _: supervisor::ObsoleteGetGrainSizeResults,
    ) -> Result<(), Error> {
        Err(size_is_reported())
    }

    async fn obsolete_get_grain_size_when_different(
        self: Rc<Self>,
        _: supervisor::ObsoleteGetGrainSizeWhenDifferentParams,
        _: supervisor::ObsoleteGetGrainSizeWhenDifferentResults,
    ) -> Result<(), Error> {
        Err(size_is_reported())
    }

    async fn keep_alive(
        self: Rc<Self>,
        params: supervisor::KeepAliveParams,
        _: supervisor::KeepAliveResults,
    ) -> Result<(), Error> {
        self.0.life.sign();
        let params = params.get()?;
        if params.has_core() && self.0.core.set(params.get_core()?) {
            self.0.locks.show_again(&self.0.core, &self.0.log);
        }
        Ok(())
    }

    async fn sync_storage(
        self: Rc<Self>,
        _: supervisor::SyncStorageParams,
        _: supervisor::SyncStorageResults,
    ) -> Result<(), Error> {
        // Blocks this process; only this grain waits for it. An image writes to the file system that its
        // file is on.
        let own = self.0.image.as_ref().map_or(Ok(()), |image| rustix::fs::syncfs(image.top()));
        own.and_then(|()| rustix::fs::syncfs(&self.0.dir))
            .map_err(|e| Error::failed(format!("syncfs: {e}")))
    }

    async fn shutdown(
        self: Rc<Self>,
        _: supervisor::ShutdownParams,
        _: supervisor::ShutdownResults,
    ) -> Result<(), Error> {
        self.0.shutdown.notify_one();
        // The answer is the disconnect.
        std::future::pending().await
    }

    async fn restore(
        self: Rc<Self>,
        params: supervisor::RestoreParams,
        mut results: supervisor::RestoreResults,
    ) -> Result<(), Error> {
        let params = params.get()?;
        match params.get_ref()?.which()? {
            supervisor_object_id::AppRef(object_id) => {
                let mut request = self.0.app_view.restore_request();
                request.get().init_object_id().set_as(object_id?)?;
                let token = params.get_parent_token()?.to_vec();
                self.0.app.ensure_started().await?;
                self.0.life.sign();
                let answer =
                    tokio::time::timeout(APP_ANSWER, request.send().promise).await.map_err(
                        |_| Error::failed("the app did not restore its object in time".into()),
                    )??;
                let object: Client = answer.get()?.get_cap().get_as_capability()?;
                let face = self.0.face_of_restored(object, token);
                results.get().init_cap().set_as_capability(face.hook);
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
        let found = www::find(&self.0.data, &path)
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

impl grain_report::Server for SupervisorImpl {
    async fn limits(
        self: Rc<Self>,
        _: grain_report::LimitsParams,
        mut results: grain_report::LimitsResults,
    ) -> Result<(), Error> {
        let rows = self.0.book.rows();
        let mut list = results.get().init_limits(rows.len() as u32);
        for (index, row) in rows.iter().enumerate() {
            let mut item = list.reborrow().get(index as u32);
            item.set_name(row.name);
            item.set_value(row.value);
            item.set_by(row.by);
            item.set_used(row.used);
            item.set_hits(row.hits);
        }
        Ok(())
    }
}

impl reporting_supervisor::Server for SupervisorImpl {}

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
