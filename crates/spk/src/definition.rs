//! Reads a package definition (`sandstorm-pkgdef.capnp`) with the `capnp` tool and collects the
//! tree that it names. A definition is the author's own file: trusted, but checked for mistakes.

use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use capnp::message::{Builder, Reader, ReaderOptions};
use sandstorm_schema::ids::AppId;
use sandstorm_schema::package_capnp::{bridge_config, manifest, package_definition};

use crate::error::{Error, Result, display_bytes, display_path};
use crate::format::frame::{self, OwnedFrame};
use crate::format::limits;
use crate::tree::disk::{Forbidden, Seen, look};
use crate::tree::source_map::{Collector, Mapping, package_path};
use crate::tree::{Kind, Node, Tree};

/// Where a definition is looked for when nobody names one.
pub const DEFAULT: &str = "sandstorm-pkgdef.capnp:pkgdef";

/// Words of a definition, icons and screenshots included.
const MAX_WORDS: u64 = 16 << 20;

/// A definition, evaluated.
pub struct Definition {
    message: Reader<OwnedFrame>,
    /// The directory of its file: what relative source paths are against.
    base: PathBuf,
}

impl Definition {
    /// Evaluates `FILE:NAME`. `imports` come before the places where schemas are installed.
    ///
    /// # Errors
    /// No `capnp` tool, or what it said about the file.
    pub fn load(place: &str, imports: &[PathBuf]) -> Result<Definition> {
        let (file, name) = place.rsplit_once(':').ok_or_else(|| {
            Error::Usage(format!("{place}: name the constant too, as in {DEFAULT}"))
        })?;
        if !Path::new(file).is_file() {
            return Err(Error::Definition(format!(
                "{file}: no such file; `spk init` writes one, `-p FILE:NAME` names another"
            )));
        }
        let frame = frame::read(&mut &evaluate(file, name, imports)?[..], MAX_WORDS)
            .map_err(|fault| Error::Definition(format!("what capnp wrote: {fault}")))?;
        let options = ReaderOptions {
            traversal_limit_in_words: Some(8 * MAX_WORDS as usize),
            nesting_limit: 64,
        };
        let base = Path::new(file).parent().unwrap_or(Path::new("")).to_owned();
        Ok(Definition { message: Reader::new(frame, options), base })
    }

