//! What a person does to grains: rename, star, stop, restart, trash, restore, delete for good.
//! Acts happen at once and offer undo; only what cannot come back asks first, with numbers.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::IntoResponse;
use maud::{Markup, html};
use serde::Deserialize;

use super::grain::{mine, noun};
use super::layout::{self, Nav, Page, token_field};
use super::parts::{app_icon, count, fingerprint, icon, size, when};
use super::viewer::{Person, Viewer};
use super::{PageResult, sign_in::local_path};
use crate::error::{Error, Result};
use crate::grains::GrainState;
use crate::identity::act::one_or_many;
use crate::identity::text::{MAX_TITLE, one_line};
use crate::identity::{ActForm, Login};
use crate::ids::GrainId;
use crate::state::{App, Event};
use crate::store::{Grain, Package, Tone};

/// Grains of one form.
const MAX_CHOSEN: usize = 1000;

/// How long a press on "Move to trash" waits for the end of what goes there: an app that does as it is
/// asked takes a few tenths of a second.
const PATIENCE: Duration = Duration::from_secs(2);

/// A button on one grain.
#[derive(Debug, Deserialize)]
pub struct OneAct {
    act: String,
    #[serde(default)]
    title: String,
    #[serde(default)]
    to: String,
    /// The script shows what happened itself.
    #[serde(default)]
    quiet: String,
}

/// A button below the list.
#[derive(Debug, Deserialize)]
pub struct ListAct {
    act: String,
    #[serde(default)]
    to: String,
    #[serde(default, deserialize_with = "one_or_many")]
    grain: Vec<String>,
}

/// `POST /grains/ID/act`.
pub async fn on_one(
    State(app): State<App>,
    Path(id): Path<String>,
    viewer: Viewer,
    act: ActForm<OneAct>,
) -> PageResult {
    let login = &act.login;
    let (grain_id, grain) = mine(&app, login, &id).await?;
    let page = format!("/grain/{id}");
    let details = format!("/grains/{id}/details");
    let to = |default: &str| local_path(&act.form.to).unwrap_or(default).to_owned();
    let mut told = None;
    let to = match act.form.act.as_str() {
        "rename" => {
            told = rename(&app, login, &grain, &act.form.title).await?;
            to(&details)
        }
        "star" | "unstar" => {
            app.store.star(login.id(), &id, act.form.act == "star").await?;
            to(&details)
        }
        "wake" => {
            // The pointer went down on its link; the page itself comes in a moment.
            if grain.trashed_at.is_none() {
                let app = app.clone();
                tokio::spawn(async move {
                    if let Err(error) = app.grains.wake(&grain_id).await {
                        tracing::debug!(grain = %grain_id, "wake: {error}");
                    }
                });
            }
            return Ok(http::StatusCode::NO_CONTENT.into_response());
        }
        "stop" => {
            app.grains.stop(&grain_id).await?;
            let text = format!("Stopped. Your {} opens again when you use it.", noun(&grain));
            app.store.notify(login.id(), Tone::Good, &text, None).await?;
            details
        }
        "restart" => {
            not_in_trash(&grain)?;
            // A start that fails again is told on the grain's page, with its reason.
            if let Err(error) = app.grains.restart(&grain_id).await {
                tracing::info!(grain = %grain_id, "restart: {error}");
            }
            page
        }
        "trash" => {
            trash(&app, login, std::slice::from_ref(&grain_id)).await?;
            "/".into()
        }
        "restore" => {
            restore(&app, login, std::slice::from_ref(&grain_id)).await?;
            to("/?show=trash")
        }
        "destroy" => {
            let all = [grain];
            return Ok(layout::respond(
                &viewer,
                Page::plain("Delete for good", sure(&viewer, &all)),
            ));
        }
        _ => return Err(Error::BadRequest("this button is not known here".into()).into()),
    };
    // Others that wait to be read stay.
    if let (Some(notice), false) = (told, act.form.quiet.is_empty()) {
        app.store.notice_shown(login.id(), notice).await?;
    }
    app.events.send(Event::GrainChanged { grain: grain_id, owner: Some(login.id()) });
    Ok(layout::redirect(&to))
}

