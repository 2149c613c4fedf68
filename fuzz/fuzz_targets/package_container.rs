//! A package file: compression, signature, hash.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_entries::package::container(data));
