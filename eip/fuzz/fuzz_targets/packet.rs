//! Arbitrary packets, raw and repaired, into a stack with sockets. The assertions are shared with the tests.
#![no_main]

#[path = "../../tests/it/fuzz.rs"]
#[allow(dead_code, reason = "each target uses one of the functions")]
mod fuzz;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::packet(data));
