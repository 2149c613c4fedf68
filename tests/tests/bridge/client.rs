//! The shell's part: sessions, requests, and answers as plain values.

use bytes::Bytes;
use sandstorm_schema::grain_capnp::{main_view, ui_view};
use sandstorm_schema::http_capnp::http_ext;
use sandstorm_schema::http_map::{RequestFacts, WireStatus, from_wire};
use sandstorm_schema::rpc::body::{BodyReceiver, pipe};
use sandstorm_schema::util_capnp::handle;
use sandstorm_schema::web_session_capnp::web_session::{self, context, response};

pub const BASE: &str = "http://ui-1.sandstorm.localhost:3000";

/// A session of the view.
#[derive(Clone)]
pub struct Session {
    pub web: web_session::Client,
}

/// A cookie that an answer sets; seconds in `absolute` and `relative`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cookie {
    pub name: String,
    pub value: String,
    pub path: String,
    pub http_only: bool,
    pub absolute: Option<i64>,
    pub relative: Option<u64>,
}

/// An answer of any kind.
pub struct Answer {
    /// As our shell would say it to a GET with a Range.
    pub status: u16,
    pub wire: WireStatus,
    pub mime: String,
    pub encoding: String,
    pub language: String,
    pub etag: Option<(String, bool)>,
    pub location: String,
    pub download: Option<String>,
    pub headers: Vec<(String, String)>,
    pub cookies: Vec<Cookie>,
    pub html: Option<String>,
    pub bytes: Option<Vec<u8>>,
    pub stream: Option<(BodyReceiver, handle::Client)>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The whole body, however it came; an error when it breaks off.
    pub async fn body(&mut self) -> Result<Vec<u8>, capnp::Error> {
        if let Some(bytes) = &self.bytes {
            return Ok(bytes.clone());
        }
        if let Some(html) = &self.html {
            return Ok(html.clone().into_bytes());
        }
        let mut out = Vec::new();
        if let Some((receiver, _)) = &mut self.stream {
            while let Some(piece) = receiver.next().await {
                out.extend_from_slice(&piece?);
            }
        }
        Ok(out)
    }

    pub async fn json(&mut self) -> serde_json::Value {
        let body = self.body().await.unwrap();
        serde_json::from_slice(&body)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&body)))
    }
}

