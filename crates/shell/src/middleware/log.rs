//! One line a request, at level debug: the route's pattern, never the address itself, since
//! addresses carry secrets (`/link/…`, `/shared/…`).

use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::Response;

pub async fn requests(request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let begin = Instant::now();
    let response = next.run(request).await;
    let pattern = response.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    tracing::debug!(
        %method,
        route = pattern.as_deref().unwrap_or("-"),
        status = response.status().as_u16(),
        ms = begin.elapsed().as_millis() as u64,
    );
    response
}
