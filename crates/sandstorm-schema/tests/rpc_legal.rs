//! What honest peers do has to work through the guard, and leave nothing behind.

mod rpc_support;

use std::cell::RefCell;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use capnp::capability::{Client, RemotePromise};
use capnp_rpc::rpc_capnp::{cap_descriptor, message, return_};
use capnp_rpc::rpc_twoparty_capnp::Side;
use sandstorm_schema::rpc::{GuardLimits, GuardStats, Trust, Vat, bind_at, connect_at, settled};

use rpc_support::raw::{self, Raw, call_on, return_with};
use rpc_support::*;

/// Method 0 echoes bytes; 1 echoes a capability; 2 calls its capability with the answer "called";
/// 3 keeps it; 4 never answers; 5 gives a promise for what 3 kept, settled after 20 ms; 6 echoes a
/// capability after 30 ms.
fn service(drops: &DropCount) -> Client {
    let kept: Rc<RefCell<Option<Client>>> = Rc::default();
    let drops = drops.clone();
    let alive = drops.guard();
    object(move |method, params, mut results| {
        let (kept, _alive) = (kept.clone(), &alive);
        let running = drops.clone();
        async move {
            match method {
                0 => put_data(results.get(), params.get()?.get_as::<capnp::data::Reader<'_>>()?),
                1 => put_cap(results.get(), &get_cap(params.get()?)?),
                2 => {
                    let cap = get_cap(params.get()?)?;
                    put_data(results.get(), &call_data(&cap, 0, b"called").await?);
                }
                3 => *kept.borrow_mut() = Some(get_cap(params.get()?)?),
                4 => {
                    let _cancelled = running.guard();
                    futures::future::pending::<()>().await;
                }
                5 => {
                    let kept = kept.clone();
                    let later: Client = capnp_rpc::new_future_client(async move {
                        sleep_ms(20).await;
                        let kept = kept.borrow_mut().take();
                        kept.ok_or_else(|| capnp::Error::failed("nothing kept".into()))
                    });
                    put_cap(results.get(), &later);
                }
                6 => {
                    let cap = get_cap(params.get()?)?;
                    sleep_ms(30).await;
                    put_cap(results.get(), &cap);
                }
                _ => return Err(capnp::Error::unimplemented("no such method".into())),
            }
            Ok(())
        }
    })
}

fn same(a: &Client, b: &Client) -> bool {
    a.hook.get_ptr() == b.hook.get_ptr()
}

async fn resolved(client: Client) -> Client {
    settled(client).await.unwrap()
}

/// Runs `test` in both directions: the guard must be invisible to caller and callee.
fn both_ways<F: Future<Output = ()>>(test: impl Fn(Client, DropCount, Vat) -> F) {
    for guarded_serves in [true, false] {
        run(async {
            let drops = DropCount::default();
            let service = Some(service(&drops));
            let (guarded, peer) = match guarded_serves {
                true => pair(service, None, GuardLimits::app()),
                false => pair(None, service, GuardLimits::app()),
            };
            let client = if guarded_serves { peer.bootstrap() } else { guarded.bootstrap() };
            test(client, drops.clone(), guarded.clone()).await;
            sleep_ms(30).await;
            // Whatever the test did, the guard's tables are empty again, except for calls that
            // were given up: nobody ever acknowledges those.
            let mut stats = guarded.stats().unwrap();
            (stats.abandoned_calls, stats.given_up_calls) = (0, 0);
            assert_eq!(stats, GuardStats::default());
            assert_eq!(guarded.queued_bytes(), 0);
            guarded.disconnect().await;
            assert!(peer.closed().await.is_ok());
            assert!(drops.count() >= 1, "the service is dropped");
        });
    }
}

#[test]
fn calls_and_large_calls() {
    both_ways(|client, _, _| async move {
        for size in [0, 1, 100, 65536, 5_000_000] {
            let data: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            assert!(call_data(&client, 0, &data).await.unwrap() == data);
        }
        let error = call_data(&client, 99, b"").await.unwrap_err();
        assert_eq!(error.kind, capnp::ErrorKind::Unimplemented);
    });
}

#[test]
fn a_hundred_times_64_kib_each_way_at_once() {
    both_ways(|client, _, _| async move {
        let data = vec![3u8; 65536];
        let calls = (0..100).map(|_| call_data(&client, 0, &data));
        for answer in futures::future::join_all(calls).await {
            assert!(answer.unwrap() == data);
        }
    });
}

#[test]
fn a_capability_that_comes_back_is_the_same() {
    both_ways(|client, drops, _| async move {
        let mine = service(&drops);
        let back = resolved(call_cap(&client, 1, &mine).await.unwrap()).await;
        assert!(same(&back, &mine));
        let theirs = call_cap(&client, 1, &client).await.unwrap();
        let again = call_cap(&client, 1, &theirs).await.unwrap();
        assert!(same(&resolved(theirs).await, &resolved(again).await));
    });
}

#[test]
fn callbacks_and_pipelining() {
    both_ways(|client, drops, _| async move {
        let mine = service(&drops);
        let answer = call(&client, 2, |content| put_cap(content, &mine)).promise.await.unwrap();
        let text = answer.get().unwrap().get_as::<capnp::data::Reader<'_>>().unwrap().to_vec();
        assert_eq!(text, b"called");
        drop(answer);
        // Called before it is there.
        let RemotePromise { promise, pipeline } = call(&client, 1, |c| put_cap(c, &mine));
        let early = Client::new(pipeline.get_pointer_field(0).as_cap());
        assert_eq!(call_data(&early, 0, b"early").await.unwrap(), b"early");
        drop((promise.await.unwrap(), early));
        // And handed on before it is there.
        let RemotePromise { promise, pipeline } = call(&client, 1, |c| put_cap(c, &client));
        let early = Client::new(pipeline.get_pointer_field(0).as_cap());
        let back = call_cap(&client, 1, &early).await.unwrap();
        assert_eq!(call_data(&back, 0, b"x").await.unwrap(), b"x");
        drop(promise.await.unwrap());
    });
}

#[test]
fn promises_resolve_to_either_side() {
    both_ways(|client, drops, _| async move {
        // Theirs, kept there.
        let theirs = call_cap(&client, 1, &client).await.unwrap();
        call(&client, 3, |c| put_cap(c, &theirs)).promise.await.unwrap();
        let answer = call(&client, 5, |_| {}).promise.await.unwrap();
        let later = get_cap(answer.get().unwrap()).unwrap();
        // A call before it is settled, and the order of calls across the settling.
        let early = call_data(&later, 0, b"1");
        let settled = resolved(Client::new(later.hook.add_ref()));
        let (early, settled) = futures::join!(early, settled);
        assert_eq!(early.unwrap(), b"1");
        assert!(same(&settled, &theirs));
        drop((answer, later, settled, theirs));

        // Mine: the promise resolves to an object of the asker's, with calls in between (which
        // needs a Disembargo).
        let mine = service(&drops);
        call(&client, 3, |c| put_cap(c, &mine)).promise.await.unwrap();
        let answer = call(&client, 5, |_| {}).promise.await.unwrap();
        let later = get_cap(answer.get().unwrap()).unwrap();
        let early: Vec<_> = (0..5).map(|_| call_data(&later, 0, b"2")).collect();
        let settled = resolved(Client::new(later.hook.add_ref()));
        let (early, settled) = futures::join!(futures::future::join_all(early), settled);
        assert!(early.into_iter().all(|answer| answer.unwrap() == b"2"));
        // An embargo stands between; behind it is our own object.
        let settled = resolved(settled).await;
        assert!(same(&settled, &mine));

        // Nothing kept: the promise breaks.
        drop((answer, later, settled));
        let answer = call(&client, 5, |_| {}).promise.await.unwrap();
        let broken = get_cap(answer.get().unwrap()).unwrap();
        assert!(call_data(&broken, 0, b"").await.unwrap_err().extra.contains("nothing kept"));
    });
}

#[test]
fn a_promise_passed_as_a_parameter() {
    both_ways(|client, drops, _| async move {
        let mine = service(&drops);
        let later: Client = capnp_rpc::new_future_client(async move {
            sleep_ms(20).await;
            Ok(mine)
        });
        let answer = call(&client, 2, |c| put_cap(c, &later)).promise.await.unwrap();
        assert_eq!(answer.get().unwrap().get_as::<capnp::data::Reader<'_>>().unwrap(), b"called");
    });
}

/// What the library cannot do safely while both are unresolved comes a moment later.
#[test]
fn a_promise_may_be_handed_to_itself() {
    both_ways(|client, drops, _| async move {
        let mine = service(&drops);
        let RemotePromise { promise, pipeline } = call(&client, 6, |c| put_cap(c, &mine));
        let later = Client::new(pipeline.get_pointer_field(0).as_cap());
        let echo = call(&later, 1, |c| put_cap(c, &later)).promise;
        let others = (0..20).map(|_| call_data(&client, 0, b"behind it"));
        let (echo, others) = futures::future::join(echo, futures::future::join_all(others)).await;
        assert!(others.iter().all(|answer| answer.as_ref().is_ok_and(|data| data == b"behind it")));
        let back = get_cap(echo.unwrap().get().unwrap()).unwrap();
        assert!(same(&resolved(back).await, &mine));
        drop(promise);
    });
}

#[test]
fn a_promise_handed_to_itself_that_never_resolves_fails_alone() {
    run(async {
        let drops = DropCount::default();
        let (guarded, peer) = pair(Some(service(&drops)), None, GuardLimits::app());
        let client: Client = peer.bootstrap();
        let RemotePromise { promise, pipeline } = call(&client, 4, |_| {});
        let never = Client::new(pipeline.get_pointer_field(0).as_cap());
        let error = call_cap(&never, 1, &never).await.map(drop).unwrap_err();
        assert!(error.extra.contains("a call on a promise"), "{error}");
        assert_eq!(call_data(&client, 0, b"goes on").await.unwrap(), b"goes on");
        drop((promise, pipeline, never, client));
        eventually("all is let go of", || {
            let stats = guarded.stats().unwrap();
            stats.unanswered_calls == 0 && stats.open_answers == 0 && stats.held_bytes == 0
        })
        .await;
        guarded.disconnect().await;
    });
}

/// Each kind of promise is one; a settled object is none.
#[test]
fn promises_of_every_kind_stay_out_of_queues() {
    run(async {
        let (mut peer, victim) = Raw::pair();
        let drops = DropCount::default();
        let limits = GuardLimits { promise_wait: Duration::ZERO, ..GuardLimits::app() };
        let vat = Vat::spawn(victim, Side::Server, Some(service(&drops)), Trust::Hostile(limits));
        let asking = std::thread::spawn(move || {
            let target = peer.ask_bootstrap();
            // 1 never answers; 2 answers with a promise of it, which gets an id.
            peer.send(&call_on(1, target, 4, |_| {}));
            peer.send(&raw::call_with_cap(2, target, 1, |cap| {
                let mut answer = cap.init_receiver_answer();
                answer.set_question_id(1);
                answer.init_transform(1).get(0).set_get_pointer_field(0);
            }));
            let export = peer.receive_until(|m| match m.which() {
                Ok(message::Return(Ok(ret))) if ret.get_answer_id() == 2 => match ret.which() {
                    Ok(return_::Results(Ok(results))) => {
                        match results.get_cap_table().ok()?.get(0).which() {
                            Ok(cap_descriptor::SenderPromise(id)) => Some(id),
                            _ => None,
                        }
                    }
                    _ => None,
                },
                _ => None,
            });
            let export = export.expect("a promise of ours");
            for (question, kind) in (10..).zip(0..6) {
                peer.send(&raw::call_with_cap(question, export, 1, |mut cap| match kind {
                    0 => cap.set_sender_hosted(5),
                    1 => cap.set_receiver_hosted(target),
                    2 => cap.set_receiver_hosted(export),
                    3 => cap.set_sender_promise(6),
                    4 => cap.init_receiver_answer().set_question_id(1),
                    _ => cap.init_receiver_answer().set_question_id(2),
                }));
            }
            peer.send(&call_on(99, target, 0, |call| {
                put_data(call.init_params().get_content(), b"the last");
            }));
            let mut refused = Vec::new();
            peer.receive_until(|m| match m.which() {
                Ok(message::Return(Ok(ret))) => {
                    if let Ok(return_::Exception(Ok(_))) = ret.which() {
                        refused.push(ret.get_answer_id());
                    }
                    (ret.get_answer_id() == 99).then_some(())
                }
                _ => None,
            });
            refused
        });
        let refused = tokio::task::spawn_blocking(|| asking.join().unwrap()).await.unwrap();
        assert_eq!(refused, [12, 13, 14, 15]);
        vat.disconnect().await;
    });
}

#[test]
fn calls_that_come_too_fast_wait_and_none_is_lost() {
    run(async {
        let limits = GuardLimits { messages_per_second: 200, ..GuardLimits::app() };
        let drops = DropCount::default();
        let (guarded, peer) = pair(Some(service(&drops)), None, limits);
        let client: Client = peer.bootstrap();
        let begin = Instant::now();
        let calls = (0..400u32).map(|n| {
            let client = &client;
            async move { call_data(client, 0, &n.to_le_bytes()).await.unwrap() == n.to_le_bytes() }
        });
        assert!(futures::future::join_all(calls).await.into_iter().all(|same| same));
        // A quarter of a second's calls at once, the others at the pace.
        assert!(begin.elapsed() > Duration::from_millis(1500), "{:?}", begin.elapsed());
        guarded.disconnect().await;
    });
}

#[test]
fn who_is_called_calls_back_without_waiting() {
    run(async {
        let limits = GuardLimits { messages_per_second: 10, ..GuardLimits::app() };
        let drops = DropCount::default();
        let (guarded, _peer) = pair(None, Some(service(&drops)), limits);
        let theirs: Client = guarded.bootstrap();
        let mine = service(&drops);
        for _ in 0..1000 {
            let answer = call(&theirs, 2, |content| put_cap(content, &mine)).promise.await.unwrap();
            assert!(answer.get().is_ok());
        }
        guarded.disconnect().await;
    });
}

#[test]
fn giving_up_a_call_stops_it() {
    both_ways(|client, drops, guarded| async move {
        let before = drops.count();
        for _ in 0..10 {
            let pending = call(&client, 4, |_| {});
            assert!(tokio::time::timeout(Duration::from_millis(5), pending.promise).await.is_err());
        }
        eventually("the server's futures are dropped", || drops.count() == before + 10).await;
        let stats = guarded.stats().unwrap();
        assert_eq!(stats.abandoned_calls + stats.given_up_calls, 10);
        assert_eq!(call_data(&client, 0, b"still here").await.unwrap(), b"still here");
    });
}

#[test]
fn letting_go_of_the_last_reference_drops_the_object() {
    both_ways(|client, drops, _| async move {
        let mine = DropCount::default();
        let given = service(&mine);
        call(&client, 3, |c| put_cap(c, &given)).promise.await.unwrap();
        drop(given);
        sleep_ms(20).await;
        assert_eq!(mine.count(), 0, "the other side holds it");
        assert_eq!(drops.count(), 0);
        let answer = call(&client, 5, |_| {}).promise.await.unwrap();
        settled(get_cap(answer.get().unwrap()).unwrap()).await.unwrap();
        drop(answer);
        eventually("dropped", || mine.count() == 1).await;
    });
}

#[test]
fn when_the_peer_leaves_calls_fail_and_objects_go() {
    run(async {
        for guarded_leaves in [true, false] {
            let drops = DropCount::default();
            let (a, b) = (service(&drops), service(&drops));
            let (guarded, peer) = pair(Some(a), Some(b), GuardLimits::app());
            let (to_peer, to_guarded) = (guarded.bootstrap(), peer.bootstrap());
            for client in [&to_peer, &to_guarded] {
                call_data(client, 0, b"").await.unwrap();
            }
            let leave = async {
                sleep_ms(20).await;
                let [leaver, stayer] =
                    if guarded_leaves { [&guarded, &peer] } else { [&peer, &guarded] };
                leaver.clone().disconnect().await;
                stayer.closed().await.unwrap();
            };
            let (one, two, ()) =
                futures::join!(call_data(&to_peer, 4, b""), call_data(&to_guarded, 4, b""), leave);
            for result in [one, two] {
                assert_eq!(result.unwrap_err().kind, capnp::ErrorKind::Disconnected);
            }
            for client in [&to_peer, &to_guarded, &guarded.bootstrap(), &peer.bootstrap()] {
                let error = call_data(client, 0, b"").await.unwrap_err();
                assert_eq!(error.kind, capnp::ErrorKind::Disconnected);
            }
            eventually("the hanging calls are dropped", || drops.count() == 2).await;
            // capnp-rpc keeps a connection's own first object as long as anybody holds one of the
            // other side's.
            drop((to_peer, to_guarded));
            eventually("everything is dropped", || drops.count() == 4).await;
        }
    });
}

#[test]
fn a_panicking_method_ends_its_connection_alone() {
    run(async {
        let (guarded, peer) = pair(
            Some(object(|_, _, _| async { panic!("a bug of ours") })),
            None,
            GuardLimits::app(),
        );
        let drops = DropCount::default();
        let (other, honest) = pair(Some(service(&drops)), None, GuardLimits::app());
        let victim: Client = peer.bootstrap();
        let error = call_data(&victim, 0, b"").await.unwrap_err();
        assert_eq!(error.kind, capnp::ErrorKind::Disconnected);
        assert!(guarded.closed().await.unwrap_err().extra.contains("a bug of ours"));
        assert!(guarded.panicked());
        assert_eq!(call_data(&honest.bootstrap(), 0, b"ok").await.unwrap(), b"ok");
        assert!(!other.panicked());
    });
}

#[test]
fn bootstrap_may_be_asked_by_a_method_that_is_being_served() {
    run(async {
        let slot: Rc<RefCell<Option<Vat>>> = Rc::default();
        let asks = {
            let slot = slot.clone();
            object(move |_, _, mut results| {
                let peer: Client = slot.borrow().as_ref().unwrap().bootstrap();
                async move {
                    put_data(results.get(), &call_data(&peer, 0, b"inside").await?);
                    Ok(())
                }
            })
        };
        let drops = DropCount::default();
        let (guarded, peer) = pair(Some(asks), Some(service(&drops)), GuardLimits::app());
        *slot.borrow_mut() = Some(guarded);
        assert_eq!(call_data(&peer.bootstrap(), 0, b"").await.unwrap(), b"inside");
    });
}

#[test]
fn too_many_calls_at_once_are_told_so_and_the_connection_lives() {
    run(async {
        let drops = DropCount::default();
        let limits = GuardLimits { unanswered_calls: 10, ..GuardLimits::app() };
        let (guarded, peer) = pair(Some(service(&drops)), None, limits);
        let client: Client = peer.bootstrap();
        let mut hanging: Vec<_> = (0..10).map(|_| call(&client, 4, |_| {}).promise).collect();
        let error = call_data(&client, 0, b"").await.unwrap_err();
        assert_eq!(error.kind, capnp::ErrorKind::Overloaded);
        assert!(error.extra.contains("too many calls"), "{}", error.extra);
        // What is built on the refused call fails too, and its parameters are let go of.
        let RemotePromise { promise, pipeline } = call(&client, 1, |c| put_cap(c, &client));
        let on_it = Client::new(pipeline.get_pointer_field(0).as_cap());
        assert!(call_data(&on_it, 0, b"").await.is_err());
        assert!(promise.await.is_err());
        drop(hanging.pop());
        sleep_ms(10).await;
        assert_eq!(call_data(&client, 0, b"again").await.unwrap(), b"again");
        assert_eq!(guarded.stats().unwrap().unanswered_calls, 9);
    });
}

#[test]
fn held_answers_and_calls_are_bounded_one_by_one() {
    run(async {
        let drops = DropCount::default();
        let limits = GuardLimits { held_bytes: 1 << 20, ..GuardLimits::app() };
        let (guarded, _peer) = pair(None, Some(service(&drops)), limits);
        let client: Client = guarded.bootstrap();
        let data = vec![0u8; 400_000];
        let get = || call(&client, 0, |c| put_data(c, &data)).promise;
        let (one, _two) = (get().await.unwrap(), get().await.unwrap());
        let error = get().await.map(drop).unwrap_err();
        assert_eq!(error.kind, capnp::ErrorKind::Overloaded);
        // Small ones pass all the same, and there is room when one is read.
        assert_eq!(call_data(&client, 0, b"small").await.unwrap(), b"small");
        assert!(guarded.stats().unwrap().held_bytes > 800_000);
        drop(one);
        get().await.unwrap();
    });
}

#[test]
fn long_words_of_an_error_are_cut() {
    run(async {
        let talks = object(|_, _, _| async { Err(capnp::Error::overloaded("ä".repeat(1 << 20))) });
        let (guarded, _peer) = pair(None, Some(talks), GuardLimits::app());
        let error = call_data(&guarded.bootstrap(), 0, b"").await.unwrap_err();
        assert_eq!(error.kind, capnp::ErrorKind::Overloaded);
        assert!(error.extra.len() < 17_000 && error.extra.contains("ääää"));
    });
}

#[test]
fn a_violation_is_told_to_both_sides() {
    let (reason, abort) = run(async {
        let (mut peer, victim) = Raw::pair();
        let drops = DropCount::default();
        let trust = Trust::Hostile(GuardLimits::app());
        let vat = Vat::spawn(victim, Side::Server, Some(service(&drops)), trust);
        let attacker = std::thread::spawn(move || {
            peer.send(&return_with(7, |ret| {
                ret.init_results();
            }));
            peer.receive_until(|m| match m.which() {
                Ok(capnp_rpc::rpc_capnp::message::Abort(Ok(e))) => {
                    Some(e.get_reason().unwrap().to_string().unwrap())
                }
                _ => None,
            })
        });
        let reason = vat.closed().await.unwrap_err().extra;
        (reason, attacker.join().unwrap())
    });
    assert!(reason.contains("answer refers to 7"), "{reason}");
    assert!(abort.unwrap().contains("answer refers to 7"));
}

/// A peer that has to write everything before it reads anything: it must not be waited for.
#[test]
fn a_peer_that_cannot_read_while_it_writes_gets_unstuck() {
    run(async {
        let (mut peer, victim) = Raw::pair();
        let drops = DropCount::default();
        let trust = Trust::Hostile(GuardLimits::app());
        let _vat = Vat::spawn(victim, Side::Server, Some(service(&drops)), trust);
        let client = std::thread::spawn(move || {
            let target = peer.ask_bootstrap();
            // 6 MiB, all of which come back; the queue pauses the reader at one.
            let data = vec![1u8; 65536];
            for q in 1..=96 {
                assert!(peer.send(&call_on(q, target, 0, |call| {
                    put_data(call.init_params().get_content(), &data);
                })));
            }
            let mut answers = 0;
            while answers < 96 {
                peer.receive_until(|m| {
                    matches!(m.which(), Ok(capnp_rpc::rpc_capnp::message::Return(_))).then_some(())
                })
                .expect("an answer");
                answers += 1;
            }
        });
        let started = Instant::now();
        while !client.is_finished() {
            sleep_ms(20).await;
        }
        client.join().unwrap();
        println!("took {:?}", started.elapsed());
    });
}

/// Another implementation may ask us to keep an answer for a call of ours ("tail call").
/// capnp-rpc 0.27 never runs such a call: it has to cost no more than itself.
#[test]
fn a_tail_call_of_a_peer_hurts_nobody() {
    run(async {
        let (mut peer, victim) = Raw::pair();
        let drops = DropCount::default();
        let trust = Trust::Hostile(GuardLimits::app());
        let vat = Vat::spawn(victim, Side::Server, Some(service(&drops)), trust);
        let theirs: Client = vat.bootstrap();
        let other = std::thread::spawn(move || {
            peer.answer_bootstrap();
            let target = peer.ask_bootstrap();
            let (question, _) = peer.receive_call().unwrap();
            peer.send(&call_on(50, target, 0, |mut call| {
                put_data(call.reborrow().init_params().get_content(), b"by a detour");
                call.get_send_results_to().set_yourself(());
            }));
            peer.send(&return_with(question, |mut ret| ret.set_take_from_other_question(50)));
            let (question, _) = peer.receive_call().unwrap();
            peer.send(&return_with(question, |ret| {
                put_data(ret.init_results().get_content(), b"directly");
            }));
            peer.receive_call();
        });
        let detour = call_data(&theirs, 0, b"x");
        match tokio::time::timeout(Duration::from_millis(300), detour).await {
            Err(_) => {}
            // Once capnp-rpc can do it.
            Ok(answer) => assert_eq!(answer.unwrap(), b"by a detour"),
        }
        assert_eq!(call_data(&theirs, 0, b"x").await.unwrap(), b"directly");
        vat.disconnect().await;
        other.join().unwrap();
    });
}

#[test]
fn an_answer_after_we_gave_up_is_taken() {
    run(async {
        let (mut peer, victim) = Raw::pair();
        let vat = Vat::spawn(victim, Side::Server, None, Trust::Hostile(GuardLimits::app()));
        let theirs: Client = vat.bootstrap();
        let (gave_up, wait) = std::sync::mpsc::channel::<()>();
        let late = std::thread::spawn(move || {
            peer.answer_bootstrap();
            for kind in 0..4 {
                let (question, _) = peer.receive_call().unwrap();
                wait.recv().unwrap();
                peer.send(&return_with(question, |mut ret| match kind {
                    0 => drop(ret.init_results().init_cap_table(3)),
                    1 => ret.init_exception().set_reason("late"),
                    2 => ret.set_canceled(()),
                    _ => ret.set_take_from_other_question(1234),
                }));
            }
            let (question, _) = peer.receive_call().unwrap();
            peer.send(&return_with(question, |ret| {
                put_data(ret.init_results().get_content(), b"in time");
            }));
            peer.receive_call();
        });
        for n in 1..5 {
            let pending = call(&theirs, 0, |_| {}).promise;
            assert!(tokio::time::timeout(Duration::from_millis(20), pending).await.is_err());
            sleep_ms(10).await;
            assert_eq!(vat.stats().unwrap().given_up_calls, 1);
            gave_up.send(()).unwrap();
            sleep_ms(30).await;
            assert_eq!(vat.stats().unwrap().given_up_calls, 0, "after {n}");
        }
        assert_eq!(call_data(&theirs, 0, b"").await.unwrap(), b"in time");
        vat.disconnect().await;
        late.join().unwrap();
    });
}

#[test]
fn a_peer_may_say_that_it_does_not_know_resolve() {
    run(async {
        let (mut peer, victim) = Raw::pair();
        let drops = DropCount::default();
        let trust = Trust::Hostile(GuardLimits::app());
        let vat = Vat::spawn(victim, Side::Server, Some(service(&drops)), trust);
        let simple = std::thread::spawn(move || {
            let target = peer.ask_bootstrap();
            peer.send(&raw::call_with_cap(1, target, 3, |mut cap| cap.set_sender_hosted(9)));
            peer.send(&call_on(2, target, 5, |_| {}));
            let echo = loop {
                let message = peer.receive().unwrap();
                let root: capnp_rpc::rpc_capnp::message::Reader<'_> = message.get_root().unwrap();
                if let Ok(capnp_rpc::rpc_capnp::message::Resolve(_)) = root.which() {
                    break raw::encode(|echo| {
                        let mut echo = echo;
                        echo.set_unimplemented(root).unwrap();
                    });
                }
            };
            peer.send(&echo);
            peer.send(&call_on(3, target, 0, |call| {
                put_data(call.init_params().get_content(), b"goes on");
            }));
            peer.receive_until(|m| match m.which() {
                Ok(capnp_rpc::rpc_capnp::message::Return(Ok(ret))) if ret.get_answer_id() == 3 => {
                    Some(())
                }
                _ => None,
            })
            .expect("an answer");
        });
        while !simple.is_finished() {
            sleep_ms(5).await;
        }
        simple.join().unwrap();
        vat.closed().await.unwrap();
    });
}

#[test]
fn sockets_in_a_deep_home() {
    run(async {
        let home = tempfile::tempdir().unwrap();
        let mut deep = home.path().to_owned();
        (0..20).for_each(|_| deep.push("a-directory-name"));
        std::fs::create_dir_all(&deep).unwrap();
        assert!(deep.as_os_str().len() > 200);
        let dir = std::fs::File::open(&deep).unwrap();
        let listener = bind_at(dir.as_fd(), "socket").unwrap();
        let connect = connect_at(dir.as_fd(), "socket");
        let (accepted, stream) = futures::join!(listener.accept(), connect);
        let drops = DropCount::default();
        let _server =
            Vat::spawn(accepted.unwrap().0, Side::Server, Some(service(&drops)), Trust::Peer);
        let vat =
            Vat::spawn(stream.unwrap(), Side::Client, None, Trust::Hostile(GuardLimits::app()));
        assert_eq!(call_data(&vat.bootstrap(), 0, b"hello").await.unwrap(), b"hello");

        assert_eq!(
            bind_at(dir.as_fd(), "socket").unwrap_err().kind(),
            std::io::ErrorKind::AddrInUse
        );
        drop(listener);
        let refused = connect_at(dir.as_fd(), "socket").await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        for name in ["", ".", "..", "../x", "a/b", "a\0b"] {
            assert!(bind_at(dir.as_fd(), name).is_err(), "{name:?}");
            assert!(connect_at(dir.as_fd(), name).await.is_err(), "{name:?}");
        }
    });
}
