//! What makes a request that changes something believable.
//!
//! Two locks, and a request must open both. (1) The browser says where it comes from:
//! `Sec-Fetch-Site: same-origin`, or, where browsers send no such header (plain http), an
//! `Origin` equal to our own. Sibling hosts are same-*site* and hostile, so SameSite cookies and
//! `same-site` prove nothing. (2) The form carries the token of the sign-in.

use std::net::IpAddr;

use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
};
use http::{HeaderMap, header};
use serde::de::DeserializeOwned;

use super::{Login, form};
use crate::edge::ClientAddr;
use crate::error::Error;
use crate::pages::PageError;
use crate::state::App;
use crate::store::By;

/// The form field that carries the token.
pub const TOKEN_FIELD: &str = "token";
/// The header that carries it when a script sends the request.
pub const TOKEN_HEADER: &str = "x-sandstorm-token";

/// Refuses requests that another origin caused.
pub fn check_origin(app: &App, headers: &HeaderMap) -> Result<(), Error> {
    let refuse = |what: &str| {
        Err(Error::Forbidden(format!(
            "This request came from another site ({what}), so nothing was done. Open the page \
             here and press its button"
        )))
    };
    if let Some(site) = headers.get("sec-fetch-site") {
        return match site.as_bytes() {
            b"same-origin" => Ok(()),
            other => refuse(&String::from_utf8_lossy(other)),
        };
    }
    match headers.get(header::ORIGIN) {
        Some(origin) if origin.as_bytes() == app.config.root.to_string().as_bytes() => Ok(()),
        Some(origin) => refuse(&String::from_utf8_lossy(origin.as_bytes())),
        None => refuse("its browser names none"),
    }
}

/// A checked form of a signed-in person.
#[derive(Debug)]
pub struct ActForm<T> {
    /// Who.
    pub login: Login,
    /// The form's fields.
    pub form: T,
    from: IpAddr,
}

impl<T> ActForm<T> {
    /// Who sent it, as the audit log tells it.
    pub fn by(&self) -> By {
        By::Person(self.login.id(), self.from)
    }
}

impl<T: DeserializeOwned> FromRequest<App> for ActForm<T> {
    type Rejection = PageError;

    async fn from_request(request: Request, app: &App) -> Result<Self, PageError> {
        let act = Act::check(request, app).await?;
        Ok(ActForm { form: parse(&act.body)?, login: act.login, from: act.from })
    }
}

/// A form whose sender is known, before anything of it is read.
struct Act {
    login: Login,
    from: IpAddr,
    body: Bytes,
}

impl Act {
    async fn check(request: Request, app: &App) -> Result<Act, PageError> {
        check_origin(app, request.headers())?;
        let Some(login) = Login::find(app, request.headers()).await? else {
            return Err(PageError::SignIn);
        };
        let turn = app.forms.known(login.id())?;
        let ClientAddr(from) = ClientAddr::of(request.extensions());
        let body = form::read(request, form::MAX_BYTES, turn).await?;
        if !token_of(&body).is_some_and(|token| login.token_matches(&token)) {
            return Err(Error::Forbidden(
                "This page is from an earlier sign-in, so nothing was done. Load it again and \
                 press the button once more"
                    .into(),
            )
            .into());
        }
        Ok(Act { login, from, body })
    }
}

/// [`ActForm`] of an administrator; for others what takes it is not there.
#[derive(Debug)]
pub struct AdminForm<T> {
    /// Who.
    pub login: Login,
    /// The form's fields.
    pub form: T,
    from: IpAddr,
}

impl<T> AdminForm<T> {
    /// Who sent it, as the audit log tells it.
    pub fn by(&self) -> By {
        By::Person(self.login.id(), self.from)
    }
}

impl<T: DeserializeOwned> FromRequest<App> for AdminForm<T> {
    type Rejection = PageError;

    async fn from_request(request: Request, app: &App) -> Result<Self, PageError> {
        let act = Act::check(request, app).await?;
        if !act.login.is_admin() {
            return Err(PageError::not_found());
        }
        Ok(AdminForm { form: parse(&act.body)?, login: act.login, from: act.from })
    }
}

/// A form that nobody needs to be signed in for; only its origin is checked.
#[derive(Debug)]
pub struct OpenForm<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for OpenForm<T> {
    type Rejection = PageError;

    async fn from_request(request: Request, app: &App) -> Result<Self, PageError> {
        check_origin(app, request.headers())?;
        let turn = app.forms.open(&request)?;
        Ok(OpenForm(parse(&form::read(request, form::MAX_OPEN_BYTES, turn).await?)?))
    }
}

fn token_of(body: &[u8]) -> Option<String> {
    url::form_urlencoded::parse(body)
        .find(|(key, _)| key == TOKEN_FIELD)
        .map(|(_, value)| value.into_owned())
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, PageError> {
    serde_html_form(body)
        .map_err(|why| Error::BadRequest(format!("The form cannot be read: {why}")).into())
}

/// Fields by name; a name that comes more than once becomes a list.
fn serde_html_form<T: DeserializeOwned>(body: &[u8]) -> Result<T, serde_json::Error> {
    use serde_json::{Map, Value};
    let mut fields: Map<String, Value> = Map::new();
    for (key, value) in url::form_urlencoded::parse(body) {
        let value = Value::String(value.into_owned());
        match fields.get_mut(key.as_ref()) {
            Some(Value::Array(list)) => list.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
            None => {
                fields.insert(key.into_owned(), value);
            }
        }
    }
    serde_json::from_value(Value::Object(fields))
}

/// For a field that may come once, often or never.
pub fn one_or_many<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    use serde::Deserialize;
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Given::deserialize(from)? {
        Given::One(one) => vec![one],
        Given::Many(many) => many,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize, Debug, PartialEq)]
    struct Form {
        title: String,
        #[serde(default, deserialize_with = "one_or_many")]
        grain: Vec<String>,
    }

    #[test]
    fn a_field_may_come_more_than_once() {
        let form: Form = serde_html_form(b"token=x&title=A+b&grain=1&grain=2&grain=3").unwrap();
        assert_eq!(
            form,
            Form { title: "A b".into(), grain: ["1", "2", "3"].map(Into::into).into() }
        );
        let form: Form = serde_html_form(b"grain=1&title=").unwrap();
        assert_eq!(form, Form { title: String::new(), grain: vec!["1".into()] });
        assert!(serde_html_form::<Form>(b"grain=1").is_err());
        assert_eq!(token_of(b"a=1&token=t%2B").as_deref(), Some("t+"));
    }
}
