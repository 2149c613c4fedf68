//! The schema against the committed tables, and the committed tables against the facts they were
//! copied from. After an
//! intended change, the ignored test `prints_details` prints the tables that are ours.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::model::Schema;
use super::rows;

/// The committed tables.
fn tables() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire")
}

fn read(path: PathBuf) -> String {
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Compares rows with a table, whose first line is its heading: what is in one only, marked `+`
/// (schema) or `-` (table).
fn differences(mut schema: Vec<String>, table: &str) -> Vec<String> {
    let mut lines: Vec<&str> = table.lines().skip(1).collect();
    lines.sort_unstable();
    schema.sort_unstable();
    let (all_lines, all_rows) = (lines.len(), schema.len());
    let lines: BTreeSet<&str> = lines.into_iter().collect();
    let rows: BTreeSet<&str> = schema.iter().map(String::as_str).collect();
    assert_eq!((lines.len(), rows.len()), (all_lines, all_rows), "a row stands there twice");
    let added = rows.difference(&lines).map(|row| format!("+ {row}"));
    let missing = lines.difference(&rows).map(|row| format!("- {row}"));
    added.chain(missing).collect()
}

/// All differences of the schema in `dir` from the tables in `tables`.
fn compare(dir: &Path, tables: &Path) -> Result<Vec<String>, String> {
    let schema = Schema::compile(dir, "sandstorm")?;
    let nodes = schema.nodes();
    let mut all = differences(rows::wire(&nodes), &read(tables.join("wire.tsv")));
    all.extend(differences(rows::system(&nodes), &read(tables.join("supervisor.tsv"))));
    all.extend(differences(rows::details(&nodes), &read(tables.join("details.tsv"))));
    Ok(all)
}

#[test]
fn the_schema_is_what_the_tables_say() {
    let differences = compare(&super::repo().join("schema"), &tables()).unwrap();
    assert!(differences.is_empty(), "schema (+) and tables (-):\n{}", differences.join("\n"));
}

/// Our own interfaces: a bridge inside an old package meets a new shell, and a supervisor outlives
/// the shell that started it, so they must not change either. What is new goes into `ext.tsv` too.
#[test]
fn our_own_interfaces_only_grow() {
    let schema = Schema::compile(&super::repo().join("schema"), "ext").unwrap();
    let found = differences(rows::wire(&schema.nodes()), &read(tables().join("ext.tsv")));
    assert!(found.is_empty(), "schema/ext (+) and ext.tsv (-):\n{}", found.join("\n"));
}

/// The tables were copied from the project's collection of facts. Where that lies beside the
/// checkout, the copy must still be equal.
#[test]
fn the_tables_are_a_true_copy() {
    let facts = super::repo().join("../shared/wire");
    if !facts.is_dir() {
        crate::skip!("there is no {} to compare with", facts.display());
    }
    for name in ["wire.tsv", "supervisor.tsv"] {
        assert!(read(facts.join(name)) == read(tables().join(name)), "{name} was changed");
    }
}

/// A copy of `from` with everything below it; links are followed.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            std::fs::copy(path, to).unwrap();
        }
    }
}

/// Changes that compile, and that a peer would notice: each must be found.
const CHANGES: &[(&str, &str, &str)] = &[
    // A type id, a file id.
    ("util.capnp", "@0x98f424ac606042e0", "@0x98f424ac606042e1"),
    ("util.capnp", "@0xecd50d792c3d9992", "@0xecd50d792c3d9993"),
    // A kind: an enum and a struct of no size look alike on the wire of a null field.
    ("ip.capnp", "tls @1 :Void", "tls @1 :Bool"),
    // Two ordinals change places, of fields, methods and enumerants.
    ("email.capnp", "messageId @6 :Text", "messageId @9 :Text"),
    ("grain.capnp", "  close @5 ", "  close @7 "),
    ("identity.capnp", "male @1;", "male @3;"),
    // Types: of a field, of an argument, of a list's element, of a brand.
    ("package.capnp", "appVersion @4 :UInt32", "appVersion @4 :Int32"),
    ("web-session.capnp", "ignoreBody :Bool", "ignoreBody :UInt8"),
    ("grain.capnp", "credentialIds @1 :List(Text)", "credentialIds @1 :List(Data)"),
    ("grain.capnp", "(name :Assignable(LocalizedText))", "(name :Assignable(Text))"),
    ("grain.capnp", "Assignable(List(Bool)).Getter", "Assignable(List(Bool)).Setter"),
    ("supervisor.capnp", "Persistent(Data, ApiTokenOwner)", "Persistent(Text, ApiTokenOwner)"),
    (
        "grain.capnp",
        "restore @4 (token :Data) -> (cap :Capability)",
        "restore @4 (token :Data) -> (cap :AnyPointer)",
    ),
    // Streaming or not.
    ("util.capnp", "write @0 (data :Data) -> stream", "write @0 (data :Data) -> ()"),
    // Unions: a member leaves, or what was a group of two becomes a union.
    (
        "email.capnp",
        "text @10 :Text;\n  html @11 :Text;",
        "union { text @10 :Text;\n  html @11 :Text; }",
    ),
    (
        "web-session.capnp",
        "path @6 :Text;\n    # Null: as the browser's rule says.",
        "path @6 :Int32;",
    ),
    // Defaults, constants, lists of constants.
    ("web-session.capnp", "contentCoding @0 :Text", "contentCoding @0 :Text = \"x\""),
    ("web-session.capnp", "qValue @1 :Float32 = 1.0", "qValue @1 :Float32"),
    ("grain.capnp", "newTab :Bool = false", "newTab :Bool = true"),
    ("package.capnp", "1048576", "1048577"),
    ("package.capnp", "8f c6 cd", "8f c6 ce"),
    ("web-session.capnp", "\"oc-fileid\",", "\"oc-fileids\","),
    // What an interface extends, what is generic.
    ("api-session.capnp", "extends(WebSession)", ""),
    (
        "email.capnp",
        "extends(VerifiedEmail, EmailSendPort)",
        "extends(EmailSendPort, VerifiedEmail)",
    ),
    ("grain.capnp", "(AppObjectId) extends(UiView) {", "(AppObjectId, More) extends(UiView) {"),
    // Annotations.
    ("web-session.capnp", "id = 404", "id = 410"),
    (
        "package.capnp",
        "osiInfo @0x9476412d0315d869 (enumerant)",
        "osiInfo @0x9476412d0315d869 (enumerant, field)",
    ),
    ("package.capnp", "(id = \"MIT\"", "(id = \"X11\""),
    // A field more, a method more.
    ("util.capnp", "  value @1 :Text;\n}", "  value @1 :Text;\n  more @2 :Text;\n}"),
    ("util.capnp", "  ping @0 () -> ();", "  ping @0 () -> (); pong @1 () -> ();"),
];

