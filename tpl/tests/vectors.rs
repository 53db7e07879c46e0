//! Hex vectors, composed by hand from the tables of the specification (docs: `protocol.md`), which
//! each vector cites. "DTTE t.n" are the tables of the patent that the specification takes as known.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

use std::net::{Ipv4Addr, Ipv6Addr};

use tsc_tpl::{
    AddressRequest, AuthToken, CertificateFingerprint, CmType, ConnectionInfo, Cookie, Dscp,
    Family, IpPacket, Ipv4Netmask, Ipv6PrefixLength, Limits, Message, MessageBuilder, Padding,
    PayloadType, RedundancyEntry, RedundancyFactor, RedundancyFrame, RedundancyMethod,
    ReservedFrame, ReservedKind, ResponseCode, ResumeKey, ResumeProof, RoutedPrefix, Seconds,
    Sequence, ServerEndpoint, ServiceList, ServiceType, Text, Tlv, TlvType, TransportCode, Tsid,
    TunnelTag, Unit, UnknownTlv, registry,
};

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(digits.get(at..at + 2).unwrap(), 16).unwrap())
        .collect()
}

fn parse(wire: &[u8]) -> Message<'_> {
    match Unit::decode_datagram(wire, &Limits::default()) {
        Ok(Unit::Control(control)) => control.parse().unwrap(),
        other => panic!("{other:?}"),
    }
}

/// The bytes are this message and the message is these bytes.
#[track_caller]
fn vector(wire: &str, builder: &MessageBuilder<'_>, text: &str) {
    let wire = hex(wire);
    let mut encoded = Vec::new();
    builder.encode(&mut encoded).unwrap();
    assert_eq!(encoded, wire);
    let message = parse(&wire);
    assert_eq!(message.tlvs(), builder.tlv_list());
    assert_eq!(message.to_string(), text);
}

#[test]
fn configuration_request() {
    // Header: spec 3.1 = DTTE t.1; Protocol_Revision, Client_Info, Address_Request: spec 3.3.
    vector(
        "10 01 0003 ffffffffffffffff 01020304
         8005 0002 0001
         8001 0007 7473632f302e31
         0018 0002 04 01",
        &MessageBuilder::new(
            CmType::CONFIGURATION_REQUEST,
            Tsid::UNASSIGNED,
            Sequence(0x0102_0304),
        )
        .tlv(Tlv::ProtocolRevision(1))
        .tlv(Tlv::ClientInfo(Text::new("tsc/0.1").unwrap()))
        .tlv(Tlv::AddressRequest(AddressRequest {
            family: Family::Ipv4,
            count: 1,
        })),
        "Configuration_Request tsid=unassigned seq=16909060: Protocol_Revision=1, Client_Info=\"tsc/0.1\", \
         Address_Request=1 x IPv4",
    );
}

#[test]
fn configuration_request_on_plain_udp_with_cookie_and_padding() {
    // Spec 8.2: at least 128 bytes. 16 + 6 + 12 + 4 + 90 = 128; 90 = 0x5a.
    let wire = format!(
        "10 01 0003 ffffffffffffffff 00000002
         8005 0002 0001
         0022 0008 0011223344556677
         8004 005a {}",
        "00".repeat(90)
    );
    let cookie = hex("0011223344556677");
    let builder = MessageBuilder::new(CmType::CONFIGURATION_REQUEST, Tsid::UNASSIGNED, Sequence(2))
        .tlv(Tlv::ProtocolRevision(1))
        .tlv(Tlv::Cookie(Cookie::new(&cookie).unwrap()))
        .pad_to(registry::MIN_UNAUTHENTICATED_REQUEST);
    vector(
        &wire,
        &builder,
        "Configuration_Request tsid=unassigned seq=2: Protocol_Revision=1, Cookie=<8 bytes hidden>, \
         Padding=90 bytes",
    );
    assert_eq!(hex(&wire).len(), 128);
}

