//! Requests and answers, header by header.

use serde_json::{Value, json};

use crate::client::{BASE, Cookie, add_headers};
use crate::grain::{Grain, story};

/// The headers that the app saw, lower-case names.
fn seen(request: &Value) -> Vec<(String, String)> {
    request["headers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|h| (h[0].as_str().unwrap().to_lowercase(), h[1].as_str().unwrap().to_owned()))
        .collect()
}

fn header(request: &Value, name: &str) -> Option<String> {
    let all: Vec<String> =
        seen(request).into_iter().filter(|(n, _)| n == name).map(|(_, v)| v).collect();
    assert!(all.len() < 2, "{name} twice: {all:?}");
    all.into_iter().next()
}

#[test]
fn a_request_as_the_app_sees_it() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        let mut answer = session
            .try_get("a%2Fb/c?x=%2F&y=ž", |mut context| {
                let mut cookies = context.reborrow().init_cookies(3);
                for (at, (key, value)) in
                    [("s", "1"), ("sandstorm-sid", "secret"), ("t", "a=b")].into_iter().enumerate()
                {
                    cookies.reborrow().get(at as u32).set_key(key);
                    cookies.reborrow().get(at as u32).set_value(value);
                }
                let mut accept = context.reborrow().init_accept(2);
                accept.reborrow().get(0).set_mime_type("text/html");
                accept.reborrow().get(1).set_mime_type("*/*");
                accept.reborrow().get(1).set_q_value(0.25);
                let mut encodings = context.reborrow().init_accept_encoding(1);
                encodings.reborrow().get(0).set_content_coding("gzip");
                let mut tags = context.reborrow().init_e_tag_precondition().init_matches_none_of(2);
                tags.reborrow().get(0).set_value("one");
                tags.reborrow().get(1).set_value("two");
                tags.reborrow().get(1).set_weak(true);
                add_headers(
                    context,
                    &[
                        ("X-Sandstorm-App-Thing", "kept"),
                        ("Range", "bytes=0-1"),
                        ("X-Forwarded-For", "6.6.6.6"),
                        ("Authorization", "Basic x"),
                    ],
                );
            })
            .await
            .unwrap();
        let request = answer.json().await;
        assert_eq!(request["target"], "/a%2Fb/c?x=%2F&y=ž");
        assert_eq!(request["method"], "GET");
        let mut all = seen(&request);
        all.sort();
        let mut expected: Vec<(String, String)> = [
            ("accept", "text/html, */*;q=0.25"),
            ("accept-encoding", "gzip"),
            ("accept-language", "en-US,en;q=0.5"),
            ("cookie", "s=1; t=a=b"),
            ("host", "ui-1.sandstorm.localhost:3000"),
            ("if-none-match", "\"one\", W/\"two\""),
            ("range", "bytes=0-1"),
            ("user-agent", "Probe/1"),
            ("x-forwarded-proto", "http"),
            ("x-sandstorm-app-thing", "kept"),
            ("x-sandstorm-base-path", BASE),
            ("x-sandstorm-permissions", ""),
            ("x-sandstorm-preferred-handle", "ada"),
            ("x-sandstorm-session-id", "0"),
            ("x-sandstorm-session-type", "normal"),
            ("x-sandstorm-tab-id", "abcd"),
            ("x-sandstorm-user-id", "11111111111111111111111111111111"),
            ("x-sandstorm-user-picture", "http://static/ada.png"),
            ("x-sandstorm-user-pronouns", "female"),
            ("x-sandstorm-username", "Ada%20%C5%BD%C3%A1ba"),
        ]
        .map(|(n, v)| (n.to_owned(), v.to_owned()))
        .to_vec();
        expected.sort();
        assert_eq!(all, expected);
    });
}

