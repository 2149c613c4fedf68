//! Reads a `.tar` file where a directory would stand. Only its headers are read; contents are
//! taken from their place in it later, so memory does not grow with it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

use tar::{Archive, Entry, EntryType};

use super::disk::DiskFile;
use super::{Kind, Node, Source, Tree, components};
use crate::error::{Error, Result, SourceFault, display_bytes, display_path};
use crate::format::archive::check_link;
use crate::format::limits::{MAX_DEPTH, MAX_ENTRIES, MAX_FILE_BYTES};

/// The file that contents come from, and how to notice that it changed.
#[derive(Debug)]
pub struct TarFile {
    pub file: File,
    pub disk: DiskFile,
}

#[derive(Default)]
struct Directory {
    mtime_ns: i64,
    entries: BTreeMap<Vec<u8>, Item>,
}

enum Item {
    Directory(Directory),
    Leaf { mtime_ns: i64, kind: Kind },
}

/// Reads the tree in a tar file.
///
/// # Errors
/// It is not a tar file, or holds what no package can hold, by the entry's path.
pub fn scan(path: &Path) -> Result<Tree> {
    let disk = DiskFile::new(path)?;
    let file = disk.open()?;
    refuse_compressed(path, &file)?;
    let mut root = Directory::default();
    let mut warnings = Vec::new();
    let malformed = |e: std::io::Error| Error::Source {
        path: display_path(path),
        fault: SourceFault::Tar(format!("not a tar file that can be read: {e}")),
    };
    let length = file.metadata().map_err(malformed)?.len();
    let mut archive = Archive::new(&file);
    let mut count = 0;
    for entry in archive.entries_with_seek().map_err(malformed)? {
        let mut entry = entry.map_err(malformed)?;
        count += 1;
        if count > 2 * MAX_ENTRIES {
            return Err(Error::source(&entry.path_bytes(), SourceFault::TooMany));
        }
        add(&mut root, &mut entry, length, &mut warnings)?;
    }
    if count == 0 {
        return Err(malformed(std::io::ErrorKind::UnexpectedEof.into()));
    }
    let tar = Some(TarFile { file, disk });
    Ok(Tree { root: finish(root), tar, warnings })
}

fn refuse_compressed(path: &Path, mut file: &File) -> Result<()> {
    let mut start = [0; 6];
    let read = file.read_exact(&mut start).and_then(|()| file.rewind());
    let kinds: [(&[u8], &str); 4] = [
        (b"\x1f\x8b", "gzip -d"),
        (b"\xfd7zXZ\0", "xz -d"),
        (b"BZh", "bzip2 -d"),
        (b"\x28\xb5\x2f\xfd", "zstd -d"),
    ];
    match kinds.iter().find(|(magic, _)| read.is_ok() && start.starts_with(magic)) {
        Some((_, tool)) => Err(Error::Source {
            path: display_path(path),
            fault: SourceFault::Tar(format!("it is compressed; decompress it first: {tool}")),
        }),
        None => Ok(()),
    }
}

fn add(
    root: &mut Directory,
    entry: &mut Entry<'_, &File>,
    length: u64,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let shown = entry.path_bytes().into_owned();
    let refuse = |fault: SourceFault| Error::source(&shown, fault);
    let said = |text: &str| Error::source(&shown, SourceFault::Tar(text.to_owned()));
    let kind = entry.header().entry_type();
    if matches!(kind, EntryType::XGlobalHeader) {
        return Ok(());
    }
    let (mut mtime_ns, mut sparse) = (header_time(entry.header().as_bytes()), false);
    if let Some(extensions) = entry.pax_extensions().map_err(|e| said(&e.to_string()))? {
        for record in extensions {
            let record = record.map_err(|e| said(&e.to_string()))?;
            match record.key_bytes() {
                b"mtime" => mtime_ns = decimal_time(record.value_bytes()),
                key => sparse |= key.starts_with(b"GNU.sparse"),
            }
        }
    }
    let mtime_ns = mtime_ns.ok_or_else(|| refuse(SourceFault::Time))?;
    if sparse || kind == EntryType::GNUSparse {
        return Err(said("a sparse file; write the tar file without --sparse"));
    }
    let parts = components(shown.strip_prefix(b"/").unwrap_or(&shown))?;
    if parts.len() > MAX_DEPTH {
        return Err(refuse(SourceFault::TooDeep));
    }
    if parts.is_empty() {
        // The root itself, `./`.
        return Ok(());
    }
    let executable = entry.header().mode().is_ok_and(|mode| mode & 0o100 != 0);
    let mut odd = |what: &str| {
        warnings.push(format!("{}: {what}, packed as an empty file", display_bytes(&shown)));
        Kind::File { executable: false, size: 0, source: Source::Bytes(Box::default()) }
    };
    let leaf = match kind {
        EntryType::Directory => {
            let directory = reach(root, &parts, &shown)?;
            directory.mtime_ns = mtime_ns;
            return Ok(());
        }
        EntryType::Regular | EntryType::Continuous => {
            let size = entry.size();
            if size > MAX_FILE_BYTES {
                return Err(refuse(SourceFault::FileTooLarge(size)));
            }
            let start = entry.raw_file_position();
            if start.checked_add(size).is_none_or(|end| end > length) {
                return Err(said("the tar file ends in the middle of it; it is not complete"));
            }
            Kind::File { executable, size, source: Source::Tar(start) }
        }
        EntryType::Symlink => {
            let target = entry.link_name_bytes().unwrap_or_default();
            check_link(&target).map_err(|fault| refuse(fault.into()))?;
            Kind::Symlink(target.into_owned().into())
        }
        EntryType::Link => {
            let target = entry.link_name_bytes().unwrap_or_default().into_owned();
            hard_link(root, &target).ok_or_else(|| {
                said(&format!(
                    "a hard link to {}, which is not in it before",
                    display_bytes(&target)
                ))
            })?
        }
        EntryType::Fifo => odd("a named pipe"),
        EntryType::Char | EntryType::Block => odd("a device"),
        other => return Err(said(&format!("of unknown kind {:?}", char::from(other.as_byte())))),
    };
    let Some((name, parents)) = parts.split_last() else { return Ok(()) };
    let parent = reach(root, parents, &shown)?;
    // A later entry of the same name wins, as when a tar file is unpacked.
    match parent.entries.get(*name) {
        Some(Item::Directory(_)) => Err(said("a directory of this name is in it too")),
        _ => {
            parent.entries.insert(name.to_vec(), Item::Leaf { mtime_ns, kind: leaf });
            Ok(())
        }
    }
}

