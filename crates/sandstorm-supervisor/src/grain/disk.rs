//! Keeps the disk limit by what is measured: writes stop, the owner is told, greed ends the grain.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use rustix::fs::OFlags;
use sandstorm_schema::memory;

use super::allowance::{Allowance, Verdict};
use super::storage::{self, Next, Plan};
use crate::rpc::supervisor::Grain;
use crate::sys::fd;

/// Watches what the grain takes on disk: tells the system, and keeps the disk limit. Returns when
/// the grain has to end for it, with the reason.
pub async fn watch(dir: OwnedFd, grain: Rc<Grain>, mut allowance: Allowance) -> String {
    let unreported = Cell::new(true);
    let life = grain.life.clone();
    let mut end = String::new();
    let mark = FullMark(grain.dir.as_fd());
    if allowance.is_kept_by_the_kernel() {
        mark.clear();
    } else if mark.is_there() {
        // Measuring a large tree takes seconds, which are not for filling it further.
        allowance.was_full();
        grain.app.set_writes(false);
    }
    let held = Cell::new(false);
    let hold = || {
        grain.app.set_writes(false);
        held.set(true);
    };
    let (image, most) = (grain.image.as_ref(), grain.book.limits.inodes);
    storage::watch(dir, image, &life, most, hold, async |walk, changed, disk| {
        let usage = walk.usage;
        grain.book.measured(usage);
        for path in &walk.shut {
            grain.app.open_up(path);
        }
        let sees_all = walk.shut.is_empty() && !walk.hidden;
        let verdict = allowance.judge(usage, sees_all, disk);
        // A false alarm: others took the space.
        if held.take() && !allowance.is_full() {
            grain.app.set_writes(true);
        }
        match verdict {
            Verdict::Same => {}
            Verdict::Nearly(text) => grain.log.note(&text),
            Verdict::Kept(text) => {
                grain.book.filled_up();
                grain.log.note(&text);
            }
            Verdict::Full(text) => {
                grain.book.filled_up();
                grain.log.note(&text);
                grain.app.set_writes(false);
                mark.set();
            }
            Verdict::Free => {
                grain.log.note("there is room on the disk again: writes succeed");
                grain.app.set_writes(true);
                mark.clear();
            }
            Verdict::Runaway(text) => end = text,
        }
        if changed {
            unreported.set(true);
        }
        if let (true, Some(core)) = (unreported.get(), grain.core.now()) {
            let mut request = core.report_grain_size_request();
            request.get().set_bytes(usage.bytes);
            let call = tokio::time::timeout(Duration::from_secs(5), request.send().promise);
            // A core of a shell that is gone: its successor is told at the next walk.
            unreported.set(!matches!(call.await, Ok(Ok(_))));
        }
        // A walk and its report lead through much code.
        if !life.is_recent(crate::serve::REST_AFTER) {
            memory::forget_code();
        }
        let next = match (end.is_empty(), allowance.is_full() || !sees_all) {
            (false, _) => Next::Never,
            (true, true) => Next::Soon,
            (true, false) => Next::AsUsual,
        };
        Plan { next, left: allowance.left(usage) }
    })
    .await;
    end
}

/// The file beside the log that tells the next start that the grain is full.
struct FullMark<'a>(BorrowedFd<'a>);

impl FullMark<'_> {
    const NAME: &'static CStr = c"full";

    fn is_there(&self) -> bool {
        fd::open_in(self.0, Self::NAME, OFlags::PATH | OFlags::NOFOLLOW).is_ok()
    }

    /// Where it cannot be made, on a full disk say, the next start measures first.
    fn set(&self) {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW;
        let _ = fd::create_in(self.0, Self::NAME, flags, 0o600);
    }

    fn clear(&self) {
        let _ = fd::unlink_if_there(self.0, Self::NAME);
    }
}
