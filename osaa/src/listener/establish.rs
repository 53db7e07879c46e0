//! From an accepted socket to a transport.

use std::{io, time::Duration};

use tokio::{net::TcpStream, time::timeout};

use crate::{
    cert::ServerSecurity,
    socket::StreamOptions,
    stream::{StreamError, StreamTransport},
    tls::TlsError,
};

/// First byte of a plain connection: a control message (spec 2).
const CONTROL_MESSAGE: u8 = 0x10;

/// First byte of a TLS connection: a handshake record.
const TLS_HANDSHAKE: u8 = 0x16;

/// Why a connection did not become a transport.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RefusalReason {
    /// The admission hook said no.
    #[error("not admitted")]
    NotAdmitted,
    /// Its source has too many connections that are not ready.
    #[error("too many unfinished connections from this source")]
    SourceLimit,
    /// There were too many unfinished connections, and this was the oldest.
    #[error("evicted, too many unfinished connections")]
    Evicted,
    /// It was not ready in time.
    #[error("not ready in time")]
    Timeout,
    /// It closed before it said anything.
    #[error("closed without a word")]
    Silent,
    /// Its first byte begins nothing that is spoken here.
    #[error("unknown protocol, first byte {0:#04x}")]
    FirstByte(u8),
    /// It speaks plain TSCF, which is not enabled here.
    #[error("plain connections are not enabled")]
    PlainDisabled,
    /// It speaks TLS, which is not enabled here.
    #[error("TLS is not enabled")]
    TlsDisabled,
    /// The TLS handshake failed.
    #[error("TLS handshake failed: {0}")]
    Tls(#[source] TlsError),
    /// The connection failed.
    #[error("connection failed: {0}")]
    Io(#[source] io::Error),
    /// The task that ran the handshake ended without a result.
    #[error("internal failure")]
    Internal,
}

/// What each connection's task needs.
#[derive(Clone)]
pub(super) struct Terms {
    pub(super) plain: bool,
    pub(super) tls: Option<ServerSecurity>,
    pub(super) deadline: Duration,
    pub(super) stream: StreamOptions,
}

/// Waits for the first byte, and under TLS for the handshake, until the deadline.
pub(super) async fn establish(
    socket: TcpStream,
    terms: Terms,
) -> Result<StreamTransport, RefusalReason> {
    timeout(terms.deadline, establish_inner(socket, &terms))
        .await
        .unwrap_or(Err(RefusalReason::Timeout))
}

async fn establish_inner(
    socket: TcpStream,
    terms: &Terms,
) -> Result<StreamTransport, RefusalReason> {
    let mut first = [0];
    // Peeked, so that the byte stays where whoever reads the stream finds it.
    if socket.peek(&mut first).await.map_err(RefusalReason::Io)? == 0 {
        return Err(RefusalReason::Silent);
    }
    match (first[0], &terms.tls) {
        (CONTROL_MESSAGE, _) if terms.plain => {
            StreamTransport::plain(socket, &terms.stream).map_err(RefusalReason::Io)
        }
        (CONTROL_MESSAGE, _) => Err(RefusalReason::PlainDisabled),
        (TLS_HANDSHAKE, Some(security)) => {
            StreamTransport::tls_server(socket, security, &terms.stream)
                .await
                .map_err(|error| match error {
                    StreamError::Tls(error) => RefusalReason::Tls(error),
                    StreamError::Io(error) => RefusalReason::Io(error),
                    other @ (StreamError::Closed
                    | StreamError::Truncated
                    | StreamError::Ended
                    | StreamError::BufferTooSmall { .. }) => {
                        RefusalReason::Io(io::Error::other(other.to_string()))
                    }
                })
        }
        (TLS_HANDSHAKE, None) => Err(RefusalReason::TlsDisabled),
        (other, _) => Err(RefusalReason::FirstByte(other)),
    }
}
