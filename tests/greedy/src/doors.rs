//! The attacker's side of each RPC door: how it gets in, what it calls there, and which attack.
//!
//! A door is chosen by how the program is started, an attack by its name. What the attacked
//! program makes of it is for the test to see; here only the bytes matter.

use std::os::fd::FromRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use capnp_rpc::rpc_capnp::{cap_descriptor, message};

use crate::floods::{Attack, Field};
use crate::rpc_support::raw::{Raw, return_with};
use crate::victim::method;
use crate::{ATTACK, answers, floods, frames, promises};

/// After an attack: time for the victim to deal with what is on its way.
const AFTER: Duration = Duration::from_millis(500);

/// Type ids of what is behind each door.
const SANDSTORM_API: u64 = 0xd265_4fcf_2a70_02cb;
const SANDSTORM_CORE: u64 = 0x9ba4_5778_a294_b60c;
const PROGRESS: u64 = 0xbbad_f220_4050_72fc;
const CONTROL: u64 = 0xad12_8e32_e9be_397e;

static BEHIND: AtomicU64 = AtomicU64::new(0);

/// Interface and method that come nearest to what the attack would like to call.
pub fn addressed(wanted: u16) -> (u64, u16) {
    let interface = BEHIND.load(Ordering::Relaxed);
    let takes_a_capability =
        [method::KEEP, method::ECHO_CAP, method::ECHO_CAP_LATER].contains(&wanted);
    let gives_an_object =
        [method::NEW_OBJECT, method::OBJECT_AND_64K, method::NEVER_ANSWER, method::KEPT_LATER]
            .contains(&wanted);
    let number = match (interface, takes_a_capability, gives_an_object) {
        // save; stayAwake, which waits for the system; getIdentityId.
        (SANDSTORM_API, true, _) => 8,
        (SANDSTORM_API, _, true) => 7,
        (SANDSTORM_API, _, _) => 10,
        // getIdentityId, which waits for promises; getOwnerNotificationTarget; reportGrainSize.
        (SANDSTORM_CORE, true, _) => 9,
        (SANDSTORM_CORE, _, true) => 2,
        (SANDSTORM_CORE, _, _) => 8,
        // appInstall; grainList; appList.
        (CONTROL, _, true) => 2,
        (CONTROL, true, _) => 6,
        (CONTROL, _, _) => 4,
        // The only method there is.
        _ => 0,
    };
    (interface, number)
}

/// Whether an attack calls, or answers what it is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Calls,
    Answers,
}
use Kind::{Answers, Calls};

#[rustfmt::skip]
const ATTACKS: &[(&str, Kind, Attack)] = &[
    ("answers-not-read", Calls, floods::answers_not_read),
    ("endless-calls", Calls, floods::endless_calls),
    ("endless-bootstraps", Calls, floods::endless_bootstraps),
    ("endless-exports", Calls, floods::endless_exports),
    ("endless-objects", Calls, floods::endless_objects),
    ("endless-given-up", Calls, floods::endless_given_up),
    ("endless-redirected", Calls, floods::endless_redirected),
    ("unfinished-answers", Calls, floods::unfinished_answers),
    ("large-unanswered-calls", Calls, floods::large_unanswered_calls),
    ("table-of-nothings", Calls, floods::table_of_nothings),
    ("unknown-kind", Calls, floods::unknown_kind),
    ("shared-answer", Answers, answers::shared_answer),
    ("empty-answer", Answers, answers::empty_answer),
    ("wrong-pointer-answer", Answers, answers::wrong_pointer_answer),
    ("huge-answers", Answers, answers::huge_answers),
    ("huge-errors", Answers, answers::huge_errors),
    ("promise-to-itself-called", Calls, promises::promise_to_itself_called),
    ("promise-to-our-promise", Calls, promises::promise_to_our_promise),
    ("promise-to-itself-disembargo", Calls, promises::promise_to_itself_disembargo),
    ("promise-chain-called", Calls, promises::promise_chain_called),
    ("promise-chain-dropped", Calls, promises::promise_chain_dropped),
    ("answer-chain", Calls, promises::answer_chain),
    ("promise-in-its-own-queue", Calls, promises::promise_in_its_own_queue),
    ("two-promises-are-one", Calls, promises::two_promises_are_one),
    ("queued-call-holds-another", Calls, promises::queued_call_holds_another),
    ("embargoes-not-returned", Calls, promises::embargoes_not_returned),
    ("header-claims-64-mib", Calls, frames::header_claims_64_mib),
    ("header-claims-30-mib", Calls, frames::header_claims_30_mib),
    ("half-a-frame", Calls, frames::half_a_frame),
    ("nothing-is-taken", Calls, frames::nothing_is_taken),
    ("deep-nesting", Calls, frames::deep_nesting),
];

