//! `unpack`: a package from a file or a pipe, into a directory.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use spk::error::{Error, Result, display_path};
use spk::progress::{Progress, Terminal};
use spk::unpack;

/// `unpack FILE|- [DIR]`
pub fn run(file: &Path, target: Option<&Path>) -> Result<()> {
    let target = match target {
        Some(target) => target.to_owned(),
        None => default_target(file, "")?,
    };
    let (source, size) = open(file)?;
    let progress = Terminal::default();
    let unpacked = unpack::to_directory(source, size, &target, &progress)?;
    progress.end();
    super::print(format_args!("{}\n", unpacked.verified.app_id))
}

/// FILE without `.spk`, with `suffix`.
pub fn default_target(file: &Path, suffix: &str) -> Result<PathBuf> {
    let name = file.as_os_str().as_encoded_bytes();
    match file.extension() {
        Some(extension) if extension == "spk" && name != b"-" => {
            let mut name = file.with_extension("").into_os_string();
            name.push(suffix);
            Ok(PathBuf::from(name))
        }
        _ => Err(Error::Usage("name the target: spk unpack FILE DIR".into())),
    }
}

/// The package to read, and its size (0 for a pipe).
pub fn open(file: &Path) -> Result<(Box<dyn Read>, u64)> {
    if file.as_os_str() == "-" {
        return Ok((Box::new(std::io::stdin().lock()), 0));
    }
    let failed = |e| Error::io(display_path(file))(e);
    let open = File::open(file).map_err(failed)?;
    let meta = open.metadata().map_err(failed)?;
    Ok((Box::new(open), if meta.is_file() { meta.len() } else { 0 }))
}
