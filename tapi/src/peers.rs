//! What this process is to its peers, and how much has gone to them and come from them without the server.

use std::{collections::BTreeMap, sync::OnceLock};

use tsc_csm::{FlowKey, InnerTransport};
use tsc_osaa::{cert::Identity, dtls::DtlsBackendKind};
use tsc_tpl::{IpPacket, Limits};

/// Inner packets that travelled without the server: [`UdpSocket::peer_packets`](crate::UdpSocket::peer_packets),
/// [`Tunnel::peer_packets`](crate::Tunnel::peer_packets).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerPackets {
    /// Handed to a peer tunnel.
    pub sent: u64,
    /// Taken from one.
    pub received: u64,
}

/// The counters of one tunnel.
#[derive(Debug, Default)]
pub(crate) struct PeerCounts {
    all: PeerPackets,
    /// Ports with UDP sockets: how many, and what is theirs.
    ports: BTreeMap<u16, (usize, PeerPackets)>,
}

impl PeerCounts {
    /// A UDP socket is bound to this port.
    pub(crate) fn add_socket(&mut self, port: u16) {
        self.ports.entry(port).or_default().0 += 1;
    }

    pub(crate) fn remove_socket(&mut self, port: u16) {
        if let Some((sockets, _)) = self.ports.get_mut(&port) {
            *sockets -= 1;
            if *sockets == 0 {
                self.ports.remove(&port);
            }
        }
    }

    pub(crate) fn note_sent(&mut self, packet: &[u8]) {
        self.all.sent += 1;
        let packet = IpPacket::decode(packet, &Limits::WIDEST).ok();
        let key = packet.and_then(|packet| FlowKey::of_source(&packet));
        if let Some(counts) = self.of_key(key) {
            counts.sent += 1;
        }
    }

    pub(crate) fn note_received(&mut self, packet: &IpPacket<'_>) {
        self.all.received += 1;
        if let Some(counts) = self.of_key(FlowKey::of_destination(packet)) {
            counts.received += 1;
        }
    }

    fn of_key(&mut self, key: Option<FlowKey>) -> Option<&mut PeerPackets> {
        let key = key.filter(|key| key.transport == InnerTransport::Udp)?;
        self.ports.get_mut(&key.port).map(|(_, counts)| counts)
    }

    pub(crate) const fn all(&self) -> PeerPackets {
        self.all
    }

    pub(crate) fn of_port(&self, port: u16) -> PeerPackets {
        let found = self.ports.get(&port);
        found.map_or_else(PeerPackets::default, |(_, counts)| *counts)
    }
}

/// What this process shows to its peers: a certificate of its own that nobody has signed, and whose fingerprint the server tells
/// them. `None` where there is no DTLS.
pub(crate) fn certificate() -> Option<&'static Identity> {
    static CERTIFICATE: OnceLock<Option<Identity>> = OnceLock::new();
    CERTIFICATE
        .get_or_init(|| {
            DtlsBackendKind::preferred()?;
            match Identity::self_signed() {
                Ok(identity) => Some(identity),
                Err(error) => {
                    tracing::warn!(%error, "no peer tunnels");
                    None
                }
            }
        })
        .as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An IPv4 packet from one port to another.
    fn packet(protocol: u8, source: u16, destination: u16) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, protocol, 0, 0];
        packet.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        packet.extend(source.to_be_bytes());
        packet.extend(destination.to_be_bytes());
        packet.extend([0, 8, 0, 0]);
        packet
    }

    #[test]
    fn packets_count_for_the_tunnel_and_for_the_port_of_a_socket() {
        let mut counts = PeerCounts::default();
        counts.add_socket(4000);
        counts.note_sent(&packet(17, 4000, 5000));
        // Of TCP, and of nobody.
        counts.note_sent(&packet(6, 4000, 5000));
        counts.note_sent(&packet(17, 4001, 4000));
        let bytes = packet(17, 5000, 4000);
        counts.note_received(&IpPacket::decode(&bytes, &Limits::WIDEST).unwrap());
        let of = |sent, received| PeerPackets { sent, received };
        assert_eq!((counts.all(), counts.of_port(4000)), (of(3, 1), of(1, 1)));
        // A second socket of the port, of the other family, has the same; the last one takes it along.
        counts.add_socket(4000);
        counts.remove_socket(4000);
        assert_eq!(counts.of_port(4000), of(1, 1));
        counts.remove_socket(4000);
        assert_eq!((counts.all(), counts.of_port(4000)), (of(3, 1), of(0, 0)));
    }
}
