//! What stands on the server's disk of an app, who brought it, and its end: for administrators, and
//! for those in whose budget it is.

use std::collections::HashMap;

use axum::response::Response;
use http::StatusCode;
use maud::{Markup, html};

use super::errors::sentence;
use super::layout::{self, Page, token_field};
use super::parts::{count, icon, number, size, when};
use super::viewer::{Person, Viewer};
use super::{PageError, PageResult};
use crate::error::Error;
use crate::identity::Login;
use crate::ids::{AccountId, PackageId};
use crate::state::App;
use crate::store::{By, Package, Tone};

/// Whether this person may remove it, once nobody uses it.
fn may_delete(login: &Login, package: &Package) -> bool {
    login.is_admin() || (login.is_member() && package.installed_by == Some(login.id()))
}

/// For whom something is removed: `None` for an administrator, who may take it from others.
fn remover(login: &Login) -> Option<AccountId> {
    (!login.is_admin()).then_some(login.id())
}

/// The versions of an app that this person may know to be here. What others brought for themselves
/// is no business of a member's: for them it does not exist.
pub async fn known(app: &App, login: &Login, id: &str) -> Result<Vec<Package>, PageError> {
    Ok(match login.is_admin() {
        true => app.store.packages_of_app(id).await?,
        false => app.store.packages_of_app_for(login.id(), id).await?,
    })
}

/// The part of an app's page that only those see who may delete one of its versions.
pub async fn section(person: &Person, versions: &[Package]) -> Result<Markup, PageError> {
    let login = &person.login;
    let store = &person.viewer.app.store;
    let mut rows = Vec::new();
    for package in versions.iter().filter(|package| may_delete(login, package)) {
        let uses = store.package_uses(&package.package_id, remover(login)).await?;
        rows.push((package, uses));
    }
    let mut names = HashMap::new();
    if login.is_admin() {
        names.extend(store.accounts().await?.into_iter().map(|a| (a.id, a.display_name)));
    }
    Ok(html! {
        @if !rows.is_empty() {
            section {
                h2 { "On this server" }
                p.hint {
                    "A version can be deleted when no grain uses it, also none in the trash"
                    @if !login.is_admin() { ", and nobody else has it in their list" }
                    ". To have it again its app file is needed."
                }
                ul.short {
                    @for (package, uses) in &rows {
                        li {
                            strong { "Version " bdi { (package.version()) } } ", "
                            (size(package.disk)) ", "
                            @if login.is_admin() {
                                "brought by "
                                @match package.installed_by.and_then(|by| names.get(&by)) {
                                    Some(name) => { bdi { (name) } }
                                    None => { "nobody who is still here" }
                                }
                                " "
                            } @else { "brought by you " }
                            (when(package.installed)) ". Used by: "
                            @if login.is_admin() { (uses.for_an_administrator()) }
                            @else { (uses.for_a_member()) }
                            ". "
                            @if uses.grains == 0 && (login.is_admin() || !uses.in_other_lists()) {
                                (button(&person.viewer, package))
                            }
                        }
                    }
                }
            }
        }
    })
}

fn button(viewer: &Viewer, package: &Package) -> Markup {
    html! {
        form.inline action=(format!("/apps/{}/act", package.app_id)) method="post" {
            (token_field(viewer))
            input type="hidden" name="package" value=(package.package_id);
            button.small.danger name="act" value="delete" {
                (icon("trash")) "Delete" span.unseen { " version " (package.version()) }
            }
        }
    }
}

