//! A program that takes whatever it is not kept from taking: an app in a grain, and, under the
//! names of our own programs, a hostile peer on each RPC door.
//!
//! - `greedy-app serve ADDR`: a web server whose pages start hogs and give endless answers;
//! - `greedy-app hog NAME`: one hog, see `hogs.rs`;
//! - `greedy-app rpc NAME`: an app on fd 3 that attacks its supervisor, see `doors.rs`;
//! - `greedy-app flood NAME SECONDS`: one that breaks no rule and only goes too fast, see `steady.rs`;
//! - as `sandstorm-supervisor`, as `spk`, and as `greedy-app control SOCKET NAME`: a hostile
//!   supervisor, unpacker and control client, which attack the shell.
//!
//! The attacks on RPC are those of `crates/sandstorm-schema/tests/rpc_attacks`, byte for byte:
//! there against a vat of the library, from here against the programs.

mod doors;
mod hogs;
mod serve;
mod steady;

#[path = "../../../crates/sandstorm-schema/tests/rpc_attacks/answers.rs"]
mod answers;
#[path = "../../../crates/sandstorm-schema/tests/rpc_attacks/floods.rs"]
mod floods;
#[path = "../../../crates/sandstorm-schema/tests/rpc_attacks/frames.rs"]
#[allow(dead_code)] // its one that reads a number from the environment
mod frames;
#[path = "../../../crates/sandstorm-schema/tests/rpc_attacks/promises.rs"]
mod promises;

mod memory;
mod rpc_support;
mod victim;

/// How long an attack goes on that has no end of its own.
const ATTACK: std::time::Duration = std::time::Duration::from_millis(500);

const USAGE: &str = "usage: greedy-app serve ADDR:PORT | hog NAME | rpc NAME | attacks | \
                     flood NAME SECONDS | floods | control SOCKET NAME";

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let name = args.first().and_then(|a| a.rsplit('/').next()).unwrap_or_default();
    let words: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
    match (name, words.as_slice()) {
        ("sandstorm-supervisor", _) => doors::supervisor(&words),
        ("spk", _) => doors::unpacker(&words),
        (_, ["serve", address]) => serve::main(address),
        (_, ["hog", hog]) => hogs::main(hog),
        (_, ["rpc", name]) => doors::app(name),
        (_, ["attacks"]) => doors::names().iter().for_each(|name| println!("{name}")),
        (_, ["flood", name, seconds]) => doors::flooding_app(name, seconds),
        (_, ["floods"]) => steady::FLOODS.iter().for_each(|(name, _)| println!("{name}")),
        (_, ["control", socket, name]) => doors::control(socket, name),
        _ => {
            eprintln!("{USAGE}");
            std::process::exit(2);
        }
    }
}
