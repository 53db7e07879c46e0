//! Units of all kinds, good and bad.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};

use tsc_tpl::{
    AddressRequest, AuthToken, CertificateFingerprint, CmType, ConnectionInfo, Cookie, Dscp,
    Family, Header, IpPacket, Ipv4Netmask, Ipv6PrefixLength, Limits, MessageBuilder, Padding,
    PayloadType, ReceptionReport, RedundancyEntry, RedundancyFactor, RedundancyFrame,
    RedundancyMethod, ReservedFrame, ReservedKind, ResponseCode, ResumeKey, ResumeProof,
    RoutedPrefix, Seconds, Sequence, ServerEndpoint, ServiceList, ServiceType, Text, Tlv, TlvType,
    TransportCode, Tsid, TunnelTag, UnknownTlv,
};

pub(crate) const LIMITS: Limits = Limits::WIDEST;
pub(crate) const TSID: Tsid = Tsid(0x0040_0000_0000_0001);
const COMPANION: Tsid = Tsid(0x0040_0000_0000_0002);

const V4: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 17);
const V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 5);
const S4: SocketAddrV4 = SocketAddrV4::new(V4, 5060);
const S6: SocketAddrV6 = SocketAddrV6::new(V6, 5061, 0, 0);
const SERVICES: &[ServiceType] = &[
    ServiceType::ENABLE_REDUNDANCY,
    ServiceType::ENABLE_DDT,
    ServiceType(0x0999),
];

/// One of each type, in numeric order.
pub(crate) fn tlvs() -> Vec<Tlv<'static>> {
    let connection = |transport| ConnectionInfo {
        transport,
        source: S4,
        destination: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0),
    };
    let connection6 = ConnectionInfo {
        transport: TransportCode(9),
        source: S6,
        destination: SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0),
    };
    let endpoint = |addr: std::net::SocketAddr| ServerEndpoint {
        transport: TransportCode::DTLS,
        addr,
    };
    vec![
        Tlv::InternalIpv4Address(V4),
        Tlv::InternalIpv4Netmask(Ipv4Netmask::new(20).unwrap()),
        Tlv::InternalIpv6Address(V6),
        Tlv::InternalIpv6PrefixLength(Ipv6PrefixLength::new(64).unwrap()),
        Tlv::SipServerIpv4(S4),
        Tlv::SipServerIpv6(S6),
        Tlv::KeepaliveInterval(Seconds(50)),
        Tlv::PersistenceTime(Seconds(330)),
        Tlv::NatInfoIpv4(S4),
        Tlv::NatInfoIpv6(S6),
        Tlv::ConnectionInfoIpv4(connection(TransportCode::UDP)),
        Tlv::ConnectionInfoIpv6(connection6),
        Tlv::ServiceType(ServiceType::ENABLE_REDUNDANCY),
        Tlv::ResponseCode(ResponseCode::SUCCESS),
        Tlv::RedundancyFactor(RedundancyFactor::new(2).unwrap()),
        Tlv::RedundancyMethod(RedundancyMethod::FAN_OUT),
        Tlv::TunnelSessionId(COMPANION),
        Tlv::PeerServiceResponse(true),
        Tlv::HeaderCompressionIndex(3),
        Tlv::PayloadType(PayloadType(8, 0)),
        Tlv::BufferSize(70_000),
        Tlv::TunnelTag(TunnelTag::new(&[0xA5; 16])),
        Tlv::ResumeKey(ResumeKey::new(&[0xA6; 32])),
        Tlv::AddressRequest(AddressRequest {
            family: Family::Ipv6,
            count: 2,
        }),
        Tlv::PathId(7),
        Tlv::RoutedPrefixIpv4(RoutedPrefix::<Ipv4Addr>::new(V4, 24).unwrap()),
        Tlv::RoutedPrefixIpv6(RoutedPrefix::<Ipv6Addr>::new(V6, 56).unwrap()),
        Tlv::DnsServerIpv4(V4),
        Tlv::DnsServerIpv6(V6),
        Tlv::InnerMtu(1400),
        Tlv::Dscp(Dscp::new(46).unwrap()),
        Tlv::AlternateServer(endpoint(S4.into())),
        Tlv::SocketReference(0xFFFF_FFF0),
        Tlv::Cookie(Cookie::new(&[0xA7; 20]).unwrap()),
        Tlv::AuthToken(AuthToken::new(b"a token").unwrap()),
        Tlv::ResumeProof(ResumeProof {
            counter: 5,
            mac: &[0xA8; 32],
        }),
        Tlv::CertificateFingerprint(CertificateFingerprint(&[0xA9; 32])),
        Tlv::ActiveServices(ServiceList::new(SERVICES).unwrap()),
        Tlv::CompanionEndpoint(endpoint(S6.into())),
        Tlv::RetryAfter(Seconds(5)),
        Tlv::OffendingType(TlvType(0x63)),
        Tlv::ClientInfo(Text::new("softphone \"9\"\t\u{fc}").unwrap()),
        Tlv::SupportedServices(ServiceList::new(&[]).unwrap()),
        Tlv::ReasonText(Text::new("").unwrap()),
        Tlv::Padding(Padding::new(100).unwrap()),
        Tlv::ProtocolRevision(1),
    ]
}

