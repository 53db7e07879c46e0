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
}

impl CompanionRole {
    /// The transport of this companion of a tunnel over `main`; `None` where there is none.
    #[must_use]
    pub const fn transport(self, main: Transport) -> Option<Transport> {
        match (self, main) {
            (Self::Ddt, Transport::Tcp) => Some(Transport::Udp),
            (Self::Ddt, Transport::Tls) => Some(Transport::Dtls),
            (Self::Redundancy(_), Transport::Tcp | Transport::Tls) => Some(main),
            (_, Transport::Udp | Transport::Dtls) => None,
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
    /// Where it is opened, if not at the same address and port.
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
    /// What it has to be configured with: the addresses of the main tunnel.
    pub(crate) addresses: Vec<InnerAddress>,
}

/// `DDT`
impl fmt::Display for CompanionRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ddt => f.write_str("DDT"),
            Self::Redundancy(number) => write!(f, "redundancy {number}"),
        }
    }
}
