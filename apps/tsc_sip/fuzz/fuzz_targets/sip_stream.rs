//! A session description of any bytes.
#![no_main]

#[path = "../shared/sip_stream.rs"]
mod shared;

libfuzzer_sys::fuzz_target!(|data: &[u8]| shared::sip_stream(data));