#[test]
fn every_verb_and_its_own_headers() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        let web = &session.web;
        // Sends one call and returns what the app saw of it.
        macro_rules! call {
            ($method:ident, $set:expr) => {{
                let mut call = web.$method();
                call.get().set_path("x");
                let receiver = crate::client::with_stream(call.get().init_context());
                ($set)(&mut call.get());
                crate::client::answer(call.send().promise.await.unwrap(), receiver)
                    .unwrap()
                    .json()
                    .await
            }};
        }
        use sandstorm_schema::web_session_capnp::web_session as ws;
        let post = call!(post_request, |p: &mut ws::post_params::Builder<'_>| {
            let mut c = p.reborrow().init_content();
            c.set_mime_type("text/plain");
            c.set_content(b"hello");
            c.set_encoding("gzip");
        });
        assert_eq!(post["method"], "POST");
        assert_eq!(post["body"]["start"], "hello");
        assert_eq!(header(&post, "content-type").unwrap(), "text/plain");
        assert_eq!(header(&post, "content-encoding").unwrap(), "gzip");
        assert_eq!(header(&post, "content-length").unwrap(), "5");
        assert_eq!(header(&post, "connection").unwrap(), "close");

        let put = call!(put_request, |p: &mut ws::put_params::Builder<'_>| {
            p.reborrow().init_content().set_content(b"abc");
        });
        assert_eq!((&put["method"], &put["body"]["bytes"]), (&json!("PUT"), &json!(3)));
        assert_eq!(header(&put, "content-type"), None);

        let patch = call!(patch_request, |p: &mut ws::patch_params::Builder<'_>| {
            p.reborrow().init_content().set_content(b"abcd");
        });
        assert_eq!((&patch["method"], &patch["body"]["bytes"]), (&json!("PATCH"), &json!(4)));

        let delete = call!(delete_request, |_: &mut ws::delete_params::Builder<'_>| {});
        assert_eq!(delete["method"], "DELETE");
        assert_eq!(header(&delete, "content-length"), None);

        let propfind = call!(propfind_request, |p: &mut ws::propfind_params::Builder<'_>| {
            p.set_xml_content("<a/>");
            p.set_depth(ws::PropfindDepth::One);
        });
        assert_eq!(propfind["method"], "PROPFIND");
        assert_eq!(header(&propfind, "depth").unwrap(), "1");
        assert_eq!(header(&propfind, "content-type").unwrap(), "application/xml;charset=utf-8");
        assert_eq!(propfind["body"]["start"], "<a/>");

        let empty = call!(propfind_request, |_: &mut ws::propfind_params::Builder<'_>| {});
        assert_eq!(header(&empty, "depth").unwrap(), "infinity");
        assert_eq!(header(&empty, "content-type"), None);
        assert_eq!(header(&empty, "content-length").unwrap(), "0");

        let proppatch = call!(proppatch_request, |p: &mut ws::proppatch_params::Builder<'_>| {
            p.set_xml_content("<b/>");
        });
        assert_eq!(proppatch["method"], "PROPPATCH");

        let acl = call!(acl_request, |p: &mut ws::acl_params::Builder<'_>| {
            p.set_xml_content("<c/>");
        });
        assert_eq!(acl["method"], "ACL");

        let mkcol = call!(mkcol_request, |p: &mut ws::mkcol_params::Builder<'_>| {
            p.reborrow().init_content().set_mime_type("text/xml");
        });
        assert_eq!(mkcol["method"], "MKCOL");

        let report = call!(report_request, |p: &mut ws::report_params::Builder<'_>| {
            p.reborrow().init_content().set_content(b"<r/>");
            add_headers(p.reborrow().get_context().unwrap(), &[("Depth", "1")]);
        });
        assert_eq!(report["method"], "REPORT");
        assert_eq!(header(&report, "depth").unwrap(), "1");

        let copy = call!(copy_request, |p: &mut ws::copy_params::Builder<'_>| {
            p.set_destination("b%20c.txt");
            p.set_shallow(true);
            // The method's own word wins.
            add_headers(p.reborrow().get_context().unwrap(), &[("Depth", "infinity")]);
        });
        assert_eq!(copy["method"], "COPY");
        assert_eq!(header(&copy, "destination").unwrap(), format!("{BASE}/b%20c.txt"));
        assert_eq!(header(&copy, "depth").unwrap(), "0");
        assert_eq!(header(&copy, "overwrite").unwrap(), "T");

        let moved = call!(move_request, |p: &mut ws::move_params::Builder<'_>| {
            p.set_destination("b%20c.txt");
            p.set_no_overwrite(true);
        });
        assert_eq!(moved["method"], "MOVE");
        assert_eq!(header(&moved, "destination").unwrap(), format!("{BASE}/b%20c.txt"));
        assert_eq!(header(&moved, "overwrite").unwrap(), "F");
        assert_eq!(header(&moved, "depth"), None);

        let lock = call!(lock_request, |p: &mut ws::lock_params::Builder<'_>| {
            p.set_xml_content("<l/>");
            add_headers(
                p.reborrow().get_context().unwrap(),
                &[("Timeout", "Second-5"), ("If", "(<t:1>)")],
            );
        });
        assert_eq!(lock["method"], "LOCK");
        assert_eq!(header(&lock, "depth").unwrap(), "infinity");
        assert_eq!(header(&lock, "timeout").unwrap(), "Second-5");
        assert_eq!(header(&lock, "if").unwrap(), "(<t:1>)");

        let unlock = call!(unlock_request, |p: &mut ws::unlock_params::Builder<'_>| {
            p.set_lock_token("<opaquelocktoken:1>");
        });
        assert_eq!(unlock["method"], "UNLOCK");
        assert_eq!(header(&unlock, "lock-token").unwrap(), "<opaquelocktoken:1>");

        let calendar = session.request("MKCALENDAR", "cal/", b"<m/>").await.json().await;
        assert_eq!(
            (&calendar["method"], &calendar["target"]),
            (&json!("MKCALENDAR"), &json!("/cal/"))
        );
        assert_eq!(calendar["body"]["start"], "<m/>");
    });
}