/// The part of the list of apps that shows what this person brought, and how much more may come.
pub async fn brought(person: &Person) -> Result<Markup, PageError> {
    if !person.login.is_member() {
        return Ok(html! {});
    }
    let app = &person.viewer.app;
    let packages = app.store.packages_of(person.login.id()).await?;
    if packages.is_empty() {
        return Ok(html! {});
    }
    let budget = app.installer.budget(person.login.id()).await?;
    Ok(html! {
        section {
            h2 { "What you brought " span.n { (packages.len()) } }
            p.hint {
                "App files that came to this server by you, and what they unpack to: "
                (size(budget.has.disk))
                @if let Some(most) = budget.most {
                    " of the " (size(i64::try_from(most.bytes).unwrap_or(i64::MAX)))
                    " that you may have, in " (number(budget.has.entries)) " files of "
                    (number(i64::try_from(most.entries).unwrap_or(i64::MAX)))
                }
                ". What you no longer need can be deleted on its page."
            }
            div.scroll tabindex="0" role="region" aria-label="What you brought" {
                table {
                    caption.unseen { "What you brought" }
                    thead { tr {
                        th scope="col" { "App" } th scope="col" { "Version" }
                        th scope="col" { "On the disk" }
                    } }
                    tbody { @for package in &packages { tr {
                        th scope="row" {
                            a href=(format!("/apps/{}", package.app_id)) {
                                bdi { (package.title) }
                            }
                        }
                        td { bdi { (package.version()) } }
                        td { (size(package.disk)) }
                    } } }
                }
            }
        }
    })
}

/// The question, since it cannot be taken back.
pub async fn ask(viewer: &Viewer, login: &Login, id: &str) -> PageResult {
    let store = &viewer.app.store;
    let package = store.package(id).await?.ok_or(Error::NotFound("app"))?;
    if !may_delete(login, &package) {
        return Err(Error::NotFound("app").into());
    }
    let file: PackageId = id.parse().map_err(|_| Error::NotFound("app"))?;
    match viewer.app.installer.may_remove(&file, remover(login)).await {
        Err(Error::Conflict(why)) => return Ok(refused(viewer, &package, &why)),
        done => done?,
    }
    let uses = store.package_uses(id, remover(login)).await?;
    let here = format!("/apps/{}", package.app_id);
    let body = html! {
        section.problem {
            h1 { "Delete " bdi { (package.title) } " " bdi { (package.version()) } "?" }
            p {
                "Its " (size(package.disk)) " on this server's disk will be free. To have it again, "
                "its app file must be installed again."
            }
            @if uses.in_other_lists() {
                p {
                    "No grain uses it, but it is "
                    @if uses.for_all { "in everybody's list of apps" }
                    @else { "in the list of apps of " (count(uses.people, "person", "people")) }
                    ". It will be taken from there."
                }
            } @else if uses.people > 0 {
                p { "It will be taken from your list of apps." }
            }
            form action=(format!("{here}/act")) method="post" {
                (token_field(viewer))
                input type="hidden" name="package" value=(package.package_id);
                div.buttons {
                    button.main.danger name="act" value="delete-now" { "Delete" }
                    a.button href=(here) { "Keep" }
                }
            }
        }
    };
    Ok(layout::respond(viewer, Page::plain("Delete an app", body)))
}

/// What came in between; the app's page shows what is now.
fn refused(viewer: &Viewer, package: &Package, why: &str) -> Response {
    let body = html! {
        section.problem {
            h1 { "Not deleted" }
            p { (sentence(why)) }
            div.buttons {
                a.button.main href=(format!("/apps/{}", package.app_id)) { "Show the app" }
            }
        }
    };
    let page = Page::plain("Error: the app was not deleted", body);
    layout::respond(viewer, page.status(StatusCode::CONFLICT))
}

/// Does it, and leads to where the person goes on.
pub async fn delete(viewer: &Viewer, login: &Login, by: By, id: &str) -> PageResult {
    let app = &viewer.app;
    let id: PackageId = id.parse().map_err(|_| Error::NotFound("app"))?;
    let package = app.store.package(&id.to_string()).await?.ok_or(Error::NotFound("app"))?;
    if !may_delete(login, &package) {
        return Err(Error::NotFound("app").into());
    }
    match app.installer.remove(&id, remover(login), by).await {
        Err(Error::Conflict(why)) => return Ok(refused(viewer, &package, &why)),
        done => drop(done?),
    }
    // It is gone: an error now must not read as if nothing had been done.
    let text = format!("Deleted {} {} from this server.", package.title, package.version());
    if let Err(error) = app.store.notify(login.id(), Tone::Good, &text, None).await {
        tracing::error!("a deleted app: {error}");
    }
    let left = !known(app, login, &package.app_id).await?.is_empty();
    Ok(layout::redirect(&match left {
        true => format!("/apps/{}", package.app_id),
        false if login.is_admin() => "/admin/packages".into(),
        false => "/apps".into(),
    }))
}