    fn root(&self) -> Result<package_definition::Reader<'_>> {
        self.message.get_root().map_err(malformed)
    }

    /// The app's id.
    ///
    /// # Errors
    /// It is missing or not one.
    pub fn app_id(&self) -> Result<AppId> {
        let text = self.root()?.get_id().map_err(malformed)?;
        text.to_str().ok().and_then(|text| text.parse().ok()).ok_or_else(|| {
            Error::Definition(format!("id: `{}` is no app id", display_bytes(text.as_bytes())))
        })
    }

    /// Collects everything that is named.
    ///
    /// # Errors
    /// Something is missing or cannot be packed.
    pub fn tree(&self, forbidden: &Forbidden) -> Result<Tree> {
        let root = self.root()?;
        let search = self.search_path()?;
        let mut collector = Collector::new(&search, forbidden)?;
        collector.check_sources()?;
        self.generate(&mut collector)?;
        for path in texts(root.get_always_include().map_err(malformed)?)? {
            collector.included(&path)?;
        }
        let list = root.get_file_list().map_err(malformed)?;
        if !list.as_bytes().is_empty() {
            // Against the current directory, unlike source paths: that is what authors' scripts expect.
            let file = Path::new(std::ffi::OsStr::from_bytes(list.as_bytes()));
            for path in read_list(file)? {
                collector.listed(&path)?;
            }
        }
        Ok(collector.finish())
    }

    fn search_path(&self) -> Result<Vec<Mapping>> {
        let map = self.root()?.get_source_map().map_err(malformed)?;
        let mut search = Vec::new();
        for mapping in map.get_search_path().map_err(malformed)? {
            let package = mapping.get_package_path().map_err(malformed)?;
            let source = mapping.get_source_path().map_err(malformed)?;
            let mut hide = Vec::new();
            for path in texts(mapping.get_hide_paths().map_err(malformed)?)? {
                hide.push(package_path(&path)?.join(&b'/'));
            }
            search.push(Mapping {
                package: package_path(package.as_bytes())?,
                // An absolute path replaces the base.
                source: self.base.join(std::ffi::OsStr::from_bytes(source.as_bytes())),
                hide: hide.into_iter().filter(|hide| !hide.is_empty()).collect(),
            });
        }
        for mapping in &mut search {
            if mapping.source.as_os_str().is_empty() {
                mapping.source = PathBuf::from(".");
            }
        }
        Ok(search)
    }

    /// The manifest and, for an app behind it, the bridge and its configuration. They come with the
    /// definition, so nobody has to list them.
    fn generate(&self, collector: &mut Collector<'_>) -> Result<()> {
        let root = self.root()?;
        if !root.has_manifest() {
            return Err(Error::Definition("it has no manifest".into()));
        }
        let manifest = root.get_manifest().map_err(malformed)?;
        check(manifest)?;
        let mut message = Builder::new_default();
        message.set_root(manifest).map_err(malformed)?;
        collector.generated(framed(limits::MANIFEST_NAME, &message)?)?;

        if root.has_bridge_config() || runs_bridge(manifest)? {
            let mut message = Builder::new_default();
            if root.has_bridge_config() {
                let config = root.get_bridge_config().map_err(malformed)?;
                message.set_root(config).map_err(malformed)?;
            } else {
                message.init_root::<bridge_config::Builder<'_>>();
            }
            collector.generated(framed(limits::BRIDGE_CONFIG_NAME, &message)?)?;
            collector.generated(bridge()?)?;
        }
        Ok(())
    }
}

/// What every server insists on.
fn check(manifest: manifest::Reader<'_>) -> Result<()> {
    let wrong = |text: &str| Err(Error::Definition(format!("manifest: {text}")));
    let (least, most) = (manifest.get_min_api_version(), manifest.get_max_api_version());
    if least > most {
        return wrong("minApiVersion is greater than maxApiVersion");
    }
    if most > limits::API_VERSION {
        return wrong(&format!("maxApiVersion is greater than {}", limits::API_VERSION));
    }
    if !manifest.has_app_title() {
        return wrong("appTitle is missing");
    }
    if !manifest.has_app_marketing_version() {
        return wrong("appMarketingVersion is missing");
    }
    crate::info::check_links(manifest)
}

fn runs_bridge(manifest: manifest::Reader<'_>) -> Result<bool> {
    let command = manifest.get_continue_command().map_err(malformed)?;
    let argv = command.get_argv().map_err(malformed)?;
    if argv.is_empty() {
        return Ok(false);
    }
    let program = argv.get(0).map_err(malformed)?;
    let name = limits::BRIDGE_NAME.as_bytes();
    Ok([&b""[..], b"/", b"./"]
        .iter()
        .any(|start| program.as_bytes().strip_prefix(*start) == Some(name)))
}

fn framed(name: &str, message: &Builder<capnp::message::HeapAllocator>) -> Result<Node> {
    let bytes = capnp::serialize::write_message_to_words(message);
    if bytes.len() as u64 > 8 * limits::MAX_MANIFEST_WORDS {
        return Err(Error::Definition(format!(
            "{name}: {} bytes, servers take {}; make icons and screenshots smaller",
            bytes.len(),
            8 * limits::MAX_MANIFEST_WORDS
        )));
    }
    Ok(Node::generated(name.as_bytes(), bytes))
}

