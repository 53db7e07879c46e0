//! What the server assigned to a tunnel.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tsc_csm::{Assignment, InnerAddress, Transport};

/// A tunnel's assigned configuration ("Server Assigned Configuration mode" of the SDK guide).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TunnelConfig {
    /// Inner addresses, at least one. Sockets bind to these or to the unspecified address.
    pub addresses: Vec<InnerAddress>,
    /// SIP servers, in order of preference.
    pub sip_servers: Vec<SocketAddr>,
    /// DNS servers, in order of preference.
    pub dns_servers: Vec<IpAddr>,
    /// This client's outer address as the server sees it: what is left of it after NATs.
    pub nat_view: Option<SocketAddr>,
    /// This end of the outer transport; `None` if that was lost again before it could be asked.
    pub outer_local: Option<SocketAddr>,
    /// The other end of the outer transport: the server, or the proxy that leads to it.
    pub outer_peer: Option<SocketAddr>,
    /// Largest inner IP packet in either direction, in bytes.
    pub inner_mtu: u16,
    /// Outer transport in use.
    pub transport: Transport,
    /// The tunnel's identifier at the server, for logs.
    pub tunnel_id: u64,
    /// The server's keepalive time on this transport; zero is none. The SDK sends keepalives by itself.
    pub keepalive: Duration,
    /// How long the server keeps the tunnel when it is without a transport; zero is for ever.
    pub persistence: Duration,
    /// DSCP that the server asks for on outer packets, 0-63.
    pub dscp: Option<u8>,
}

impl TunnelConfig {
    /// The first inner IPv4 address.
    #[must_use]
    pub fn ipv4(&self) -> Option<IpAddr> {
        self.address(IpAddr::is_ipv4)
    }

    /// The first inner IPv6 address.
    #[must_use]
    pub fn ipv6(&self) -> Option<IpAddr> {
        self.address(IpAddr::is_ipv6)
    }

    fn address(&self, family: impl Fn(&IpAddr) -> bool) -> Option<IpAddr> {
        self.addresses
            .iter()
            .map(|inner| inner.address)
            .find(family)
    }
}

impl From<Assignment> for TunnelConfig {
    fn from(assignment: Assignment) -> Self {
        Self {
            addresses: assignment.addresses,
            sip_servers: assignment.sip_servers,
            dns_servers: assignment.dns_servers,
            nat_view: assignment.nat_view,
            outer_local: None,
            outer_peer: None,
            inner_mtu: assignment.inner_mtu,
            transport: assignment.transport,
            tunnel_id: assignment.tsid.0,
            keepalive: assignment.keepalive,
            persistence: assignment.persistence,
            dscp: assignment.dscp,
        }
    }
}
