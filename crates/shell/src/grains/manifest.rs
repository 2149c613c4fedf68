//! The commands in an unpacked package's manifest, read anew at each start: an operator's edit
//! under `apps/` takes effect then.
//!
//! The file is hostile: bounded, read without following links, parsed with limits.

use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use sandstorm_schema::package_capnp::manifest;

use crate::error::{Error, Result};
use crate::ids::PackageId;

/// 2^20 words: the format's own bound.
const MAX_BYTES: u64 = 8 << 20;

/// What the supervisor is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    pub argv: Vec<String>,
    /// `NAME=VALUE`, the whole environment.
    pub environ: Vec<String>,
}

/// Which of the manifest's commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// That of an action, for a grain that never ran.
    Action(usize),
    Continue,
}

/// Reads the command from `HOME/apps/PACKAGE/sandstorm-manifest`.
pub fn command(home: &Path, package: &PackageId, which: Which) -> Result<Command> {
    let path = home.join("apps").join(package.to_string()).join("sandstorm-manifest");
    let show = || path.display().to_string();
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(&path)
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::Internal(format!(
                "the app's files are gone ({} is missing); install the app again",
                show()
            )),
            _ => Error::io(show())(e),
        })?;
    let metadata = file.metadata().map_err(Error::io(show()))?;
    if !metadata.is_file() || metadata.len() > MAX_BYTES {
        return Err(Error::Internal(format!("{} is no manifest", show())));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(Error::io(show()))?;
    parse(&bytes, which).map_err(|e| Error::Internal(format!("{}: {e}", show())))
}

fn parse(mut bytes: &[u8], which: Which) -> std::result::Result<Command, String> {
    let mut options = capnp::message::ReaderOptions::new();
    options.traversal_limit_in_words(Some(4 << 20)).nesting_limit(32);
    let say = |e: capnp::Error| e.to_string();
    let message =
        capnp::serialize::read_message_from_flat_slice(&mut bytes, options).map_err(say)?;
    let manifest = message.get_root::<manifest::Reader<'_>>().map_err(say)?;
    let command = match which {
        Which::Continue => manifest.get_continue_command().map_err(say)?,
        Which::Action(index) => {
            let actions = manifest.get_actions().map_err(say)?;
            let index = u32::try_from(index).ok().filter(|&index| index < actions.len());
            let index = index
                .ok_or_else(|| format!("the app has {} actions, numbered from 0", actions.len()))?;
            actions.get(index).get_command().map_err(say)?
        }
    };
    let text =
        |text: capnp::Result<capnp::text::Reader<'_>>| -> std::result::Result<String, String> {
            let text = text.map_err(say)?.to_string().map_err(|e| e.to_string())?;
            if text.contains('\0') {
                Err("a word of the command has a NUL".into())
            } else {
                Ok(text)
            }
        };
    let mut argv = Vec::new();
    let program = text(command.get_deprecated_executable_path())?;
    if !program.is_empty() {
        argv.push(program);
    }
    for word in command.get_argv().map_err(say)? {
        argv.push(text(word)?);
    }
    if argv.first().is_none_or(String::is_empty) {
        return Err("the manifest names no program to run".into());
    }
    let mut environ = Vec::new();
    for pair in command.get_environ().map_err(say)? {
        let (key, value) = (text(pair.get_key())?, text(pair.get_value())?);
        if key.is_empty() || key.contains('=') {
            return Err(format!("the manifest sets a variable called {key:?}"));
        }
        environ.push(format!("{key}={value}"));
    }
    Ok(Command { argv, environ })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(fill: impl FnOnce(manifest::Builder<'_>)) -> Vec<u8> {
        let mut message = capnp::message::Builder::new_default();
        fill(message.init_root());
        capnp::serialize::write_message_to_words(&message)
    }

    #[test]
    fn old_and_new_spelling_of_a_command() {
        let bytes = manifest(|m| {
            let mut m = m;
            let mut c = m.reborrow().init_continue_command();
            c.set_deprecated_executable_path("/bridge");
            c.reborrow().init_argv(1).set(0, "8000");
            let mut pair = c.init_environ(1).get(0);
            pair.set_key("A");
            pair.set_value("b=c");
            let mut c = m.init_actions(1).get(0).init_command();
            c.reborrow().init_argv(2).set(0, "/app");
        });
        let c = parse(&bytes, Which::Continue).unwrap();
        assert_eq!(c.argv, ["/bridge", "8000"]);
        assert_eq!(c.environ, ["A=b=c"]);
        assert_eq!(parse(&bytes, Which::Action(0)).unwrap().argv, ["/app", ""]);
        assert!(parse(&bytes, Which::Action(1)).unwrap_err().contains("1 actions"));
    }

    #[test]
    fn hostile_files_are_errors() {
        assert!(parse(&manifest(|_| ()), Which::Continue).is_err());
        assert!(parse(b"", Which::Continue).is_err());
        assert!(parse(&[255; 64], Which::Continue).is_err());
        let bytes = manifest(|m| m.init_continue_command().init_argv(1).set(0, "/a\0b"));
        assert!(parse(&bytes, Which::Continue).is_err());
    }
}
