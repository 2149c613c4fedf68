//! Layers around the pages of the shell's own host.
//!
//! Who may do what is judged where the page is (`identity::act`); here is what holds for all.

pub mod acts;
mod log;

use axum::Router;
use axum::response::Response;
use tower_http::catch_panic::CatchPanicLayer;

use crate::pages::guard;

/// Puts the layers around `routes`, the first one innermost.
pub fn around(routes: Router) -> Router {
    routes
        .layer(axum::middleware::map_response(async |mut response: Response| {
            guard(&mut response);
            response
        }))
        // A panic in a page is that request's alone.
        .layer(CatchPanicLayer::custom(|panic: Box<dyn std::any::Any + Send>| {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no words");
            tracing::error!("a page panicked: {text}");
            crate::edge::reply::internal().map(axum::body::Body::new)
        }))
        .layer(axum::middleware::from_fn(log::requests))
}
