//! RTP and RTCP packets of any bytes, one after the other.
#![no_main]

#[path = "../shared/rtp_rtcp.rs"]
mod shared;

libfuzzer_sys::fuzz_target!(|data: &[u8]| shared::rtp_rtcp(data));
