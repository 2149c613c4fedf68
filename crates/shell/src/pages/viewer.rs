//! Who looks at a page, and how they want it.

use axum::extract::FromRequestParts;
use http::{HeaderMap, request::Parts};

use super::PageError;
use crate::identity::{Login, cookie};
use crate::state::App;
use crate::store::Notice;

/// Light or dark, as the person chose on this browser; the system decides where they did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Look {
    /// As the system says.
    #[default]
    System,
    /// Always light.
    Light,
    /// Always dark.
    Dark,
}

impl Look {
    /// The cookie's name. Not a secret, and set by anybody: it only chooses colours.
    pub const COOKIE: &'static str = "sandstorm-look";

    /// The word in cookie, form and attribute.
    pub fn as_str(self) -> &'static str {
        match self {
            Look::System => "system",
            Look::Light => "light",
            Look::Dark => "dark",
        }
    }

    /// Reads that word; anything else is the system's choice.
    pub fn parse(word: &str) -> Look {
        match word {
            "light" => Look::Light,
            "dark" => Look::Dark,
            _ => Look::System,
        }
    }
}

/// What every page needs to be rendered.
#[derive(Clone)]
pub struct Viewer {
    /// The server.
    pub app: App,
    /// Who, if somebody is signed in.
    pub login: Option<Login>,
    /// In which colours.
    pub look: Look,
    /// Path and query of this page.
    pub path: String,
    /// What the server is called.
    pub server: String,
    /// News to show once.
    pub notices: Vec<Notice>,
    /// The script asks for a part of the page; nobody would see news in it.
    part: bool,
}

/// Sent by the script when it wants only a part of a page.
pub const PART_HEADER: &str = "x-sandstorm-part";

/// What a server is called until its administrator says otherwise.
pub const DEFAULT_NAME: &str = "Sandstorm";
/// The setting that holds that name.
pub const NAME_SETTING: &str = "server-name";

impl Viewer {
    async fn load(app: &App, headers: &HeaderMap, path: &str) -> Result<Viewer, PageError> {
        let login = Login::find(app, headers).await?;
        Ok(Viewer {
            server: app.store.setting(NAME_SETTING).await?.unwrap_or(DEFAULT_NAME.into()),
            notices: Vec::new(),
            ..Viewer::bare(app, headers, path, login)
        })
    }

    fn bare(app: &App, headers: &HeaderMap, path: &str, login: Option<Login>) -> Viewer {
        Viewer {
            app: app.clone(),
            login,
            look: Look::parse(cookie::read(headers, Look::COOKIE).unwrap_or_default()),
            path: path.to_owned(),
            server: DEFAULT_NAME.into(),
            notices: Vec::new(),
            part: headers.contains_key(PART_HEADER),
        }
    }

    /// Takes what this person should be told, to be shown on this page and no other.
    pub async fn take_notices(&mut self) -> Result<(), PageError> {
        if let (Some(login), false) = (&self.login, self.part) {
            self.notices = self.app.store.take_notices(login.id()).await?;
        }
        Ok(())
    }

    /// A viewer of an error page: works when the database does not.
    pub async fn for_error(app: &App, headers: &HeaderMap, path: &str) -> Viewer {
        match Viewer::load(app, headers, path).await {
            Ok(viewer) => viewer,
            Err(_) => Viewer::bare(app, headers, path, None),
        }
    }

    /// The form token; empty for nobody.
    pub fn token(&self) -> String {
        self.login.as_ref().map(Login::token).unwrap_or_default()
    }
}

impl FromRequestParts<App> for Viewer {
    type Rejection = PageError;
    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Viewer, PageError> {
        let path = parts.uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
        Viewer::load(app, &parts.headers, &path).await
    }
}

/// A viewer who is signed in; others are led to sign in and back.
#[derive(Clone)]
pub struct Person {
    /// The page's needs.
    pub viewer: Viewer,
    /// Who.
    pub login: Login,
}

impl FromRequestParts<App> for Person {
    type Rejection = PageError;
    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Person, PageError> {
        let mut viewer = Viewer::from_request_parts(parts, app).await?;
        let login = viewer.login.clone().ok_or(PageError::SignIn)?;
        viewer.take_notices().await?;
        Ok(Person { viewer, login })
    }
}
