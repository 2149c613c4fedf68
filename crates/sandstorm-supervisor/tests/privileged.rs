//! How much of our code runs between exec and the last right given up, counted by function: all that
//! `privileged::begin` calls in this crate, directly or not, and what init does until its ids are the
//! grain's. The helper, which is a process of its own, is counted apart.
//!
//! The source is read as rustfmt leaves it: a function ends with a brace as deep as its first line.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

type Key = (&'static str, String);

/// Files by the names that stand before `::` in calls of their functions. What is not here is a
/// library's, or a constructor of a type without code.
const QUALIFIERS: [(&str, &str); 22] = [
    ("fd", "sys/fd.rs"),
    ("creds", "sys/creds.rs"),
    ("process", "sys/process.rs"),
    ("signal", "sys/signal.rs"),
    ("mount", "sys/mount.rs"),
    ("loop_device", "sys/loop_device.rs"),
    ("super", "sys/mod.rs"),
    ("reset", "privileged/reset.rs"),
    ("slot", "privileged/slot.rs"),
    ("helper", "privileged/helper.rs"),
    ("quota", "privileged/quota.rs"),
    ("Image", "privileged/image.rs"),
    ("Groups", "privileged/groups.rs"),
    ("Parents", "sandbox/parents.rs"),
    ("share", "sandbox/share.rs"),
    ("namespaces", "sandbox/namespaces.rs"),
    ("Own", "sandbox/namespaces.rs"),
    ("init", "init.rs"),
    ("Start", "init.rs"),
    ("Link", "link.rs"),
    ("Mode", "mode.rs"),
    ("Helper", "helper.rs"),
];
/// Others that are called by name alone, wherever they are.
const EVERYWHERE: [(&str, &str); 5] = [
    ("become_for_good", "privileged/mod.rs"),
    ("step", "error.rs"),
    ("check", "sys/mod.rs"),
    ("off", "layers.rs"),
    ("send", "helper.rs"),
];
/// Where methods are that privileged code calls.
const METHODS: [&str; 6] = [
    "privileged/groups.rs",
    "privileged/image.rs",
    "sandbox/share.rs",
    "sandbox/namespaces.rs",
    "link.rs",
    "helper.rs",
];

/// Code lines of each function (several of one name together), without tests, comments and blank lines.
fn functions() -> BTreeMap<Key, Vec<String>> {
    let mut files: BTreeSet<&'static str> = QUALIFIERS.map(|(_, file)| file).into();
    files.extend(EVERYWHERE.map(|(_, file)| file));
    files.insert("privileged/mod.rs");
    files.insert("sys/quota.rs");
    let mut all = BTreeMap::<Key, Vec<String>>::new();
    for file in files {
        let path = format!("{}/src/{file}", env!("CARGO_MANIFEST_DIR"));
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let is_code = |line: &&str| !line.trim().is_empty() && !line.trim().starts_with("//");
        let mut lines =
            text.lines().take_while(|line| *line != "#[cfg(test)]").filter(is_code).peekable();
        while let Some(first) = lines.next() {
            let Some(name) = name_of(first) else { continue };
            let function = all.entry((file, name.to_owned())).or_default();
            function.push(first.to_owned());
            if first.ends_with('}') {
                continue;
            }
            let end = format!("{}}}", &first[..first.len() - first.trim_start().len()]);
            for line in lines.by_ref() {
                // What init does once its ids are the grain's is without rights.
                if (file, name) == ("init.rs", "main") && line.contains("take_ids") {
                    function.push(line.to_owned());
                    break;
                }
                function.push(line.to_owned());
                if line == end {
                    break;
                }
            }
        }
    }
    all
}

/// The name of a function that begins on this line.
fn name_of(line: &str) -> Option<&str> {
    let (before, after) = line.split_once("fn ")?;
    let modifiers = ["pub", "pub(super)", "pub(crate)", "const", "unsafe", "extern", "\"C\""];
    let is_item = before.split_whitespace().all(|word| modifiers.contains(&word));
    let end = after.find(['(', '<'])?;
    is_item.then_some(&after[..end])
}

/// Whom a function of this file calls by what its text says.
fn called(file: &'static str, text: &str, all: &BTreeMap<Key, Vec<String>>) -> BTreeSet<Key> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices(is_name) {
        if text[..at].ends_with(is_name) {
            continue;
        }
        let (before, rest) = text.split_at(at);
        let name = &rest[..rest.find(|c| !is_name(c)).unwrap_or(rest.len())];
        let is_call = rest[name.len()..].starts_with(['(', '<']);
        let mut add = |file: &'static str| {
            found.extend(Some((file, name.to_owned())).filter(|key| all.contains_key(key)));
        };
        if let Some(path) = before.strip_suffix("::") {
            let qualifier = &path[path.rfind(|c| !is_name(c)).map_or(0, |at| at + 1)..];
            if qualifier == "Self" {
                add(file);
            }
            QUALIFIERS.iter().filter(|(name, _)| *name == qualifier).for_each(|(_, f)| add(f));
            if (file, qualifier) == ("privileged/quota.rs", "quota") {
                add("sys/quota.rs");
            }
        } else if before.ends_with('.') && is_call {
            METHODS.iter().for_each(|file| add(file));
        } else if is_call {
            add(file);
            EVERYWHERE.iter().filter(|(known, _)| *known == name).for_each(|(_, file)| add(file));
        }
    }
    found
}

