//! How a socket is seen from outside: a STUN Binding request to the server, over the very socket (spec 7).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tsc_tpl::{StunKind, StunMessage, StunTransaction};

/// When the request is repeated, and given up: well within the 5 s that the server waits for an answer.
const WAITS: [Duration; 3] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_millis(1000),
];

/// The request under way.
#[derive(Debug)]
pub(super) struct Gather {
    server: SocketAddr,
    transaction: StunTransaction,
    sent: usize,
    due: Instant,
}

impl Gather {
    pub(super) const fn new(
        now: Instant,
        server: SocketAddr,
        transaction: StunTransaction,
    ) -> Self {
        Self {
            server,
            transaction,
            sent: 0,
            due: now,
        }
    }

    pub(super) const fn due(&self) -> Instant {
        self.due
    }

    /// The next transmission; `None` when nobody has answered.
    pub(super) fn next(&mut self, now: Instant) -> Option<(SocketAddr, Bytes)> {
        self.due = now + *WAITS.get(self.sent)?;
        self.sent += 1;
        let request = StunMessage::new(StunKind::Request, self.transaction);
        Some((self.server, request.encode().into()))
    }

    /// What a message tells of this socket: only the server's answer does.
    pub(super) fn seen(&self, from: SocketAddr, message: &StunMessage) -> Option<SocketAddr> {
        let is_ours = from == self.server && message.transaction == self.transaction;
        match message.kind {
            StunKind::Success(seen) if is_ours && seen.port() != 0 => Some(seen),
            StunKind::Success(_) | StunKind::Request | StunKind::Indication => None,
        }
    }
}