#[test]
fn configuration_response() {
    // DTTE t.3: the response repeats the sequence and carries the assigned TSID, addresses, SIP server,
    // keepalive interval and NAT information; values of spec 3.3.
    let key: [u8; 32] = core::array::from_fn(|at| u8::try_from(at).unwrap());
    vector(
        "10 02 000c 0040000000000001 01020304
         000e 0002 0000
         8005 0002 0001
         0001 0004 0a000005
         0002 0004 ffffff00
         0003 0010 fd000000000000000000000000000005
         0004 0001 40
         0005 0006 0a000001 13c4
         0007 0002 0032
         0008 0002 014a
         0009 0006 c0000207 d903
         0017 0020 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f
         001e 0002 0578",
        &MessageBuilder::new(
            CmType::CONFIGURATION_RESPONSE,
            Tsid(0x0040_0000_0000_0001),
            Sequence(0x0102_0304),
        )
        .tlv(Tlv::ResponseCode(ResponseCode::SUCCESS))
        .tlv(Tlv::ProtocolRevision(1))
        .tlv(Tlv::InternalIpv4Address(Ipv4Addr::new(10, 0, 0, 5)))
        .tlv(Tlv::InternalIpv4Netmask(Ipv4Netmask::new(24).unwrap()))
        .tlv(Tlv::InternalIpv6Address(Ipv6Addr::new(
            0xfd00, 0, 0, 0, 0, 0, 0, 5,
        )))
        .tlv(Tlv::InternalIpv6PrefixLength(
            Ipv6PrefixLength::new(64).unwrap(),
        ))
        .tlv(Tlv::SipServerIpv4("10.0.0.1:5060".parse().unwrap()))
        .tlv(Tlv::KeepaliveInterval(Seconds(50)))
        .tlv(Tlv::PersistenceTime(Seconds(330)))
        .tlv(Tlv::NatInfoIpv4("192.0.2.7:55555".parse().unwrap()))
        .tlv(Tlv::ResumeKey(ResumeKey::new(&key)))
        .tlv(Tlv::InnerMtu(1400)),
        "Configuration_Response tsid=0040000000000001 seq=16909060: Response_Code=success, Protocol_Revision=1, \
         Internal_IPv4_Address=10.0.0.5, Internal_IPv4_Netmask=255.255.255.0, Internal_IPv6_Address=fd00::5, \
         Internal_IPv6_Prefix_Length=64, SIP_Server_IPv4=10.0.0.1:5060, Keepalive_Interval=50s, \
         Persistence_Time=330s, NAT_Info_IPv4=192.0.2.7:55555, Resume_Key=<32 bytes hidden>, Inner_MTU=1400",
    );
}

#[test]
fn cookie_required() {
    // Spec 3.1: a refused Configuration_Response carries all ones; 3.4: code 16 with Cookie.
    let cookie = [0xC0; 24];
    vector(
        "10 02 0002 ffffffffffffffff 00000007
         000e 0002 0010
         0022 0018 c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0",
        &MessageBuilder::new(
            CmType::CONFIGURATION_RESPONSE,
            Tsid::UNASSIGNED,
            Sequence(7),
        )
        .tlv(Tlv::ResponseCode(ResponseCode::COOKIE_REQUIRED))
        .tlv(Tlv::Cookie(Cookie::new(&cookie).unwrap())),
        "Configuration_Response tsid=unassigned seq=7: Response_Code=cookie_required, Cookie=<24 bytes hidden>",
    );
}

