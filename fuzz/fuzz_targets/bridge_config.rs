//! The package's bridge configuration.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_entries::bridge::config(data));
