//! Installing: choose a file, watch the steps, say yes. The steps live on the server, so a reload,
//! another tab and another device show the same.

use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{FromRequest, Multipart, Path, Query, Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use maud::{Markup, html};
use serde::Deserialize;

use super::apps::facts;
use super::layout::{self, Nav, Page, token_field};
use super::parts::{accent, app_icon, icon, progress};
use super::viewer::{Person, Viewer};
use super::{PageError, PageResult};
use crate::error::Error;
use crate::identity::act::{TOKEN_FIELD, TOKEN_HEADER, check_origin};
use crate::identity::form::Prologue;
use crate::identity::text::one_line;
use crate::identity::{ActForm, Login};
use crate::ids::PackageId;
use crate::install::failure::Failure;
use crate::install::manifest;
use crate::install::web_address;
use crate::net::Private;
use crate::state::{App, Event};
use crate::store::{Install, InstallState, Package, Tone};

/// A token is shorter; a field of any length would be kept in memory.
const TOKEN_BYTES: usize = 256;

fn members_only(login: &Login) -> Result<(), PageError> {
    if login.is_member() {
        return Ok(());
    }
    Err(Error::Forbidden("installing apps is for members; ask an administrator".into()).into())
}

/// `GET /install`. An address alone is not enough: the file is checked against the id in its link.
pub async fn choose(Query(from): Query<From>, person: Person) -> PageResult {
    members_only(&person.login)?;
    let note = html! {
        @if !from.url.trim().is_empty() {
            p.strip.warning {
                (icon("info"))
                span {
                    "This link names an address, " code { bdi { (one_line(&from.url, 200)) } }
                    ", but no package, so this server cannot check that what comes from there is \
                     what was meant, and fetches nothing. A whole link is "
                    code { "/install/PACKAGE?url=ADDRESS" }
                    ", with the package's id of 32 digits and letters. Ask whoever gave you the \
                     link for that one, or download the file yourself and choose it here."
                }
            }
        }
    };
    let body = chooser(&person.viewer, note);
    Ok(layout::respond(&person.viewer, Page::new("Install an app", Nav::Apps, body)))
}

fn chooser(viewer: &Viewer, note: Markup) -> Markup {
    html! {
        div.heading { h1 { "Install an app" } }
        (note)
        p { "Choose an app file: its name ends in .spk, and it comes from whoever made the app. \
             Every app runs in a box of its own and reaches nothing outside it." }
        form #upload.drop action="/install" method="post" enctype="multipart/form-data" {
            (token_field(viewer))
            label for="file" { "App file" }
            input #file type="file" name="package" accept=".spk" required;
            p.hint.by-mouse data-show hidden { "Or drop it anywhere on this page." }
            div.buttons { button.main { "Upload" } }
            div #uploading hidden {
                p { strong #upload-name {} }
                progress #upload-bar max="100" aria-label="Uploading" {}
                p.figures #upload-figures {}
                button type="button" data-do="cancel-upload" { "Cancel" }
            }
        }
    }
}

/// `POST /install`: the form, for browsers without script.
pub async fn upload_form(State(app): State<App>, viewer: Viewer, request: Request) -> PageResult {
    check_origin(&app, request.headers())?;
    let login = viewer.login.clone().ok_or(PageError::SignIn)?;
    members_only(&login)?;
    let announced = length(&request);
    let turn = app.forms.known(login.id())?;
    let (prologue, request) = Prologue::guard(request, turn);
    let bad = |_| {
        prologue.late().unwrap_or_else(|| {
            Error::BadRequest("the upload was no complete form; send it again".into())
        })
    };
    let mut form = Multipart::from_request(request, &app)
        .await
        .map_err(|_| Error::BadRequest("send this as a form with a file in it".into()))?;
    let mut allowed = false;
    while let Some(field) = form.next_field().await.map_err(bad)? {
        match field.name() {
            Some(TOKEN_FIELD) => {
                allowed = login.token_matches(&token(field).await.map_err(bad)?);
            }
            Some("package") if allowed => {
                prologue.end();
                return Ok(match app.installer.receive(field, announced, login.id()).await {
                    Ok(id) => layout::redirect(&format!("/install/{id}")),
                    Err(failure) => refused(&viewer, &failure),
                });
            }
            _ => break,
        }
    }
    let why = if allowed { "there was no file in the form" } else { "load the page again first" };
    Err(Error::Forbidden(format!("Nothing was installed: {why}")).into())
}

