//! What a server gives to a client.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tsc_tpl::{ServiceType, Tsid};

use crate::transport::Transport;

/// An inner address as the client holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InnerAddress {
    /// The address; exactly this one may be used inside the tunnel (spec 8.1).
    pub address: IpAddr,
    /// Prefix length, for the inner stack's information.
    pub prefix_len: u8,
}

/// Another way to a server (TLV 32).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Alternate {
    /// Over what.
    pub transport: Transport,
    /// To where.
    pub address: SocketAddr,
}

/// A tunnel's configuration, as the server assigned it (spec 3.6).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Assignment {
    /// The tunnel's name at the server.
    pub tsid: Tsid,
    /// Transport that the tunnel is bound to now.
    pub transport: Transport,
    /// Inner addresses, at least one.
    pub addresses: Vec<InnerAddress>,
    /// SIP servers in order of preference.
    pub sip_servers: Vec<SocketAddr>,
    /// DNS servers in order of preference.
    pub dns_servers: Vec<IpAddr>,
    /// The client's outer address as the server sees it.
    pub nat_view: Option<SocketAddr>,
    /// Largest inner packet in either direction, in bytes.
    pub inner_mtu: u16,
    /// The server's keepalive time on this transport; zero is none.
    pub keepalive: Duration,
    /// How long the server keeps the tunnel without a transport; zero is for ever.
    pub persistence: Duration,
    /// Mark for outer packets, 0-63.
    pub dscp: Option<u8>,
    /// Services that the server can do.
    pub services: Vec<ServiceType>,
    /// Services in force after a resume; empty after a configuration.
    pub active_services: Vec<ServiceType>,
    /// Where else the tunnel can be resumed. Already filtered by what the client may follow.
    pub alternates: Vec<Alternate>,
}
