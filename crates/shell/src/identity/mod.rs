//! Who signs in, and how: login sessions in a cookie, links that work once, development accounts.
//!
//! Trust: cookies, forms and links come from the network and from sibling hosts, where hostile
//! apps run; a sign-in is believed only by its 256-bit secret, and a change only with the token
//! that belongs to that sign-in (`act`).

pub mod act;
pub mod cookie;
pub mod form;
pub mod login;
pub mod text;

use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;

use crate::error::{Error, Result};
use crate::ids::{AccountId, GrainId, LoginId};
use crate::state::{App, Event};
use crate::store::{Account, Audit, By, CredentialKind, LinkPurpose, Role, Store};

pub use act::{ActForm, AdminForm, check_origin};
pub use login::Login;

/// An administrator's link works this long (seconds): the person may come back after lunch.
pub const ADMIN_LINK_SECONDS: i64 = 24 * 3600;
/// What outlives its request looks at its sign-in this often, in case an event was missed, or no
/// event says it: a sign-in that expires, an account that is suspended.
pub const RECHECK: Duration = Duration::from_secs(60);
/// A link that opens one grain (seconds).
pub const OPEN_LINK_SECONDS: i64 = 3600;

/// The account of whoever can run programs as the server's user. Owns what `shell grain create`
/// makes without `--owner`, and is the one that the administrator's link signs in as.
pub async fn operator(store: &Store) -> Result<Account> {
    Ok(store
        .account_for_credential(CredentialKind::Operator, "local", "Operator", Role::Member)
        .await?)
}

/// The person that a name means: a handle, else a display name that only one person has.
pub async fn account_named(store: &Store, name: &str) -> Result<Account> {
    find(store, name).await?.ok_or_else(|| {
        Error::BadRequest(format!(
            "nobody here is called {name:?}; a person is known here once they have signed in"
        ))
    })
}

/// The owner that `--owner NAME` means, made where that is possible without a sign-in: the operator,
/// and with development accounts anybody.
pub async fn owner_named(app: &App, name: &str) -> Result<Account> {
    let store = &app.store;
    // Before any name that a person can give themselves.
    if name.eq_ignore_ascii_case("operator") {
        return operator(store).await;
    }
    if let Some(account) = find(store, name).await? {
        return Ok(account);
    }
    let dev = text::one_line(name, DEV_NAME);
    match name {
        _ if app.config.allow_dev_accounts && !dev.is_empty() => {
            dev_account(store, &dev, Role::Member).await
        }
        _ => account_named(store, name).await,
    }
}

/// Characters of a development account's name.
pub const DEV_NAME: usize = 60;

/// The development account of this name, made with this role if it is new.
pub async fn dev_account(store: &Store, name: &str, role: Role) -> Result<Account> {
    let subject = name.to_lowercase();
    Ok(store.account_for_credential(CredentialKind::Dev, &subject, name, role).await?)
}

async fn find(store: &Store, name: &str) -> Result<Option<Account>> {
    if let Some(account) = store.account_by_handle(name).await? {
        return Ok(Some(account));
    }
    let mut found = store.accounts().await?;
    found.retain(|account| account.display_name == name);
    match (found.len(), found.pop()) {
        (0 | 1, found) => Ok(found),
        _ => Err(Error::BadRequest(format!(
            "more than one person is called {name:?}; use the handle"
        ))),
    }
}

/// A fresh one-time link that signs in as administrator; `audit`: its line in the audit log.
pub async fn admin_link(app: &App, audit: Option<&Audit<'_>>) -> Result<String> {
    let purpose = LinkPurpose::Admin;
    let secret = app.store.create_link(purpose, None, None, ADMIN_LINK_SECONDS, audit).await?;
    Ok(link(app, &secret))
}

/// A fresh one-time link that signs in as `owner` and opens the grain, for the operator: the audit
/// log says so.
pub async fn open_link(app: &App, owner: AccountId, grain: &GrainId) -> Result<String> {
    let target = grain.to_string();
    let secret = app
        .store
        .create_link(
            LinkPurpose::OpenGrain,
            Some(owner),
            Some(&target),
            OPEN_LINK_SECONDS,
            Some(&Audit { by: By::Command, action: "grain-open", target: &target, detail: "" }),
        )
        .await?;
    Ok(link(app, &secret))
}

fn link(app: &App, secret: &[u8; 32]) -> String {
    format!("{}/link/{}", app.config.root, login::encode_secret(secret))
}

/// Ends one sign-in of this account everywhere: its cookie, its grains' frames, its sockets.
/// False when it is not one of theirs.
pub async fn sign_out(app: &App, account: AccountId, login: LoginId) -> Result<bool> {
    let ended = app.store.end_login(account, login).await?;
    if ended {
        app.grains.end_login(login);
        app.events.send(Event::LoginEnded(login));
    }
    Ok(ended)
}

/// Waits until a sign-in is over: for what outlives the request that proved it.
pub async fn ended(app: App, login: LoginId) {
    let mut events = app.events.subscribe();
    // The first tick comes at once: it may have ended before we listened.
    let mut recheck = tokio::time::interval(RECHECK);
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Ok(Event::LoginEnded(id)) if id == login => return,
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => recheck.reset_immediately(),
                Err(RecvError::Closed) => return,
            },
            _ = recheck.tick() => match app.store.login_by_id(login).await {
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(error) => tracing::warn!("a sign-in could not be looked at: {error}"),
            },
        }
    }
}
