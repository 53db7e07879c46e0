//! STUN Binding: the vectors of RFC 5769, every length, and what is refused.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "../fuzz/shared/mod.rs"]
mod shared;

use std::net::SocketAddr;

use proptest::prelude::*;
use tsc_tpl::{MAX_STUN_GROWTH, MAX_STUN_MESSAGE, StunError, StunKind, StunMessage};

const TRANSACTION: [u8; 12] = *b"\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae";

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pair = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(pair).collect()
}

/// RFC 5769, 2.2 and 2.3, without MESSAGE-INTEGRITY, which is for credentials: with the lengths that this leaves.
#[test]
fn addresses_are_hidden_as_in_the_published_vectors() {
    let v4 = "0101001c 2112a442 b7e7a701bc34d686fa87dfae 8022000b 74657374 20766563 746f7220 \
              00200008 0001a147 e112a643";
    let seen = SocketAddr::from(([192, 0, 2, 1], 32853));
    let kind = StunMessage::decode(&hex(v4)).map(|message| message.kind);
    assert_eq!(kind, Ok(StunKind::Success(seen)));
    let v6 = "01010018 2112a442 b7e7a701bc34d686fa87dfae 00200014 0002a147 0113a9fa a5d3f179 bc25f4b5 bed2b9d9";
    let seen: SocketAddr = "[2001:db8:1234:5678:11:2233:4455:6677]:32853"
        .parse()
        .unwrap();
    let message = StunMessage::decode(&hex(v6)).unwrap();
    assert_eq!(message.kind, StunKind::Success(seen));
    assert_eq!(message.transaction, TRANSACTION);
    assert_eq!(message.encode(), hex(v6));
}

#[test]
fn an_ipv4_address_has_one_form() {
    let seen = SocketAddr::from(([192, 0, 2, 1], 32853));
    // As an IPv6 address that stands for it; the last four bytes are hidden by the transaction's.
    let mapped = "01010018 2112a442 b7e7a701bc34d686fa87dfae 00200014 0002a147 2112a442 b7e7a701 bc342979 3a87ddaf";
    let message = StunMessage::decode(&hex(mapped)).unwrap();
    assert_eq!(message.kind, StunKind::Success(seen));
    assert_eq!(StunMessage::decode(&message.encode()), Ok(message));
}

/// RFC 5769, 2.1: its FINGERPRINT is over what has a USERNAME, which is not understood here.
#[test]
fn requests_that_want_more_than_we_know_are_refused() {
    let request = "00010058 2112a442 b7e7a701bc34d686fa87dfae 80220010 5354554e 20746573 7420636c 69656e74 \
                   00240004 6e0001ff 80290008 932ff9b1 51263b36 00060009 6576746a 3a683676 59202020 \
                   00080014 9aeaa70c bfd8cb56 781ef2b5 b2d3f249 c1b571a2 80280004 e57a3bcf";
    assert_eq!(
        StunMessage::decode(&hex(request)),
        Err(StunError::Attribute(0x24))
    );
}

#[test]
fn a_fingerprint_is_the_crc_of_itu_v42_and_the_last_attribute() {
    // Its CRC as zlib computes it.
    let bytes = StunMessage::new(StunKind::Request, TRANSACTION).encode();
    let expected = "00010008 2112a442 b7e7a701bc34d686fa87dfae 80280004 fdf6ae02";
    assert_eq!(bytes, hex(expected));
    let mut wrong = bytes.clone();
    wrong[27] ^= 1;
    assert_eq!(StunMessage::decode(&wrong), Err(StunError::NotStun));
    let mut more = bytes;
    more.extend([0x80, 0x99, 0, 0]);
    more[3] += 4;
    assert_eq!(StunMessage::decode(&more), Err(StunError::NotStun));
}

#[test]
fn an_answer_is_never_longer_than_the_request_and_32_bytes() {
    let seen: [SocketAddr; 2] = [
        ([192, 0, 2, 1], 40_000).into(),
        "[2001:db8::1]:40000".parse().unwrap(),
    ];
    for seen in seen {
        for fingerprint in [false, true] {
            let request = StunMessage {
                kind: StunKind::Request,
                transaction: TRANSACTION,
                fingerprint,
            };
            let answer = request.success(seen).encode();
            assert!(answer.len() <= request.encode().len() + MAX_STUN_GROWTH);
            let read = StunMessage::decode(&answer).unwrap();
            assert_eq!(
                (read.kind, read.fingerprint),
                (StunKind::Success(seen), fingerprint)
            );
        }
    }
}

#[test]
fn what_is_no_binding_message_is_refused() {
    let good = StunMessage::new(StunKind::Indication, TRANSACTION).encode();
    let change = |place: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[place] = byte;
        StunMessage::decode(&bytes)
    };
    assert_eq!(change(1, 0x03), Err(StunError::Type(3)));
    assert_eq!(change(4, 0), Err(StunError::NotStun));
    assert_eq!(change(3, 9), Err(StunError::Length));
    assert_eq!(StunMessage::decode(&good[..19]), Err(StunError::Length));
    let long = vec![0; MAX_STUN_MESSAGE + 4];
    assert_eq!(StunMessage::decode(&long), Err(StunError::Length));
    // A success that tells nothing.
    let success = hex("01010000 2112a442 b7e7a701bc34d686fa87dfae");
    assert_eq!(StunMessage::decode(&success), Err(StunError::Address));
}

proptest! {
    #[test]
    fn messages_round_trip(transaction: [u8; 12], port: u16, address: u128, v4: Option<u32>, kind in 0..3, fingerprint: bool) {
        let v6 = std::net::IpAddr::from(std::net::Ipv6Addr::from_bits(address)).to_canonical();
        let ip = v4.map_or(v6, |v4| std::net::Ipv4Addr::from_bits(v4).into());
        let kind = match kind {
            0 => StunKind::Request,
            1 => StunKind::Indication,
            _ => StunKind::Success(SocketAddr::new(ip, port)),
        };
        let message = StunMessage { kind, transaction, fingerprint };
        prop_assert_eq!(StunMessage::decode(&message.encode()), Ok(message));
    }

    /// Also near to what is right: a message with a few bytes changed.
    #[test]
    fn no_datagram_panics(start in prop::collection::vec(any::<u8>(), 0..80), changes in prop::collection::vec((0usize..80, any::<u8>()), 0..4)) {
        shared::stun(&start);
        let seen = SocketAddr::from(([192, 0, 2, 1], 4000));
        let mut bytes = StunMessage::new(StunKind::Success(seen), [7; 12]).encode();
        for (place, byte) in changes {
            let place = place % bytes.len();
            bytes[place] = byte;
        }
        bytes.extend(&start);
        shared::stun(&bytes);
    }
}
