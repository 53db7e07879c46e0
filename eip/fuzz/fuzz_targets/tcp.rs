//! Two stacks with TCP connections, a hostile network between them, and operations from the input. The assertions are
//! shared with the tests.
#![no_main]

#[path = "../../tests/it/fuzz_tcp.rs"]
mod fuzz_tcp;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_tcp::tcp(data));
