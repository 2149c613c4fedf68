//! Requests that change something run to their end.
//!
//! The HTTP library drops a request's work when its browser leaves: what has a first half, such as a
//! sign-in that is deleted in the database, would then have no second one, such as its grains' frames
//! that close. So the work of such a request is a task of its own. What it still waits for ends by
//! itself: the rest of a body that does not come any more is an error, and everything else has a
//! time limit.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::Method;
use tokio_util::task::TaskTracker;

use crate::edge::ClientAddr;
use crate::error::Error;
use crate::pages::PageError;
use crate::shares::{Shares, holder};

/// Acts of one address at once. Whoever sends one and leaves does not wait for it, so nothing else
/// bounds how many there are; an office behind one address has some at once, of milliseconds each.
const EACH: usize = 256;
/// Those of all addresses, each some KB.
const ALL: usize = 4096;

/// The acts that are under way.
pub struct Acts {
    shares: Arc<Shares<IpAddr>>,
    open: TaskTracker,
}

impl Acts {
    pub fn new() -> Acts {
        Acts { shares: Shares::fair(EACH, ALL), open: TaskTracker::new() }
    }

    /// Waits until none is left; for the end of the server, when no new ones come.
    pub async fn ended(&self) {
        self.open.close();
        self.open.wait().await;
    }

    /// Runs a request; one that changes something also when nobody waits for its answer any more.
    pub async fn run(&self, request: Request, next: Next) -> Response {
        if !changes(&request) {
            return next.run(request).await;
        }
        let who = holder(ClientAddr::of(request.extensions()).0);
        let Some(share) = self.shares.enter(who) else {
            let why = "Too much is being done at once. Wait a moment, then try again";
            return PageError::from(Error::Busy(why.into())).into_response();
        };
        let work = self.open.spawn(async move {
            let response = next.run(request).await;
            drop(share);
            response
        });
        match work.await {
            Ok(response) => response,
            // A panic is this request's, and is answered where all are.
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => crate::edge::reply::internal().map(axum::body::Body::new),
            },
        }
    }
}

/// A link that signs in is opened by GET, and used up by it.
fn changes(request: &Request) -> bool {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    !reads || request.uri().path().starts_with("/link/")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::Router;
    use axum::body::Body;
    use axum::middleware::from_fn;
    use axum::routing::{get, post};
    use http::StatusCode;
    use tokio::sync::{Notify, mpsc};
    use tower::ServiceExt;

    use super::*;

    fn around(routes: Router, acts: &Arc<Acts>) -> Router {
        let acts = acts.clone();
        let layer = move |request, next| {
            let acts = acts.clone();
            async move { acts.run(request, next).await }
        };
        crate::middleware::around(routes.layer(from_fn(layer)))
    }

    fn request(method: Method, path: &str) -> Request {
        Request::builder().method(method).uri(path).body(Body::empty()).unwrap()
    }

    #[tokio::test]
    async fn who_leaves_does_not_stop_a_change_and_stops_a_look() {
        let (go, acts) = (Arc::new(Notify::new()), Arc::new(Acts::new()));
        let (done, mut all_done) = mpsc::unbounded_channel();
        let work = {
            let go = go.clone();
            move |method: Method| async move {
                go.notified().await;
                let _ = done.send(method);
            }
        };
        let routes = Router::new().route("/x", get(work.clone()).post(work.clone()));
        let router = around(routes.route("/link/{secret}", get(work)), &acts);
        for (method, path) in [
            (Method::GET, "/x"),
            (Method::HEAD, "/x"),
            (Method::POST, "/x"),
            (Method::GET, "/link/x"),
        ] {
            let answer = router.clone().oneshot(request(method, path));
            let waited = tokio::time::timeout(Duration::from_millis(50), answer).await;
            assert!(waited.is_err(), "{path} did not wait");
        }
        assert_eq!(acts.shares.taken(), 2);
        let mut ended = Vec::new();
        for _ in 0..2 {
            go.notify_waiters();
            let next = tokio::time::timeout(Duration::from_secs(5), all_done.recv());
            ended.push(next.await.expect("an act ends").unwrap());
        }
        assert!(ended.contains(&Method::POST) && ended.contains(&Method::GET), "{ended:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(all_done.try_recv().is_err(), "what nobody waits for was looked up");
        assert_eq!(acts.shares.taken(), 0);
    }

    #[tokio::test]
    async fn a_panic_is_answered_and_too_many_are_refused() {
        let acts = Arc::new(Acts::new());
        let panics = || async {
            if true {
                panic!("on purpose")
            }
        };
        let router = around(
            Router::new()
                .route("/panic", post(panics))
                .route("/stuck", post(|| async { std::future::pending::<()>().await })),
            &acts,
        );
        let answer = router.clone().oneshot(request(Method::POST, "/panic")).await.unwrap();
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(acts.shares.taken(), 0);
        for _ in 0..EACH {
            let answer = router.clone().oneshot(request(Method::POST, "/stuck"));
            assert!(tokio::time::timeout(Duration::from_millis(1), answer).await.is_err());
        }
        assert_eq!(acts.shares.taken(), EACH);
        let answer = router.oneshot(request(Method::POST, "/panic")).await.unwrap();
        assert!(answer.extensions().get::<PageError>().is_some(), "it was let in");
    }
}