/// `POST /grains/act`.
pub async fn on_list(State(app): State<App>, viewer: Viewer, act: ActForm<ListAct>) -> PageResult {
    let login = &act.login;
    // Each once, however often the form names it.
    let chosen: BTreeSet<&str> = act.form.grain.iter().map(String::as_str).collect();
    if chosen.len() > MAX_CHOSEN {
        let why = "more than 1,000 grains were chosen at once, so nothing was done; choose fewer";
        return Err(Error::BadRequest(why.into()).into());
    }
    let mut grains = Vec::new();
    for id in chosen {
        // What is not theirs is passed over in silence: it may have been deleted meanwhile.
        if let Ok(found) = mine(&app, login, id).await {
            grains.push(found);
        }
    }
    let to = local_path(&act.form.to).unwrap_or("/");
    if grains.is_empty() {
        app.store
            .notify(login.id(), Tone::Warning, "No grain was chosen, so nothing was changed.", None)
            .await?;
        return Ok(layout::redirect(to));
    }
    let ids: Vec<GrainId> = grains.iter().map(|(id, _)| id.clone()).collect();
    match act.form.act.as_str() {
        "trash" => trash(&app, login, &ids).await?,
        "restore" => {
            restore(&app, login, &ids).await?;
        }
        "star" => {
            for id in &ids {
                app.store.star(login.id(), id.as_ref(), true).await?;
            }
        }
        "destroy" => {
            let grains: Vec<Grain> = grains.into_iter().map(|(_, grain)| grain).collect();
            return Ok(layout::respond(
                &viewer,
                Page::plain("Delete for good", sure(&viewer, &grains)),
            ));
        }
        "destroy-now" => destroy(&app, login, &grains).await?,
        _ => return Err(Error::BadRequest("this button is not known here".into()).into()),
    }
    app.events.send(Event::GrainsChanged(ids.into()));
    app.events.send(Event::AccountChanged(login.id()));
    Ok(layout::redirect(to))
}

/// The answer is the notice that tells it.
async fn rename(app: &App, login: &Login, grain: &Grain, title: &str) -> Result<Option<i64>> {
    let title = one_line(title, MAX_TITLE);
    if title.is_empty() {
        return Err(Error::BadRequest("a title needs at least one letter; write one".into()));
    }
    if title == grain.title {
        return Ok(None);
    }
    app.store.rename_grain(&grain.id, &title).await?;
    let undo = format!("rename {} {}", grain.id, grain.title);
    let text = format!("Renamed to {title}.");
    Ok(Some(app.store.notify(login.id(), Tone::Good, &text, Some(&undo)).await?))
}

fn not_in_trash(grain: &Grain) -> Result<()> {
    if grain.trashed_at.is_none() {
        return Ok(());
    }
    Err(Error::Conflict("it is in the trash; restore it first".into()))
}

async fn trash(app: &App, login: &Login, ids: &[GrainId]) -> Result<()> {
    let names: Vec<String> = ids.iter().map(ToString::to_string).collect();
    let refs: Vec<&str> = names.iter().map(String::as_str).collect();
    let moved = app.store.trash_grains(login.id(), &refs, true, None).await?;
    // All ways in are closed first: a slow or failing stop must not leave one open.
    for id in ids {
        app.grains.revoke_grain(id);
    }
    let stops = ids.iter().cloned().map(|id| {
        let grains = app.grains.clone();
        async move {
            if let Err(error) = grains.stop_in_trash(&id).await {
                tracing::warn!(grain = %id, "it went to the trash and was not ended: {error}");
            }
        }
    });
    // They go on by themselves; nobody waits for boxes that do not end.
    let stopped = tokio::spawn(futures::future::join_all(stops));
    let _ = tokio::time::timeout(PATIENCE, stopped).await;
    if moved > 0 {
        let text = match (moved, app.store.grain(&names[0]).await?) {
            (1, Some(grain)) => format!("Moved {} to the trash.", grain.title),
            _ => format!("Moved {} to the trash.", count(moved as i64, "grain", "grains")),
        };
        let undo = format!("restore {}", names.join(" "));
        app.store.notify(login.id(), Tone::Good, &text, Some(&undo)).await?;
    }
    Ok(())
}

/// Takes grains out of the trash; also what "Undo" does. Was one of them there?
pub async fn restore(app: &App, login: &Login, ids: &[GrainId]) -> Result<bool> {
    let names: Vec<String> = ids.iter().map(ToString::to_string).collect();
    let refs: Vec<&str> = names.iter().map(String::as_str).collect();
    let moved = app.store.trash_grains(login.id(), &refs, false, None).await?;
    if moved > 0 {
        let text = match (moved, app.store.grain(&names[0]).await?) {
            (1, Some(grain)) => format!("Restored {}.", grain.title),
            _ => format!("Restored {}.", count(moved as i64, "grain", "grains")),
        };
        app.store.notify(login.id(), Tone::Good, &text, None).await?;
    }
    Ok(moved > 0)
}

async fn destroy(app: &App, login: &Login, grains: &[(GrainId, Grain)]) -> Result<()> {
    let mut gone = 0_i64;
    for (id, grain) in grains {
        if grain.trashed_at.is_some() {
            gone += i64::from(app.grains.destroy_trashed(id, i64::MAX).await?);
        }
    }
    let text = format!("Deleted {} for good.", count(gone, "grain", "grains"));
    app.store.notify(login.id(), Tone::Good, &text, None).await?;
    Ok(())
}

