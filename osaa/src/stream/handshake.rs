//! The TLS handshake over a socket. Deadlines are the caller's.

use std::{io, sync::Arc, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{Socket, StreamError};
use crate::{
    tls::{Role, TlsError, TlsSession},
    trace::ConnectionSecrets,
};

/// Input is read in pieces of this size; a handshake rarely has more than one.
const CHUNK: usize = 4096;

/// How long a failed connection is kept so that the alert arrives. Closing at once would reset the
/// connection if the peer has sent something meanwhile, and the reset discards the alert.
const LINGER: Duration = Duration::from_secs(1);

/// Most bytes that are read and thrown away while lingering.
const LINGER_BYTES: usize = 256 * 1024;

/// Runs the handshake to its end.
pub(super) async fn handshake(
    socket: &mut Socket,
    role: &Role<'_>,
    secrets: Option<&Arc<ConnectionSecrets>>,
) -> Result<TlsSession, StreamError> {
    let mut session = TlsSession::new(role, secrets)?;
    let mut wire = BytesMut::new();
    let mut chunk = vec![0; CHUNK];
    let mut input = 0;
    loop {
        let progress = session.handshake(chunk.get(..input).unwrap_or_default(), &mut wire);
        // On failure this is the alert that tells the peer why.
        let sent = async {
            socket.write_all_buf(&mut wire).await?;
            socket.flush().await
        }
        .await;
        match (progress, sent) {
            (Err(error), sent) => {
                if sent.is_ok() {
                    linger(socket).await;
                }
                return Err(error.into());
            }
            (Ok(_), Err(error)) => {
                return Err(
                    refusal(socket, &mut session, &mut chunk).unwrap_or_else(|| error.into())
                );
            }
            (Ok(true), Ok(())) => return Ok(session),
            (Ok(false), Ok(())) => {}
        }
        input = socket.read(&mut chunk).await?;
        if input == 0 {
            return Err(TlsError::ClosedInHandshake.into());
        }
    }
}

/// A peer that refuses us sends an alert and closes; our write then fails before we have read why.
fn refusal(socket: &mut Socket, session: &mut TlsSession, chunk: &mut [u8]) -> Option<StreamError> {
    let mut unsent = BytesMut::new();
    while let Ok(len @ 1..) = socket.try_read(chunk) {
        if let Err(error) = session.handshake(chunk.get(..len)?, &mut unsent) {
            return Some(error.into());
        }
    }
    None
}

/// Ends our direction and reads the peer's until it ends too, for [`LINGER`] and [`LINGER_BYTES`] at most.
pub(super) async fn linger(socket: &mut Socket) {
    let drain = async {
        socket.shutdown().await?;
        let mut chunk = vec![0; CHUNK];
        let mut left = LINGER_BYTES;
        while left > 0 {
            match socket.read(&mut chunk).await? {
                0 => break,
                len => left = left.saturating_sub(len),
            }
        }
        Ok::<(), io::Error>(())
    };
    // The connection is over whatever comes of this.
    drop(timeout(LINGER, drain).await);
}
