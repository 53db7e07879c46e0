//! What an HTTP proxy answers. The assertions are shared with the tests.
#![no_main]

#[path = "../shared/mod.rs"]
#[allow(dead_code, reason = "each target uses one of the functions")]
mod shared;

libfuzzer_sys::fuzz_target!(|data: &[u8]| shared::proxy(data));
