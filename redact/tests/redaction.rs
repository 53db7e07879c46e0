//! What is left of packets and messages, and above all what is not.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use proptest::prelude::*;
use tsc_redact::Redaction;
use tsc_tpl::{
    CmType, Cookie, MessageBuilder, ResponseCode, ResumeKey, Seconds, Sequence, Tlv, TlvType, Tsid,
    UnknownTlv,
};

fn ipv4(protocol: u8, upper: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 20];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&u16::try_from(20 + upper.len()).unwrap().to_be_bytes());
    packet[9] = protocol;
    packet[12..20].copy_from_slice(&[10, 64, 0, 17, 192, 0, 2, 5]);
    [packet, upper.to_vec()].concat()
}

fn udp(payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    let header = [5060, 5060, length, 0].map(u16::to_be_bytes);
    ipv4(17, &[header.as_flattened(), payload].concat())
}

/// An INVITE with an identity at each place that has one.
const INVITE: &str = "INVITE sip:+49301234567@sbc.example.com:5060;user=phone;x-user=alice SIP/2.0\r\n\
    Via: SIP/2.0/UDP 10.64.0.17:5060;branch=z9hG4bK776;rport\r\n\
    Max-Forwards: 70\r\n\
    From: \"Alice, Liddell\" <sip:alice@example.com>;tag=1928\r\n\
    t:\t<sips:bob%20x@[2001:db8::1]:5061;transport=tls?Subject=carol>\r\n\
    Contact: sip:alice@10.64.0.17;expires=60, <sip:alice@pc.example.com>;+sip.instance=\"<urn:uuid:alice>\"\r\n\
    P-Asserted-Identity: <tel:+49301234567>,\r\n <sip:+49301234567>\r\n\
    Call-ID: a84b4c76e66710@10.64.0.17\r\n\
    CSeq: 314159 INVITE\r\n\
    Authorization: Digest username=\"alice\", response=\"6629fae49393a05397450978507c4ef1\"\r\n\
    Subject: alice calls bob\r\n\
    X-Account: alice\r\n\
    Content-Type: application/sdp\r\n\
    Content-Length: 999\r\n\r\n\
    v=0\r\no=alice 2890844526 2890844526 IN IP4 10.64.0.17\r\ns=alice\r\nc=IN IP4 10.64.0.17\r\nt=0 0\r\n\
    m=audio 49172 RTP/SAVP 0\r\na=rtpmap:0 PCMU/8000\r\na=crypto:1 AES_CM_128 inline:alicekey\r\na=alice\r\nalice\r\n";

const MASKED: &str = "INVITE sip:xxxxxxxxxxxx@sbc.example.com:5060;user=phone;x-user=xxxxx SIP/2.0\r\n\
    Via: SIP/2.0/UDP 10.64.0.17:5060;branch=z9hG4bK776;rport\r\n\
    Max-Forwards: 70\r\n\
    From: \"xxxxxx xxxxxxx\" <sip:xxxxx@example.com>;tag=1928\r\n\
    t:\t<sips:xxxxxxx@[2001:db8::1]:5061;transport=tlsxxxxxxxxxxxxxx>\r\n\
    Contact: sip:xxxxx@10.64.0.17;expires=60, <sip:xxxxx@pc.example.com>;+sip.instance=\"xxxxxxxxxxxxxxxx\"\r\n\
    P-Asserted-Identity: <tel:xxxxxxxxxxxx>,\r\n <sip:xxxxxxxxxxxx>\r\n\
    Call-ID: a84b4c76e66710@10.64.0.17\r\n\
    CSeq: 314159 INVITE\r\n\
    Authorization: xxxxxx xxxxxxxxx\"xxxxx\"x xxxxxxxxx\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"\r\n\
    Subject: xxxxx xxxxx xxx\r\n\
    X-Account: xxxxx\r\n\
    Content-Type: application/sdp\r\n\
    Content-Length: 999\r\n\r\n\
    v=0\r\no=xxxxx 2890844526 2890844526 IN IP4 10.64.0.17\r\ns=xxxxx\r\nc=IN IP4 10.64.0.17\r\nt=0 0\r\n\
    m=audio 49172 RTP/SAVP 0\r\na=rtpmap:0 PCMU/8000\r\na=crypto:x xxxxxxxxxx xxxxxxxxxxxxxxx\r\na=xxxxx\r\nxxxxx\r\n";