/// Opens a session with parameters of the caller's making.
pub async fn open(
    view: &main_view::Client<capnp::any_pointer::Owned>,
    session_type: u64,
    fill: impl FnOnce(ui_view::new_session_params::Builder<'_>),
) -> Result<web_session::Client, capnp::Error> {
    let view: ui_view::Client = capnp::capability::FromClientHook::new(view.client.hook.add_ref());
    let mut call = view.new_session_request();
    call.get().set_session_type(session_type);
    fill(call.get());
    let answer = call.send().promise.await?;
    let session = answer.get()?.get_session()?;
    Ok(capnp::capability::FromClientHook::new(session.client.hook))
}

pub const WEB_SESSION: u64 = <web_session::Client as capnp::traits::HasTypeId>::TYPE_ID;

impl Session {
    /// Ada, signed in, with all permissions, English.
    pub async fn open(view: main_view::Client<capnp::any_pointer::Owned>) -> Session {
        let web = open(&view, WEB_SESSION, |mut params| {
            params.set_tab_id(&[0xab, 0xcd]);
            let mut user = params.reborrow().init_user_info();
            user.reborrow().init_display_name().set_default_text("Ada Žába");
            user.set_identity_id(&[0x11; 32]);
            user.set_preferred_handle("ada");
            user.set_picture_url("http://static/ada.png");
            user.set_pronouns(sandstorm_schema::identity_capnp::profile::Pronouns::Female);
            let mut bits = user.init_permissions(3);
            bits.set(0, true);
            bits.set(2, true);
            let mut web: web_session::params::Builder<'_> = params.init_session_params().init_as();
            web.set_base_path(BASE);
            web.set_user_agent("Probe/1");
            let mut languages = web.init_acceptable_languages(2);
            languages.set(0, "en-US");
            languages.set(1, "en;q=0.5");
        })
        .await
        .unwrap();
        Session { web }
    }

    pub fn ext(&self) -> http_ext::Client {
        capnp::capability::FromClientHook::new(self.web.client.hook.add_ref())
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.try_get(path, |_| {}).await.unwrap()
    }

    pub async fn head(&self, path: &str) -> Answer {
        let mut call = self.web.get_request();
        call.get().set_path(path);
        call.get().set_ignore_body(true);
        let receiver = with_stream(call.get().init_context());
        answer(call.send().promise.await.unwrap(), receiver).unwrap()
    }

    pub async fn try_get(
        &self,
        path: &str,
        fill: impl FnOnce(context::Builder<'_>),
    ) -> Result<Answer, capnp::Error> {
        let mut call = self.web.get_request();
        call.get().set_path(path);
        let receiver = with_stream(call.get().init_context());
        fill(call.get().get_context()?);
        answer(call.send().promise.await?, receiver)
    }

    pub async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.try_get(path, |context| add_headers(context, headers)).await.unwrap()
    }

    pub async fn post(&self, path: &str, mime: &str, body: &[u8]) -> Answer {
        let mut call = self.web.post_request();
        call.get().set_path(path);
        let mut content = call.get().init_content();
        content.set_mime_type(mime);
        content.set_content(body);
        let receiver = with_stream(call.get().init_context());
        answer(call.send().promise.await.unwrap(), receiver).unwrap()
    }

    /// Runs a probe script.
    pub async fn run(&self, script: &str) -> Answer {
        self.get(&script_path(script)).await
    }

    pub async fn request(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        self.try_request(method, path, body).await.unwrap()
    }

    pub async fn try_request(
        &self,
        method: &str,
        path: &str,
        body: &[u8],
    ) -> Result<Answer, capnp::Error> {
        let mut call = self.ext().request_request();
        call.get().set_method(method);
        call.get().set_path(path);
        call.get().set_content(body);
        let receiver = with_stream(call.get().init_context());
        answer(call.send().promise.await?, receiver)
    }
}

/// The path that runs a script.
pub fn script_path(script: &str) -> String {
    let script: Vec<&str> = script.lines().map(str::trim_start).collect();
    format!("run?s={}", escape(&script.join("\n")))
}

pub fn escape(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

pub fn add_headers(context: context::Builder<'_>, headers: &[(&str, &str)]) {
    let mut list = context.init_additional_headers(headers.len() as u32);
    for (at, (name, value)) in headers.iter().enumerate() {
        list.reborrow().get(at as u32).set_name(name);
        list.reborrow().get(at as u32).set_value(value);
    }
}

/// Puts a response stream into the context.
pub fn with_stream(mut context: context::Builder<'_>) -> BodyReceiver {
    let (stream, receiver) = pipe();
    context.set_response_stream(stream);
    receiver
}

/// Reads a response.
pub fn answer(
    response: capnp::capability::Response<response::Owned>,
    receiver: BodyReceiver,
) -> Result<Answer, capnp::Error> {
    let r = response.get()?;
    let text = |t: capnp::Result<capnp::text::Reader<'_>>| -> String {
        t.unwrap().to_str().unwrap().to_owned()
    };
    let mut headers = Vec::new();
    for header in r.get_additional_headers()? {
        headers.push((text(header.get_name()), text(header.get_value())));
    }
    let mut cookies = Vec::new();
    for cookie in r.get_set_cookies()? {
        use web_session::cookie::expires::Which;
        let (absolute, relative) = match cookie.get_expires().which()? {
            Which::None(()) => (None, None),
            Which::Absolute(time) => (Some(time), None),
            Which::Relative(time) => (None, Some(time)),
        };
        cookies.push(Cookie {
            name: text(cookie.get_name()),
            value: text(cookie.get_value()),
            path: text(cookie.get_path()),
            http_only: cookie.get_http_only(),
            absolute,
            relative,
        });
    }
    let mut out = Answer {
        status: 0,
        wire: WireStatus::ServerError,
        mime: String::new(),
        encoding: String::new(),
        language: String::new(),
        etag: None,
        location: String::new(),
        download: None,
        headers,
        cookies,
        html: None,
        bytes: None,
        stream: None,
    };
    let tag = |t: web_session::e_tag::Reader<'_>| (text(t.get_value()), t.get_weak());
    let error_body = |out: &mut Answer,
                      html: capnp::Result<capnp::text::Reader<'_>>,
                      other: Option<response::error_body::Reader<'_>>| {
        match other {
            Some(body) => {
                out.mime = text(body.get_mime_type());
                out.encoding = text(body.get_encoding());
                out.bytes = Some(body.get_data().unwrap().to_vec());
            }
            None => out.html = Some(text(html)),
        }
    };
    out.wire = match r.which()? {
        response::Which::Redirect(redirect) => {
            out.location = text(redirect.get_location());
            WireStatus::Redirect {
                is_permanent: redirect.get_is_permanent(),
                switch_to_get: redirect.get_switch_to_get(),
            }
        }
        response::Which::Content(content) => {
            out.mime = text(content.get_mime_type());
            out.encoding = text(content.get_encoding());
            out.language = text(content.get_language());
            out.etag = content.has_e_tag().then(|| tag(content.get_e_tag().unwrap()));
            use response::content::{body, disposition};
            if let disposition::Which::Download(name) = content.get_disposition().which()? {
                out.download = Some(text(name));
            }
            match content.get_body().which()? {
                body::Which::Bytes(bytes) => out.bytes = Some(bytes?.to_vec()),
                body::Which::Stream(handle) => out.stream = Some((receiver, handle?)),
            }
            WireStatus::Content(content.get_status_code()?)
        }
        response::Which::ClientError(error) => {
            let other = error.has_non_html_body().then(|| error.get_non_html_body().unwrap());
            error_body(&mut out, error.get_description_html(), other);
            WireStatus::ClientError(error.get_status_code()?)
        }
        response::Which::ServerError(error) => {
            let other = error.has_non_html_body().then(|| error.get_non_html_body().unwrap());
            error_body(&mut out, error.get_description_html(), other);
            WireStatus::ServerError
        }
        response::Which::NoContent(none) => {
            out.etag = none.has_e_tag().then(|| tag(none.get_e_tag().unwrap()));
            WireStatus::NoContent { should_reset_form: none.get_should_reset_form() }
        }
        response::Which::PreconditionFailed(failed) => {
            out.etag =
                failed.has_matching_e_tag().then(|| tag(failed.get_matching_e_tag().unwrap()));
            WireStatus::PreconditionFailed
        }
    };
    let facts = RequestFacts { range: true, if_none_match: true, ..RequestFacts::GET };
    out.status = from_wire(out.wire, out.header("x-sandstorm-exact-status"), facts);
    Ok(out)
}

