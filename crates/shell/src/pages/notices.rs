//! What happened lately, with undo where it still can be undone.

use axum::extract::State;
use maud::html;
use serde::Deserialize;

use super::layout::{self, Page, token_field};
use super::parts::{empty, when};
use super::viewer::Person;
use super::{PageError, PageResult, grain_acts, sign_in::local_path};
use crate::error::Error;
use crate::identity::{ActForm, Login};
use crate::ids::GrainId;
use crate::state::{App, Event};
use crate::store::Tone;

/// `GET /notices`.
pub async fn page(State(app): State<App>, person: Person) -> PageResult {
    let notices = app.store.recent_notices(person.login.id(), 100).await?;
    let body = html! {
        div.heading { h1 { "News" } }
        @if notices.is_empty() {
            (empty(
                "Nothing happened yet",
                html! { p { "What you did, and what concerns you, is listed here for 90 days." } },
                html! { a.button.main href="/" { "My grains" } },
            ))
        } @else {
            ul.news {
                @for notice in &notices {
                    li class=(notice.tone.as_str()) {
                        span { bdi { (notice.text) } }
                        span.at { (when(notice.created)) }
                        @if notice.undo.is_some() {
                            form.inline action="/notices/undo" method="post" {
                                (token_field(&person.viewer))
                                input type="hidden" name="to" value="/notices";
                                button.small name="notice" value=(notice.id) { "Undo" }
                            }
                        }
                    }
                }
            }
        }
    };
    Ok(layout::respond(&person.viewer, Page::plain("News", body)))
}

/// Which notice.
#[derive(Debug, Deserialize)]
pub struct Undo {
    notice: String,
    #[serde(default)]
    to: String,
}

/// `POST /notices/undo`.
pub async fn undo(State(app): State<App>, act: ActForm<Undo>) -> PageResult {
    let login = &act.login;
    let id = act.form.notice.parse().map_err(|_| Error::NotFound("notice"))?;
    let Some(undo) = app.store.take_undo(login.id(), id).await? else {
        app.store.notify(login.id(), Tone::Warning, "This was undone already.", None).await?;
        return Ok(layout::redirect(local_path(&act.form.to).unwrap_or("/")));
    };
    let to = match run(&app, login, &undo).await {
        Ok(to) => to,
        Err(error) => {
            // It was taken before, so that of two presses one does it; nothing was undone.
            if let Err(error) = app.store.give_undo_back(login.id(), id, &undo).await {
                tracing::warn!("an undo that failed could not be put back: {error}");
            }
            return Err(error);
        }
    };
    app.events.send(Event::AccountChanged(login.id()));
    Ok(layout::redirect(local_path(&act.form.to).unwrap_or(&to)))
}

/// Does what an undo says; the answer is where that is seen.
async fn run(app: &App, login: &Login, undo: &str) -> Result<String, PageError> {
    let (what, rest) = undo.split_once(' ').unwrap_or((undo, ""));
    let (text, to) = match what {
        "restore" => {
            let ids: Vec<GrainId> = rest.split(' ').filter_map(|id| id.parse().ok()).collect();
            if !grain_acts::restore(app, login, &ids).await? {
                let text =
                    "Nothing was restored: it is deleted for good, or left the trash before.";
                app.store.notify(login.id(), Tone::Warning, text, None).await?;
            }
            return Ok("/".into());
        }
        "rename" => {
            let (grain, title) = rest.split_once(' ').unwrap_or((rest, ""));
            let (id, _) = super::grain::mine(app, login, grain).await?;
            app.store.rename_grain(grain, title).await?;
            app.events.send(Event::GrainChanged { grain: id, owner: Some(login.id()) });
            (format!("Renamed back to {title}."), format!("/grain/{grain}"))
        }
        "app" => {
            let package = app.store.package(rest).await?.ok_or(Error::NotFound("app"))?;
            if !app.store.choose_app(login.id(), &package).await? {
                return Err(Error::NotFound("app").into());
            }
            (format!("{} is back in your apps.", package.title), "/apps".into())
        }
        other => return Err(Error::Internal(format!("unknown undo {other:?}")).into()),
    };
    app.store.notify(login.id(), Tone::Good, &text, None).await?;
    Ok(to)
}
