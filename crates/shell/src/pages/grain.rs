//! The page around an open grain: its bar, its frame, and every state that it can be in.
//!
//! Trust: the frame is hostile. It runs on an origin of its own, under the sandbox flags of
//! `FLAGS`, and this page's policy names exactly that origin, so that not even a navigation of
//! the frame carries data elsewhere.

use axum::extract::{OriginalUri, Path};
use maud::{Markup, html};

use super::layout::{self, Page, token_field};
use super::parts::{accent, app_icon, icon, notices};
use super::viewer::{Person, Viewer};
use super::{PageError, PageResult, live_parts};
use crate::error::Error;
use crate::grains::{GrainState, Permissions};
use crate::identity::Login;
use crate::ids::GrainId;
use crate::state::App;
use crate::store::{Action, Filter, Grain, GrainQuery, now_ms};

/// What the frame may do: never navigate the page around it.
pub const FLAGS: &str = "allow-scripts allow-same-origin allow-forms allow-modals \
    allow-downloads allow-popups allow-popups-to-escape-sandbox allow-pointer-lock";
/// And what it may ask the browser for.
const ALLOW: &str = "fullscreen; clipboard-write";
/// A crash stays on the page for so long; later, opening simply tries again.
const FRESH_CRASH_MS: i64 = 60_000;
/// `last_used` need not be more exact.
const OPENED_EVERY_MS: i64 = 60_000;

/// The grain, if this person may open it. Sharing adds more ways than owning.
pub async fn mine(app: &App, login: &Login, id: &str) -> Result<(GrainId, Grain), PageError> {
    let parsed: GrainId = id.parse().map_err(|_| Error::NotFound("grain"))?;
    match app.store.grain(id).await? {
        Some(grain) if grain.owner == login.id() => Ok((parsed, grain)),
        _ => Err(Error::NotFound("grain").into()),
    }
}

/// What an app calls such a thing.
pub fn noun(grain: &Grain) -> &str {
    if grain.noun.is_empty() { "grain" } else { &grain.noun }
}

/// `GET /grain/ID` and everything below: the rest of the path is the app's.
pub async fn page(
    Path(params): Path<Vec<(String, String)>>,
    OriginalUri(uri): OriginalUri,
    person: Person,
) -> PageResult {
    let id = params.first().map(|(_, id)| id.as_str()).unwrap_or_default();
    let app = &person.viewer.app;
    let (grain_id, grain) = mine(app, &person.login, id).await?;
    if grain.trashed_at.is_some() {
        return Ok(layout::respond(
            &person.viewer,
            Page::plain(&grain.title, in_trash(&person, &grain)),
        ));
    }
    let state = app.grains.state(&grain_id);
    let crashed = match &state {
        GrainState::Crashed { pause, .. } => {
            pause.is_some_and(|pause| pause.seconds().is_some())
                || grain.exit_at.is_some_and(|at| at + FRESH_CRASH_MS > now_ms())
        }
        _ => false,
    };
    let recent = GrainQuery {
        filter: Filter::App(grain.app_id.clone()),
        page: Some(0),
        ..GrainQuery::default()
    };
    let recent = app.store.list_grains(person.login.id(), &recent).await?.rows;
    let recent: Vec<Grain> =
        recent.into_iter().map(|row| row.grain).filter(|g| g.id != grain.id).take(6).collect();
    let again = another(app, &person.login, &grain).await?;
    let starred = app.store.starred(person.login.id(), &grain.id).await?;
    if grain.last_used + OPENED_EVERY_MS < now_ms() {
        // Opening goes on when nothing can be written.
        if let Err(error) = app.store.grain_opened(&grain.id).await {
            tracing::warn!(grain = id, "its last use could not be noted: {error}");
        }
    }
    let frame = if crashed {
        None
    } else {
        let path = path_in_app(&uri, &grain.id);
        Some(app.grains.open(&person.login.key(), &grain_id, Permissions::All, &path).await?)
    };
    let body = html! {
        (bar(&person, &grain, &recent, again.as_ref(), starred))
        (notices(&person.viewer))
        div #state data-on=(format!("grain:{}", grain.id))
            data-live=(format!("/grains/{}/status", grain.id)) {
            (live_parts::grain_state(&person.viewer, &grain, &state, true))
        }
        template #lost {
            p.strip.warning {
                (icon("warning"))
                span { "Connection lost. What you type may not be saved. " span data-slot="wait" {} }
                button.small data-do="reconnect" { "Try now" }
            }
        }
        template #ended {
            div.panel {
                section.problem {
                    h2 { "You are signed out" }
                    p { "The frame was emptied, since it is no longer yours to see." }
                    div.buttons { a.button.main href=(person.viewer.path) { "Sign in again" } }
                }
            }
        }
        @if let Some(frame) = &frame {
            iframe #frame title=(grain.title) src=(frame.init_url) sandbox=(FLAGS) allow=(ALLOW) {}
        }
    };
    let origin = frame.map(|frame| frame.origin);
    Ok(layout::respond(
        &person.viewer,
        Page::grain(&grain.title, body, origin).icon(&grain.package_id),
    ))
}

/// The raw path and query behind `/grain/ID`: not decoded, since `%2F` is not `/` to an app.
fn path_in_app(uri: &http::Uri, id: &str) -> String {
    let full = uri.path_and_query().map_or("/", |p| p.as_str());
    let rest = full.strip_prefix("/grain/").and_then(|rest| rest.strip_prefix(id)).unwrap_or("");
    if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") }
}