/// Lines of everything that runs from these on, never going into `others`.
fn lines(from: &[(&'static str, &str)], others: &[(&str, &str)]) -> (usize, BTreeMap<Key, usize>) {
    let all = functions();
    let mut todo: Vec<Key> = from.iter().map(|(file, name)| (*file, (*name).to_owned())).collect();
    let mut counted = BTreeMap::new();
    while let Some(key) = todo.pop() {
        if counted.contains_key(&key) || others.contains(&(key.0, key.1.as_str())) {
            continue;
        }
        let function = all.get(&key).unwrap_or_else(|| panic!("no {} in {}", key.1, key.0));
        counted.insert(key.clone(), function.len());
        // Its own first line calls nobody.
        todo.extend(called(key.0, &function[1..].join("\n"), &all));
    }
    (counted.values().sum(), counted)
}

/// The numbers are in docs/security.md too.
#[test]
fn what_runs_with_roots_rights_is_under_600_lines_with_all_it_calls() {
    // The other two processes.
    let not_ours = [
        ("init.rs", "main"),
        ("privileged/helper.rs", "settle"),
        ("privileged/helper.rs", "serve"),
        ("helper.rs", "send"),
    ];
    let (program, of) = lines(&[("privileged/mod.rs", "begin")], &not_ours);
    println!("the program: {program} lines: {of:?}");
    for known in [
        ("privileged/reset.rs", "first_steps"),
        ("privileged/groups.rs", "fresh_group"),
        ("sys/process.rs", "clone"),
        ("sys/fd.rs", "close_between"),
        ("sandbox/parents.rs", "find"),
        ("link.rs", "send_entrances"),
    ] {
        assert!(of.contains_key(&(known.0, known.1.to_owned())), "{known:?} is not counted");
    }
    assert!(program < 600, "{program} lines: think again, or change docs/security.md");

    // A process of the grain's own namespaces from its first instruction on; its ids come a little later.
    let (init, of) = lines(&[("init.rs", "main")], &[]);
    println!("init: {init} lines: {of:?}");
    assert!(of.contains_key(&("sandbox/namespaces.rs", "take_ids".to_owned())));
    assert!(init < 300, "{init} lines: think again, or change docs/security.md");

    let start = [("privileged/helper.rs", "settle"), ("privileged/helper.rs", "serve")];
    let (helper, of) = lines(&start, &[]);
    println!("the helper: {helper} lines: {of:?}");
    assert!(of.contains_key(&("sys/mount.rs", "copy".to_owned())));
    assert!(of.contains_key(&("sys/quota.rs", "set_limits".to_owned())));
    assert!(of.contains_key(&("privileged/image.rs", "make".to_owned())));
    assert!(helper < 600, "{helper} lines: think again, or change docs/security.md");
}