/// The names of all attacks: those above and the small malformed messages.
pub fn names() -> Vec<String> {
    let small = (0..).take_while(|n| !frames::harmless(*n).is_empty());
    let rows = ATTACKS.iter().map(|(name, ..)| (*name).to_owned());
    rows.chain(small.map(|n| format!("small-{n}"))).collect()
}

fn kind(name: &str) -> Kind {
    ATTACKS.iter().find(|(known, ..)| *known == name).map_or(Calls, |(_, kind, _)| *kind)
}

/// Runs the attack, and tells whether the victim ended the connection.
fn attack(peer: &mut Raw, name: &str) -> bool {
    if let Some(number) = name.strip_prefix("small-").and_then(|n| n.parse().ok()) {
        peer.ask_bootstrap();
        peer.send(&frames::harmless(number));
    } else if let Some((_, _, attack)) = ATTACKS.iter().find(|(known, ..)| *known == name) {
        let end = Instant::now() + ATTACK;
        attack(peer, &Field { end, stop_at: usize::MAX });
    } else {
        eprintln!("no attack is called {name}");
        std::process::exit(2);
    }
    peer.is_cut_off(AFTER)
}

/// Waits for the victim's first call that carries a capability; answers it, and attacks that.
fn take_what_is_given(peer: &mut Raw, answer: bool) {
    peer.answer_bootstrap();
    let found = peer.receive_until(|m| match m.which() {
        Ok(message::Call(Ok(call))) => {
            let table = call.get_params().ok()?.get_cap_table().ok()?;
            match (!table.is_empty()).then(|| table.get(0).which()) {
                Some(Ok(cap_descriptor::SenderHosted(id))) => Some((call.get_question_id(), id)),
                _ => None,
            }
        }
        _ => None,
    });
    let Some((question, id)) = found else { return };
    peer.given = Some(id);
    if answer {
        peer.send(&return_with(question, |ret| {
            ret.init_results();
        }));
    }
}

fn inherited_socket() -> UnixStream {
    // SAFETY: by the contract of both doors that use this, descriptor 3 is a connected socket that
    // nothing else in this process knows.
    unsafe { UnixStream::from_raw_fd(3) }
}

/// An app: the supervisor is attacked on fd 3, over and over if it lets us.
pub fn app(name: &str) {
    BEHIND.store(SANDSTORM_API, Ordering::Relaxed);
    let mut peer = Raw::new(inherited_socket());
    let cut = attack(&mut peer, name);
    println!("ATTACK-DONE {name} cut={cut}");
    // The supervisor is looked at before we leave.
    std::thread::sleep(Duration::from_secs(60));
}

