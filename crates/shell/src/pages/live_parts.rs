//! Parts of pages that change while they are looked at. The page holds the first version; the
//! script asks here for the next one when it hears that something changed, and without a script
//! the page is loaded again.

use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};
use serde::Deserialize;

use super::grain::{mine, noun};
use super::layout::token_field;
use super::parts::{app_icon, icon};
use super::viewer::Viewer;
use super::{PageError, PageResult, install};
use crate::error::Error;
use crate::grains::{GrainState, Pause};
use crate::identity::Login;
use crate::ids::PackageId;
use crate::install::failure::coded;
use crate::state::App;
use crate::store::Grain;

fn part(markup: Markup, state: &str) -> Response {
    ([("x-state", state)], markup).into_response()
}

/// What a page is told that waits for its frame.
const SLOW_SECONDS: u32 = 60;

/// The script says so when the frame has shown nothing for `SLOW_SECONDS`.
#[derive(Debug, Deserialize)]
pub struct Asked {
    #[serde(default)]
    slow: bool,
}

/// `GET /grains/ID/status`.
pub async fn grain_status(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(asked): Query<Asked>,
    login: Login,
    viewer: Viewer,
) -> PageResult {
    let (id, grain) = mine(&app, &login, &id).await?;
    let state = app.grains.state(&id);
    if grain.trashed_at.is_some() {
        return Ok(part(trashed(&viewer, &grain), "trash"));
    }
    if asked.slow && !matches!(state, GrainState::Crashed { .. }) {
        return Ok(part(not_answering(&viewer, &grain), "slow"));
    }
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
        GrainState::Asleep if opening => waking(viewer, grain, "Starting the app"),
        GrainState::Starting { step } => waking(viewer, grain, step),
        GrainState::Running if opening => waking(viewer, grain, "Loading what the app shows"),
        GrainState::Asleep | GrainState::Running | GrainState::Stopping => {
            nearly_full(viewer, grain)
        }
        GrainState::Crashed { reason, code, log_tail, pause } => {
            crashed(viewer, grain, reason, code, log_tail, *pause)
        }
    }
}

/// Percent of the disk limit from which on the page says so.
const NEARLY_FULL: i64 = 80;

fn nearly_full(viewer: &Viewer, grain: &Grain) -> Markup {
    html! {
        @if let Some(words) = crate::disk::stops_saving(&viewer.app.config.home) {
            p.strip.bad { (icon("stop")) span { (words) } }
        } @else if grain.fullness >= 100 {
            p.strip.bad {
                (icon("stop"))
                span { "The disk space of this " (noun(grain)) " is used up. Nothing can be saved "
                    "until something in it is deleted." }
            }
        } @else if grain.fullness >= NEARLY_FULL {
            p.strip.warning {
                (icon("warning"))
                span { (grain.fullness) " % of the disk space of this " (noun(grain)) " are used." }
            }
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
                div.buttons {
                    button.main data-do="wait" hidden { "Wait" }
                    (again(viewer, grain, "button"))
                    (log_link(grain))
                }
            }
        }
    }
}

fn crashed(
    viewer: &Viewer,
    grain: &Grain,
    reason: &str,
    code: &str,
    log_tail: &str,
    pause: Option<Pause>,
) -> Markup {
    let mut reason = super::errors::sentence(reason);
    if let Some(words) = pause.and_then(|pause| pause.words()) {
        reason += &format!(" {words} “Start again” starts it now.");
    }
    let saved = format!("Your {} is as it was last saved.", noun(grain));
    html! {
        // A strip where the app has shown something: its text can still be copied.
        div.strip.bad {
            (icon("stop"))
            span { "The app stopped. " bdi { (reason) } " " bdi { (saved) } " Code " code { (code) } }
            (again(viewer, grain, "main small"))
            (log_link(grain))
        }
        div.panel {
            section.problem {
                h2 { "The app stopped" }
                p { bdi { (reason) } " " bdi { (saved) } }
                div.buttons { (again(viewer, grain, "main")) (log_link(grain)) }
                p.hint { "Code " code { (code) } }
                @if !log_tail.trim().is_empty() {
                    h3 { "The last lines of its log" }
                    div.tail tabindex="0" role="region" aria-label="The last lines of its log" {
                        pre.log { (log_tail) }
                    }
                }
            }
        }
    }
}

/// It was thrown away, in another tab or by an operator, while this page had it open. The text in
/// the frame can still be copied.
fn trashed(viewer: &Viewer, grain: &Grain) -> Markup {
    let restore = |class: &str| {
        html! {
            form.inline action=(format!("/grains/{}/act", grain.id)) method="post" {
                (token_field(viewer))
                input type="hidden" name="to" value=(format!("/grain/{}", grain.id));
                button class=(class) name="act" value="restore" { "Restore and open" }
            }
        }
    };
    html! {
        div.strip.bad data-trashed {
            (icon("trash"))
            span {
                "This " bdi { (noun(grain)) } " was moved to the trash. What you type here is not "
                "saved any more."
            }
            (restore("main small"))
        }
        div.panel {
            section.problem {
                h2 { "This " bdi { (noun(grain)) } " was moved to the trash" }
                p { "It stays there for 30 days. Nobody can open it until it is restored." }
                div.buttons { (restore("main")) a.button href="/?show=trash" { "Show the trash" } }
            }
        }
    }
}

/// After a minute a wait is an error, though the app may still come.
fn not_answering(viewer: &Viewer, grain: &Grain) -> Markup {
    let code = coded("G-SLOW");
    tracing::warn!(code, "grain {}: no answer within {SLOW_SECONDS} s of opening it", grain.id);
    html! {
        div.panel.slow {
            section.problem {
                h2 { "The app does not answer" }
                p {
                    "It has had " (SLOW_SECONDS) " seconds. What was saved is still there. Go on "
                    "waiting, or start it again; its log may say what it is doing."
                }
                div.buttons {
                    (again(viewer, grain, "main"))
                    button data-do="wait" { "Go on waiting" }
                    (log_link(grain))
                }
                p.hint { "Code " code { (code) } }
            }
        }
    }
}

fn again(viewer: &Viewer, grain: &Grain, class: &str) -> Markup {
    html! {
        form.inline action=(format!("/grains/{}/act", grain.id)) method="post" {
            (token_field(viewer))
            button class=(class) name="act" value="restart" { "Start again" }
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
    let room = app.installer.room_of(&install, login.id()).await?;
    Ok(part(install::steps(&viewer, &id, &install, room.as_deref()), word))
}
