//! One TCP connection to the app.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::{BufMut, BytesMut};
use sandstorm_schema::limits::BODY_CHUNK;
use tokio::net::TcpStream;

use super::head::{Head, HeadScanner, parse_head};
use crate::error::{Error, Result};

/// Bytes asked for in one read while a head is awaited.
const HEAD_READ: usize = 8 * 1024;
/// Bytes asked for in one read of a body: what one message of a stream carries.
pub(super) const BODY_READ: usize = BODY_CHUNK;
/// Interim answers (100, 102, 103) before the real one.
const MAX_INTERIM: usize = 32;

/// A connection and what was read from it but not used yet. Dropping it closes the connection,
/// unless another holder of the stream is left.
#[derive(Debug)]
pub struct Conn {
    /// Shared, because a request's body may still be going out while the answer comes in.
    pub stream: Rc<TcpStream>,
    /// Read, not yet parsed.
    pub buf: BytesMut,
    /// It carried a request before (or was opened long before this one).
    pub reused: bool,
    /// Bytes came since the app's kernel was last made to hear that they did.
    unacknowledged: bool,
}

impl Conn {
    /// Connects, without Nagle's delay.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn connect(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Conn {
            stream: Rc::new(stream),
            buf: BytesMut::new(),
            reused: false,
            unacknowledged: false,
        })
    }

    /// Waits until the app sent something, and appends at most `want` bytes to the buffer.
    /// Returns 0 at the end of the connection.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn read_more(&mut self, want: usize) -> io::Result<usize> {
        loop {
            // Memory is taken only once there is something to read: an idle event stream holds
            // no buffer.
            self.stream.readable().await?;
            match self.try_read(want) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.acknowledge(),
                other => return other,
            }
        }
    }

    /// Tells the app's kernel at once what has arrived.
    ///
    /// An app that writes head and body with two calls and leaves Nagle's algorithm on (most do)
    /// has its second piece held back until the first is acknowledged, and our kernel would take
    /// 40 ms over that, hoping to send it along with data. So we say it whenever more is awaited;
    /// an answer that comes in one piece costs nothing.
    fn acknowledge(&mut self) {
        if std::mem::take(&mut self.unacknowledged) {
            // Without it the answer is late, not wrong.
            let _ = self.stream.set_quickack(true);
        }
    }

    /// Like [`Conn::read_more`], without waiting.
    pub fn try_read(&mut self, want: usize) -> io::Result<usize> {
        self.buf.reserve(want);
        loop {
            // Not all that the buffer has room for: a little more than a chunk would travel as
            // two messages over each hop.
            match self.stream.try_read_buf(&mut (&mut self.buf).limit(want)) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => {
                    self.unacknowledged |= matches!(other, Ok(1..));
                    return other;
                }
            }
        }
    }

    /// Reads the head of the final answer; interim answers are skipped.
    ///
    /// # Errors
    /// [`Error::NoAnswer`] or [`Error::HeadTruncated`] when the connection ends first, [`Error::Head`] when it is not HTTP.
    pub async fn read_head(&mut self, head_request: bool) -> Result<Head> {
        for _ in 0..MAX_INTERIM {
            let mut scanner = HeadScanner::default();
            let end = loop {
                if !self.buf.is_empty()
                    && let Some(end) = scanner.find_end(&self.buf)?
                {
                    break end;
                }
                match self.read_more(HEAD_READ).await {
                    Ok(0) => return Err(self.cut_short()),
                    Ok(_) => {}
                    Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {
                        return Err(self.cut_short());
                    }
                    Err(e) => return Err(Error::Socket(e)),
                }
            };
            let bytes = self.buf.split_to(end).freeze();
            let head = parse_head(&bytes, head_request)?;
            if head.status >= 200 || head.status == 101 {
                return Ok(head);
            }
        }
        Err(Error::Unusable("it sends interim answers without end".into()))
    }

    fn cut_short(&self) -> Error {
        if self.buf.is_empty() { Error::NoAnswer } else { Error::HeadTruncated }
    }

    /// False when the app closed an idle connection, or sent something that nobody asked for.
    pub fn still_idle(&mut self) -> bool {
        self.buf.is_empty()
            && matches!(self.try_read(16), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }
}

/// Writes all bytes, waiting while the app does not read.
///
/// # Errors
/// What the kernel says.
pub async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::time::{Duration, Instant};

    use crate::http1::{RequestHead, Upstream};

    /// Answers in two pieces over sockets that are as the kernel makes them: Nagle on.
    fn app(listener: &TcpListener) {
        for stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            std::thread::spawn(move || {
                let mut line = String::new();
                while reader.read_line(&mut line).is_ok_and(|n| n > 0) {
                    if line == "\r\n" {
                        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
                        (&stream).write_all(head).unwrap();
                        (&stream).write_all(b"hello").unwrap();
                    }
                    line.clear();
                }
            });
        }
    }

    #[test]
    fn an_app_that_writes_in_two_pieces_is_not_kept_waiting() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        std::thread::spawn(move || app(&listener));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default())
            .unwrap();
        // The kernel delays acknowledgements by 40 ms, but not a connection's first ones. A busy
        // machine may make some answers late; a delay would make nearly all.
        let late = runtime.block_on(async {
            let upstream = Upstream::new(addr);
            upstream.set_ready(addr, super::Conn::connect(addr).await.unwrap());
            let mut late = 0;
            for _ in 0..100 {
                let begin = Instant::now();
                let request = RequestHead::new("GET", "/").unwrap();
                let (_, mut body) = upstream.exchange(request, None).await.unwrap();
                assert_eq!(body.next().await.unwrap().unwrap(), "hello");
                late += usize::from(begin.elapsed() >= Duration::from_millis(35));
            }
            late
        });
        assert!(late < 50, "{late} of 100 answers waited for an acknowledgement");
    }
}
