//! Which method of `WebSession` an HTTP method is, and its call.

use std::io::Read;
use std::rc::Rc;

use bytes::Bytes;
use capnp::capability::{FromClientHook, Promise, Response};
use http::request::Parts;
use http::{Method, StatusCode};
use sandstorm_schema::rpc::body::{BodyReceiver, pipe};
use sandstorm_schema::rpc::error::is_unimplemented;
use sandstorm_schema::util_capnp::byte_stream;
use sandstorm_schema::web_session_capnp::web_session::{self, PropfindDepth, response};

use super::Ask;
use super::answer::{self, Asked, BodyKind, Budget, Converted};
use super::context::{self, text};
use super::upload::Payload;
use crate::edge::Peer;
use crate::error::{Error, Result};
use crate::grains::conn::{Conn, WebSession, from_rpc};
use crate::grains::errors::Fault;
use crate::grains::session::GrainSession;

/// Where a request goes in the interface.
pub struct Target<'a> {
    pub way: Way<'a>,
    /// May be sent twice.
    pub idempotent: bool,
}

pub enum Way<'a> {
    Get,
    Post,
    Put,
    Delete,
    Patch,
    Mkcol,
    Report,
    Propfind,
    Proppatch,
    Acl,
    Lock,
    Unlock,
    Copy(&'a str),
    Move(&'a str),
    Options,
    /// By our own interface only.
    Other,
}

/// Bytes of XML that a body in gzip may have. What clients send is a few KiB, and this is not counted
/// with the bodies that wait.
const MAX_UNPACKED: usize = 1 << 20;

type Answer = Promise<Response<response::Owned>, capnp::Error>;

pub fn target<'a>(
    parts: &'a Parts,
    session: &GrainSession,
) -> std::result::Result<Target<'a>, Fault> {
    let destination = || context::destination(&parts.headers, &session.origin);
    let (way, idempotent) = match parts.method.as_str() {
        "GET" | "HEAD" => (Way::Get, true),
        "POST" => (Way::Post, false),
        "PUT" => (Way::Put, true),
        "DELETE" => (Way::Delete, true),
        "PATCH" => (Way::Patch, false),
        "MKCOL" => (Way::Mkcol, true),
        "REPORT" => (Way::Report, true),
        "PROPFIND" => (Way::Propfind, true),
        "PROPPATCH" => (Way::Proppatch, true),
        "ACL" => (Way::Acl, true),
        "LOCK" => (Way::Lock, false),
        "UNLOCK" => (Way::Unlock, true),
        "COPY" => (Way::Copy(destination()?), true),
        "MOVE" => (Way::Move(destination()?), false),
        "OPTIONS" => (Way::Options, true),
        _ if context::verb_allowed(&parts.method) => (Way::Other, false),
        _ => return Err(not_offered(&parts.method)),
    };
    Ok(Target { way, idempotent })
}

fn not_offered(method: &Method) -> Fault {
    Fault::new(
        StatusCode::NOT_IMPLEMENTED,
        "G-VERB",
        "This app does not offer that",
        format!("It has no method {method}."),
        "",
    )
}

/// Asks the app and waits for the head of its answer.
pub async fn call(
    ask: &Ask<'_>,
    (conn, web): (&Rc<Conn>, &WebSession),
    target: &Target<'_>,
    payload: &mut Payload,
    asked: &Asked<'_>,
) -> Result<(Converted, BodyReceiver)> {
    let (stream, receiver) = pipe();
    let response = match &target.way {
        Way::Post | Way::Put if matches!(payload, Payload::Coming(_)) => {
            streamed(ask, (conn, web), target, payload, stream).await?
        }
        Way::Options => match extended(ask, web, payload, stream.clone()).await {
            Err(Error::Unimplemented(_)) => {
                return Ok((options(ask, web, stream).await?, receiver));
            }
            other => other?,
        },
        Way::Other => match extended(ask, web, payload, stream).await {
            Err(Error::Unimplemented(_)) => {
                let method = &ask.parts.method;
                return Err(Error::Unimplemented(format!("It has no method {method}.")));
            }
            other => other?,
        },
        // The interface has no word for a body here; ours has.
        Way::Delete if !payload.whole().is_empty() => {
            match extended(ask, web, payload, stream.clone()).await {
                Err(Error::Unimplemented(_)) => {
                    plain(ask, web, target, b"", stream)?.await.map_err(from_rpc)?
                }
                other => other?,
            }
        }
        way if is_xml_verb(way) && !xml_fits(ask, payload.whole()) => {
            match extended(ask, web, payload, stream.clone()).await {
                Err(Error::Unimplemented(_)) => {
                    let xml = unpacked(ask, payload.whole()).await?;
                    plain(ask, web, target, &xml, stream)?.await.map_err(from_rpc)?
                }
                other => other?,
            }
        }
        _ => {
            let answer = plain(ask, web, target, payload.whole(), stream)?;
            payload.sent();
            answer.await.map_err(from_rpc)?
        }
    };
    let reader = response.get().map_err(from_rpc)?;
    Ok((answer::convert(reader, asked)?, receiver))
}

