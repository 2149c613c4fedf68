//! The end of a grain that has used up its memory, as its control group tells it.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::unix::AsyncFd;

use crate::sandbox::counters::MemoryEvents;
use crate::sys::fd;

/// The grain's memory, as its control group sees it.
pub struct Memory {
    /// For who counts.
    pub events: Option<Rc<MemoryEvents>>,
    alarm: Option<AsyncFd<OwnedFd>>,
    limit: u64,
}

impl Memory {
    /// `limit` in bytes.
    ///
    /// # Errors
    /// What epoll answers.
    pub fn watch(mut events: Option<MemoryEvents>, limit: u64) -> io::Result<Memory> {
        let alarm = events.as_mut().and_then(|e| e.alarm.take()).map(fd::watch_readable);
        Ok(Memory { events: events.map(Rc::new), alarm: alarm.transpose()?, limit })
    }

    /// Returns when a process was killed for want of memory; the rest of the grain goes too, since
    /// half an app is worse than none.
    pub async fn ran_out(&self) {
        let Some(alarm) = &self.alarm else { return std::future::pending().await };
        loop {
            let Ok(mut ready) = alarm.readable().await else {
                return std::future::pending().await;
            };
            let _ = fd::read(alarm.get_ref(), &mut [0; 8]);
            ready.clear_ready();
            // The kill follows the alarm.
            tokio::time::sleep(Duration::from_millis(20)).await;
            if self.reason().is_some() {
                return;
            }
        }
    }

    /// Why the grain ends, if it is this.
    pub fn reason(&self) -> Option<String> {
        (self.events.as_ref()?.kills() > 0).then(|| {
            format!("killed: the grain ran out of memory (limit {} MiB)", self.limit >> 20)
        })
    }
}
