//! A grain's log: from its files, and live from its supervisor.

use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use sandstorm_schema::rpc::body::pipe;
use tokio::sync::mpsc;

use super::GrainState;
use super::conn::Conn;
use super::pool::Local;
use super::shared::Entry;

/// The last `bytes` of a log file; empty if there is none. The file belongs to the supervisor,
/// but lies in a directory of the grain: no link is followed, nothing but a file is read.
pub fn tail(path: &Path, bytes: u64) -> Vec<u8> {
    let open = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path);
    let Ok(mut file) = open else { return Vec::new() };
    let Ok(metadata) = file.metadata() else { return Vec::new() };
    if !metadata.is_file() {
        return Vec::new();
    }
    let from = metadata.len().saturating_sub(bytes);
    let mut out = Vec::new();
    if file.seek(SeekFrom::Start(from)).is_ok() {
        // A file that shrinks meanwhile gives less.
        let _ = file.take(bytes).read_to_end(&mut out);
    }
    out
}

/// The last `bytes` of `log`, reaching back into `log.1` where that was rotated away.
pub fn backlog(dir: &Path, bytes: u64) -> Vec<u8> {
    let new = tail(&dir.join("log"), bytes);
    let missing = bytes.saturating_sub(new.len() as u64);
    let mut out = if missing > 0 { tail(&dir.join("log.1"), missing) } else { Vec::new() };
    out.extend_from_slice(&new);
    out
}

/// Sends the last `backlog` bytes and then what comes, over sleeps and starts, until the reader
/// leaves.
pub async fn follow(local: Rc<Local>, entry: Arc<Entry>, backlog: u64, send: mpsc::Sender<Bytes>) {
    let dir = local.shared.config.home.join("grains").join(entry.grain.as_str());
    let slot = local.slot(&entry);
    let mut state = entry.watch();
    let mut wanted = backlog;
    loop {
        let followed = slot.running();
        match &followed {
            Some(conn) => {
                if live(conn, wanted, &send).await.is_err() {
                    // An old supervisor without a live log: what stands in the file must do.
                    let bytes = read(dir.clone(), wanted).await;
                    if send.send(bytes).await.is_err() {
                        return;
                    }
                }
            }
            None => {
                let bytes = read(dir.clone(), wanted).await;
                if !bytes.is_empty() && send.send(bytes).await.is_err() {
                    return;
                }
            }
        }
        // What is written between now and the next connection is told by its growth.
        let before = length(&dir);
        loop {
            // A connection that was replaced by another is no change of state.
            if let (Some(old), Some(new)) = (&followed, slot.running()) {
                if !Rc::ptr_eq(old, &new) {
                    break;
                }
            }
            tokio::select! {
                changed = state.changed() => if changed.is_err() { return },
                () = send.closed() => return,
            }
            if matches!(
                *state.borrow_and_update(),
                GrainState::Running | GrainState::Crashed { .. }
            ) {
                break;
            }
        }
        wanted = length(&dir).checked_sub(before).unwrap_or(backlog);
    }
}

/// Follows a running supervisor's log until the connection or the reader ends.
async fn live(conn: &Conn, backlog: u64, send: &mpsc::Sender<Bytes>) -> capnp::Result<()> {
    let (stream, mut receiver) = pipe();
    let mut request = conn.supervisor.watch_log_request();
    request.get().set_backlog_amount(backlog);
    request.get().set_stream(stream);
    let response = request.send().promise.await?;
    let _handle = response.get()?.get_handle()?;
    loop {
        tokio::select! {
            chunk = receiver.next() => match chunk {
                Some(Ok(chunk)) => if send.send(chunk).await.is_err() { return Ok(()) },
                _ => return Ok(()),
            },
            () = send.closed() => return Ok(()),
            () = conn.closed() => return Ok(()),
        }
    }
}

/// [`backlog`], off this thread.
pub async fn read(dir: PathBuf, bytes: u64) -> Bytes {
    let read = move || backlog(&dir, bytes);
    tokio::task::spawn_blocking(read).await.unwrap_or_default().into()
}

fn length(dir: &Path) -> u64 {
    std::fs::symlink_metadata(dir.join("log")).map_or(0, |metadata| metadata.len())
}
