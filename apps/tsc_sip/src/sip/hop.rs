//! Where messages go: a transport and an address.

use std::{fmt, net::SocketAddr};

/// What carries messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// Datagrams, which may be lost.
    #[default]
    Udp,
    /// A stream: whatever is sent arrives, or the connection fails.
    Tcp,
}

impl Transport {
    /// As it stands in a Via.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        }
    }

    /// Whether nothing gets lost, so that nothing has to be repeated.
    #[must_use]
    pub const fn is_reliable(self) -> bool {
        matches!(self, Self::Tcp)
    }
}

/// The next hop of a message. An address alone is one over UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hop {
    /// How.
    pub transport: Transport,
    /// Where to.
    pub address: SocketAddr,
}

impl Hop {
    /// A hop.
    #[must_use]
    pub const fn new(transport: Transport, address: SocketAddr) -> Self {
        Self { transport, address }
    }

    /// A hop over TCP.
    #[must_use]
    pub const fn tcp(address: SocketAddr) -> Self {
        Self::new(Transport::Tcp, address)
    }
}

impl From<SocketAddr> for Hop {
    fn from(address: SocketAddr) -> Self {
        Self::new(Transport::Udp, address)
    }
}

impl PartialEq<SocketAddr> for Hop {
    fn eq(&self, address: &SocketAddr) -> bool {
        *self == Self::from(*address)
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)?;
        match self.transport {
            Transport::Udp => Ok(()),
            Transport::Tcp => f.write_str(";transport=tcp"),
        }
    }
}
