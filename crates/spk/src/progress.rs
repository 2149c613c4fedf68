//! Progress of the long steps, told to whoever watches: a bar on a terminal, the shell over RPC,
//! or nobody. The same calls are where a wish to stop is noticed.

use std::cell::RefCell;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressStyle};

use crate::error::{Error, Result};

/// A long step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Reading the tree and hashing it.
    Hash,
    /// Compressing the archive.
    Compress,
    /// Reading, decompressing and checking a package.
    Verify,
    /// Writing files.
    Extract,
    /// Waiting for the disk.
    Sync,
}

/// Told about the work.
pub trait Progress {
    /// A step begins; `total` is 0 while it is unknown.
    fn begin(&self, step: Step, total: u64);

    /// How far the step is. Called often: must be cheap.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when the work is no longer wanted.
    fn done(&self, done: u64) -> Result<()>;

    /// All steps are over.
    fn end(&self) {}
}

/// Nobody watches.
#[derive(Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: Step, _: u64) {}

    fn done(&self, _: u64) -> Result<()> {
        Ok(())
    }
}

/// Set when a person pressed Ctrl-C or the program was asked to end.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// A command at work: shows a bar when stderr is a terminal and notices interrupts.
#[derive(Debug, Default)]
pub struct Terminal {
    bar: RefCell<Option<ProgressBar>>,
}

impl Terminal {
    /// From here on INT, TERM and HUP end the work at the next step instead of ending the process,
    /// so that nothing is left behind. Call it before any thread is started.
    pub fn watch_signals() {
        use nix::sys::signal::{SigSet, Signal};
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            signals.add(signal);
        }
        if signals.thread_block().is_err() {
            return;
        }
        std::thread::spawn(move || {
            if signals.wait().is_ok() {
                INTERRUPTED.store(true, Ordering::Relaxed);
            }
            // The second one ends the process at once.
            let _ = signals.thread_unblock();
        });
    }

    /// Whether the work is no longer wanted.
    pub fn interrupted() -> bool {
        INTERRUPTED.load(Ordering::Relaxed)
    }
}

impl Progress for Terminal {
    fn begin(&self, step: Step, total: u64) {
        self.end();
        if !std::io::stderr().is_terminal() {
            return;
        }
        let name = match step {
            Step::Hash => "hashing",
            Step::Compress => "compressing",
            Step::Verify => "checking",
            Step::Extract => "writing",
            Step::Sync => "waiting for the disk",
        };
        let bar = if total > 0 { ProgressBar::new(total) } else { ProgressBar::new_spinner() };
        let style = if total > 0 {
            "{msg:12} [{bar:30}] {bytes} of {total_bytes}, {eta} left"
        } else {
            "{msg:12} {bytes}"
        };
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        bar.set_message(name);
        *self.bar.borrow_mut() = Some(bar);
    }

    fn done(&self, done: u64) -> Result<()> {
        if Self::interrupted() {
            return Err(Error::Interrupted);
        }
        if let Some(bar) = &*self.bar.borrow() {
            bar.set_position(done);
        }
        Ok(())
    }

    fn end(&self) {
        if let Some(bar) = self.bar.borrow_mut().take() {
            bar.finish_and_clear();
        }
    }
}
