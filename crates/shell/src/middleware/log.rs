//! One line a request, at level debug: the route's pattern, never the address itself, since
//! addresses carry secrets (`/link/…`, `/shared/…`).

use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::Response;

use crate::edge::ClientAddr;

pub async fn requests(request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let client = request.extensions().get::<ClientAddr>().map(|client| client.0);
    let begin = Instant::now();
    let response = next.run(request).await;
    let pattern = response.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    tracing::debug!(
        ?client,
        %method,
        route = pattern.as_deref().unwrap_or("-"),
        status = response.status().as_u16(),
        ms = begin.elapsed().as_millis() as u64,
    );
    response
}
