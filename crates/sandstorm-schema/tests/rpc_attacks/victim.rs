//! The victim: an object that serves the attacker, and scripts by which it calls one.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use capnp::capability::Client;
use sandstorm_schema::rpc::{Crossing, Membrane, MembranePolicy};

use crate::memory::{MIB, NOW};
use crate::rpc_support::{call, get_cap, object, put_cap, put_data};

#[path = "method.rs"]
pub mod method;

pub fn victim_object() -> Client {
    let kept: Rc<RefCell<Vec<Client>>> = Rc::default();
    object(move |number, params, mut results| {
        let kept = kept.clone();
        async move {
            match number {
                method::ECHO => {
                    let data = params.get()?.get_as::<capnp::data::Reader<'_>>()?.to_vec();
                    put_data(results.get(), &data);
                }
                method::ANSWER_64K => put_data(results.get(), &[7u8; 65536]),
                method::NEVER_ANSWER => futures::future::pending::<()>().await,
                method::KEEP => kept.borrow_mut().push(get_cap(params.get()?)?),
                method::CALL_KEPT => {
                    let last = kept.borrow().last().map(|c| c.hook.add_ref());
                    if let Some(hook) = last {
                        call(&Client::new(hook), 0, |_| {}).promise.await?;
                    }
                }
                method::DROP_KEPT => drop(std::mem::take(&mut *kept.borrow_mut())),
                method::OBJECT_AND_64K => {
                    let mut list =
                        results.get().initn_as::<capnp::any_pointer_list::Builder<'_>>(2);
                    let fresh = object(|_, _, _| async { Ok(()) });
                    list.reborrow().get(0).set_as_capability(fresh.hook);
                    put_data(list.get(1), &[7u8; 65536]);
                }
                method::NEW_OBJECT => {
                    put_cap(results.get(), &object(|_, _, _| async { Ok(()) }));
                }
                method::ECHO_CAP => put_cap(results.get(), &get_cap(params.get()?)?),
                method::ECHO_CAP_LATER => {
                    let cap = get_cap(params.get()?)?;
                    tokio::time::sleep(Duration::from_millis(30)).await;
                    put_cap(results.get(), &cap);
                }
                method::KEPT_LATER => {
                    let last = kept.borrow().last().map(|c| c.hook.add_ref());
                    let later: Client = capnp_rpc::new_future_client(async move {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        last.map(Client::new).ok_or_else(|| capnp::Error::failed("none".into()))
                    });
                    put_cap(results.get(), &later);
                }
                _ => return Err(capnp::Error::unimplemented("no such method".into())),
            }
            Ok(())
        }
    })
}

/// What the victim does by itself with the attacker's first object.
pub type Script = fn(Client) -> Pin<Box<dyn Future<Output = ()>>>;

/// A careless reader: looks at each answer again and again.
pub fn reads_often(peer: Client) -> Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async move {
        for _ in 0..ANSWERS {
            let Ok(response) = call(&peer, 0, |_| {}).promise.await else { return };
            let _ = response.get().and_then(|content| content.target_size());
            let _ = response.get().and_then(|content| {
                let list = content.get_as::<capnp::primitive_list::Reader<'_, ()>>()?;
                Ok(list.len())
            });
            for _ in 0..10_000 {
                let _ = response.get();
            }
        }
    })
}

/// So many answers leave different remainders in the counter: one runs dry at the wrong place.
pub const ANSWERS: usize = 24;

pub fn uses_pipeline_late(peer: Client) -> Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async move {
        let capnp::capability::RemotePromise { promise, pipeline } = call(&peer, 0, |_| {});
        let _answer = promise.await;
        let hook = pipeline.get_pointer_field(0).as_cap();
        let _ = call(&Client::new(hook), 0, |_| {}).promise.await;
    })
}

pub struct Allow;
impl MembranePolicy for Allow {
    fn check(&self, _: Crossing) -> Result<(), capnp::Error> {
        Ok(())
    }
}

/// The same behind a membrane, as in the supervisor.
pub fn uses_pipeline_late_behind_membrane(peer: Client) -> Pin<Box<dyn Future<Output = ()>>> {
    uses_pipeline_late(Membrane::new(Rc::new(Allow)).outward_face(peer))
}

pub fn holds_answers(peer: Client) -> Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async move {
        let calls: Vec<_> = (0..200).map(|_| call(&peer, 0, |_| {}).promise).collect();
        let _answers = futures::future::join_all(calls).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
    })
}

pub fn sends_much(peer: Client) -> Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async move {
        let mut calls = Vec::new();
        for _ in 0..2000 {
            calls.push(call(&peer, 0, |c| put_data(c, &[1u8; 65536])).promise);
            tokio::task::yield_now().await;
            if NOW.load(Ordering::Relaxed) > 200 * MIB {
                break;
            }
        }
        // An honest caller is told when its connection ends.
        let answers = futures::future::join_all(calls).await;
        assert!(answers.iter().all(Result::is_err));
        SENT_FAILED.store(true, Ordering::Relaxed);
    })
}

pub static SENT_FAILED: AtomicBool = AtomicBool::new(false);
