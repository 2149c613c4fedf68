//! The membrane between two connections, as in the supervisor: shell, membrane, app.

mod rpc_support;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use capnp::capability::{Client, FromClientHook, RemotePromise};
use sandstorm_schema::limits::{BODY_CHUNK, BODY_WINDOW};
use sandstorm_schema::rpc::body::{BodyWriter, pipe};
use sandstorm_schema::rpc::{
    Crossing, Direction, GuardLimits, Membrane, MembranePolicy, Vat, settled,
};
use sandstorm_schema::util_capnp::byte_stream;

use rpc_support::*;

/// Writes down every crossing; refuses those of one method.
#[derive(Default)]
struct Policy {
    seen: RefCell<Vec<Crossing>>,
    refused: Cell<Option<(Direction, u16)>>,
}

impl MembranePolicy for Policy {
    fn check(&self, crossing: Crossing) -> Result<(), capnp::Error> {
        self.seen.borrow_mut().push(crossing);
        if self.refused.get() == Some((crossing.direction, crossing.method)) {
            return Err(capnp::Error::failed("not through here".into()));
        }
        Ok(())
    }
}

/// The app: 0 echoes bytes; 1 echoes a capability; 2 calls its capability's method 0; 3 keeps it;
/// 4 never answers; 5 promises what was kept; 6 gives what was kept; 7 is a fresh object.
fn app_object(drops: &DropCount) -> Client {
    let kept: Rc<RefCell<Option<Client>>> = Rc::default();
    let (alive, drops) = (drops.guard(), drops.clone());
    object(move |method, params, mut results| {
        let (kept, _alive, drops) = (kept.clone(), &alive, drops.clone());
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
                    let _running = drops.guard();
                    futures::future::pending::<()>().await;
                }
                5 => {
                    let later: Client = capnp_rpc::new_future_client(async move {
                        sleep_ms(20).await;
                        let kept = kept.borrow_mut().take();
                        kept.ok_or_else(|| capnp::Error::failed("nothing kept".into()))
                    });
                    put_cap(results.get(), &later);
                }
                6 => {
                    let kept = kept.borrow();
                    put_cap(results.get(), kept.as_ref().expect("something was kept"));
                }
                7 => put_cap(results.get(), &app_object(&drops)),
                _ => return Err(capnp::Error::unimplemented("no such method".into())),
            }
            Ok(())
        }
    })
}

struct Chain {
    /// What the shell holds of the app, through two connections and the membrane.
    client: Client,
    policy: Rc<Policy>,
    membrane: Membrane,
    /// Drops inside the app: its object, and its running calls.
    drops: DropCount,
    vats: [Vat; 4],
}

/// shell ⇄ (supervisor: membrane) ⇄ app, guarded as in production.
async fn chain() -> Chain {
    let drops = DropCount::default();
    let (towards_app, app) = pair(None, Some(app_object(&drops)), GuardLimits::app());
    let policy = Rc::new(Policy::default());
    let membrane = Membrane::new(policy.clone());
    let face: Client = membrane.outward_face(towards_app.bootstrap());
    let (shell, towards_shell) = pair(None, Some(face), GuardLimits::supervisor());
    let client: Client = shell.bootstrap();
    // The first object is addressed by the question for it; this is the same by itself.
    let client = settled(call_cap(&client, 1, &client).await.unwrap()).await.unwrap();
    policy.seen.borrow_mut().clear();
    Chain { client, policy, membrane, drops, vats: [shell, towards_shell, towards_app, app] }
}

impl Chain {
    /// Only the app's first object is left (asked for, and by itself), and nothing of ours.
    async fn nothing_is_left(&self) {
        let clean = || {
            let [shell, _, towards_app, _] = &self.vats;
            let (shell, app) = (shell.stats().unwrap(), towards_app.stats().unwrap());
            self.membrane.nodes() == 2
                && (shell.imports, shell.exports, shell.held_bytes) == (1, 0, 0)
                && (app.imports, app.exports, app.held_bytes) == (1, 0, 0)
        };
        for _ in 0..200 {
            if clean() {
                return;
            }
            sleep_ms(5).await;
        }
        panic!("{} nodes, {:?}", self.membrane.nodes(), self.vats.each_ref().map(Vat::stats));
    }
}

