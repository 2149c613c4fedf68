//! `RequestStream`: a request whose body comes in pieces.
//!
//! A task of its own owns the way to the app; the exported object hands it commands through a
//! short queue, so that a slow app slows the writer. Length first means `Content-Length`, bytes
//! first means chunks. But many small servers do not know chunks and would see an empty body; so
//! bytes that end soon are held back a moment and sent with their length.

use std::cell::{Cell, RefCell};
use std::io::IoSlice;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use capnp::Error as RpcError;
use sandstorm_schema::util_capnp::byte_stream;
use sandstorm_schema::web_session_capnp::web_session::{request_stream, response};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::pump::respond;
use super::session::or_bad_gateway;
use crate::error::{Error, Result};
use crate::http1::{AbortOnDrop, Asked, BodyLength, Conn, RequestHead, Upstream, write_all};
use crate::log_paced;

/// Commands that wait for the app. Each carries at most one RPC message's data.
const QUEUE: usize = 4;
/// A body of unknown length is held back up to this size…
const HOLD_BYTES: usize = 1024 * 1024;
/// …and this long, so that it can be sent with its length.
const HOLD_TIME: Duration = Duration::from_millis(150);

enum Command {
    /// All that is still to come.
    Size(u64),
    Data(Bytes),
    Done,
}

/// The exported stream.
pub struct UploadImpl {
    upstream: Rc<Upstream>,
    commands: mpsc::Sender<Command>,
    /// Taken by the one `getResponse`.
    answer: RefCell<Option<Answer>>,
    asked: Asked,
    /// Bytes that `expectSize` announced and that did not come yet.
    announced: Cell<Option<u64>>,
    done: Cell<bool>,
    /// The way to the app, once there is one.
    way: Way,
    /// Goes on as long as this object or somebody who waits for the answer is there.
    task: RefCell<Option<Rc<AbortOnDrop>>>,
    /// The body has not the length that was announced.
    broken: watch::Sender<bool>,
}

type Way = Rc<RefCell<Option<Rc<TcpStream>>>>;

/// The last reference is gone. A call of `getResponse` that still waits holds none, so a caller who
/// gives up half-way only has to let go of the stream: the app must not wait for more, nor take
/// what it got for the whole.
impl Drop for UploadImpl {
    fn drop(&mut self) {
        if !self.done.get()
            && let Some(stream) = &*self.way.borrow()
        {
            end(stream);
        }
    }
}

/// Nothing more will be written.
fn end(stream: &TcpStream) {
    let fd = std::os::fd::AsRawFd::as_raw_fd(stream);
    let _ = nix::sys::socket::shutdown(fd, nix::sys::socket::Shutdown::Write);
}

struct Answer {
    task: Rc<AbortOnDrop>,
    conn: oneshot::Receiver<Result<Conn>>,
    stream: Option<byte_stream::Client>,
}

impl UploadImpl {
    /// Nothing is sent before the first `write`, `expectSize` or `done`.
    pub fn new(
        upstream: Rc<Upstream>,
        head: RequestHead,
        stream: Option<byte_stream::Client>,
    ) -> Self {
        let (commands, receiver) = mpsc::channel(QUEUE);
        let (sender, conn) = oneshot::channel();
        let asked = head.asked();
        let way = Way::default();
        let work = run(Rc::clone(&upstream), head, receiver, sender, Rc::clone(&way));
        let task = Rc::new(AbortOnDrop(tokio::task::spawn_local(work)));
        UploadImpl {
            upstream,
            commands,
            answer: RefCell::new(Some(Answer { task: Rc::clone(&task), conn, stream })),
            asked,
            announced: Cell::new(None),
            done: Cell::new(false),
            way,
            task: RefCell::new(Some(task)),
            broken: watch::Sender::new(false),
        }
    }

    fn check_open(&self) -> Result<(), RpcError> {
        if *self.broken.borrow() {
            return Err(wrong_length());
        }
        if self.done.get() {
            return Err(RpcError::failed("the request's body is already done".into()));
        }
        Ok(())
    }

    /// Ends the whole request, whose body can be completed no more; the app's connection too.
    fn give_up(&self) -> RpcError {
        self.done.set(true);
        self.broken.send_replace(true);
        self.answer.borrow_mut().take();
        self.task.borrow_mut().take();
        self.way.borrow_mut().take();
        wrong_length()
    }

