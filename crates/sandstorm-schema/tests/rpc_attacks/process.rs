//! One attack in a process of its own.

use std::collections::HashMap;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use capnp::capability::Client;
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{RpcSystem, twoparty};
use sandstorm_schema::rpc::{GuardLimits, Trust, Vat};
use tokio_util::compat::{TokioAsyncReadCompatExt, TokioAsyncWriteCompatExt};

use crate::floods::Field;
use crate::memory::{MIB, NOW, PEAK};
use crate::rpc_support::raw::Raw;
use crate::rpc_support::{call_data, pair, run, sleep_ms};
use crate::table::{Bare, Row, TABLE};
use crate::victim::{SENT_FAILED, method, victim_object};
use crate::{ATTACK, FILLING};

static PANICS: AtomicUsize = AtomicUsize::new(0);

#[derive(Debug, Default)]
pub struct Report {
    pub peak: usize,
    pub panicked: bool,
    pub cut: bool,
    /// Longest wait of the honest connection for an answer, in ms.
    pub neighbour_ms: u64,
    pub neighbour_calls: u64,
    /// The process died, or had to be killed.
    pub died: bool,
    pub hung: bool,
}

/// What the child does; nothing in the test itself.
pub fn child() {
    let Ok(name) = std::env::var("ATTACK_NAME") else { return };
    let guarded = std::env::var("ATTACK_GUARDED").is_ok();
    let row = *TABLE.iter().find(|row| row.name == name).expect("a row of the table");
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        default(info);
    }));
    let report = run(attacked(row, guarded));
    println!(
        "REPORT peak={} panicked={} cut={} neighbour_ms={} neighbour_calls={}",
        report.peak,
        u8::from(report.panicked),
        u8::from(report.cut),
        report.neighbour_ms,
        report.neighbour_calls
    );
    // The attacker's threads are not waited for.
    std::process::exit(0);
}

async fn attacked(row: Row, guarded: bool) -> Report {
    let (mut peer, victim) = Raw::pair();
    let script = if guarded { row.guarded_script } else { row.script };
    if guarded {
        let limits = (row.limits)();
        let vat = Vat::spawn(victim, Side::Server, Some(victim_object()), Trust::Hostile(limits));
        if let Some(script) = script {
            tokio::task::spawn_local(script(vat.bootstrap()));
        }
    } else {
        let (read, write) = victim.into_split();
        let network = twoparty::VatNetwork::new(
            futures::io::BufReader::new(read.compat()),
            futures::io::BufWriter::new(write.compat_write()),
            Side::Server,
            Default::default(),
        );
        let mut system = RpcSystem::new(Box::new(network), Some(victim_object()));
        if let Some(script) = script {
            tokio::task::spawn_local(script(system.bootstrap(Side::Client)));
        }
        tokio::task::spawn_local(system);
    }

    // Beside it, an honest connection.
    let (honest, _other) = pair(None, Some(victim_object()), GuardLimits::app());
    let honest: Client = honest.bootstrap();
    call_data(&honest, method::ECHO, b"warm").await.unwrap();

    let base = NOW.load(Ordering::Relaxed);
    PEAK.store(base, Ordering::Relaxed);
    let stop_at = base
        + match row.bare {
            Bare::Memory(mib) => (mib + 10) * MIB,
            _ => 400 * MIB,
        };
    let time = match row.bare {
        Bare::Memory(_) if !guarded => FILLING,
        Bare::Crash | Bare::Slow(_) => 3 * ATTACK,
        _ => ATTACK,
    };
    let (done, mut is_done) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        peer.socket.set_write_timeout(Some(Duration::from_millis(700))).unwrap();
        (row.attack)(&mut peer, &Field { end: Instant::now() + time, stop_at });
        let cut = peer.is_cut_off(Duration::from_millis(700));
        // Whatever is on its way is dealt with before the attacker leaves.
        std::thread::sleep(Duration::from_millis(200));
        let _ = done.send(cut);
        std::thread::sleep(Duration::from_secs(60));
    });
    let mut report = Report::default();
    loop {
        let started = Instant::now();
        call_data(&honest, method::ECHO, b"quick?").await.unwrap();
        report.neighbour_ms = report.neighbour_ms.max(started.elapsed().as_millis() as u64);
        report.neighbour_calls += 1;
        if let Ok(cut) = is_done.try_recv() {
            report.cut = cut;
            break;
        }
        sleep_ms(5).await;
    }
    if row.name == "nothing_is_taken" && guarded {
        assert!(SENT_FAILED.load(Ordering::Relaxed), "callers are told");
    }
    report.peak = PEAK.load(Ordering::Relaxed).saturating_sub(base);
    report.panicked = PANICS.load(Ordering::Relaxed) > 0;
    report
}

pub fn attack(name: &str, guarded: bool, number: usize) -> Report {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["child", "--exact", "--nocapture", "--test-threads=1"])
        .env("ATTACK_NAME", name)
        .env("ATTACK_NUMBER", number.to_string())
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if guarded {
        command.env("ATTACK_GUARDED", "1");
    }
    let mut child = command.spawn().unwrap();
    // A hung process burns a core: not for long.
    let limit = Instant::now() + Duration::from_secs(if guarded { 50 } else { 30 });
    let mut hung = false;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > limit {
            hung = true;
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let Some(line) = text.lines().find_map(|l| l.split_once("REPORT ").map(|(_, r)| r)) else {
        if guarded {
            eprintln!("{text}{}", String::from_utf8_lossy(&output.stderr));
        }
        return Report { died: !hung, hung, ..Report::default() };
    };
    let values: HashMap<&str, u64> = line
        .split(' ')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key, value.parse().unwrap()))
        .collect();
    Report {
        peak: values["peak"] as usize,
        panicked: values["panicked"] == 1,
        cut: values["cut"] == 1,
        neighbour_ms: values["neighbour_ms"],
        neighbour_calls: values["neighbour_calls"],
        died: false,
        hung: false,
    }
}
