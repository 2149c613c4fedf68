//! One session: every method of `WebSession`, and `HttpExt` for what that interface cannot carry.
//!
//! The object lives as long as the shell holds it. Dropping a call's future closes the app's
//! connection; that is how a browser that leaves reaches the app.

use std::rc::Rc;

use bytes::Bytes;
use capnp::Error as RpcError;
use sandstorm_schema::http_capnp::{bridge_session, http_ext};
use sandstorm_schema::util_capnp::byte_stream;
use sandstorm_schema::web_session_capnp::web_session::{self, PropfindDepth, context, response};

use super::pump::respond;
use super::upload::UploadImpl;
use super::view::Bridge;
use super::websocket;
use crate::error::{Error, Result};
use crate::http::request::SessionHeaders;
use crate::http::response::{fill_bad_gateway, fill_bad_request};
use crate::http::values::DavClasses;
use crate::http1::RequestHead;
use crate::log_paced;

/// The exported session.
#[derive(Debug)]
pub struct SessionImpl {
    bridge: Rc<Bridge>,
    headers: SessionHeaders,
}

/// A request that is ready to be sent: nothing of the call's parameters is needed any more.
struct Prepared {
    /// Or why the app is not asked: the answer says so.
    head: Result<RequestHead>,
    body: Option<Bytes>,
    stream: Option<byte_stream::Client>,
}

/// A body with its type.
struct Content<'a> {
    mime_type: &'a str,
    encoding: &'a str,
    bytes: &'a [u8],
}

impl<'a> Content<'a> {
    fn xml(text: &'a str) -> Self {
        // LOCK refreshes and PROPFIND for everything have no body, and then no type.
        let mime_type = if text.is_empty() { "" } else { "application/xml;charset=utf-8" };
        Content { mime_type, encoding: "", bytes: text.as_bytes() }
    }
}

impl Prepared {
    /// For what deserves an answer rather than an exception.
    fn refused(error: Error) -> Result<Prepared> {
        match error {
            Error::OutsideApi => Ok(Prepared { head: Err(error), body: None, stream: None }),
            other => Err(other),
        }
    }
}

impl SessionImpl {
    /// A session with these headers.
    pub fn new(bridge: Rc<Bridge>, headers: SessionHeaders) -> Self {
        SessionImpl { bridge, headers }
    }

    fn prepare(
        &self,
        method: &str,
        path: capnp::Result<capnp::text::Reader<'_>>,
        context: capnp::Result<context::Reader<'_>>,
        content: Option<Content<'_>>,
        extra: &[(&str, &str)],
    ) -> Result<Prepared> {
        let context = context?;
        let mut head = match self.headers.request(method, path?.to_str()?, context, extra, false) {
            Ok(head) => head,
            Err(error) => return Prepared::refused(error),
        };
        let mut body = None;
        if let Some(content) = content {
            add_type(&mut head, content.mime_type, content.encoding)?;
            body = Some(Bytes::copy_from_slice(content.bytes));
        }
        let stream = match context.has_response_stream() {
            true => Some(context.get_response_stream()?),
            false => None,
        };
        Ok(Prepared { head: Ok(head), body, stream })
    }

    /// Sends the request and fills the response: the app's answer, or a 502 that says why there
    /// is none.
    async fn send(
        &self,
        request: Prepared,
        mut response: response::Builder<'_>,
    ) -> Result<(), RpcError> {
        let head = match request.head {
            Ok(head) => head,
            Err(error) => {
                log_paced!("refused", "{error}; the client gets 400");
                fill_bad_request(response, &error);
                return Ok(());
            }
        };
        let asked = head.asked();
        let outcome = match self.bridge.upstream.exchange(head, request.body).await {
            Ok((head, incoming)) => {
                respond(head, incoming, asked, request.stream, response.reborrow()).await
            }
            Err(error) => Err(error),
        };
        or_bad_gateway(outcome, response)
    }

    fn open_upload(
        &self,
        method: &str,
        path: capnp::Result<capnp::text::Reader<'_>>,
        context: capnp::Result<context::Reader<'_>>,
        mime_type: &str,
        encoding: &str,
    ) -> Result<web_session::request_stream::Client> {
        let request = self.prepare(method, path, context, None, &[])?;
        // A stream has no answer of its own that could say why.
        let mut head = request.head?;
        add_type(&mut head, mime_type, encoding)?;
        let upstream = Rc::clone(&self.bridge.upstream);
        Ok(capnp_rpc::new_client(UploadImpl::new(upstream, head, request.stream)))
    }
}

