//! `verify`: checks everything that a server will check, and prints what the package says.

use std::path::Path;

use spk::error::Result;
use spk::info::{self, Info};
use spk::pgp::{Author, Helper};
use spk::progress::{Progress, Terminal};
use spk::sys::scratch::Scratch;
use spk::unpack;

/// `verify FILE|-`
pub fn run(file: &Path, json: bool) -> Result<()> {
    let helper = Helper::start()?;
    let (source, size) = super::unpack::open(file)?;
    let progress = Terminal::default();
    let unpacked = unpack::check(source, size, Scratch::new()?, &progress)?;
    progress.end();
    let (app, package) = (unpacked.verified.app_id, unpacked.verified.package_id);
    let manifest = unpacked.checked.into_manifest()?;
    let root = manifest.root()?;
    info::check_links(root)?;
    let key = match helper.check(app, root)? {
        Author::Key(key) => Some(key),
        Author::Unsigned => None,
        Author::Unchecked => {
            super::warn(format_args!(
                "the author's PGP signature was not checked: gpg is not installed, or this kernel has no Landlock to \
                 confine it with"
            ));
            None
        }
    };
    let info = Info::new(app, package, root, key.as_deref())?;
    let text = if json { info.json() } else { info.for_people() };
    super::print(format_args!("{text}"))
}
