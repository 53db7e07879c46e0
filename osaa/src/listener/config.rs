//! What a listener is told.

use std::{fmt, net::SocketAddr, time::Duration};

use crate::{
    cert::ServerSecurity,
    socket::{PortSharing, StreamOptions},
};

/// How a [`StreamListener`](super::StreamListener) accepts.
#[derive(Debug)]
#[non_exhaustive]
pub struct ListenerConfig {
    /// Whether plain connections (first byte `0x10`) are accepted. Off by default: clear transports protect nothing
    /// (spec 8.4).
    pub plain: bool,
    /// Accepts TLS (first byte `0x16`) with this.
    pub tls: Option<ServerSecurity>,
    /// From accepting a connection to its being ready; default 10 s (spec 8.3).
    pub handshake_timeout: Duration,
    /// Most connections between accepted and ready; beyond it the oldest is evicted. Default 1024.
    pub max_handshakes: usize,
    /// The same per source prefix (/32, /64); beyond it new ones are refused. Default 64.
    pub max_handshakes_per_source: usize,
    /// Connections that the kernel keeps until they are accepted. Default 1024.
    pub backlog: u16,
    /// Whether several listeners have the address. By default none but this.
    pub sharing: PortSharing,
    /// For each connection.
    pub stream: StreamOptions,
    /// Asked first for each connection.
    pub admission: Option<Admission>,
}

impl Default for ListenerConfig {
    fn default() -> Self {
        Self {
            plain: false,
            tls: None,
            handshake_timeout: Duration::from_secs(10),
            max_handshakes: 1024,
            max_handshakes_per_source: 64,
            backlog: 1024,
            sharing: PortSharing::Alone,
            stream: StreamOptions::server(),
            admission: None,
        }
    }
}

/// A say in whether a connection is accepted at all, before anything is done for it: rate limits and totals per
/// source prefix (spec 8.3).
pub struct Admission(Box<dyn FnMut(SocketAddr) -> bool + Send>);

impl Admission {
    /// `admit` gets the peer's address and returns whether it may go on. It must not block.
    #[must_use]
    pub fn new(admit: impl FnMut(SocketAddr) -> bool + Send + 'static) -> Self {
        Self(Box::new(admit))
    }

    pub(super) fn admits(&mut self, peer: SocketAddr) -> bool {
        (self.0)(peer)
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Admission")
    }
}
