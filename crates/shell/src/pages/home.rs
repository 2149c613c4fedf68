//! Home: what people made, searched, filtered and sorted by the database.

use std::fmt::Write as _;

use axum::extract::Query;
use maud::{Markup, html};
use serde::Deserialize;

use super::layout::{self, Nav, Page, token_field};
use super::parts::{accent, app_icon, count, empty, icon, number, size, when};
use super::viewer::{Person, Viewer};
use super::{PageResult, new};
use crate::store::{
    AppRow, Filter, GrainCounts, GrainListItem, GrainPage, GrainQuery, PAGE_ROWS, Sort,
};

/// The address's query.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Wanted {
    #[serde(default)]
    q: String,
    #[serde(default)]
    show: String,
    #[serde(default)]
    app: String,
    #[serde(default)]
    sort: String,
    #[serde(default)]
    page: i64,
    #[serde(default)]
    all: String,
}

const MORE_THAN_A_PAGE: i64 = PAGE_ROWS;

impl Wanted {
    fn query(&self) -> GrainQuery {
        let filter = match self.show.as_str() {
            "mine" => Filter::Mine,
            "shared" => Filter::Shared,
            "starred" => Filter::Starred,
            "trash" => Filter::Trash,
            _ if !self.app.is_empty() => Filter::App(self.app.clone()),
            _ => Filter::All,
        };
        let (reverse, word) = match self.sort.strip_prefix('-') {
            Some(word) => (true, word),
            None => (false, self.sort.as_str()),
        };
        let sort = match word {
            "name" => Sort::Name,
            "app" => Sort::App,
            "size" => Sort::Size,
            _ => Sort::Opened,
        };
        let page = self.all.is_empty().then_some(self.page.clamp(0, 1_000_000));
        GrainQuery { filter, search: self.q.clone(), sort, reverse, page }
    }

    /// This address with one thing changed; what is the default is left out.
    fn with(&self, change: impl FnOnce(&mut Wanted)) -> String {
        let mut to = Wanted { page: 0, all: String::new(), ..self.clone() };
        change(&mut to);
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        for (name, value) in [
            ("q", &to.q),
            ("show", &to.show),
            ("app", &to.app),
            ("sort", &to.sort),
            ("all", &to.all),
        ] {
            if !value.is_empty() {
                query.append_pair(name, value);
            }
        }
        if to.page > 0 {
            query.append_pair("page", &to.page.to_string());
        }
        match query.finish() {
            query if query.is_empty() => "/".into(),
            query => format!("/?{query}"),
        }
    }
}

/// `GET /`.
pub async fn page(Query(mut wanted): Query<Wanted>, viewer: Viewer) -> PageResult {
    let Some(login) = viewer.login.clone() else { return super::sign_in::landing(viewer).await };
    let store = &viewer.app.store;
    let mut viewer = viewer.clone();
    viewer.take_notices().await?;
    let mut query = wanted.query();
    let mut list = store.list_grains(login.id(), &query).await?;
    let last = (list.total - 1).max(0) / PAGE_ROWS;
    if query.page.is_some_and(|page| page > last) {
        // Its grains are elsewhere by now.
        wanted.page = last;
        query = wanted.query();
        list = store.list_grains(login.id(), &query).await?;
    }
    let counts = store.count_grains(login.id()).await?;
    let apps = store.apps_of(login.id()).await?;
    let person = Person { viewer, login };
    let title = match query.filter {
        Filter::Trash => "Trash",
        Filter::Starred => "Starred",
        Filter::Shared => "Shared with you",
        Filter::Mine => "Yours",
        Filter::App(_) | Filter::All => "Grains",
    };
    let body = content(&person, &wanted, &query, &list, counts, &apps, title);
    let rail = rail(&person, &wanted, &query, counts, &apps, !list.rows.is_empty());
    Ok(layout::respond(
        &person.viewer,
        Page::new(title, Nav::Grains, body).rail(rail).wide().search(&wanted.q),
    ))
}

fn rail(
    person: &Person,
    wanted: &Wanted,
    query: &GrainQuery,
    counts: GrainCounts,
    apps: &[AppRow],
    filled: bool,
) -> Markup {
    let item = |name: Markup, show: &str, app: &str, here: bool| {
        let href = wanted.with(|w| {
            (w.show, w.app) = (show.into(), app.into());
            w.q = String::new();
        });
        html! { li { a href=(href) aria-current=[here.then_some("page")] { (name) } } }
    };
    html! {
        nav.rail aria-label="Which grains" {
            @if person.login.is_member() {
                // Where the list is empty, the one filled button stands there.
                a.button.new.main[filled] href="/new" aria-keyshortcuts="n" { (icon("plus")) "New" }
            }
            ul {
                (item(html! { "All" }, "", "", query.filter == Filter::All))
                (item(html! { "Yours" }, "mine", "", query.filter == Filter::Mine))
                (item(html! { "Shared with you" }, "shared", "", query.filter == Filter::Shared))
                (item(html! { "Starred" }, "starred", "", query.filter == Filter::Starred))
                (item(
                    html! { "Trash" @if counts.trash > 0 { span.n { (number(counts.trash)) } } },
                    "trash", "", query.filter == Filter::Trash))
            }
            @let apps: Vec<&AppRow> =
                apps.iter().filter(|app| app.grains > 0 || person.login.is_member()).collect();
            @if !apps.is_empty() {
                p.label #rail-apps { "Apps" }
                ul aria-labelledby="rail-apps" {
                    @for app in apps {
                        @let id = &app.package.app_id;
                        (item(
                            html! {
                                (app_icon(&app.package.package_id, false))
                                bdi { (app.package.title) }
                                @if app.grains > 0 { span.n { (number(app.grains)) } }
                            },
                            "", id,
                            matches!(&query.filter, Filter::App(app) if app == id)))
                    }
                }
            }
        }
    }
}

