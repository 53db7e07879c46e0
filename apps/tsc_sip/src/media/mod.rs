//! Speech over RTP (RFC 3550, RFC 3551): G.711, WAV files, sending at a 20 ms clock, what arrived, what was heard of it, and how good it was.
//!
//! [`MediaSession`] is one call's media, sans-IO: [`tick`](MediaSession::tick) gives the next packet,
//! [`handle_rtp`](MediaSession::handle_rtp) and [`handle_rtcp`](MediaSession::handle_rtcp) take what arrives.
//! [`MediaClock`] drives all sessions of a program from one ticker.

mod clock;
mod codec;
mod conceal;
mod playout;
mod receive;
mod rtcp;
mod session;
mod wav;

pub use clock::{MediaClock, MediaStream};
pub use codec::{Codec, SAMPLE_RATE, SAMPLES_PER_PACKET};
pub use playout::{Playout, PlayoutDelay, PlayoutStats};
pub use receive::{ReceiveStats, Received, Receiver};
pub use rtcp::{ReceptionReport, RtcpError, RtcpReport, SenderInfo};
pub use session::{MediaConfig, MediaReport, MediaSession, RemoteView, Source};
pub use wav::{Audio, WavError};
