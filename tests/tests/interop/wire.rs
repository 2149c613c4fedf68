//! The independent client of `tests/python` against a view built with our generated code: what our
//! schema says must be what the tables say, both ways, on a real socket.
//!
//! The same client speaks to real grains in the suites that start the whole system.

use std::cell::Cell;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use capnp::Error;
use capnp::capability::{Client, Rc};
use capnp::traits::HasTypeId;
use capnp_rpc::rpc_twoparty_capnp::Side;
use futures::FutureExt;
use sandstorm_schema::grain_capnp::{ui_session, ui_view};
use sandstorm_schema::rpc::connect::{Trust, Vat};
use sandstorm_schema::supervisor_capnp::supervisor;
use sandstorm_schema::util_capnp::handle;
use sandstorm_schema::web_session_capnp::web_session;
use serde_json::{Value, json};

use super::client::ask;

/// Marks a view as a grain's.
struct Grain {
    kept_alive: Cell<bool>,
}

impl supervisor::Server for Grain {
    async fn keep_alive(
        self: Rc<Self>,
        params: supervisor::KeepAliveParams,
        _: supervisor::KeepAliveResults,
    ) -> Result<(), Error> {
        assert!(!params.get()?.has_core(), "the client gives no core");
        self.kept_alive.set(true);
        Ok(())
    }

    async fn get_main_view(
        self: Rc<Self>,
        _: supervisor::GetMainViewParams,
        mut results: supervisor::GetMainViewResults,
    ) -> Result<(), Error> {
        assert!(self.kept_alive.get());
        results.get().set_view(capnp_rpc::new_client(View));
        Ok(())
    }
}

struct View;

impl ui_view::Server for View {
    async fn new_session(
        self: Rc<Self>,
        params: ui_view::NewSessionParams,
        mut results: ui_view::NewSessionResults,
    ) -> Result<(), Error> {
        let params = params.get()?;
        if params.get_session_type() != web_session::Client::TYPE_ID {
            return Err(Error::failed("not a WebSession".into()));
        }
        let of: web_session::params::Reader<'_> = params.get_session_params().get_as()?;
        let user = params.get_user_info()?;
        let visitor = format!(
            "{} {:?} {} {} {}",
            user.get_display_name()?.get_default_text()?.to_str()?,
            user.get_permissions()?.iter().collect::<Vec<bool>>(),
            user.get_identity_id()?.len(),
            params.get_tab_id()?.len(),
            of.get_base_path()?.to_str()?,
        );
        let session: web_session::Client = capnp_rpc::new_client(Session { visitor });
        let session: Client = session.client;
        results.get().set_session(ui_session::Client { client: session });
        Ok(())
    }
}

struct Session {
    visitor: String,
}

impl ui_session::Server for Session {}

/// Nothing to stop: the body is sent before the answer.
struct Sent;

impl handle::Server for Sent {
    async fn ping(
        self: Rc<Self>,
        _: handle::PingParams,
        _: handle::PingResults,
    ) -> Result<(), Error> {
        Ok(())
    }
}

fn bytes(response: web_session::response::Builder<'_>, mime_type: &str, body: &[u8]) {
    let mut content = response.init_content();
    content.set_mime_type(mime_type);
    content.get_body().set_bytes(body);
}

impl web_session::Server for Session {
    async fn get(
        self: Rc<Self>,
        params: web_session::GetParams,
        mut results: web_session::GetResults,
    ) -> Result<(), Error> {
        let params = params.get()?;
        let context = params.get_context()?;
        let mut response = results.get();
        match params.get_path()?.to_str()? {
            "who?x=%2F" => bytes(response, "text/plain", self.visitor.as_bytes()),
            "cookies" => {
                let mut text = String::new();
                for cookie in context.get_cookies()? {
                    let (key, value) = (cookie.get_key()?.to_str()?, cookie.get_value()?.to_str()?);
                    text += &format!("{key}={value};");
                }
                for header in context.get_additional_headers()? {
                    text += &format!(
                        "{}:{};",
                        header.get_name()?.to_str()?,
                        header.get_value()?.to_str()?
                    );
                }
                let mut cookies = response.reborrow().init_set_cookies(2);
                let mut first = cookies.reborrow().get(0);
                first.set_name("a");
                first.set_value("1");
                first.set_path("/x");
                first.set_http_only(true);
                first.init_expires().set_relative(60);
                cookies.get(1).set_name("b");
                let mut header = response.reborrow().init_additional_headers(1).get(0);
                header.set_name("x-sandstorm-app-color");
                header.set_value("red");
                bytes(response, "text/plain", text.as_bytes());
            }
            "tagged" => {
                use web_session::context::e_tag_precondition as precondition;
                let precondition::MatchesNoneOf(tags) = context.get_e_tag_precondition().which()?
                else {
                    return Err(Error::failed("no If-None-Match".into()));
                };
                let tags = tags?;
                assert_eq!(tags.len(), 2);
                let mut matching = response.init_precondition_failed().init_matching_e_tag();
                matching.set_value(tags.get(1).get_value()?);
            }
            "stream" => {
                let stream = context.get_response_stream()?;
                let mut size = stream.expect_size_request();
                size.get().set_size(3 * 70_000);
                size.send().promise.await?;
                for letter in [b'x', b'y', b'z'] {
                    let mut write = stream.write_request();
                    write.get().set_data(&vec![letter; 70_000]);
                    write.send().await?;
                }
                stream.done_request().send().promise.await?;
                let mut content = response.init_content();
                content.set_status_code(web_session::response::SuccessCode::PartialContent);
                content.reborrow().get_body().set_stream(capnp_rpc::new_client(Sent));
                content.get_disposition().set_download("r.txt");
            }
            "moved" => {
                let mut redirect = response.init_redirect();
                redirect.set_location("/elsewhere");
                redirect.set_is_permanent(true);
            }
            "wrong" => {
                let mut error = response.init_client_error();
                error.set_status_code(web_session::response::ClientErrorCode::UnprocessableEntity);
                let mut body = error.init_non_html_body();
                body.set_mime_type("application/json");
                body.set_data(b"{\"e\":1}");
            }
            "broken" => response.init_server_error().set_description_html("<p>broken"),
            "empty" => response.init_no_content().set_should_reset_form(true),
            other => return Err(Error::failed(format!("no such page: {other}"))),
        }
        Ok(())
    }

