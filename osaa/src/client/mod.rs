//! A client's transports: one shape for TCP, TLS, UDP and DTLS.
//!
//! [`connect`] resolves a [`Target`], tries its addresses in order, runs the handshake where there is one, and gives a
//! [`ClientTransport`]. What goes in and comes out are bytes of units: on streams without boundaries, on datagram
//! transports one datagram each.

mod connect;
mod datagram;
mod error;
mod proxied;
mod target;
mod transport;

pub use connect::{ConnectOptions, MAX_ADDRESSES, connect};
pub use datagram::DatagramTransport;
pub use error::{ConnectError, TransportError};
pub use target::{Host, InvalidHost, Target, TransportKind};
pub use transport::{ClientTransport, RECV_BUFFER, Received, Units};
