//! Parts of pages that change while they are looked at. The page holds the first version; the
//! script asks here for the next one when it hears that something changed, and without a script
//! the page is loaded again.

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};

use super::grain::{mine, noun};
use super::layout::{guard, token_field};
use super::parts::{app_icon, icon};
use super::viewer::Viewer;
use super::{PageError, PageResult, install};
use crate::error::Error;
use crate::grains::GrainState;
use crate::identity::Login;
use crate::ids::PackageId;
use crate::state::App;
use crate::store::Grain;

fn part(markup: Markup, state: &str) -> Response {
    let mut response = ([("x-state", state)], markup).into_response();
    guard(&mut response);
    response
}

/// `GET /grains/ID/status`.
pub async fn grain_status(
    State(app): State<App>,
    Path(id): Path<String>,
    login: Login,
    viewer: Viewer,
) -> PageResult {
    let (id, grain) = mine(&app, &login, &id).await?;
    let state = app.grains.state(&id);
    let word = match &state {
        GrainState::Asleep => "asleep",
        GrainState::Starting { .. } => "starting",
        GrainState::Running => "running",
        GrainState::Stopping => "stopping",
        GrainState::Crashed { .. } => "crashed",
    };
    let mut response = part(grain_state(&viewer, &grain, &state, false), word);
    let title =
        percent_encoding::utf8_percent_encode(&grain.title, percent_encoding::NON_ALPHANUMERIC);
    if let Ok(title) = http::HeaderValue::from_str(&title.to_string()) {
        response.headers_mut().insert("x-title", title);
    }
    Ok(response)
}

/// What stands over or above a grain's frame. `opening`: the page is being made right now, and
/// its frame is about to wake the grain.
pub fn grain_state(viewer: &Viewer, grain: &Grain, state: &GrainState, opening: bool) -> Markup {
    match state {
        GrainState::Asleep if opening => waking(viewer, grain, "Waking it up"),
        GrainState::Starting { step } => waking(viewer, grain, step),
        GrainState::Running if opening => waking(viewer, grain, "Loading its page"),
        GrainState::Asleep | GrainState::Running | GrainState::Stopping => html! {},
        GrainState::Crashed { reason, code, log_tail } => {
            crashed(viewer, grain, reason, code, log_tail)
        }
    }
}

fn waking(viewer: &Viewer, grain: &Grain, step: &str) -> Markup {
    html! {
        div.panel.waking {
            (app_icon(&grain.package_id, true))
            p.large { "Opening " bdi { (grain.title) } }
            p.hint #step { (step) }
            progress aria-label="Opening" {}
            // Shown by the style sheet once it takes longer than it should.
            div.late {
                p { "This takes longer than usual." }
                div.buttons { (again(viewer, grain, false)) (log_link(grain)) }
            }
        }
    }
}

fn crashed(viewer: &Viewer, grain: &Grain, reason: &str, code: &str, log_tail: &str) -> Markup {
    let reason = super::errors::sentence(reason);
    let saved = format!("Your {} is as it was last saved.", noun(grain));
    html! {
        // A strip where the app has shown something: its text can still be copied.
        div.strip.bad {
            (icon("stop"))
            span { "The app stopped. " (reason) " " bdi { (saved) } " Code " code { (code) } }
            (again(viewer, grain, true))
            (log_link(grain))
        }
        div.panel {
            section.problem {
                h2 { "The app stopped" }
                p { (reason) " " bdi { (saved) } }
                div.buttons { (again(viewer, grain, false)) (log_link(grain)) }
                p.hint { "Code " code { (code) } }
                @if !log_tail.trim().is_empty() {
                    h3 { "The last lines of its log" }
                    pre.log tabindex="0" { (log_tail) }
                }
            }
        }
    }
}

fn again(viewer: &Viewer, grain: &Grain, small: bool) -> Markup {
    html! {
        form.inline action=(format!("/grains/{}/act", grain.id)) method="post" {
            (token_field(viewer))
            button.main.small[small] name="act" value="restart" { "Start again" }
        }
    }
}

fn log_link(grain: &Grain) -> Markup {
    html! { a.button href=(format!("/grains/{}/log", grain.id)) { "Log" } }
}

/// `GET /install/PACKAGE/status`.
pub async fn install_status(
    State(app): State<App>,
    Path(id): Path<String>,
    login: Login,
    viewer: Viewer,
) -> PageResult {
    if !login.is_member() {
        return Err(PageError::not_found());
    }
    let id: PackageId = id.parse().map_err(|_| Error::NotFound("package"))?;
    let install = app.installer.status(&id).await?.ok_or(Error::NotFound("installation"))?;
    let word = install.state.as_str();
    Ok(part(install::steps(&viewer, &id, &install), word))
}
