//! Bodies through a forwarder, and against peers that do not wait for anything.

mod rpc_support;

use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use capnp::capability::{Client, FromClientHook};
use capnp_rpc::rpc_twoparty_capnp::Side;
use sandstorm_schema::limits::{BODY_CHUNK, BODY_WINDOW};
use sandstorm_schema::rpc::body::{BodyReceiver, BodyWriter, pipe};
use sandstorm_schema::rpc::membrane::wrap;
use sandstorm_schema::rpc::{Crossing, GuardLimits, MembranePolicy, Trust, Vat};
use sandstorm_schema::util_capnp::byte_stream;
use tokio::net::UnixStream;

use rpc_support::*;

struct Allow;
impl MembranePolicy for Allow {
    fn check(&self, _: Crossing) -> Result<(), capnp::Error> {
        Ok(())
    }
}

/// A writer and a reader with `hops` connections between them; the vats must be kept.
fn connected(hops: usize, trust: Trust) -> (BodyWriter, BodyReceiver, Vec<Vat>) {
    let (stream, receiver) = pipe();
    let (mut client, mut vats) = (stream.client, Vec::new());
    for _ in 0..hops {
        let (a, b) = UnixStream::pair().unwrap();
        let (face, _membrane) = wrap(client, Rc::new(Allow));
        vats.push(Vat::spawn(a, Side::Server, Some(face), trust));
        let near = Vat::spawn(b, Side::Client, None, Trust::Peer);
        client = near.bootstrap();
        vats.push(near);
    }
    (BodyWriter::new(FromClientHook::new(client.hook)), receiver, vats)
}

#[test]
fn the_first_byte_is_there_before_the_last_is_written() {
    run(async {
        let (mut writer, mut receiver, _vats) = connected(2, Trust::Hostile(GuardLimits::app()));
        for n in 0..5u8 {
            writer.write(Bytes::from(vec![n])).await.unwrap();
            let got = tokio::time::timeout(Duration::from_secs(5), receiver.next()).await;
            assert_eq!(got.expect("no waiting for more").unwrap().unwrap()[..], [n]);
        }
        writer.done().await.unwrap();
        assert!(receiver.next().await.is_none());
    });
}

/// Its receiver sets the speed of a stream: it goes on where so many other calls would wait
/// for longer than a test may take.
#[test]
fn a_stream_that_is_taken_is_not_slowed() {
    const PIECES: usize = 10_000;
    run(async {
        let limits = GuardLimits { messages_per_second: 400, ..GuardLimits::app() };
        let (mut writer, mut receiver, _vats) = connected(2, Trust::Hostile(limits));
        let piece = Bytes::from(vec![7; 4096]);
        let write = async {
            for _ in 0..PIECES {
                writer.write(piece.clone()).await.unwrap();
            }
            writer.done().await.unwrap();
        };
        let read = async {
            let mut got = 0;
            while let Some(piece) = receiver.next().await {
                got += piece.unwrap().len();
            }
            got
        };
        assert_eq!(tokio::join!(write, read).1, PIECES * 4096);
    });
}

#[test]
fn the_end_of_one_side_reaches_the_other_over_two_hops() {
    run(async {
        let (mut writer, receiver, _vats) = connected(2, Trust::Peer);
        writer.write(Bytes::from_static(b"x")).await.unwrap();
        drop(receiver);
        let mut refused = None;
        for _ in 0..200 {
            if let Err(error) = writer.write(Bytes::from_static(b"more")).await {
                refused = Some(error);
                break;
            }
            sleep_ms(5).await;
        }
        let refused = refused.expect("the writer is told");
        assert!(refused.extra.contains("nobody reads"), "{}", refused.extra);
        let again = writer.write(Bytes::new()).await.unwrap_err();
        assert_eq!(again.extra, refused.extra, "the error sticks");

        let (writer, mut receiver, vats) = connected(1, Trust::Peer);
        let keep = vats.last().unwrap().clone();
        drop(writer);
        keep.disconnect().await;
        let end = tokio::time::timeout(Duration::from_secs(5), receiver.next()).await;
        assert!(end.expect("told").unwrap().is_err(), "a body that broke off is no whole body");
    });
}

