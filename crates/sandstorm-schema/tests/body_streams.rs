//! Bodies between two real vats: windows, order, ends and breaks.

use bytes::Bytes;
use capnp::Error;
use capnp::capability::FromClientHook;
use capnp::traits::HasTypeId;
use capnp_rpc::rpc_twoparty_capnp::Side;
use sandstorm_schema::limits::{BODY_CHUNK, BODY_WINDOW, CALL_COST};
use sandstorm_schema::rpc::body::{BodyReceiver, BodyWriter, Start, pipe};
use sandstorm_schema::rpc::connect::{Budget, GuardLimits, Trust, Vat};
use sandstorm_schema::util_capnp::byte_stream;
use tokio::net::UnixStream;

fn local(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

/// Runs `test` with a writer in one vat and the reader in another.
fn with_stream<F: Future<Output = ()>>(test: impl FnOnce(BodyWriter, BodyReceiver, Vat, Vat) -> F) {
    local(async {
        let (stream, receiver, reader, writer) = streams().await;
        test(BodyWriter::new(stream), receiver, reader, writer).await;
    });
}

#[test]
fn every_byte_arrives_in_order_and_the_end_is_told() {
    with_stream(|mut writer, mut receiver, _r, _w| async move {
        let total = 3 * 1024 * 1024 + 17;
        let sent: Bytes = (0..total).map(|i| (i % 251) as u8).collect::<Vec<_>>().into();
        let expected = sent.clone();
        let send = async move {
            writer.expect_size(total as u64).await.unwrap();
            writer.write(sent).await.unwrap();
            writer.done().await.unwrap();
        };
        let receive = async move {
            assert!(matches!(receiver.start().await.unwrap(), Start::Size(n) if n == total as u64));
            let mut got = Vec::new();
            while let Some(chunk) = receiver.next().await {
                got.extend_from_slice(&chunk.unwrap());
            }
            assert!(got == expected);
        };
        tokio::join!(send, receive);
    });
}

#[test]
fn a_reader_that_stops_holds_the_writer_at_two_windows() {
    with_stream(|mut writer, mut receiver, _r, _w| async move {
        let chunk = Bytes::from(vec![0u8; BODY_CHUNK]);
        let mut sent = 0;
        while let Ok(result) =
            tokio::time::timeout(std::time::Duration::from_millis(300), writer.write(chunk.clone()))
                .await
        {
            result.unwrap();
            sent += BODY_CHUNK;
            assert!(sent <= 4 * BODY_WINDOW, "nothing holds the writer");
        }
        assert!(sent >= BODY_WINDOW);
        let first = receiver.next().await.unwrap().unwrap();
        assert_eq!(first.len(), BODY_CHUNK);
        // Room again: the writer goes on.
        tokio::time::timeout(std::time::Duration::from_secs(2), writer.write(chunk))
            .await
            .unwrap()
            .unwrap();
    });
}

/// Each costs a call's memory at both ends, so it is the calls that are few.
#[test]
fn small_pieces_fill_the_window_too() {
    with_stream(|mut writer, receiver, _r, _w| async move {
        let mut sent = 0;
        while let Ok(result) = tokio::time::timeout(
            std::time::Duration::from_millis(300),
            writer.write(Bytes::from_static(b"x")),
        )
        .await
        {
            result.unwrap();
            sent += 1;
            assert!(sent <= 4 * BODY_WINDOW / CALL_COST, "nothing holds the writer");
        }
        assert!(sent >= BODY_WINDOW / CALL_COST);
        drop(receiver);
    });
}

/// A call of `write` as peers make it that know nothing of our window.
fn write(
    stream: &byte_stream::Client,
    data: &[u8],
) -> impl Future<Output = Result<(), Error>> + use<> {
    let mut request = stream.as_client_hook().new_call(byte_stream::Client::TYPE_ID, 0, None);
    request.get().init_as::<byte_stream::write_params::Builder<'_>>().set_data(data);
    let answer = request.send().promise;
    async move { answer.await.map(drop) }
}

/// The reader's end of a stream, and the writer's end in another vat.
async fn streams() -> (byte_stream::Client, BodyReceiver, Vat, Vat) {
    let (a, b) = UnixStream::pair().unwrap();
    let (client, receiver) = pipe();
    let reader =
        Vat::spawn(a, Side::Server, Some(client.client), Trust::Hostile(GuardLimits::app()));
    let writer = Vat::spawn(b, Side::Client, None, Trust::Peer);
    (writer.bootstrap(), receiver, reader, writer)
}

#[test]
fn calls_that_wait_for_no_answer_are_taken_in_their_order() {
    local(async {
        let (stream, mut receiver, _r, _w) = streams().await;
        let piece = |i: u8| vec![i; 50_000 + usize::from(i) * 1_000];
        let writes: Vec<_> = (0..60).map(|i| write(&stream, &piece(i))).collect();
        // Before a single one was answered, and while most of them wait for room.
        let done = stream.done_request().send().promise;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        let read = async {
            let mut got = Vec::new();
            while let Some(chunk) = receiver.next().await {
                got.extend_from_slice(&chunk.unwrap());
                tokio::task::yield_now().await;
            }
            got
        };
        let (got, written, ended) = tokio::join!(read, futures::future::try_join_all(writes), done);
        assert!(got == (0..60).flat_map(piece).collect::<Vec<_>>());
        written.unwrap();
        ended.unwrap();
    });
}

/// An app chooses how large its pieces are; what is not read yet stays in the message, which the
/// guard counts until the call is answered.
#[test]
fn a_huge_piece_comes_as_it_is_read() {
    local(async {
        let (stream, mut receiver, reader, _w) = streams().await;
        let huge: Vec<u8> = (0..20_000_000).map(|i| (i % 251) as u8).collect();
        let mut written = std::pin::pin!(write(&stream, &huge));
        let mut got = Vec::new();
        while let Some(chunk) = tokio::select! {
            chunk = receiver.next() => chunk,
            end = &mut written, if got.len() < huge.len() - BODY_WINDOW => panic!("answered: {end:?}"),
        } {
            let chunk = chunk.unwrap();
            assert!(chunk.len() <= BODY_CHUNK);
            got.extend_from_slice(&chunk);
            if got.len() == 10 * BODY_CHUNK {
                assert!(reader.stats().unwrap().held_bytes >= huge.len());
            }
            if got.len() == huge.len() {
                break;
            }
        }
        assert!(got == huge);
        written.await.unwrap();
    });
}

/// Whoever runs many peers has no more memory than whoever runs one.
#[test]
fn peers_of_one_owner_share_what_waits() {
    local(async {
        let budget = Budget::new(3 << 20);
        let mut ends = Vec::new();
        for _ in 0..2 {
            let (a, b) = UnixStream::pair().unwrap();
            let (client, receiver) = pipe();
            let limits = GuardLimits::app();
            let reader =
                Vat::spawn_within(a, Side::Server, Some(client.client), limits, budget.clone());
            let writer = Vat::spawn(b, Side::Client, None, Trust::Peer);
            let stream: byte_stream::Client = writer.bootstrap();
            ends.push((stream, receiver, reader, writer));
        }
        let [(one, reads, ..), (other, other_reads, ..)] = &mut ends[..] else {
            unreachable!("two were made")
        };
        let large = vec![1; 2 << 20];
        let waits = write(one, &large);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        assert!(budget.used() > large.len());
        let refused = write(other, &large).await.unwrap_err();
        assert_eq!(refused.kind, capnp::ErrorKind::Overloaded);
        // What is small passes, and so does all once the first was read.
        write(other, b"small").await.unwrap();
        assert_eq!(other_reads.next().await.unwrap().unwrap(), "small");
        let mut got = 0;
        while got < large.len() {
            got += reads.next().await.unwrap().unwrap().len();
        }
        waits.await.unwrap();
        let (written, _) = tokio::join!(write(other, &large), async {
            let mut got = 0;
            while got < large.len() {
                got += other_reads.next().await.unwrap().unwrap().len();
            }
        });
        written.unwrap();
        assert_eq!(budget.used(), 0);
    });
}

/// A call that is given up makes way for those behind it.
#[test]
fn a_write_that_is_given_up_holds_nobody() {
    local(async {
        let (stream, mut receiver, _r, _w) = streams().await;
        let full = write(&stream, &vec![1; BODY_WINDOW]);
        let given_up = write(&stream, &vec![2; BODY_WINDOW]);
        let last = write(&stream, &[3]);
        full.await.unwrap();
        drop(given_up);
        let read = async {
            while let Some(chunk) = receiver.next().await {
                if chunk.unwrap().last() == Some(&3) {
                    break;
                }
            }
        };
        let (read, last) = tokio::join!(
            tokio::time::timeout(std::time::Duration::from_secs(10), read),
            tokio::time::timeout(std::time::Duration::from_secs(10), last)
        );
        read.unwrap();
        last.unwrap().unwrap();
    });
}

#[test]
fn a_reader_that_leaves_fails_the_writer_for_good() {
    with_stream(|mut writer, receiver, _r, _w| async move {
        writer.write(Bytes::from_static(b"hello")).await.unwrap();
        drop(receiver);
        let mut failed = false;
        for _ in 0..100 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            failed |= writer.write(Bytes::from_static(b"more")).await.is_err();
        }
        assert!(failed);
        assert!(writer.done().await.is_err());
    });
}

#[test]
fn a_body_that_breaks_off_never_looks_whole() {
    with_stream(|mut writer, mut receiver, reader_vat, writer_vat| async move {
        writer.write(Bytes::from_static(b"half")).await.unwrap();
        assert_eq!(receiver.next().await.unwrap().unwrap(), "half");
        drop(writer);
        writer_vat.disconnect().await;
        reader_vat.disconnect().await;
        assert!(receiver.next().await.unwrap().is_err());
    });
}

#[test]
fn a_length_that_does_not_fit_is_an_error_at_both_ends() {
    with_stream(|mut writer, mut receiver, _r, _w| async move {
        writer.expect_size(3).await.unwrap();
        writer.write(Bytes::from_static(b"four")).await.unwrap();
        assert!(writer.done().await.is_err());
        assert!(receiver.next().await.unwrap().is_err());
    });
    with_stream(|mut writer, mut receiver, _r, _w| async move {
        writer.expect_size(5).await.unwrap();
        writer.write(Bytes::from_static(b"four")).await.unwrap();
        writer.done().await.unwrap();
        assert!(receiver.next().await.unwrap().is_ok());
        assert!(receiver.next().await.unwrap().is_err());
    });
}