/// The action that made the grain, if the person's version of the app still has it.
async fn another(app: &App, login: &Login, grain: &Grain) -> Result<Option<Action>, PageError> {
    if !login.is_member() {
        return Ok(None);
    }
    let Some(package) = app.store.app_of(login.id(), &grain.app_id).await? else {
        return Ok(None);
    };
    let actions = app.store.actions(&package.package_id).await?;
    Ok(actions.into_iter().find(|action| action.position == grain.action))
}

fn bar(
    person: &Person,
    grain: &Grain,
    recent: &[Grain],
    again: Option<&Action>,
    starred: bool,
) -> Markup {
    let viewer = &person.viewer;
    let act = format!("/grains/{}/act", grain.id);
    html! {
        header class={ "bar " (accent(&grain.app_id)) } data-grain=(grain.id) {
            a.quiet href="/" aria-label="My grains" title="My grains" { (icon("back")) }
            details.menu.title-menu {
                summary {
                    (app_icon(&grain.package_id, false))
                    h1 { bdi #title { (grain.title) } }
                    (icon("down"))
                }
                div.sheet {
                    a.line href=(format!("/grains/{}/details", grain.id)) data-do="rename" {
                        (icon("pencil")) "Rename" kbd { "F2" }
                    }
                    @if !recent.is_empty() {
                        h2 { "Opened lately" }
                        @for other in recent {
                            a.line href=(format!("/grain/{}", other.id)) {
                                (app_icon(&other.package_id, false)) bdi { (other.title) }
                            }
                        }
                    }
                    @if let Some(action) = again {
                        form action="/new" method="post" {
                            (token_field(viewer))
                            button.line name="make"
                                value=(format!("{} {}", grain.app_id, action.position)) {
                                (icon("plus")) span { "New " bdi { (action.noun) } }
                            }
                        }
                    }
                    a.line href=(format!("/?app={}", grain.app_id)) {
                        (icon("apps")) "All of this app"
                    }
                    a.line href="/" { (icon("grains")) "All grains" }
                    button.line data-do="palette" hidden {
                        (icon("search")) "Go to anything" kbd { "Ctrl K" }
                    }
                }
            }
            (title_form(viewer, grain))
            span.space {}
            (star_button(viewer, grain, starred))
            details.menu {
                summary.quiet aria-label="More" title="More" { (icon("more")) }
                div.sheet.right {
                    button.line data-copy="" hidden { (icon("copy")) "Copy the address" }
                    button.line data-do="fullscreen" hidden { (icon("full")) "Full screen" }
                    a.line href=(format!("/grains/{}/details", grain.id)) {
                        (icon("info")) "Details"
                    }
                    a.line href=(format!("/grains/{}/log", grain.id)) { (icon("log")) "Log" }
                    form action=(act) method="post" {
                        (token_field(viewer))
                        button.line name="act" value="restart" { (icon("again")) "Restart" }
                        button.line name="act" value="stop" { (icon("stop")) "Stop" }
                        button.line.danger name="act" value="trash" {
                            (icon("trash")) "Move to trash"
                        }
                    }
                }
            }
        }
    }
}

fn star_button(viewer: &Viewer, grain: &Grain, starred: bool) -> Markup {
    let (act, symbol) = if starred { ("unstar", "star-on") } else { ("star", "star") };
    let name = "Star";
    html! {
        form.inline.star-form action=(format!("/grains/{}/act", grain.id)) method="post" {
            (token_field(viewer))
            input type="hidden" name="to" value=(format!("/grain/{}", grain.id));
            input type="hidden" name="quiet" value="1";
            button.quiet name="act" value=(act) aria-label=(name) title=(name) data-star
                aria-pressed=(if starred { "true" } else { "false" }) { (icon(symbol)) }
        }
    }
}

/// In place of the title while it is changed; without a script the details page has the form.
fn title_form(viewer: &Viewer, grain: &Grain) -> Markup {
    html! {
        form #title-form hidden action=(format!("/grains/{}/act", grain.id)) method="post" {
            (token_field(viewer))
            input type="hidden" name="quiet" value="1";
            input type="hidden" name="act" value="rename";
            // The page has its heading while the one with the menu is put away, too.
            h1.unseen { "Title of this " bdi { (noun(grain)) } }
            input #new-title name="title" value=(grain.title) maxlength="200" required
                aria-label="Title" autocomplete="off";
            button.small { "Rename" }
        }
    }
}

fn in_trash(person: &Person, grain: &Grain) -> Markup {
    html! {
        section.problem {
            h1 { bdi { (grain.title) } " is in the trash" }
            p { "It stays there for 30 days. Nobody can open it until it is restored." }
            div.buttons {
                form.inline action=(format!("/grains/{}/act", grain.id)) method="post" {
                    (token_field(&person.viewer))
                    input type="hidden" name="to" value=(format!("/grain/{}", grain.id));
                    button.main name="act" value="restore" { "Restore and open" }
                }
                a.button href="/?show=trash" { "Show the trash" }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_apps_path_stays_as_it_was_typed() {
        let path = |uri: &str| path_in_app(&uri.parse().unwrap(), "abcdefgh");
        assert_eq!(path("/grain/abcdefgh"), "/");
        assert_eq!(path("/grain/abcdefgh/"), "/");
        assert_eq!(path("/grain/abcdefgh/a%2Fb?x=%2F"), "/a%2Fb?x=%2F");
        assert_eq!(path("/grain/abcdefgh?q"), "/?q");
    }
}
