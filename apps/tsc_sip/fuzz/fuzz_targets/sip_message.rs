//! One SIP datagram of any bytes.
#![no_main]

#[path = "../shared/sip_message.rs"]
mod shared;

libfuzzer_sys::fuzz_target!(|data: &[u8]| shared::sip_message(data));
