//! Something new: one press makes it and opens it.

use maud::{Markup, html};
use serde::Deserialize;

use super::PageResult;
use super::layout::{self, Nav, Page, token_field};
use super::parts::{accent, app_icon, empty};
use super::viewer::{Person, Viewer};
use crate::error::Error;
use crate::identity::ActForm;
use crate::store::{Action, AppRow};

/// The one explanation of the word.
pub const A_GRAIN_IS: &str =
    "A grain is one document, board or mailbox, locked in a box of its own.";

/// `GET /new`.
pub async fn page(person: Person) -> PageResult {
    let apps = person.viewer.app.store.apps_of(person.login.id()).await?;
    let what = if !person.login.is_member() {
        empty(
            "Making grains is for members",
            html! {
                p { "You are a visitor here: you can use what others share with you. Ask an \
                     administrator to make you a member." }
            },
            html! { a.button.main href="/" { "My grains" } },
        )
    } else if apps.is_empty() {
        empty(
            "Nothing to make yet",
            html! { p { "No app is installed for you. An app is a file that ends in .spk." } },
            html! { a.button.main href="/install" { "Install an app" } },
        )
    } else {
        html! {
            p.hint { "One press makes it and opens it. " (A_GRAIN_IS) }
            form action="/new" method="post" {
                (token_field(&person.viewer))
                ul.makers {
                    @for app in &apps {
                        @for action in &app.actions {
                            li class=(accent(&app.package.app_id)) { (maker(app, action)) }
                        }
                    }
                }
            }
            div.buttons { a.button href="/install" { "Install another app" } }
        }
    };
    let body = html! { div.heading { h1 { "New" } } (what) };
    Ok(layout::respond(&person.viewer, Page::new("New", Nav::New, body).wide()))
}

fn maker(app: &AppRow, action: &Action) -> Markup {
    let value = format!("{} {}", app.package.app_id, action.position);
    html! {
        button.maker name="make" value=(value) {
            (app_icon(&app.package.package_id, true))
            span.noun { "New " bdi { (action.noun) } }
            span.hint {
                @if action.description.is_empty() { bdi { (app.package.title) } }
                @else { bdi { (action.description) } }
            }
        }
    }
}

/// A few "New board" buttons, the first one filled: for places where nothing is yet.
pub fn buttons(viewer: &Viewer, apps: &[AppRow], most: usize, only: Option<&str>) -> Markup {
    let actions = apps
        .iter()
        .filter(|app| only.is_none_or(|only| app.package.app_id == only))
        .filter_map(|app| app.actions.first().map(|action| (app, action)));
    html! {
        form.inline action="/new" method="post" {
            (token_field(viewer))
            @for (i, (app, action)) in actions.take(most).enumerate() {
                button.main[i == 0] name="make"
                    value=(format!("{} {}", app.package.app_id, action.position)) {
                    (app_icon(&app.package.package_id, false))
                    span { "New " bdi { (action.noun) } }
                }
            }
        }
    }
}

/// The form's one field: `APPID POSITION`.
#[derive(Debug, Deserialize)]
pub struct Make {
    make: String,
}

/// `POST /new`.
pub async fn create(
    axum::extract::State(app): axum::extract::State<crate::state::App>,
    act: ActForm<Make>,
) -> PageResult {
    if !act.login.is_member() {
        return Err(Error::Forbidden("making grains is for members".into()).into());
    }
    let bad = || Error::BadRequest("this names no app; load the page again".into());
    let (app_id, position) = act.form.make.split_once(' ').ok_or_else(bad)?;
    let position: i64 = position.parse().map_err(|_| bad())?;
    let package = app.store.app_of(act.login.id(), app_id).await?.ok_or(Error::NotFound("app"))?;
    let actions = app.store.actions(&package.package_id).await?;
    let action = actions
        .iter()
        .find(|action| action.position == position)
        .ok_or(Error::NotFound("thing to make"))?;
    let title = format!("Untitled {}", action.noun);
    let grain = app.grains.create(act.login.id(), &package, action, &title).await?;
    app.events.send(crate::state::Event::AccountChanged(act.login.id()));
    // The fragment makes the script select the title.
    Ok(layout::redirect(&format!("/grain/{grain}#new")))
}
