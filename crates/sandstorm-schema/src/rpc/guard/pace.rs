//! How fast we read what nothing of ours led to.
//!
//! Trust: whoever sends costs us processor time outside of its own limits: to read, to judge, to
//! answer, perhaps to pass on. What answers us is bounded by what we ask, and a piece of a stream
//! by how fast its receiver takes it; all else is bounded here. Nothing is lost or refused: what is
//! not read yet stays in the socket, until the peer itself has to wait.

use std::time::Duration;

use tokio::time::Instant;

/// So many bytes of a message cost as much as one message more.
const BYTES: usize = 16 * 1024;

/// And so many pointers: each is checked, and copied one by one where the message is passed on
/// (about 0.16 us each, a message about 15 us).
const POINTERS: u32 = 50;

/// And so many capabilities: each takes places in the tables of two connections (about 8 us).
const CAPABILITIES: u32 = 2;

/// After a rest, reading goes on for the messages of so much time at once.
const SLICE: f64 = 0.02;

/// A peer that was quiet may send the messages of so many seconds at once.
const BURST: f64 = 0.25;

/// What one of our calls entitles the peer to: it may call back while it works for us.
const FOR_A_CALL: u32 = 4;

/// An account of messages that may be read.
pub struct Pace {
    per_second: f64,
    left: f64,
    /// When it was last filled up.
    filled: Instant,
}

impl Pace {
    /// `per_second` messages, in the long run.
    pub fn new(per_second: u32) -> Self {
        let per_second = f64::from(per_second.max(1));
        Pace { per_second, left: per_second * BURST, filled: Instant::now() }
    }

    /// What an unprovoked message of `bytes` costs.
    pub fn price(bytes: usize) -> u32 {
        u32::try_from(1 + bytes / BYTES).unwrap_or(u32::MAX)
    }

    /// What any message costs beyond its size, answers too: we ask for those, but not for how they
    /// are made.
    pub fn spend_parts(&mut self, pointers: u32, capabilities: u32) {
        self.spend(pointers / POINTERS + capabilities / CAPABILITIES);
    }

    pub fn spend(&mut self, messages: u32) {
        self.left -= f64::from(messages);
    }

    pub fn earn(&mut self, messages: u32) {
        self.left = (self.left + f64::from(messages)).min(self.per_second * BURST);
    }

    /// We call the peer.
    pub fn call_sent(&mut self) {
        self.earn(FOR_A_CALL);
    }

    /// For how long nothing should be read from now on. Ask again after that.
    pub fn rest(&mut self) -> Option<Duration> {
        // The clock is only for those who have used up what they had.
        if self.left > 0.0 {
            return None;
        }
        self.rest_at(Instant::now())
    }

    fn rest_at(&mut self, now: Instant) -> Option<Duration> {
        let time = now.saturating_duration_since(self.filled).as_secs_f64();
        self.left = (self.left + time * self.per_second).min(self.per_second * BURST);
        self.filled = now;
        let missing = SLICE - self.left / self.per_second;
        // Not all of a long rest at once: what we do meanwhile may entitle the peer to more.
        (missing > 0.0).then(|| Duration::from_secs_f64(missing.clamp(0.001, SLICE)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages read in `time` of a peer that always has one more, and rests taken.
    fn read_in(pace: &mut Pace, time: Duration, price: u32) -> (u32, u32) {
        let (begin, mut read, mut rests) = (pace.filled, 0, 0);
        let mut now = begin;
        loop {
            while pace.left > 0.0 {
                pace.spend(price);
                read += 1;
            }
            while let Some(rest) = pace.rest_at(now) {
                now += rest;
                rests += 1;
                if now - begin > time {
                    return (read, rests);
                }
            }
        }
    }

    #[test]
    fn a_flood_is_read_at_the_pace_and_in_slices() {
        let (read, rests) = read_in(&mut Pace::new(1000), Duration::from_secs(10), 1);
        assert!((10_000..10_400).contains(&read), "{read}");
        assert!(rests < 600, "{rests} rests");
        // A large message costs what it weighs.
        let (read, _) =
            read_in(&mut Pace::new(1000), Duration::from_secs(10), Pace::price(1 << 20));
        assert!((150..170).contains(&read), "{read}");
    }

    #[test]
    fn who_is_called_may_call_back() {
        let mut pace = Pace::new(100);
        for _ in 0..100_000 {
            pace.call_sent();
            pace.spend(FOR_A_CALL);
            assert_eq!(pace.rest(), None);
        }
        // Nothing is saved for later beyond the burst.
        (0..1000).for_each(|_| pace.call_sent());
        assert!(pace.left <= 25.0);
    }

    #[test]
    fn quiet_refills_no_more_than_the_burst() {
        let mut pace = Pace::new(1000);
        pace.spend(10_000);
        assert!(pace.rest_at(pace.filled).is_some());
        assert_eq!(pace.rest_at(pace.filled + Duration::from_secs(3600)), None);
        assert_eq!(pace.left, 250.0);
    }
}