/// An app that floods its supervisor, and tells how many messages were taken.
pub fn flooding_app(name: &str, seconds: &str) {
    BEHIND.store(SANDSTORM_API, Ordering::Relaxed);
    let flood = crate::steady::FLOODS.iter().find(|(known, _)| *known == name);
    let (Some((_, flood)), Ok(seconds)) = (flood, seconds.parse()) else {
        eprintln!("no flood is called {name}");
        std::process::exit(2);
    };
    let mut peer = Raw::new(inherited_socket());
    println!("FLOOD-BEGINS {name}");
    let end = Instant::now() + Duration::from_secs(seconds);
    let taken = flood(&mut peer, &Field { end, stop_at: usize::MAX });
    println!("FLOOD-DONE {name} taken={taken} seconds={seconds}");
    std::thread::sleep(Duration::from_secs(60));
}

/// The word after `--home`.
fn home(words: &[&str]) -> Option<PathBuf> {
    let at = words.iter().position(|w| *w == "--home")?;
    words.get(at + 1).map(PathBuf::from)
}

/// In place of the supervisor: attacks for grains that have a file HOME/attacks/GRAIN with an
/// attack's name, and is the real one for all others.
pub fn supervisor(words: &[&str]) {
    let grain = words.iter().position(|w| *w == "--").and_then(|at| words.get(at.checked_sub(1)?));
    let chosen = home(words).zip(grain).and_then(|(home, grain)| {
        let name = std::fs::read_to_string(home.join("attacks").join(grain)).ok()?;
        Some((home.join("grains").join(grain).join("socket"), name.trim().to_owned()))
    });
    let Some((socket, name)) = chosen else { become_real("real-supervisor", words) };
    BEHIND.store(SANDSTORM_CORE, Ordering::Relaxed);
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).expect("the grain's directory is there");
    println!("Listening...");
    while let Ok((stream, _)) = listener.accept() {
        let mut peer = Raw::new(stream);
        if kind(&name) == Calls {
            take_what_is_given(&mut peer, true);
        }
        // The shell ends a supervisor that it has caught; then there is no second note.
        let _ = std::fs::write(socket.with_file_name("attacking"), &name);
        let cut = attack(&mut peer, &name);
        let note = socket.with_file_name("attacked");
        let _ = std::fs::write(note, format!("{name} cut={cut}\n"));
    }
}

/// In place of `spk`: attacks if the package (descriptor 4) says `ATTACK NAME`, and is the real one
/// if not.
pub fn unpacker(words: &[&str]) {
    let mut head = [0; 64];
    // SAFETY: reads into `head` within its length; a descriptor that is not there is an error.
    let n = unsafe { libc::pread(4, head.as_mut_ptr().cast(), head.len(), 0) };
    let head = String::from_utf8_lossy(&head[..usize::try_from(n).unwrap_or(0)]).into_owned();
    let Some(name) = head.strip_prefix("ATTACK ").and_then(|rest| rest.lines().next()) else {
        become_real("real-spk", words)
    };
    BEHIND.store(PROGRESS, Ordering::Relaxed);
    let mut peer = Raw::new(inherited_socket());
    if kind(name) == Calls {
        take_what_is_given(&mut peer, false);
    }
    let cut = attack(&mut peer, name);
    // The server shows this line in its log.
    eprintln!("ATTACK-DONE {name} cut={cut}");
}

/// A client of the control socket.
pub fn control(socket: &str, name: &str) {
    BEHIND.store(CONTROL, Ordering::Relaxed);
    let stream = UnixStream::connect(socket).expect("the server listens");
    let mut peer = Raw::new(stream);
    if kind(name) == Answers {
        // Nobody asks a client anything.
        println!("ATTACK-DONE {name} cut=never-asked");
        return;
    }
    let cut = attack(&mut peer, name);
    println!("ATTACK-DONE {name} cut={cut}");
}

fn beside_us() -> PathBuf {
    let own = std::env::args().next().unwrap_or_default();
    Path::new(&own).parent().map_or_else(PathBuf::new, Path::to_owned)
}

fn become_real(program: &str, words: &[&str]) -> ! {
    let error = std::process::Command::new(beside_us().join(program)).args(words).exec();
    eprintln!("{program}: {error}");
    std::process::exit(2);
}
