//! Any datagrams and streams, with time passing, at a client.
#![no_main]

#[path = "../shared/mod.rs"]
mod shared;

libfuzzer_sys::fuzz_target!(|data: &[u8]| shared::client(data));
