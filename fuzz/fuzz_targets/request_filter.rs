//! A browser's request on its way to an app.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_entries::request_filter(data));