    async fn command(&self, command: Command) {
        // The task has ended when the app hung up: its answer, or the lack of one, tells why, and
        // the writer may go on in peace.
        let _ = self.commands.send(command).await;
    }
}

fn wrong_length() -> RpcError {
    RpcError::failed("the request's body is not as long as announced".into())
}

impl byte_stream::Server for UploadImpl {
    async fn write(self: Rc<Self>, params: byte_stream::WriteParams) -> Result<(), RpcError> {
        self.check_open()?;
        let data = Bytes::copy_from_slice(params.get()?.get_data()?);
        drop(params);
        if let Some(left) = self.announced.get() {
            let left = left.checked_sub(data.len() as u64).ok_or_else(|| self.give_up())?;
            self.announced.set(Some(left));
        }
        if !data.is_empty() {
            self.command(Command::Data(data)).await;
        }
        Ok(())
    }

    async fn done(
        self: Rc<Self>,
        _: byte_stream::DoneParams,
        _: byte_stream::DoneResults,
    ) -> Result<(), RpcError> {
        self.check_open()?;
        if self.announced.get().is_some_and(|left| left > 0) {
            return Err(self.give_up());
        }
        self.done.set(true);
        self.command(Command::Done).await;
        Ok(())
    }

    async fn expect_size(
        self: Rc<Self>,
        params: byte_stream::ExpectSizeParams,
        _: byte_stream::ExpectSizeResults,
    ) -> Result<(), RpcError> {
        self.check_open()?;
        let size = params.get()?.get_size();
        drop(params);
        if self.announced.get().is_some() {
            return Err(RpcError::failed("the size was already announced".into()));
        }
        self.announced.set(Some(size));
        self.command(Command::Size(size)).await;
        Ok(())
    }
}

impl request_stream::Server for UploadImpl {
    async fn get_response(
        self: Rc<Self>,
        _: request_stream::GetResponseParams,
        mut results: request_stream::GetResponseResults,
    ) -> Result<(), RpcError> {
        let answer = self.answer.borrow_mut().take().ok_or_else(|| {
            RpcError::failed("getResponse was already called on this request".into())
        })?;
        let (upstream, asked) = (Rc::clone(&self.upstream), self.asked);
        let mut broken = self.broken.subscribe();
        drop(self);
        let mut response = results.get();
        let outcome = tokio::select! {
            biased;
            // Nobody else can end this: the app waits for a body that will never be whole.
            Ok(_) = broken.wait_for(|broken| *broken) => return Err(wrong_length()),
            outcome = answer.receive(&upstream, asked, response.reborrow()) => outcome,
        };
        or_bad_gateway(outcome, response)
    }
}

impl Answer {
    async fn receive(
        self,
        upstream: &Rc<Upstream>,
        asked: Asked,
        response: response::Builder<'_>,
    ) -> Result<()> {
        // Without a connection the stream was dropped before anything was sent.
        let mut conn = self.conn.await.unwrap_or(Err(Error::NoAnswer))?;
        let head = upstream.read_head(&mut conn, asked.head).await?;
        let incoming = upstream.incoming(conn, &head, false, Some(self.task));
        respond(head, incoming, asked, self.stream, response).await
    }
}

