//! What one grain may use, and what one person may install and run: names, units, defaults and ceilings.
//!
//! The supervisor keeps a grain's limits, the shell a person's; the shell chooses the values
//! (defaults, the operator's settings, the administrator's exceptions), and both read these tables.
//! An app's manifest has no say.
//! Trust: assignments come from an operator or, in setuid mode, from whoever may run the
//! supervisor; a name that is not here, or a value past its ceiling, is refused.

use std::fmt;

/// One row.
#[derive(Debug, PartialEq, Eq)]
pub struct Limit {
    /// As in `--limit NAME=VALUE`.
    pub name: &'static str,
    /// What its number counts.
    pub unit: &'static str,
    /// Where nobody says otherwise.
    pub default: u64,
    /// Compiled in: nobody gets past it.
    pub ceiling: u64,
    /// What happens at the limit.
    pub meaning: &'static str,
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Every limit of a grain, in the order of help texts and pages.
#[rustfmt::skip]
pub const TABLE: &[Limit] = &[
    Limit { name: "memory", unit: "bytes", default: GIB, ceiling: 1 << 40,
        meaning: "memory of all processes and tmpfs files together; past it the whole grain is ended" },
    Limit { name: "pids", unit: "processes and threads", default: 512, ceiling: 32_768,
        meaning: "past it fork and clone fail with EAGAIN" },
    Limit { name: "cpu", unit: "percent of one processor", default: 200, ceiling: 100_000,
        meaning: "processor time per 100 ms" },
    Limit { name: "weight", unit: "percent of an equal share", default: 50, ceiling: 10_000,
        meaning: "share of the processors when others want them too; 100 is as much as the server itself" },
    Limit { name: "files", unit: "open files a process", default: 4096, ceiling: 65_536,
        meaning: "hard limit; the soft limit is 1024 or this, whichever is less" },
    Limit { name: "disk", unit: "bytes", default: 10 * GIB, ceiling: 1 << 50,
        meaning: "allocated blocks of /var; past it writes fail" },
    Limit { name: "inodes", unit: "files", default: 1_000_000, ceiling: 1 << 32,
        meaning: "files and directories in /var; past it writes fail" },
    Limit { name: "tmpfs", unit: "bytes", default: 64 * MIB, ceiling: 16 * GIB,
        meaning: "size of each of /tmp and /dev/shm; counts as memory too" },
    Limit { name: "log", unit: "bytes", default: 512 * KIB, ceiling: 64 * MIB,
        meaning: "the log is moved to log.1 past this size" },
];

/// What the apps that one person brought may take on the server's disk, and how many grains of theirs
/// run. The shell keeps these; a supervisor knows none of them.
#[rustfmt::skip]
pub const PERSON: &[Limit] = &[
    Limit { name: "installed", unit: "bytes", default: 20 * GIB, ceiling: 1 << 50,
        meaning: "app files and what they unpack to, of all apps that one person brought; past it installing is refused" },
    Limit { name: "installed-files", unit: "files", default: 4_000_000, ceiling: 1 << 32,
        meaning: "files and directories that those apps unpack to; past it installing is refused" },
    Limit { name: "running", unit: "grains", default: 500, ceiling: 65_536,
        meaning: "grains of one person that run at once; past it the one unused longest is put to sleep, and where all are in use no other starts" },
];

/// What a supervisor exits with when it ended a grain that went on taking space past its disk
/// limit, so that the shell does not start it again at once.
pub const EXIT_GREED: i32 = 7;

/// The row of this name.
pub fn find(name: &str) -> Option<&'static Limit> {
    TABLE.iter().find(|limit| limit.name == name)
}

/// The row of this name in both tables.
pub fn find_any(name: &str) -> Option<&'static Limit> {
    find(name).or_else(|| PERSON.iter().find(|limit| limit.name == name))
}

/// Whether it limits a person and no grain.
pub fn is_persons(limit: &Limit) -> bool {
    PERSON.iter().any(|row| row.name == limit.name)
}