fn is_xml_verb(way: &Way<'_>) -> bool {
    matches!(way, Way::Propfind | Way::Proppatch | Way::Acl | Way::Lock)
}

fn xml_fits(ask: &Ask<'_>, body: &[u8]) -> bool {
    let headers = &ask.parts.headers;
    let encoding = text(headers, "content-encoding");
    let kind = headers.get("content-type").and_then(|v| v.to_str().ok());
    (encoding.is_empty() || encoding.eq_ignore_ascii_case("identity"))
        && context::is_xml(kind)
        && std::str::from_utf8(body).is_ok()
}

/// XML that came in gzip, as text: the public interface has it in no other form.
async fn unpacked(ask: &Ask<'_>, body: &[u8]) -> Result<Vec<u8>> {
    let unfit = || {
        let why = "The body of this method must be XML in UTF-8, as it is or in gzip.";
        Error::MediaType(why.into())
    };
    let encoding = text(&ask.parts.headers, "content-encoding").to_ascii_lowercase();
    let kind = ask.parts.headers.get("content-type").and_then(|v| v.to_str().ok());
    if !matches!(encoding.as_str(), "gzip" | "x-gzip") || !context::is_xml(kind) {
        return Err(unfit());
    }
    let packed = body.to_vec();
    let unpack = tokio::task::spawn_blocking(move || {
        let mut xml = Vec::new();
        // One byte more than may be, so that a body cut at the limit is not taken for a whole one.
        let most = MAX_UNPACKED as u64 + 1;
        flate2::read::MultiGzDecoder::new(&*packed).take(most).read_to_end(&mut xml).map(|_| xml)
    });
    let xml = unpack.await.map_err(|e| Error::Internal(e.to_string()))?.map_err(|_| unfit())?;
    if xml.len() > MAX_UNPACKED {
        return Err(Error::TooLarge("Unpacked, the body is larger than 1 MiB.".into()));
    }
    std::str::from_utf8(&xml).map_err(|_| unfit())?;
    Ok(xml)
}

