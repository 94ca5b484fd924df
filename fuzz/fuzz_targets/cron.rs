#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| punctual::fuzz::cron(data));
