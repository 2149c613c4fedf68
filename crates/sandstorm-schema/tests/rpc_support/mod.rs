//! What the RPC tests share: objects whose methods are closures, and a hostile peer that writes
//! any message it likes.
#![allow(dead_code)] // each suite uses its part

pub mod raw;
pub mod script;

use std::future::Future;
use std::ops::Deref;
use std::rc::Rc;
use std::time::Duration;

use capnp::any_pointer;
use capnp::capability::{
    Client, DispatchCallResult, FromClientHook, FromServer, Params, Promise, RemotePromise,
    Results, Server,
};
use capnp::private::capability::ClientHook;
use capnp_rpc::rpc_capnp::payload;
use capnp_rpc::rpc_twoparty_capnp::Side;
use sandstorm_schema::rpc::{GuardLimits, Trust, Vat};
use tokio::net::UnixStream;

/// The interface that all objects of these tests have.
pub const INTERFACE: u64 = 0xfeed_0000_0000_0001;

/// Interface and method of a call that [`raw`] makes.
pub fn addressed(method: u16) -> (u64, u16) {
    (INTERFACE, method)
}

impl raw::Raw {
    /// The attacker's end and the victim's.
    pub fn pair() -> (raw::Raw, UnixStream) {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        (raw::Raw::new(ours), UnixStream::from_std(theirs).unwrap())
    }
}

pub type Any = any_pointer::Owned;
pub type Handler = dyn Fn(u16, Params<Any>, Results<Any>) -> Promise<(), capnp::Error>;

/// An object that does what its closure says.
pub struct Object {
    handler: Box<Handler>,
}

#[derive(Clone)]
pub struct Dispatch(Rc<Object>);

impl Deref for Dispatch {
    type Target = Object;
    fn deref(&self) -> &Object {
        &self.0
    }
}

impl Server for Dispatch {
    fn dispatch_call(
        self,
        interface: u64,
        method: u16,
        params: Params<Any>,
        results: Results<Any>,
    ) -> DispatchCallResult {
        if interface != INTERFACE {
            let error = capnp::Error::unimplemented("another interface".into());
            return DispatchCallResult::new(Promise::err(error), false);
        }
        DispatchCallResult::new((self.0.handler)(method, params, results), false)
    }

    fn as_ptr(&self) -> usize {
        Rc::as_ptr(&self.0) as usize
    }
}

pub struct TestClient(Box<dyn ClientHook>);

impl FromClientHook for TestClient {
    fn new(hook: Box<dyn ClientHook>) -> Self {
        TestClient(hook)
    }
    fn into_client_hook(self) -> Box<dyn ClientHook> {
        self.0
    }
    fn as_client_hook(&self) -> &dyn ClientHook {
        &*self.0
    }
}

impl FromServer<Object> for TestClient {
    type Dispatch = Dispatch;
    fn from_server(object: Rc<Object>) -> Dispatch {
        Dispatch(object)
    }
}

/// An object whose methods run `handler`.
pub fn object<F>(handler: impl Fn(u16, Params<Any>, Results<Any>) -> F + 'static) -> Client
where
    F: Future<Output = Result<(), capnp::Error>> + 'static,
{
    let handler = Box::new(move |method, params, results| {
        Promise::from_future(handler(method, params, results))
    });
    Client::new(capnp_rpc::new_client::<TestClient, _>(Object { handler }).0)
}

/// Calls `method`; `fill` writes the parameters' content.
pub fn call(
    client: &Client,
    method: u16,
    fill: impl FnOnce(any_pointer::Builder<'_>),
) -> RemotePromise<Any> {
    let mut request = client.new_call::<Any, Any>(INTERFACE, method, None);
    fill(request.get());
    request.send()
}

/// Calls with bytes, answers with bytes.
pub async fn call_data(client: &Client, method: u16, data: &[u8]) -> Result<Vec<u8>, capnp::Error> {
    let call = call(client, method, |content| put_data(content, data));
    let response = call.promise.await?;
    Ok(response.get()?.get_as::<capnp::data::Reader<'_>>()?.to_vec())
}

pub fn put_data(mut content: any_pointer::Builder<'_>, data: &[u8]) {
    content.set_as::<capnp::data::Owned>(data).unwrap();
}

/// Writes `cap` into a structure whose first pointer is the capability.
pub fn put_cap(content: any_pointer::Builder<'_>, cap: &Client) {
    let boxed = content.init_as::<payload::Builder<'_>>();
    boxed.get_content().set_as_capability(cap.hook.add_ref());
}

/// Reads it again.
pub fn get_cap(content: any_pointer::Reader<'_>) -> Result<Client, capnp::Error> {
    content.get_as::<payload::Reader<'_>>()?.get_content().get_as_capability()
}

/// Calls with a capability, answers with one.
pub async fn call_cap(client: &Client, method: u16, cap: &Client) -> Result<Client, capnp::Error> {
    let response = call(client, method, |content| put_cap(content, cap)).promise.await?;
    get_cap(response.get()?)
}

/// Runs `test` on a thread's event loop, at most 20 seconds.
pub fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(20), test).await.expect("20 s went by")
    })
}

/// Two vats on a socket pair: the first guards itself against the second.
pub fn pair(first: Option<Client>, second: Option<Client>, limits: GuardLimits) -> (Vat, Vat) {
    let (a, b) = UnixStream::pair().unwrap();
    (
        Vat::spawn(a, Side::Server, first, Trust::Hostile(limits)),
        Vat::spawn(b, Side::Client, second, Trust::Peer),
    )
}

pub async fn sleep_ms(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

/// Waits until `condition` holds, at most five seconds.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..500 {
        if condition() {
            return;
        }
        sleep_ms(10).await;
    }
    panic!("did not happen in time: {what}");
}

/// Sets its flag when dropped.
#[derive(Clone, Default)]
pub struct DropCount(Rc<std::cell::Cell<usize>>);

impl DropCount {
    pub fn count(&self) -> usize {
        self.0.get()
    }
    pub fn guard(&self) -> DropGuard {
        DropGuard(self.clone())
    }
}

pub struct DropGuard(DropCount);

impl Drop for DropGuard {
    fn drop(&mut self) {
        self.0.0.set(self.0.0.get() + 1);
    }
}
