//! Bodies that are long, slow or endless, both ways, and what becomes of them when somebody leaves.

use std::time::{Duration, Instant};

use crate::client::{Upload, first_piece, script_path};
use crate::grain::{Grain, story};

async fn pause(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

#[test]
fn the_first_byte_arrives_before_the_last_is_written() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        let begin = Instant::now();
        let mut answer = session.get("drip?n=10&ms=200&tag=drip").await;
        assert_eq!(first_piece(&mut answer).await, "d");
        assert!(begin.elapsed() < Duration::from_millis(500), "{:?}", begin.elapsed());
        assert_eq!(grain.tag("drip").state, "writing");
        assert_eq!(answer.body().await.unwrap().len(), 9);
        assert!(begin.elapsed() > Duration::from_millis(1600));
    });
}

/// The kind of "live events come late or in lumps". The app sends an event only when it is told
/// to, and is told only when the one before has arrived: what is held back anywhere hangs.
#[test]
fn events_arrive_one_by_one_and_a_reader_who_leaves_is_noticed() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        let mut answer = session.get("sse?bell=next&tag=sse").await;
        assert_eq!(answer.mime, "text/event-stream");
        for at in 0..6 {
            assert_eq!(session.get("ring/next").await.status, 200);
            let piece = first_piece(&mut answer).await;
            assert!(piece.starts_with(format!("id: {at}\n").as_bytes()), "{piece:?}");
        }
        drop(answer);
        grain.wait_for_tag("sse", &["closed"]).await;
    });
}

#[test]
fn a_silent_event_stream_ends_with_its_reader() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        let answer = session.get("sse?first=60000&tag=quiet").await;
        let begin = Instant::now();
        drop(answer);
        grain.wait_for_tag("quiet", &["closed"]).await;
        assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    });
}

#[test]
fn a_call_that_is_given_up_closes_the_apps_connection() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        let waiting = {
            let session = session.clone();
            tokio::task::spawn_local(async move { session.get("never?tag=never").await })
        };
        grain.wait_for_tag("never", &["waiting"]).await;
        let begin = Instant::now();
        waiting.abort();
        grain.wait_for_tag("never", &["closed"]).await;
        assert!(begin.elapsed() < Duration::from_secs(1));
        assert_eq!(session.get("echo").await.status, 200);
    });
}

#[test]
fn fifty_answers_that_never_come_disturb_nobody() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        let waiting: Vec<_> = (0..50)
            .map(|_| {
                let session = session.clone();
                tokio::task::spawn_local(async move { session.get("never").await })
            })
            .collect();
        pause(300).await;
        let begin = Instant::now();
        assert_eq!(session.get("echo").await.status, 200);
        assert!(begin.elapsed() < Duration::from_millis(500));
        waiting.iter().for_each(|task| task.abort());
        for _ in 0..100 {
            if grain.probe("/stats")["open"].as_u64().unwrap() <= 2 {
                return;
            }
            pause(20).await;
        }
        panic!("connections stay open: {}", grain.probe("/stats"));
    });
}

/// A reader at 1 MB/s of an endless body: the app's writer stalls, the bridge does not grow.
#[test]
fn an_endless_body_waits_for_its_reader() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        session.get("echo").await;
        let idle = grain.memory_kib();
        for path in ["endless?tag=e1", "endless?chunked=1&piece=100&tag=e2"] {
            let tag = &path[path.len() - 2..];
            let mut answer = session.get(path).await;
            let (receiver, _handle) = answer.stream.as_mut().unwrap();
            let begin = Instant::now();
            let mut read = 0u64;
            let mut most = 0;
            while begin.elapsed() < Duration::from_secs(4) {
                read += receiver.next().await.unwrap().unwrap().len() as u64;
                let due = Duration::from_secs_f64(read as f64 / 1e6);
                if let Some(wait) = due.checked_sub(begin.elapsed()) {
                    tokio::time::sleep(wait).await;
                }
                most = most.max(grain.memory_kib());
            }
            let written = grain.tag(tag).written;
            // What lies between: two sockets' buffers of the kernel (at most 6 MB each way), the
            // window, one read.
            assert!(written < read + 20_000_000, "{path}: read {read}, written {written}");
            assert!(most < idle + 30 * 1024, "{path}: {idle} KiB idle, {most} KiB at most");
            let before = grain.tag(tag).written;
            pause(500).await;
            let after = grain.tag(tag).written;
            assert!(after - before < 2_000_000, "{path}: the writer does not stall");
            drop(answer);
            grain.wait_for_tag(tag, &["broken"]).await;
        }
    });
}

