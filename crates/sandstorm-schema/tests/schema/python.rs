//! The schema that `tests/python/wire_to_capnp.py` makes from the tables, by which the independent
//! client speaks: it must say again what the tables say, or that client would prove nothing.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use super::model::Schema;
use super::rows;

/// Rows without the file's name, which the generator gives up, and without the files themselves;
/// as `kind`, `id`, `name` and what follows.
fn without_files<'a>(rows: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    rows.into_iter()
        .filter(|row| row.split('\t').nth(2) != Some("file"))
        .map(|row| row.split_once('\t').expect("seven columns").1.replace("StreamResult", "()"))
        .collect()
}

#[test]
fn the_python_generators_schema_is_the_tables() {
    let tables = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire");
    let made = Command::new("python3")
        .arg(super::repo().join("tests/python/wire_to_capnp.py"))
        .args([tables.join("wire.tsv"), tables.join("supervisor.tsv")])
        .output()
        .expect("cannot run python3: install Debian's package python3");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let dir = tempfile::tempdir().unwrap();
    for name in ["wire.capnp", "supervisor.capnp"] {
        // Once under each name, since the name decides in which notation rows are written.
        let part = dir.path().join(name.trim_end_matches(".capnp"));
        std::fs::create_dir(&part).unwrap();
        std::fs::write(part.join(name), &made.stdout).unwrap();
    }

    let as_apps_see_it = Schema::compile(dir.path(), "wire").unwrap();
    let as_the_system_sees_it = Schema::compile(dir.path(), "supervisor").unwrap();
    let made: BTreeSet<String> = without_files(
        rows::wire(&as_apps_see_it.nodes())
            .iter()
            .chain(&rows::system(&as_the_system_sees_it.nodes()))
            .map(String::as_str),
    );
    for name in ["wire.tsv", "supervisor.tsv"] {
        let table = std::fs::read_to_string(tables.join(name)).unwrap();
        let mut count = 0;
        for row in without_files(table.lines().skip(1)) {
            // Lists of constants have no value in the tables and are left out.
            if row.contains("\tconst\t") && row.contains("\tList(Text)\t") {
                continue;
            }
            assert!(made.contains(&row), "{name}: {row}");
            count += 1;
        }
        assert!(count > 60, "{name} has {count} rows");
    }
}