#[test]
fn resume() {
    // Spec 5 and TLVs 36, 38.
    let mac = [0xAB; 32];
    vector(
        "10 03 0002 0040000000000001 00000009
         8005 0002 0001
         0024 0024 00000002 abababababababababababababababababababababababababababababababab",
        &MessageBuilder::new(
            CmType::CONFIGURATION_RESUME_REQUEST,
            Tsid(0x0040_0000_0000_0001),
            Sequence(9),
        )
        .tlv(Tlv::ProtocolRevision(1))
        .tlv(Tlv::ResumeProof(ResumeProof {
            counter: 2,
            mac: &mac,
        })),
        "Configuration_Resume_Request tsid=0040000000000001 seq=9: Protocol_Revision=1, \
         Resume_Proof=counter 2 <32 bytes hidden>",
    );
    let services = [ServiceType::ENABLE_DDT];
    vector(
        "10 04 0008 0040000000000001 00000009
         000e 0002 0000
         8005 0002 0001
         0001 0004 0a000005
         0002 0004 ffffffff
         0007 0002 0000
         0008 0002 014a
         001e 0002 0240
         0026 0002 0003",
        &MessageBuilder::new(
            CmType::CONFIGURATION_RESUME_RESPONSE,
            Tsid(0x0040_0000_0000_0001),
            Sequence(9),
        )
        .tlv(Tlv::ResponseCode(ResponseCode::SUCCESS))
        .tlv(Tlv::ProtocolRevision(1))
        .tlv(Tlv::InternalIpv4Address(Ipv4Addr::new(10, 0, 0, 5)))
        .tlv(Tlv::InternalIpv4Netmask(Ipv4Netmask::new(32).unwrap()))
        .tlv(Tlv::KeepaliveInterval(Seconds(0)))
        .tlv(Tlv::PersistenceTime(Seconds(330)))
        .tlv(Tlv::InnerMtu(576))
        .tlv(Tlv::ActiveServices(ServiceList::new(&services).unwrap())),
        "Configuration_Resume_Response tsid=0040000000000001 seq=9: Response_Code=success, Protocol_Revision=1, \
         Internal_IPv4_Address=10.0.0.5, Internal_IPv4_Netmask=255.255.255.255, Keepalive_Interval=0s, \
         Persistence_Time=330s, Inner_MTU=576, Active_Services=[enable DDT]",
    );
}

#[test]
fn release_and_keepalive() {
    let tsid = Tsid(0x0040_0000_0000_0001);
    // Spec 3.2 types 5-8.
    vector(
        "10 05 0001 0040000000000001 0000000a 8003 0003 627965",
        &MessageBuilder::new(CmType::CONFIGURATION_RELEASE_REQUEST, tsid, Sequence(10))
            .tlv(Tlv::ReasonText(Text::new("bye").unwrap())),
        "Configuration_Release_Request tsid=0040000000000001 seq=10: Reason_Text=\"bye\"",
    );
    vector(
        "10 06 0001 0040000000000001 0000000a 000e 0002 0000",
        &MessageBuilder::new(CmType::CONFIGURATION_RELEASE_RESPONSE, tsid, Sequence(10))
            .tlv(Tlv::ResponseCode(ResponseCode::SUCCESS)),
        "Configuration_Release_Response tsid=0040000000000001 seq=10: Response_Code=success",
    );
    vector(
        "10 07 0000 0040000000000001 0000000b",
        &MessageBuilder::new(CmType::KEEPALIVE, tsid, Sequence(11)),
        "Keepalive tsid=0040000000000001 seq=11",
    );
    // Spec 8.2 (b): 22 bytes, header and one TLV.
    let unknown = "10 08 0001 0040000000000001 0000000b 000e 0002 0005";
    vector(
        unknown,
        &MessageBuilder::new(CmType::KEEPALIVE_RESPONSE, tsid, Sequence(11))
            .tlv(Tlv::ResponseCode(ResponseCode::UNKNOWN_TUNNEL)),
        "Keepalive_Response tsid=0040000000000001 seq=11: Response_Code=unknown_tunnel",
    );
    assert_eq!(hex(unknown).len(), 22);
    vector(
        "10 08 0002 0040000000000001 0000000b 000e 0002 0000 000a 0012 20010db8000000000000000000000007 d903",
        &MessageBuilder::new(CmType::KEEPALIVE_RESPONSE, tsid, Sequence(11))
            .tlv(Tlv::ResponseCode(ResponseCode::SUCCESS))
            .tlv(Tlv::NatInfoIpv6("[2001:db8::7]:55555".parse().unwrap())),
        "Keepalive_Response tsid=0040000000000001 seq=11: Response_Code=success, \
         NAT_Info_IPv6=[2001:db8::7]:55555",
    );
}