/// Turns the app's fault into a 502 response, and everything else into an exception.
pub(super) fn or_bad_gateway(
    outcome: Result<()>,
    response: response::Builder<'_>,
) -> Result<(), RpcError> {
    match outcome {
        Err(error) if error.is_apps_fault() => {
            log_paced!("502", "{error}; the browser gets 502");
            fill_bad_gateway(response, &error);
            Ok(())
        }
        other => Ok(other?),
    }
}

fn add_type(head: &mut RequestHead, mime_type: &str, encoding: &str) -> Result<()> {
    if !mime_type.is_empty() {
        head.header("Content-Type", mime_type)?;
    }
    if !encoding.is_empty() {
        head.header("Content-Encoding", encoding)?;
    }
    Ok(())
}

fn post_content<'a>(content: web_session::post_content::Reader<'a>) -> Result<Content<'a>> {
    Ok(Content {
        mime_type: content.get_mime_type()?.to_str()?,
        encoding: content.get_encoding()?.to_str()?,
        bytes: content.get_content()?,
    })
}

fn overwrite(no_overwrite: bool) -> (&'static str, &'static str) {
    ("Overwrite", if no_overwrite { "F" } else { "T" })
}

fn depth(shallow: bool) -> (&'static str, &'static str) {
    ("Depth", if shallow { "0" } else { "infinity" })
}

impl sandstorm_schema::grain_capnp::ui_session::Server for SessionImpl {}
impl bridge_session::Server for SessionImpl {}

impl web_session::Server for SessionImpl {
    async fn get(
        self: Rc<Self>,
        params: web_session::GetParams,
        mut results: web_session::GetResults,
    ) -> Result<(), RpcError> {
        let p = params.get()?;
        let method = if p.get_ignore_body() { "HEAD" } else { "GET" };
        let request = self.prepare(method, p.get_path(), p.get_context(), None, &[])?;
        drop(params);
        self.send(request, results.get()).await
    }

    async fn post(
        self: Rc<Self>,
        params: web_session::PostParams,
        mut results: web_session::PostResults,
    ) -> Result<(), RpcError> {
        let p = params.get()?;
        let content = Some(post_content(p.get_content()?)?);
        let request = self.prepare("POST", p.get_path(), p.get_context(), content, &[])?;
        drop(params);
        self.send(request, results.get()).await
    }

    async fn put(
        self: Rc<Self>,
        params: web_session::PutParams,
        mut results: web_session::PutResults,
    ) -> Result<(), RpcError> {
        let p = params.get()?;
        let content = p.get_content()?;
        let content = Some(Content {
            mime_type: content.get_mime_type()?.to_str()?,
            encoding: content.get_encoding()?.to_str()?,
            bytes: content.get_content()?,
        });
        let request = self.prepare("PUT", p.get_path(), p.get_context(), content, &[])?;
        drop(params);
        self.send(request, results.get()).await
    }

    async fn patch(
        self: Rc<Self>,
        params: web_session::PatchParams,
        mut results: web_session::PatchResults,
    ) -> Result<(), RpcError> {
        let p = params.get()?;
        let content = Some(post_content(p.get_content()?)?);
        let request = self.prepare("PATCH", p.get_path(), p.get_context(), content, &[])?;
        drop(params);
        self.send(request, results.get()).await
    }

    async fn delete(
        self: Rc<Self>,
        params: web_session::DeleteParams,
        mut results: web_session::DeleteResults,
    ) -> Result<(), RpcError> {
        let p = params.get()?;
        let request = self.prepare("DELETE", p.get_path(), p.get_context(), None, &[])?;
        drop(params);
        self.send(request, results.get()).await
    }

    async fn post_streaming(
        self: Rc<Self>,
        params: web_session::PostStreamingParams,
        mut results: web_session::PostStreamingResults,
    ) -> Result<(), RpcError> {
        let p = params.get()?;
        let (mime_type, encoding) = (p.get_mime_type()?.to_str()?, p.get_encoding()?.to_str()?);
        let stream =
            self.open_upload("POST", p.get_path(), p.get_context(), mime_type, encoding)?;
        results.get().set_stream(stream);
        Ok(())
    }

