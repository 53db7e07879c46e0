//! What the gateway says about packets of the LAN that do not go on: ICMP (RFC 792, RFC 1191) and ICMPv6 (RFC 4443).
//!
//! The source of an error is the address that the packet was sent to, as the tunnel server does it: the gateway may have
//! no address of that IP version on the device, and the kernel accepts from the device what it routes to it.

use std::net::IpAddr;

use etherparse::{
    Icmpv4Type, Icmpv6Type, IpSlice, Ipv6ExtensionSlice, PacketBuilder, icmpv4, icmpv6, ip_number,
};

/// Longest error of IPv4 (RFC 1812, section 4.3.2.3), without its own headers.
const QUOTE_V4: usize = 576 - 28;
/// Longest error of IPv6 (RFC 4443, section 2.4 c), without its own headers.
const QUOTE_V6: usize = 1280 - 48;
const HOP_LIMIT: u8 = 64;

/// Why a packet does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Complaint {
    /// There is no tunnel.
    NoRoute,
    /// It is longer than the tunnel takes.
    TooBig {
        /// What it takes.
        mtu: u16,
    },
}

/// Appends the error about `packet` to `out`. False where none may be sent (RFC 1122, section 3.2.2; RFC 4443, section
/// 2.4 e): about ICMP errors, fragments but first ones, and packets that are not from one host to one host.
pub(crate) fn answer(packet: &[u8], complaint: Complaint, out: &mut Vec<u8>) -> bool {
    let Ok(ip) = IpSlice::from_slice(packet) else {
        return false;
    };
    if !is_host(ip.source_addr()) || !is_host(ip.destination_addr()) || is_error(&ip) {
        return false;
    }
    let written = match &ip {
        IpSlice::Ipv4(v4) => {
            let header = v4.header();
            if header.fragments_offset().value() != 0 {
                return false;
            }
            let kind = Icmpv4Type::DestinationUnreachable(match complaint {
                Complaint::NoRoute => icmpv4::DestUnreachableHeader::Network,
                Complaint::TooBig { mtu } => {
                    icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu }
                }
            });
            PacketBuilder::ipv4(header.destination(), header.source(), HOP_LIMIT)
                .icmpv4(kind)
                .write(out, packet.get(..QUOTE_V4).unwrap_or(packet))
        }
        IpSlice::Ipv6(v6) => {
            let later = v6.extensions().clone().into_iter().any(|extension| {
                matches!(extension, Ipv6ExtensionSlice::Fragment(fragment)
                    if fragment.fragment_offset().value() != 0)
            });
            if later {
                return false;
            }
            let header = v6.header();
            let kind = match complaint {
                Complaint::NoRoute => {
                    Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::NoRoute)
                }
                Complaint::TooBig { mtu } => Icmpv6Type::PacketTooBig { mtu: mtu.into() },
            };
            PacketBuilder::ipv6(header.destination(), header.source(), HOP_LIMIT)
                .icmpv6(kind)
                .write(out, packet.get(..QUOTE_V6).unwrap_or(packet))
        }
    };
    written.is_ok()
}

/// Whether the packet carries an ICMP error, or may do so for what can be seen of it.
fn is_error(ip: &IpSlice<'_>) -> bool {
    let payload = ip.payload();
    let kind = payload.payload.first();
    match payload.ip_number {
        ip_number::ICMP => {
            // Unreachable, source quench, redirect, time exceeded, parameter problem.
            kind.is_none_or(|kind| matches!(kind, 3 | 4 | 5 | 11 | 12))
        }
        // Errors have the high bit clear; a redirect must not be answered either.
        ip_number::IPV6_ICMP => kind.is_none_or(|kind| kind & 0x80 == 0 || *kind == 137),
        _ => false,
    }
}

/// An address that one host can have.
const fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            !(address.is_unspecified()
                || address.is_loopback()
                || address.is_link_local()
                || address.is_multicast()
                || address.is_broadcast())
        }
        IpAddr::V6(address) => {
            !(address.is_unspecified()
                || address.is_loopback()
                || address.is_unicast_link_local()
                || address.is_multicast())
        }
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{Icmpv4Header, Icmpv6Slice, IpFragOffset, SlicedPacket, TransportSlice};

    use super::*;

    const A4: [u8; 4] = [192, 0, 2, 17];
    const B4: [u8; 4] = [10, 0, 0, 1];
    const A6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    const B6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

    fn udp(v4: bool, length: usize) -> Vec<u8> {
        let mut packet = Vec::new();
        let builder = if v4 {
            PacketBuilder::ipv4(A4, B4, 9)
        } else {
            PacketBuilder::ipv6(A6, B6, 9)
        };
        let data = vec![7; length];
        builder.udp(1, 2).write(&mut packet, &data).unwrap();
        packet
    }

    fn answered(packet: &[u8], complaint: Complaint) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        answer(packet, complaint, &mut out).then_some(out)
    }

    #[test]
    fn errors_go_back_with_a_quote_and_the_mtu() {
        let packet = udp(true, 1400);
        let error = answered(&packet, Complaint::TooBig { mtu: 1300 }).unwrap();
        let sliced = SlicedPacket::from_ip(&error).unwrap();
        let Some(TransportSlice::Icmpv4(icmp)) = sliced.transport else {
            panic!("{error:?}");
        };
        let expected = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1300 };
        assert_eq!(
            icmp.icmp_type(),
            Icmpv4Type::DestinationUnreachable(expected)
        );
        assert_eq!((icmp.payload(), error.len()), (&packet[..548], 576));
        let check = Icmpv4Header::with_checksum(icmp.icmp_type(), icmp.payload());
        assert_eq!(icmp.checksum(), check.checksum);
        assert_eq!((&error[12..16], &error[16..20]), (&B4[..], &A4[..]));

        let packet = udp(false, 1400);
        let error = answered(&packet, Complaint::TooBig { mtu: 1300 }).unwrap();
        assert_eq!(error.len(), 1280);
        let icmp = Icmpv6Slice::from_slice(&error[40..]).unwrap();
        assert_eq!(icmp.icmp_type(), Icmpv6Type::PacketTooBig { mtu: 1300 });
        assert!(icmp.is_checksum_valid(B6, A6));
        assert_eq!(icmp.payload(), &packet[..1232]);

        for v4 in [true, false] {
            let packet = udp(v4, 10);
            let error = answered(&packet, Complaint::NoRoute).unwrap();
            assert!(error.ends_with(&packet));
            // No error about an error.
            assert_eq!(answered(&error, Complaint::NoRoute), None);
        }
    }

    #[test]
    fn some_packets_are_never_answered() {
        let mut fragment = udp(true, 100);
        let offset = IpFragOffset::try_new(8).unwrap().value().to_be_bytes();
        fragment[6..8].copy_from_slice(&offset);
        let mut multicast = udp(true, 100);
        multicast[16] = 224;
        let mut unspecified = udp(false, 100);
        unspecified[8..24].fill(0);
        for packet in [
            &fragment[..],
            &multicast,
            &unspecified,
            b"",
            b"\x45",
            &[0x60; 39],
            &[0xFF; 100],
        ] {
            assert_eq!(answered(packet, Complaint::NoRoute), None, "{packet:?}");
        }
        let mut ping = Vec::new();
        PacketBuilder::ipv4(A4, B4, 1)
            .icmpv4_echo_request(1, 1)
            .write(&mut ping, b"ping")
            .unwrap();
        assert!(answered(&ping, Complaint::NoRoute).is_some());
    }
}
