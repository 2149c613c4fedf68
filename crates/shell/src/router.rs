//! Every route of the shell's own host.

use axum::Router;

use crate::middleware;
use crate::state::App;

pub fn router(app: App) -> Router {
    middleware::around(Router::new().merge(crate::pages::routes(&app)).with_state(app))
}