    async fn put_streaming(
        self: Rc<Self>,
        params: web_session::PutStreamingParams,
        mut results: web_session::PutStreamingResults,
    ) -> Result<(), RpcError> {
        let p = params.get()?;
        let (mime_type, encoding) = (p.get_mime_type()?.to_str()?, p.get_encoding()?.to_str()?);
        let stream = self.open_upload("PUT", p.get_path(), p.get_context(), mime_type, encoding)?;
        results.get().set_stream(stream);
        Ok(())
    }

    async fn open_web_socket(
        self: Rc<Self>,
        params: web_session::OpenWebSocketParams,
        mut results: web_session::OpenWebSocketResults,
    ) -> Result<(), RpcError> {
        let p = params.get()?;
        let mut protocols = Vec::new();
        for protocol in p.get_protocol()? {
            protocols.push(protocol?.to_str()?.to_owned());
        }
        let head =
            self.headers.request("GET", p.get_path()?.to_str()?, p.get_context()?, &[], true)?;
        let client = p.get_client_stream()?;
        drop(params);
        let opened = websocket::open(&self.bridge.upstream, head, &protocols, client)
            .await
            .inspect_err(|error| log_paced!("websocket", "WebSocket not opened: {error}"))?;
        let mut out = results.get();
        let mut list = out.reborrow().init_protocol(opened.protocols.len() as u32);
        for (at, protocol) in opened.protocols.iter().enumerate() {
            list.set(at as u32, protocol);
        }
        out.set_server_stream(opened.server_stream);
        Ok(())
    }

    async fn propfind(
        self: Rc<Self>,
        params: web_session::PropfindParams,
        mut results: web_session::PropfindResults,
    ) -> Result<(), RpcError> {
        let p = params.get()?;
        let depth = match p.get_depth() {
            Ok(PropfindDepth::Zero) => "0",
            Ok(PropfindDepth::One) => "1",
            Ok(PropfindDepth::Infinity) | Err(_) => "infinity",
        };
        let xml = Content::xml(p.get_xml_content()?.to_str()?);
        let extra = [("Depth", depth)];
        let request = self.prepare("PROPFIND", p.get_path(), p.get_context(), Some(xml), &extra)?;
        drop(params);
        self.send(request, results.get()).await
    }

    async fn proppatch(
        self: Rc<Self>,
        params: web_session::ProppatchParams,
        mut results: web_session::ProppatchResults,
    ) -> Result<(), RpcError> {
        let p = params.get()?;
        let xml = Content::xml(p.get_xml_content()?.to_str()?);
        let request = self.prepare("PROPPATCH", p.get_path(), p.get_context(), Some(xml), &[])?;
        drop(params);
        self.send(request, results.get()).await
    }

    async fn acl(
        self: Rc<Self>,
        params: web_session::AclParams,
        mut results: web_session::AclResults,
    ) -> Result<(), RpcError> {
        let p = params.get()?;
        let xml = Content::xml(p.get_xml_content()?.to_str()?);
        let request = self.prepare("ACL", p.get_path(), p.get_context(), Some(xml), &[])?;
        drop(params);
        self.send(request, results.get()).await
    }

    async fn mkcol(
        self: Rc<Self>,
        params: web_session::MkcolParams,
        mut results: web_session::MkcolResults,
    ) -> Result<(), RpcError> {
        let p = params.get()?;
        let content = Some(post_content(p.get_content()?)?);
        let request = self.prepare("MKCOL", p.get_path(), p.get_context(), content, &[])?;
        drop(params);
        self.send(request, results.get()).await
    }

    async fn report(
        self: Rc<Self>,
        params: web_session::ReportParams,
        mut results: web_session::ReportResults,
    ) -> Result<(), RpcError> {
        let p = params.get()?;
        let content = Some(post_content(p.get_content()?)?);
        let request = self.prepare("REPORT", p.get_path(), p.get_context(), content, &[])?;
        drop(params);
        self.send(request, results.get()).await
    }

