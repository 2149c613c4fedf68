//! Server-side downloads that cannot be turned against this machine's own network.
//!
//! The address comes from a link that anybody can write, the answer from a server that anybody can
//! run. A name is resolved once, every address of it is judged, and the connection goes to one of
//! those that were judged; each redirect begins anew. No proxy settings are read.

mod addresses;
mod connect;

use std::time::Duration;

use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout, timeout_at};
use url::Url;

use crate::error::{Error, Result};

const MAX_REDIRECTS: usize = 5;
/// Progress is told this often at most.
const TELL: Duration = Duration::from_millis(250);

/// Bounds of one download.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub max_bytes: u64,
    pub total_time: Duration,
    /// Longest silence between two bytes, and for each step before the first.
    pub stall_time: Duration,
    /// Addresses of private networks.
    pub private: Private,
}

/// Whether a download may reach a private network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Private {
    /// Anybody may have written the address.
    No,
    /// Whoever gave the address could fetch it themselves. Where a server elsewhere redirects to is
    /// not their choice.
    Named,
    /// The setting ALLOW_PRIVATE_DOWNLOADS.
    Yes,
}

/// How far a download is: bytes so far, and the whole if the server told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub done: u64,
    pub total: Option<u64>,
}

/// Where a download goes.
pub trait Sink: Send {
    /// Takes the next bytes; an error ends the download. Whoever writes to a disk does so elsewhere:
    /// this is called on the runtime's own threads.
    fn take(&mut self, data: Bytes) -> impl Future<Output = std::io::Result<()>> + Send;
}

fn fail<T>(text: impl Into<String>) -> Result<T> {
    Err(Error::BadRequest(text.into()))
}

/// GETs `url` into `sink`; `progress` is called at most four times a second and at the end.
/// Returns the number of bytes.
///
/// # Errors
/// `BadRequest` with a sentence that names what was wrong with the address or the answer.
pub async fn fetch<S: Sink>(
    url: &str,
    sink: &mut S,
    limits: Limits,
    progress: impl FnMut(Progress),
) -> Result<u64> {
    let deadline = Instant::now() + limits.total_time;
    match timeout_at(deadline, fetch_all(url, sink, limits, progress)).await {
        Ok(result) => result,
        Err(_) => fail(format!("it took longer than {} minutes", limits.total_time.as_secs() / 60)),
    }
}

async fn fetch_all<S: Sink>(
    url: &str,
    sink: &mut S,
    limits: Limits,
    progress: impl FnMut(Progress),
) -> Result<u64> {
    let mut url = match Url::parse(url) {
        Ok(url) => url,
        Err(e) => return fail(format!("this is no address: {e}")),
    };
    let named = url.host().map(|host| host.to_owned());
    for _ in 0..=MAX_REDIRECTS {
        let private = match limits.private {
            Private::No => false,
            Private::Named => url.host().map(|host| host.to_owned()) == named,
            Private::Yes => true,
        };
        let answer = get(&url, limits, private).await?;
        match answer.status() {
            StatusCode::OK => return receive(answer, sink, limits, progress).await,
            StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT => {
                let location = answer.headers().get(header::LOCATION).and_then(|v| v.to_str().ok());
                let Some(location) = location else {
                    return fail("the server redirects, but does not say where");
                };
                let next = match url.join(location) {
                    Ok(next) => next,
                    Err(e) => return fail(format!("the server redirects to no address: {e}")),
                };
                if url.scheme() == "https" && next.scheme() == "http" {
                    return fail("the server redirects from https to http, which anybody can read");
                }
                url = next;
            }
            status => return fail(format!("the server answered {status}, not 200 OK")),
        }
    }
    fail(format!("the server redirects more than {MAX_REDIRECTS} times"))
}

/// One request; every step before the body has the stall time.
async fn get(url: &Url, limits: Limits, private: bool) -> Result<http::Response<Incoming>> {
    if !matches!(url.scheme(), "http" | "https") {
        return fail(format!("only http and https are fetched, not {}", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return fail("the address has a user name in it");
    }
    let slow = |what: &str| Error::BadRequest(format!("{what} took too long"));
    let stream = timeout(limits.stall_time, connect::connect(url, private))
        .await
        .map_err(|_| slow("connecting"))??;
    let say = |e: hyper::Error| Error::BadRequest(format!("the server's answer is no HTTP: {e}"));
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(256 * 1024)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(say)?;
    tokio::spawn(async move {
        // Its errors show in the answer's body.
        let _ = connection.await;
    });
    let host = &url[url::Position::BeforeHost..url::Position::AfterPort];
    let request = Request::get(&url[url::Position::BeforePath..url::Position::AfterQuery])
        .header(header::HOST, host)
        .header(header::USER_AGENT, concat!("Sandstorm/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT, "*/*")
        // The bytes as they are: they are hashed.
        .header(header::ACCEPT_ENCODING, "identity")
        .body(Empty::<Bytes>::new())
        .map_err(|e| Error::BadRequest(format!("this address cannot be asked for: {e}")))?;
    timeout(limits.stall_time, sender.send_request(request))
        .await
        .map_err(|_| slow("the server's answer"))?
        .map_err(say)
}

async fn receive<S: Sink>(
    answer: http::Response<Incoming>,
    sink: &mut S,
    limits: Limits,
    mut progress: impl FnMut(Progress),
) -> Result<u64> {
    let too_large = || {
        fail(format!("the file is larger than {} MB, which is the most", limits.max_bytes >> 20))
    };
    let encoding = answer.headers().get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|e| !e.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return fail("the server sends the file in another encoding than asked for");
    }
    let mut body = answer.into_body();
    let total = http_body::Body::size_hint(&body).exact();
    if total.is_some_and(|total| total > limits.max_bytes) {
        return too_large();
    }
    let mut done = 0;
    let mut told = Instant::now();
    loop {
        let frame = match timeout(limits.stall_time, body.frame()).await {
            Ok(frame) => frame,
            Err(_) => {
                let seconds = limits.stall_time.as_secs();
                return fail(format!("the server sent nothing for {seconds} seconds"));
            }
        };
        let data = match frame {
            None => break,
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => data,
                Err(_trailers) => continue,
            },
            Some(Err(e)) => return fail(format!("the transfer broke off after {done} bytes: {e}")),
        };
        done += data.len() as u64;
        if done > limits.max_bytes {
            return too_large();
        }
        sink.take(data).await.map_err(Error::io("writing the download"))?;
        if told.elapsed() >= TELL {
            told = Instant::now();
            progress(Progress { done, total });
        }
    }
    progress(Progress { done, total });
    Ok(done)
}

#[cfg(test)]
mod tests;