    async fn post(
        self: Rc<Self>,
        params: web_session::PostParams,
        mut results: web_session::PostResults,
    ) -> Result<(), Error> {
        let content = params.get()?.get_content()?;
        let mime_type = content.get_mime_type()?.to_str()?;
        bytes(results.get(), mime_type, content.get_content()?);
        Ok(())
    }

    async fn options(
        self: Rc<Self>,
        _: web_session::OptionsParams,
        mut results: web_session::OptionsResults,
    ) -> Result<(), Error> {
        let mut options = results.get();
        options.set_dav_class2(true);
        options.init_dav_extensions(1).set(0, "calendar-access");
        Ok(())
    }
}

/// Serves one connection after the other on a socket in a fresh directory while `client` runs.
async fn with_grain<T>(client: impl AsyncFnOnce(&Path) -> Result<T>) -> Result<T> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("socket");
    let listener = tokio::net::UnixListener::bind(&socket)?;
    let serve = async {
        loop {
            let (stream, _) = listener.accept().await?;
            let grain: supervisor::Client =
                capnp_rpc::new_client(Grain { kept_alive: Cell::new(false) });
            let vat = Vat::spawn(stream, Side::Server, Some(grain.client), Trust::Peer);
            tokio::task::spawn_local(async move { vat.closed().await });
        }
    };
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            futures::select! {
                ended = serve.boxed_local().fuse() => { let ended: Result<T> = ended; ended }
                result = client(&socket).boxed_local().fuse() => result,
            }
        })
        .await
}

/// Each request, and what must be part of the client's answer.
fn requests() -> Vec<(Vec<&'static str>, Value)> {
    vec![
        (
            vec!["who?x=%2F", "--permissions", "101"],
            json!({
                "kind": "content", "status": 200, "mimeType": "text/plain",
                "text": "Ada Lovelace [true, false, true] 32 16 http://ui-test.localhost:3000",
            }),
        ),
        (
            vec!["cookies", "--cookie", "s=1", "--cookie", "t=", "--header", "x-csrf-token=q"],
            json!({
                "text": "s=1;t=;x-csrf-token:q;",
                "headers": [["x-sandstorm-app-color", "red"]],
                "cookies": [
                    {"name": "a", "value": "1", "path": "/x", "httpOnly": true,
                     "expires": "relative"},
                    {"name": "b", "value": "", "path": "", "httpOnly": false, "expires": "none"},
                ],
            }),
        ),
        (
            vec!["tagged", "--if-none-match", "one", "--if-none-match", "two"],
            json!({"kind": "preconditionFailed", "eTag": {"value": "two"}}),
        ),
        (
            vec!["stream"],
            json!({
                "status": 206, "streamed": true, "expectedSize": 210_000, "download": "r.txt",
                "text": (["x", "y", "z"].map(|letter| letter.repeat(70_000)).concat()),
            }),
        ),
        (vec!["moved"], json!({"kind": "redirect", "status": 308, "location": "/elsewhere"})),
        (
            vec!["wrong"],
            json!({"status": 422, "mimeType": "application/json", "text": "{\"e\":1}"}),
        ),
        (vec!["broken"], json!({"kind": "serverError", "status": 500, "text": "<p>broken"})),
        (vec!["empty"], json!({"kind": "noContent", "status": 205})),
        (
            vec!["x", "--method", "post", "--body", "été", "--mime", "text/x"],
            json!({"status": 200, "mimeType": "text/x", "text": "été"}),
        ),
        (
            vec!["x", "--method", "options"],
            json!({"davClass1": false, "davClass2": true, "davExtensions": ["calendar-access"]}),
        ),
    ]
}

#[tokio::test]
async fn an_independent_client_and_our_schema_agree() -> Result<()> {
    with_grain(async |socket| {
        for (args, expected) in requests() {
            let answer = ask(socket, &args).await?;
            for (key, value) in expected.as_object().context("an object")? {
                ensure!(&answer[key] == value, "{args:?} {key}: {} for {value}", answer[key]);
            }
        }
        Ok(())
    })
    .await
}

/// Errors cross with their kind: what is not there is `unimplemented`, what failed is `failed`.
#[tokio::test]
async fn errors_cross_with_their_kind() -> Result<()> {
    with_grain(async |socket| {
        let answer = ask(socket, &["nothing"]).await?;
        let text = answer["error"].as_str().context("no error")?;
        ensure!(text.contains("no such page: nothing") && answer["type"] == "FAILED", "{answer}");
        let answer = ask(socket, &["x", "--method", "delete"]).await?;
        ensure!(answer["type"] == "UNIMPLEMENTED", "{answer}");
        Ok(())
    })
    .await
}
