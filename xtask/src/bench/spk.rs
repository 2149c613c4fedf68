//! Packages: packing against `tar | xz` with the same preset, dictionary, blocks and threads,
//! unpacking against `xz -d | tar x`, and the memory that the largest package takes.
//!
//! The trees are copies of this system's files, in sorted order, so that a machine measures the
//! same bytes each time. They are built below `/var/tmp` and removed at the end.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::{Goal, Row, median};
use crate::paths;

const MIB: u64 = 1 << 20;
/// Bytes of the tree that is timed.
const TIMED: u64 = 96 * MIB;
/// Bytes of the tree that memory is measured with: the format ends at 1 GiB, names included.
const LARGEST: u64 = 1016 * MIB;
const ROUNDS: usize = 3;
/// Both sides compress and decompress with so many threads.
const THREADS: usize = 2;

/// Where realistic files come from: programs, libraries, texts, sources, pictures.
const SOURCES: [&str; 4] = ["/usr/bin", "/usr/include", "/usr/lib", "/usr/share"];

/// Runs the group.
pub fn run(rows: &mut Vec<Row>) -> Result<()> {
    // A thread of its own, for it is pinned to so many cores, and with it what it starts.
    std::thread::scope(|scope| scope.spawn(|| measure(rows)).join().expect("no panic"))
}

fn measure(rows: &mut Vec<Row>) -> Result<()> {
    let threads = pin()?;
    let dir = tempfile::Builder::new().prefix("sandstorm-bench-").tempdir_in("/var/tmp")?;
    let place = Place { dir: dir.path().to_owned(), spk: paths::program("spk")? };
    timed(Command::new(&place.spk).args(["-q", "keygen"]).arg(place.path("key")))?;

    let (files, bytes) = realistic(&place.path("app"), TIMED)?;
    let what = format!("{} MiB, {files} files, xz -6, {threads} threads", bytes / MIB);
    let (mut ours, mut theirs) = (Times::default(), Times::default());
    for round in 1..=ROUNDS {
        eprintln!("  round {round} of {ROUNDS}");
        place.round(threads, &mut ours, &mut theirs)?;
    }
    let [our_size, their_size] =
        ["app.spk", "app.tar.xz"].map(|name| fs::metadata(place.path(name)).map(|m| m.len()));
    rows.extend([
        Row::new(
            format!("pack {what}"),
            "s",
            median(&mut ours.pack),
            Some(("tar | xz", median(&mut theirs.pack))),
            Goal::RatioAtMost(1.1),
        ),
        Row::new(
            "size of that package",
            "MB",
            our_size? as f64 / 1e6,
            Some(("tar | xz", their_size? as f64 / 1e6)),
            Goal::None,
        ),
        Row::new(
            format!("unpack it, verified, {threads} threads"),
            "s",
            median(&mut ours.unpack),
            Some(("xz -d | tar x", median(&mut theirs.unpack))),
            Goal::RatioAtMost(1.1),
        ),
    ]);
    rows.extend(memory(&place)?);
    Ok(())
}

/// Keeps this thread and its children on the first cores; says on how many.
fn pin() -> Result<usize> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let mut few = CpuSet::new();
    let mut count = 0;
    for core in 0..CpuSet::count() {
        if count < THREADS && allowed.is_set(core)? {
            few.set(core)?;
            count += 1;
        }
    }
    sched_setaffinity(Pid::from_raw(0), &few)?;
    Ok(count)
}

#[derive(Default)]
struct Times {
    pack: Vec<f64>,
    unpack: Vec<f64>,
}

struct Place {
    dir: PathBuf,
    spk: PathBuf,
}

impl Place {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// `spk` with its words, in the directory of the benchmark.
    fn spk(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.spk);
        command.args(words).current_dir(&self.dir);
        command
    }

    fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-ec", script]).current_dir(&self.dir);
        command
    }

    /// Each once, in turn.
    fn round(&self, threads: usize, ours: &mut Times, theirs: &mut Times) -> Result<()> {
        ours.pack.push(timed(&mut self.spk(&["pack", "app", "key", "app.spk"]))?.0);
        let xz = format!(
            "tar -C app -cf - . | xz --check=crc64 --block-size=8MiB --lzma2=preset=6,dict=4MiB \
             -T{threads} >app.tar.xz"
        );
        theirs.pack.push(timed(&mut self.shell(&xz))?.0);

        ours.unpack.push(timed(&mut self.spk(&["unpack", "app.spk", "out"]))?.0);
        fs::remove_dir_all(self.path("out"))?;
        let tar = format!("mkdir out; xz -dc -T{threads} app.tar.xz | tar -C out -xf -");
        theirs.unpack.push(timed(&mut self.shell(&tar))?.0);
        ensure!(self.path("out").read_dir()?.next().is_some(), "tar unpacked nothing");
        fs::remove_dir_all(self.path("out"))?;
        Ok(())
    }
}