#[test]
fn options_in_both_ways() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        let path = crate::client::script_path(
            r"w HTTP/1.1 200 OK\r\nDAV: 1, 2, calendar-access\r\nAllow: GET, LOCK\r\nContent-Length: 0\r\n\r\n",
        );
        let mut call = session.web.options_request();
        call.get().set_path(&path);
        call.get().init_context();
        let answer = call.send().promise.await.unwrap();
        let classes = answer.get().unwrap();
        assert!(classes.get_dav_class1() && classes.get_dav_class2());
        assert!(!classes.get_dav_class3());
        assert_eq!(classes.get_dav_extensions().unwrap().get(0).unwrap(), "calendar-access");

        let full = session.request("OPTIONS", &path, b"").await;
        assert_eq!(full.status, 200);
        assert_eq!(full.header("allow"), Some("GET, LOCK"));
        assert_eq!(full.header("dav"), Some("1, 2, calendar-access"));
    });
}

#[test]
fn statuses_keep_their_numbers() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        for status in [
            200, 201, 202, 203, 206, 207, 208, 226, 400, 401, 402, 403, 404, 405, 406, 408, 409,
            410, 411, 413, 414, 415, 416, 418, 422, 423, 424, 429, 431, 451, 499, 500, 501, 502,
            503, 504, 507, 599,
        ] {
            let mut answer = session
                .run(&format!(
                    r#"w HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{{"e":1}}"#
                ))
                .await;
            assert_eq!(answer.status, status);
            assert_eq!(answer.mime, "application/json", "{status}");
            assert_eq!(answer.body().await.unwrap(), b"{\"e\":1}", "{status}");
        }
        for status in [204, 205, 304, 412] {
            let answer =
                session.run(&format!(r"w HTTP/1.1 {status} X\r\nETag: W/\x22a\x22\r\n\r\n")).await;
            assert_eq!(answer.status, status);
            assert_eq!(answer.etag, Some(("a".into(), true)), "{status}");
        }
        // A precondition of the app's own, with words; there was none in the request.
        let answer = session
            .run(r"w HTTP/1.1 412 X\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{\x22e\x22:1}")
            .await;
        assert_eq!((answer.status, answer.mime.as_str()), (412, "application/json"));
        for status in [300, 301, 302, 303, 307, 308, 309, 399] {
            let answer = session
                .run(&format!(
                    r"w HTTP/1.1 {status} X\r\nLocation: /a?b=c#d\r\nContent-Length: 0\r\n\r\n"
                ))
                .await;
            assert_eq!((answer.status, answer.location.as_str()), (status, "/a?b=c#d"));
        }
    });
}