#[test]
fn services() {
    let tsid = Tsid(1);
    // Spec 7, redundancy: Connection_Info (flow key inner UDP = 3, destination zero = any), Factor, Method.
    vector(
        "10 0b 0004 0000000000000001 00000001
         000d 0002 0001
         000b 000e 03 00 0a000005 13c4 00000000 0000
         000f 0001 02
         0010 0001 01",
        &MessageBuilder::new(CmType::CLIENT_SERVICE_REQUEST, tsid, Sequence(1))
            .tlv(Tlv::ServiceType(ServiceType::ENABLE_REDUNDANCY))
            .tlv(Tlv::ConnectionInfoIpv4(ConnectionInfo {
                transport: TransportCode::UDP,
                source: "10.0.0.5:5060".parse().unwrap(),
                destination: "0.0.0.0:0".parse().unwrap(),
            }))
            .tlv(Tlv::RedundancyFactor(RedundancyFactor::new(2).unwrap()))
            .tlv(Tlv::RedundancyMethod(RedundancyMethod::COPIES)),
        "Client_Service_Request tsid=0000000000000001 seq=1: Service_Type=enable redundancy, \
         Connection_Info_IPv4=UDP 10.0.0.5:5060 > 0.0.0.0:0, Redundancy_Factor=2, Redundancy_Method=copies",
    );
    // Spec 7, DTTE: TSID + Tag, Companion_Endpoint (layout of 32). 5 is the one service number known [DTTE].
    let tag = [0x11; 16];
    vector(
        "10 0c 0005 0000000000000001 00000001
         000d 0002 0005
         000e 0002 0000
         0011 0008 0000000000000002
         0016 0010 11111111111111111111111111111111
         0027 0014 02 06 13c5 20010db8000000000000000000000001",
        &MessageBuilder::new(CmType::CLIENT_SERVICE_RESPONSE, tsid, Sequence(1))
            .tlv(Tlv::ServiceType(ServiceType::ENABLE_DTTE))
            .tlv(Tlv::ResponseCode(ResponseCode::SUCCESS))
            .tlv(Tlv::TunnelSessionId(Tsid(2)))
            .tlv(Tlv::TunnelTag(TunnelTag::new(&tag)))
            .tlv(Tlv::CompanionEndpoint(ServerEndpoint {
                transport: TransportCode::TLS,
                addr: "[2001:db8::1]:5061".parse().unwrap(),
            })),
        "Client_Service_Response tsid=0000000000000001 seq=1: Service_Type=enable DTTE, Response_Code=success, \
         Tunnel_Session_ID=0000000000000002, Tunnel_Tag=<16 bytes hidden>, \
         Companion_Endpoint=TLS [2001:db8::1]:5061",
    );
    // Spec 5, handover: service 31 from the server with Alternate_Server and Retry_After.
    vector(
        "10 09 0003 0000000000000001 00000063
         000d 0002 001f
         0020 0008 04 04 13c4 c0000201
         0028 0002 001e",
        &MessageBuilder::new(CmType::SERVICE_REQUEST, tsid, Sequence(99))
            .tlv(Tlv::ServiceType(ServiceType::HANDOVER))
            .tlv(Tlv::AlternateServer(ServerEndpoint {
                transport: TransportCode::DTLS,
                addr: "192.0.2.1:5060".parse().unwrap(),
            }))
            .tlv(Tlv::RetryAfter(Seconds(30))),
        "Service_Request tsid=0000000000000001 seq=99: Service_Type=handover, \
         Alternate_Server=DTLS 192.0.2.1:5060, Retry_After=30s",
    );
    // Spec 7, peer, step 3: availability, candidates, a tag without a TSID, a fingerprint.
    let fingerprint = [0x22; 32];
    vector(
        "10 0c 0006 0000000000000001 00000002
         000d 0002 0013
         000e 0002 0000
         0012 0001 01
         000c 0026 03 00 20010db8000000000000000000000009 1000 00000000000000000000000000000000 0000
         0016 0010 11111111111111111111111111111111
         0025 0020 2222222222222222222222222222222222222222222222222222222222222222",
        &MessageBuilder::new(CmType::CLIENT_SERVICE_RESPONSE, tsid, Sequence(2))
            .tlv(Tlv::ServiceType(ServiceType::ENABLE_PEER))
            .tlv(Tlv::ResponseCode(ResponseCode::SUCCESS))
            .tlv(Tlv::PeerServiceResponse(true))
            .tlv(Tlv::ConnectionInfoIpv6(ConnectionInfo {
                transport: TransportCode::UDP,
                source: "[2001:db8::9]:4096".parse().unwrap(),
                destination: "[::]:0".parse().unwrap(),
            }))
            .tlv(Tlv::TunnelTag(TunnelTag::new(&tag)))
            .tlv(Tlv::CertificateFingerprint(CertificateFingerprint(
                &fingerprint,
            ))),
        "Client_Service_Response tsid=0000000000000001 seq=2: Service_Type=enable peer service, \
         Response_Code=success, Peer_Service_Response=available, \
         Connection_Info_IPv6=UDP [2001:db8::9]:4096 > [::]:0, Tunnel_Tag=<16 bytes hidden>, \
         Certificate_Fingerprint=2222222222222222222222222222222222222222222222222222222222222222",
    );
}