fn same(a: &Client, b: &Client) -> bool {
    a.hook.get_ptr() == b.hook.get_ptr()
}

async fn resolved(client: Client) -> Client {
    settled(client).await.unwrap()
}

#[test]
fn calls_pass_and_are_seen() {
    run(async {
        let chain = chain().await;
        let large = vec![9u8; 3_000_000];
        assert!(call_data(&chain.client, 0, &large).await.unwrap() == large);
        let mine = app_object(&DropCount::default());
        call(&chain.client, 2, |c| put_cap(c, &mine)).promise.await.unwrap();
        let crossing = |direction, method| Crossing { direction, interface: INTERFACE, method };
        assert_eq!(
            *chain.policy.seen.borrow(),
            [
                crossing(Direction::Inward, 0),
                crossing(Direction::Inward, 2),
                crossing(Direction::Outward, 0)
            ]
        );
        let error = call_data(&chain.client, 99, b"").await.unwrap_err();
        assert_eq!(error.kind, capnp::ErrorKind::Unimplemented);
        drop(mine);
        chain.nothing_is_left().await;
    });
}

#[test]
fn identity_survives_both_ways() {
    run(async {
        let chain = chain().await;
        let mine = app_object(&DropCount::default());
        // Mine, out and back.
        let back = resolved(call_cap(&chain.client, 1, &mine).await.unwrap()).await;
        assert!(same(&back, &mine));
        // The app's, out and back.
        let back = resolved(call_cap(&chain.client, 1, &chain.client).await.unwrap()).await;
        assert!(same(&back, &chain.client));
        // The app's kept object, given out twice, is one object.
        call(&chain.client, 3, |c| put_cap(c, &chain.client)).promise.await.unwrap();
        let mut twice = Vec::new();
        for _ in 0..2 {
            let answer = call(&chain.client, 6, |_| {}).promise.await.unwrap();
            twice.push(resolved(get_cap(answer.get().unwrap()).unwrap()).await);
        }
        assert!(same(&twice[0], &twice[1]) && same(&twice[0], &chain.client));
        // Kept by the app while we let go of it: still ours when it comes back.
        let fresh = resolved(
            get_cap(call(&chain.client, 7, |_| {}).promise.await.unwrap().get().unwrap()).unwrap(),
        )
        .await;
        call(&chain.client, 3, |c| put_cap(c, &fresh)).promise.await.unwrap();
        assert_eq!(call_data(&fresh, 0, b"x").await.unwrap(), b"x");
        call(&chain.client, 3, |c| put_cap(c, &chain.client)).promise.await.unwrap();
        drop((fresh, twice, back, mine));
        chain.nothing_is_left().await;
    });
}

#[test]
fn promises_before_and_after_they_resolve() {
    run(async {
        let chain = chain().await;
        for own in [true, false] {
            let drops = DropCount::default();
            let target =
                if own { app_object(&drops) } else { Client::new(chain.client.hook.add_ref()) };
            call(&chain.client, 3, |c| put_cap(c, &target)).promise.await.unwrap();
            let answer = call(&chain.client, 5, |_| {}).promise.await.unwrap();
            let later = get_cap(answer.get().unwrap()).unwrap();
            let numbers: [[u8; 1]; 4] = [[0], [1], [2], [3]];
            let calls = numbers.iter().map(|n| call_data(&later, 0, n));
            for (i, answer) in futures::future::join_all(calls).await.into_iter().enumerate() {
                assert_eq!(answer.unwrap(), [i as u8]);
            }
            let settled = resolved(Client::new(later.hook.add_ref())).await;
            assert_eq!(call_data(&settled, 0, b"after").await.unwrap(), b"after");
            assert!(same(&resolved(settled).await, &target), "own: {own}");
        }
        // A promise that breaks.
        let answer = call(&chain.client, 5, |_| {}).promise.await.unwrap();
        let broken = get_cap(answer.get().unwrap()).unwrap();
        assert!(call_data(&broken, 0, b"").await.unwrap_err().extra.contains("nothing kept"));
        drop((answer, broken));
        chain.nothing_is_left().await;
    });
}