/// Why an assignment was refused; the words say what would be right.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LimitError {
    /// Not `NAME=VALUE`.
    #[error("a limit is written NAME=VALUE, not {0:?}")]
    Form(String),
    /// No such row.
    #[error("no limit is called {name:?}; there are {}", Names(.tables))]
    Name {
        /// What was typed.
        name: String,
        /// Where it was looked for.
        tables: &'static [&'static [Limit]],
    },
    /// Not a number.
    #[error("{name} wants a number of {unit} (K, M, G, T allowed), not {value:?}")]
    Value {
        /// The limit.
        name: &'static str,
        /// Its unit.
        unit: &'static str,
        /// What was typed.
        value: String,
    },
    /// Zero, or past the ceiling.
    #[error("{name} must be from 1 to {ceiling} {unit}")]
    Range {
        /// The limit.
        name: &'static str,
        /// Its unit.
        unit: &'static str,
        /// The most that is allowed.
        ceiling: u64,
    },
}

/// Names of rows, as a list in words.
pub struct Names<'a>(pub &'a [&'static [Limit]]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().flat_map(|table| table.iter()).map(|l| l.name).collect();
        f.write_str(&names.join(", "))
    }
}

/// Reads `NAME=VALUE` of a grain's limit; a value may end in K, M, G or T (powers of 1024).
///
/// # Errors
/// Which part is wrong.
pub fn parse(assignment: &str) -> Result<(&'static Limit, u64), LimitError> {
    let (name, value) = split(assignment)?;
    parse_in(&[TABLE], name, value)
}

/// The same of both tables.
///
/// # Errors
/// Which part is wrong.
pub fn parse_any(assignment: &str) -> Result<(&'static Limit, u64), LimitError> {
    let (name, value) = split(assignment)?;
    parse_any_value(name, value)
}

/// Reads the value of the limit `name` of either table.
///
/// # Errors
/// Which part is wrong.
pub fn parse_any_value(name: &str, value: &str) -> Result<(&'static Limit, u64), LimitError> {
    parse_in(&[TABLE, PERSON], name, value)
}

fn split(assignment: &str) -> Result<(&str, &str), LimitError> {
    let (name, value) =
        assignment.split_once('=').ok_or_else(|| LimitError::Form(assignment.to_owned()))?;
    Ok((name.trim(), value.trim()))
}

fn parse_in(
    tables: &'static [&'static [Limit]],
    name: &str,
    value: &str,
) -> Result<(&'static Limit, u64), LimitError> {
    let limit = tables
        .iter()
        .flat_map(|table| table.iter())
        .find(|limit| limit.name == name)
        .ok_or_else(|| LimitError::Name { name: name.to_owned(), tables })?;
    let Limit { name, unit, ceiling, .. } = *limit;
    let number = parse_number(value).ok_or_else(|| LimitError::Value {
        name,
        unit,
        value: value.to_owned(),
    })?;
    if number == 0 || number > ceiling {
        return Err(LimitError::Range { name, unit, ceiling });
    }
    Ok((limit, number))
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
    fn every_row_goes_to_its_ceiling_and_not_past_it() {
        for limit in TABLE.iter().chain(PERSON) {
            assert!(limit.default <= limit.ceiling, "{}", limit.name);
            let at = |value: u64| parse_any(&format!("{}={value}", limit.name));
            assert_eq!(at(limit.ceiling).unwrap(), (limit, limit.ceiling));
            assert!(at(limit.ceiling + 1).is_err());
            assert!(at(0).is_err());
        }
    }

    #[test]
    fn numbers_have_binary_suffixes_and_nothing_else() {
        assert_eq!(parse_number("64M"), Some(64 << 20));
        assert_eq!(parse_number("3"), Some(3));
        for bad in ["", "K", "-1", "+1", "1.5G", "0x10", "99999999999T", " 1", "é"] {
            assert_eq!(parse_number(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn unknown_names_are_refused_in_words() {
        for bad in ["uid=0", "memory", "=5", "Memory=5"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert!(parse("uid=0").unwrap_err().to_string().contains("memory, pids"));
    }

    #[test]
    fn a_supervisor_takes_no_limit_of_a_person() {
        for limit in PERSON {
            let assignment = format!("{}=1", limit.name);
            assert!(is_persons(limit) && find(limit.name).is_none());
            let refused = parse(&assignment).unwrap_err().to_string();
            let known = refused.split_once("there are").unwrap().1;
            assert!(!known.contains("installed-files"), "{refused}");
            assert_eq!(parse_any(&assignment).unwrap().0.name, limit.name);
        }
        assert!(TABLE.iter().all(|limit| !is_persons(limit)));
        assert!(parse_any("uid=0").unwrap_err().to_string().contains("installed-files"));
    }
}
