//! The tables of system calls as a page of the documentation (`--system-calls`).
#![forbid(unsafe_code)]

use std::fmt::Write;

use super::outer;
use super::syscalls::{APP_ONLY, Case, Group, Is, TABLE, Verdict};

/// Markdown; the same text stands in docs/syscalls.md, which a test sees to.
pub fn markdown() -> String {
    let mut page = String::from(
        "# System calls\n\n\
         Made by `sandstorm-supervisor --system-calls` from the tables that the filters are compiled from.\n\
         A call that is not listed answers ENOSYS in an app and EPERM in the supervisor; a call of another\n\
         architecture ends the process. \"unless\" is followed by the cases that are refused.\n\n\
         ## What an app may call\n\n",
    );
    rows(&mut page, TABLE);
    page.push_str("\n## What only init may, and an app may not\n\n");
    rows(&mut page, APP_ONLY);
    page.push_str("\n## What the supervisor may call once it serves\n\n");
    rows(&mut page, outer::TABLE);
    page
}

fn rows(page: &mut String, table: &[Group]) {
    page.push_str("| calls | answer | why |\n|---|---|---|\n");
    for group in table {
        let names: Vec<_> = group.calls.iter().map(|c| c.name).collect();
        let answer = match group.verdict {
            Verdict::Allow => "allowed".to_owned(),
            Verdict::Refuse(errno) => errno_name(errno).to_owned(),
            Verdict::RefuseIf(cases) => {
                let cases: Vec<_> = cases.iter().map(case).collect();
                format!("allowed unless {}", cases.join("; "))
            }
        };
        let _ = writeln!(page, "| {} | {answer} | {} |", names.join(" "), group.reason);
    }
}

fn case(case: &Case) -> String {
    let tests: Vec<_> = case
        .tests
        .iter()
        .map(|t| {
            let arg = t.arg;
            match t.is {
                Is::Equal(v) => format!("arg{arg} = {v:#x}"),
                Is::NotEqual(v) => format!("arg{arg} ≠ {v:#x}"),
                Is::Masked(mask, v) => format!("arg{arg} & {mask:#x} = {v:#x}"),
                Is::AnyBit(bits) => format!("arg{arg} & {bits:#x} ≠ 0"),
                Is::HighNotZero => format!("arg{arg} >> 32 ≠ 0"),
                Is::MaskedNot(mask, values) => format!("arg{arg} & {mask:#x} not in {values:?}"),
            }
        })
        .collect();
    format!("{} ({})", tests.join(" and "), errno_name(case.errno))
}

fn errno_name(errno: i32) -> &'static str {
    match errno {
        0 => "no effect, and no error",
        libc::EPERM => "EPERM",
        libc::ENOSYS => "ENOSYS",
        libc::EINVAL => "EINVAL",
        libc::ENOTTY => "ENOTTY",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        libc::EAFNOSUPPORT => "EAFNOSUPPORT",
        libc::EPROTONOSUPPORT => "EPROTONOSUPPORT",
        _ => "an error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_page_is_this_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/syscalls.md");
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == markdown(),
            "docs/syscalls.md is not what `sandstorm-supervisor --system-calls` prints"
        );
        assert!(!committed.contains("an error"), "every errno has a name");
    }
}
