//! One grain that is started again and again, by a client that is as light as can be.

use std::cell::Cell;
use std::io::Read;
use std::os::fd::AsFd;
use std::process::Child;
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, bail, ensure};
use capnp_rpc::rpc_twoparty_capnp::Side;
use sandstorm_schema::rpc::connect::{self, Trust, Vat};
use sandstorm_schema::supervisor_capnp::supervisor;

use super::place::{Mode, Place};
use super::{first_instruction, now};

const PATIENCE: Duration = Duration::from_secs(20);

/// Grains that take turns, so that a start never waits for the death of the one before; and a
/// runtime to call their supervisors with.
pub struct Seat<'a> {
    place: &'a Place,
    pub mode: Mode,
    grains: Vec<String>,
    turn: Cell<usize>,
    runtime: tokio::runtime::Runtime,
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
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let seat = Seat { place, mode, grains, turn: Cell::new(0), runtime };
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

    /// A supervisor that serves; its app has not been started.
    fn listen(&self, grain: &str, options: &[&str], app: &str) -> Result<Started> {
        let mut command = self.place.supervisor(self.mode, grain, options, app);
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

    /// The same with the app running: its exec has succeeded.
    fn start_grain(&self, grain: &str, app: &str) -> Result<Started> {
        let started = self.listen(grain, &[], app)?;
        let local = tokio::task::LocalSet::new();
        local.block_on(&self.runtime, async {
            let dir = fs::File::open(self.place.grain_dir(grain))?;
            let stream = connect::connect_at(dir.as_fd(), "socket").await?;
            let vat = Vat::spawn(stream, Side::Client, None, Trust::Peer);
            let client: supervisor::Client = vat.bootstrap();
            let answer = client.get_main_view_request().send().promise;
            // An app that ends at once may take its view along; that it ran is all that is asked.
            let _ = tokio::time::timeout(PATIENCE, answer).await.context("no main view")?;
            vat.disconnect().await;
            anyhow::Ok(())
        })?;
        Ok(started)
    }

    pub fn start(&self, app: &str) -> Result<Started> {
        self.start_grain(self.next(), app)
    }

    pub fn start_and_kill(&self) -> Result<()> {
        self.start("/first").map(drop)
    }

    /// Microseconds from before the spawn to the app's first instruction.
    pub fn first_instruction(&self) -> Result<f64> {
        let grain = self.next();
        let seen = self.log(grain).len();
        let begin = now();
        let _started = self.start_grain(grain, "/first")?;
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
        let mut started = self.start_grain(grain, app)?;
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
