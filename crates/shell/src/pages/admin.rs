//! Administration, in its first plain form: what needs attention, who is here, what runs.
//! Titles of other people's grains stay hidden: an administrator sees app, owner and state.

use std::collections::HashMap;

use axum::extract::State;
use futures::StreamExt;
use maud::{Markup, html};
use serde::Deserialize;

use super::PageResult;
use super::layout::{self, Nav, Page, token_field};
use super::parts::{app_icon, avatar, count, fingerprint, icon, number, size, when};
use super::viewer::{NAME_SETTING, Viewer};
use crate::error::Error;
use crate::grains::GrainState;
use crate::grains::report::summary;
use crate::identity::AdminForm;
use crate::identity::login::Admin;
use crate::identity::text::one_line;
use crate::ids::{AccountId, GrainId};
use crate::state::App;
use crate::store::{Account, Audit, Grain, Role, Tone};

/// Supervisors that one page asks at once: one that is stuck takes two seconds.
const ASKED_AT_ONCE: usize = 64;

fn rail(here: &str) -> Markup {
    html! {
        nav.rail aria-label="Administration" {
            ul {
                @for (href, name) in [
                    ("/admin", "Overview"), ("/admin/people", "People"),
                    ("/admin/packages", "Apps"), ("/admin/limits", "Limits"),
                    ("/admin/log", "Audit log"),
                ] {
                    li { a href=(href) aria-current=[(href == here).then_some("page")] { (name) } }
                }
            }
        }
    }
}

pub(super) async fn respond(
    mut viewer: Viewer,
    path: &str,
    title: &str,
    body: Markup,
) -> PageResult {
    viewer.take_notices().await?;
    Ok(layout::respond(&viewer, Page::new(title, Nav::Admin, body).rail(rail(path)).wide()))
}

/// `GET /admin`.
pub async fn overview(State(app): State<App>, _: Admin, viewer: Viewer) -> PageResult {
    let people: HashMap<AccountId, Account> =
        app.store.accounts().await?.into_iter().map(|a| (a.id, a)).collect();
    let titles: HashMap<String, String> =
        app.store.packages().await?.into_iter().map(|p| (p.package_id, p.title)).collect();
    let (mut running, mut failed) = (Vec::new(), Vec::new());
    let mut grains = 0;
    for grain in app.store.all_grains().await? {
        grains += 1;
        let Ok(id) = grain.id.parse::<GrainId>() else { continue };
        let state = match app.grains.state(&id) {
            GrainState::Asleep => continue,
            GrainState::Crashed { reason, code, .. } => {
                failed.push((grain, reason, code));
                continue;
            }
            GrainState::Running => "Running",
            GrainState::Starting { .. } => "Starting",
            GrainState::Stopping => "Stopping",
        };
        running.push((grain, id, state));
    }
    let asked: Vec<_> = running
        .into_iter()
        .map(|(grain, id, state)| {
            let grains = &app.grains;
            async move {
                // One that does not say is listed without.
                let limits = grains.limits(&id).await.unwrap_or_default();
                (grain, state, summary(&limits))
            }
        })
        .collect();
    let running: Vec<_> = futures::stream::iter(asked).buffered(ASKED_AT_ONCE).collect().await;
    let config = app.config.clone();
    let problems = tokio::task::spawn_blocking(move || crate::check::of_config(&config))
        .await
        .map_err(|_| Error::Internal("the check did not end".into()))?;
    let body = html! {
        div.heading {
            h1 {
                @if problems.is_empty() { "Nothing needs you" }
                @else {
                    (count(problems.len() as i64, "thing needs", "things need")) " you"
                }
            }
        }
        @if problems.is_empty() {
            p.strip.good {
                (icon("check"))
                span {
                    "Checked just now, and nothing to mend: the settings, the directory of the data, "
                    "the database, the app files, the server's programs, its limit of open files."
                    br;
                    span.hint {
                        "Not checked: your backups, what stands between this server and its readers "
                        "(proxy, certificate, names), and what happens inside grains."
                    }
                }
            }
        } @else {
            ul.problems {
                @for problem in &problems {
                    li.strip.warning {
                        (icon("warning"))
                        span { (problem.what) br; span.hint { (problem.fix) } }
                    }
                }
            }
        }
        section {
            h2 { "Running now " span.n { (running.len()) } }
            @if running.is_empty() {
                p.hint { "Nothing runs. A grain starts when somebody opens it, and stops by itself." }
            } @else {
                (running_table(&viewer, &running, &people, &titles))
            }
        }
        @if !failed.is_empty() {
            section {
                h2 { "Ended by an error " span.n { (failed.len()) } }
                p.hint { "These do not run. Each starts again when it is opened; its owner sees "
                         "the same reason, and the app's log." }
                (failed_table(&failed, &people, &titles))
            }
        }
        section {
            h2 { "Name" }
            form.field-row action="/admin" method="post" {
                (token_field(&viewer))
                label for="name" { "What this server is called" }
                input #name name="name" value=(viewer.server) maxlength="60" required
                    autocomplete="off";
                button name="act" value="name" { "Save" }
            }
        }
        dl.facts {
            dt { "Address" } dd { (app.config.root.to_string()) }
            dt { "People" } dd { (number(people.len() as i64)) }
            dt { "Grains" } dd { (number(grains)) }
            dt { "Data" } dd { code { (app.config.home.display().to_string()) } }
            @if let Some(free) = crate::install::failure::free_bytes(&app.config.home) {
                dt { "Free disk space" } dd { (size(free as i64)) }
            }
            dt { "Version" } dd { (env!("CARGO_PKG_VERSION")) }
        }
    };
    respond(viewer, "/admin", "Administration", body).await
}