/// The bridge program of this installation.
fn bridge() -> Result<Node> {
    let ours = own_directory()?;
    let path = ours.join("legacy-bridge");
    let name = limits::BRIDGE_NAME.as_bytes();
    let mut warnings = Vec::new();
    match look(&path, name, name, &Forbidden::default(), &mut warnings) {
        Ok(Seen::Node(Node { name, kind: Kind::File { size, source, .. }, .. })) => {
            // Its time says nothing about the app.
            Ok(Node { name, mtime_ns: 0, kind: Kind::File { executable: true, size, source } })
        }
        _ => Err(Error::Definition(format!(
            "the app runs behind {}, and there is no program {} to pack for it",
            limits::BRIDGE_NAME,
            display_path(&path)
        ))),
    }
}

/// Runs `capnp eval`.
fn evaluate(file: &str, name: &str, imports: &[PathBuf]) -> Result<Vec<u8>> {
    let mut command = Command::new("capnp");
    command.arg("eval").arg("-b");
    for dir in imports.iter().cloned().chain(installed_schemas()?) {
        command.arg("-I").arg(dir);
    }
    // A file name must not look like an option.
    let file = if file.starts_with('-') { format!("./{file}") } else { file.to_owned() };
    // A PWD that does not fit makes it print a warning.
    let child = command.args([&file, name]).env_remove("PWD").stdin(Stdio::null()).output();
    let output = match child {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::Definition(
                "the tool `capnp` is not installed; on Debian: apt install capnproto".into(),
            ));
        }
        other => other.map_err(Error::io("capnp"))?,
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        // The first error is the cause, what follows it mostly the consequence.
        let lines = said.lines().map(str::trim).filter(|line| !line.contains("warning:"));
        let first: Vec<&str> = lines.take(2).collect();
        let said = display_bytes(first.join("; ").as_bytes());
        // Nothing else is wrong with the file: a name that was mistyped.
        if first.first().is_some_and(|line| line.ends_with(&format!("'{name}' is not defined."))) {
            return Err(Error::Definition(format!("{file}: there is no constant `{name}` in it")));
        }
        // Its own words do not say where it looked.
        return Err(Error::Definition(if said.contains("Import failed: /sandstorm/") {
            format!(
                "{said}: the schemas are neither in include/ beside this program's directory nor \
                 in /usr/local/include or /usr/include; name their directory with -I"
            )
        } else {
            said
        }));
    }
    Ok(output.stdout)
}

/// Where `/sandstorm/package.capnp` may be: beside this installation, then where compilers look.
fn installed_schemas() -> Result<Vec<PathBuf>> {
    let ours = own_directory()?;
    let mut places = vec![ours.join("../include")];
    // A checkout has its programs in bin/ or below target/.
    places.extend(ours.ancestors().skip(1).take(4).map(|dir| dir.join("schema")));
    places.retain(|place| place.join("sandstorm/package.capnp").is_file());
    places.extend(["/usr/local/include", "/usr/include"].map(PathBuf::from));
    places.retain(|place| place.is_dir());
    Ok(places)
}

fn own_directory() -> Result<PathBuf> {
    let program = std::env::current_exe().map_err(Error::io("where this program is"))?;
    Ok(program.parent().unwrap_or(Path::new("/")).to_owned())
}

/// A file list: one path a line, `#` begins a comment.
fn read_list(file: &Path) -> Result<Vec<Vec<u8>>> {
    let mut text = Vec::new();
    match std::fs::File::open(file) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::Definition(format!(
                "{}: the file list is missing; list the app's files in it, one a line, or use \
                 alwaysInclude",
                display_path(file)
            )));
        }
        other => other
            .and_then(|mut file| file.read_to_end(&mut text))
            .map_err(Error::io(display_path(file)))?,
    };
    let lines = text.split(|b| *b == b'\n').map(|line| {
        let end = line.iter().position(|b| *b == b'#').unwrap_or(line.len());
        line[..end].trim_ascii().to_vec()
    });
    Ok(lines.filter(|line| !line.is_empty()).collect())
}

fn texts(list: capnp::text_list::Reader<'_>) -> Result<Vec<Vec<u8>>> {
    list.iter().map(|text| Ok(text.map_err(malformed)?.as_bytes().to_vec())).collect()
}

fn malformed(error: capnp::Error) -> Error {
    Error::Definition(error.to_string())
}
