//! What the palette (Ctrl-K) offers for some letters: grains, new things, places.

use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};
use serde::Deserialize;

use super::PageError;
use super::parts::{app_icon, icon};
use crate::identity::Login;
use crate::state::App;
use crate::store::GrainQuery;

/// Rows of each kind.
const GRAINS: usize = 8;
const MAKERS: usize = 6;

/// The letters.
#[derive(Debug, Deserialize)]
pub struct Asked {
    #[serde(default)]
    q: String,
}

/// `GET /palette?q=`: a list of options for the script.
pub async fn found(
    State(app): State<App>,
    Query(asked): Query<Asked>,
    login: Login,
) -> Result<Response, PageError> {
    let query = GrainQuery { search: asked.q.clone(), page: Some(0), ..GrainQuery::default() };
    let grains = app.store.list_grains(login.id(), &query).await?.rows;
    let apps = if login.is_member() { app.store.apps_of(login.id()).await? } else { Vec::new() };
    let wanted = asked.q.to_lowercase();
    let fits = |text: &str| {
        let text = text.to_lowercase();
        wanted.split_whitespace().all(|word| text.contains(word))
    };
    let mut options: Vec<Markup> = Vec::new();
    let mut add =
        |href: Option<String>, make: Option<String>, picture, text: Markup, hint: &str| {
            let id = format!("found-{}", options.len());
            options.push(html! {
                li #(id) role="option" aria-selected="false" data-href=[href] data-make=[make] {
                    (picture) span { (text) } span.hint { bdi { (hint) } }
                }
            });
        };
    for row in grains.iter().take(GRAINS) {
        let href = format!("/grain/{}", row.grain.id);
        let picture = app_icon(&row.grain.package_id, false);
        add(Some(href), None, picture, html! { bdi { (row.grain.title) } }, &row.app_title);
    }
    let makers = apps.iter().flat_map(|app| app.actions.iter().map(move |action| (app, action)));
    for (app, action) in makers
        .filter(|(app, a)| fits(&format!("new {} {}", a.noun, app.package.title)))
        .take(MAKERS)
    {
        let make = format!("{} {}", app.package.app_id, action.position);
        let text = html! { "New " bdi { (action.noun) } };
        add(None, Some(make), icon("plus"), text, &app.package.title);
    }
    let mut places = vec![
        ("/", "Grains", "grains"),
        ("/?show=starred", "Starred", "star"),
        ("/?show=trash", "Trash", "trash"),
        ("/apps", "Apps", "apps"),
        ("/notices", "News", "bell"),
        ("/you", "You", "person"),
    ];
    if login.is_member() {
        places.push(("/install", "Install an app", "plus"));
    }
    if login.is_admin() {
        places.push(("/admin", "Administration", "gauge"));
    }
    for (href, name, symbol) in places.into_iter().filter(|(_, name, _)| fits(name)) {
        add(Some(href.to_owned()), None, icon(symbol), html! { (name) }, "Go to");
    }
    Ok(html! { ul { @for option in &options { (option) } } }.into_response())
}
