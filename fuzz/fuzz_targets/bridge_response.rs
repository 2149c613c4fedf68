//! An app's answer, as the bridge reads it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_entries::bridge::response(data));
