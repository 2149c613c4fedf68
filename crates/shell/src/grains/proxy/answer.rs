//! `WebSession.Response` as HTTP. The app is hostile: each value is checked again here.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use sandstorm_schema::http_map::{
    self, RequestFacts, WireStatus, from_wire, header_name_valid, header_value_valid,
};
use sandstorm_schema::limits::{HEADER_BYTES, HEADER_COUNT, SET_COOKIE_COUNT};
use sandstorm_schema::util_capnp::handle;
use sandstorm_schema::web_session_capnp::web_session::{cookie, e_tag, response};

use crate::error::{Error, Result};
use crate::grains::cookies::{self, AppCookie, Marks};

/// What the answer is judged by.
pub struct Asked<'a> {
    pub facts: RequestFacts,
    pub head: bool,
    pub cookie_prefix: &'a str,
    pub marks: Marks,
}

/// A converted answer; its body may be still to come.
pub struct Converted {
    pub answer: Response<()>,
    pub body: BodyKind,
}

pub enum BodyKind {
    Bytes(Bytes),
    /// It comes by the request's response stream, as long as the handle is held.
    Stream(Option<handle::Client>),
}

/// What the headers of one answer may still hold, in bytes of names and values. They wait outside
/// the [`Room`](crate::grains::room::Room) for a visitor who does not read, so each text is
/// measured before it is copied out of the app's message.
pub struct Budget(usize);

impl Default for Budget {
    fn default() -> Budget {
        Budget(HEADER_BYTES)
    }
}

impl Budget {
    /// Takes `bytes` from what is left.
    ///
    /// # Errors
    /// The app's fault, when the answer has more than [`HEADER_BYTES`].
    pub fn take(&mut self, bytes: usize) -> capnp::Result<()> {
        match self.0.checked_sub(bytes) {
            Some(left) => {
                self.0 = left;
                Ok(())
            }
            None => Err(capnp::Error::failed("Its headers are longer than 64 KiB.".into())),
        }
    }
}

/// Reads an answer; `response` is walked once.
pub fn convert(reader: response::Reader<'_>, asked: &Asked<'_>) -> Result<Converted> {
    read(reader, asked).map_err(|e| Error::BadGateway(sandstorm_schema::rpc::error::text(&e)))?
}

fn read(reader: response::Reader<'_>, asked: &Asked<'_>) -> capnp::Result<Result<Converted>> {
    let mut headers = HeaderMap::new();
    let mut budget = Budget::default();
    let list = reader.get_additional_headers()?;
    let Additional { exact, created } = additional(list, asked.head, &mut budget, &mut headers)?;
    let exact = exact.as_deref();
    set_cookies(reader.get_set_cookies()?, asked, &mut budget, &mut headers)?;
    let budget = &mut budget;
    let status = |wire| from_wire(wire, exact, asked.facts);
    let mut body = BodyKind::Bytes(Bytes::new());
    let status = match reader.which()? {
        response::Which::Content(content) => {
            put_text(&mut headers, budget, header::CONTENT_TYPE, content.get_mime_type()?)?;
            put_text(&mut headers, budget, header::CONTENT_ENCODING, content.get_encoding()?)?;
            put_text(&mut headers, budget, header::CONTENT_LANGUAGE, content.get_language()?)?;
            if content.has_e_tag() {
                put_etag(&mut headers, budget, content.get_e_tag()?)?;
            }
            if !headers.contains_key(header::CONTENT_DISPOSITION) {
                use response::content::disposition::Which;
                if let Which::Download(name) = content.get_disposition().which()? {
                    let name = name?;
                    budget.take(name.len())?;
                    if let Some(value) = download(name.to_str()?) {
                        // What a name takes in both forms is up to four times its length.
                        budget.take(value.len() - name.len())?;
                        headers.insert(header::CONTENT_DISPOSITION, value);
                    }
                }
            }
            use response::content::body::Which;
            body = match content.get_body().which()? {
                Which::Bytes(bytes) => BodyKind::Bytes(Bytes::copy_from_slice(bytes?)),
                Which::Stream(handle) => BodyKind::Stream(handle.ok()),
            };
            // A status this version does not know is a success without a name.
            let code = content.get_status_code().unwrap_or(response::SuccessCode::Ok);
            status(WireStatus::Content(code))
        }
        response::Which::NoContent(no) => {
            if no.has_e_tag() {
                put_etag(&mut headers, budget, no.get_e_tag()?)?;
            }
            status(WireStatus::NoContent { should_reset_form: no.get_should_reset_form() })
        }
        response::Which::PreconditionFailed(failed) => {
            if failed.has_matching_e_tag() {
                put_etag(&mut headers, budget, failed.get_matching_e_tag()?)?;
            }
            status(WireStatus::PreconditionFailed)
        }
        response::Which::Redirect(redirect) => {
            let location = redirect.get_location()?;
            budget.take(location.len())?;
            let location = location.to_str()?;
            let value = HeaderValue::from_bytes(location.as_bytes());
            let Some(value) = value.ok().filter(|_| !location.is_empty()) else {
                return Ok(Err(Error::BadGateway("It redirects, but not to an address.".into())));
            };
            headers.insert(header::LOCATION, value);
            headers.insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("text/plain; charset=utf-8"),
            );
            body = BodyKind::Bytes(Bytes::from(format!("See {location}\n")));
            status(WireStatus::Redirect {
                is_permanent: redirect.get_is_permanent(),
                switch_to_get: redirect.get_switch_to_get(),
            })
        }
        response::Which::ClientError(error) => {
            let bytes = if error.has_non_html_body() {
                error_body(&mut headers, budget, error.get_non_html_body()?)?
            } else {
                html_body(&mut headers, error.get_description_html()?)
            };
            body = BodyKind::Bytes(bytes);
            let code = error.get_status_code().unwrap_or(response::ClientErrorCode::BadRequest);
            status(WireStatus::ClientError(code))
        }
        response::Which::ServerError(error) => {
            let bytes = if error.has_non_html_body() {
                error_body(&mut headers, budget, error.get_non_html_body()?)?
            } else {
                html_body(&mut headers, error.get_description_html()?)
            };
            body = BodyKind::Bytes(bytes);
            status(WireStatus::ServerError)
        }
    };
    if let Some(location) = created.filter(|_| status == http_map::CREATED) {
        headers.insert(header::LOCATION, location);
    }
    let mut answer = Response::new(());
    *answer.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    if answer.status().canonical_reason().is_none() {
        // A number that no standard names; hyper would call it "<none>".
        answer.extensions_mut().insert(hyper::ext::ReasonPhrase::from_static(b"Unassigned"));
    }
    *answer.headers_mut() = headers;
    if matches!(status, 204 | 205 | 304) {
        body = BodyKind::Bytes(Bytes::new());
    }
    Ok(Ok(Converted { answer, body }))
}