/// Peak memory with a tree just under the limit: many files, and large ones.
fn memory(place: &Place) -> Result<Vec<Row>> {
    eprintln!("  memory, {} MiB", LARGEST / MIB);
    let tree = place.path("app");
    let mut left = LARGEST - TIMED;
    // Pieces of real files, over and over: their kind does not change what memory is needed, but
    // compressing a gigabyte of fresh ones would take minutes.
    let mut piece = Vec::new();
    for file in sorted(Path::new("/usr/bin"))?.iter().filter(|path| path.is_file()) {
        File::open(file)?.take(MIB - piece.len() as u64).read_to_end(&mut piece)?;
        if piece.len() as u64 == MIB {
            break;
        }
    }
    for number in 0.. {
        let size = left.min(400 * MIB);
        if size == 0 {
            break;
        }
        let mut file = File::create(tree.join(format!("large-{number}")))?;
        for _ in 0..size / MIB {
            file.write_all(&piece)?;
        }
        left -= size;
    }
    let (_, packing) = timed(&mut place.spk(&["pack", "app", "key", "large.spk"]))?;
    let (_, unpacking) = timed(&mut place.spk(&["unpack", "large.spk", "large"]))?;
    let row = |what: &str, kib: u64| {
        let what = format!("peak memory, {what} {} MiB", LARGEST / MIB);
        Row::new(what, "MB", kib as f64 * 1024.0 / 1e6, None, Goal::AtMost(200.0))
    };
    Ok(vec![row("packing", packing), row("unpacking", unpacking)])
}

/// Runs to the end: seconds, and the most memory (KiB) that it or a child of its had.
fn timed(command: &mut Command) -> Result<(f64, u64)> {
    nix::unistd::sync(); // nobody pays for what the one before left to be written
    let begin = Instant::now();
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let (status, peak) = wait(child)?;
    ensure!(status == 0, "{command:?} ended with wait status {status}");
    Ok((begin.elapsed().as_secs_f64(), peak))
}

/// Waits for a child; its wait status, and `ru_maxrss`.
fn wait(child: Child) -> Result<(i32, u64)> {
    let pid = i32::try_from(child.id())?;
    let mut status = 0;
    // SAFETY: plain integers, for which all zeros are a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to live variables of the right types. `child` is ours and was
        // not waited for; dropping it later does not wait either.
        let waited = unsafe { libc::wait4(pid, &mut status, 0, &mut usage) };
        if waited == pid {
            return Ok((status, u64::try_from(usage.ru_maxrss)?));
        }
        let error = std::io::Error::last_os_error();
        ensure!(error.kind() == std::io::ErrorKind::Interrupted, "wait4: {error}");
    }
}

/// Copies files of this system until they have `bytes` bytes; says how many there are, and their
/// bytes.
fn realistic(target: &Path, bytes: u64) -> Result<(u64, u64)> {
    for name in ["dev", "tmp", "var"] {
        fs::create_dir_all(target.join(name))?;
    }
    let (mut files, mut total) = (0, 0);
    // A part of each source, so that it is a mixture.
    for (index, source) in SOURCES.iter().enumerate() {
        let share = bytes * (index as u64 + 1) / SOURCES.len() as u64;
        copy(
            Path::new(source),
            &target.join(source.trim_start_matches('/')),
            share,
            &mut total,
            &mut files,
        )
        .with_context(|| format!("copying {source}"))?;
    }
    Ok((files, total))
}

fn copy(from: &Path, to: &Path, until: u64, total: &mut u64, files: &mut u64) -> Result<()> {
    fs::create_dir_all(to)?;
    for path in sorted(from)? {
        if *total >= until {
            break;
        }
        let meta = path.symlink_metadata()?;
        let target = to.join(path.file_name().context("a listed file has a name")?);
        if meta.is_dir() {
            copy(&path, &target, until, total, files)?;
        } else if meta.is_symlink() {
            symlink(fs::read_link(&path)?, target)?;
        // What is unusually large would be most of the tree.
        } else if meta.is_file() && meta.len() <= 4 * MIB && File::open(&path).is_ok() {
            fs::copy(&path, &target)?;
            *total += meta.size();
            *files += 1;
        }
    }
    Ok(())
}

fn sorted(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.sort();
    Ok(paths)
}