fn content(
    person: &Person,
    wanted: &Wanted,
    query: &GrainQuery,
    list: &GrainPage,
    counts: GrainCounts,
    apps: &[AppRow],
    title: &str,
) -> Markup {
    let trash = query.filter == Filter::Trash;
    let app_title = match &query.filter {
        Filter::App(id) => apps.iter().find(|app| app.package.app_id == *id),
        _ => None,
    };
    html! {
        div.heading {
            // The script leads here when no row is left that could have the focus.
            h1 tabindex="-1" {
                @match app_title {
                    Some(app) => { bdi { (app.package.title) } }
                    None => { (title) }
                }
                " " span.n #count { (number(list.total)) }
            }
            (what_is_a_grain())
            @if let Some(app) = app_title {
                a.button href=(format!("/apps/{}", app.package.app_id)) { "About this app" }
            }
        }
        @if trash {
            p.hint {
                "Grains stay here for 30 days. Then they are deleted for good."
            }
        }
        @if list.rows.is_empty() {
            (nothing_here(person, wanted, query, counts, apps))
        } @else {
            (rows(person, wanted, query, list))
        }
        @if list.total > MORE_THAN_A_PAGE || query.page.is_none_or(|p| p > 0) {
            (pager(wanted, query, list))
        }
    }
}

fn what_is_a_grain() -> Markup {
    html! {
        details.help {
            summary aria-label="What is a grain?" title="What is a grain?" { "?" }
            p { (new::A_GRAIN_IS) }
        }
    }
}

fn rows(person: &Person, wanted: &Wanted, query: &GrainQuery, list: &GrainPage) -> Markup {
    let trash = query.filter == Filter::Trash;
    html! {
        form #list.list.by-size[query.sort == Sort::Size] action="/grains/act" method="post" {
            (token_field(&person.viewer))
            input type="hidden" name="to" value=(wanted.with(|to| {
                (to.page, to.all) = (wanted.page.clamp(0, 1_000_000), wanted.all.clone());
            }));
            div.chosen {
                strong #chosen { "Chosen" }
                @if trash {
                    button name="act" value="restore" { (icon("undo")) "Restore" }
                    button.danger name="act" value="destroy" { (icon("trash")) "Delete for good" }
                } @else {
                    button name="act" value="trash" { (icon("trash")) "Move to trash" }
                    button name="act" value="star" { (icon("star")) "Star" }
                }
                button type="reset" .plain { "Choose none" }
            }
            (heads(wanted, query, if trash { "Trashed" } else { "Opened" }))
            @if query.sort == Sort::Opened && !query.reverse && !trash {
                // By the server's clock: it does not know where the reader's day begins.
                @let today = crate::store::now_ms() - 24 * 3600 * 1000;
                @let (new, old): (Vec<_>, Vec<_>) =
                    list.rows.iter().partition(|row| row.grain.last_used >= today);
                @if !new.is_empty() && !old.is_empty() {
                    h2.group { "Last 24 hours" }
                    ul.grains { @for row in new { (one_row(row, trash)) } }
                    h2.group { "Earlier" }
                    ul.grains { @for row in old { (one_row(row, trash)) } }
                } @else {
                    ul.grains { @for row in &list.rows { (one_row(row, trash)) } }
                }
            } @else {
                ul.grains { @for row in &list.rows { (one_row(row, trash)) } }
            }
        }
    }
}

fn heads(wanted: &Wanted, query: &GrainQuery, opened: &str) -> Markup {
    let head = |name: &str, word: &str, sort: Sort| {
        let here = query.sort == sort;
        // A second press turns the order round.
        let next = match (here && !query.reverse, word) {
            (true, word) => format!("-{word}"),
            (false, "opened") => String::new(),
            (false, word) => word.to_owned(),
        };
        let arrow = if query.reverse { "↑" } else { "↓" };
        html! {
            a class=(format!("head-{word}")) href=(wanted.with(|w| w.sort = next))
                aria-current=[here.then_some("true")] {
                span.unseen { "Sort by " } (name)
                @if here { span.arrow aria-hidden="true" { (arrow) } }
            }
        }
    };
    html! {
        div.heads role="group" aria-label="Order" {
            // Seen where these are no heads of columns.
            span.sort aria-hidden="true" { "Sort by" }
            (head("Name", "name", Sort::Name))
            (head("App", "app", Sort::App))
            (head("Size", "size", Sort::Size))
            (head(opened, "opened", Sort::Opened))
        }
    }
}

