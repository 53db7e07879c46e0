//! TLS 1.2 and 1.3 by rustls, without sockets.
//!
//! rustls' unbuffered interface is used directly: records are opened out of the buffer that the caller read into,
//! and sealed into the buffer that will be written, so a session that waits holds no buffers at all (a partial record
//! is kept, as it must be). [`StreamTransport`](crate::stream::StreamTransport) joins it to a socket.
//!
//! Fixed by [`cert`](crate::cert): ALPN `tscf`, session tickets, no 0-RTT.

mod error;
mod session;
#[cfg(test)]
mod tests;

pub use error::TlsError;
pub use session::TlsInfo;
pub(crate) use session::{MIN_RECV_BUFFER, Role, TlsSession};