/// Each TLV's bytes in a message that lists it: spec 3.3, row by row (those not shown above).
#[test]
fn remaining_tlvs() {
    let token = *b"token";
    let services = [ServiceType::ENABLE_DDT, ServiceType(0xFF01)];
    let rows: [(&str, Tlv<'_>); 17] = [
        (
            "0006 0012 fd000000000000000000000000000001 13c4",
            Tlv::SipServerIpv6("[fd00::1]:5060".parse().unwrap()),
        ),
        ("0013 0001 07", Tlv::HeaderCompressionIndex(7)),
        ("0014 0002 0008", Tlv::PayloadType(PayloadType(0, 8))),
        ("0015 0004 00010000", Tlv::BufferSize(65536)),
        (
            "0018 0002 06 02",
            Tlv::AddressRequest(AddressRequest {
                family: Family::Ipv6,
                count: 2,
            }),
        ),
        ("0019 0001 03", Tlv::PathId(3)),
        (
            "001a 0005 0a010000 10",
            Tlv::RoutedPrefixIpv4(
                RoutedPrefix::<Ipv4Addr>::new(Ipv4Addr::new(10, 1, 0, 0), 16).unwrap(),
            ),
        ),
        (
            "001b 0011 fd010000000000000000000000000000 30",
            Tlv::RoutedPrefixIpv6(
                RoutedPrefix::<Ipv6Addr>::new(Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 0), 48)
                    .unwrap(),
            ),
        ),
        (
            "001c 0004 0a000035",
            Tlv::DnsServerIpv4(Ipv4Addr::new(10, 0, 0, 53)),
        ),
        (
            "001d 0010 fd000000000000000000000000000035",
            Tlv::DnsServerIpv6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x35)),
        ),
        ("001f 0001 2e", Tlv::Dscp(Dscp::new(46).unwrap())),
        ("0021 0004 0000002a", Tlv::SocketReference(42)),
        (
            "0023 0005 746f6b656e",
            Tlv::AuthToken(AuthToken::new(&token).unwrap()),
        ),
        ("0029 0002 0063", Tlv::OffendingType(TlvType(0x63))),
        (
            "8002 0004 0003 ff01",
            Tlv::SupportedServices(ServiceList::new(&services).unwrap()),
        ),
        ("8004 0000", Tlv::Padding(Padding::new(0).unwrap())),
        (
            "ff00 0003 010203",
            Tlv::Unknown(UnknownTlv::new(TlvType(0xFF00), &[1, 2, 3]).unwrap()),
        ),
    ];
    for (wire, tlv) in rows {
        let tlv_bytes = hex(wire);
        assert_eq!(tlv.encoded_len(), tlv_bytes.len(), "{tlv}");
        let mut message = hex("10 07 0001 0000000000000001 00000001");
        message.extend_from_slice(&tlv_bytes);
        let Ok(Unit::Control(control)) = Unit::decode_datagram(&message, &Limits::default()) else {
            panic!("{tlv}")
        };
        let raw = control.raw_tlvs().next().unwrap();
        assert_eq!(raw.decode(), Ok(tlv), "{wire}");
        assert_eq!(raw.ty, tlv.ty());
    }
}

/// An inner UDP packet, IPv4 (RFC 791, RFC 768), 29 bytes.
const IPV4: &str = "4500001d 00000000 40110000 0a000005 0a000001 13c4 13c4 0009 0000 00";
/// An inner UDP packet, IPv6 (RFC 8200), 49 bytes.
const IPV6: &str =
    "60000000 0009 11 40 fd000000000000000000000000000005 fd000000000000000000000000000001
                    13c4 13c4 0009 0000 00";