#[test]
fn pipelined_calls_pass() {
    run(async {
        let chain = chain().await;
        let RemotePromise { promise, pipeline } = call(&chain.client, 7, |_| {});
        let early = Client::new(pipeline.get_pointer_field(0).as_cap());
        assert_eq!(call_data(&early, 0, b"early").await.unwrap(), b"early");
        drop((promise.await.unwrap(), early, pipeline));
        chain.nothing_is_left().await;
    });
}

/// Code of the supervisor's own that calls through the membrane.
#[test]
fn local_callers_see_the_same() {
    run(async {
        let chain = chain().await;
        let local: Client = chain.membrane.outward_face(chain.vats[2].bootstrap());
        let mine = app_object(&DropCount::default());
        let back = resolved(call_cap(&local, 1, &mine).await.unwrap()).await;
        assert!(same(&back, &mine));
        let RemotePromise { promise, pipeline } = call(&local, 7, |_| {});
        let early = Client::new(pipeline.get_pointer_field(0).as_cap());
        assert_eq!(call_data(&early, 0, b"early").await.unwrap(), b"early");
        let answer = promise.await.unwrap();
        let late = Client::new(pipeline.get_pointer_field(0).as_cap());
        assert_eq!(call_data(&late, 0, b"late").await.unwrap(), b"late");
        // No such pointer: an error, where capnp-rpc alone would panic.
        let none = Client::new(pipeline.get_pointer_field(0).get_pointer_field(3).as_cap());
        assert!(call_data(&none, 0, b"").await.is_err());
        assert!(chain.policy.seen.borrow().iter().any(|c| c.direction == Direction::Inward));
        drop((answer, early, late, none, back, mine, local, pipeline));
        chain.nothing_is_left().await;
    });
}

#[test]
fn refused_calls_do_not_reach_the_other_side() {
    run(async {
        let chain = chain().await;
        chain.policy.refused.set(Some((Direction::Inward, 7)));
        let error = call(&chain.client, 7, |_| {}).promise.await.map(drop).unwrap_err();
        assert!(error.extra.contains("not through here"));
        assert_eq!(call_data(&chain.client, 0, b"others pass").await.unwrap(), b"others pass");
        // The other direction is refused by its own rule.
        chain.policy.refused.set(Some((Direction::Outward, 0)));
        let called = DropCount::default();
        let mine = app_object(&called);
        let error = call(&chain.client, 2, |c| put_cap(c, &mine)).promise.await.map(drop);
        assert!(error.unwrap_err().extra.contains("not through here"));
        drop(mine);
        chain.nothing_is_left().await;
    });
}

#[test]
fn giving_up_and_letting_go_cross() {
    run(async {
        let chain = chain().await;
        for _ in 0..5 {
            let pending = call(&chain.client, 4, |_| {});
            assert!(
                tokio::time::timeout(Duration::from_millis(10), pending.promise).await.is_err()
            );
        }
        eventually("the app's calls stop", || chain.drops.count() == 5).await;
        let mine = DropCount::default();
        call(&chain.client, 3, |c| put_cap(c, &app_object(&mine))).promise.await.unwrap();
        sleep_ms(20).await;
        assert_eq!(mine.count(), 0);
        call(&chain.client, 3, |c| put_cap(c, &chain.client)).promise.await.unwrap();
        eventually("our object is dropped", || mine.count() == 1).await;
        chain.nothing_is_left().await;
    });
}

