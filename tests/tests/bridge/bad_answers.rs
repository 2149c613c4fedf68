//! Malformed answers, each with a twin that differs only in the fault and arrives.

use crate::grain::{Grain, story};

/// What is wrong; the app's answer; the same answer without the fault; words of the 502.
const TABLE: &[(&str, &str, &str, &str)] = &[
    (
        "both lengths",
        r"w HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        r"w HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        "both Content-Length and Transfer-Encoding",
    ),
    (
        "two equal lengths",
        r"w HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
        r"w HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        "two Content-Length",
    ),
    (
        "two lengths in one line",
        r"w HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nhi",
        r"w HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        "not a number",
    ),
    (
        "negative length",
        r"w HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nhi",
        r"w HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        "not a number",
    ),
    (
        "length too large for any file",
        r"w HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nhi",
        r"w HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        "not a number",
    ),
    (
        "blank before the colon of a framing header",
        r"w HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nhi",
        r"w HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        "malformed name",
    ),
    (
        "folded framing header",
        r"w HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        r"w HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        "folded over two lines",
    ),
    (
        "unknown transfer coding",
        r"w HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        r"w HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        "something else than chunked",
    ),
    (
        "two transfer codings",
        r"w HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        r"w HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        "two Transfer-Encoding",
    ),
    (
        "no status line",
        r"w hello\r\n\r\n",
        r"w HTTP/1.1 200 hello\r\nContent-Length: 0\r\n\r\n",
        "status line",
    ),
    (
        "TLS",
        r"w \x15\x03\x01\x00\x02\x02\x16",
        r"w HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "status line",
    ),
    (
        "another version",
        r"w HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        r"w HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        "status line",
    ),
    (
        "status of two digits",
        r"w HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
        r"w HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "status line",
    ),
    (
        "status of four digits",
        r"w HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
        r"w HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
        "status line",
    ),
    (
        "status beyond 599",
        r"w HTTP/1.1 600 OK\r\nContent-Length: 0\r\n\r\n",
        r"w HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "status line",
    ),
    (
        "101 that nobody asked for",
        r"w HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\n\r\n",
        r"w HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "status 101",
    ),
    (
        "redirect without an address",
        r"w HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n",
        r"w HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n",
        "without a Location",
    ),
    (
        "dead status",
        r"w HTTP/1.1 305 Use Proxy\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n",
        r"w HTTP/1.1 303 See Other\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n",
        "status 305",
    ),
    ("no answer at all", "sleep 1", r"w HTTP/1.1 204 No\r\n\r\n", "without an answer"),
    (
        "closed inside the headers",
        r"w HTTP/1.1 200 OK\r\nContent-Le",
        r"w HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "in the middle of its headers",
    ),
    (
        "interim answers without end",
        r"rep 100 HTTP/1.1 100 Continue\r\n\r\n",
        "rep 30 HTTP/1.1 100 Continue\\r\\n\\r\\n\nw HTTP/1.1 204 No\\r\\n\\r\\n",
        "without end",
    ),
    (
        "101 header lines",
        "w HTTP/1.1 204 No\\r\\n\nrep 101 X: y\\r\\n\nw \\r\\n",
        "w HTTP/1.1 204 No\\r\\n\nrep 100 X: y\\r\\n\nw \\r\\n",
        "more than 100 header lines",
    ),
    (
        "64 KiB of headers",
        "w HTTP/1.1 204 No\\r\\nX: \nrep 66000 y\nw \\r\\n\\r\\n",
        "w HTTP/1.1 204 No\\r\\nX: \nrep 65000 y\nw \\r\\n\\r\\n",
        "larger than 64 KiB",
    ),
    (
        "an error's body breaks off",
        r"w HTTP/1.1 500 No\r\nContent-Length: 9\r\n\r\nbroken",
        r"w HTTP/1.1 204 No\r\n\r\n",
        "breaks off",
    ),
    (
        "an error's chunk without size",
        r"w HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        r"w HTTP/1.1 204 No\r\n\r\n",
        "does not begin with its size",
    ),
    (
        "an error's chunk that is too long",
        r"w HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
        r"w HTTP/1.1 204 No\r\n\r\n",
        "longer than its size",
    ),
];

#[test]
fn each_fault_is_a_502_that_says_why_and_its_twin_arrives() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        for (what, bad, good, words) in TABLE {
            let mut answer = session.run(bad).await;
            assert_eq!(answer.status, 502, "{what}");
            assert_eq!(answer.header("x-sandstorm-exact-status"), Some("502"), "{what}");
            let page = String::from_utf8(answer.body().await.unwrap()).unwrap();
            assert!(page.contains(words), "{what}: {page}");
            let mut twin = session.run(good).await;
            assert!(twin.status < 400, "{what}: the twin gets {}", twin.status);
            if twin.bytes.is_some() || twin.stream.is_some() {
                twin.body().await.unwrap();
            }
        }
        grain.wait_for_log("the browser gets 502").await;
    });
}

/// Lines that make no sense are left out; the answer arrives, and so does the next one.
#[test]
fn sloppy_headers_cost_only_themselves() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        for line in [
            "ETag: abc",
            r"ETag: \x22a",
            "no colon",
            ": no name",
            "bad name: x",
            "Sn\u{e4}: x",
            r"X: a\x00b",
            r"X: a\rb",
            "Set-Cookie: x",
            "Set-Cookie: a=b; Max-Age=never",
            "Content-Disposition: attachment; filename=\"open",
            r"Content-Type: text/plain\r\nX: a\r\n folded",
            " leading fold",
            "Vary: \u{e4}\u{f6}",
        ] {
            let mut answer = session
                .run(&format!(r"w HTTP/1.1 200 OK\r\n{line}\r\nContent-Length: 2\r\nX-Sandstorm-App-Z: 1\r\n\r\nhi"))
                .await;
            assert_eq!(answer.status, 200, "{line}");
            assert_eq!(answer.body().await.unwrap(), b"hi", "{line}");
            assert_eq!(answer.header("x-sandstorm-app-z"), Some("1"), "{line}");
            assert_eq!(answer.etag, None);
        }
        let log = grain.wait_for_log("no colon").await;
        assert_eq!(log.matches("malformed ETag").count(), 1, "one line is enough:\n{log}");
        // Bare line feeds, no reason, odd blanks: not nice, but clear.
        let mut answer = session
            .run(r"w HTTP/1.1  200\nContent-Length:2\nContent-Type:\ttext/plain \n\nhi")
            .await;
        assert_eq!((answer.status, answer.mime.as_str()), (200, "text/plain"));
        assert_eq!(answer.body().await.unwrap(), b"hi");
    });
}

#[test]
fn a_body_that_breaks_off_never_looks_whole() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        for script in [
            r"w HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this",
            r"w HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n",
            r"w HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\nzz\r\n",
            r"w HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n0\r\n",
        ] {
            let mut answer = session.run(script).await;
            assert_eq!(answer.status, 200);
            let (receiver, _handle) = answer.stream.as_mut().expect("a stream shows the break");
            assert_eq!(receiver.next().await.unwrap().unwrap(), "only this", "{script}");
            assert!(receiver.next().await.unwrap().is_err(), "{script}");
        }
        grain.wait_for_log("the download was cut off").await;
        assert_eq!(session.get("echo").await.status, 200);
    });
}
