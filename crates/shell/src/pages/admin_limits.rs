//! Administration: what grains may use, the exceptions from it, and what keeps the limits here.

use std::collections::HashMap;

use axum::extract::State;
use maud::{Markup, html};
use sandstorm_schema::grain_limits::{self, Limit, PERSON, TABLE, parse_any_value};
use serde::Deserialize;

use super::PageResult;
use super::admin::respond;
use super::layout::{self, token_field};
use super::parts::{field_error, fingerprint, number};
use super::viewer::Viewer;
use crate::error::Error;
use crate::identity::AdminForm;
use crate::identity::login::Admin;
use crate::ids::AccountId;
use crate::limits::fits;
use crate::state::App;
use crate::store::{Account, Audit, LimitRow, LimitSubject, Tone};

/// `GET /admin/limits`.
pub async fn page(State(app): State<App>, _: Admin, viewer: Viewer) -> PageResult {
    shown(&app, viewer, &Typed::default()).await
}

/// What stands in the form, and what is wrong with it.
#[derive(Default)]
struct Typed {
    subject: String,
    name: String,
    value: String,
    error: Option<String>,
}

async fn shown(app: &App, viewer: Viewer, typed: &Typed) -> PageResult {
    let people = app.store.accounts().await?;
    let mut apps: Vec<(String, String)> = Vec::new();
    for package in app.store.packages().await? {
        if !apps.iter().any(|(id, _)| *id == package.app_id) {
            apps.push((package.app_id, package.title));
        }
    }
    let exceptions = app.store.all_limits().await?;
    let program = app.config.bin.join("sandstorm-supervisor");
    let machine = tokio::task::spawn_blocking(move || crate::check::try_supervisor(&program))
        .await
        .map_err(|_| Error::Internal("the check did not end".into()))?;
    let body = html! {
        div.heading { h1 { "Limits" } }
        p { "What one grain may use. An exception holds from the next start of a grain on; a "
            "person's beats an app's. No app can change its own limits." }
        (values(app, "Limits of a grain", TABLE))
        section {
            h2 { "What one person may install and run" }
            p { "The apps that somebody brought count, whoever uses them; administrators have no "
                "limit of what they install unless an exception names them." }
            (values(app, "What one person may install and run", PERSON))
            p.hint { "The server's own values are a setting, " code { "GRAIN_LIMITS" } "." }
        }
        section {
            h2 { "Exceptions " span.n { (exceptions.len()) } }
            @if exceptions.is_empty() { p.hint { "None: everybody has the values above." } }
            @else { (exception_table(&viewer, &exceptions, &people, &apps)) }
            (form(&viewer, &people, &apps, typed))
        }
        section {
            h2 { "How this machine enforces them" }
            @match machine {
                Ok(lines) => ul.short { @for line in &lines { li { (line) } } },
                Err(said) => p.strip.warning { span { (said) } },
            }
        }
    };
    respond(viewer, "/admin/limits", "Limits", body).await
}

fn values(app: &App, caption: &str, table: &[Limit]) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label=(caption) {
            table {
                caption.unseen { (caption) }
                thead { tr {
                    th scope="col" { "Limit" } th scope="col" { "Value" }
                    th scope="col" { "What it means" }
                } }
                tbody {
                    @for limit in table {
                        tr {
                            th scope="row" { (limit.name) }
                            td { (value(limit, app.config.grain_limits.value(limit))) }
                            td.wrap { (limit.meaning) }
                        }
                    }
                }
            }
        }
    }
}

/// A value in its unit.
fn value(limit: &Limit, value: u64) -> String {
    if limit.unit == "bytes" && value % (1 << 20) == 0 {
        return format!("{} MiB", number(i64::try_from(value >> 20).unwrap_or(i64::MAX)));
    }
    format!("{} {}", number(i64::try_from(value).unwrap_or(i64::MAX)), limit.unit)
}