    async fn copy(
        self: Rc<Self>,
        params: web_session::CopyParams,
        mut results: web_session::CopyResults,
    ) -> Result<(), RpcError> {
        let p = params.get()?;
        let request = match self.headers.destination(p.get_destination()?.to_str()?) {
            Ok(to) => {
                let (overwrite, depth) = (overwrite(p.get_no_overwrite()), depth(p.get_shallow()));
                let extra = [("Destination", to.as_str()), overwrite, depth];
                self.prepare("COPY", p.get_path(), p.get_context(), None, &extra)?
            }
            Err(error) => Prepared::refused(error)?,
        };
        drop(params);
        self.send(request, results.get()).await
    }

    async fn move_(
        self: Rc<Self>,
        params: web_session::MoveParams,
        mut results: web_session::MoveResults,
    ) -> Result<(), RpcError> {
        let p = params.get()?;
        let request = match self.headers.destination(p.get_destination()?.to_str()?) {
            Ok(to) => {
                let extra = [("Destination", to.as_str()), overwrite(p.get_no_overwrite())];
                self.prepare("MOVE", p.get_path(), p.get_context(), None, &extra)?
            }
            Err(error) => Prepared::refused(error)?,
        };
        drop(params);
        self.send(request, results.get()).await
    }

    async fn lock(
        self: Rc<Self>,
        params: web_session::LockParams,
        mut results: web_session::LockResults,
    ) -> Result<(), RpcError> {
        let p = params.get()?;
        let xml = Content::xml(p.get_xml_content()?.to_str()?);
        let extra = [depth(p.get_shallow())];
        let request = self.prepare("LOCK", p.get_path(), p.get_context(), Some(xml), &extra)?;
        drop(params);
        self.send(request, results.get()).await
    }

    async fn unlock(
        self: Rc<Self>,
        params: web_session::UnlockParams,
        mut results: web_session::UnlockResults,
    ) -> Result<(), RpcError> {
        let p = params.get()?;
        let extra = [("Lock-Token", p.get_lock_token()?.to_str()?)];
        let request = self.prepare("UNLOCK", p.get_path(), p.get_context(), None, &extra)?;
        drop(params);
        self.send(request, results.get()).await
    }

    async fn options(
        self: Rc<Self>,
        params: web_session::OptionsParams,
        mut results: web_session::OptionsResults,
    ) -> Result<(), RpcError> {
        let p = params.get()?;
        let request = self.prepare("OPTIONS", p.get_path(), p.get_context(), None, &[])?;
        drop(params);
        let (head, _) = self.bridge.upstream.exchange(request.head?, None).await?;
        let mut classes = DavClasses::default();
        for value in head.all("dav") {
            classes.add(&String::from_utf8_lossy(value));
        }
        let mut out = results.get();
        out.set_dav_class1(classes.class1);
        out.set_dav_class2(classes.class2);
        out.set_dav_class3(classes.class3);
        let mut list = out.init_dav_extensions(classes.extensions.len() as u32);
        for (at, word) in classes.extensions.iter().enumerate() {
            list.set(at as u32, word);
        }
        Ok(())
    }
}

impl http_ext::Server for SessionImpl {
    async fn request(
        self: Rc<Self>,
        params: http_ext::RequestParams,
        mut results: http_ext::RequestResults,
    ) -> Result<(), RpcError> {
        let p = params.get()?;
        let method = p.get_method()?.to_str()?;
        if matches!(method, "CONNECT" | "TRACE") {
            let problem = format!("{method} is not passed on to apps");
            return Err(Error::BadRequest(problem).into());
        }
        let bytes = p.get_content()?;
        let content = Content {
            mime_type: p.get_mime_type()?.to_str()?,
            encoding: p.get_encoding()?.to_str()?,
            bytes,
        };
        let bodiless = match method {
            // A body has no meaning there (RFC 9110, 9.3.1), and many servers leave it unread.
            "GET" | "HEAD" => true,
            "DELETE" | "OPTIONS" => bytes.is_empty(),
            _ => false,
        };
        let content = if bodiless { None } else { Some(content) };
        let request = self.prepare(method, p.get_path(), p.get_context(), content, &[])?;
        drop(params);
        self.send(request, results.get()).await
    }
}