#[test]
fn a_large_body_arrives_whole() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        let size = 50_000_000u64;
        let mut answer = session.get(&format!("file?size={size}")).await;
        let (receiver, _handle) = answer.stream.as_mut().unwrap();
        let mut at = 0u64;
        while let Some(piece) = receiver.next().await {
            for b in piece.unwrap() {
                assert_eq!(b, (at.wrapping_mul(31) ^ (at >> 8)) as u8);
                at += 1;
            }
        }
        assert_eq!(at, size);
    });
}

#[test]
fn small_answers_come_in_one_piece_however_the_app_writes_them() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        for script in [
            r"w HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "w HTTP/1.1 200 OK\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n2\\r\\nhe\\r\\n3;x=y\\r\\nllo\\r\\n0\\r\\nTrailer: x\\r\\n\\r\\n",
            r"w HTTP/1.0 200 OK\r\n\r\nhello",
        ] {
            let mut answer = session.run(script).await;
            assert_eq!(answer.body().await.unwrap(), b"hello", "{script}");
        }
        let whole = session.run(r"w HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await;
        assert_eq!(whole.bytes.as_deref(), Some(&b"hello"[..]));
    });
}

// Uploads.

#[test]
fn an_uploads_first_byte_reaches_the_app_before_its_last_is_sent() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        for size in [Some(300_000u64), None] {
            let tag = if size.is_some() { "known" } else { "unknown" };
            let upload = session.put_streaming(&format!("upload?tag={tag}")).await;
            if let Some(size) = size {
                upload.expect_size(size).await.unwrap();
            }
            upload.write(&[b'a'; 100_000]).await.unwrap();
            for _ in 0..100 {
                if grain.tag(tag).read == 100_000 {
                    break;
                }
                pause(20).await;
            }
            assert_eq!(grain.tag(tag).read, 100_000, "{tag}");
            upload.write(&[b'b'; 100_000]).await.unwrap();
            upload.write(&[b'c'; 100_000]).await.unwrap();
            upload.done().await.unwrap();
            let json = upload.answer().await.json().await;
            assert_eq!(json["body"]["bytes"], 300_000, "{tag}");
            assert_eq!(json["body"]["framing"], if size.is_some() { "length" } else { "chunked" });
        }
    });
}

/// The kind of "files of unknown length arrive empty": many small servers know no chunks.
#[test]
fn an_upload_of_unknown_length_that_ends_soon_gets_a_length() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        for pieces in [0usize, 1, 5] {
            let upload = session.put_streaming("upload").await;
            for _ in 0..pieces {
                upload.write(b"0123456789").await.unwrap();
            }
            upload.done().await.unwrap();
            let json = upload.answer().await.json().await;
            assert_eq!(json["body"]["framing"], "length", "{pieces}");
            assert_eq!(json["body"]["bytes"], pieces * 10);
        }
        // And three million bytes at once are too many to hold back, but arrive.
        let body: Vec<u8> = (0..3_000_000u64).map(|n| (n % 251) as u8).collect();
        let upload = session.put_streaming("upload").await;
        for piece in body.chunks(65536) {
            upload.write(piece).await.unwrap();
        }
        upload.done().await.unwrap();
        let json = upload.answer().await.json().await;
        assert_eq!(
            (&json["body"]["bytes"], &json["body"]["framing"]),
            (&3_000_000.into(), &"chunked".into())
        );
        let hash = body.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
            (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3)
        });
        assert_eq!(json["body"]["hash"], format!("{hash:016x}"));
    });
}

#[test]
fn a_slow_app_slows_the_upload_and_the_bridge_does_not_grow() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        session.get("echo").await;
        let idle = grain.memory_kib();
        let upload = session.put_streaming("upload?slow=60&tag=slow").await;
        upload.expect_size(1 << 30).await.unwrap();
        let mut writer = sandstorm_schema::rpc::body::BodyWriter::new(upload.byte_stream());
        let piece = bytes::Bytes::from(vec![b'u'; 65536]);
        let begin = Instant::now();
        let (mut sent, mut most) = (0u64, 0);
        while begin.elapsed() < Duration::from_secs(4) {
            let write = writer.write(piece.clone());
            if tokio::time::timeout(Duration::from_secs(4), write).await.is_err() {
                break;
            }
            sent += 65536;
            most = most.max(grain.memory_kib());
        }
        let read = grain.tag("slow").read;
        assert!(sent < read + 20_000_000, "sent {sent}, the app read {read}");
        assert!(most < idle + 30 * 1024, "{idle} KiB idle, {most} KiB at most");
    });
}

