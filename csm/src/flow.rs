//! Flow keys: what names a socket's traffic on the wire (spec 1, 7).

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use tsc_tpl::{ConnectionInfo, Flow, IpPacket, Tlv, TransportCode};

/// Most flow keys of one tunnel that have a service (spec 7).
pub const MAX_FLOWS: usize = 64;

const TCP: u8 = 6;

/// What a socket of the client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InnerTransport {
    /// Inner TCP.
    Tcp,
    /// Inner UDP.
    Udp,
}

/// A socket of the client, for both ends: its inner transport and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowKey {
    /// What it speaks.
    pub transport: InnerTransport,
    /// The client's inner port.
    pub port: u16,
}

impl FlowKey {
    /// The key of the socket that sent a packet; `None` for fragments and what has no ports.
    #[must_use]
    pub fn of_source(packet: &IpPacket<'_>) -> Option<Self> {
        let (port, _) = packet.ports()?;
        Some(Self::of(packet, port))
    }

    /// The key of the socket that a packet is for.
    #[must_use]
    pub fn of_destination(packet: &IpPacket<'_>) -> Option<Self> {
        let (_, port) = packet.ports()?;
        Some(Self::of(packet, port))
    }

    fn of(packet: &IpPacket<'_>, port: u16) -> Self {
        let transport = if packet.protocol() == TCP {
            InnerTransport::Tcp
        } else {
            InnerTransport::Udp
        };
        Self { transport, port }
    }

    /// What a request names; `None` if it names no socket.
    pub(crate) fn read(flow: &Flow) -> Option<Self> {
        let transport = match flow.transport {
            TransportCode::TCP => InnerTransport::Tcp,
            TransportCode::UDP => InnerTransport::Udp,
            _ => return None,
        };
        let port = flow.source.port();
        (port != 0).then_some(Self { transport, port })
    }

    /// Connection_Info for this key, of a socket with this inner address; its destination is *any*.
    pub(crate) fn tlv(self, local: SocketAddr) -> Tlv<'static> {
        let transport = match self.transport {
            InnerTransport::Tcp => TransportCode::TCP,
            InnerTransport::Udp => TransportCode::UDP,
        };
        match local {
            SocketAddr::V4(source) => Tlv::ConnectionInfoIpv4(ConnectionInfo {
                transport,
                source,
                destination: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0),
            }),
            SocketAddr::V6(source) => Tlv::ConnectionInfoIpv6(ConnectionInfo {
                transport,
                source,
                destination: SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0),
            }),
        }
    }
}

/// `UDP 4000`
impl fmt::Display for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = match self.transport {
            InnerTransport::Tcp => "TCP",
            InnerTransport::Udp => "UDP",
        };
        write!(f, "{transport} {}", self.port)
    }
}
