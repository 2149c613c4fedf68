//! A load generator: keep-alive connections that each send a request as soon as the last answer is
//! whole. In-process, so that every target is measured by the same client.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Where requests go.
#[derive(Clone, Debug)]
pub struct Target {
    pub address: SocketAddr,
    pub host: String,
    pub cookie: Option<String>,
    pub path: String,
}

impl Target {
    fn request(&self, method: &str) -> http::request::Builder {
        let mut builder =
            Request::builder().method(method).uri(&self.path).header(header::HOST, &self.host);
        if let Some(cookie) = &self.cookie {
            builder = builder.header(header::COOKIE, cookie);
        }
        builder
    }

    /// The same place with another path.
    #[must_use]
    pub fn at(&self, path: &str) -> Target {
        Target { path: path.to_owned(), ..self.clone() }
    }
}

/// What a run of small requests showed.
#[derive(Debug)]
pub struct Rate {
    pub per_second: f64,
    /// Milliseconds that 99 of 100 answers did not exceed.
    pub p99_ms: f64,
}

async fn connect<B>(target: &Target) -> Result<SendRequest<B>>
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = TcpStream::connect(target.address)
        .await
        .with_context(|| format!("nobody listens on {}", target.address))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// `connections` clients for `time`.
pub async fn rate(target: &Target, connections: usize, time: Duration) -> Result<Rate> {
    let begin = Instant::now();
    let workers: Vec<_> = (0..connections)
        .map(|_| {
            let target = target.clone();
            tokio::spawn(async move {
                let mut times = Vec::new();
                let mut sender = connect::<Full<Bytes>>(&target).await?;
                while begin.elapsed() < time {
                    if sender.ready().await.is_err() {
                        sender = connect(&target).await?;
                    }
                    let sent = Instant::now();
                    let answer =
                        sender.send_request(target.request("GET").body(Full::default())?).await?;
                    ensure!(answer.status().is_success(), "the answer was {}", answer.status());
                    answer.into_body().collect().await?;
                    times.push(sent.elapsed().as_secs_f64() * 1e3);
                }
                anyhow::Ok(times)
            })
        })
        .collect();
    let mut times = Vec::new();
    for worker in workers {
        times.extend(worker.await??);
    }
    let seconds = begin.elapsed().as_secs_f64();
    times.sort_by(f64::total_cmp);
    let p99_ms = times.get(times.len() * 99 / 100).copied().context("no answer at all")?;
    Ok(Rate { per_second: times.len() as f64 / seconds, p99_ms })
}

/// One request from connect to the answer's first byte, in seconds.
pub async fn first_byte(target: &Target) -> Result<f64> {
    let begin = Instant::now();
    let mut sender = connect::<Full<Bytes>>(target).await?;
    let answer = sender.send_request(target.request("GET").body(Full::default())?).await?;
    ensure!(answer.status().is_success(), "the answer was {}", answer.status());
    Ok(begin.elapsed().as_secs_f64())
}

/// Downloads the whole body; bytes a second.
pub async fn download(target: &Target, expected: u64) -> Result<f64> {
    let begin = Instant::now();
    let mut sender = connect::<Full<Bytes>>(target).await?;
    let answer = sender.send_request(target.request("GET").body(Full::default())?).await?;
    ensure!(answer.status().is_success(), "the answer was {}", answer.status());
    let mut body = answer.into_body();
    let mut got = 0;
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            got += data.len() as u64;
        }
    }
    ensure!(got == expected, "{got} of {expected} bytes arrived");
    Ok(got as f64 / begin.elapsed().as_secs_f64())
}

/// Uploads `size` bytes by PUT; bytes a second until the answer.
pub async fn upload(target: &Target, size: u64) -> Result<f64> {
    let begin = Instant::now();
    let chunk = Bytes::from(vec![0x5a; 256 * 1024]);
    let (mut sent, frames) = (0u64, chunk);
    let stream = futures_iter(move || {
        let left = size - sent;
        if left == 0 {
            return None;
        }
        let piece = frames.slice(..left.min(frames.len() as u64) as usize);
        sent += piece.len() as u64;
        Some(Ok::<_, std::io::Error>(Frame::data(piece)))
    });
    let mut sender = connect(target).await?;
    let request =
        target.request("PUT").header(header::CONTENT_LENGTH, size).body(StreamBody::new(stream))?;
    let answer = sender.send_request(request).await?;
    ensure!(answer.status().is_success(), "the answer was {}", answer.status());
    Ok(size as f64 / begin.elapsed().as_secs_f64())
}

fn futures_iter<T>(next: impl FnMut() -> Option<T>) -> impl futures::Stream<Item = T> {
    futures::stream::iter(std::iter::from_fn(next))
}