#[test]
fn an_upload_given_up_looks_cut_to_the_app() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        for (tag, size) in [("cut1", Some(1000)), ("cut2", None)] {
            let upload = session.put_streaming(&format!("upload?tag={tag}")).await;
            if let Some(size) = size {
                upload.expect_size(size).await.unwrap();
            }
            upload.write(b"half").await.unwrap();
            pause(300).await;
            // The answer is still waited for: letting go of the stream is enough.
            let Upload { stream, response } = upload;
            drop(stream);
            grain.wait_for_tag(tag, &["cut"]).await;
            let mut answer = response.await.unwrap().unwrap();
            assert_eq!(answer.json().await["body"]["complete"], false);
        }
    });
}

/// Nobody but the bridge can end it: the app waits for more, the caller for an answer.
#[test]
fn a_body_of_another_length_than_announced_ends_the_request() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        for (announced, tag) in [(3, "too-long"), (30, "too-short")] {
            let upload = session.put_streaming(&format!("upload?tag={tag}")).await;
            upload.expect_size(announced).await.unwrap();
            upload.write(b"ab").await.unwrap();
            grain.wait_for_tag(tag, &["reading"]).await;
            // The answer to a write is an acknowledgement; what went wrong shows at the end.
            let _ = upload.write(b"four").await;
            let failed = upload.done().await.unwrap_err().to_string();
            assert!(failed.contains("as long as announced"), "{tag}: {failed}");
            let answer = tokio::time::timeout(Duration::from_secs(10), upload.response).await;
            assert!(answer.expect("an end").unwrap().is_err(), "{tag}");
            grain.wait_for_tag(tag, &["cut", "broken"]).await;
        }
    });
}

#[test]
fn an_early_refusal_arrives_while_the_upload_is_under_way() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        for path in ["upload?early=413", "upload?early=413&leave=1"] {
            let upload = session.put_streaming(path).await;
            upload.expect_size(50_000_000).await.unwrap();
            upload.write(&[0; 65536]).await.unwrap();
            let mut answer = tokio::time::timeout(Duration::from_secs(5), upload.response)
                .await
                .unwrap()
                .unwrap()
                .unwrap();
            assert_eq!(answer.status, 413, "{path}");
            assert_eq!(answer.body().await.unwrap(), b"early", "{path}");
        }
        // A large buffered body, too.
        let mut answer = session.post("upload?early=413&leave=1", "", &vec![0; 8 << 20]).await;
        assert_eq!((answer.status, answer.body().await.unwrap().as_slice()), (413, &b"early"[..]));
        let json = session.post("upload", "", &vec![0; 8 << 20]).await.json().await;
        assert_eq!(json["body"]["bytes"], 8 << 20);
    });
}

#[test]
fn the_upload_streams_rules() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        let too_much = session.put_streaming("upload").await;
        too_much.expect_size(3).await.unwrap();
        // A streaming call's error shows at the next call.
        let _ = too_much.write(b"four").await;
        assert!(too_much.done().await.is_err());
        let too_little = session.put_streaming("upload").await;
        too_little.expect_size(3).await.unwrap();
        too_little.write(b"ab").await.unwrap();
        assert!(too_little.done().await.is_err());
        let twice = session.put_streaming("upload").await;
        twice.write(b"ab").await.unwrap();
        twice.done().await.unwrap();
        assert!(twice.done().await.is_err());
        assert!(twice.stream.get_response_request().send().promise.await.is_err());
        assert_eq!(twice.answer().await.json().await["body"]["bytes"], 2);
    });
}

/// Letting go of the stream after `done` must not cost what is still queued for a slow app.
#[test]
fn an_upload_let_go_after_its_end_arrives_whole() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        for size in [Some(20 * 65536), None] {
            let upload = session.put_streaming("upload?slow=40").await;
            if let Some(size) = size {
                upload.expect_size(size).await.unwrap();
            }
            for _ in 0..20 {
                upload.write(&[1; 65536]).await.unwrap();
            }
            upload.done().await.unwrap();
            let Upload { stream, response } = upload;
            drop(stream);
            let json = response.await.unwrap().unwrap().json().await;
            assert_eq!(json["body"]["bytes"], 20 * 65536);
            assert_eq!(json["body"]["complete"], true);
        }
    });
}

/// Full duplex: the answer streams while the request still does.
#[test]
fn answer_and_upload_at_once() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        let script = script_path(
            "w HTTP/1.1 200 OK\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n5\\r\\nbegin\\r\\n\nread\nw 3\\r\\nend\\r\\n0\\r\\n\\r\\n",
        );
        let upload = session.put_streaming(&script).await;
        upload.expect_size(10).await.unwrap();
        upload.write(b"01234").await.unwrap();
        let stream = upload.byte_stream();
        let mut answer = upload.response.await.unwrap().unwrap();
        assert_eq!(first_piece(&mut answer).await, "begin");
        let mut call = stream.write_request();
        call.get().set_data(b"56789");
        call.send().await.unwrap();
        assert_eq!(answer.body().await.unwrap(), b"end");
    });
}