/// What came among the additional headers and is judged with the status.
#[derive(Default)]
struct Additional {
    exact: Option<String>,
    /// The address of what was made.
    created: Option<HeaderValue>,
}

/// Puts the listed headers on the answer.
fn additional(
    list: capnp::struct_list::Reader<'_, response::header::Owned>,
    head: bool,
    budget: &mut Budget,
    headers: &mut HeaderMap,
) -> capnp::Result<Additional> {
    let mut found = Additional::default();
    if list.len() as usize > HEADER_COUNT {
        return Err(capnp::Error::failed("It has more than 100 headers.".into()));
    }
    for item in list {
        let (name, value) = (item.get_name()?.to_str()?, item.get_value()?.as_bytes());
        budget.take(name.len() + value.len())?;
        if name.eq_ignore_ascii_case(http_map::EXACT_STATUS) {
            found.exact = std::str::from_utf8(value).ok().map(str::to_owned);
            continue;
        }
        if name.eq_ignore_ascii_case(http_map::CREATED_LOCATION) {
            let valid = header_value_valid(value) && !value.is_empty();
            found.created = valid.then(|| HeaderValue::from_bytes(value).ok()).flatten();
            continue;
        }
        let allowed = if head {
            http_map::head_response_header_allowed(name)
        } else {
            http_map::response_header_allowed(name)
        };
        let is_length = name.eq_ignore_ascii_case("content-length");
        let length_ok = !is_length || (!value.is_empty() && value.iter().all(u8::is_ascii_digit));
        if !allowed || !header_name_valid(name) || !header_value_valid(value) || !length_ok {
            continue;
        }
        let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value))
        else {
            continue;
        };
        if is_length {
            headers.insert(name, value);
        } else {
            headers.append(name, value);
        }
    }
    Ok(found)
}

fn set_cookies(
    list: capnp::struct_list::Reader<'_, cookie::Owned>,
    asked: &Asked<'_>,
    budget: &mut Budget,
    headers: &mut HeaderMap,
) -> capnp::Result<()> {
    for item in list.iter().take(SET_COOKIE_COUNT) {
        budget.take(item.get_name()?.len() + item.get_value()?.len() + item.get_path()?.len())?;
        let (Ok(name), Ok(value), Ok(path)) =
            (item.get_name()?.to_str(), item.get_value()?.to_str(), item.get_path()?.to_str())
        else {
            continue;
        };
        use cookie::expires::Which;
        let (expires, max_age) = match item.get_expires().which()? {
            Which::None(()) => (None, None),
            Which::Absolute(seconds) => (Some(seconds), None),
            Which::Relative(seconds) => (None, Some(seconds)),
        };
        let http_only = item.get_http_only();
        let cookie = AppCookie { name, value, expires, max_age, path, http_only };
        if let Some(line) = cookies::line(&cookie, asked.cookie_prefix, asked.marks) {
            headers.append(header::SET_COOKIE, line);
        }
    }
    Ok(())
}

