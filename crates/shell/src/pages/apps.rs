//! The apps that a person can make grains of, and one app's page.

use axum::extract::{Path, State};
use maud::{Markup, html};
use serde::Deserialize;

use super::layout::{self, Nav, Page, token_field};
use super::parts::{accent, app_icon, count, empty, fingerprint, icon, paragraphs, size, when};
use super::viewer::{Person, Viewer};
use super::{PageResult, app_versions};
use crate::error::Error;
use crate::identity::ActForm;
use crate::install::manifest::{self, Details};
use crate::state::{App, Event};
use crate::store::{AppRow, Install, InstallState, Package, Tone};

/// `GET /apps`.
pub async fn list(State(app): State<App>, person: Person) -> PageResult {
    let apps = app.store.apps_of(person.login.id()).await?;
    let mut pending =
        if person.login.is_member() { app.store.installs_pending().await? } else { Vec::new() };
    // What somebody else began is no business of a member's.
    pending
        .retain(|install| person.login.is_admin() || install.started_by == Some(person.login.id()));
    let body = html! {
        div.heading {
            h1 { "Apps" }
            // An empty page has its one button in the middle.
            @if person.login.is_member() && !apps.is_empty() {
                a.button.main href="/install" { (icon("plus")) "Install an app" }
            }
        }
        (waiting(&pending))
        @if apps.is_empty() {
            (empty(
                "No apps yet",
                html! { p { "An app makes one kind of thing: boards, notes, mailboxes. It comes as \
                             a file that ends in .spk, from whoever made it." } },
                html! { @if person.login.is_member() {
                    a.button.main href="/install" { "Install an app" }
                } },
            ))
        } @else {
            ul.apps {
                @for row in &apps { li class=(accent(&row.package.app_id)) { (app_card(row)) } }
            }
        }
        (app_versions::brought(&person).await?)
    };
    Ok(layout::respond(&person.viewer, Page::new("Apps", Nav::Apps, body).wide()))
}

fn app_card(row: &AppRow) -> Markup {
    html! {
        a href=(format!("/apps/{}", row.package.app_id)) {
            (app_icon(&row.package.package_id, true))
            span.title { bdi { (row.package.title) } }
            span.hint {
                bdi { (row.package.version()) }
                @if row.grains > 0 { " · " (count(row.grains, "grain", "grains")) }
            }
        }
    }
}

fn waiting(pending: &[Install]) -> Markup {
    html! {
        @if !pending.is_empty() {
            ul.short data-on="install" {
                @for install in pending {
                    li {
                        a href=(format!("/install/{}", install.package_id)) {
                            @if install.state == InstallState::Failed { "An installation failed" }
                            @else { "An installation is under way" }
                        }
                        " " (when(install.updated))
                    }
                }
            }
        }
    }
}

/// `GET /apps/APPID`.
pub async fn page(State(app): State<App>, Path(id): Path<String>, person: Person) -> PageResult {
    let apps = app.store.apps_of(person.login.id()).await?;
    let mine = apps.into_iter().find(|row| row.package.app_id == id);
    let versions = app_versions::known(&app, &person.login, &id).await?;
    // One that is not in a member's list may have grains of theirs, or be of their bringing.
    let package = match (&mine, versions.first()) {
        (Some(row), _) => row.package.clone(),
        (None, Some(newest)) if person.login.is_member() => newest.clone(),
        _ => return Err(Error::NotFound("app").into()),
    };
    let newer = versions.iter().find(|v| v.app_version > package.app_version);
    let details = manifest::details(&app.store, &package.package_id).await?;
    let on_disk = app_versions::section(&person, &versions).await?;
    let body = body(&person, mine.as_ref(), &package, newer, &details, &on_disk);
    Ok(layout::respond(&person.viewer, Page::new(&package.title, Nav::Apps, body)))
}

