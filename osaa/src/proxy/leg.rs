//! The connection to a proxy while it is HTTP.

use std::io;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Body, Chunks, Head, HeadError, MAX_HEAD, ProxyError, parse_head};
use crate::stream::Socket;

/// Longest body that is read for keeping the connection. It is thrown away.
pub const MAX_BODY: usize = 64 * 1024;

/// Most interim answers (1xx) before the one that counts.
const MAX_INTERIM: usize = 4;

/// Read at a time.
const CHUNK: usize = 4096;

pub(super) struct Leg {
    socket: Socket,
    /// Read and not used: at most [`MAX_HEAD`] and [`CHUNK`].
    input: BytesMut,
    /// An answer came on it.
    pub(super) is_used: bool,
}

/// Why there is no answer.
pub(super) enum LegError {
    /// The connection ended without a byte of an answer.
    Gone,
    Other(ProxyError),
}

impl From<HeadError> for ProxyError {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::Garbage => Self::Garbage,
            HeadError::TooLong => Self::TooLong,
        }
    }
}

impl Leg {
    pub(super) fn new(socket: Socket) -> Self {
        Self {
            socket,
            input: BytesMut::new(),
            is_used: false,
        }
    }

    /// Sends a request and reads the head of its answer.
    pub(super) async fn ask(&mut self, request: &[u8]) -> Result<Head, LegError> {
        let sent = async {
            self.socket.write_all(request).await?;
            self.socket.flush().await
        };
        // Whoever refuses may close before everything is sent: the answer may be there nevertheless.
        let sent: io::Result<()> = sent.await;
        for _ in 0..=MAX_INTERIM {
            let head = self.head(sent.is_ok()).await?;
            self.is_used = true;
            if !(100..200).contains(&head.status) {
                return Ok(head);
            }
        }
        Err(LegError::Other(ProxyError::Garbage))
    }

    async fn head(&mut self, sent: bool) -> Result<Head, LegError> {
        loop {
            match parse_head(&self.input) {
                Ok(None) => {}
                Ok(Some((head, length))) => {
                    self.input.advance(length);
                    return Ok(head);
                }
                Err(error) => return Err(LegError::Other(error.into())),
            }
            self.input.reserve(CHUNK);
            match self.socket.read_buf(&mut self.input).await {
                Ok(1..) => {}
                Ok(0) if self.input.is_empty() => return Err(LegError::Gone),
                Ok(0) => return Err(LegError::Other(ProxyError::Cut)),
                Err(error) if self.input.is_empty() && (is_cut(&error) || !sent) => {
                    return Err(LegError::Gone);
                }
                Err(error) if is_cut(&error) => return Err(LegError::Other(ProxyError::Cut)),
                Err(error) => return Err(LegError::Other(ProxyError::Io(error))),
            }
        }
    }

    /// Reads the body to its end and throws it away, so that the connection can be used again. False if it cannot.
    pub(super) async fn drain(&mut self, head: &Head) -> bool {
        if !head.keeps {
            return false;
        }
        let mut chunks = Chunks::default();
        let mut length = match head.body {
            Body::Length(length) => usize::try_from(length).unwrap_or(usize::MAX),
            Body::Chunked => usize::MAX,
            Body::UntilClose => return false,
        };
        let mut left = MAX_BODY;
        loop {
            let taken = match head.body {
                Body::Chunked => match chunks.take(&self.input) {
                    Ok(taken) => taken,
                    Err(_) => return false,
                },
                Body::Length(_) | Body::UntilClose => self.input.len().min(length),
            };
            self.input.advance(taken);
            length -= taken;
            if length == 0 || chunks.is_done() {
                // An answer to nothing would be taken for one to the next request.
                return self.input.is_empty();
            }
            left = left.saturating_sub(taken);
            if left == 0 || (head.body != Body::Chunked && length > left) {
                return false;
            }
            self.input.reserve(CHUNK);
            if !matches!(self.socket.read_buf(&mut self.input).await, Ok(1..)) {
                return false;
            }
        }
    }

    /// The stream, once the proxy has opened the tunnel, and whether bytes have come in it already.
    pub(super) fn into_stream(self) -> (Socket, bool) {
        (self.socket, !self.input.is_empty())
    }
}

/// How connections end that somebody cuts off.
fn is_cut(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof
    )
}

const _: () = assert!(CHUNK < MAX_HEAD);