fn sample(ty: TlvType) -> Tlv<'static> {
    *tlvs().iter().find(|tlv| tlv.ty() == ty).unwrap()
}

/// A message whatever it breaks.
pub(crate) fn raw(header: &Header, tlvs: &[Tlv<'_>]) -> Vec<u8> {
    let mut values = Vec::new();
    for tlv in tlvs {
        tlv.encode(&mut values).unwrap();
    }
    let count = u16::try_from(tlvs.len()).unwrap();
    raw_tlvs(header.cm_type.0, count, header.tsid, &values)
}

/// A message of bytes that nobody checks.
pub(crate) fn raw_tlvs(cm_type: u8, count: u16, tsid: Tsid, tlvs: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x10, cm_type];
    bytes.extend(count.to_be_bytes());
    bytes.extend(tsid.0.to_be_bytes());
    bytes.extend(77_u32.to_be_bytes());
    bytes.extend(tlvs);
    bytes
}

/// Valid messages: each type, and each TLV where it belongs.
pub(crate) fn messages() -> Vec<Vec<u8>> {
    use TlvType as T;
    let report = ReceptionReport {
        expected: 100,
        originals: 90,
        delivered: 99,
        runs: 4,
    }
    .to_bytes();
    let report = Tlv::Unknown(UnknownTlv::new(T::RECEPTION_REPORT, &report).unwrap());
    let make = |cm_type, tsid, before: &[Tlv<'_>], types: &[TlvType], after: &[Tlv<'_>]| {
        let tlvs = types.iter().map(|ty| sample(*ty));
        let mut wire = Vec::new();
        MessageBuilder::new(cm_type, tsid, Sequence(0xFFFF_FFFF))
            .tlvs(before.iter().copied())
            .tlvs(tlvs)
            .tlvs(after.iter().copied())
            .encode(&mut wire)
            .unwrap();
        wire
    };
    let code = Tlv::ResponseCode;
    let assignment = [
        T::PROTOCOL_REVISION,
        T::INTERNAL_IPV4_ADDRESS,
        T::INTERNAL_IPV4_NETMASK,
        T::INTERNAL_IPV6_ADDRESS,
        T::INTERNAL_IPV6_PREFIX_LENGTH,
        T::KEEPALIVE_INTERVAL,
        T::PERSISTENCE_TIME,
        T::INNER_MTU,
        T::SIP_SERVER_IPV4,
        T::SIP_SERVER_IPV6,
        T::NAT_INFO_IPV4,
        T::NAT_INFO_IPV6,
        T::DNS_SERVER_IPV4,
        T::DNS_SERVER_IPV6,
        T::SUPPORTED_SERVICES,
        T::ALTERNATE_SERVER,
        T::DSCP,
    ];
    let success = code(ResponseCode::SUCCESS);
    vec![
        make(
            CmType::CONFIGURATION_REQUEST,
            Tsid::UNASSIGNED,
            &[],
            &[
                T::PROTOCOL_REVISION,
                T::ADDRESS_REQUEST,
                T::INNER_MTU,
                T::TUNNEL_SESSION_ID,
                T::TUNNEL_TAG,
                T::COOKIE,
                T::AUTH_TOKEN,
                T::CLIENT_INFO,
                T::SUPPORTED_SERVICES,
                T::PADDING,
            ],
            &[],
        ),
        make(
            CmType::CONFIGURATION_RESPONSE,
            TSID,
            &[success],
            &assignment,
            &[sample(T::RESUME_KEY)],
        ),
        make(
            CmType::CONFIGURATION_RESPONSE,
            Tsid::UNASSIGNED,
            &[code(ResponseCode::COOKIE_REQUIRED)],
            &[T::COOKIE, T::RETRY_AFTER, T::OFFENDING_TYPE, T::REASON_TEXT],
            &[],
        ),
        make(
            CmType::CONFIGURATION_RESUME_REQUEST,
            TSID,
            &[],
            &[T::PROTOCOL_REVISION, T::RESUME_PROOF],
            &[],
        ),
        make(
            CmType::CONFIGURATION_RESUME_RESPONSE,
            TSID,
            &[success],
            &assignment,
            &[sample(T::ACTIVE_SERVICES)],
        ),
        make(
            CmType::CONFIGURATION_RELEASE_REQUEST,
            TSID,
            &[],
            &[T::REASON_TEXT],
            &[],
        ),
        make(
            CmType::CONFIGURATION_RELEASE_RESPONSE,
            TSID,
            &[success],
            &[],
            &[],
        ),
        make(CmType::KEEPALIVE, TSID, &[], &[T::PADDING], &[]),
        make(
            CmType::KEEPALIVE_RESPONSE,
            TSID,
            &[success],
            &[T::NAT_INFO_IPV4],
            &[report],
        ),
        make(
            CmType::KEEPALIVE_RESPONSE,
            TSID,
            &[code(ResponseCode::UNKNOWN_TUNNEL)],
            &[],
            &[],
        ),
        make(
            CmType::SERVICE_REQUEST,
            TSID,
            &[Tlv::ServiceType(ServiceType::HANDOVER)],
            &[T::ALTERNATE_SERVER, T::RETRY_AFTER],
            &[],
        ),
        make(
            CmType::SERVICE_RESPONSE,
            TSID,
            &[Tlv::ServiceType(ServiceType::HANDOVER), success],
            &[],
            &[],
        ),
        make(
            CmType::CLIENT_SERVICE_REQUEST,
            TSID,
            &[],
            &[
                T::SERVICE_TYPE,
                T::CONNECTION_INFO_IPV4,
                T::CONNECTION_INFO_IPV6,
                T::REDUNDANCY_FACTOR,
                T::REDUNDANCY_METHOD,
                T::DSCP,
                T::ROUTED_PREFIX_IPV4,
                T::ROUTED_PREFIX_IPV6,
                T::CERTIFICATE_FINGERPRINT,
                T::SOCKET_REFERENCE,
                T::HEADER_COMPRESSION_INDEX,
                T::PAYLOAD_TYPE,
                T::BUFFER_SIZE,
                T::PATH_ID,
            ],
            &[],
        ),
        make(
            CmType::CLIENT_SERVICE_RESPONSE,
            TSID,
            &[],
            &[
                T::SERVICE_TYPE,
                T::RESPONSE_CODE,
                T::TUNNEL_SESSION_ID,
                T::TUNNEL_TAG,
                T::COMPANION_ENDPOINT,
                T::PEER_SERVICE_RESPONSE,
            ],
            &[],
        ),
    ]
}

