//! An HTTP client that connects to 127.0.0.1 and sends the Host (and cookie) of a session, since
//! not every resolver knows `*.localhost`. Also curl, for tests that state a command.

use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{HeaderMap, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

/// One origin of the server, with the cookie that opens it.
#[derive(Clone, Debug)]
pub struct Client {
    /// `http://ui-….sandstorm.localhost:3000`.
    pub origin: String,
    /// The Host header's value.
    pub host: String,
    /// The Cookie header's value.
    pub cookie: Option<String>,
    port: u16,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's first value, empty when absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("")
    }

    /// All values of a header.
    pub fn all(&self, name: &str) -> Vec<String> {
        self.headers
            .get_all(name)
            .iter()
            .map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
            .collect()
    }
}

impl Client {
    /// `origin` is what browsers see; connections go to 127.0.0.1, to the origin's own port when it
    /// names one (a grain's in port mode), else to `port`.
    pub fn new(origin: &str, port: u16, cookie: Option<String>) -> Result<Client> {
        let (scheme, host) = origin.split_once("://").context("an origin has a scheme")?;
        ensure!(!host.contains('/'), "an origin has no path: {origin}");
        let own = (scheme == "http").then(|| host.rsplit_once(':')).flatten();
        let port = own.and_then(|(_, port)| port.parse().ok()).unwrap_or(port);
        Ok(Client { origin: origin.to_owned(), host: host.to_owned(), cookie, port })
    }

    /// The same place without, or with another, cookie.
    #[must_use]
    pub fn with_cookie(&self, cookie: Option<String>) -> Client {
        Client { cookie, ..self.clone() }
    }

    /// Another origin of the same server, without a cookie.
    pub fn at(&self, origin: &str) -> Result<Client> {
        Client::new(origin, self.port, None)
    }

    /// A request builder with Host and Cookie set; `path` goes out byte for byte.
    pub fn build(&self, method: &str, path: &str) -> http::request::Builder {
        let mut builder = Request::builder()
            .method(http::Method::from_bytes(method.as_bytes()).expect("a method"))
            .uri(path)
            .header(header::HOST, &self.host);
        if let Some(cookie) = &self.cookie {
            builder = builder.header(header::COOKIE, cookie);
        }
        builder
    }

    /// Sends over a new connection; the body of the answer still flows.
    pub async fn send<B>(&self, request: Request<B>) -> Result<http::Response<Incoming>>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let stream = self.connect().await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender.send_request(request).await?)
    }

    /// Sends a request with a whole body and collects the whole answer.
    pub async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Answer> {
        let mut builder = self.build(method, path);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        collect(self.send(builder.body(Full::new(body.into()))?).await?).await
    }

    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.request("GET", path, &[], "").await
    }

    /// A POST as a page of this origin sends it.
    pub async fn post(&self, path: &str, kind: &str, body: impl Into<Bytes>) -> Result<Answer> {
        let headers = [("content-type", kind), ("origin", self.origin.as_str())];
        self.request("POST", path, &headers, body).await
    }

    pub async fn put(&self, path: &str, body: impl Into<Bytes>) -> Result<Answer> {
        self.request("PUT", path, &[("origin", self.origin.as_str())], body).await
    }

    /// Opens a one-time link of the shell; the answer is the shell with the cookie of that sign-in.
    pub async fn sign_in(&self, link: &str) -> Result<Client> {
        let path = link.strip_prefix(&self.origin).context("a link of this server")?;
        let answer = self.get(path).await?;
        ensure!(answer.status == 303, "{} {}", answer.status, answer.text());
        let cookie = answer.header("set-cookie").split(';').next().context("a cookie")?;
        Ok(self.with_cookie(Some(cookie.to_owned())))
    }

    /// Sends a form of the shell's page `page` to `path`, with the page's token.
    pub async fn submit(&self, page: &str, path: &str, form: &str) -> Result<Answer> {
        let text = self.get(page).await?.text();
        let token = text
            .split("name=\"token\" value=\"")
            .nth(1)
            .and_then(|rest| rest.split('"').next())
            .context("a form's token")?;
        let headers = [
            ("content-type", "application/x-www-form-urlencoded"),
            ("origin", self.origin.as_str()),
            ("sec-fetch-site", "same-origin"),
        ];
        self.request("POST", path, &headers, format!("token={token}&{form}")).await
    }

    /// A bare connection, for bytes that no client library would send.
    pub async fn connect(&self) -> Result<TcpStream> {
        TcpStream::connect(("127.0.0.1", self.port))
            .await
            .with_context(|| format!("nobody listens on port {}", self.port))
    }

    /// Writes raw bytes, reads to the end of the stream.
    pub async fn raw(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        let mut stream = self.connect().await?;
        stream.write_all(bytes).await?;
        let mut answer = Vec::new();
        // A reset after an answer is as good as an end.
        let _ = stream.read_to_end(&mut answer).await;
        Ok(answer)
    }

    /// Opens a WebSocket with the given subprotocols offered.
    pub async fn websocket(
        &self,
        path: &str,
        protocols: &[&str],
    ) -> Result<(WebSocketStream<TcpStream>, http::Response<Option<Vec<u8>>>)> {
        let mut request = format!("ws://{}{path}", self.host).into_client_request()?;
        let headers = request.headers_mut();
        headers.insert(header::ORIGIN, self.origin.parse()?);
        if let Some(cookie) = &self.cookie {
            headers.insert(header::COOKIE, cookie.parse()?);
        }
        if !protocols.is_empty() {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocols.join(", ").parse()?);
        }
        Ok(tokio_tungstenite::client_async(request, self.connect().await?).await?)
    }

    /// A curl command for this origin: add options, end with [`Client::url`].
    pub fn curl(&self) -> Command {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--max-time", "120", "--path-as-is"]);
        command.args(["--connect-to", &format!("::127.0.0.1:{}", self.port), "--noproxy", "*"]);
        if let Some(cookie) = &self.cookie {
            command.args(["-H", &format!("Cookie: {cookie}")]);
        }
        command
    }

    /// Runs curl with these options on a path.
    pub fn run_curl(&self, path: &str, options: &[&str]) -> Result<Output> {
        self.curl().args(options).arg(self.url(path)).output().context("cannot start curl")
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.origin)
    }
}

/// Reads an answer to its end.
pub async fn collect(response: http::Response<Incoming>) -> Result<Answer> {
    let (head, body) = response.into_parts();
    Ok(Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body: body.collect().await.context("the body broke off")?.to_bytes(),
    })
}