fn one_row(row: &GrainListItem, trash: bool) -> Markup {
    let grain = &row.grain;
    let id = &grain.id;
    let mut name = String::new();
    let _ = write!(name, "t-{id}");
    html! {
        li class=(accent(&grain.app_id)) {
            label.tick {
                span.unseen { "Choose " bdi { (grain.title) } }
                input type="checkbox" name="grain" value=(id);
            }
            @if trash {
                span.open { (app_icon(&grain.package_id, false)) span.title { bdi { (grain.title) } } }
            } @else {
                a.open href=(format!("/grain/{id}")) data-wake=(id) title=(grain.title) {
                    (app_icon(&grain.package_id, false))
                    span.title { bdi { (grain.title) } }
                }
            }
            @if row.starred { span.star title="Starred" { (icon("star-on")) span.unseen { "Starred" } } }
            span.app { bdi { (row.app_title) } }
            span.size { (size(grain.size)) }
            span.at { (when(if trash { grain.trashed_at.unwrap_or(0) } else { grain.last_used })) }
            @if !trash {
                a.more href=(format!("/grains/{id}/details")) aria-label=(format!("More about {}", grain.title)) { (icon("more")) }
            }
        }
    }
}

fn nothing_here(
    person: &Person,
    wanted: &Wanted,
    query: &GrainQuery,
    counts: GrainCounts,
    apps: &[AppRow],
) -> Markup {
    let clear = html! { a.button.main href="/" { "Show all grains" } };
    if !wanted.q.is_empty() {
        return empty(
            "Nothing has these words",
            html! { p { "No grain's title or app contains “" bdi { (wanted.q) } "”." } },
            clear,
        );
    }
    match &query.filter {
        Filter::Trash => empty(
            "The trash is empty",
            html! { p { "What you move to the trash waits here for 30 days." } },
            clear,
        ),
        Filter::Starred => empty(
            "No stars yet",
            html! { p { "Star what you need often: it is listed here." } },
            clear,
        ),
        Filter::Shared => empty(
            "Nothing is shared with you yet",
            html! { p { "What others share with you is listed here, once you opened it." } },
            clear,
        ),
        _ if counts.all > 0 && matches!(query.filter, Filter::App(_)) => empty(
            "Nothing made with this app yet",
            html! {},
            html! { (new::buttons(&person.viewer, apps, 1, match &query.filter {
                Filter::App(app) => Some(app.as_str()),
                _ => None,
            })) },
        ),
        _ if !person.login.is_member() => empty(
            "You have no grains yet",
            html! { p { (new::A_GRAIN_IS) " What others share with you is listed here." } },
            html! {},
        ),
        _ if apps.is_empty() => empty(
            "You have no grains yet",
            html! {
                p { (new::A_GRAIN_IS) }
                p { "To make one you need an app: a file that ends in .spk, from whoever made it." }
                p.hint.by-mouse data-show hidden { "You can drop it anywhere on this page." }
            },
            html! { a.button.main href="/install" { "Install an app" } },
        ),
        _ => empty(
            "You have no grains yet",
            html! {
                p { (new::A_GRAIN_IS) " Press a button: it is made and opened." }
                p.hint.by-mouse data-show hidden { "To install another app, drop its file anywhere here." }
            },
            html! {
                (new::buttons(&person.viewer, apps, 3, None))
                @if apps.len() > 3 {
                    a.button href="/new" {
                        "All " (count(apps.len() as i64, "app", "apps"))
                    }
                }
            },
        ),
    }
}

fn pager(wanted: &Wanted, query: &GrainQuery, list: &GrainPage) -> Markup {
    let page = query.page.unwrap_or(0);
    let first = page * PAGE_ROWS;
    let last = first + list.rows.len() as i64;
    html! {
        nav.pager aria-label="Pages" {
            @if query.page.is_some() {
                p { (number((first + 1).min(last))) "–" (number(last)) " of " (number(list.total)) }
                @if page > 0 {
                    a.button rel="prev" href=(wanted.with(|w| w.page = page - 1)) { "Previous" }
                }
                @if last < list.total {
                    a.button rel="next" href=(wanted.with(|w| w.page = page + 1)) { "Next" }
                }
                @if list.total > PAGE_ROWS {
                    a.button.plain href=(wanted.with(|w| w.all = "1".into())) { "Show all" }
                }
            } @else {
                p { "All " (number(list.total)) }
                a.button href=(wanted.with(|_| ())) { "Show 100 at a time" }
            }
        }
    }
}
