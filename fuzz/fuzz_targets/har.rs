#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| gitlab_runner::fuzzing::har::run(data));