#[test]
fn every_change_of_the_schema_is_found() {
    for (file, from, to) in CHANGES {
        let dir = tempfile::tempdir().unwrap();
        copy(&super::repo().join("schema/sandstorm"), &dir.path().join("sandstorm"));
        let path = dir.path().join("sandstorm").join(file);
        let text = read(path.clone());
        assert!(text.contains(from), "{file} no longer has {from:?}: mend this test");
        let mut changed = text.replacen(from, to, 1);
        // Where a number was taken from another declaration, that one gets the first one's.
        if let Some(other) = swapped(&text, from, to) {
            changed = other;
        }
        std::fs::write(&path, changed).unwrap();
        match compare(dir.path(), &tables()) {
            Ok(differences) => assert!(!differences.is_empty(), "{file}: {from:?} -> {to:?}"),
            Err(message) => panic!("{file}: {from:?} -> {to:?} does not compile:\n{message}"),
        }
    }
}

/// The text with two ordinals exchanged, when the change is that `x @A` becomes `x @B`.
fn swapped(text: &str, from: &str, to: &str) -> Option<String> {
    let ordinal = |text: &str| -> Option<(usize, usize)> {
        let at = text.find('@')? + 1;
        let digits = text[at..].bytes().take_while(u8::is_ascii_digit).count();
        (digits > 0 && !text[at..].starts_with("0x")).then_some((at, at + digits))
    };
    let ((a, b), (c, d)) = (ordinal(from)?, ordinal(to)?);
    if from[a..b] == to[c..d] || from[..a] != to[..c] {
        return None;
    }
    // The other declaration is the nearest one after this with the number taken.
    let start = text.find(from)? + from.len();
    let taken = format!("@{}", &to[c..d]);
    let other = start + text[start..].find(&taken)?;
    let mut changed = text.to_owned();
    changed.replace_range(other..other + taken.len(), &format!("@{}", &from[a..b]));
    Some(changed.replacen(from, to, 1))
}

#[test]
fn every_change_of_a_table_is_found() {
    let schema = Schema::compile(&super::repo().join("schema"), "sandstorm").unwrap();
    let nodes = schema.nodes();
    let tables = [
        ("wire.tsv", rows::wire(&nodes)),
        ("supervisor.tsv", rows::system(&nodes)),
        ("details.tsv", rows::details(&nodes)),
    ];
    for (name, rows) in tables {
        let table = read(self::tables().join(name));
        let lines: Vec<&str> = table.lines().collect();
        for at in 1..lines.len() {
            let mut fewer = lines.clone();
            fewer.remove(at);
            assert_eq!(differences(rows.clone(), &fewer.join("\n")).len(), 1, "{name} line {at}");
            for (column, cell) in lines[at].split('\t').enumerate() {
                let mut cells: Vec<&str> = lines[at].split('\t').collect();
                let other = format!("{cell}0");
                cells[column] = &other;
                let (mut edited, line) = (lines.clone(), cells.join("\t"));
                edited[at] = &line;
                let found = differences(rows.clone(), &edited.join("\n"));
                assert_eq!(found.len(), 2, "{name} line {at} column {column}");
            }
        }
    }
}

/// After an intended change: prints what `details.tsv` and `ext.tsv` should say. Review it against
/// the format's description before committing.
#[test]
#[ignore = "a tool, not a test"]
fn prints_details() {
    let compile = |part| Schema::compile(&super::repo().join("schema"), part).unwrap();
    println!("kind\tname\tvalue");
    rows::details(&compile("sandstorm").nodes()).iter().for_each(|row| println!("{row}"));
    println!("file\ttype id\tkind\tname\tordinal\ttype\tlayout");
    rows::wire(&compile("ext").nodes()).iter().for_each(|row| println!("{row}"));
}
