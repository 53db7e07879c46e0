//! What we write, smoltcp reads, and the other way round.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU8;
use std::time::Instant;

use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    IPV4_HEADER_LEN, IPV6_HEADER_LEN, IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet,
    Ipv6Repr, UdpPacket, UdpRepr,
};
use tsc_eip::{Dscp, SendOptions, StackConfig};

use crate::support::{A4, A6, B4, B6, host, payloads, recv};

fn smoltcp_address(address: IpAddr) -> IpAddress {
    address.into()
}

fn parse_udp(bytes: &[u8], from: IpAddr, to: IpAddr) -> (UdpRepr, &[u8]) {
    let view = UdpPacket::new_checked(bytes).unwrap();
    let (from, to) = (smoltcp_address(from), smoltcp_address(to));
    assert!(view.checksum() != 0 && view.verify_checksum(&from, &to));
    (
        UdpRepr::parse(&view, &from, &to, &ChecksumCapabilities::default()).unwrap(),
        view.payload(),
    )
}

proptest! {
    #[test]
    fn smoltcp_reads_our_datagrams(
        v6: bool,
        payload in prop::collection::vec(any::<u8>(), 0..1300),
        from_port in 1u16..,
        to_port in 1u16..,
        dscp in 0u8..64,
        hops in 1u8..,
        seed: u64,
    ) {
        let (from, to): (IpAddr, IpAddr) = if v6 { (A6.into(), B6.into()) } else { (A4.into(), B4.into()) };
        let mut alice = host(StackConfig::default(), seed, &[from]);
        let socket = alice.udp_bind(SocketAddr::new(from, from_port)).unwrap();
        let options = SendOptions {
            dscp: Dscp::new(dscp).unwrap(),
            hop_limit: NonZeroU8::new(hops),
            ..SendOptions::default()
        };
        alice.udp_send_to(Instant::now(), socket, SocketAddr::new(to, to_port), &payload, &options).unwrap();
        let packet = alice.poll_transmit().unwrap();
        let udp = if v6 {
            let view = Ipv6Packet::new_checked(&packet[..]).unwrap();
            prop_assert_eq!(view.total_len(), packet.len());
            prop_assert_eq!(view.traffic_class(), dscp << 2);
            let expected = Ipv6Repr {
                src_addr: A6,
                dst_addr: B6,
                next_header: IpProtocol::Udp,
                payload_len: payload.len() + 8,
                hop_limit: hops,
            };
            prop_assert_eq!(Ipv6Repr::parse(&view).unwrap(), expected);
            &packet[IPV6_HEADER_LEN..]
        } else {
            let view = Ipv4Packet::new_checked(&packet[..]).unwrap();
            prop_assert!(view.verify_checksum());
            prop_assert_eq!(usize::from(view.total_len()), packet.len());
            prop_assert_eq!((view.dscp(), view.ecn(), view.dont_frag()), (dscp, 0, false));
            let expected = Ipv4Repr {
                src_addr: A4,
                dst_addr: B4,
                next_header: IpProtocol::Udp,
                payload_len: payload.len() + 8,
                hop_limit: hops,
            };
            prop_assert_eq!(Ipv4Repr::parse(&view, &ChecksumCapabilities::default()).unwrap(), expected);
            &packet[IPV4_HEADER_LEN..]
        };
        let (repr, got) = parse_udp(udp, from, to);
        prop_assert_eq!((repr.src_port, repr.dst_port), (from_port, to_port));
        prop_assert_eq!(got, &payload[..]);
    }

    #[test]
    fn we_read_smoltcps_datagrams_and_no_flipped_bit(
        v6: bool,
        payload in prop::collection::vec(any::<u8>(), 0..1300),
        from_port in 1u16..,
        to_port in 1u16..,
        flip: prop::sample::Index,
        bit in 0u8..8,
    ) {
        let (from, to): (IpAddr, IpAddr) = if v6 { (A6.into(), B6.into()) } else { (A4.into(), B4.into()) };
        let caps = ChecksumCapabilities::default();
        let header_len = if v6 { IPV6_HEADER_LEN } else { IPV4_HEADER_LEN };
        let mut packet = vec![0; header_len + 8 + payload.len()];
        if v6 {
            Ipv6Repr {
                src_addr: A6,
                dst_addr: B6,
                next_header: IpProtocol::Udp,
                payload_len: payload.len() + 8,
                hop_limit: 9,
            }
            .emit(&mut Ipv6Packet::new_unchecked(&mut packet));
        } else {
            Ipv4Repr {
                src_addr: A4,
                dst_addr: B4,
                next_header: IpProtocol::Udp,
                payload_len: payload.len() + 8,
                hop_limit: 9,
            }
            .emit(&mut Ipv4Packet::new_unchecked(&mut packet), &caps);
        }
        UdpRepr { src_port: from_port, dst_port: to_port }.emit(
            &mut UdpPacket::new_unchecked(&mut packet[header_len..]),
            &smoltcp_address(from),
            &smoltcp_address(to),
            payload.len(),
            |bytes| bytes.copy_from_slice(&payload),
            &caps,
        );
        let now = Instant::now();
        let mut bob = host(StackConfig::default(), 1, &[to]);
        let server = bob.udp_bind(SocketAddr::new(to, to_port)).unwrap();
        bob.handle_packet(now, &packet);
        let (received, got) = recv(&mut bob, server).unwrap().unwrap();
        prop_assert_eq!(received.from, SocketAddr::new(from, from_port));
        prop_assert_eq!(got, payload);

        // One wrong bit in what a checksum covers is always noticed. IPv6 leaves out version to hop limit, except that
        // length and next header are in the pseudo-header.
        let at = if v6 { 8 + flip.index(packet.len() - 8) } else { flip.index(packet.len()) };
        // A UDP checksum of zero would mean that there is none.
        let field = &mut packet[at];
        *field ^= 1 << bit;
        let checksum = [packet[header_len + 6], packet[header_len + 7]];
        prop_assume!(checksum != [0, 0]);
        bob.handle_packet(now, &packet);
        prop_assert_eq!(payloads(&mut bob, server), Vec::<Vec<u8>>::new());
    }
}