/// Writes all it has without waiting for one answer, as simple apps do.
#[test]
fn a_writer_that_waits_for_nothing_is_bounded_by_the_guard() {
    run(async {
        let (stream, mut receiver) = pipe();
        let limits = GuardLimits { held_bytes: 4 << 20, ..GuardLimits::app() };
        let (guarded, peer) = pair(Some(stream.client), None, limits);
        let stream: byte_stream::Client = FromClientHook::new(peer.bootstrap::<Client>().hook);
        let chunk = vec![1u8; BODY_CHUNK];
        let write = |stream: &byte_stream::Client| {
            let mut request = stream.client.new_call::<Any, Any>(
                <byte_stream::Client as capnp::traits::HasTypeId>::TYPE_ID,
                0,
                None,
            );
            request.get().init_as::<byte_stream::write_params::Builder<'_>>().set_data(&chunk);
            request.send().promise
        };
        let writes: Vec<_> = (0..200).map(|_| write(&stream)).collect();
        let answers = tokio::task::spawn_local(futures::future::join_all(writes));
        sleep_ms(300).await;
        let held = guarded.stats().unwrap().held_bytes;
        assert!(held > 3 << 20 && held <= 4 << 20, "{held} bytes held");
        // What was taken comes out in order; the rest was refused, and the connection lives.
        let mut got = 0;
        while let Ok(Some(next)) =
            tokio::time::timeout(Duration::from_millis(300), receiver.next()).await
        {
            got += next.unwrap().len();
        }
        let answers = answers.await.unwrap();
        let taken = answers.iter().filter(|answer| answer.is_ok()).count();
        let overloaded = answers
            .iter()
            .filter(|a| a.as_ref().err().is_some_and(|e| e.kind == capnp::ErrorKind::Overloaded))
            .count();
        assert_eq!(got, taken * BODY_CHUNK);
        assert_eq!(taken + overloaded, 200);
        assert!(taken * BODY_CHUNK > BODY_WINDOW && overloaded > 50);
        write(&stream).await.unwrap();
    });
}

/// Prints the rates; asserts nothing about them, since machines differ.
#[test]
fn rates() {
    run(async {
        const TOTAL: usize = 800 * BODY_CHUNK;
        for (name, hops, trust) in [
            ("one hop, plain", 1, Trust::Peer),
            ("one hop, guarded", 1, Trust::Hostile(GuardLimits::app())),
            ("two hops, guarded", 2, Trust::Hostile(GuardLimits::app())),
        ] {
            let (mut writer, mut receiver, _vats) = connected(hops, trust);
            let chunk = Bytes::from(vec![7u8; BODY_CHUNK]);
            let started = Instant::now();
            let write = async {
                for _ in 0..TOTAL / BODY_CHUNK {
                    writer.write(chunk.clone()).await.unwrap();
                }
                writer.done().await.unwrap();
            };
            let read = async {
                let mut got = 0;
                while let Some(chunk) = receiver.next().await {
                    got += chunk.unwrap().len();
                }
                got
            };
            let ((), got) = futures::join!(write, read);
            assert_eq!(got, TOTAL);
            let rate = TOTAL as f64 / 1e6 / started.elapsed().as_secs_f64();
            println!("{name}: {rate:.0} MB/s, all on one thread");
        }
        for guarded in [false, true] {
            let (a, b) = UnixStream::pair().unwrap();
            let echo = object(|_, params, mut results| async move {
                put_data(results.get(), params.get()?.get_as::<capnp::data::Reader<'_>>()?);
                Ok(())
            });
            // At its pace it would show that, and not what a call costs.
            let limits = GuardLimits { messages_per_second: u32::MAX, ..GuardLimits::app() };
            let trust = if guarded { Trust::Hostile(limits) } else { Trust::Peer };
            let _server = Vat::spawn(a, Side::Server, Some(echo), trust);
            let client: Client = Vat::spawn(b, Side::Client, None, Trust::Peer).bootstrap();
            call_data(&client, 0, b"").await.unwrap();
            for at_once in [1, 32] {
                let started = Instant::now();
                for _ in 0..6400 / at_once {
                    let calls = (0..at_once).map(|_| call_data(&client, 0, &[1; 1024]));
                    futures::future::join_all(calls).await;
                }
                let each = started.elapsed().as_secs_f64() / 6400.0 * 1e6;
                println!("1 KiB call, {at_once} at once, guarded: {guarded}: {each:.1} us");
            }
        }
    });
}