fn redacted(redaction: Redaction, packet: &[u8]) -> Vec<u8> {
    let mut bytes = packet.to_vec();
    redaction.packet(&mut bytes);
    bytes
}

#[test]
fn sip_keeps_its_course_and_loses_its_people() {
    let left = redacted(Redaction::Sip, &udp(INVITE.as_bytes()));
    assert_eq!(String::from_utf8_lossy(&left[28..]), MASKED);
    // Over TCP the same, behind a header with options.
    let mut segment = vec![0; 24];
    segment[12] = 0x60;
    let packet = ipv4(6, &[&segment, INVITE.as_bytes()].concat());
    assert_eq!(&redacted(Redaction::Sip, &packet)[44..], MASKED.as_bytes());
    // What is said in it, and an answer.
    let message = "MESSAGE sip:bob@example.com SIP/2.0\r\nContent-Type: text/plain\r\n\r\nhello alice\r\nv=0\r\n";
    let masked = "MESSAGE sip:xxx@example.com SIP/2.0\r\nContent-Type: text/plain\r\n\r\nxxxxx xxxxx\r\nxxx\r\n";
    let left = redacted(Redaction::Sip, &udp(message.as_bytes()));
    assert_eq!(&left[28..], masked.as_bytes());
    let answer = "SIP/2.0 200 OK\r\nf: <sip:a@b.c>;tag=1\r\nTo: bob";
    let masked = "SIP/2.0 200 xx\r\nf: <sip:x@b.c>;tag=1\r\nTo: xxx";
    assert_eq!(
        &redacted(Redaction::Sip, &udp(answer.as_bytes()))[28..],
        masked.as_bytes()
    );
}

#[test]
fn reasons_of_answers_are_free_text() {
    let cases = [
        (
            "SIP/2.0 404 No user +4930123456, sip:alice@x\r\nCSeq: 1 INVITE\r\n",
            Some("SIP/2.0 404 xx xxxx xxxxxxxxxxxx xxxxxxxxxxx\r\nCSeq: 1 INVITE\r\n"),
        ),
        (
            "SIP/2.0 200\r\nCSeq: 1 BYE\r\n",
            Some("SIP/2.0 200\r\nCSeq: 1 BYE\r\n"),
        ),
        // A line that ends for some readers does for us; then it is no SIP.
        (
            "SIP/2.0 200 OK\nFrom: <sip:alice@x>\nAuthorization: alice\n\nv=0\r\n",
            None,
        ),
        ("SIP/2.0 alice\r\n", None),
        ("SIP/2.0 200alice\r\n", None),
        ("SIP/2.0 20", None),
    ];
    for (answer, masked) in cases {
        let left = redacted(Redaction::Sip, &udp(answer.as_bytes()));
        let left = String::from_utf8_lossy(&left[28..]).into_owned();
        assert_eq!(left, masked.unwrap_or_default(), "{answer}");
    }
}

#[test]
fn of_everything_else_only_headers_stay() {
    let rtp = [
        &[0x80, 0, 0, 1, 0, 0, 0, 160, 0xCA, 0xFE, 0xBA, 0xBE][..],
        b"voice",
    ]
    .concat();
    let rtcp = [
        &[0x81, 202, 0, 3, 0xCA, 0xFE, 0xBA, 0xBE][..],
        b"\x01\x05alice",
    ]
    .concat();
    let second = &INVITE.as_bytes()[200..];
    let mut fragment = udp(INVITE.as_bytes());
    fragment[6] = 0x20;
    let tcp = ipv4(6, &[&[0; 12][..], &[0x50], &[0; 7], b"GET /alice"].concat());
    let short = ipv4(6, &[&[0; 12][..], &[0xF0], &[0; 7], b"GET /alice"].concat());
    let icmp = ipv4(
        1,
        &[&[3, 3, 0, 0, 0, 0, 0, 0][..], &udp(INVITE.as_bytes())].concat(),
    );
    for (packet, headers, sip) in [
        (udp(&rtp), 28, 40),
        (udp(&rtcp), 28, 28),
        (udp(second), 28, 28),
        (udp(b"MESSAGE sip:alice@example.com"), 28, 28),
        (udp(b"alice@example.com SIP/2.0\r\n\r\n"), 28, 28),
        (udp(b""), 28, 28),
        (fragment, 20, 20),
        (tcp, 40, 40),
        // A header that is longer than the packet.
        (short, 20, 20),
        (icmp, 28, 28),
        (ipv4(50, b"alice"), 20, 20),
        (b"alice".to_vec(), 0, 0),
    ] {
        for (redaction, kept) in [(Redaction::Headers, headers), (Redaction::Sip, sip)] {
            assert_eq!(
                redacted(redaction, &packet),
                packet[..kept],
                "{redaction:?}"
            );
        }
        assert_eq!(redacted(Redaction::None, &packet), packet);
    }
}

