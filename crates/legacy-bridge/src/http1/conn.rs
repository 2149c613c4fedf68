//! One TCP connection to the app.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::{BufMut, BytesMut};
use tokio::net::TcpStream;

use super::head::{Head, HeadScanner, parse_head};
use crate::error::{Error, Result};

/// Bytes asked for in one read while a head is awaited.
const HEAD_READ: usize = 8 * 1024;
/// Bytes asked for in one read of a body: the chunk size of the RPC streams.
pub(super) const BODY_READ: usize = 64 * 1024;
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
}

impl Conn {
    /// Connects, without Nagle's delay.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn connect(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Conn { stream: Rc::new(stream), buf: BytesMut::new(), reused: false })
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
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
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
                other => return other,
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
