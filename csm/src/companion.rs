//! Companions: second tunnels that belong to a main one (spec 7).

use std::fmt;
use std::net::SocketAddr;

use tsc_tpl::{Message, Tsid};

use crate::assignment::InnerAddress;
use crate::secret::Tag;
use crate::transport::Transport;

/// What a companion is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum CompanionRole {
    /// Dynamic datagram tunnel: carries datagrams of sockets beside a stream.
    Ddt,
    /// One of the further streams that carry what has redundancy; numbered from 0.
    Redundancy(u8),
    /// Dynamic tunnel traffic encryption: a protected tunnel beside a clear one, with inner addresses of its own.
    Dtte,
}

impl CompanionRole {
    /// The transport of this companion of a tunnel over `main`; `None` where there is none.
    #[must_use]
    pub const fn transport(self, main: Transport) -> Option<Transport> {
        match (self, main) {
            (Self::Ddt, Transport::Tcp) => Some(Transport::Udp),
            (Self::Ddt, Transport::Tls) => Some(Transport::Dtls),
            (Self::Redundancy(_), Transport::Tcp | Transport::Tls) => Some(main),
            // A tunnel that was configured on a clear transport may be on a protected one for now.
            (Self::Dtte, Transport::Tcp | Transport::Tls) => Some(Transport::Tls),
            (Self::Dtte, Transport::Udp | Transport::Dtls) => Some(Transport::Dtls),
            (Self::Ddt | Self::Redundancy(_), Transport::Udp | Transport::Dtls) => None,
        }
    }

    /// Whether it has the inner addresses of the main tunnel, and not its own.
    #[must_use]
    pub const fn shares_addresses(self) -> bool {
        match self {
            Self::Ddt | Self::Redundancy(_) => true,
            Self::Dtte => false,
        }
    }

    /// Where it is opened, unless its client is told: at this port of the address where the main tunnel is. `None` beyond the last.
    #[must_use]
    pub const fn default_port(self, main: u16) -> Option<u16> {
        match self {
            Self::Ddt | Self::Redundancy(_) => Some(main),
            Self::Dtte => main.checked_add(1),
        }
    }
}

/// A tunnel that a server has reserved, and the right to claim it.
#[derive(Clone, Debug)]
pub(crate) struct Reservation {
    pub(crate) tsid: Tsid,
    pub(crate) tag: Tag,
}

/// What a server offers to a client.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    pub(crate) role: CompanionRole,
    pub(crate) reservation: Reservation,
    /// Where it is opened, if not where it is by default.
    pub(crate) endpoint: Option<(Transport, SocketAddr)>,
}

impl Offer {
    /// Those of a service's success.
    pub(crate) fn read(answer: &Message<'_>, role: CompanionRole) -> impl Iterator<Item = Self> {
        let endpoint = answer.companion_endpoint();
        let endpoint = endpoint.and_then(|at| Some((Transport::from_code(at.transport)?, at.addr)));
        answer.companions().map(move |(tsid, tag)| Self {
            role,
            reservation: Reservation {
                tsid,
                tag: Tag::new(*tag.expose()),
            },
            endpoint,
        })
    }
}

/// What a client knows of the tunnel that it is about to claim.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(crate) reservation: Reservation,
    /// The inner addresses of the main tunnel, which it has to be configured with, or with others than these.
    pub(crate) addresses: Vec<InnerAddress>,
    /// Which of the two: [`CompanionRole::shares_addresses`].
    pub(crate) shares: bool,
}

impl Claim {
    /// Whether the tunnel was configured as it must be.
    pub(crate) fn fits(&self, tsid: Tsid, addresses: &[InnerAddress]) -> bool {
        let is_main = |inner: &InnerAddress| {
            let mut main = self.addresses.iter();
            main.any(|known| known.address == inner.address)
        };
        let fits = if self.shares {
            self.addresses == addresses
        } else {
            !addresses.iter().any(is_main)
        };
        fits && self.reservation.tsid == tsid
    }
}

/// `DDT`
impl fmt::Display for CompanionRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ddt => f.write_str("DDT"),
            Self::Redundancy(number) => write!(f, "redundancy {number}"),
            Self::Dtte => f.write_str("DTTE"),
        }
    }
}
