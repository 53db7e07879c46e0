//! A session description of any bytes.
#![no_main]

#[path = "../shared/sdp.rs"]
mod shared;

libfuzzer_sys::fuzz_target!(|data: &[u8]| shared::sdp(data));
