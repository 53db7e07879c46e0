//! Outer addresses of clients, and who may be sent to which.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use tsc_tpl::{ConnectionInfo, Flow, Tlv};

use crate::transport::Transport;

/// Most candidates of one end (spec 7).
pub const MAX_CANDIDATES: usize = 4;

/// An outer address by which a client may be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    /// Over what.
    pub transport: Transport,
    /// At which address.
    pub address: SocketAddr,
}

impl Candidate {
    /// For datagrams as they are.
    pub(crate) const fn udp(address: SocketAddr) -> Self {
        let transport = Transport::Udp;
        Self { transport, address }
    }

    /// Connection_Info with this source and any destination.
    pub(crate) fn tlv(self) -> Tlv<'static> {
        connection_info(self.transport, self.address, None)
    }
}

/// Without a destination of the same family it is *any*.
pub(crate) fn connection_info(
    transport: Transport,
    source: SocketAddr,
    destination: Option<SocketAddr>,
) -> Tlv<'static> {
    let transport = transport.code();
    match source {
        SocketAddr::V4(source) => Tlv::ConnectionInfoIpv4(ConnectionInfo {
            transport,
            source,
            destination: match destination {
                Some(SocketAddr::V4(destination)) => destination,
                Some(SocketAddr::V6(_)) | None => SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0),
            },
        }),
        SocketAddr::V6(source) => Tlv::ConnectionInfoIpv6(ConnectionInfo {
            transport,
            source,
            destination: match destination {
                Some(SocketAddr::V6(destination)) => destination,
                Some(SocketAddr::V4(_)) | None => SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0),
            },
        }),
    }
}

/// Candidates of a message, those of transports that nobody knows left out; `None` for more than [`MAX_CANDIDATES`], or one with a
/// destination.
pub(crate) fn candidates(flows: impl Iterator<Item = Flow>) -> Option<Vec<Candidate>> {
    let mut candidates = Vec::new();
    for (number, flow) in flows.enumerate() {
        let is_any = flow.destination.ip().is_unspecified() && flow.destination.port() == 0;
        if number >= MAX_CANDIDATES || !is_any {
            return None;
        }
        let address = SocketAddr::new(flow.source.ip().to_canonical(), flow.source.port());
        candidates.extend(
            Transport::from_code(flow.transport).map(|transport| Candidate { transport, address }),
        );
    }
    Some(candidates)
}

/// Who can be reached at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Nobody, or anybody: loopback, link-local, multicast, broadcast, *any*.
    Nobody,
    /// Hosts of one network (RFC 1918, RFC 6598, RFC 4193).
    Private,
    /// The same host from everywhere.
    Public,
}

impl Reach {
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                let [first, second, ..] = v4.octets();
                let nobody = first == 0 || first >= 224 || v4.is_loopback() || v4.is_link_local();
                if nobody {
                    Self::Nobody
                } else if v4.is_private() || (first == 100 && second & 0xC0 == 64) {
                    Self::Private
                } else {
                    Self::Public
                }
            }
            IpAddr::V6(v6) => {
                let nobody = v6.is_unspecified()
                    || v6.is_loopback()
                    || v6.is_multicast()
                    || v6.is_unicast_link_local();
                if nobody {
                    Self::Nobody
                } else if v6.is_unique_local() {
                    Self::Private
                } else {
                    Self::Public
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_sorted_by_who_can_be_reached_there() {
        let of = |text: &str| Reach::of(text.parse().unwrap());
        for nobody in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "169.254.1.1",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
        ] {
            assert_eq!(of(nobody), Reach::Nobody, "{nobody}");
        }
        for private in [
            "10.0.0.1",
            "172.31.255.1",
            "192.168.1.1",
            "100.64.0.1",
            "100.127.0.1",
            "fd00::1",
            "::ffff:10.0.0.1",
        ] {
            assert_eq!(of(private), Reach::Private, "{private}");
        }
        for public in [
            "192.0.2.1",
            "100.63.0.1",
            "100.128.0.1",
            "172.32.0.1",
            "2001:db8::1",
        ] {
            assert_eq!(of(public), Reach::Public, "{public}");
        }
    }
}
