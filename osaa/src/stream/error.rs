//! How a stream ends.

use std::io;

use crate::tls::TlsError;

/// Why a stream ended, or a call on it was refused. Except for [`Self::BufferTooSmall`] the stream is over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The peer has ended the connection in order (FIN; with TLS after close_notify).
    #[error("closed by the peer")]
    Closed,
    /// The connection ended without close_notify: cut off by someone on the path, or a peer that died.
    #[error("the TLS connection was cut off (no close_notify)")]
    Truncated,
    /// The record layer failed.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The operating system reports a failure: reset, timed out, unreachable.
    #[error("connection failed: {0}")]
    Io(#[from] io::Error),
    /// The stream had ended before; its first error was reported then.
    #[error("the stream has ended")]
    Ended,
    /// The caller's receive buffer is shorter than [`MIN_RECV_BUFFER`](super::MIN_RECV_BUFFER). Nothing happened.
    #[error("receive buffer of {len} bytes is too small")]
    BufferTooSmall {
        /// Its length.
        len: usize,
    },
}

/// Why a unit was not taken for sending. Nothing of it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// The output buffer is full: the peer or the path is slow. Flush, then try again, or drop the unit.
    #[error("output buffer full")]
    Full,
    /// The unit is longer than the whole output buffer.
    #[error("unit of {len} bytes exceeds the output buffer of {limit}")]
    TooLong {
        /// The unit.
        len: usize,
        /// [`send_limit`](crate::socket::StreamOptions::send_limit).
        limit: usize,
    },
    /// The stream has ended or is being shut down.
    #[error("the stream has ended")]
    Ended,
}
