//! What must hold for any bytes: one file for each fuzz target, which takes that alone. Corpus replay and property tests take all.

pub(crate) mod msrp;
pub(crate) mod rtp_rtcp;
pub(crate) mod sdp;
pub(crate) mod sip_message;
pub(crate) mod sip_stream;