#[test]
fn inner_packets_travel_bare() {
    let (v4, v6) = (hex(IPV4), hex(IPV6));
    let text = |wire| {
        Unit::decode_datagram(wire, &Limits::default())
            .unwrap()
            .to_string()
    };
    assert_eq!(text(&v4), "IPv4 10.0.0.5:5060 > 10.0.0.1:5060 UDP 29 bytes");
    assert_eq!(
        text(&v6),
        "IPv6 [fd00::5]:5060 > [fd00::1]:5060 UDP 49 bytes"
    );
}

#[test]
fn redundancy_frame() {
    // Spec 6: newest first, 0 follows 2^32-1.
    let wire = hex(&format!("1c 02 00000000 {IPV4} ffffffff {IPV6}"));
    let (v4, v6) = (hex(IPV4), hex(IPV6));
    let limits = Limits::default();
    let entries = [
        RedundancyEntry {
            sequence: Sequence(0),
            packet: IpPacket::decode(&v4, &limits).unwrap(),
        },
        RedundancyEntry {
            sequence: Sequence(u32::MAX),
            packet: IpPacket::decode(&v6, &limits).unwrap(),
        },
    ];
    let mut encoded = Vec::new();
    RedundancyFrame::encode_datagram(&entries, &limits, &mut encoded).unwrap();
    assert_eq!(encoded, wire);
    let Ok(Unit::Redundancy(frame)) = Unit::decode_datagram(&wire, &limits) else {
        panic!()
    };
    assert!(frame.entries().eq(entries));
    assert_eq!(
        frame.to_string(),
        "redundancy 0: IPv4 10.0.0.5:5060 > 10.0.0.1:5060 UDP 29 bytes, \
         4294967295: IPv6 [fd00::5]:5060 > [fd00::1]:5060 UDP 49 bytes"
    );
}

#[test]
fn reserved_frames() {
    // Spec 6, second table.
    for (wire, kind, index, payload) in [
        ("1d 05 02 aabb", ReservedKind::CompressedShort, 5, "aabb"),
        (
            "1e 05 0003 aabbcc",
            ReservedKind::CompressedLong,
            5,
            "aabbcc",
        ),
        ("1f 01 0000", ReservedKind::Extension, 1, ""),
    ] {
        let (wire, payload, limits) = (hex(wire), hex(payload), Limits::default());
        let Ok(Unit::Reserved(frame)) = Unit::decode_datagram(&wire, &limits) else {
            panic!("{wire:x?}")
        };
        assert_eq!(
            (frame.kind(), frame.index(), frame.payload()),
            (kind, index, payload.as_slice())
        );
        let mut encoded = Vec::new();
        ReservedFrame::encode(kind, index, &payload, &limits, &mut encoded).unwrap();
        assert_eq!(encoded, wire);
    }
}

/// The registry against the tables of spec 3.2, 3.4 and 3.5, so that a slip in the one file is seen.
#[test]
fn registry_numbers() {
    let names: Vec<_> = CmType::ALL
        .iter()
        .map(|ty| (ty.0, ty.name().unwrap()))
        .collect();
    assert_eq!(names.first(), Some(&(1, "Configuration_Request")));
    assert_eq!(names.last(), Some(&(12, "Client_Service_Response")));
    assert_eq!(names.len(), 12);
    let tlvs: Vec<_> = TlvType::ALL.iter().map(|ty| ty.0).collect();
    assert!(tlvs.iter().copied().eq((1..=41).chain(0x8001..=0x8005)));
    let codes: Vec<_> = ResponseCode::ALL.iter().map(|code| code.0).collect();
    assert!(codes.iter().copied().eq(0..=16));
    let services: Vec<_> = ServiceType::ALL.iter().map(|service| service.0).collect();
    assert!(
        services
            .iter()
            .copied()
            .eq((1..=22).chain(25..=28).chain(31..=32))
    );
    assert_eq!(
        ServiceType::ENABLE_DTTE.disable(),
        ServiceType::DISABLE_DTTE
    );
    assert_eq!(ServiceType::DISABLE_DTTE.enable(), ServiceType::ENABLE_DTTE);
    assert_eq!(ResponseCode::COOKIE_REQUIRED.to_string(), "cookie_required");
    assert_eq!(ResponseCode(99).to_string(), "unknown response code 0x63");
    assert_eq!(format!("{:?}", CmType(13)), "CmType(0xd)");
}
