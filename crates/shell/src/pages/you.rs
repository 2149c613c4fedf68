//! A person's own page: name, look, devices; and what this server is.

use axum::extract::State;
use http::{HeaderValue, header};
use maud::{Markup, html};
use serde::Deserialize;

use super::PageResult;
use super::layout::{self, Nav, Page, token_field};
use super::parts::{avatar, icon, when};
use super::sign_in::local_path;
use super::viewer::{Look, Person, Viewer};
use crate::error::Error;
use crate::identity::text::one_line;
use crate::identity::{self, ActForm};
use crate::ids::LoginId;
use crate::state::App;
use crate::store::{LoginSession, Role, Tone};

/// `GET /you`.
pub async fn page(State(app): State<App>, person: Person) -> PageResult {
    let devices = app.store.logins_of(person.login.id()).await?;
    let body = body(&person, &devices);
    Ok(layout::respond(&person.viewer, Page::new("You", Nav::You, body)))
}

fn body(person: &Person, devices: &[LoginSession]) -> Markup {
    let account = person.login.account();
    let viewer = &person.viewer;
    html! {
        div.heading { (avatar(account)) h1 { bdi { (account.display_name) } } }
        p.hint {
            @match account.role {
                Role::Admin => { "You administer this server. " a href="/admin" { "Administration" } }
                Role::Member => { "You are a member here." }
                Role::Visitor => { "You are a visitor: you use what others share with you." }
            }
        }
        section {
            h2 { "Name" }
            form.field-row action="/you" method="post" {
                (token_field(viewer))
                label for="name" { "What others here call you" }
                input #name name="name" value=(account.display_name) maxlength="60" required
                    autocomplete="name";
                button name="act" value="name" { "Save" }
            }
        }
        section {
            h2 { "Look" }
            form.field-row action="/you/look" method="post" {
                (token_field(viewer))
                div.choice role="group" aria-label="Look" {
                    @for (look, name) in [
                        (Look::System, "As the system"), (Look::Light, "Light"), (Look::Dark, "Dark"),
                    ] {
                        button name="look" value=(look.as_str())
                            aria-pressed=(if viewer.look == look { "true" } else { "false" }) {
                            (name)
                        }
                    }
                }
            }
            p.hint { "For this browser." }
        }
        section {
            h2 { "Keys" }
            label.check data-show hidden {
                input #keys type="checkbox" checked;
                " Single letters are shortcuts (press " kbd { "?" } " for the list)"
            }
            p.hint data-hide { "Shortcuts need a script, and none runs in this browser." }
        }
        section {
            h2 { "Where you are signed in" }
            ul.devices {
                @for device in devices { (one_device(person, device)) }
            }
        }
        section {
            form.inline action="/sign-out" method="post" {
                (token_field(viewer))
                button { (icon("out")) "Sign out here" }
            }
        }
        p.hint { a href="/about" { "About this server" } }
    }
}

fn one_device(person: &Person, device: &LoginSession) -> Markup {
    let here = device.id == person.login.session.id;
    html! {
        li {
            span { bdi { (browser(&device.user_agent)) } @if here { " (this one)" } }
            span.at { "used " (when(device.last_seen)) }
            @if !here {
                form.inline action="/you" method="post" {
                    (token_field(&person.viewer))
                    input type="hidden" name="device" value=(device.id);
                    button.small name="act" value="end" { "Sign out" }
                }
            }
        }
    }
}

/// "Firefox on Linux", from what a browser says of itself; a hint and no more.
fn browser(agent: &str) -> String {
    let has = |word: &str| agent.contains(word);
    let name = match () {
        () if has("Firefox/") => "Firefox",
        () if has("Edg/") => "Edge",
        () if has("HeadlessChrome/") || has("Chrome/") || has("CriOS/") => "Chrome",
        () if has("Safari/") => "Safari",
        () if agent.is_empty() => return "Unknown program".into(),
        () => return one_line(agent, 40),
    };
    let system = match () {
        () if has("Android") => "Android",
        () if has("iPhone") || has("iPad") => "iOS",
        () if has("Windows") => "Windows",
        () if has("Mac OS X") => "macOS",
        () if has("Linux") => "Linux",
        () => return name.into(),
    };
    format!("{name} on {system}")
}

/// The page's forms.
#[derive(Debug, Deserialize)]
pub struct YouAct {
    act: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    device: String,
}

/// `POST /you`.
pub async fn act(State(app): State<App>, act: ActForm<YouAct>) -> PageResult {
    let id = act.login.id();
    match act.form.act.as_str() {
        "name" => {
            let name = one_line(&act.form.name, 60);
            if name.is_empty() {
                return Err(Error::BadRequest("a name needs at least one letter".into()).into());
            }
            app.store.rename_account(id, &name).await?;
            app.store.notify(id, Tone::Good, &format!("You are now called {name}."), None).await?;
        }
        "end" => {
            let device = act.form.device.parse().map_err(|_| Error::NotFound("device"))?;
            if !identity::sign_out(&app, id, LoginId(device)).await? {
                return Err(Error::NotFound("device").into());
            }
            app.store.notify(id, Tone::Good, "That device is signed out.", None).await?;
        }
        _ => return Err(Error::BadRequest("this button is not known here".into()).into()),
    }
    Ok(layout::redirect("/you"))
}

/// The look's form.
#[derive(Debug, Deserialize)]
pub struct LookForm {
    look: String,
    #[serde(default)]
    to: String,
}

/// `POST /you/look`.
pub async fn look(act: ActForm<LookForm>) -> PageResult {
    let look = Look::parse(&act.form.look);
    let mut response = layout::redirect(local_path(&act.form.to).unwrap_or("/you"));
    let age = if look == Look::System { 0 } else { 400 * 24 * 3600 };
    let text = format!("{}={}; Path=/; Max-Age={age}; SameSite=Lax", Look::COOKIE, look.as_str());
    if let Ok(value) = HeaderValue::from_str(&text) {
        response.headers_mut().append(header::SET_COOKIE, value);
    }
    Ok(response)
}

/// `GET /about`.
pub async fn about(viewer: Viewer) -> PageResult {
    let body = html! {
        div.heading { h1 { "About " bdi { (viewer.server) } } }
        p { (super::new::A_GRAIN_IS) }
        ul.short {
            li { "The app that shows a grain cannot reach another grain, this server's files or the network." }
            li { "What you make is yours alone until you share it." }
            li { "What you throw away waits in the trash for 30 days." }
        }
        dl.facts {
            dt { "Address" } dd { (viewer.app.config.root.to_string()) }
            dt { "Software" } dd { "Sandstorm " (env!("CARGO_PKG_VERSION")) }
            dt { "Licence" } dd { "Apache-2.0" }
        }
    };
    Ok(layout::respond(&viewer, Page::plain("About this server", body)))
}

#[cfg(test)]
mod tests {
    use super::browser;

    #[test]
    fn browsers_have_names() {
        let chrome = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
                      Chrome/150.0.0.0 Safari/537.36";
        assert_eq!(browser(chrome), "Chrome on Linux");
        assert_eq!(browser("curl/8.0"), "curl/8.0");
        assert_eq!(browser(""), "Unknown program");
    }
}
