//! The limits of a grain: one table of names, defaults and ceilings, and the resource limits.
//!
//! Trust: values come from the caller's command line. A name that is not in the table, or a value
//! past its ceiling, is refused; the app's manifest has no say.
#![forbid(unsafe_code)]

use crate::error::Error;
use crate::sys::process;

/// One limit that `--limit NAME=VALUE` may set.
#[derive(Debug)]
pub struct Limit {
    pub name: &'static str,
    pub unit: &'static str,
    pub default: u64,
    pub ceiling: u64,
    pub meaning: &'static str,
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Every limit. `--help` prints this table.
pub const TABLE: &[Limit] = &[
    Limit {
        name: "memory",
        unit: "bytes",
        default: GIB,
        ceiling: 1 << 40,
        meaning: "memory of all processes and tmpfs files together; past it the whole grain is ended",
    },
    Limit {
        name: "pids",
        unit: "processes and threads",
        default: 512,
        ceiling: 32_768,
        meaning: "past it fork and clone fail with EAGAIN",
    },
    Limit {
        name: "cpu",
        unit: "percent of one processor",
        default: 200,
        ceiling: 100_000,
        meaning: "processor time per 100 ms",
    },
    Limit {
        name: "files",
        unit: "open files a process",
        default: 4096,
        ceiling: 65_536,
        meaning: "hard limit; the soft limit is 1024 or this, whichever is less",
    },
    Limit {
        name: "disk",
        unit: "bytes",
        default: 10 * GIB,
        ceiling: 1 << 50,
        meaning: "allocated blocks of /var",
    },
    Limit {
        name: "inodes",
        unit: "files",
        default: 1_000_000,
        ceiling: 1 << 32,
        meaning: "files and directories in /var",
    },
    Limit {
        name: "tmpfs",
        unit: "bytes",
        default: 64 * MIB,
        ceiling: 16 * GIB,
        meaning: "size of each of /tmp and /dev/shm; counts as memory too",
    },
    Limit {
        name: "log",
        unit: "bytes",
        default: 512 << 10,
        ceiling: 64 * MIB,
        meaning: "the log is moved to log.1 past this size",
    },
];

/// The limits of one grain, in the units of `TABLE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub memory: u64,
    pub pids: u64,
    pub cpu: u64,
    pub files: u64,
    pub disk: u64,
    pub inodes: u64,
    pub tmpfs: u64,
    pub log: u64,
}

impl Default for Limits {
    fn default() -> Self {
        let of = |name| TABLE.iter().find(|l| l.name == name).map_or(0, |l| l.default);
        Limits {
            memory: of("memory"),
            pids: of("pids"),
            cpu: of("cpu"),
            files: of("files"),
            disk: of("disk"),
            inodes: of("inodes"),
            tmpfs: of("tmpfs"),
            log: of("log"),
        }
    }
}

impl Limits {
    /// Applies one `NAME=VALUE`; a value may end in K, M, G or T (powers of 1024).
    ///
    /// # Errors
    /// `Usage` for an unknown name, no number, zero, or a value above the ceiling.
    pub fn set(&mut self, assignment: &str) -> Result<(), Error> {
        let usage = |text: String| Err(Error::Usage(text));
        let Some((name, value)) = assignment.split_once('=') else {
            return usage(format!("--limit wants NAME=VALUE, not {assignment:?}"));
        };
        let Some(limit) = TABLE.iter().find(|l| l.name == name) else {
            let names: Vec<_> = TABLE.iter().map(|l| l.name).collect();
            return usage(format!("--limit knows no {name:?}; it knows {}", names.join(", ")));
        };
        let Some(number) = parse_number(value) else {
            return usage(format!(
                "--limit {name} wants a number of {} (K, M, G, T allowed), not {value:?}",
                limit.unit
            ));
        };
        if number == 0 || number > limit.ceiling {
            return usage(format!(
                "--limit {name} must be from 1 to {} {}",
                limit.ceiling, limit.unit
            ));
        }
        let field = match limit.name {
            "memory" => &mut self.memory,
            "pids" => &mut self.pids,
            "cpu" => &mut self.cpu,
            "files" => &mut self.files,
            "disk" => &mut self.disk,
            "inodes" => &mut self.inodes,
            "tmpfs" => &mut self.tmpfs,
            "log" => &mut self.log,
            other => return usage(format!("--limit {other} has no field")),
        };
        *field = number;
        Ok(())
    }

    /// Sets the resource limits that the app starts with (the floor where there are no cgroups).
    ///
    /// NPROC counts every process of the kernel uid, so it only bounds a grain that has a uid of
    /// its own; elsewhere it would bound the server's user.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn apply_to_self(&self, own_uid: bool) -> std::io::Result<()> {
        process::set_limit(libc::RLIMIT_NOFILE, self.files.min(1024), self.files)?;
        process::set_limit(libc::RLIMIT_SIGPENDING, 4096, 4096)?;
        process::set_limit(libc::RLIMIT_MSGQUEUE, 0, 0)?;
        if own_uid {
            // One more for init.
            process::set_limit(libc::RLIMIT_NPROC, self.pids + 1, self.pids + 1)?;
        }
        Ok(())
    }
}

fn parse_number(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' | b'k' => (&text[..text.len() - 1], 10),
        b'M' | b'm' => (&text[..text.len() - 1], 20),
        b'G' | b'g' => (&text[..text.len() - 1], 30),
        b'T' | b't' => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_can_be_set_to_its_ceiling_and_not_past_it() {
        for limit in TABLE {
            assert!(limit.default <= limit.ceiling, "{}", limit.name);
            let mut limits = Limits::default();
            limits.set(&format!("{}={}", limit.name, limit.ceiling)).unwrap();
            assert_ne!(limits, Limits::default(), "{} has a field", limit.name);
            let past = format!("{}={}", limit.name, limit.ceiling + 1);
            assert!(limits.set(&past).is_err());
            assert!(limits.set(&format!("{}=0", limit.name)).is_err());
        }
    }

    #[test]
    fn numbers_have_binary_suffixes_and_nothing_else() {
        assert_eq!(parse_number("64M"), Some(64 << 20));
        assert_eq!(parse_number("3"), Some(3));
        for bad in ["", "K", "-1", "+1", "1.5G", "0x10", "99999999999T", " 1"] {
            assert_eq!(parse_number(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn unknown_names_are_refused() {
        let mut limits = Limits::default();
        for bad in ["uid=0", "memory", "=5", "Memory=5"] {
            assert!(limits.set(bad).is_err(), "{bad:?}");
        }
    }
}
