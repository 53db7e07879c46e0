//! SIP messages (RFC 3261): a strict little reader and a writer that cannot produce what the reader refuses.
//!
//! What every message must carry is parsed into types ([`Head`]); other header fields stay text.
//! The reader accepts what the RFC calls valid (folded lines, compact forms, odd spacing, unknown parameters)
//! within the limits of [`limits`], and refuses the rest with a reason.

mod grammar;
mod header;
mod hop;
mod message;
mod names;
mod parse;
pub mod stream;
mod uri;

pub use header::{CSeq, Contacts, NameAddr, Params, Via};
pub use hop::{Hop, Transport};
pub use message::{Head, Header, Message, Request, Response};
pub use names::{HeaderName, Method, StatusCode};
pub use parse::ParseError;
pub use uri::{DEFAULT_PORT, Host, SipUri, Uri, UriError};

pub(crate) use grammar::auth_params;

/// Limits of the reader. Ours; they bound what one message can cost.
pub mod limits {
    /// Bytes of a whole message.
    pub const MESSAGE: usize = 16_384;
    /// Header lines of a message, after unfolding.
    pub const HEADER_LINES: usize = 128;
    /// Parameters of one header value or URI.
    pub const PARAMS: usize = 32;
    /// Values of one list header (Via, Route, Contact) over all its lines.
    pub const LIST: usize = 64;
}
