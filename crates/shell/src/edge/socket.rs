//! What the listeners' sockets are set to; every connection that is accepted inherits it.

use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use tokio::net::TcpListener;

use super::io::STALL;

/// Bytes of an upload that wait in the kernel: 10 MB/s and more over a tenth of a second.
const RECEIVE_BUFFER: usize = 1 << 20;
/// Seconds without a byte in either direction after which a peer is asked whether it is there, and
/// from one question to the next. Ways through the network are remembered for minutes.
const ASK_AFTER: u32 = 60;
const ASK_EVERY: u32 = 15;

pub fn prepare(listener: &TcpListener) {
    limit_receive_buffer(listener);
    if let Err(e) = notice_who_vanishes(listener) {
        tracing::warn!("peers that vanish will not be noticed: {e}");
    }
}

/// A machine that loses its network says no word, and what it had open (a WebSocket, a stream of
/// events) would keep a grain awake for ever. It is given up after as long as one that takes no byte
/// of an answer: for the kernel the two are one limit (`TCP_USER_TIMEOUT` counts where a peer's
/// window is closed, too), and a video that pauses must not be cut earlier by the one than by the
/// other.
fn notice_who_vanishes(listener: &TcpListener) -> nix::Result<()> {
    let patience = u32::try_from(STALL.as_secs()).unwrap_or(u32::MAX / 1000);
    setsockopt(listener, sockopt::KeepAlive, &true)?;
    setsockopt(listener, sockopt::TcpKeepIdle, &ASK_AFTER)?;
    setsockopt(listener, sockopt::TcpKeepInterval, &ASK_EVERY)?;
    // Where the next one is set, kernels do not look at this number.
    setsockopt(listener, sockopt::TcpKeepCount, &((patience - ASK_AFTER) / ASK_EVERY))?;
    setsockopt(listener, sockopt::TcpUserTimeout, &(patience * 1000))
}

/// Bounds what the kernel holds of each connection's upload. Left alone it grows to 32 MiB and more
/// on newer kernels, for every browser that sends to a slow app.
fn limit_receive_buffer(listener: &TcpListener) {
    use sockopt::RcvBuf;
    // The kernel doubles it for its own bookkeeping, and caps it silently (net.core.rmem_max).
    // Where the cap is low its own limit is, too, and a fixed small window would make far uploads
    // slow: so it is tried on a socket of no use first.
    let Ok(trial) = tokio::net::TcpSocket::new_v4() else { return };
    let taken = setsockopt(&trial, RcvBuf, &RECEIVE_BUFFER).is_ok()
        && getsockopt(&trial, RcvBuf).is_ok_and(|size| size >= 2 * RECEIVE_BUFFER);
    if taken && let Err(e) = setsockopt(listener, RcvBuf, &RECEIVE_BUFFER) {
        tracing::debug!("receive buffer: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_accepted_notices_that_its_peer_vanished() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            // Some machines have no IPv6.
            let Ok(listener) = TcpListener::bind(address).await else { continue };
            prepare(&listener);
            let _peer = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await;
            let (stream, _) = listener.accept().await.unwrap();
            assert!(getsockopt(&stream, sockopt::KeepAlive).unwrap());
            assert_eq!(getsockopt(&stream, sockopt::TcpKeepIdle).unwrap(), 60);
            assert_eq!(getsockopt(&stream, sockopt::TcpKeepInterval).unwrap(), 15);
            assert_eq!(getsockopt(&stream, sockopt::TcpKeepCount).unwrap(), 16);
            assert_eq!(getsockopt(&stream, sockopt::TcpUserTimeout).unwrap(), 300_000);
        }
    }
}