/// An IPv4 packet with UDP.
pub(crate) fn inner4(source: u16, payload: &[u8]) -> Vec<u8> {
    let upper = udp(source, 40_001, payload);
    let mut packet = vec![0; 20];
    packet[0] = 0x45;
    let total = u16::try_from(20 + upper.len()).unwrap();
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet[8] = 64;
    packet[9] = 17;
    packet[12..20].copy_from_slice(&[10, 64, 0, 17, 192, 0, 2, 5]);
    [packet, upper].concat()
}

pub(crate) fn inner6(source: u16, payload: &[u8]) -> Vec<u8> {
    let upper = udp(source, 40_001, payload);
    let mut packet = vec![0; 40];
    packet[0] = 0x60;
    let length = u16::try_from(upper.len()).unwrap();
    packet[4..6].copy_from_slice(&length.to_be_bytes());
    packet[6] = 17;
    packet[7] = 64;
    packet[8..24].copy_from_slice(&V6.octets());
    packet[24..40].copy_from_slice(&Ipv6Addr::LOCALHOST.octets());
    [packet, upper].concat()
}

pub(crate) fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    let header = [source, destination, length, 0].map(u16::to_be_bytes);
    [header.as_flattened(), payload].concat()
}

/// A redundancy frame of these packets, the first with this sequence.
pub(crate) fn redundancy(newest: u32, packets: &[Vec<u8>]) -> Vec<u8> {
    let entries: Vec<_> = (0..)
        .zip(packets)
        .map(|(age, packet)| RedundancyEntry {
            sequence: Sequence(newest.wrapping_sub(age)),
            packet: IpPacket::decode(packet, &LIMITS).unwrap(),
        })
        .collect();
    let mut frame = Vec::new();
    RedundancyFrame::encode_datagram(&entries, &LIMITS, &mut frame).unwrap();
    frame
}