/// A method of the interface with its whole body in one message.
fn plain(
    ask: &Ask<'_>,
    web: &WebSession,
    target: &Target<'_>,
    body: &[u8],
    stream: byte_stream::Client,
) -> Result<Answer> {
    let web = &web.web;
    let headers = &ask.parts.headers;
    let path = context::path(ask.parts);
    let (kind, encoding) = (text(headers, "content-type"), text(headers, "content-encoding"));
    let shallow = text(headers, "depth").trim() == "0";
    let no_overwrite = text(headers, "overwrite").trim().eq_ignore_ascii_case("f");
    let xml = || std::str::from_utf8(body).map_err(|e| Error::BadRequest(e.to_string()));
    // What is the same for every method: its path and its context.
    macro_rules! request {
        ($make:ident $(, $p:ident => $fill:block)?) => {{
            let mut request = web.$make();
            let mut params = request.get();
            params.set_path(path);
            ask.head.write(params.reborrow().init_context(), Some(stream));
            $( let mut $p = params; $fill )?
            request.send().promise
        }};
    }
    macro_rules! content {
        ($make:ident) => {
            request!($make, p => {
                let mut content = p.reborrow().init_content();
                content.set_mime_type(kind);
                content.set_encoding(encoding);
                content.set_content(body);
            })
        };
    }
    Ok(match &target.way {
        Way::Get => {
            let head = ask.parts.method == Method::HEAD;
            request!(get_request, p => { p.set_ignore_body(head); })
        }
        Way::Delete => request!(delete_request),
        Way::Post => content!(post_request),
        Way::Put => content!(put_request),
        Way::Patch => content!(patch_request),
        Way::Mkcol => content!(mkcol_request),
        Way::Report => content!(report_request),
        Way::Propfind => {
            let (xml, depth) = (xml()?, text(headers, "depth").trim());
            request!(propfind_request, p => {
                p.set_xml_content(xml);
                p.set_depth(match depth {
                    "0" => PropfindDepth::Zero,
                    "1" => PropfindDepth::One,
                    _ => PropfindDepth::Infinity,
                });
            })
        }
        Way::Proppatch => {
            let xml = xml()?;
            request!(proppatch_request, p => { p.set_xml_content(xml); })
        }
        Way::Acl => {
            let xml = xml()?;
            request!(acl_request, p => { p.set_xml_content(xml); })
        }
        Way::Lock => {
            let xml = xml()?;
            request!(lock_request, p => { p.set_xml_content(xml); p.set_shallow(shallow); })
        }
        Way::Unlock => {
            let token = text(headers, "lock-token");
            request!(unlock_request, p => { p.set_lock_token(token); })
        }
        Way::Copy(destination) => request!(copy_request, p => {
            p.set_destination(*destination);
            p.set_no_overwrite(no_overwrite);
            p.set_shallow(shallow);
        }),
        Way::Move(destination) => request!(move_request, p => {
            p.set_destination(*destination);
            p.set_no_overwrite(no_overwrite);
        }),
        Way::Options | Way::Other => {
            return Err(Error::Internal("this method goes another way".into()));
        }
    })
}

/// Our own interface, for what the public one cannot say.
async fn extended(
    ask: &Ask<'_>,
    web: &WebSession,
    payload: &mut Payload,
    stream: byte_stream::Client,
) -> Result<Response<response::Owned>> {
    if web.has_ext.get() == Some(false) {
        return Err(Error::Unimplemented(String::new()));
    }
    let mut request = web.ext.request_request();
    let mut params = request.get();
    params.set_method(ask.parts.method.as_str());
    params.set_path(context::path(ask.parts));
    params.set_mime_type(text(&ask.parts.headers, "content-type"));
    params.set_encoding(text(&ask.parts.headers, "content-encoding"));
    params.set_content(payload.whole());
    ask.head.write_named(params.init_context(), Some(stream));
    let answer = request.send().promise;
    if web.has_ext.get() == Some(true) {
        payload.sent();
    }
    let result = answer.await.map_err(from_rpc);
    match &result {
        Ok(_) => web.has_ext.set(Some(true)),
        Err(Error::Unimplemented(_)) => web.has_ext.set(Some(false)),
        Err(_) => {}
    }
    result
}

/// OPTIONS as the public interface has it: DAV classes, and the verbs that it knows.
async fn options(
    ask: &Ask<'_>,
    web: &WebSession,
    stream: byte_stream::Client,
) -> Result<Converted> {
    const VERBS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
    const DAV_VERBS: &str = "PROPFIND, PROPPATCH, MKCOL, COPY, MOVE, LOCK, UNLOCK, ACL, REPORT";
    let mut request = web.web.options_request();
    let mut params = request.get();
    params.set_path(context::path(ask.parts));
    ask.head.write(params.init_context(), Some(stream));
    let mut dav = Vec::new();
    match request.send().promise.await {
        Ok(response) => {
            let options = response.get().map_err(from_rpc)?;
            let classes =
                [options.get_dav_class1(), options.get_dav_class2(), options.get_dav_class3()];
            for (number, _) in (1..).zip(classes).filter(|(_, has)| *has) {
                dav.push(number.to_string());
            }
            dav_extensions(options.get_dav_extensions().map_err(from_rpc)?, &mut dav)
                .map_err(from_rpc)?;
        }
        Err(error) if is_unimplemented(&error) => {}
        Err(error) => return Err(from_rpc(error)),
    }
    let mut answer = http::Response::builder().status(StatusCode::OK);
    answer = match dav.is_empty() {
        true => answer.header("allow", VERBS),
        false => {
            answer.header("allow", format!("{VERBS}, {DAV_VERBS}")).header("dav", dav.join(", "))
        }
    };
    let answer = answer.body(()).map_err(|e| Error::BadGateway(e.to_string()))?;
    Ok(Converted { answer, body: BodyKind::Bytes(Bytes::new()) })
}

