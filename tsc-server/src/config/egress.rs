//! What a configuration says about the way out of tunnels: egress, protocol policies and data flows.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;

use super::model::{Keyword, keywords};

/// Most `[[tscf-protocol-policy]]` that one pool may name. They are tried in order for each packet.
pub const MAX_POLICIES: usize = 64;

/// Highest rate of a data flow in KB/s (the vendor's upper limit: 1 Gbit/s).
pub const MAX_RATE: u32 = 122_070;

/// Largest `group-size` of a data flow (the vendor's upper limit).
pub const MAX_GROUP: u16 = 256;

keywords! {
    /// How packets leave tunnels for addresses that no tunnel has.
    pub enum Egress {
        /// Not at all: there are only tunnels.
        Switch = "switch",
        /// By sockets of the server's host. Needs no privileges. The default.
        UserSpace = "user-space",
        /// By a TUN device, as IP packets, to be routed by the host.
        Tun = "tun",
    }
}

keywords! {
    /// What becomes of packets that a policy matches.
    pub enum PolicyEgress {
        /// They may reach other tunnels only.
        Switch = "switch",
        /// As [`Egress::UserSpace`].
        UserSpace = "user-space",
        /// As [`Egress::Tun`].
        Tun = "tun",
        /// They are dropped, and their sender is told by ICMP.
        Drop = "drop",
    }
}

impl PolicyEgress {
    /// The egress, unless packets are dropped.
    #[must_use]
    pub const fn egress(self) -> Option<Egress> {
        match self {
            Self::Switch => Some(Egress::Switch),
            Self::UserSpace => Some(Egress::UserSpace),
            Self::Tun => Some(Egress::Tun),
            Self::Drop => None,
        }
    }
}

keywords! {
    /// Transports that a policy matches.
    pub enum TransportType {
        /// All, and what is neither TCP nor UDP.
        Any = "any",
        /// UDP.
        Udp = "udp",
        /// TCP, and hence TLS.
        Tcp = "tcp",
    }
}

/// `[[tscf-protocol-policy]]`: what becomes of inner packets to some destinations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyConfig {
    /// `name`, unique.
    pub name: String,
    /// `ip-address`: the inner destination, one address or a network; `None` matches all.
    pub destination: Option<IpNet>,
    /// `port`: the inner destination port; `None` matches all, and packets without ports.
    pub ports: Option<RangeInclusive<u16>>,
    /// `transport-type`.
    pub transport: TransportType,
    /// `egress`; `None` is that of the pool.
    pub egress: Option<PolicyEgress>,
    /// `remote-ip-address`: the destination that takes the place of the packet's; of the same family.
    pub remote_address: Option<IpAddr>,
    /// `remote-port`: the port that takes the place of the packet's.
    pub remote_port: Option<u16>,
}

/// `[[tscf-data-flow]]`: rates for the tunnels of pools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFlowConfig {
    /// `name`, unique.
    pub name: String,
    /// `group-size`: how many neighbouring addresses of a pool share the rates. A power of two up to [`MAX_GROUP`].
    pub group_size: u16,
    /// `upstream-rate`: from the tunnels of a group, in KB/s (1 KB is 1024 bytes); 0 is unlimited.
    pub upstream_rate: u32,
    /// `downstream-rate`: the same towards the tunnels.
    pub downstream_rate: u32,
}

keywords! {
    /// Which hosts may send to a UDP mapping (RFC 4787, section 5).
    pub enum UdpFiltering {
        /// All.
        EndpointIndependent = "endpoint-independent",
        /// Those that were sent to, from any port. The default.
        AddressDependent = "address-dependent",
        /// Those that were sent to, from the port that was sent to.
        AddressAndPortDependent = "address-and-port-dependent",
    }
}

/// `[user-space-egress]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserSpaceConfig {
    /// `udp-mappings`: UDP sockets of the host, for all tunnels.
    pub udp_mappings: u32,
    /// `udp-mappings-per-tunnel`.
    pub udp_mappings_per_tunnel: u32,
    /// `udp-timeout`: how long a mapping lives without traffic; at least 2 minutes (RFC 4787, section 4.3).
    pub udp_timeout: Duration,
    /// `udp-port-range`: ports of the host to use; `None` leaves the choice to the system.
    pub udp_ports: Option<RangeInclusive<u16>>,
    /// `udp-filtering`.
    pub udp_filtering: UdpFiltering,
    /// `tcp-connections`: of all tunnels.
    pub tcp_connections: u32,
    /// `tcp-connections-per-tunnel`.
    pub tcp_connections_per_tunnel: u32,
    /// `tcp-timeout`: how long a connection lives without traffic; at least 2 h 4 min by default (RFC 5382, section 5).
    pub tcp_timeout: Duration,
    /// `tcp-connect-timeout`: how long the host may take to connect.
    pub tcp_connect_timeout: Duration,
    /// `allow-destinations`: networks that may be reached though they are denied, by default or by `deny`.
    pub allow: Vec<IpNet>,
    /// `deny-destinations`: networks that may not be reached, besides loopback, link-local, multicast and others
    /// that are no hosts elsewhere.
    pub deny: Vec<IpNet>,
}

impl Default for UserSpaceConfig {
    fn default() -> Self {
        Self {
            udp_mappings: 16_384,
            udp_mappings_per_tunnel: 256,
            udp_timeout: Duration::from_secs(300),
            udp_ports: None,
            udp_filtering: UdpFiltering::AddressDependent,
            tcp_connections: 8192,
            tcp_connections_per_tunnel: 256,
            tcp_timeout: Duration::from_secs(7440),
            tcp_connect_timeout: Duration::from_secs(20),
            allow: Vec::new(),
            deny: Vec::new(),
        }
    }
}

/// `[tun-egress]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunEgressConfig {
    /// `descriptor`: name of a TUN device that the service manager hands in (`LISTEN_FDNAMES`). Without it the
    /// server makes a device of its own, for which it needs `CAP_NET_ADMIN` until it has started.
    pub descriptor: Option<String>,
    /// `name` of the device; `None` leaves it to the system.
    pub name: Option<String>,
    /// `addresses` of the host on the device, with their prefix lengths.
    pub addresses: Vec<IpNet>,
    /// `routes` to the device. `None` covers the pools that use it.
    pub routes: Option<Vec<IpNet>>,
    /// `mtu` of the device, 576-9000. `None` is the largest inner MTU of all interfaces.
    pub mtu: Option<u16>,
    /// `queues`, 1-16.
    pub queues: u8,
    /// `offload`: take and give trains of segments (GSO, GRO).
    pub offload: bool,
}

impl Default for TunEgressConfig {
    fn default() -> Self {
        Self {
            descriptor: None,
            name: None,
            addresses: Vec::new(),
            routes: None,
            mtu: None,
            queues: 1,
            offload: true,
        }
    }
}