fn put_text(
    headers: &mut HeaderMap,
    budget: &mut Budget,
    name: HeaderName,
    value: capnp::text::Reader<'_>,
) -> capnp::Result<()> {
    let bytes = value.as_bytes();
    budget.take(bytes.len())?;
    if !bytes.is_empty() {
        if let Ok(value) = HeaderValue::from_bytes(bytes) {
            headers.insert(name, value);
        }
    }
    Ok(())
}

/// A malformed tag is left out; the answer is as good without it.
fn put_etag(
    headers: &mut HeaderMap,
    budget: &mut Budget,
    tag: e_tag::Reader<'_>,
) -> capnp::Result<()> {
    let value = tag.get_value()?.as_bytes();
    budget.take(value.len())?;
    if value.iter().all(|&b| b > b' ' && b != 0x7f && b != b'"') {
        let weak: &[u8] = if tag.get_weak() { b"W/\"" } else { b"\"" };
        if let Ok(value) = HeaderValue::from_bytes(&[weak, value, b"\""].concat()) {
            headers.insert(header::ETAG, value);
        }
    }
    Ok(())
}

/// `attachment` with a name in both forms.
fn download(name: &str) -> Option<HeaderValue> {
    let plain: String = name
        .chars()
        .map(|c| if (' '..='~').contains(&c) && c != '"' && c != '\\' { c } else { '_' })
        .collect();
    let mut text = format!("attachment; filename=\"{plain}\"");
    if plain != name {
        const ATTR: &percent_encoding::AsciiSet =
            &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_');
        let encoded = percent_encoding::utf8_percent_encode(name, ATTR);
        text += &format!("; filename*=UTF-8''{encoded}");
    }
    HeaderValue::from_str(&text).ok()
}

fn error_body(
    headers: &mut HeaderMap,
    budget: &mut Budget,
    body: response::error_body::Reader<'_>,
) -> capnp::Result<Bytes> {
    put_text(headers, budget, header::CONTENT_TYPE, body.get_mime_type()?)?;
    put_text(headers, budget, header::CONTENT_ENCODING, body.get_encoding()?)?;
    put_text(headers, budget, header::CONTENT_LANGUAGE, body.get_language()?)?;
    Ok(Bytes::copy_from_slice(body.get_data()?))
}