/// Adds the app's words for what it can do besides to the classes in `dav`.
fn dav_extensions(list: capnp::text_list::Reader<'_>, dav: &mut Vec<String>) -> capnp::Result<()> {
    let mut budget = Budget::default();
    for extension in list.iter().take(64) {
        let extension = extension?;
        budget.take(extension.len())?;
        let extension = extension.to_str().unwrap_or_default().trim();
        if !extension.is_empty() && extension.bytes().all(|b| (b'!'..=b'~').contains(&b)) {
            dav.push(extension.to_owned());
        }
    }
    Ok(())
}

/// POST or PUT of a body that is still coming.
async fn streamed(
    ask: &Ask<'_>,
    (conn, web): (&Rc<Conn>, &WebSession),
    target: &Target<'_>,
    payload: &mut Payload,
    stream: byte_stream::Client,
) -> Result<Response<response::Owned>> {
    let headers = &ask.parts.headers;
    let path = context::path(ask.parts);
    let (kind, encoding) = (text(headers, "content-type"), text(headers, "content-encoding"));
    macro_rules! begin {
        ($make:ident) => {{
            let mut request = web.web.$make();
            let mut params = request.get();
            params.set_path(path);
            params.set_mime_type(kind);
            params.set_encoding(encoding);
            ask.head.write(params.init_context(), Some(stream.clone()));
            request.send().promise.await.and_then(|response| response.get()?.get_stream())
        }};
    }
    let begun = match target.way {
        Way::Post => begin!(post_streaming_request),
        _ => begin!(put_streaming_request),
    };
    let Payload::Coming(coming) = std::mem::replace(payload, Payload::Spent { _held: None }) else {
        return Err(Error::Internal("this body is here already".into()));
    };
    let upload: web_session::request_stream::Client = match begun {
        Ok(upload) => upload,
        Err(error) if is_unimplemented(&error) => {
            // An app that knows only whole bodies gets one.
            let whole = coming.collect(&ask.session.room).await;
            *payload = whole.map_err(|fault| match fault.status {
                StatusCode::SERVICE_UNAVAILABLE => Error::Overloaded(fault.why),
                StatusCode::PAYLOAD_TOO_LARGE => Error::TooLarge(fault.why),
                _ => Error::BadRequest(fault.why),
            })?;
            let answer = plain(ask, web, target, payload.whole(), stream)?;
            payload.sent();
            return answer.await.map_err(from_rpc);
        }
        Err(error) => {
            *payload = Payload::Coming(coming);
            return Err(from_rpc(error));
        }
    };
    // Asked for before the body is sent: the app may answer early.
    let answer = upload.get_response_request().send().promise;
    let stream = byte_stream::Client::new(upload.into_client_hook());
    let pump = {
        let (live, revoked) = (ask.session.entry.live(), ask.session.revoked.clone());
        let (peer, conn) = (ask.parts.extensions.get::<Peer>().cloned(), conn.clone());
        tokio::task::spawn_local(async move {
            tokio::select! {
                done = coming.pump(stream, peer, &conn, live) => done,
                // Who has signed out sends nothing more.
                () = revoked.cancelled() => Ok(()),
            }
        })
    };
    tokio::select! {
        answer = answer => answer.map_err(from_rpc),
        // The client left half-way. Nobody waits for an answer any more; giving up the call frees
        // whatever the app does with a part.
        Ok(Err(fault)) = pump => Err(Error::BadRequest(fault.why)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_dav_are_headers_too() {
        let said = |length: usize| {
            let mut message = capnp::message::Builder::new_default();
            let options = message.init_root::<web_session::options::Builder<'_>>();
            let mut list = options.init_dav_extensions(4);
            list.set(0, "access-control");
            list.set(1, "two words");
            for index in 2..4 {
                list.set(index, "x".repeat(length));
            }
            let mut dav = Vec::new();
            let options: web_session::options::Reader<'_> = message.get_root_as_reader().unwrap();
            dav_extensions(options.get_dav_extensions().unwrap(), &mut dav).map(|()| dav)
        };
        assert_eq!(said(3).unwrap(), ["access-control", "xxx", "xxx"]);
        assert!(said(40_000).unwrap_err().extra.contains("64 KiB"));
    }
}
