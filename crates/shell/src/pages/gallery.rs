//! Every part in every state, for screenshots and checks. Only where development accounts are on.

use maud::{Markup, html};

use super::PageResult;
use super::layout::{self, Page};
use super::parts::{count, empty, field_error, icon, progress, when};
use super::viewer::Person;

/// `GET /gallery`.
pub async fn page(person: Person) -> PageResult {
    let body = html! {
        div.heading { h1 { "Gallery" } }
        (buttons())
        (fields())
        (messages())
        (others())
    };
    Ok(layout::respond(&person.viewer, Page::plain("Gallery", body).wide()))
}

fn buttons() -> Markup {
    html! {
        section {
            h2 { "Buttons" }
            div.buttons {
                button.main { "Make a board" }
                button { "Rename" }
                button.danger { (icon("trash")) "Move to trash" }
                button.main.danger { "Delete for good" }
                button.plain { "Not now" }
                button.small { "Undo" }
                button.main aria-busy="true" { "Saving..." }
                a.button href="#" { "A link" }
                button.quiet aria-label="More" title="More" { (icon("more")) }
            }
        }
    }
}

fn fields() -> Markup {
    html! {
        section {
            h2 { "Fields" }
            form {
                label for="g1" { "Title" }
                input #g1 value="Q3 plan" autocomplete="off";
                label for="g2" { "Address" }
                input #g2 aria-invalid="true" aria-describedby="g2-error" value="ada"
                    autocomplete="off";
                (field_error("g2-error", Some("Enter an address like ada@example.org")))
                label for="g3" { "Role" }
                select #g3 { option { "Member" } option { "Administrator" } }
                label.check { input type="checkbox" checked; " Follow" }
                div.choice role="group" aria-label="Look" {
                    button type="button" aria-pressed="true" { "Light" }
                    button type="button" aria-pressed="false" { "Dark" }
                }
            }
        }
    }
}

fn messages() -> Markup {
    html! {
        section {
            h2 { "Messages" }
            @for (tone, symbol) in [("good", "check"), ("warning", "warning"), ("bad", "stop")] {
                output class={ "notice " (tone) } {
                    (icon(symbol)) span { "Moved Q3 plan to the trash." } button.small { "Undo" }
                }
                p class={ "strip " (tone) } { (icon(symbol)) span { "The connection is back." } }
            }
            section.problem {
                h3 { "The app stopped" }
                p { "It used 512 MB, its limit. Your board is as last saved." }
                div.buttons { button.main { "Start again" } button { "Log" } }
                p.hint { "Code " code { "G-OOM-4F2A" } }
            }
            (empty("Nothing here yet", html! { p { "What you star is listed here." } },
                html! { button.main { "Show all grains" } }))
        }
    }
}

fn others() -> Markup {
    html! {
        section {
            h2 { "Others" }
            (progress("Unpack", 28_000_000, 46_000_000))
            (progress("Check", 0, 0))
            details.menu {
                summary { "A menu " (icon("down")) }
                div.sheet {
                    a.line href="#" { (icon("info")) "Details" }
                    button.line.danger { (icon("trash")) "Move to trash" }
                }
            }
            p { (when(1_700_000_000_000)) ", " (count(2014, "grain", "grains")) ", press "
                kbd { "F2" } ", " code { "a1b2 c3d4" } ", " a href="#" { "a link" } }
            dl.facts { dt { "Key" } dd { code.key { "7F3A 91C0 55D2" } } dt { "Licence" } dd { "MIT" } }
            pre.log tabindex="0" { "Listening on port 8000\nGET / 200\n" }
            div.scroll tabindex="0" role="region" aria-label="Running" {
                table {
                    caption.unseen { "Running" }
                    thead { tr { th scope="col" { "App" } th scope="col" { "Memory" } } }
                    tbody { tr { th scope="row" { "Board" } td { "84 of 512 MB" } } }
                }
            }
        }
    }
}