#[test]
fn control_messages_keep_all_but_their_secrets() {
    let cookie = [0xA5; 20];
    let message = |key: &[u8; 32], cookie: &[u8], private: &[u8]| {
        let mut wire = Vec::new();
        MessageBuilder::new(CmType::KEEPALIVE_RESPONSE, Tsid(1), Sequence(2))
            .tlv(Tlv::ResponseCode(ResponseCode::SUCCESS))
            .tlv(Tlv::Unknown(
                UnknownTlv::new(TlvType(0xFF01), private).unwrap(),
            ))
            .encode(&mut wire)
            .unwrap();
        // What belongs into other messages is hidden all the same.
        for tlv in [
            Tlv::ResumeKey(ResumeKey::new(key)),
            Tlv::Cookie(Cookie::new(cookie).unwrap()),
            Tlv::RetryAfter(Seconds(5)),
        ] {
            tlv.encode(&mut wire).unwrap();
            wire[3] += 1;
        }
        wire
    };
    let wire = message(&[0xA6; 32], &cookie, b"secret");
    for redaction in [Redaction::Headers, Redaction::Sip] {
        let mut left = wire.clone();
        redaction.control(&mut left);
        assert_eq!(left, message(&[0; 32], &[0; 20], &[0; 6]));
    }
    let mut left = wire.clone();
    Redaction::None.control(&mut left);
    assert_eq!(left, wire);
    let mut left = wire[..30].to_vec();
    Redaction::Headers.control(&mut left);
    assert!(left.is_empty());
}

#[test]
fn names_are_found_again() {
    for redaction in Redaction::ALL {
        assert_eq!(Redaction::from_name(redaction.name()), Some(redaction));
    }
    assert_eq!(Redaction::from_name("all"), None);
}

/// A name's colon further on, an address behind its brackets, an owner without a name, a line of SDP of no kind.
#[test]
fn damage_that_once_uncovered_somebody() {
    for (at, byte) in [(158, 0), (323, b'>'), (690, b' '), (871, b'=')] {
        let mut message = INVITE
            .replace("alice", "!!!!!")
            .replace("Alice", "!!!!!")
            .into_bytes();
        message[at] = byte;
        let left = redacted(Redaction::Sip, &udp(&message));
        assert!(
            !left[28..].contains(&b'!'),
            "{}",
            String::from_utf8_lossy(&left)
        );
    }
}

/// Any byte but those that make another line or field of it, by the rules.
fn damage() -> impl Strategy<Value = u8> {
    let bytes = (0..=255).filter(|byte| !b"vtmcbrz:!".contains(byte));
    proptest::sample::select(bytes.collect::<Vec<u8>>())
}

proptest! {
    /// An identity in a message that was damaged anywhere does not get through: `!` stands for it, as nothing of SIP has one.
    #[test]
    fn damage_uncovers_nobody(at in 0..INVITE.len(), byte in damage(), cut in 0..INVITE.len()) {
        let mut message = INVITE.replace("alice", "!!!!!").replace("Alice", "!!!!!").into_bytes();
        message[at] = byte;
        message.truncate(message.len() - cut);
        let left = redacted(Redaction::Sip, &udp(&message));
        prop_assert!(left.len() == 28 || left.len() == 28 + message.len());
        // A damaged start line, header name or line end changes what is known of what follows, and never for the worse.
        let left = left.get(28..).unwrap_or_default();
        prop_assert!(!left.contains(&b'!'), "{}", String::from_utf8_lossy(left));
    }

    #[test]
    fn anything_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for packet in [bytes.clone(), udp(&bytes), udp(&[b"SIP/2.0 200 OK\r\n".as_slice(), &bytes].concat())] {
            let left = redacted(Redaction::Sip, &packet);
            prop_assert!(left.len() <= packet.len());
        }
    }
}
