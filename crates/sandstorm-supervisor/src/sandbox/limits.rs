//! The limits of a grain as this program keeps them, and the resource limits among them.
//!
//! Trust: values come from the caller's command line and are judged by the shared table
//! (`sandstorm_schema::grain_limits`); the app's manifest has no say.
#![forbid(unsafe_code)]

use rustix::io::Errno;
use rustix::process::Resource;
pub use sandstorm_schema::grain_limits::TABLE;
use sandstorm_schema::grain_limits::{self, find};

use crate::error::Error;
use crate::sys::process;

/// The limits of one grain, in the units of `TABLE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub memory: u64,
    pub pids: u64,
    pub cpu: u64,
    pub weight: u64,
    pub files: u64,
    pub disk: u64,
    pub inodes: u64,
    pub tmpfs: u64,
    pub log: u64,
}

impl Default for Limits {
    fn default() -> Self {
        let of = |name| find(name).map_or(0, |l| l.default);
        Limits {
            memory: of("memory"),
            pids: of("pids"),
            cpu: of("cpu"),
            weight: of("weight"),
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
        let (limit, number) = grain_limits::parse(assignment)
            .map_err(|error| Error::Usage(format!("--limit: {error}")))?;
        let field = match limit.name {
            "memory" => &mut self.memory,
            "pids" => &mut self.pids,
            "cpu" => &mut self.cpu,
            "weight" => &mut self.weight,
            "files" => &mut self.files,
            "disk" => &mut self.disk,
            "inodes" => &mut self.inodes,
            "tmpfs" => &mut self.tmpfs,
            "log" => &mut self.log,
            other => return Err(Error::Usage(format!("--limit {other} has no field"))),
        };
        *field = number;
        Ok(())
    }

    /// Sets the resource limits that the app starts with: the floor, whatever else there is.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn apply_to_self(&self, floor: Floor) -> std::io::Result<()> {
        let set = |resource, soft, hard| process::set_limit(resource, Some(soft), Some(hard));
        set(Resource::Nofile, self.files.min(1024), self.files)?;
        set(Resource::Sigpending, 4096, 4096)?;
        set(Resource::Msgqueue, 0, 0)?;
        if floor.processes {
            // One more for init. A control group is to be met first: it counts what it refuses.
            let most = self.pids + 1 + if floor.group { SPARE } else { 0 };
            set(Resource::Nproc, most, most)?;
        }
        if floor.memory {
            // Never AS: some runtimes reserve address space that they never use. This one counts
            // what can be written to, a process at a time.
            set(Resource::Data, self.memory, self.memory)?;
        }
        if floor.processor
            && let Err(e) = rustix::process::setpriority_process(None, NICE)
            // Refused where the server itself steps back further: then so does the app.
            && ![Errno::PERM, Errno::ACCESS].contains(&e)
        {
            return Err(e.into());
        }
        Ok(())
    }
}

/// Processes that a resource limit allows beyond the control group's.
const SPARE: u64 = 16;
/// How far an app steps back where no control group shares out the processors.
const NICE: i32 = 10;

/// What resource limits have to do, because nothing better does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Floor {
    /// NPROC counts the processes of a uid in its user namespace, which every grain has of its
    /// own. Before Linux 5.14 it counted those of the kernel uid anywhere, so there it can only
    /// bound a grain with a uid of its own, or it would bound the server's user.
    pub processes: bool,
    /// A control group counts processes too.
    pub group: bool,
    /// No memory controller.
    pub memory: bool,
    /// No cpu controller.
    pub processor: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_a_field() {
        for limit in TABLE {
            let mut limits = Limits::default();
            limits.set(&format!("{}={}", limit.name, limit.ceiling)).unwrap();
            assert_ne!(limits, Limits::default(), "{} has a field", limit.name);
        }
        assert!(Limits::default().set("uid=0").is_err());
    }
}
