//! Who sends this request: the extractor that every page begins with.

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac};
use http::{HeaderMap, request::Parts};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::cookie;
use crate::error::{Error, Result};
use crate::grains::LoginKey;
use crate::ids::AccountId;
use crate::pages::PageError;
use crate::state::App;
use crate::store::{Account, LoginSession, Role};

/// A signed-in browser.
#[derive(Clone, Debug)]
pub struct Login {
    /// Its row.
    pub session: LoginSession,
    secret: [u8; 32],
}

impl Login {
    /// The sign-in that these headers prove, if any.
    pub async fn find(app: &App, headers: &HeaderMap) -> Result<Option<Login>> {
        let value = cookie::read(headers, cookie::name(&app.config.root));
        let Some(secret) = value.and_then(decode_secret) else { return Ok(None) };
        let session = app.store.login(&secret).await?;
        Ok(session.map(|session| Login { session, secret }))
    }

    /// The person.
    pub fn account(&self) -> &Account {
        &self.session.account
    }

    /// The person's number.
    pub fn id(&self) -> AccountId {
        self.session.account.id
    }

    /// Whether they administer the server.
    pub fn is_admin(&self) -> bool {
        self.session.account.role == Role::Admin
    }

    /// Whether they may install apps and make grains.
    pub fn is_member(&self) -> bool {
        self.session.account.role != Role::Visitor
    }

    /// What opens grains for this browser.
    pub fn key(&self) -> LoginKey {
        LoginKey { login: self.session.id, account: Some(self.id()), secret: self.secret }
    }

    /// The token that a form of this browser carries: another site knows no cookie of ours, so it
    /// cannot know this either. Different at each call (a random pad, then the token under it):
    /// pages are compressed, and a secret that repeats could be guessed from their length.
    pub fn token(&self) -> String {
        let mut token = [0; 64];
        token[..32].copy_from_slice(&crate::store::random::<32>());
        let (pad, masked) = token.split_at_mut(32);
        for ((to, pad), byte) in masked.iter_mut().zip(pad).zip(self.form_key()) {
            *to = *pad ^ byte;
        }
        URL_SAFE_NO_PAD.encode(token)
    }

    /// Whether a form's token is this browser's.
    pub fn token_matches(&self, given: &str) -> bool {
        let Ok(token) = URL_SAFE_NO_PAD.decode(given) else { return false };
        let Some((pad, masked)) = token.split_at_checked(32) else { return false };
        let key: Vec<u8> = pad.iter().zip(masked).map(|(a, b)| a ^ b).collect();
        key.ct_eq(&self.form_key()[..]).into()
    }

    fn form_key(&self) -> [u8; 32] {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.secret).expect("HMAC takes keys of any length");
        mac.update(b"form token");
        mac.finalize().into_bytes().into()
    }
}

/// 32 bytes as they stand in a cookie or link: 43 characters.
pub fn encode_secret(secret: &[u8; 32]) -> String {
    URL_SAFE_NO_PAD.encode(secret)
}

/// The other way round.
pub fn decode_secret(text: &str) -> Option<[u8; 32]> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

impl FromRequestParts<App> for Login {
    type Rejection = PageError;
    async fn from_request_parts(
        parts: &mut Parts,
        app: &App,
    ) -> std::result::Result<Login, PageError> {
        match Login::find(app, &parts.headers).await? {
            Some(login) => Ok(login),
            None => Err(PageError::SignIn),
        }
    }
}

impl OptionalFromRequestParts<App> for Login {
    type Rejection = PageError;
    async fn from_request_parts(
        parts: &mut Parts,
        app: &App,
    ) -> std::result::Result<Option<Login>, PageError> {
        Ok(Login::find(app, &parts.headers).await?)
    }
}

/// Proof that an administrator asks; for others the page is not there.
#[derive(Clone, Copy, Debug)]
pub struct Admin;

impl FromRequestParts<App> for Admin {
    type Rejection = PageError;
    async fn from_request_parts(
        parts: &mut Parts,
        app: &App,
    ) -> std::result::Result<Admin, PageError> {
        let login = <Login as FromRequestParts<App>>::from_request_parts(parts, app).await?;
        if login.is_admin() { Ok(Admin) } else { Err(Error::NotFound("page").into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{CredentialKind, Store};

    #[tokio::test]
    async fn a_token_is_one_browsers_and_never_looks_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("db")).await.unwrap();
        let role = Role::Member;
        let ada =
            store.account_for_credential(CredentialKind::Dev, "ada", "Ada", role).await.unwrap();
        let mut logins = Vec::new();
        for _ in 0..2 {
            let secret = store.create_login(ada.id, "").await.unwrap().unwrap().secret;
            logins.push(Login { session: store.login(&secret).await.unwrap().unwrap(), secret });
        }
        let token = logins[0].token();
        assert!(logins[0].token_matches(&token));
        assert!(logins[0].token_matches(&logins[0].token()));
        assert_ne!(logins[0].token(), token);
        assert!(!logins[1].token_matches(&token));
        for bad in ["", "x", &token[1..], &token[..40], &URL_SAFE_NO_PAD.encode([0; 64])] {
            assert!(!logins[0].token_matches(bad), "{bad}");
        }
        let secret = decode_secret(&encode_secret(&logins[0].secret)).unwrap();
        assert_eq!(secret, logins[0].secret);
        assert_eq!(decode_secret("short"), None);
    }
}
