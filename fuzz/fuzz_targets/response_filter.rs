//! An app's answer on its way to a browser.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_entries::response_filter(data));
