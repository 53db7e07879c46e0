//! The quality of media that comes to a socket: what an RTP stream (RFC 3550) shows of the network, and what that means for speech.
//!
//! Only headers are looked at. A socket that is not watched pays one comparison for each datagram.

mod emodel;
mod monitor;

pub use emodel::{Codec, Impairments, mos_of_r};
pub(crate) use monitor::Monitor;
pub use monitor::{MediaAlarms, MediaQuality, MediaWatch, WINDOW};