/// Packets, then each kind of data frame.
pub(crate) fn data() -> Vec<Vec<u8>> {
    let mut units = vec![inner4(1000, b"voice"), inner6(1001, b"more voice")];
    units.push(redundancy(1, &[inner4(1002, b"one")]));
    // Around the number circle, of both versions.
    units.push(redundancy(
        2,
        &[
            inner6(1003, b"four"),
            inner4(1003, b"three"),
            inner4(1003, b"two"),
        ],
    ));
    for kind in [
        ReservedKind::CompressedShort,
        ReservedKind::CompressedLong,
        ReservedKind::Extension,
    ] {
        let mut frame = Vec::new();
        ReservedFrame::encode(kind, 9, b"compressed", &LIMITS, &mut frame).unwrap();
        units.push(frame);
    }
    units
}

/// What is wrong, each in its own way: values, rules, framing.
pub(crate) fn damaged() -> Vec<Vec<u8>> {
    let mut units = Vec::new();
    // Every type with values of lengths and contents that fit none or few.
    for ty in TlvType::ALL {
        for len in [0_u16, 1, 2, 4, 14, 20] {
            let mut tlv = [ty.0.to_be_bytes(), len.to_be_bytes()].concat();
            tlv.extend(vec![0xEE; len.into()]);
            units.push(raw_tlvs(CmType::KEEPALIVE.0, 1, TSID, &tlv));
        }
    }
    let tlv = |bytes: &[u8]| raw_tlvs(CmType::CLIENT_SERVICE_REQUEST.0, 1, TSID, bytes);
    for value in [
        &[0, 4, 0, 1, 129][..],
        &[0, 26, 0, 5, 10, 0, 0, 0, 33],
        &[0, 15, 0, 1, 9],
        &[0, 31, 0, 1, 64],
        &[0, 32, 0, 4, 1, 4, 0, 0],
        &[0, 2, 0, 4, 0, 0, 0, 0],
        &[0, 2, 0, 4, 255, 255, 255, 255],
        &[0, 2, 0, 4, 255, 0, 255, 0],
        &[0x80, 1, 0, 3, 0xED, 0xA0, 0x80],
        &[0x80, 1, 0, 2, 0xC0, 0x80],
        &[0x80, 1, 0, 4, 0xF0, 0x9F, 0x98, 0x80],
        &[0x80, 1, 0, 4, 0xF4, 0x90, 0x80, 0x80],
        &[0, 99, 0, 1, 0],
        &[0xFF, 1, 0, 3, 1, 2, 3],
    ] {
        units.push(tlv(value));
    }
    // Messages of types that nobody knows, and each good one without one of its TLVs, with one twice, and of another type.
    units.push(raw_tlvs(13, 0, TSID, &[]));
    units.push(raw_tlvs(200, 0, TSID, &[]));
    for message in messages() {
        let pieces = pieces(&message);
        let header = Tsid(u64::from_be_bytes(message[4..12].try_into().unwrap()));
        let count = u16::try_from(pieces.len()).unwrap();
        for at in 0..pieces.len() {
            let mut without = pieces.clone();
            without.remove(at);
            units.push(raw_tlvs(message[1], count - 1, header, &without.concat()));
            let mut twice = pieces.clone();
            twice.push(pieces[at]);
            units.push(raw_tlvs(message[1], count + 1, header, &twice.concat()));
        }
        for cm_type in CmType::ALL {
            units.push(raw_tlvs(cm_type.0, count, header, &pieces.concat()));
        }
        for tsid in [Tsid(0), Tsid::UNASSIGNED] {
            units.push(raw_tlvs(message[1], count, tsid, &pieces.concat()));
        }
        for cut in [1, 3, 15, 17, 19, message.len() - 1] {
            if cut < message.len() {
                units.push(message[..cut].to_vec());
            }
        }
    }
    for unit in data() {
        units.push([unit.as_slice(), &[0; 3]].concat());
        for cut in (1..10).chain([unit.len() - 1]) {
            units.push(unit[..cut].to_vec());
        }
    }
    let packet = inner4(1, b"x");
    let entry = |sequence: u32| [&sequence.to_be_bytes()[..], &packet].concat();
    let mut long = inner4(1, b"");
    long[2..4].copy_from_slice(&9001_u16.to_be_bytes());
    units.extend([
        vec![0xFF, 0],
        vec![0x08; 20],
        raw_tlvs(7, 65, TSID, &[]),
        raw_tlvs(
            9,
            2,
            TSID,
            &[&[0x80, 4, 0x0F, 0xFF][..], &[0; 4095], &[0, 1, 0, 1]].concat(),
        ),
        [&[0x1C, 0][..], &entry(1)].concat(),
        [&[0x1C, 10][..], &entry(1)].concat(),
        [&[0x1C, 2][..], &entry(1), &entry(1)].concat(),
        [&[0x1C, 2][..], &entry(1), &entry(2)].concat(),
        [&[0x1C, 1, 0, 0, 0, 1, 0x10][..], &[0; 30]].concat(),
        [&[0x44][..], &[0; 30]].concat(),
        [&[0x45, 0, 0, 19][..], &[0; 30]].concat(),
        long,
        [&[0x1E, 1, 0xFF, 0xFF][..], &[0; 30]].concat(),
    ]);
    units
}

/// The TLVs of a message as they stand.
fn pieces(message: &[u8]) -> Vec<&[u8]> {
    let mut rest = &message[16..];
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let len = 4 + usize::from(u16::from_be_bytes([rest[2], rest[3]]));
        let (piece, after) = rest.split_at(len);
        pieces.push(piece);
        rest = after;
    }
    pieces
}
