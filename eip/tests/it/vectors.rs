//! Bytes from documents and made by hand, byte for byte.

use std::net::SocketAddr;
use std::time::Instant;

use tsc_eip::{SendOptions, StackConfig};

use crate::support::{A6, B6, addr, bob, host, payloads, transmits};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// RFC 1071, section 3: the sum of 00 01 f2 03 f4 f5 f6 f7 is ddf2, its complement 220d. As UDP
/// payload it makes a checksum that can be followed by hand: pseudo-header
/// 0a00+0001+0a00+0002+0011+0010, header 1234+0009+0010+0000, data ddf2; together 1 0463, folded
/// 0464, complement fb9b.
#[test]
fn rfc_1071_numbers_as_an_ipv4_datagram() {
    let now = Instant::now();
    let sum: u32 = [
        0x0a00, 0x0001, 0x0a00, 0x0002, 0x0011, 0x0010, 0x1234, 0x0009, 0x0010, 0xddf2,
    ]
    .iter()
    .sum();
    assert_eq!(!((sum & 0xffff) + (sum >> 16)) & 0xffff, 0xfb9b);

    let payload = hex("0001 f203 f4f5 f6f7");
    let mut alice = host(StackConfig::default(), 1, &[addr("10.0.0.1:0").ip()]);
    let socket = alice.udp_bind(addr("0.0.0.0:4660")).unwrap();
    let options = SendOptions {
        // Without fragmentation the identification is zero, so the packet is the same for all
        // seeds.
        dont_fragment: true,
        ..SendOptions::default()
    };
    alice
        .udp_send_to(now, socket, addr("10.0.0.2:9"), &payload, &options)
        .unwrap();
    // Header sum: 4500+0024+0000+4000+4011+0a00+0001+0a00+0002 = d938, complement 26c7.
    let expected = hex("45 00 0024 0000 4000 40 11 26c7 0a000001 0a000002
         1234 0009 0010 fb9b 0001f203f4f5f6f7");
    assert_eq!(transmits(&mut alice), std::slice::from_ref(&expected));

    let mut bob = bob();
    let server = bob.udp_bind(addr("10.0.0.2:9")).unwrap();
    bob.handle_packet(now, &expected);
    assert_eq!(payloads(&mut bob, server), [payload]);
}

/// RFC 768: a sum whose complement is zero is sent as all ones. RFC 8200, section 8.1: the
/// pseudo-header of IPv6. By hand: 2001+0db8+0001+2001+0db8+0002+000a+0011 + 1234+0009+000a = 6dd7,
/// so the payload 9228 makes ffff.
#[test]
fn a_zero_checksum_is_sent_as_all_ones_over_ipv6() {
    let now = Instant::now();
    let to = SocketAddr::new(B6.into(), 9);
    let mut alice = host(StackConfig::default(), 1, &[A6.into()]);
    let socket = alice.udp_bind(addr("[::]:4660")).unwrap();
    let header =
        "60000000 000a 11 40 20010db8000000000000000000000001 20010db8000000000000000000000002";
    let expected = |udp: &str| hex(&format!("{header} {udp}"));
    alice
        .udp_send_to(now, socket, to, &hex("9228"), &SendOptions::default())
        .unwrap();
    alice
        .udp_send_to(now, socket, to, &hex("0000"), &SendOptions::default())
        .unwrap();
    let packets = transmits(&mut alice);
    assert_eq!(
        packets,
        [
            expected("1234 0009 000a ffff 9228"),
            expected("1234 0009 000a 9228 0000")
        ]
    );

    let mut bob = bob();
    let server = bob.udp_bind(to).unwrap();
    for packet in packets {
        bob.handle_packet(now, &packet);
    }
    assert_eq!(payloads(&mut bob, server), [hex("9228"), hex("0000")]);
}

/// RFC 8200, section 8.1: no checksum is refused over IPv6; RFC 768 allows it over IPv4.
#[test]
fn a_missing_checksum_is_taken_over_ipv4_only() {
    let now = Instant::now();
    let mut bob = bob();
    let server4 = bob.udp_bind(addr("0.0.0.0:9")).unwrap();
    let server6 = bob.udp_bind(addr("[::]:9")).unwrap();
    bob.handle_packet(
        now,
        &hex("45 00 001e 0000 4000 40 11 26cd 0a000001 0a000002 1234 0009 000a 0000 9228"),
    );
    bob.handle_packet(
        now,
        &hex(
            "60000000 000a 11 40 20010db8000000000000000000000001 20010db8000000000000000000000002
              1234 0009 000a 0000 9228",
        ),
    );
    assert_eq!(payloads(&mut bob, server4), [hex("9228")]);
    assert_eq!(payloads(&mut bob, server6), Vec::<Vec<u8>>::new());
    assert_eq!(bob.stats().drops.checksum, 1);
}

/// The header that textbooks compute (checksum b861), and smoltcp's own UDP test packet (bf00 0035
/// 000c 124d).
#[test]
fn foreign_packets_are_understood() {
    let now = Instant::now();
    let mut textbook = hex("4500 0073 0000 4000 4011 b861 c0a8 0001 c0a8 00c7 0035 e97c 005f 0000");
    textbook.resize(0x73, 0xaa);
    let mut stack = host(
        StackConfig::default(),
        1,
        &[addr("192.168.0.199:0").ip(), addr("192.168.1.2:0").ip()],
    );
    let client = stack.udp_bind(addr("0.0.0.0:59772")).unwrap();
    stack.handle_packet(now, &textbook);
    assert_eq!(payloads(&mut stack, client), [vec![0xaa; 0x5f - 8]]);
    // Trailing bytes, as links with a minimum length add them, are no part of the packet.
    textbook.extend([0; 7]);
    stack.handle_packet(now, &textbook);
    assert_eq!(payloads(&mut stack, client), [vec![0xaa; 0x5f - 8]]);
    textbook[10] ^= 1;
    stack.handle_packet(now, &textbook);
    assert_eq!(payloads(&mut stack, client), Vec::<Vec<u8>>::new());

    let dns = stack.udp_bind(addr("192.168.1.2:53")).unwrap();
    let smoltcp =
        hex("4500 0020 0000 4000 4011 b779 c0a8 0101 c0a8 0102 bf00 0035 000c 124d aa0000ff");
    stack.handle_packet(now, &smoltcp);
    assert_eq!(payloads(&mut stack, dns), [hex("aa0000ff")]);
}

/// Options in the IPv4 header (here: no-operation, end of list) are skipped.
#[test]
fn ipv4_options_are_skipped() {
    let now = Instant::now();
    let mut bob = bob();
    let server = bob.udp_bind(addr("10.0.0.2:9")).unwrap();
    // Sum: 4600+0022+0000+4000+4011+0a00+0001+0a00+0002+0101+0000 = db37, complement 24c8.
    bob.handle_packet(
        now,
        &hex(
            "46 00 0022 0000 4000 40 11 24c8 0a000001 0a000002 0101 0000 1234 0009 000a 0000 9228",
        ),
    );
    assert_eq!(payloads(&mut bob, server), [hex("9228")]);
}