fn body(
    person: &Person,
    mine: Option<&AppRow>,
    package: &Package,
    newer: Option<&Package>,
    details: &Details,
    on_disk: &Markup,
) -> Markup {
    let viewer = &person.viewer;
    let install = |p: &Package| format!("/install/{}", p.package_id);
    html! {
        div class={ "app-head " (accent(&package.app_id)) } {
            (app_icon(&package.package_id, true))
            div {
                h1 { bdi { (package.title) } " " span.n { bdi { (package.version()) } } }
                @if !details.short.is_empty() { p.hint { bdi { (details.short) } } }
            }
        }
        @if let Some(newer) = newer {
            p.strip.good {
                (icon("up"))
                span { "Version " bdi { (newer.version()) } " is here." }
                a.button.small href=(install(newer)) { "See it" }
            }
        }
        div.buttons {
            @match mine {
                // A visitor uses what others share.
                Some(_) if !person.login.is_member() => {}
                Some(row) => {
                    form.inline action="/new" method="post" {
                        (token_field(viewer))
                        @for (i, action) in row.actions.iter().enumerate() {
                            button.main[i == 0] name="make"
                                value=(format!("{} {}", package.app_id, action.position)) {
                                span { "New " bdi { (action.noun) } }
                            }
                        }
                    }
                    @if row.grains > 0 {
                        a.button href=(format!("/?app={}", package.app_id)) {
                            (count(row.grains, "grain", "grains"))
                        }
                    }
                }
                None => { a.button.main href=(install(package)) { "Install" } }
            }
        }
        @if !details.description.is_empty() {
            section { h2 { "About" } (paragraphs(&details.description)) }
        }
        (facts(package, details))
        @if !details.changes.is_empty() {
            section { h2 { "What changed" } (paragraphs(&details.changes)) }
        }
        @if mine.is_some_and(|row| row.own) {
            section {
                h2 { "Remove" }
                p.hint {
                    "Removing takes it off your list. The grains that you made with it stay and "
                    "go on working."
                }
                form action=(format!("/apps/{}/act", package.app_id)) method="post" {
                    (token_field(viewer))
                    button.danger name="act" value="remove" { (icon("trash")) "Remove app" }
                }
            }
        }
        (on_disk)
    }
}

/// What is known of a package, and by whose word.
pub fn facts(package: &Package, details: &Details) -> Markup {
    html! {
        dl.facts {
            dt { "Key" }
            dd {
                (fingerprint(&package.app_id))
                p.hint { "Only who has this key can make newer versions of it." }
            }
            @if let Some(print) = &package.fingerprint {
                dt { "Author's PGP key" }
                dd { (fingerprint(print)) p.hint { "The package proves that this key's owner made it." } }
            }
            @if !details.author.is_empty() { dt { "Author" } dd { bdi { (details.author) } } }
            @if !details.email.is_empty() { dt { "Contact" } dd { bdi { (details.email) } } }
            dt { "Licence" }
            dd { @if details.licence.is_empty() { "Not stated" } @else { (details.licence) } }
            @if !details.website.is_empty() { dt { "Site" } dd { (outside(&details.website)) } }
            @if !details.code.is_empty() { dt { "Source code" } dd { (outside(&details.code)) } }
            dt { "Size" }
            dd { (size(package.packed_size)) ", unpacked " (size(package.unpacked_size)) }
            dt { "On this server since" } dd { (when(package.installed)) }
            dt { "Package" } dd { code.key { (package.package_id) } }
        }
    }
}

/// A link that leads away; the address itself is what is shown.
fn outside(url: &str) -> Markup {
    html! { a href=(url) rel="noopener noreferrer external" target="_blank" { bdi { (url) } } }
}

/// The forms' buttons.
#[derive(Debug, Deserialize)]
pub struct AppAct {
    act: String,
    #[serde(default)]
    package: String,
}

/// `POST /apps/APPID/act`.
pub async fn act(
    State(app): State<App>,
    Path(id): Path<String>,
    viewer: Viewer,
    act: ActForm<AppAct>,
) -> PageResult {
    let login = act.login.id();
    match act.form.act.as_str() {
        "remove" => {}
        "delete" => return app_versions::ask(&viewer, &act.login, &act.form.package).await,
        "delete-now" => {
            return app_versions::delete(&viewer, &act.login, act.by(), &act.form.package).await;
        }
        _ => return Err(Error::BadRequest("this button is not known here".into()).into()),
    }
    let apps = app.store.apps_of(login).await?;
    let title = apps
        .into_iter()
        .find(|row| row.package.app_id == id)
        .map(|row| row.package.title)
        .ok_or(Error::NotFound("app"))?;
    if let Some(package) = viewer.app.store.drop_app(login, &id).await? {
        let undo = format!("app {package}");
        let text = format!("Removed {title} from your apps.");
        app.store.notify(login, Tone::Good, &text, Some(&undo)).await?;
        app.events.send(Event::AccountChanged(login));
    }
    Ok(layout::redirect("/apps"))
}
