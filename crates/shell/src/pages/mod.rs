//! What people see: server-rendered pages that work before, and without, any script.
//!
//! Trust: every title, name and address on a page is hostile text. Markup is built by `maud`,
//! which escapes; texts of people and apps stand in `<bdi>`; the policy on each page (`layout`)
//! allows no inline script or style. Changes come only through `identity::act`.

pub mod errors;
mod layout;
mod parts;
mod viewer;

mod admin;
mod admin_limits;
mod app_versions;
mod apps;
mod gallery;
mod grain;
mod grain_acts;
mod grain_log;
mod home;
mod icon;
mod install;
mod live_parts;
mod new;
mod notices;
mod palette;
mod sign_in;
pub mod standalone;
mod you;

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    middleware::{Next, from_fn_with_state},
    response::Response,
    routing::{get, post},
};

pub use errors::PageError;
pub use layout::guard;

use crate::assets;
use crate::identity::Login;
use crate::ids::GrainId;
use crate::state::App;

/// What a page's handler answers.
pub type PageResult = Result<Response, PageError>;

/// Every page, and every act that a page's button asks for.
pub fn routes(app: &App) -> Router<App> {
    let mut routes = Router::new()
        .route("/", get(home::page))
        .route("/grains/act", post(grain_acts::on_list))
        .route("/palette", get(palette::found))
        .route("/new", get(new::page).post(new::create))
        .route("/grain/{id}", get(grain::page))
        .route("/grain/{id}/", get(grain::page))
        .route("/grain/{id}/{*path}", get(grain::page))
        .route("/grains/{id}/status", get(live_parts::grain_status))
        .route("/grains/{id}/details", get(grain_acts::details))
        .route("/grains/{id}/act", post(grain_acts::on_one))
        .route("/grains/{id}/log", get(grain_log::page))
        .route("/grains/{id}/log/text", get(grain_log::text))
        .route("/apps", get(apps::list))
        .route("/apps/{app}", get(apps::page))
        .route("/apps/{app}/act", post(apps::act))
        .route("/icon/{package}/{size}", get(icon::of_package))
        .route("/face/{seed}", get(icon::of_person))
        // The form's file goes to disk as it comes, under the installer's own limit.
        .route(
            "/install",
            get(install::choose).post(install::upload_form).layer(DefaultBodyLimit::disable()),
        )
        .route("/upload", post(install::upload_raw))
        .route("/install/{package}", get(install::page).post(install::act))
        .route("/install/{package}/status", get(live_parts::install_status))
        .route("/sign-in", get(sign_in::page))
        .route("/sign-in/done", get(sign_in::done))
        .route("/sign-out", post(sign_in::sign_out))
        .route("/link/{secret}", get(sign_in::link))
        .route("/notices", get(notices::page))
        .route("/notices/undo", post(notices::undo))
        .route("/admin", get(admin::overview).post(admin::act))
        .route("/admin/people", get(admin::people))
        .route("/admin/packages", get(admin::packages))
        .route("/admin/limits", get(admin_limits::page).post(admin_limits::act))
        .route("/admin/log", get(admin::log))
        .route("/you", get(you::page).post(you::act))
        .route("/you/look", post(you::look))
        .route("/about", get(you::about))
        .route("/live", get(crate::live::socket))
        .fallback(errors::not_found);
    if app.config.allow_dev_accounts {
        routes =
            routes.route("/gallery", get(gallery::page)).route("/sign-in/dev", post(sign_in::dev));
    }
    routes.merge(assets::routes()).layer(from_fn_with_state(app.clone(), render_errors))
}

/// The grain, if this person may have it open in a tab.
pub async fn open_grain(app: &App, login: &Login, id: &str) -> Result<GrainId, PageError> {
    let (id, grain) = grain::mine(app, login, id).await?;
    if grain.trashed_at.is_some() { Err(PageError::not_found()) } else { Ok(id) }
}

/// Turns an error that a handler returned into a page for this person.
async fn render_errors(State(app): State<App>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let asked = errors::Asked::of(&parts);
    let packed = assets::accepts_gzip(&parts.headers);
    let reads = matches!(parts.method, http::Method::GET | http::Method::HEAD);
    let mut response = app.acts.run(Request::from_parts(parts, body), next).await;
    let told = response.extensions_mut().remove::<PageError>();
    if let Some(error) = told.or_else(|| errors::of_the_framework(reads, &response)) {
        let allow = response.headers_mut().remove(http::header::ALLOW);
        response = errors::page(&app, &asked, error).await;
        response.headers_mut().extend(allow.map(|allow| (http::header::ALLOW, allow)));
    }
    if packed { layout::pack(response).await } else { response }
}

#[cfg(test)]
mod tests;