#[test]
fn after_a_revocation_nothing_passes() {
    run(async {
        let chain = chain().await;
        let mine = DropCount::default();
        let given = app_object(&mine);
        call(&chain.client, 3, |c| put_cap(c, &given)).promise.await.unwrap();
        let answer = call(&chain.client, 7, |_| {}).promise.await.unwrap();
        let fresh = get_cap(answer.get().unwrap()).unwrap();
        let promise = call(&chain.client, 3, |c| put_cap(c, &given)).promise.await.unwrap();
        drop(promise);
        let pending = call_data(&chain.client, 4, b"");
        let revoke = async {
            sleep_ms(20).await;
            chain.membrane.revoke(capnp::Error::disconnected("the grain is gone".into()));
            chain.membrane.revoke(capnp::Error::failed("too late to say something else".into()));
        };
        let (pending, ()) = futures::join!(pending, revoke);
        let error = pending.unwrap_err();
        assert_eq!(error.kind, capnp::ErrorKind::Disconnected);
        assert!(error.extra.contains("the grain is gone"));
        for client in [&chain.client, &fresh] {
            let error = call_data(client, 0, b"").await.unwrap_err();
            assert!(error.extra.contains("the grain is gone"), "{}", error.extra);
        }
        eventually("the app's call stops, its fresh object goes", || chain.drops.count() == 2)
            .await;
        // Inside, our object is dead, too: the app holds a broken one.
        let inside: Client = chain.vats[2].bootstrap();
        let back = call(&inside, 6, |_| {}).promise.await.unwrap();
        let error = call_data(&get_cap(back.get().unwrap()).unwrap(), 0, b"").await.unwrap_err();
        assert!(error.extra.contains("the grain is gone"), "{}", error.extra);
        drop(given);
        eventually("our object is let go of", || mine.count() == 1).await;
    });
}

#[test]
fn bodies_stream_through_with_back_pressure() {
    run(async {
        // The shell hands its stream to the app, and the app writes.
        let (stream, mut body) = pipe();
        let slot: Rc<RefCell<Option<byte_stream::Client>>> = Rc::default();
        let app = {
            let slot = slot.clone();
            object(move |_, params, _| {
                let slot = slot.clone();
                async move {
                    let stream: byte_stream::Client = get_cap(params.get()?)?.hook.cast_to();
                    *slot.borrow_mut() = Some(stream);
                    Ok(())
                }
            })
        };
        let (towards_app, _app) = pair(None, Some(app), GuardLimits::app());
        let (face, membrane) = sandstorm_schema::rpc::membrane::wrap(
            towards_app.bootstrap(),
            Rc::new(Policy::default()),
        );
        let (shell, _towards_shell) = pair(None, Some(face), GuardLimits::supervisor());
        let client: Client = shell.bootstrap();
        call(&client, 0, |c| put_cap(c, &stream.clone().client)).promise.await.unwrap();
        drop(stream);
        let mut writer = BodyWriter::new(slot.borrow_mut().take().unwrap());
        let chunk = Bytes::from(vec![5u8; BODY_CHUNK]);
        let mut sent = 0;
        while tokio::time::timeout(Duration::from_millis(300), writer.write(chunk.clone()))
            .await
            .is_ok()
        {
            sent += BODY_CHUNK;
            assert!(sent <= 3 * BODY_WINDOW, "nothing holds the writer");
        }
        let held = towards_app.stats().unwrap().held_bytes + shell.stats().unwrap().held_bytes;
        assert!(held <= 2 * BODY_WINDOW + 16 * 1024, "{held} bytes on their way");
        let total = 200 * BODY_CHUNK;
        let write = async {
            while sent < total {
                writer.write(chunk.clone()).await.unwrap();
                sent += BODY_CHUNK;
            }
            writer.done().await.unwrap();
        };
        let read = async {
            let mut got = 0;
            while let Some(chunk) = body.next().await {
                got += chunk.unwrap().len();
            }
            got
        };
        // The write that timed out above was cut off before it was sent, or sent: both are whole.
        let ((), got) = futures::join!(write, read);
        assert!(got == total || got == total + BODY_CHUNK, "{got}");
        drop((writer, body));
        eventually("only the root is left", || membrane.nodes() == 1).await;
    });
}
