//! Turns the `.capnp` files into the Rust of `src/gen`. Shared by `cargo xtask gen`, which writes
//! the committed files, and by the test that says they are up to date. Needs the `capnp` tool.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use capnp::schema_capnp::code_generator_request;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Names that would meet in one Rust module: type id, and what to call it instead. The annotation
/// `categoryInfo` and the struct `CategoryInfo` differ in case alone.
const RENAMED: [(u64, &str); 1] = [(0x8d51_dd23_6606_d205, "CategoryInfoAnnotation")];

/// Id of the annotation `name` by which Cap'n Proto's Rust generator is told another name.
const RUST_NAME: u64 = 0xc2fe_4c6d_1001_66d0;

/// The schema files that get Rust code, in a fixed order: public ones, our own, and the one that
/// stands in for Cap'n Proto's `persistent.capnp` (see there).
fn schema_files(schema: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for dir in ["sandstorm", "ext", "rust/capnp"] {
        let mut here: Vec<PathBuf> = std::fs::read_dir(schema.join(dir))?
            .map(|entry| entry.map(|e| e.path()))
            .collect::<std::io::Result<_>>()?;
        here.retain(|path| path.extension().is_some_and(|e| e == "capnp"));
        here.sort();
        files.extend(here);
    }
    Ok(files)
}

/// Generates `DIR/NAME_capnp.rs` in `out` for every schema file, and returns their names there.
pub fn generate(repo: &Path, out: &Path) -> Result<Vec<PathBuf>> {
    let schema = repo.join("schema");
    let rust = schema.join("rust");
    let files = schema_files(&schema)?;
    let request = Command::new("capnp")
        .env_remove("PWD")
        .args(["compile", "-o-"])
        .args([&rust, &schema].map(|dir| format!("--import-path={}", dir.display())))
        .args([&rust, &schema].map(|dir| format!("--src-prefix={}", dir.display())))
        .args(&files)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| format!("cannot run capnp: {e}; it comes with Debian's package capnproto"))?;
    if !request.status.success() {
        return Err("capnp found a fault in the schema".into());
    }
    capnpc::codegen::CodeGenerationCommand::new()
        .output_directory(out)
        .run(rename(&request.stdout)?.as_slice())?;

    let mut written = Vec::new();
    for file in files {
        let below = file.strip_prefix(&rust).or(file.strip_prefix(&schema))?;
        let stem = below.file_stem().and_then(|s| s.to_str()).ok_or("odd file name")?;
        written.push(below.with_file_name(format!("{}_capnp.rs", stem.replace('-', "_"))));
    }
    Ok(written)
}

/// The compiler's request with [`RENAMED`] marked for the generator. The public schema files stay
/// free of marks that matter to Rust alone.
fn rename(request: &[u8]) -> Result<Vec<u8>> {
    let options = capnp::message::ReaderOptions::new();
    let input = capnp::serialize::read_message(request, options)?;
    let mut output = capnp::message::Builder::new_default();
    output.set_root(input.get_root::<code_generator_request::Reader<'_>>()?)?;
    let mut nodes = output.get_root::<code_generator_request::Builder<'_>>()?.get_nodes()?;
    for index in 0..nodes.len() {
        let mut node = nodes.reborrow().get(index);
        let id = node.reborrow().get_id();
        if let Some((_, name)) = RENAMED.iter().find(|(renamed, _)| *renamed == id) {
            let mut mark = node.reborrow().init_annotations(1).get(0);
            mark.set_id(RUST_NAME);
            mark.init_value().set_text(name);
        }
    }
    Ok(capnp::serialize::write_message_to_words(&output))
}