/// An upload in pieces.
pub struct Upload {
    pub stream: web_session::request_stream::Client,
    pub response: tokio::task::JoinHandle<Result<Answer, capnp::Error>>,
}

impl Session {
    /// Begins a PUT; the answer is awaited from the start, as the shell does.
    pub async fn put_streaming(&self, path: &str) -> Upload {
        let mut call = self.web.put_streaming_request();
        call.get().set_path(path);
        call.get().set_mime_type("application/octet-stream");
        let receiver = with_stream(call.get().init_context());
        let answered = call.send().promise.await.unwrap();
        let stream = answered.get().unwrap().get_stream().unwrap();
        let promise = stream.get_response_request().send().promise;
        let response = tokio::task::spawn_local(async move { answer(promise.await?, receiver) });
        Upload { stream, response }
    }
}

impl Upload {
    pub fn byte_stream(&self) -> sandstorm_schema::util_capnp::byte_stream::Client {
        capnp::capability::FromClientHook::new(self.stream.client.hook.add_ref())
    }

    pub async fn write(&self, bytes: &[u8]) -> Result<(), capnp::Error> {
        let stream = self.byte_stream();
        let mut call = stream.write_request();
        call.get().set_data(bytes);
        call.send().await
    }

    pub async fn done(&self) -> Result<(), capnp::Error> {
        self.byte_stream().done_request().send().promise.await.map(|_| ())
    }

    pub async fn expect_size(&self, size: u64) -> Result<(), capnp::Error> {
        let stream = self.byte_stream();
        let mut call = stream.expect_size_request();
        call.get().set_size(size);
        call.send().promise.await.map(|_| ())
    }

    pub async fn answer(self) -> Answer {
        self.response.await.unwrap().unwrap()
    }
}

/// The first piece of a stream.
pub async fn first_piece(answer: &mut Answer) -> Bytes {
    answer.stream.as_mut().expect("a streamed body").0.next().await.unwrap().unwrap()
}