fn exception_table(
    viewer: &Viewer,
    exceptions: &[LimitRow],
    people: &[Account],
    apps: &[(String, String)],
) -> Markup {
    let names: HashMap<AccountId, &str> =
        people.iter().map(|a| (a.id, a.display_name.as_str())).collect();
    html! {
        div.scroll tabindex="0" role="region" aria-label="Exceptions" {
            table {
                caption.unseen { "Exceptions" }
                thead { tr {
                    th scope="col" { "Whose" } th scope="col" { "Limit" }
                    th scope="col" { "Value" } th scope="col" { span.unseen { "Acts" } }
                } }
                tbody {
                    @for row in exceptions {
                        @let limit = grain_limits::find_any(&row.name);
                        @let amount = u64::try_from(row.value).unwrap_or(0);
                        tr {
                            th scope="row" {
                                @match &row.subject {
                                    LimitSubject::App(id) => {
                                        "App "
                                        @match apps.iter().find(|(app, _)| app == id) {
                                            Some((_, title)) => { bdi { (title) } }
                                            None => {
                                                (fingerprint(id.get(..8).unwrap_or(id))) "… (deleted)"
                                            }
                                        }
                                    }
                                    LimitSubject::Account(id) => {
                                        bdi { (names.get(id).copied().unwrap_or_default()) }
                                    }
                                }
                            }
                            td { (row.name) }
                            td { @match limit {
                                Some(limit) => (value(limit, amount)),
                                None => (amount),
                            } }
                            td {
                                form.inline action="/admin/limits" method="post" {
                                    (token_field(viewer))
                                    input type="hidden" name="subject" value=(key(&row.subject));
                                    input type="hidden" name="name" value=(row.name);
                                    button.small name="act" value="clear" { "Remove exception" }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn form(viewer: &Viewer, people: &[Account], apps: &[(String, String)], typed: &Typed) -> Markup {
    let chosen = |subject: &LimitSubject| key(subject) == typed.subject;
    let is_wrong = typed.error.is_some();
    html! {
        form.field-row action="/admin/limits" method="post" {
            (token_field(viewer))
            label for="subject" { "Whose" }
            select #subject name="subject" required {
                @for (id, title) in apps {
                    @let subject = LimitSubject::App(id.clone());
                    option value=(key(&subject)) selected[chosen(&subject)] { "App " (title) }
                }
                @for person in people {
                    @let subject = LimitSubject::Account(person.id);
                    option value=(key(&subject)) selected[chosen(&subject)] {
                        (person.display_name) " (" (person.handle) ")"
                    }
                }
            }
            label for="limit" { "Limit" }
            select #limit name="name" {
                @for limit in TABLE.iter().chain(PERSON) {
                    option selected[limit.name == typed.name] { (limit.name) }
                }
             }
            label for="value" { "Value" }
            input #value name="value" required maxlength="20" autocomplete="off"
                placeholder="2G" value=(typed.value) autofocus[is_wrong]
                aria-invalid=[is_wrong.then_some("true")]
                aria-describedby=(if is_wrong { "value-error" } else { "value-hint" });
            button name="act" value="set" { "Make an exception" }
        }
        (field_error("value-error", typed.error.as_deref()))
        p.hint #value-hint { "A number; K, M, G and T are powers of 1024." }
    }
}

/// A subject as a form's value.
fn key(subject: &LimitSubject) -> String {
    match subject {
        LimitSubject::App(id) => format!("app:{id}"),
        LimitSubject::Account(id) => format!("account:{id}"),
    }
}

/// The forms' fields.
#[derive(Debug, Deserialize)]
pub struct LimitAct {
    act: String,
    subject: String,
    name: String,
    #[serde(default)]
    value: String,
}

/// `POST /admin/limits`.
///
/// What cannot be set is told beside the form, with everything that was typed.
pub async fn act(State(app): State<App>, viewer: Viewer, act: AdminForm<LimitAct>) -> PageResult {
    let (by, form) = (act.login.id(), &act.form);
    let subject = subject(&app, &form.subject, form.act == "clear").await?;
    let bad = |text: String| Error::BadRequest(text);
    let audit = |action, detail| Audit { by: act.by(), action, target: &form.subject, detail };
    let said = match form.act.as_str() {
        "set" => {
            let judged = parse_any_value(form.name.trim(), form.value.trim())
                .map_err(|e| e.to_string())
                .and_then(|(limit, number)| {
                    fits(limit, number, &subject).map_err(|e| e.to_string())?;
                    Ok((limit, number))
                });
            let (limit, number) = match judged {
                Ok(judged) => judged,
                Err(error) => {
                    let typed = Typed {
                        subject: form.subject.clone(),
                        name: form.name.clone(),
                        value: form.value.clone(),
                        error: Some(super::errors::sentence(&error)),
                    };
                    let mut page = shown(&app, viewer, &typed).await?;
                    *page.status_mut() = http::StatusCode::BAD_REQUEST;
                    return Ok(page);
                }
            };
            let number = i64::try_from(number).map_err(|e| bad(e.to_string()))?;
            let detail = format!("{}={number}", limit.name);
            let audit = audit("limit-set", &*detail);
            app.store.set_limit(&subject, limit.name, number, &audit).await?;
            match grain_limits::is_persons(limit) {
                true => "The exception holds from now on.",
                false => "The exception holds from the next start of a grain on.",
            }
        }
        "clear" => {
            let audit = audit("limit-clear", &*form.name);
            app.store.clear_limits(&subject, Some(&form.name), &audit).await?;
            "The exception is removed."
        }
        _ => return Err(bad("this button is not known here".into()).into()),
    };
    app.store.notify(by, Tone::Good, said, None).await?;
    Ok(layout::redirect("/admin/limits"))
}

/// A form's value as a subject that there is. `gone`: an app that was deleted will do too.
async fn subject(app: &App, key: &str, gone: bool) -> Result<LimitSubject, Error> {
    match key.split_once(':') {
        Some(("app", id)) if gone || !app.store.packages_of_app(id).await?.is_empty() => {
            Ok(LimitSubject::App(id.to_owned()))
        }
        Some(("account", id)) => {
            let id = id.parse().map(AccountId).map_err(|_| Error::NotFound("account"))?;
            let known = app.store.accounts().await?.iter().any(|account| account.id == id);
            known.then_some(LimitSubject::Account(id)).ok_or(Error::NotFound("account"))
        }
        _ => Err(Error::NotFound("app")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_readable() {
        let of = |name: &str, n| value(grain_limits::find(name).unwrap(), n);
        assert_eq!(of("memory", 1 << 30), "1,024 MiB");
        assert_eq!(of("pids", 512), "512 processes and threads");
        assert_eq!(of("disk", 1000), "1,000 bytes");
    }
}
