//! What is put around connections: counting, bytes that were read too early, and ends that are no good ends.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::report::{Counters, add};

/// A connection that can be broken off.
pub trait Reset {
    /// From now on dropping this resets the connection (RST): its peer must not take what it has got for everything.
    fn reset_on_drop(&self);
}

impl Reset for tokio::net::TcpStream {
    fn reset_on_drop(&self) {
        // The peer is gone then.
        let _ = self.set_zero_linger();
    }
}

impl Reset for tsc_tapi::TcpStream {
    fn reset_on_drop(&self) {
        let _ = self.set_zero_linger();
    }
}

/// The connection to a target, which counts what passes, as it passes.
#[derive(Debug)]
pub(crate) struct Counted<S> {
    stream: S,
    counters: Arc<Counters>,
}

impl<S> Counted<S> {
    pub(crate) const fn new(stream: S, counters: Arc<Counters>) -> Self {
        Self { stream, counters }
    }

    fn written(&self, result: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(len)) = result {
            add(&self.counters.bytes_out, *len as u64);
        }
    }
}

impl<S: Reset> Reset for Counted<S> {
    fn reset_on_drop(&self) {
        self.stream.reset_on_drop();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let read = buffer.filled().len().saturating_sub(before);
        add(&self.counters.bytes_in, read as u64);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, data);
        self.written(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, data);
        self.written(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The connection of a proxy's client: what came right behind its request is read first, and it is reset if what it was
/// being told broke off.
#[derive(Debug)]
pub(crate) struct Client<S: Reset> {
    early: Bytes,
    stream: S,
    broken: Arc<AtomicBool>,
}

impl<S: Reset> Client<S> {
    /// `broken` may be set at any time.
    pub(crate) const fn new(stream: S, broken: Arc<AtomicBool>) -> Self {
        Self {
            early: Bytes::new(),
            stream,
            broken,
        }
    }

    /// Puts back what was read too far.
    pub(crate) fn put_back(&mut self, early: Bytes) {
        self.early = early;
    }
}

impl<S: Reset> Drop for Client<S> {
    fn drop(&mut self) {
        if self.broken.load(Ordering::Relaxed) {
            self.stream.reset_on_drop();
        }
    }
}

impl<S: Reset> Reset for Client<S> {
    fn reset_on_drop(&self) {
        self.stream.reset_on_drop();
    }
}

impl<S: AsyncRead + Reset + Unpin> AsyncRead for Client<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let len = self.early.len().min(buffer.remaining());
        buffer.put_slice(self.early.get(..len).unwrap_or_default());
        self.early.advance(len);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Reset + Unpin> AsyncWrite for Client<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
