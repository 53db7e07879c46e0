//! Which host sockets are ready: one epoll instance inside the runtime's.
//!
//! The egress has thousands of sockets and one future. The kernel keeps the list of those that are ready, so a turn
//! costs what is ready, and an idle socket neither a waker nor an allocation of ours. Errors that the host learns about a
//! socket are readiness, too.

use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use mio::{Events, Interest, Token, event::Source};
use tokio::io::unix::AsyncFd;

/// Sockets that one turn looks at; the others keep.
const EVENTS: usize = 512;

/// What a token names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// The UDP mapping in this slot.
    Udp(usize),
    /// The TCP connection in this slot.
    Tcp(usize),
}

impl Name {
    const fn token(self) -> Token {
        match self {
            Self::Udp(slot) => Token(slot << 1),
            Self::Tcp(slot) => Token(slot << 1 | 1),
        }
    }

    const fn of(token: Token) -> Self {
        if token.0 & 1 == 0 {
            Self::Udp(token.0 >> 1)
        } else {
            Self::Tcp(token.0 >> 1)
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Reactor {
    poll: AsyncFd<mio::Poll>,
    events: Events,
}

impl Reactor {
    /// # Errors
    /// No file descriptor is left.
    ///
    /// # Panics
    /// Outside of a runtime with I/O.
    pub(super) fn new() -> io::Result<Self> {
        let poll = mio::Poll::new()?;
        #[allow(
            deprecated,
            reason = "what replaces it is unsafe, and asks that the descriptor is owned, as that of a mio::Poll is"
        )]
        let poll = AsyncFd::with_interest(poll, tokio::io::Interest::READABLE)?;
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS),
        })
    }

    /// Watches a socket, until it is closed. Its readiness is told once each time it comes.
    pub(super) fn watch(&self, source: &mut impl Source, name: Name) -> io::Result<()> {
        let interest = match name {
            Name::Udp(_) => Interest::READABLE,
            Name::Tcp(_) => Interest::READABLE | Interest::WRITABLE,
        };
        let registry = self.poll.get_ref().registry();
        registry.register(source, name.token(), interest)
    }

    /// Appends what has become ready, and arms `cx` if that is all. A name may be stale: then its slot is empty, or
    /// another has it, which is not ready. True if there may be more.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, ready: &mut Vec<Name>) -> bool {
        loop {
            let mut guard = match self.poll.poll_read_ready_mut(cx) {
                Poll::Ready(Ok(guard)) => guard,
                // The runtime is going away.
                Poll::Ready(Err(_)) | Poll::Pending => return false,
            };
            match guard
                .get_inner_mut()
                .poll(&mut self.events, Some(Duration::ZERO))
            {
                Ok(()) => {}
                // A signal came; nothing was lost.
                Err(_) => return true,
            }
            ready.extend(self.events.iter().map(|event| Name::of(event.token())));
            if self.events.iter().count() == EVENTS {
                return true;
            }
            // What comes from now on sets it again.
            guard.clear_ready();
        }
    }
}
