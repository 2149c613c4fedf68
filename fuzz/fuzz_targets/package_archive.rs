//! A package's archive.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_entries::package::archive(data));
