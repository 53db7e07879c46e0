//! TCP connections, plain or under TLS, at either end.
//!
//! A [`StreamTransport`] is polled. A client's driver awaits it; a server's worker owns thousands, each
//! polled with a waker of its own that says which stream is ready. What costs memory is bounded and given back:
//!
//! - input is read into a buffer that the *caller* lends to each [`poll_recv`](StreamTransport::poll_recv) (one buffer serves
//!   all streams of a worker); only part of a TLS record stays behind, in a small buffer that goes away with the rest;
//! - output is written through where the socket takes it, all of a turn at once; what it does not take waits in a queue
//!   that also goes away when it is empty.
//!
//! That queue is *ours*: little is handed to a kernel that cannot send it (TCP_NOTSENT_LOWAT), because there nothing can be
//! overtaken or dropped any more. It sends control messages first, then signalling, then media, then all else
//! ([`UnitClass`]). Media waits for [`media_time`](crate::socket::StreamOptions::media_time) at most, then the oldest is
//! dropped; bulk data has [`send_limit`](crate::socket::StreamOptions::send_limit) bytes and is kept short by CoDel (RFC 8289).
//!
//! A reader that falls behind can have its peers hold back as well ([`limit_unread`](StreamTransport::limit_unread)): what waits
//! in the system's receive buffers is beyond the reach of all of this.
//!
//! Units are never split between calls: a unit is taken whole or not at all, so a caller that is told
//! "full" can drop or keep whole packets.

mod class;
mod codel;
mod detached;
mod error;
mod handshake;
mod queue;
mod socket;
mod transport;

pub use class::UnitClass;
pub use detached::DetachedStream;
pub use error::{QueueError, StreamError};
pub use queue::QueueDrops;
pub use socket::Socket;
pub use transport::{MIN_RECV_BUFFER, RECV_BUFFER, StreamTransport};
