//! Cookies of a browser on their way to an app, and back.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_entries::cookie_filter(data));