/// The way to the app, from the first command to the last.
async fn run(
    upstream: Rc<Upstream>,
    head: RequestHead,
    mut commands: mpsc::Receiver<Command>,
    started: oneshot::Sender<Result<Conn>>,
    way: Way,
) {
    let Some(beginning) = hold_back(&mut commands).await else { return };
    let conn = match upstream.connect().await {
        Ok(conn) => conn,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    let stream = Rc::clone(&conn.stream);
    *way.borrow_mut() = Some(Rc::clone(&stream));
    let _ = started.send(Ok(conn));
    let chunked = beginning.length == BodyLength::Chunked;
    if let Err(error) = send_body(&stream, head, beginning, chunked, &mut commands).await {
        // An app may answer early and hang up; then its answer is what counts.
        log_paced!("upload", "the app stopped reading a request's body: {error}");
    }
}

/// What is known before the head can be written.
struct Beginning {
    length: BodyLength,
    bytes: BytesMut,
    complete: bool,
}

/// Waits until the framing is clear. `None`: the stream was dropped before anything was said.
async fn hold_back(commands: &mut mpsc::Receiver<Command>) -> Option<Beginning> {
    let mut bytes = BytesMut::new();
    let mut deadline: Option<Instant> = None;
    loop {
        let command = match deadline {
            None => commands.recv().await,
            Some(at) => match timeout_at(at, commands.recv()).await {
                Ok(command) => command,
                Err(_) => break,
            },
        };
        match command? {
            Command::Size(size) => {
                // Past all numbers it is no length: as if the stream had been dropped.
                let length = BodyLength::Known((bytes.len() as u64).checked_add(size)?);
                return Some(Beginning { length, bytes, complete: false });
            }
            Command::Done => {
                let length = BodyLength::Known(bytes.len() as u64);
                return Some(Beginning { length, bytes, complete: true });
            }
            Command::Data(data) => {
                bytes.extend_from_slice(&data);
                deadline.get_or_insert(Instant::now() + HOLD_TIME);
                if bytes.len() > HOLD_BYTES {
                    break;
                }
            }
        }
    }
    Some(Beginning { length: BodyLength::Chunked, bytes, complete: false })
}

async fn send_body(
    stream: &TcpStream,
    head: RequestHead,
    beginning: Beginning,
    chunked: bool,
    commands: &mut mpsc::Receiver<Command>,
) -> std::io::Result<()> {
    write_all(stream, &head.finish(beginning.length, true)).await?;
    write_piece(stream, &beginning.bytes, chunked).await?;
    let mut complete = beginning.complete;
    drop(beginning);
    while !complete {
        match commands.recv().await {
            Some(Command::Data(data)) => write_piece(stream, &data, chunked).await?,
            // Too late to matter: the framing is chosen.
            Some(Command::Size(_)) => {}
            Some(Command::Done) => complete = true,
            // Dropped half-way: see `UploadImpl::drop`, which may have come before the connection.
            None => {
                end(stream);
                return Ok(());
            }
        }
    }
    if chunked { write_all(stream, b"0\r\n\r\n").await } else { Ok(()) }
}

async fn write_piece(stream: &TcpStream, bytes: &[u8], chunked: bool) -> std::io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    if !chunked {
        return write_all(stream, bytes).await;
    }
    let size = format!("{:x}\r\n", bytes.len());
    let parts = [size.as_bytes(), bytes, b"\r\n"];
    let total = parts.iter().map(|p| p.len()).sum::<usize>();
    stream.writable().await?;
    let mut written = match stream.try_write_vectored(&parts.map(IoSlice::new)) {
        Ok(n) => n,
        Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => 0,
        Err(e) => return Err(e),
    };
    if written == total {
        return Ok(());
    }
    for part in parts {
        let skip = written.min(part.len());
        written -= skip;
        write_all(stream, &part[skip..]).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_past_all_numbers_is_none() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            for (size, begun) in [(u64::MAX - 1, true), (u64::MAX, false)] {
                let (sender, mut receiver) = mpsc::channel(QUEUE);
                let _ = sender.send(Command::Data(Bytes::from_static(b"x"))).await;
                let _ = sender.send(Command::Size(size)).await;
                assert_eq!(hold_back(&mut receiver).await.is_some(), begun, "{size}");
            }
        });
    }

    #[test]
    fn dropped_before_there_is_a_connection_it_ends_all_the_same() {
        use tokio::io::AsyncReadExt;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let addr = listener.local_addr().unwrap();
            let upstream = Upstream::new(addr);
            let head = RequestHead::new("PUT", "/").unwrap();
            let upload = UploadImpl::new(Rc::clone(&upstream), head, None);
            let _ = upload.commands.send(Command::Size(10)).await;
            let _waits = upload.answer.borrow_mut().take();
            tokio::task::yield_now().await;
            drop(upload);
            upstream.set_ready(addr, Conn::connect(addr).await.unwrap());
            let _first = listener.accept().await.unwrap();
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut all = String::new();
            let read = stream.read_to_string(&mut all);
            tokio::time::timeout(Duration::from_secs(5), read).await.expect("an end").unwrap();
            assert!(all.starts_with("PUT / ") && all.ends_with("\r\n\r\n"), "{all}");
        });
    }
}