fn reach<'a>(root: &'a mut Directory, parts: &[&[u8]], shown: &[u8]) -> Result<&'a mut Directory> {
    let mut here = root;
    for part in parts {
        let item = here
            .entries
            .entry(part.to_vec())
            .or_insert_with(|| Item::Directory(Directory::default()));
        match item {
            Item::Directory(inner) => here = inner,
            Item::Leaf { .. } => {
                let text = "it stands below something that is not a directory";
                return Err(Error::source(shown, SourceFault::Tar(text.into())));
            }
        }
    }
    Ok(here)
}

/// The content that a hard link shares.
fn hard_link(root: &Directory, target: &[u8]) -> Option<Kind> {
    let parts = components(target.strip_prefix(b"/").unwrap_or(target)).ok()?;
    let (name, parents) = parts.split_last()?;
    let mut here = root;
    for part in parents {
        match here.entries.get(*part)? {
            Item::Directory(inner) => here = inner,
            Item::Leaf { .. } => return None,
        }
    }
    match here.entries.get(*name)? {
        Item::Leaf { kind: Kind::File { executable, size, source: Source::Tar(at) }, .. } => {
            Some(Kind::File { executable: *executable, size: *size, source: Source::Tar(*at) })
        }
        Item::Leaf { kind: Kind::Symlink(target), .. } => Some(Kind::Symlink(target.clone())),
        _ => None,
    }
}

fn finish(directory: Directory) -> Vec<Node> {
    let node = |(name, item): (Vec<u8>, Item)| match item {
        Item::Leaf { mtime_ns, kind } => Node { name: name.into(), mtime_ns, kind },
        Item::Directory(inner) => Node {
            name: name.into(),
            mtime_ns: inner.mtime_ns,
            kind: Kind::Directory(finish(inner)),
        },
    };
    directory.entries.into_iter().map(node).collect()
}

/// The time in a header: octal seconds, or base 256 when the first bit is set.
fn header_time(header: &[u8; 512]) -> Option<i64> {
    let field = &header[136..148];
    let seconds = if field[0] & 0x80 != 0 {
        // Two's complement over 95 bits; what does not fit 64 is out of range.
        let sign = if field[0] & 0x40 != 0 { -1i128 } else { 0 };
        let mut value = sign << 6 | i128::from(field[0] & 0x3f);
        for byte in &field[1..] {
            value = value << 8 | i128::from(*byte);
        }
        i64::try_from(value).ok()?
    } else {
        let text: String = field.iter().map(|b| char::from(*b)).collect();
        let text = text.trim_matches(|c| c == ' ' || c == '\0');
        if text.is_empty() { 0 } else { i64::from_str_radix(text, 8).ok()? }
    };
    seconds.checked_mul(1_000_000_000)
}

/// `-12.000000345` in nanoseconds; digits after the ninth are cut.
pub fn decimal_time(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        return None;
    }
    let nanos: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let seconds = whole.parse::<i128>().ok()?.checked_mul(1_000_000_000)?;
    let total = seconds.checked_add(nanos.parse::<i128>().ok()?)?;
    i64::try_from(if negative { -total } else { total }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_in_both_notations() {
        let header = |field: &[u8]| {
            let mut header = [0; 512];
            header[136..136 + field.len()].copy_from_slice(field);
            header_time(&header)
        };
        assert_eq!(header(b"00000000017\0"), Some(15_000_000_000));
        assert_eq!(header(b""), Some(0));
        assert_eq!(header(&[0xff; 12]), Some(-1_000_000_000));
        assert_eq!(header(b"\x80\0\0\0\0\0\0\0\0\0\0\x05"), Some(5_000_000_000));
        assert_eq!(header(b"\x80\0\0\0\x7f\0\0\0\0\0\0\x05"), None);
        assert_eq!(header(b"what"), None);
        assert_eq!(decimal_time(b"1.5"), Some(1_500_000_000));
        assert_eq!(decimal_time(b"-0.5"), Some(-500_000_000));
        assert_eq!(decimal_time(b"-446752800.000000001"), Some(-446_752_800_000_000_001));
        assert_eq!(decimal_time(b"3.1234567899"), Some(3_123_456_789));
        // The largest number of seconds whose nanoseconds still fit.
        let brink = format!("{}.999999999", i128::MAX / 1_000_000_000);
        for bad in [&brink, "", "-", "1.-5", "1e3", "99999999999", ".5"] {
            assert_eq!(decimal_time(bad.as_bytes()), None, "{bad}");
        }
    }
}