fn running_table(
    viewer: &Viewer,
    running: &[(Grain, &str, String)],
    people: &HashMap<AccountId, Account>,
    titles: &HashMap<String, String>,
) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="Running grains" {
            table {
                caption.unseen { "Running grains" }
                thead { tr {
                    th scope="col" { "App" } th scope="col" { "Owner" } th scope="col" { "State" }
                    th scope="col" { "Limited by" } th scope="col" { "Opened" }
                    th scope="col" { span.unseen { "Acts" } }
                } }
                tbody {
                    @for (grain, state, limits) in running {
                        tr {
                            (app_cell(grain, titles))
                            td { bdi { (people.get(&grain.owner).map_or("", |a| &a.display_name)) } }
                            td { (state) }
                            td { (limits) }
                            td { (when(grain.last_used)) }
                            td {
                                form.inline action="/admin" method="post" {
                                    (token_field(viewer))
                                    input type="hidden" name="grain" value=(grain.id);
                                    button.small name="act" value="stop" { "Stop" }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn failed_table(
    failed: &[(Grain, String, String)],
    people: &HashMap<AccountId, Account>,
    titles: &HashMap<String, String>,
) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="Grains that ended by an error" {
            table {
                caption.unseen { "Grains that ended by an error" }
                thead { tr {
                    th scope="col" { "App" } th scope="col" { "Owner" } th scope="col" { "Why" }
                    th scope="col" { "Code" } th scope="col" { "Opened" }
                } }
                tbody {
                    @for (grain, reason, code) in failed {
                        tr {
                            (app_cell(grain, titles))
                            td { bdi { (people.get(&grain.owner).map_or("", |a| &a.display_name)) } }
                            td.wrap { bdi { (reason) } }
                            td { code { (code) } }
                            td { (when(grain.last_used)) }
                        }
                    }
                }
            }
        }
    }
}

fn app_cell(grain: &Grain, titles: &HashMap<String, String>) -> Markup {
    html! {
        th scope="row" {
            span.named {
                (app_icon(&grain.package_id, false))
                bdi { (titles.get(&grain.package_id).map_or("App", String::as_str)) }
            }
        }
    }
}

/// The overview's forms.
#[derive(Debug, Deserialize)]
pub struct AdminAct {
    act: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    grain: String,
}

/// `POST /admin`.
pub async fn act(State(app): State<App>, act: AdminForm<AdminAct>) -> PageResult {
    let by = act.login.id();
    match act.form.act.as_str() {
        "name" => {
            let name = one_line(&act.form.name, 60);
            if name.is_empty() {
                return Err(Error::BadRequest("a name needs at least one letter".into()).into());
            }
            let (action, target) = ("name server", "server");
            let audit = Audit { by: act.by(), action, target, detail: &name };
            app.store.set_setting(NAME_SETTING, &name, &audit).await?;
            app.store
                .notify(by, Tone::Good, &format!("This server is called {name}."), None)
                .await?;
        }
        "stop" => {
            let id: GrainId = act.form.grain.parse().map_err(|_| Error::NotFound("grain"))?;
            app.grains.stop(&id).await?;
            let (action, target) = ("stop grain", &*act.form.grain);
            app.store.audit(&Audit { by: act.by(), action, target, detail: "" }).await?;
            app.store
                .notify(by, Tone::Good, "Stopped. It starts again when it is used.", None)
                .await?;
        }
        _ => return Err(Error::BadRequest("this button is not known here".into()).into()),
    }
    Ok(layout::redirect("/admin"))
}

/// `GET /admin/people`.
pub async fn people(State(app): State<App>, _: Admin, viewer: Viewer) -> PageResult {
    let people = app.store.accounts().await?;
    let mut owned: HashMap<AccountId, (i64, i64)> = HashMap::new();
    for grain in app.store.all_grains().await? {
        let entry = owned.entry(grain.owner).or_default();
        entry.0 += 1;
        entry.1 += grain.size;
    }
    let brought: HashMap<AccountId, i64> = app.store.brought_by_each().await?.into_iter().collect();
    let body = html! {
        div.heading { h1 { "People " span.n { (people.len()) } } }
        div.scroll tabindex="0" role="region" aria-label="People" {
            table {
                caption.unseen { "People" }
                thead { tr {
                    th scope="col" { "Name" } th scope="col" { "Role" } th scope="col" { "Joined" }
                    th scope="col" { "Grains" } th scope="col" { "Storage" }
                    th scope="col" { "Apps brought" }
                } }
                tbody {
                    @for person in &people {
                        @let (grains, bytes) = owned.get(&person.id).copied().unwrap_or_default();
                        tr {
                            th scope="row" {
                                span.named { (avatar(person)) bdi { (person.display_name) } }
                            }
                            td {
                                @match person.role {
                                    Role::Admin => { "Administrator" }
                                    Role::Member => { "Member" }
                                    Role::Visitor => { "Visitor" }
                                }
                                @if person.suspended.is_some() { ", suspended" }
                            }
                            td { (when(person.created)) }
                            td { (number(grains)) }
                            td { (size(bytes)) }
                            td { (size(brought.get(&person.id).copied().unwrap_or(0))) }
                        }
                    }
                }
            }
        }
    };
    respond(viewer, "/admin/people", "People", body).await
}

/// `GET /admin/packages`.
pub async fn packages(State(app): State<App>, _: Admin, viewer: Viewer) -> PageResult {
    let mut packages = Vec::new();
    for package in app.store.packages().await? {
        let uses = app.store.package_uses(&package.package_id, None).await?;
        packages.push((package, uses));
    }
    let body = html! {
        div.heading { h1 { "Apps on this server " span.n { (packages.len()) } } }
        @if packages.is_empty() {
            p { "No app was installed yet." }
            div.buttons { a.button.main href="/install" { "Install an app" } }
        } @else {
            div.scroll tabindex="0" role="region" aria-label="Apps" {
                table {
                    caption.unseen { "Apps on this server" }
                    thead { tr {
                        th scope="col" { "App" } th scope="col" { "Version" }
                        th scope="col" { "Key" } th scope="col" { "On the disk" }
                        th scope="col" { "Since" } th scope="col" { "Used by" }
                    } }
                    tbody {
                        @for (package, uses) in &packages {
                            tr {
                                th scope="row" {
                                    span.named {
                                        (app_icon(&package.package_id, false))
                                        a href=(format!("/apps/{}", package.app_id)) {
                                            bdi { (package.title) }
                                        }
                                    }
                                }
                                td { bdi { (package.marketing_version) } " (" (package.app_version) ")" }
                                td { (fingerprint(package.app_id.get(..8).unwrap_or_default())) "…" }
                                td { (size(package.disk)) }
                                td { (when(package.installed)) }
                                td { (uses.for_an_administrator()) }
                            }
                        }
                    }
                }
            }
        }
    };
    respond(viewer, "/admin/packages", "Apps on this server", body).await
}

/// What an audit line's word means; one that is not known here stands for itself.
fn deed(action: &str) -> &str {
    match action {
        "admin-link" => "Made a sign-in link",
        "app-install" => "Installed an app for all",
        "app-delete" => "Deleted an app",
        "grain-open" => "Made a link to a grain",
        "grain-session" => "Opened a grain from a script",
        "grain-destroy" => "Deleted a grain for good",
        "grain-trash" => "Moved a grain to the trash",
        "sign-in" => "Signed in",
        "name server" => "Named the server",
        "stop grain" => "Stopped a grain",
        other => other,
    }
}

/// `GET /admin/log`.
pub async fn log(State(app): State<App>, _: Admin, viewer: Viewer) -> PageResult {
    let lines = app.store.audit_lines(500, 100).await?;
    let people: HashMap<AccountId, String> =
        app.store.accounts().await?.into_iter().map(|a| (a.id, a.display_name)).collect();
    let body = html! {
        div.heading { h1 { "Audit log" } }
        p.hint {
            "What administrators and operators did, and what members did to what all share. The "
            "latest 500; of what one person did of one kind, the latest 100."
        }
        @if lines.is_empty() { p { "Nothing yet." } } @else {
            div.scroll tabindex="0" role="region" aria-label="Audit log" {
                table {
                    caption.unseen { "Audit log" }
                    thead { tr {
                        th scope="col" { "When" } th scope="col" { "Who" } th scope="col" { "From" }
                        th scope="col" { "What" }
                        th scope="col" { "Details" } th scope="col" { "Id" }
                    } }
                    tbody {
                        @for line in &lines {
                            tr {
                                td { (when(line.at)) }
                                td {
                                    @match (line.account, line.address) {
                                        (Some(id), _) => {
                                            bdi { (people.get(&id).map_or("Somebody who left", String::as_str)) }
                                        }
                                        (None, Some(_)) => { "Somebody who left" }
                                        // Commands come over a socket that only the server's user opens.
                                        (None, None) => { "Operator, by command" }
                                    }
                                }
                                td { @if let Some(address) = line.address { code { (address) } } }
                                td { (deed(&line.action)) }
                                td { bdi { (line.detail) } }
                                td { code { bdi { (line.target) } } }
                            }
                        }
                    }
                }
            }
        }
    };
    respond(viewer, "/admin/log", "Audit log", body).await
}
