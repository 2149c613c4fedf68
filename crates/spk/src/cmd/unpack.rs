//! `unpack`: a package from a file or a pipe, into a directory or a tar file.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use spk::error::{Error, Result};
use spk::pack::Output;
use spk::progress::{Progress, Terminal};
use spk::sys::scratch::Scratch;
use spk::unpack;

/// `unpack FILE|- [DIR]`
pub fn run(file: &Path, target: Option<&Path>) -> Result<()> {
    let target = target_or_default(file, target, "")?;
    let (source, size) = open(file)?;
    let progress = Terminal::default();
    unpack::to_directory(source, size, &target, &progress, |unpacked| {
        progress.end();
        super::print(format_args!("{}\n", unpacked.verified.app_id))
    })
}

/// `unpack --tar FILE|- [OUT.tar|-]`
pub fn to_tar(file: &Path, target: Option<&Path>) -> Result<()> {
    let target = target_or_default(file, target, ".tar")?;
    let (source, size) = open(file)?;
    let progress = Terminal::default();
    if target.as_os_str() == "-" {
        // The bytes of the tar file are the output; the id would spoil them.
        let stdout = super::Stdout(std::io::stdout().lock());
        unpack::to_tar(source, size, Scratch::new()?, stdout, &progress)?;
        return Ok(());
    }
    if target.symlink_metadata().is_ok() {
        return Err(Error::refused(&target, "it exists"));
    }
    let output = Output::create(&target)?;
    let unpacked = unpack::to_tar(source, size, Scratch::new()?, output.file(), &progress)?;
    output.finish(|| super::print(format_args!("{}\n", unpacked.verified.app_id)))
}

fn target_or_default(file: &Path, target: Option<&Path>, suffix: &str) -> Result<PathBuf> {
    match target {
        Some(target) => Ok(target.to_owned()),
        None => default_target(file, suffix),
    }
}

/// FILE without `.spk`, with `suffix`.
fn default_target(file: &Path, suffix: &str) -> Result<PathBuf> {
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
    let failed = |e| Error::io("cannot open it")(e);
    if file.as_os_str() == "-" {
        let stdin = std::io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
        return Ok((Box::new(Patient(File::from(stdin))), 0));
    }
    // A pipe that nobody writes to yet would be waited for here, deaf to a wish to stop.
    let open = File::options()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(file)
        .map_err(failed)?;
    let meta = open.metadata().map_err(failed)?;
    if meta.is_file() {
        return Ok((Box::new(open), meta.len()));
    }
    Ok((Box::new(Patient(open)), 0))
}

/// A pipe or a terminal, on which nothing may come for long: meanwhile a wish to stop is noticed.
struct Patient(File);

/// How often that is looked for, in milliseconds.
const LOOK: u16 = 100;

impl Read for Patient {
    fn read(&mut self, room: &mut [u8]) -> std::io::Result<usize> {
        loop {
            if Terminal::interrupted() {
                return Err(std::io::Error::other(Error::Interrupted));
            }
            let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::from(LOOK)) {
                Ok(0) | Err(Errno::EINTR) => {}
                // What is wrong with it, `read` says best.
                Ok(_) | Err(_) => match self.0.read(room) {
                    Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                    other => return other,
                },
            }
        }
    }
}