/// The form's token, or as much of the field as shows that it is none.
async fn token(mut field: Field<'_>) -> Result<String, MultipartError> {
    let mut text = Vec::new();
    while text.len() <= TOKEN_BYTES
        && let Some(chunk) = field.chunk().await?
    {
        text.extend_from_slice(&chunk);
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn refused(viewer: &Viewer, failure: &Failure) -> Response {
    tracing::info!(code = failure.code, "upload refused: {}", failure.words);
    let note = html! {
        div.strip.bad role="alert" {
            (icon("stop"))
            span { (failure.words) " Code " code { (failure.code) } }
        }
    };
    let body = chooser(viewer, note);
    layout::respond(
        viewer,
        Page::new("Error: the file was not taken", Nav::Apps, body).status(failure.status()),
    )
}

fn length(request: &Request) -> Option<u64> {
    request.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// `POST /upload`: the bare file, from the script; answers the package id, or words and a code.
pub async fn upload_raw(
    State(app): State<App>,
    login: Login,
    request: Request,
) -> Result<Response, PageError> {
    check_origin(&app, request.headers())?;
    members_only(&login)?;
    let token = request.headers().get(TOKEN_HEADER).and_then(|v| v.to_str().ok());
    if !token.is_some_and(|token| login.token_matches(token)) {
        return Err(Error::Forbidden("load the page again, then upload".into()).into());
    }
    let announced = length(&request);
    let stream = request.into_body().into_data_stream();
    let (status, text) = match app.installer.receive(stream, announced, login.id()).await {
        Ok(id) => (StatusCode::OK, id.to_string()),
        Err(failure) => {
            tracing::info!(code = failure.code, "upload refused: {}", failure.words);
            (failure.status(), failure.to_string())
        }
    };
    let mut response = (status, text).into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(response)
}

/// The address's query.
#[derive(Debug, Deserialize)]
pub struct From {
    #[serde(default)]
    url: String,
}

/// `GET /install/PACKAGE`.
pub async fn page(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(from): Query<From>,
    person: Person,
) -> PageResult {
    members_only(&person.login)?;
    let viewer = &person.viewer;
    let Ok(id) = id.parse::<PackageId>() else {
        return Err(Error::BadRequest(
            "an app file's id is 32 digits and letters from a to f; copy the whole link".into(),
        )
        .into());
    };
    let install = app.installer.status(&id).await?;
    let package = app.store.package(&id.to_string()).await?;
    let running = install.as_ref().is_some_and(|i| {
        !matches!(i.state, InstallState::Failed | InstallState::Confirm | InstallState::Ready)
    });
    // Somebody else's address may be slow, or lead nowhere: the one in this link counts as well.
    let address = web_address(&from.url);
    let elsewhere = install.as_ref().is_some_and(|install| {
        matches!(install.state, InstallState::Get | InstallState::Failed)
            && address.is_some()
            && install.url != address
    });
    let (title, body) = match (package, install) {
        (Some(package), _) if !running => {
            ("Install ".to_owned() + &package.title, confirm(&person, &package).await?)
        }
        (_, Some(_)) if elsewhere => {
            ("Get an app".to_owned(), get(viewer, &id, &from.url, running))
        }
        (_, Some(install)) => {
            let failed = install.state == InstallState::Failed;
            let room = app.installer.room_of(&install, person.login.id()).await?;
            let title = if failed { "Error: not installed" } else { "Installing" };
            let body = html! {
                div #steps data-on=(format!("install:{id}"))
                    data-live=(format!("/install/{id}/status")) {
                    (steps(viewer, &id, &install, room.as_deref()))
                }
            };
            (title.to_owned(), body)
        }
        (_, None) if !from.url.is_empty() && address.is_none() => {
            return Err(Error::BadRequest(
                "An app is fetched from an address that begins with http:// or https://; this one \
                 does not."
                    .into(),
            )
            .into());
        }
        (_, None) if !from.url.is_empty() => {
            ("Get an app".to_owned(), get(viewer, &id, &from.url, false))
        }
        (_, None) => ("This app is not here".to_owned(), absent(viewer, &id)),
    };
    Ok(layout::respond(
        viewer,
        Page::new(&title, Nav::Apps, body).refreshing(running && !elsewhere),
    ))
}

/// `runs`: it is being fetched from elsewhere already.
fn get(viewer: &Viewer, id: &PackageId, url: &str, runs: bool) -> Markup {
    let host = url::Url::parse(url).ok().and_then(|u| u.host_str().map(str::to_owned));
    html! {
        div.heading { h1 { "Get this app?" } }
        p {
            "This server will download it from "
            strong { bdi { (host.as_deref().unwrap_or("an address that is none")) } }
            " and check that it is exactly the file that the link names."
        }
        @if runs {
            p.strip.warning {
                (icon("info"))
                span { "It is being fetched from another address already. Whichever is whole first \
                        is taken." }
                a.button.small href=(format!("/install/{id}")) { "Show progress" }
            }
        }
        dl.facts {
            dt { "Address" } dd { code { bdi { (url) } } }
            dt { "Package" } dd { code.key { (id) } }
        }
        form action=(format!("/install/{id}")) method="post" {
            (token_field(viewer))
            input type="hidden" name="url" value=(url);
            div.buttons {
                button.main name="act" value="get" { "Download" }
                a.button href="/apps" { "Not now" }
            }
        }
    }
}

fn absent(viewer: &Viewer, id: &PackageId) -> Markup {
    let note = html! {
        p.strip.warning {
            (icon("info"))
            span {
                "The app file " code.key { (id) } " is not on this server. Choose it here, or ask \
                 whoever gave you the link for one with an address in it."
            }
        }
    };
    chooser(viewer, note)
}

/// The steps, with the one that is under way or failed. `room`: this person's own budget, where
/// there was no room.
pub fn steps(viewer: &Viewer, id: &PackageId, install: &Install, room: Option<&str>) -> Markup {
    let failed = install.state == InstallState::Failed;
    let order =
        [InstallState::Get, InstallState::Check, InstallState::Unpack, InstallState::Confirm];
    let place = |state| order.iter().position(|s| *s == state).unwrap_or(order.len());
    let now = place(install.step);
    let may_forget = viewer
        .login
        .as_ref()
        .is_some_and(|login| login.is_admin() || install.started_by == Some(login.id()));
    let name = |state| match state {
        InstallState::Get => "Get it",
        InstallState::Check => "Check",
        InstallState::Unpack => "Unpack",
        _ => "Your yes",
    };
    html! {
        h1 { @if failed { "Not installed" } @else { "Installing an app" } }
        ol.steps {
            @for (i, state) in order.into_iter().enumerate() {
                @let (class, symbol, word) = match () {
                    () if i < now => ("done", "check", "Done"),
                    () if i == now && failed => ("failed", "stop", "Failed"),
                    () if i == now => ("now", "dot", "Now"),
                    () => ("later", "ring", "Later"),
                };
                li class=(class) aria-current=[(class == "now").then_some("step")] {
                    (icon(symbol))
                    span { span.unseen { (word) ": " } (name(state)) }
                    @if class == "now" { (progress(name(state), install.done, install.total)) }
                }
            }
        }
        @if let Some((code, words)) = install.failure.as_ref().filter(|_| failed) {
            section.problem {
                p { strong { "“" (name(install.step)) "” failed. " } bdi { (words) } }
                @if let Some(room) = room { p { (room) } }
                form action=(format!("/install/{id}")) method="post" {
                    (token_field(viewer))
                    div.buttons {
                        @if viewer.app.installer.can_retry(install, id) {
                            button.main name="act" value="retry" { "Try again" }
                            a.button href="/install" { "Choose another file" }
                        } @else {
                            a.button.main href="/install" { "Choose another file" }
                        }
                        @if may_forget { button.plain name="act" value="forget" { "Forget it" } }
                    }
                }
                p.hint { "Code " code { (code) } }
            }
        }
        @if matches!(install.state, InstallState::Confirm | InstallState::Ready) {
            a.button.main href=(format!("/install/{id}")) data-go { "Go on" }
        }
    }
}

async fn confirm(person: &Person, package: &Package) -> Result<Markup, PageError> {
    let store = &person.viewer.app.store;
    let have = store.app_of(person.login.id(), &package.app_id).await?;
    let details = manifest::details(store, &package.package_id).await?;
    let has_this = have.as_ref().is_some_and(|have| have.package_id == package.package_id);
    let (question, button) = match &have {
        _ if has_this => ("You have this app", "New"),
        None => ("Install this app?", "Install"),
        Some(have) if have.app_version <= package.app_version => ("Update this app?", "Update"),
        Some(_) => ("Go back to an older version?", "Go back"),
    };
    let older = have.as_ref().is_some_and(|have| have.app_version > package.app_version);
    Ok(html! {
        div class={ "app-head " (accent(&package.app_id)) } {
            (app_icon(&package.package_id, true))
            div {
                h1 { bdi { (package.title) } " " span.n { bdi { (package.version()) } } }
                p.hint { (question) }
            }
        }
        @if older {
            p.strip.warning {
                (icon("warning"))
                span { "You have a newer version, "
                    bdi { (have.as_ref().map(Package::version).unwrap_or_default()) }
                    ". New grains would be made with this older one." }
            }
        }
        ul.short {
            li { "It reaches only its own box: no files, no network, no other grain." }
            li {
                @match &have {
                    Some(_) => { "Its key is the one of the version that you have." }
                    None => { "Its key is new to you. Compare it with what its author publishes." }
                }
            }
        }
        @if !details.terms.is_empty() {
            section {
                h2 { "Its terms" }
                div.terms tabindex="0" { (super::parts::paragraphs(&details.terms)) }
                p.hint { "Installing it means that you agree." }
            }
        }
        @if has_this {
            div.buttons {
                a.button.main href=(format!("/apps/{}", package.app_id)) { "Show the app" }
            }
        } @else {
            form action=(format!("/install/{}", package.package_id)) method="post" {
                (token_field(&person.viewer))
                div.buttons {
                    button.main name="act" value="confirm" { (button) }
                    a.button href="/apps" { "Not now" }
                }
            }
        }
        (facts(package, &details))
    })
}

/// The form's buttons.
#[derive(Debug, Deserialize)]
pub struct InstallAct {
    act: String,
    #[serde(default)]
    url: String,
}

/// `POST /install/PACKAGE`.
pub async fn act(
    State(app): State<App>,
    Path(id): Path<String>,
    act: ActForm<InstallAct>,
) -> PageResult {
    members_only(&act.login)?;
    let by = act.login.id();
    let id: PackageId = id.parse().map_err(|_| Error::NotFound("package"))?;
    let here = format!("/install/{id}");
    match act.form.act.as_str() {
        "get" => app.installer.start_url(id, &act.form.url, by, Private::No).await?,
        "retry" => {
            if !app.installer.retry(&id, by).await? {
                return Ok(layout::redirect("/install"));
            }
        }
        "forget" => {
            app.installer.forget(&id, by, act.login.is_admin()).await?;
            return Ok(layout::redirect("/apps"));
        }
        "confirm" => {
            let package =
                app.store.package(&id.to_string()).await?.ok_or(Error::NotFound("package"))?;
            if !app.store.choose_app(by, &package).await? {
                return Err(Error::NotFound("package").into());
            }
            app.store.install_ready(&package.package_id).await?;
            let text = format!("{} is installed.", package.title);
            app.store.notify(by, Tone::Good, &text, None).await?;
            app.events.send(Event::InstallChanged(id));
            app.events.send(Event::AccountChanged(by));
            return Ok(layout::redirect(&format!("/apps/{}", package.app_id)));
        }
        _ => return Err(Error::BadRequest("this button is not known here".into()).into()),
    }
    Ok(layout::redirect(&here))
}