/// What may not be an exact status stays what the interface says.
#[test]
fn statuses_that_must_not_get_through() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        for (status, extra, expected) in [
            (401, r"WWW-Authenticate: Basic realm=x\r\n", 400),
            (407, "", 400),
            (421, "", 400),
            (426, "", 400),
            (404, r"X-Sandstorm-Exact-Status: 426\r\n", 404),
            (500, r"X-Sandstorm-Exact-Status: 503\r\n", 500),
        ] {
            let answer = session
                .run(&format!(r"w HTTP/1.1 {status} X\r\n{extra}Content-Length: 2\r\n\r\nhi"))
                .await;
            assert_eq!(answer.status, expected, "{status}");
            assert_eq!(answer.header("www-authenticate"), None);
        }
    });
}

#[test]
fn answer_headers() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        let mut answer = session
            .run(
                r#"w HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Language: de\r\nContent-Encoding: gzip\r\nETag: "v1"\r\nContent-Length: 2\r\n
                w Content-Disposition: attachment; filename="r.txt"; filename*=UTF-8''r%C3%A9.txt\r\n
                w Set-Cookie: s=1; Path=/\r\nSet-Cookie: t=; Expires=Thu, 01 Jan 1970 00:00:00 GMT\r\n
                w Set-Cookie: u=2; Max-Age=60; HttpOnly; Secure; SameSite=Strict; Domain=example.org\r\n
                w Set-Cookie: v=3; Expires=not a date\r\nSet-Cookie: nameless\r\n
                w X-Sandstorm-App-A: 1\r\nx-sandstorm-app-a: 2\r\nVary: Cookie\r\nCache-Control: no-store\r\n
                w Link: </x>; rel=preload\r\nRefresh: 0\r\nContent-Security-Policy: default-src *\r\nServer: x\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n
                w \r\nhi"#,
            )
            .await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body().await.unwrap(), b"hi");
        assert_eq!(
            (answer.mime.as_str(), answer.encoding.as_str(), answer.language.as_str()),
            ("text/plain", "gzip", "de")
        );
        assert_eq!(answer.etag, Some(("v1".into(), false)));
        assert_eq!(answer.download.as_deref(), Some("r.txt"));
        assert_eq!(
            answer.header("content-disposition"),
            Some("attachment; filename=\"r.txt\"; filename*=UTF-8''r%C3%A9.txt")
        );
        let cookie = |name: &str| answer.cookies.iter().find(|c| c.name == name).unwrap().clone();
        assert_eq!(answer.cookies.len(), 4);
        let plain = |name: &str, value: &str, path: &str| Cookie {
            name: name.into(),
            value: value.into(),
            path: path.into(),
            ..Cookie::default()
        };
        assert_eq!(cookie("s"), plain("s", "1", "/"));
        assert_eq!(cookie("t"), Cookie { absolute: Some(0), ..plain("t", "", "") });
        let u = Cookie { http_only: true, relative: Some(60), ..plain("u", "2", "") };
        assert_eq!(cookie("u"), u);
        assert_eq!(cookie("v"), plain("v", "3", ""));
        let mut names: Vec<&str> = answer.headers.iter().map(|(n, _)| n.as_str()).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["cache-control", "content-disposition", "last-modified", "vary", "x-sandstorm-app-a"]
        );
        assert_eq!(answer.header("x-sandstorm-app-a"), Some("1, 2"));
    });
}

#[test]
fn ranges_head_and_preconditions() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        let mut part = session.get_with("file?size=5000", &[("Range", "bytes=1000-1999")]).await;
        assert_eq!(part.status, 206);
        assert_eq!(part.header("content-range"), Some("bytes 1000-1999/5000"));
        assert_eq!(part.body().await.unwrap().len(), 1000);
        let whole = session.get("file?size=5000").await;
        assert_eq!((whole.status, whole.header("accept-ranges")), (200, Some("bytes")));
        let beyond = session.get_with("file?size=10", &[("Range", "bytes=20-")]).await;
        assert_eq!((beyond.status, beyond.header("content-range")), (416, Some("bytes */10")));

        let head = session.head("file?size=5000").await;
        assert_eq!((head.status, head.header("content-length")), (200, Some("5000")));
        assert_eq!(head.bytes.as_deref(), Some(&b""[..]));

        let fresh = session
            .try_get("file?size=10", |context| {
                let mut tags = context.init_e_tag_precondition().init_matches_none_of(1);
                tags.reborrow().get(0).set_value("probe-10");
            })
            .await
            .unwrap();
        assert_eq!((fresh.status, fresh.etag), (304, Some(("probe-10".into(), false))));
        let date = [("If-Modified-Since", "Sun, 06 Nov 1994 08:49:37 GMT")];
        assert_eq!(session.get_with("file?size=10", &date).await.status, 304);
        let stale = session
            .try_get("file?size=10", |context| {
                let mut tags = context.init_e_tag_precondition().init_matches_one_of(1);
                tags.reborrow().get(0).set_value("other");
            })
            .await
            .unwrap();
        assert_eq!(stale.status, 412);
    });
}

