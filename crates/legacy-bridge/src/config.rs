//! `/sandstorm-http-bridge-config`: one framed, unpacked message, a `BridgeConfig`.
//!
//! The file comes from the package, so it is the app author's; mistakes in it end the start with a
//! sentence, as an app with the wrong permissions would be worse than none.

use std::path::Path;

use capnp::message::ReaderOptions;
use capnp::serialize;
use sandstorm_schema::grain_capnp::ui_view::view_info;
use sandstorm_schema::package_capnp::bridge_config;

use crate::error::{Error, Result};
use crate::log;

/// Where packages have the file.
pub const PATH: &str = "/sandstorm-http-bridge-config";
/// Bytes of the file: room for an icon and many translations.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// What the bridge was told about the app.
#[derive(Default)]
pub struct Config {
    /// A copy of `viewInfo` of our own making: the file's message may be read only so often, and
    /// the shell may ask any number of times.
    view_info: Option<Box<capnp::message::Builder<capnp::message::HeapAllocator>>>,
    permission_names: Vec<String>,
    api_path: Option<String>,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("permission_names", &self.permission_names)
            .field("api_path", &self.api_path)
            .finish_non_exhaustive()
    }
}

impl Config {
    /// Reads the file; a missing one means an app without permissions and API, which `expected`
    /// (started under today's name) makes worth a line in the log.
    ///
    /// # Errors
    /// [`Error::Config`] when the file is there and cannot be used.
    pub fn load(path: &Path, expected: bool) -> Result<Config> {
        let fail = |reason: String| Error::Config { path: path.display().to_string(), reason };
        match std::fs::metadata(path) {
            Ok(meta) if meta.len() > MAX_BYTES => {
                return Err(fail(format!("larger than {} MiB", MAX_BYTES >> 20)));
            }
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                if expected {
                    log!(
                        "the package has no {}; going on without permissions and API",
                        path.display()
                    );
                }
                return Ok(Config::default());
            }
            Err(e) => return Err(fail(e.to_string())),
        }
        let bytes = std::fs::read(path).map_err(|e| fail(e.to_string()))?;
        Config::parse(&bytes).map_err(|e| fail(e.to_string()))
    }

    /// Reads the bytes of the file.
    ///
    /// # Errors
    /// When they are not one whole message, or a field has a value that makes no sense.
    pub fn parse(bytes: &[u8]) -> Result<Config, capnp::Error> {
        let mut options = ReaderOptions::new();
        // Every byte may be visited some times, but not without end.
        options.traversal_limit_in_words(Some(bytes.len() / 2 + 1024)).nesting_limit(32);
        let mut rest = bytes;
        let message = serialize::read_message(&mut rest, options)?;
        if !rest.is_empty() {
            return Err(capnp::Error::failed("there are bytes after the message".into()));
        }
        let config: bridge_config::Reader<'_> = message.get_root()?;
        let mut permission_names = Vec::new();
        for permission in config.get_view_info()?.get_permissions()? {
            let name = permission.get_name()?.to_str()?;
            if name.contains(',') || name.chars().any(char::is_control) {
                return Err(capnp::Error::failed(format!(
                    "permission {name:?}: a name cannot have commas or control characters"
                )));
            }
            permission_names.push(name.to_owned());
        }
        let api_path = config.get_api_path()?.to_str()?;
        let api_path = match api_path {
            "" => None,
            path if path.starts_with('/')
                && path.ends_with('/')
                && path.bytes().all(|b| b > b' ' && b < 0x7f) =>
            {
                Some(path.to_owned())
            }
            path => {
                return Err(capnp::Error::failed(format!(
                    "apiPath {path:?} must begin and end with a slash and be percent-encoded"
                )));
            }
        };
        note_what_is_ignored(config)?;
        let mut view_info = Box::new(capnp::message::Builder::new_default());
        view_info.set_root(config.get_view_info()?)?;
        Ok(Config { view_info: Some(view_info), permission_names, api_path })
    }

    /// The names of the permissions, in the order of their bits.
    pub fn permission_names(&self) -> &[String] {
        &self.permission_names
    }

    /// The path below which programs with a token find the app's API: begins and ends with a slash.
    pub fn api_path(&self) -> Option<&str> {
        self.api_path.as_deref()
    }

    /// What `getViewInfo` answers, if the package says anything.
    ///
    /// # Errors
    /// Never in practice: the message is our own.
    pub fn view_info(&self) -> Result<Option<view_info::Reader<'_>>, capnp::Error> {
        self.view_info.as_ref().map(|message| message.get_root_as_reader()).transpose()
    }
}

/// One line for all fields that this bridge does not act on yet.
fn note_what_is_ignored(config: bridge_config::Reader<'_>) -> Result<(), capnp::Error> {
    let mut ignored = Vec::new();
    if config.get_expect_app_hooks() {
        ignored.push("expectAppHooks");
    }
    if config.get_save_identity_caps() {
        ignored.push("saveIdentityCaps");
    }
    if !config.get_powerbox_apis()?.is_empty() {
        ignored.push("powerboxApis");
    }
    if !ignored.is_empty() {
        log!("not supported yet and ignored: {}", ignored.join(", "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use capnp::message::Builder;
    use proptest::prelude::*;

    fn bytes(fill: impl FnOnce(bridge_config::Builder<'_>)) -> Vec<u8> {
        let mut message = Builder::new_default();
        fill(message.init_root());
        serialize::write_message_to_words(&message)
    }

    #[test]
    fn may_be_asked_any_number_of_times() {
        let config = Config::parse(&bytes(|config| {
            let mut permissions = config.init_view_info().init_permissions(3);
            permissions.reborrow().get(1).set_name("edit");
        }))
        .unwrap();
        for _ in 0..10_000 {
            let mut copy = Builder::new_default();
            copy.set_root(config.view_info().unwrap().unwrap()).unwrap();
        }
        assert_eq!(config.permission_names(), ["", "edit", ""]);
    }

    #[test]
    fn an_empty_message_is_an_app_without_anything() {
        let config = Config::parse(&bytes(|_| {})).unwrap();
        assert_eq!((config.permission_names().len(), config.api_path()), (0, None));
    }

    proptest! {
        #[test]
        fn damaged_files_are_refused_or_read(
            at in 0usize..400,
            value in any::<u8>(),
            cut in 0usize..400,
        ) {
            let mut file = bytes(|mut config| {
                config.set_api_path("/api/");
                let mut permissions = config.init_view_info().init_permissions(2);
                permissions.reborrow().get(0).set_name("view");
            });
            let (at, cut) = (at % file.len(), cut % file.len());
            file[at] = value;
            let _ = Config::parse(&file);
            let _ = Config::parse(&file[..cut]);
        }

        #[test]
        fn arbitrary_bytes_are_no_danger(file in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Config::parse(&file);
        }
    }
}