fn html_body(headers: &mut HeaderMap, text: capnp::text::Reader<'_>) -> Bytes {
    let bytes = text.as_bytes();
    if !bytes.is_empty() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=UTF-8"));
    }
    Bytes::copy_from_slice(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(fill: impl FnOnce(response::Builder<'_>), head: bool) -> Result<Converted> {
        let mut message = capnp::message::Builder::new_default();
        fill(message.init_root());
        let marks = Marks { https: false, cross_site: false, trustworthy: true };
        let asked = Asked { facts: RequestFacts::GET, head, cookie_prefix: "", marks };
        convert(message.get_root_as_reader().unwrap(), &asked)
    }

    fn header(mut r: response::Builder<'_>, headers: &[(&str, &str)]) {
        let mut list = r.reborrow().init_additional_headers(headers.len() as u32);
        for (index, (name, value)) in headers.iter().enumerate() {
            let mut item = list.reborrow().get(index as u32);
            item.set_name(*name);
            item.set_value(*value);
        }
    }

    #[test]
    fn json_errors_stay_json() {
        let c = ask(
            |mut r| {
                header(r.reborrow(), &[("x-sandstorm-exact-status", "429"), ("retry-after", "3")]);
                let mut body = r.init_client_error().init_non_html_body();
                body.set_mime_type("application/json");
                body.set_data(b"{\"e\":1}");
            },
            false,
        )
        .unwrap();
        assert_eq!(c.answer.status(), 429);
        assert_eq!(c.answer.headers()["content-type"], "application/json");
        assert_eq!(c.answer.headers()["retry-after"], "3");
        assert!(matches!(c.body, BodyKind::Bytes(b) if &b[..] == b"{\"e\":1}"));
    }

    #[test]
    fn what_reaches_beyond_the_frame_is_dropped() {
        let c = ask(
            |r| {
                header(
                    r,
                    &[
                        ("link", "</x>; rel=preload"),
                        ("refresh", "0; url=//e"),
                        ("clear-site-data", "*"),
                        ("content-security-policy", "x"),
                        ("set-cookie", "a=b"),
                        ("x-sandstorm-app-a\r\nb", "1"),
                        ("x-sandstorm-app-b", "1\r\nx: y"),
                        ("content-length", "5"),
                        ("x-sandstorm-app-c", "1"),
                    ],
                );
            },
            false,
        );
        // The default of the union is a redirect without a location: the app's fault.
        assert!(matches!(c, Err(Error::BadGateway(_))));
        let c = ask(
            |mut r| {
                header(
                    r.reborrow(),
                    &[("link", "x"), ("x-sandstorm-app-b", "1\r\nx: y"), ("x-oc-mtime", "1")],
                );
                r.init_no_content();
            },
            false,
        )
        .unwrap();
        assert_eq!(c.answer.headers().len(), 1);
        assert_eq!(c.answer.status(), 204);
    }

    #[test]
    fn a_length_only_for_head() {
        for (head, expected) in [(true, Some("5000")), (false, None)] {
            let c = ask(
                |mut r| {
                    header(r.reborrow(), &[("content-length", "5000")]);
                    r.init_content().init_body().set_bytes(b"");
                },
                head,
            )
            .unwrap();
            let length = c.answer.headers().get("content-length").map(|v| v.to_str().unwrap());
            assert_eq!(length, expected);
        }
    }

    #[test]
    fn names_of_downloads() {
        assert_eq!(download("a b.txt").unwrap(), "attachment; filename=\"a b.txt\"");
        assert_eq!(
            download("ž\"x\r\n").unwrap(),
            "attachment; filename=\"__x__\"; filename*=UTF-8''%C5%BE%22x%0D%0A"
        );
    }

    #[test]
    fn sloppy_tags_are_left_out() {
        let tag = |value: &'static str| {
            ask(
                |r| {
                    let mut content = r.init_content();
                    content.reborrow().init_body().set_bytes(b"x");
                    content.init_e_tag().set_value(value);
                },
                false,
            )
            .unwrap()
            .answer
            .headers()
            .get("etag")
            .map(|v| v.to_str().unwrap().to_owned())
        };
        assert_eq!(tag("abc").as_deref(), Some("\"abc\""));
        assert_eq!(tag("a\"b"), None);
    }

    /// Each way by which an app's text becomes a header, used alone.
    #[test]
    fn no_header_goes_past_the_budget() {
        type Fill = fn(response::Builder<'_>, &str);
        let ways: [(&str, Fill); 12] = [
            ("additional", |mut r, text| {
                header(r.reborrow(), &[("x-sandstorm-app-a", text)]);
                r.init_no_content();
            }),
            ("type", |r, text| r.init_content().set_mime_type(text)),
            ("encoding", |r, text| r.init_content().set_encoding(text)),
            ("language", |r, text| r.init_content().set_language(text)),
            ("tag", |r, text| r.init_content().init_e_tag().set_value(text)),
            ("tag alone", |r, text| r.init_no_content().init_e_tag().set_value(text)),
            ("other tag", |r, text| {
                r.init_precondition_failed().init_matching_e_tag().set_value(text);
            }),
            ("name", |r, text| r.init_content().init_disposition().set_download(text)),
            ("location", |r, text| r.init_redirect().set_location(text)),
            ("type of an error", |r, text| {
                r.init_client_error().init_non_html_body().set_mime_type(text);
            }),
            ("type of a failure", |r, text| {
                r.init_server_error().init_non_html_body().set_mime_type(text);
            }),
            ("cookies", |mut r, text| {
                // None is long, all together are.
                let mut list = r.reborrow().init_set_cookies(4);
                for index in 0..4 {
                    let mut cookie = list.reborrow().get(index);
                    cookie.set_name("a");
                    cookie.set_value(&text[..text.len() / 8]);
                    cookie.set_path(format!("/{}", &text[..text.len() / 8]));
                }
                r.init_no_content();
            }),
        ];
        for (way, fill) in ways {
            let short = ask(|r| fill(r, &"x".repeat(HEADER_BYTES / 2)), false);
            assert!(short.is_ok(), "{way}");
            match ask(|r| fill(r, &"x".repeat(HEADER_BYTES + 8)), false) {
                Err(Error::BadGateway(why)) => assert!(why.contains("64 KiB"), "{way}: {why}"),
                Err(other) => panic!("{way}: {other}"),
                Ok(got) => panic!("{way}: {} headers", got.answer.headers().len()),
            }
        }
        // Letters that take three bytes each in the second form.
        let name = "\u{1}".repeat(HEADER_BYTES / 3);
        let got = ask(|r| r.init_content().init_disposition().set_download(&name[..]), false);
        assert!(matches!(got, Err(Error::BadGateway(_))));
    }
}
