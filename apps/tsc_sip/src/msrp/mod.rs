//! MSRP (RFC 4975): messages of any length in chunks over a connection, sans-IO.
//!
//! ```text
//!   Session     messages to chunks and back, responses, reports, time-outs
//!   Decoder     bytes of a stream to heads, pieces of bodies and end lines; Chunk: the way back
//!   MsrpUri     addresses;  Coverage: which bytes of a message there are
//! ```
//!
//! A [`Session`] is fed with [`handle_input`](Session::handle_input) and [`handle_timeout`](Session::handle_timeout), then
//! `poll_transmit`, `poll_event` and `poll_timeout` are drained. [`Channel`] drives it over a stream, and
//! [`Switchboard`] finds the session of each connection that comes in.
//!
//! One session has one connection here, so a peer that wants to use one connection for several sessions gets 481 for the
//! second. Relays (RFC 4976) are talked to if the peer's path names them, and are not used by us.

mod channel;
mod coverage;
mod decode;
mod inbox;
mod message;
mod session;
mod switchboard;
mod uri;

pub use channel::{Channel, ChannelError};
pub use coverage::{Coverage, TooManyGaps};
pub use decode::{DecodeError, Decoder, Item};
pub use inbox::{Inbox, Text};
pub use message::{ByteRange, Chunk, Flag, Head, Malformed, Method, Start, status};
pub use session::{Config, Event, MessageId, SendError, Session};
pub use switchboard::{Arrival, Arrivals, Switchboard};
pub use uri::{MsrpUri, MsrpUriError, parse_path};

/// Limits of the reader and of a session. The length of chunks that are sent is RFC 4975's, the others are ours.
pub mod limits {
    /// Bytes of a chunk's body as we send them; larger chunks would have to be interruptible (RFC 4975 7.1.1). Chunks
    /// that come may have any length: they are not gathered.
    pub const CHUNK: usize = 2048;
    /// Bytes of a chunk's first line and header fields.
    pub const HEAD: usize = 8192;
    /// Header lines of a chunk.
    pub const HEADER_LINES: usize = 64;
    /// URIs of a path.
    pub const PATH: usize = 16;
    /// Bytes of a body that are handed on in one piece.
    pub const PIECE: usize = 16_384;
    /// Gaps in a message that comes in disorder.
    pub const GAPS: usize = 64;
    /// Messages of one session that are on their way to us at the same time.
    pub const INCOMING: usize = 16;
    /// Messages of one session that are on their way from us at the same time.
    pub const OUTGOING: usize = 64;
    /// Chunks of one session that wait for their response at the same time.
    pub const TRANSACTIONS: usize = 32;
}
