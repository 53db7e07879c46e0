//! Addresses, and what a tunnel is assigned.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tsc_tapi::TunnelConfig;

use crate::error::{Result, TscError};

/// An IP address, as text without brackets, and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, uniffi::Record)]
pub struct Address {
    /// IPv4 or IPv6; never a name: those are for `Tunnel.lookup_host`.
    pub ip: String,
    /// 0 to 65535.
    pub port: u16,
}

impl Address {
    pub(crate) fn parse(&self) -> Result<SocketAddr> {
        Ok(SocketAddr::new(ip(&self.ip)?, self.port))
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self {
            ip: address.ip().to_string(),
            port: address.port(),
        }
    }
}

pub(crate) fn ip(text: &str) -> Result<IpAddr> {
    let wrong = |_| TscError::invalid(format!("'{text}' is not an IP address"));
    text.parse().map_err(wrong)
}

/// How packets travel outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum Transport {
    /// Plain TCP.
    Tcp,
    /// TLS.
    Tls,
    /// Plain UDP.
    Udp,
    /// DTLS.
    Dtls,
}

impl From<tsc_tapi::Transport> for Transport {
    fn from(transport: tsc_tapi::Transport) -> Self {
        match transport {
            tsc_tapi::Transport::Tcp => Self::Tcp,
            tsc_tapi::Transport::Tls => Self::Tls,
            tsc_tapi::Transport::Udp => Self::Udp,
            tsc_tapi::Transport::Dtls => Self::Dtls,
        }
    }
}

/// What the server has assigned to a tunnel.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct TunnelConfiguration {
    /// Inner addresses, at least one.
    pub addresses: Vec<String>,
    /// SIP servers, the best first.
    pub sip_servers: Vec<Address>,
    /// DNS servers, the best first.
    pub dns_servers: Vec<String>,
    /// This host's outer address as the server sees it, behind all NATs.
    pub seen_as: Option<Address>,
    /// The longest inner packet, in bytes.
    pub inner_mtu: u16,
    /// How the tunnel travels now.
    pub transport: Transport,
    /// The tunnel's number at the server, for logs.
    pub tunnel_id: u64,
    /// The server's time between keepalives, which the library sends by itself; zero is none.
    pub keepalive: Duration,
    /// How long the server keeps the tunnel when it is without a transport; zero is for ever.
    pub persistence: Duration,
    /// The mark (DSCP) that the server asks for on outer packets.
    pub dscp: Option<u8>,
}

impl From<&TunnelConfig> for TunnelConfiguration {
    fn from(config: &TunnelConfig) -> Self {
        let addresses = config.addresses.iter();
        Self {
            addresses: addresses.map(|inner| inner.address.to_string()).collect(),
            sip_servers: config.sip_servers.iter().map(|&at| at.into()).collect(),
            dns_servers: config.dns_servers.iter().map(ToString::to_string).collect(),
            seen_as: config.nat_view.map(Into::into),
            inner_mtu: config.inner_mtu,
            transport: config.transport.into(),
            tunnel_id: config.tunnel_id,
            keepalive: config.keepalive,
            persistence: config.persistence,
            dscp: config.dscp,
        }
    }
}