#[test]
fn error_bodies_keep_their_type() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        let mut html = session
            .run(r"w HTTP/1.1 404 X\r\nContent-Type: text/html; charset=UTF-8\r\nContent-Length: 8\r\n\r\n<p>no</p")
            .await;
        assert_eq!(html.html.as_deref(), Some("<p>no</p"));
        assert_eq!(html.body().await.unwrap(), b"<p>no</p");
        for (headers, body) in [
            (r"Content-Type: text/html\r\nContent-Encoding: gzip", "gz"),
            (r"Content-Type: text/html; charset=iso-8859-1", r"\xe4\xf6"),
            (r"Content-Type: text/plain", "no"),
            (r"X: y", "no"),
        ] {
            let answer = session
                .run(&format!(r"w HTTP/1.1 404 X\r\n{headers}\r\nContent-Length: 2\r\n\r\n{body}"))
                .await;
            assert_eq!(answer.html, None, "{headers}");
            assert_eq!(answer.bytes.as_ref().unwrap().len(), 2, "{headers}");
        }
        // Cut at 1 MiB, and said so.
        let line = "x".repeat(1024);
        let mut long = session
            .run(&format!(
                "w HTTP/1.1 500 X\\r\\nContent-Type: text/plain\\r\\n\\r\\n\nrep 1500 {line}"
            ))
            .await;
        assert_eq!((long.status, long.body().await.unwrap().len()), (500, 1 << 20));
        grain.wait_for_log("larger than 1 MiB").await;
    });
}

#[test]
fn nothing_of_a_request_can_become_a_header() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        for path in ["a b", "a\r\nX: y", "a\nX: y", "a\0b", "a\tb", "a HTTP/1.1\r\n\r\nGET /"] {
            let error = session.try_get(path, |_| {}).await.err().expect(path);
            assert!(error.extra.contains("percent-encoded"), "{path:?}: {error}");
        }
        for value in ["a\r\nX: y", "a\nb", "a\0b", "a\rb"] {
            let headers = [("X-Sandstorm-App-A", value)];
            let error = session
                .try_get("echo", |context| add_headers(context, &headers))
                .await
                .err()
                .expect(value);
            assert!(error.extra.contains("control character"), "{value:?}: {error}");
        }
        for name in ["X-Sandstorm-App-A: b", "X-Sandstorm-App-\r\nA", "X-Sandstorm-App-ž"] {
            let headers = [(name, "v")];
            assert!(
                session.try_get("echo", |c| add_headers(c, &headers)).await.is_err(),
                "{name:?}"
            );
        }
        for method in ["GET /x HTTP/1.1\r\n\r\nGET", "", "GE T", "CONNECT", "TRACE"] {
            assert!(session.try_request(method, "echo", b"").await.is_err(), "{method:?}");
        }
        let cookie = session
            .try_get("echo", |context| {
                let mut list = context.init_cookies(1);
                list.reborrow().get(0).set_key("a");
                list.reborrow().get(0).set_value("b\r\nX: y");
            })
            .await;
        assert!(cookie.is_err());
        let tag = session
            .try_get("echo", |context| {
                let mut tags = context.init_e_tag_precondition().init_matches_none_of(1);
                tags.reborrow().get(0).set_value("a\", \"b");
            })
            .await;
        assert!(tag.is_err());
        // Nothing of all this reached the app, and an honest request still does.
        assert_eq!(grain.probe("/last"), json!([]));
        assert_eq!(session.get("echo").await.status, 200);
    });
}
