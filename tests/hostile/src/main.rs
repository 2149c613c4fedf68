//! A program that tries to break out of the box it runs in, one attack at a time.
//!
//! It is packed and run as a grain (`hostile-app all`), and run bare beside it, so that each
//! refusal is known to come from the sandbox and not from a machine that lacks the feature.
//! Every attack runs in a child of its own: a killed, stuck or changed child is an answer,
//! not the end of the run.
//!
//! Output, one line an attack, tab-separated: `ATTACK name verdict detail`, where the verdict is
//! `succeeded`, `refused`, `killed` or `stuck`; the last line is `ATTACKS-DONE count`.

mod attack;
mod files;
mod kernel;
mod layers;
mod mounts;
mod namespaces;
mod privilege;
mod processes;
mod sockets;
mod sys;

use attack::{Attack, Context};

/// Every attack, in the order in which they are tried.
fn table() -> Vec<Attack> {
    [
        mounts::ATTACKS,
        namespaces::ATTACKS,
        processes::ATTACKS,
        privilege::ATTACKS,
        sockets::ATTACKS,
        kernel::ATTACKS,
        files::ATTACKS,
    ]
    .concat()
}

const USAGE: &str = "usage: hostile-app list | all [NAME=VALUE…] | some ATTACK,… [NAME=VALUE…]
  list   one line an attack: name, layer that must stop it, whether it is safe to try bare, what it tries,
         and the layers without which it must succeed (`off LAYER…`) or why that is not shown (`none WHY`)
  all    tries them all; with bare=1 only those that are safe outside a sandbox
  NAME=VALUE: tcp=PORT (a listener outside), abstract=NAME (an abstract socket outside),
              shm=KEY (a System V segment outside), hold=SECONDS (stay afterwards)";

fn main() {
    let mut args = std::env::args().skip(1);
    let mode = args.next().unwrap_or_default();
    let only = if mode == "some" { args.next() } else { None };
    let chosen = |name: &str| only.as_ref().is_none_or(|list| list.split(',').any(|n| n == name));
    let context = Context::parse(args);
    match mode.as_str() {
        "list" => {
            for attack in table() {
                let bare = if attack.safe_bare { "bare" } else { "boxed-only" };
                let proof = match layers::proof(attack.name) {
                    layers::Proof::Without(layers) => format!("off {}", layers.join(" ")),
                    layers::Proof::Untried(why) => format!("none {why}"),
                };
                println!("{}\t{}\t{bare}\t{}\t{proof}", attack.name, attack.layer, attack.tries);
            }
        }
        "all" | "some" => {
            let mut count = 0;
            for attack in table() {
                if !chosen(attack.name) || (context.bare && !attack.safe_bare) {
                    continue;
                }
                let (verdict, detail) = attack.run(&context);
                println!("ATTACK\t{}\t{verdict}\t{detail}", attack.name);
                count += 1;
            }
            println!("ATTACKS-DONE\t{count}");
            std::thread::sleep(std::time::Duration::from_secs(context.hold_seconds));
        }
        "--suid-probe" => std::process::exit(sys::euid_differs() as i32),
        _ => {
            eprintln!("{USAGE}");
            std::process::exit(2);
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_unique_and_there_are_enough() {
        let table = super::table();
        let names: std::collections::BTreeSet<_> = table.iter().map(|a| a.name).collect();
        assert_eq!(names.len(), table.len());
        assert!(table.len() >= 60, "only {}", table.len());
    }
}
