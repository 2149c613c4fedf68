//! A hostile RPC peer, by script, against a guarded vat.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: {
        // Rust's own `main`, which is not used here, would do this: a peer that has hung up is an
        // error to look at, not the end of the process.
        // SAFETY: no handler is installed, and no other thread runs yet.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    },
    |data: &[u8]| fuzz_entries::rpc_guard(data)
);
