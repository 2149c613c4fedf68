//! Why an app's program could not be executed, from the error and the file's first bytes.
//!
//! Trust: runs in the sandbox, as the app; the file is the package's, and its bytes only choose words.
#![forbid(unsafe_code)]

use std::ffi::CString;
use std::io;

use rustix::fs::OFlags;

use crate::sys::fd;

/// Why a program could not be executed, from the error and the file's first bytes.
pub fn in_words(program: &str, error: &io::Error) -> String {
    let missing = error.raw_os_error() == Some(libc::ENOENT);
    let head = missing.then(|| head_of(program)).flatten();
    // The package chose it, and people and logs read it.
    let program = program.escape_debug();
    match (error.raw_os_error(), head) {
        (Some(libc::ENOENT), None) => {
            format!(
                "the app could not be started: its program {program} is missing from the package"
            )
        }
        (Some(libc::ENOENT), Some(head)) => format!(
            "the app could not be started: {program} is there, but the interpreter that it needs{} is missing \
             from the package",
            interpreter(&head)
        ),
        (Some(libc::EACCES), _) => format!(
            "the app could not be started: {program} is not executable (chmod +x it before packing)"
        ),
        (Some(libc::ENOEXEC), _) => format!(
            "the app could not be started: {program} is not a program for this machine \
             (neither an ELF file of its architecture nor a script that starts with #!)"
        ),
        _ => format!("the app could not be started: {program}: {error}"),
    }
}

fn head_of(program: &str) -> Option<Vec<u8>> {
    let path = CString::new(program).ok()?;
    let file = fd::open(&path, OFlags::RDONLY | OFlags::NONBLOCK).ok()?;
    let mut head = vec![0; 4096];
    let n = fd::read(&file, &mut head).ok()?;
    head.truncate(n);
    Some(head)
}

/// ` (/lib/ld.so)`, or nothing where it cannot be read from the head.
fn interpreter(head: &[u8]) -> String {
    let name = if let Some(line) = head.strip_prefix(b"#!") {
        line.split(|b| *b == b'\n')
            .next()
            .and_then(|l| l.trim_ascii().split(|b| b.is_ascii_whitespace()).next())
    } else {
        elf_interpreter(head)
    };
    match name {
        Some(name) if !name.is_empty() && name.len() < 200 => {
            format!(" ({})", String::from_utf8_lossy(name).escape_debug())
        }
        _ => String::new(),
    }
}

/// PT_INTERP of a little-endian 64-bit ELF file, when it lies in `head`.
fn elf_interpreter(head: &[u8]) -> Option<&[u8]> {
    if head.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let word = |at: usize, len: usize| -> Option<usize> {
        let mut value = [0; 8];
        value[..len].copy_from_slice(head.get(at..at.checked_add(len)?)?);
        usize::try_from(u64::from_le_bytes(value)).ok()
    };
    let (table, size, count) = (word(32, 8)?, word(54, 2)?, word(56, 2)?);
    for n in 0..count.min(64) {
        let at = table.checked_add(n.checked_mul(size)?)?;
        if word(at, 4)? == 3 {
            let (offset, length) = (word(at.checked_add(8)?, 8)?, word(at.checked_add(32)?, 8)?);
            let name = head.get(offset..offset.checked_add(length)?)?;
            return name.split(|b| *b == 0).next();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_missing_interpreter_is_named() {
        assert_eq!(interpreter(b"#! /usr/bin/perl -w\nrest"), " (/usr/bin/perl)");
        assert_eq!(interpreter(b"#!\n"), "");
        assert_eq!(interpreter(b"plain text"), "");
        let shell = std::fs::read("/bin/sh").unwrap();
        let named = interpreter(&shell[..shell.len().min(4096)]);
        assert!(named.contains("ld-linux"), "{named:?}");
    }

    #[test]
    fn each_error_of_exec_has_words() {
        let told = |program: &str, errno| in_words(program, &io::Error::from_raw_os_error(errno));
        assert!(told("/no/such", libc::ENOENT).contains("/no/such is missing"));
        assert!(told("/bin/sh", libc::ENOENT).contains("interpreter"));
        assert!(told("/x", libc::EACCES).contains("chmod +x"));
        assert!(told("/x", libc::ENOEXEC).contains("#!"));
        assert!(told("/x", libc::ENOMEM).contains("memory"));
        assert!(!told("/x\nsandstorm-supervisor: lies", libc::ENOENT).contains('\n'));
    }

    proptest! {
        #[test]
        fn no_head_of_a_file_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), elf: bool) {
            if elf && bytes.len() > 6 {
                bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
            }
            let _ = interpreter(&bytes);
        }
    }
}
