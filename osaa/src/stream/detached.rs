//! A connection on its way from one runtime to another.

use std::{fmt, io};

use tokio::net::TcpStream;

use super::{
    Socket,
    transport::{State, StreamTransport},
};
use crate::trace::StreamTap;

/// A [`StreamTransport`] without a runtime: nothing is read or sent until it is [attached](Self::attach) to one. All that
/// was queued, and under TLS all that was read ahead, goes with it.
pub struct DetachedStream {
    socket: std::net::TcpStream,
    tap: Option<Box<StreamTap>>,
    state: State,
}

impl StreamTransport {
    /// Takes the connection from its runtime, so that a task of another may have it.
    ///
    /// # Errors
    /// The runtime does not let go of the socket, or it is a TLS connection to a proxy; then the connection is closed.
    pub fn detach(self) -> io::Result<DetachedStream> {
        let Self { socket, state } = self;
        let (socket, tap) = socket.into_parts()?;
        Ok(DetachedStream { socket, tap, state })
    }
}

impl DetachedStream {
    /// Gives the connection to the runtime of the caller.
    ///
    /// # Errors
    /// The runtime does not take the socket; then the connection is closed.
    ///
    /// # Panics
    /// Outside of a runtime with I/O.
    pub fn attach(self) -> io::Result<StreamTransport> {
        let Self { socket, tap, state } = self;
        let socket = TcpStream::from_std(socket)?;
        Ok(StreamTransport {
            socket: Socket::from_parts(socket, tap),
            state,
        })
    }
}

impl fmt::Debug for DetachedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DetachedStream")
            .field("local", &self.state.local)
            .field("peer", &self.state.peer)
            .finish_non_exhaustive()
    }
}
