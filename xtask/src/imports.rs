//! Imports stand in three blocks with one blank line between: the standard library, other crates,
//! this crate's own modules. rustfmt keeps the order within a block only.

use std::path::PathBuf;

use crate::paths;

/// The imports at the left margin that stand in a wrong block.
fn misplaced(text: &str) -> Vec<&str> {
    let modules: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("pub ").unwrap_or(line).strip_prefix("mod "))
        .filter_map(|name| name.strip_suffix(';'))
        .collect();
    let block = |path: &str| match path.split([':', ';', ' ']).next().unwrap_or_default() {
        "std" | "core" | "alloc" => 0,
        name if ["crate", "super", "self"].contains(&name) || modules.contains(&name) => 2,
        _ => 1,
    };
    let (mut before, mut blank, mut wrong) = (None, false, Vec::new());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(path) = line.strip_prefix("use ") {
            let block = block(path);
            if before.is_some_and(|before| before > block || (before == block) == blank) {
                wrong.push(line);
            }
            (before, blank) = (Some(block), false);
            let _ = line.ends_with(';') || lines.any(|line| line.ends_with(';'));
        } else if line.is_empty() {
            blank = true;
        } else if !line.starts_with("#[") && !line.starts_with("//") {
            before = None;
        }
    }
    wrong
}

#[test]
fn imports_stand_in_three_blocks() {
    assert_eq!(misplaced("mod a;\nuse std::b;\n\nuse c::{\n    d,\n};\n\nuse a::e;\n"), [""; 0]);
    for text in
        ["use c::d;\n\nuse std::b;\n", "use std::b;\nuse c::d;\n", "use c::d;\n\nuse e::f;\n"]
    {
        assert_eq!(misplaced(text).len(), 1, "{text}");
    }
    let top = paths::top();
    let mut places: Vec<PathBuf> = ["crates", "fuzz", "tests", "xtask"].map(|d| top.join(d)).into();
    let mut wrong = Vec::new();
    while let Some(place) = places.pop() {
        let name = place.file_name().unwrap_or_default().to_string_lossy();
        if place.is_dir() && !["gen", "target", "node_modules"].contains(&&*name) {
            places.extend(std::fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().path()));
        } else if name.ends_with(".rs") {
            let text = std::fs::read_to_string(&place).unwrap();
            wrong
                .extend(misplaced(&text).iter().map(|line| format!("{}: {line}", place.display())));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
