//! What a service in force gives to a tunnel, as both ends tell it to their owners.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use tsc_tpl::{RedundancyMethod, ServiceType};

use crate::flow::FlowKey;
use crate::prefix::Prefix;

/// What a service gives (spec 7).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServiceGrant {
    /// STG: these prefixes are behind the client.
    RoutedPrefixes(Vec<Prefix>),
    /// Server keepalive: the server sends the Keepalives, for this interval; 0 is none at all.
    ServerKeepalive(Duration),
    /// Redundancy: the packets of this socket are repeated so often, in both directions; 0 is not at all, and measured.
    Redundancy {
        /// The socket.
        flow: FlowKey,
        /// Copies of each packet, or further tunnels that each goes over, or is spread over.
        copies: u8,
        /// Which of these.
        method: RedundancyMethod,
    },
    /// DDT: what the server sends to this socket goes over the datagram companion while there is one.
    Ddt(FlowKey),
    /// DTTE: this socket may use the protected companion, which has inner addresses of its own.
    Dtte(FlowKey),
    /// Peer: these two inner addresses may reach each other without the server.
    Peer {
        /// Of this tunnel.
        own: IpAddr,
        /// Of the other.
        peer: IpAddr,
    },
    /// A service of which this version only knows that it was granted.
    Other(ServiceType),
}

impl ServiceGrant {
    /// The service, by the value that enables it.
    #[must_use]
    pub const fn service(&self) -> ServiceType {
        match self {
            Self::RoutedPrefixes(_) => ServiceType::ENABLE_STG,
            Self::ServerKeepalive(_) => ServiceType::ENABLE_SERVER_KEEPALIVE,
            Self::Redundancy { .. } => ServiceType::ENABLE_REDUNDANCY,
            Self::Ddt(_) => ServiceType::ENABLE_DDT,
            Self::Dtte(_) => ServiceType::ENABLE_DTTE,
            Self::Peer { .. } => ServiceType::ENABLE_PEER,
            Self::Other(service) => service.enable(),
        }
    }
}

impl fmt::Display for ServiceGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RoutedPrefixes(prefixes) => {
                f.write_str("routed prefixes")?;
                prefixes
                    .iter()
                    .try_for_each(|prefix| write!(f, " {prefix}"))
            }
            Self::ServerKeepalive(interval) => {
                write!(f, "keepalives by the server, {} s", interval.as_secs())
            }
            Self::Redundancy {
                flow,
                copies,
                method,
            } => {
                let what = match *method {
                    RedundancyMethod::FAN_OUT => "further tunnels",
                    RedundancyMethod::LOAD_BALANCE => "further tunnels to choose from",
                    _ => "copies",
                };
                write!(f, "redundancy for {flow}, {copies} {what}")
            }
            Self::Ddt(flow) => write!(f, "datagrams for {flow}"),
            Self::Dtte(flow) => write!(f, "encryption for {flow}"),
            Self::Peer { own, peer } => write!(f, "peer tunnel of {own} with {peer}"),
            Self::Other(service) => service.fmt(f),
        }
    }
}
