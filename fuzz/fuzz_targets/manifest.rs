//! A package's manifest.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_entries::package::manifest(data));