/// The only question that is asked first.
fn sure(viewer: &Viewer, grains: &[Grain]) -> Markup {
    let total: i64 = grains.iter().map(|grain| grain.size).sum();
    html! {
        section.problem {
            h1 { "Delete " (count(grains.len() as i64, "grain", "grains")) " for good?" }
            p {
                (size(total)) " of data will be gone. This cannot be undone, and there is no copy."
            }
            ul.short {
                @for grain in grains.iter().take(10) { li { bdi { (grain.title) } } }
                @if grains.len() > 10 { li { "and " (grains.len() - 10) " more" } }
            }
            form action="/grains/act" method="post" {
                (token_field(viewer))
                input type="hidden" name="to" value="/?show=trash";
                @for grain in grains { input type="hidden" name="grain" value=(grain.id); }
                div.buttons {
                    button.main.danger name="act" value="destroy-now" { "Delete for good" }
                    a.button href="/?show=trash" { "Keep" }
                }
            }
        }
    }
}

/// `GET /grains/ID/details`.
pub async fn details(State(app): State<App>, Path(id): Path<String>, person: Person) -> PageResult {
    let (grain_id, grain) = mine(&app, &person.login, &id).await?;
    let package = app.store.package(&grain.package_id).await?;
    let starred = app.store.starred(person.login.id(), &id).await?;
    let state = app.grains.state(&grain_id);
    let body = details_body(&person, &grain, package.as_ref(), starred, &state);
    // The name first: a tab shows the beginning only.
    Ok(layout::respond(
        &person.viewer,
        Page::new(&format!("{}: details", grain.title), Nav::Grains, body).icon(&grain.package_id),
    ))
}

fn details_body(
    person: &Person,
    grain: &Grain,
    package: Option<&Package>,
    starred: bool,
    state: &GrainState,
) -> Markup {
    let viewer = &person.viewer;
    let act = format!("/grains/{}/act", grain.id);
    let running = !matches!(state, GrainState::Asleep | GrainState::Crashed { .. });
    html! {
        div.heading {
            (app_icon(&grain.package_id, true))
            h1 { "Details of " bdi { (grain.title) } }
        }
        div.buttons {
            @if grain.trashed_at.is_none() {
                a.button.main href=(format!("/grain/{}", grain.id)) { "Open" }
            }
            form.inline action=(act) method="post" {
                (token_field(viewer))
                @if grain.trashed_at.is_some() {
                    button.main name="act" value="restore" { "Restore" }
                    button.danger name="act" value="destroy" { (icon("trash")) "Delete for good" }
                } @else {
                    @if starred {
                        button name="act" value="unstar" { (icon("star-on")) "Remove the star" }
                    } @else {
                        button name="act" value="star" { (icon("star")) "Star" }
                    }
                    button name="act" value="restart" { (icon("again")) "Restart" }
                    @if running { button name="act" value="stop" { (icon("stop")) "Stop" } }
                    button.danger name="act" value="trash" { (icon("trash")) "Move to trash" }
                }
            }
        }
        form.field-row action=(act) method="post" {
            (token_field(viewer))
            label for="title-field" { "Title" }
            input #title-field name="title" value=(grain.title) maxlength="200" required
                autocomplete="off";
            button name="act" value="rename" { "Rename" }
        }
        dl.facts {
            dt { "App" }
            dd {
                a href=(format!("/apps/{}", grain.app_id)) {
                    bdi { (package.map(|p| p.title.as_str()).unwrap_or("App")) }
                }
                @if let Some(package) = package { " " bdi { (package.version()) } }
            }
            dt { "State" }
            dd {
                @if grain.trashed_at.is_some() { "In the trash: restore it to open it" }
                @else { @match state {
                    GrainState::Running => { "Running" }
                    GrainState::Starting { .. } => { "Starting" }
                    GrainState::Stopping => { "Stopping" }
                    GrainState::Asleep => { "Ready: it opens when you use it" }
                    GrainState::Crashed { reason, code, .. } => {
                        bdi { (reason) } " Code " code { (code) }
                    }
                } }
            }
            dt { "Storage" } dd { (size(grain.size)) }
            dt { "Opened" } dd { (when(grain.last_used)) }
            dt { "Made" } dd { (when(grain.created)) }
            dt { "Who has access" } dd { "Only you" }
            dt { "Id" } dd { code { (grain.id) } }
            dt { "App's key" } dd { (fingerprint(&grain.app_id)) }
            @if let (Some(at), Some(reason)) = (grain.exit_at, &grain.exit_reason) {
                dt { "Last time it stopped by itself" }
                dd { (when(at)) ": " bdi { (one_line(reason, 700)) } }
            }
        }
        p { a.button href=(format!("/grains/{}/log", grain.id)) { (icon("log")) "Log" } }
    }
}
