//! One grain that is started again and again.

use std::cell::Cell;
use std::io::Read;
use std::process::Child;
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, bail, ensure};

use super::place::{Mode, Place};
use super::{first_instruction, now};

const PATIENCE: Duration = Duration::from_secs(20);

/// Grains that take turns, so that a start never waits for the death of the one before.
pub struct Seat<'a> {
    place: &'a Place,
    pub mode: Mode,
    grains: Vec<String>,
    turn: Cell<usize>,
}

/// A supervisor that has been killed and waited for once this is dropped.
pub struct Started(pub Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl<'a> Seat<'a> {
    /// Makes the grains, by their first start.
    pub fn new(place: &'a Place, mode: Mode, number: usize, grains: usize) -> Result<Seat<'a>> {
        let letter = if mode == Mode::Setuid { 's' } else { 'u' };
        let grains = (0..grains).map(|n| format!("bench{letter}{number:04}x{n}")).collect();
        let seat = Seat { place, mode, grains, turn: Cell::new(0) };
        for grain in &seat.grains {
            if !place.grain_dir(grain).exists() {
                drop(seat.listen(grain, &["--new"], "/first")?);
            }
        }
        Ok(seat)
    }

    fn next(&self) -> &str {
        self.turn.set((self.turn.get() + 1) % self.grains.len());
        &self.grains[self.turn.get()]
    }

    /// A supervisor that serves and whose app's exec has succeeded, as the server starts it.
    fn listen(&self, grain: &str, options: &[&str], app: &str) -> Result<Started> {
        let options: Vec<_> = options.iter().copied().chain(["--start"]).collect();
        let mut command = self.place.supervisor(self.mode, grain, &options, app);
        let mut child = self.place.spawn_as_user(&mut command)?;
        let mut stdout = child.stdout.take().context("stdout is piped")?;
        let started = Started(child);
        let mut line = [0; 64];
        let n = stdout.read(&mut line)?;
        ensure!(
            &line[..n] == b"Listening...\n",
            "{grain} does not serve ({:?}); its log:\n{}",
            String::from_utf8_lossy(&line[..n]),
            self.log(grain)
        );
        Ok(started)
    }

    pub fn start(&self, app: &str) -> Result<Started> {
        self.listen(self.next(), &[], app)
    }

    pub fn start_and_kill(&self) -> Result<()> {
        self.start("/first").map(drop)
    }

    /// Microseconds from before the spawn to the app's first instruction.
    pub fn first_instruction(&self) -> Result<f64> {
        let grain = self.next();
        let seen = self.log(grain).len();
        let begin = now();
        let _started = self.listen(grain, &[], "/first")?;
        let waiting = Instant::now();
        loop {
            if let Some(first) = self.log(grain).get(seen..).and_then(first_instruction) {
                return Ok(first.saturating_sub(begin) as f64 / 1000.0);
            }
            if waiting.elapsed() > PATIENCE {
                bail!("{grain} did not run its app; its log:\n{}", self.log(grain));
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits for the end of an app that ends by itself; the grain's log.
    pub fn run_to_end(&self, app: &str) -> Result<String> {
        let grain = self.next();
        let mut started = self.listen(grain, &[], app)?;
        let waiting = Instant::now();
        while started.0.try_wait()?.is_none() {
            ensure!(waiting.elapsed() < PATIENCE * 3, "{app} does not end");
            thread::sleep(Duration::from_millis(10));
        }
        Ok(self.log(grain))
    }

    fn log(&self, grain: &str) -> String {
        let bytes = fs::read(self.place.grain_dir(grain).join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}
