//! One person's session: the page, the store, and the paths that the tests use.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::os::fd::{FromRawFd, OwnedFd};
use std::rc::Rc;

use capnp::Error;
use sandstorm_schema::identity_capnp::identity;
use sandstorm_schema::util_capnp::{byte_stream, handle};
use sandstorm_schema::web_session_capnp::web_session::{self, request_stream, response};

use crate::store::Store;
use crate::view::ApiSlot;

pub struct Session {
    pub name: String,
    /// Hex digits; empty when nobody is signed in.
    pub identity: String,
    /// The person as an object, which the system can name.
    pub person: Option<identity::Client>,
    pub permissions: Vec<bool>,
    pub store: Rc<Store>,
    pub api: Rc<ApiSlot>,
}

thread_local! {
    /// What keeps the grain awake: held by the app, not by a session.
    static AWAKE: RefCell<Vec<handle::Client>> = const { RefCell::new(Vec::new()) };
    /// Bytes that sockets took.
    static HEARD: Cell<usize> = const { Cell::new(0) };
    static HELD: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

impl sandstorm_schema::grain_capnp::ui_session::Server for Session {}

impl web_session::Server for Session {
    async fn get(
        self: Rc<Self>,
        params: web_session::GetParams,
        results: web_session::GetResults,
    ) -> Result<(), Error> {
        let path = params.get()?.get_path()?.to_string()?;
        drop(params);
        let (name, query) = path.split_once('?').unwrap_or((&path, ""));
        let number =
            |default: u64| query.split('=').nth(1).and_then(|v| v.parse().ok()).unwrap_or(default);
        match name.trim_start_matches('/') {
            "" => answer(results, "text/html; charset=utf-8", self.page().as_bytes()),
            "text" => answer(results, "text/plain", self.store.text().as_bytes()),
            "count" => answer(results, "text/plain", self.store.count().to_string().as_bytes()),
            "whoami" => answer(results, "text/plain", self.who().as_bytes()),
            "env" => {
                let text: String = std::env::vars().map(|(k, v)| format!("{k}={v}\n")).collect();
                answer(results, "text/plain", text.as_bytes())
            }
            "fds" => answer(results, "text/plain", open_fds().as_bytes()),
            "bytes" => {
                let n = usize::try_from(number(0)).unwrap_or(0).min(1 << 20);
                answer(results, "application/octet-stream", &vec![b'x'; n])
            }
            "spawn" => {
                let child =
                    std::process::Command::new("/app").arg("wait").spawn().map_err(failed)?;
                answer(results, "text/plain", child.id().to_string().as_bytes())
            }
            "spin" => {
                for _ in 0..number(1) {
                    std::process::Command::new("/app").arg("spin").spawn().map_err(failed)?;
                }
                answer(results, "text/plain", b"spinning")
            }
            "pester" => {
                // Init passes them on to us; what is ignored here is so in every child.
                // SAFETY: SIG_IGN is a valid disposition.
                unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
                for _ in 0..number(1) {
                    std::process::Command::new("/app").arg("pester").spawn().map_err(failed)?;
                }
                answer(results, "text/plain", b"pestering")
            }
            "log" => {
                flood(number(1));
                answer(results, "text/plain", b"logged")
            }
            "fill" => answer(results, "text/plain", fill(number(1)).await.as_bytes()),
            "unfill" => {
                std::fs::remove_file("/var/fill").map_err(failed)?;
                answer(results, "text/plain", b"removed")
            }
            "names" => answer(results, "text/plain", names(number(1)).as_bytes()),
            "unnames" => {
                std::fs::remove_dir_all("/var/names").map_err(failed)?;
                answer(results, "text/plain", b"removed")
            }
            "publish" => {
                std::fs::create_dir_all("/var/www").map_err(failed)?;
                std::fs::write("/var/www/index.html", "published").map_err(failed)?;
                answer(results, "text/plain", b"published")
            }
            "hold" => {
                // Touch every page, or nothing is taken.
                let n = usize::try_from(number(1) << 20).unwrap_or(0);
                HELD.with_borrow_mut(|held| held.push(vec![1; n]));
                answer(results, "text/plain", b"held")
            }
            "awake" => {
                let mut request = self.api.get()?.stay_awake_request();
                request.get().init_display_info().init_caption().set_default_text("working");
                let response = request.send().promise.await?;
                let handle = response.get()?.get_handle()?;
                AWAKE.with_borrow_mut(|all| all.push(handle));
                answer(results, "text/plain", b"awake")
            }
            "known" => {
                let mut request = self.api.get()?.get_identity_id_request();
                let person = self.person.clone().ok_or_else(|| Error::failed("nobody".into()))?;
                request.get().set_identity(person);
                let response = request.send().promise.await?;
                let id: String =
                    response.get()?.get_id()?.iter().map(|b| format!("{b:02x}")).collect();
                answer(results, "text/plain", id.as_bytes())
            }
            "heard" => answer(results, "text/plain", HEARD.get().to_string().as_bytes()),
            "asleep" => {
                AWAKE.with_borrow_mut(Vec::clear);
                answer(results, "text/plain", b"asleep")
            }
            "save" => {
                let mut request = self.api.get()?.save_request();
                request.get().init_cap().set_as_capability(crate::view::thing(query.into()).hook);
                request.get().init_label().set_default_text("a thing");
                let response = request.send().promise.await?;
                answer(results, "text/plain", response.get()?.get_token()?)
            }
            "exit" => std::process::exit(i32::try_from(number(0)).unwrap_or(0)),
            "abort" => std::process::abort(),
            // It lives on, and nobody hears it.
            "close-door" => {
                // SAFETY: nothing of ours is numbered so but the socket, which is of no use from here on.
                drop(unsafe { OwnedFd::from_raw_fd(3) });
                not_found(results)
            }
            "fail" => Err(Error::failed("Traceback: line 35 of /app/secret.py".into())),
            "hang" => futures::future::pending().await,
            _ => not_found(results),
        }
    }

    async fn post(
        self: Rc<Self>,
        params: web_session::PostParams,
        results: web_session::PostResults,
    ) -> Result<(), Error> {
        let params_reader = params.get()?;
        let content = params_reader.get_content()?;
        let form =
            content.get_mime_type()?.to_str()?.starts_with("application/x-www-form-urlencoded");
        let body = content.get_content()?.to_vec();
        self.save(&body, form, results)
    }

    async fn propfind(
        self: Rc<Self>,
        params: web_session::PropfindParams,
        results: web_session::PropfindResults,
    ) -> Result<(), Error> {
        let xml = params.get()?.get_xml_content()?.to_string()?;
        answer(results, "application/xml", format!("got {xml}").as_bytes())
    }

    async fn put(
        self: Rc<Self>,
        params: web_session::PutParams,
        results: web_session::PutResults,
    ) -> Result<(), Error> {
        let body = params.get()?.get_content()?.get_content()?.to_vec();
        self.save(&body, false, results)
    }

    async fn put_streaming(
        self: Rc<Self>,
        params: web_session::PutStreamingParams,
        mut results: web_session::PutStreamingResults,
    ) -> Result<(), Error> {
        // As an app that knows only whole bodies.
        match params.get()?.get_path()?.to_str()? {
            "whole" => return Err(Error::unimplemented("bodies come whole here".into())),
            "deaf" => {
                results.get().set_stream(capnp_rpc::new_client(Deaf));
                return Ok(());
            }
            _ => {}
        }
        results.get().set_stream(self.upload(false));
        Ok(())
    }

    async fn post_streaming(
        self: Rc<Self>,
        params: web_session::PostStreamingParams,
        mut results: web_session::PostStreamingResults,
    ) -> Result<(), Error> {
        let form = params
            .get()?
            .get_mime_type()?
            .to_str()?
            .starts_with("application/x-www-form-urlencoded");
        results.get().set_stream(self.upload(form));
        Ok(())
    }

    async fn open_web_socket(
        self: Rc<Self>,
        params: web_session::OpenWebSocketParams,
        mut results: web_session::OpenWebSocketResults,
    ) -> Result<(), Error> {
        let params = params.get()?;
        let pause = match params.get_path()?.to_str()? {
            "slow" => Some(std::time::Duration::from_millis(500)),
            _ => None,
        };
        let browser = params.get_client_stream()?;
        results.get().set_server_stream(capnp_rpc::new_client(Socket { pause, _browser: browser }));
        Ok(())
    }
}

/// A body of which nothing is ever taken.
struct Deaf;

impl byte_stream::Server for Deaf {
    async fn write(self: Rc<Self>, _: byte_stream::WriteParams) -> Result<(), Error> {
        futures::future::pending().await
    }
}

impl request_stream::Server for Deaf {
    async fn get_response(
        self: Rc<Self>,
        _: request_stream::GetResponseParams,
        _: request_stream::GetResponseResults,
    ) -> Result<(), Error> {
        futures::future::pending().await
    }
}

/// A WebSocket that counts the bytes of each message after a while, or never takes one.
struct Socket {
    pause: Option<std::time::Duration>,
    _browser: web_session::web_socket_stream::Client,
}

impl web_session::web_socket_stream::Server for Socket {
    async fn send_bytes(
        self: Rc<Self>,
        params: web_session::web_socket_stream::SendBytesParams,
    ) -> Result<(), Error> {
        let Some(pause) = self.pause else { return futures::future::pending().await };
        let bytes = params.get()?.get_message()?.len();
        tokio::time::sleep(pause).await;
        HEARD.set(HEARD.get() + bytes);
        Ok(())
    }
}

impl Session {
    fn who(&self) -> String {
        if self.identity.is_empty() {
            "nobody".to_owned()
        } else {
            format!("{} ({})", self.name, self.identity)
        }
    }

    fn page(&self) -> String {
        let mut page = String::from("<!doctype html><html lang=\"en\"><title>Native</title>");
        let _ = write!(
            page,
            "<h1>Native</h1><p>You are <b id=\"who\">{}</b>, with permissions {:?}.</p>\
             <p>Stored <b id=\"count\">{}</b> times.</p><pre id=\"text\">{}</pre>\
             <form method=\"post\"><label>Text <input name=\"text\"></label><button>Store</button></form>",
            escaped(&self.who()),
            self.permissions,
            self.store.count(),
            escaped(&self.store.text()),
        );
        page
    }

    fn save(
        &self,
        body: &[u8],
        form: bool,
        mut results: capnp::capability::Results<response::Owned>,
    ) -> Result<(), Error> {
        let text = if form { form_value(body) } else { body.to_vec() };
        let count = self.store.save(&text).map_err(failed)?;
        if form {
            let mut redirect = results.get().init_redirect();
            redirect.set_switch_to_get(true);
            redirect.set_location("/");
            return Ok(());
        }
        answer(results, "text/plain", format!("stored {count}\n").as_bytes())
    }

    fn upload(self: Rc<Self>, form: bool) -> request_stream::Client {
        capnp_rpc::new_client(Upload {
            session: self,
            form,
            body: RefCell::default(),
            complete: tokio::sync::Notify::new(),
        })
    }
}

/// A body that arrives in pieces.
struct Upload {
    session: Rc<Session>,
    form: bool,
    body: RefCell<Vec<u8>>,
    /// Told once the body is complete: the answer may be asked for before that.
    complete: tokio::sync::Notify,
}

/// No test stores more.
const MAX_BODY: usize = 16 << 20;

impl byte_stream::Server for Upload {
    async fn write(self: Rc<Self>, params: byte_stream::WriteParams) -> Result<(), Error> {
        let reader = params.get()?;
        let mut body = self.body.borrow_mut();
        body.extend_from_slice(reader.get_data()?);
        if body.len() > MAX_BODY {
            return Err(Error::failed("body too large".into()));
        }
        Ok(())
    }

    async fn done(
        self: Rc<Self>,
        _: byte_stream::DoneParams,
        _: byte_stream::DoneResults,
    ) -> Result<(), Error> {
        self.complete.notify_one();
        Ok(())
    }

    async fn expect_size(
        self: Rc<Self>,
        _: byte_stream::ExpectSizeParams,
        _: byte_stream::ExpectSizeResults,
    ) -> Result<(), Error> {
        Ok(())
    }
}

impl request_stream::Server for Upload {
    async fn get_response(
        self: Rc<Self>,
        _: request_stream::GetResponseParams,
        results: request_stream::GetResponseResults,
    ) -> Result<(), Error> {
        self.complete.notified().await;
        let body = self.body.take();
        self.session.save(&body, self.form, results)
    }
}

fn answer(
    mut results: capnp::capability::Results<response::Owned>,
    mime: &str,
    body: &[u8],
) -> Result<(), Error> {
    let mut content = results.get().init_content();
    content.set_mime_type(mime);
    content.set_status_code(response::SuccessCode::Ok);
    content.reborrow().init_disposition().set_normal(());
    content.init_body().set_bytes(body);
    Ok(())
}

fn not_found(mut results: capnp::capability::Results<response::Owned>) -> Result<(), Error> {
    let mut error = results.get().init_client_error();
    error.set_status_code(response::ClientErrorCode::NotFound);
    error.set_description_html("<p>No such page.</p>");
    Ok(())
}

fn failed(error: std::io::Error) -> Error {
    Error::failed(error.to_string())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

/// The `text` field of a form.
fn form_value(body: &[u8]) -> Vec<u8> {
    let Some(rest) = body.split(|b| *b == b'&').find_map(|field| field.strip_prefix(b"text="))
    else {
        return Vec::new();
    };
    let mut out = Vec::new();
    let mut bytes = rest.iter();
    while let Some(b) = bytes.next() {
        match b {
            b'+' => out.push(b' '),
            b'%' => {
                let digits = [bytes.next(), bytes.next()].map(|d| d.copied().unwrap_or(b'0'));
                let text = String::from_utf8_lossy(&digits).into_owned();
                out.push(u8::from_str_radix(&text, 16).unwrap_or(b'?'));
            }
            other => out.push(*other),
        }
    }
    out
}

/// Descriptors from 0 to 255 that are open, by asking each.
fn open_fds() -> String {
    (0..256).filter(|fd| is_open(*fd)).map(|fd| format!("{fd}\n")).collect()
}

fn is_open(fd: i32) -> bool {
    // SAFETY: F_GETFD reads one flag of a number that may or may not be open.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

/// Writes up to `mib` MiB to /var/fill, about 20 a second, and tells how far it came.
async fn fill(mib: u64) -> String {
    use std::io::Write as _;
    let piece = vec![7; 1 << 20];
    let mut file = match std::fs::File::options().append(true).create(true).open("/var/fill") {
        Ok(file) => file,
        Err(error) => return format!("stopped at once: {error}"),
    };
    for n in 0..mib {
        if let Err(error) = file.write_all(&piece).and_then(|()| file.sync_data()) {
            return format!("stopped after {n}: {error}");
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    format!("wrote {mib}")
}

/// Makes up to `count` empty files below /var/names, and tells how far it came.
fn names(count: u64) -> String {
    let made = std::fs::create_dir_all("/var/names");
    for n in 0..count {
        let file = std::path::Path::new("/var/names").join(n.to_string());
        if let Err(error) = std::fs::File::create(file) {
            return format!("stopped after {n}: {error}");
        }
    }
    made.map_or_else(|error| format!("stopped after 0: {error}"), |()| format!("made {count}"))
}

/// `mib` MiB of numbered lines on stderr.
fn flood(mib: u64) {
    use std::io::Write as _;
    let mut err = std::io::stderr().lock();
    let lines = mib * (1 << 20) / 64;
    for n in 0..lines {
        if writeln!(err, "{n:063}").is_err() {
            return;
        }
    }
}
