//! A hostile RPC peer, by script, against a guarded vat.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_entries::rpc_guard(data));
