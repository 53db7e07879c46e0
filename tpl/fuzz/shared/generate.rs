//! Messages, frames and packets made from a supply of bytes: random input decides, nothing else.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use tsc_tpl::{
    AddressRequest, AuthToken, CertificateFingerprint, CmType, ConnectionInfo, Cookie, Dscp,
    Family, Ipv4Netmask, Ipv6PrefixLength, MessageBuilder, Padding, PayloadType, RedundancyFactor,
    RedundancyMethod, ResponseCode, ResumeKey, ResumeProof, RoutedPrefix, Seconds, Sequence,
    ServerEndpoint, ServiceList, ServiceType, Text, Tlv, TlvType, TransportCode, Tsid, TunnelTag,
    UnknownTlv,
};

static ZEROS: [u8; 9216] = [0; 9216];

/// Hands out bytes, then zeros.
pub(crate) struct Source<'a> {
    data: &'a [u8],
}

impl<'a> Source<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Self { data }
    }

    pub(crate) fn bytes(&mut self, len: usize) -> &'a [u8] {
        match self.data.split_at_checked(len) {
            Some((taken, rest)) => {
                self.data = rest;
                taken
            }
            None => {
                self.data = &[];
                &ZEROS[..len]
            }
        }
    }

    fn array<const N: usize>(&mut self) -> &'a [u8; N] {
        self.bytes(N).try_into().expect("N bytes were asked for")
    }

    pub(crate) fn u8(&mut self) -> u8 {
        u8::from_be_bytes(*self.array())
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_be_bytes(*self.array())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_be_bytes(*self.array())
    }

    fn u64(&mut self) -> u64 {
        u64::from_be_bytes(*self.array())
    }

    pub(crate) fn below(&mut self, end: u8) -> u8 {
        self.u8() % end
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.u16()) % from.len()]
    }

    fn ipv4(&mut self) -> Ipv4Addr {
        Ipv4Addr::from(*self.array::<4>())
    }

    fn ipv6(&mut self) -> Ipv6Addr {
        Ipv6Addr::from(*self.array::<16>())
    }

    fn v4(&mut self) -> SocketAddrV4 {
        SocketAddrV4::new(self.ipv4(), self.u16())
    }

    fn v6(&mut self) -> SocketAddrV6 {
        SocketAddrV6::new(self.ipv6(), self.u16(), 0, 0)
    }

    fn endpoint(&mut self) -> ServerEndpoint {
        let transport = TransportCode(self.u8());
        let addr = if self.below(2) == 0 {
            SocketAddr::V4(self.v4())
        } else {
            SocketAddr::V6(self.v6())
        };
        ServerEndpoint { transport, addr }
    }

    fn text(&mut self) -> Text<'a> {
        let len = usize::from(self.u8());
        let bytes = self.bytes(len);
        let valid = bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid());
        Text::truncated(valid)
    }

    fn services(&mut self) -> ServiceList<'static> {
        let count = usize::from(self.u8()) % (ServiceType::ALL.len() + 1);
        ServiceList::new(&ServiceType::ALL[..count]).expect("fewer than the most")
    }
}

/// One TLV of any type, valid by itself.
pub(crate) fn tlv<'a>(ty: TlvType, source: &mut Source<'a>) -> Tlv<'a> {
    match ty {
        TlvType::INTERNAL_IPV4_ADDRESS => Tlv::InternalIpv4Address(source.ipv4()),
        TlvType::INTERNAL_IPV4_NETMASK => {
            Tlv::InternalIpv4Netmask(Ipv4Netmask::new(source.u8() % 33).expect("at most 32"))
        }
        TlvType::INTERNAL_IPV6_ADDRESS => Tlv::InternalIpv6Address(source.ipv6()),
        TlvType::INTERNAL_IPV6_PREFIX_LENGTH => Tlv::InternalIpv6PrefixLength(
            Ipv6PrefixLength::new(source.u8() % 129).expect("at most 128"),
        ),
        TlvType::SIP_SERVER_IPV4 => Tlv::SipServerIpv4(source.v4()),
        TlvType::SIP_SERVER_IPV6 => Tlv::SipServerIpv6(source.v6()),
        TlvType::KEEPALIVE_INTERVAL => Tlv::KeepaliveInterval(Seconds(source.u16())),
        TlvType::PERSISTENCE_TIME => Tlv::PersistenceTime(Seconds(source.u16())),
        TlvType::NAT_INFO_IPV4 => Tlv::NatInfoIpv4(source.v4()),
        TlvType::NAT_INFO_IPV6 => Tlv::NatInfoIpv6(source.v6()),
        TlvType::CONNECTION_INFO_IPV4 => Tlv::ConnectionInfoIpv4(ConnectionInfo {
            transport: TransportCode(source.u8()),
            source: source.v4(),
            destination: source.v4(),
        }),
        TlvType::CONNECTION_INFO_IPV6 => Tlv::ConnectionInfoIpv6(ConnectionInfo {
            transport: TransportCode(source.u8()),
            source: source.v6(),
            destination: source.v6(),
        }),
        TlvType::SERVICE_TYPE => Tlv::ServiceType(ServiceType(source.u16())),
        TlvType::RESPONSE_CODE => Tlv::ResponseCode(ResponseCode(source.u16() % 20)),
        TlvType::REDUNDANCY_FACTOR => {
            Tlv::RedundancyFactor(RedundancyFactor::new(source.u8() % 9).expect("at most 8"))
        }
        TlvType::REDUNDANCY_METHOD => Tlv::RedundancyMethod(RedundancyMethod(source.u8())),
        TlvType::TUNNEL_SESSION_ID => Tlv::TunnelSessionId(Tsid(source.u64())),
        TlvType::PEER_SERVICE_RESPONSE => Tlv::PeerServiceResponse(source.below(2) == 1),
        TlvType::HEADER_COMPRESSION_INDEX => Tlv::HeaderCompressionIndex(source.u8()),
        TlvType::PAYLOAD_TYPE => Tlv::PayloadType(PayloadType(source.u8(), source.u8())),
        TlvType::BUFFER_SIZE => Tlv::BufferSize(source.u32()),
        TlvType::TUNNEL_TAG => Tlv::TunnelTag(TunnelTag::new(source.array())),
        TlvType::RESUME_KEY => Tlv::ResumeKey(ResumeKey::new(source.array())),
        TlvType::ADDRESS_REQUEST => Tlv::AddressRequest(AddressRequest {
            family: if source.below(2) == 0 {
                Family::Ipv4
            } else {
                Family::Ipv6
            },
            count: source.u8(),
        }),
        TlvType::PATH_ID => Tlv::PathId(source.u8()),
        TlvType::ROUTED_PREFIX_IPV4 => Tlv::RoutedPrefixIpv4(
            RoutedPrefix::<Ipv4Addr>::new(source.ipv4(), source.u8() % 33).expect("at most 32"),
        ),
        TlvType::ROUTED_PREFIX_IPV6 => Tlv::RoutedPrefixIpv6(
            RoutedPrefix::<Ipv6Addr>::new(source.ipv6(), source.u8() % 129).expect("at most 128"),
        ),
        TlvType::DNS_SERVER_IPV4 => Tlv::DnsServerIpv4(source.ipv4()),
        TlvType::DNS_SERVER_IPV6 => Tlv::DnsServerIpv6(source.ipv6()),
        TlvType::INNER_MTU => Tlv::InnerMtu(1280 + source.u16() % 7721),
        TlvType::DSCP => Tlv::Dscp(Dscp::new(source.u8() % 64).expect("at most 63")),
        TlvType::ALTERNATE_SERVER => Tlv::AlternateServer(source.endpoint()),
        TlvType::SOCKET_REFERENCE => Tlv::SocketReference(source.u32()),
        TlvType::COOKIE => {
            let len = 8 + usize::from(source.u8()) % 57;
            Tlv::Cookie(Cookie::new(source.bytes(len)).expect("8 to 64"))
        }
        TlvType::AUTH_TOKEN => {
            let len = 1 + usize::from(source.u16()) % 2048;
            Tlv::AuthToken(AuthToken::new(source.bytes(len)).expect("1 to 2048"))
        }
        TlvType::RESUME_PROOF => Tlv::ResumeProof(ResumeProof {
            counter: source.u32(),
            mac: source.array(),
        }),
        TlvType::CERTIFICATE_FINGERPRINT => {
            Tlv::CertificateFingerprint(CertificateFingerprint(source.array()))
        }
        TlvType::ACTIVE_SERVICES => Tlv::ActiveServices(source.services()),
        TlvType::COMPANION_ENDPOINT => Tlv::CompanionEndpoint(source.endpoint()),
        TlvType::RETRY_AFTER => Tlv::RetryAfter(Seconds(source.u16())),
        TlvType::OFFENDING_TYPE => Tlv::OffendingType(TlvType(source.u16())),
        TlvType::CLIENT_INFO => Tlv::ClientInfo(source.text()),
        TlvType::SUPPORTED_SERVICES => Tlv::SupportedServices(source.services()),
        TlvType::REASON_TEXT => Tlv::ReasonText(source.text()),
        TlvType::PADDING => {
            Tlv::Padding(Padding::new(usize::from(source.u16()) % 1000).expect("at most 9000"))
        }
        TlvType::PROTOCOL_REVISION => Tlv::ProtocolRevision(source.u16()),
        TlvType(other) => {
            let ty = TlvType(0x8100 | (other & 0x7EFF));
            let len = usize::from(source.u8());
            Tlv::Unknown(UnknownTlv::new(ty, source.bytes(len)).expect("unknown and ignorable"))
        }
    }
}

/// A message of any type with any TLVs: mostly one that must be refused.
pub(crate) fn any_message<'a>(source: &mut Source<'a>) -> MessageBuilder<'a> {
    let cm_type = CmType(source.u8() % 18);
    let tsid = if source.below(2) == 0 {
        Tsid::UNASSIGNED
    } else {
        Tsid(source.u64())
    };
    let sequence = Sequence(source.u32());
    let most = if source.below(8) == 0 { 70 } else { 8 };
    let count = source.below(most);
    let tlvs: Vec<_> = (0..count)
        .map(|_| {
            let ty = if source.below(8) == 0 {
                TlvType(source.u16() | 0x8000)
            } else {
                source.pick(TlvType::ALL)
            };
            tlv(ty, source)
        })
        .collect();
    MessageBuilder::new(cm_type, tsid, sequence).tlvs(tlvs)
}

/// A message that obeys section 3.6: written from the specification, not from the checking code.
pub(crate) fn message<'a>(source: &mut Source<'a>) -> MessageBuilder<'a> {
    use TlvType as T;
    let cm_type = source.pick(CmType::ALL);
    let code = if source.below(2) == 0 {
        ResponseCode::SUCCESS
    } else {
        ResponseCode(1 + source.u16() % 30)
    };
    let success = code == ResponseCode::SUCCESS;
    let mut tsid = Tsid(1 + source.u64() / 2);
    let mut parts = Parts {
        source,
        groups: Vec::new(),
    };
    if cm_type.is_response() {
        parts.groups.push(vec![Tlv::ResponseCode(code)]);
    }
    match cm_type {
        CmType::CONFIGURATION_REQUEST => {
            tsid = Tsid::UNASSIGNED;
            parts.required(&[T::PROTOCOL_REVISION]);
            parts.optional(&[
                T::INNER_MTU,
                T::COOKIE,
                T::AUTH_TOKEN,
                T::CLIENT_INFO,
                T::SUPPORTED_SERVICES,
                T::PADDING,
            ]);
            parts.repeated(&[T::ADDRESS_REQUEST]);
            if parts.source.below(2) == 0 {
                parts.pair(T::TUNNEL_SESSION_ID, T::TUNNEL_TAG);
            }
        }
        CmType::CONFIGURATION_RESPONSE | CmType::CONFIGURATION_RESUME_RESPONSE if success => {
            let resume = cm_type == CmType::CONFIGURATION_RESUME_RESPONSE;
            parts.required(&[
                T::PROTOCOL_REVISION,
                T::KEEPALIVE_INTERVAL,
                T::PERSISTENCE_TIME,
                T::INNER_MTU,
            ]);
            parts.required(&[if resume {
                T::ACTIVE_SERVICES
            } else {
                T::RESUME_KEY
            }]);
            parts.optional(&[
                T::NAT_INFO_IPV4,
                T::NAT_INFO_IPV6,
                T::SUPPORTED_SERVICES,
                T::DSCP,
            ]);
            parts.repeated(&[
                T::SIP_SERVER_IPV4,
                T::SIP_SERVER_IPV6,
                T::DNS_SERVER_IPV4,
                T::DNS_SERVER_IPV6,
                T::ALTERNATE_SERVER,
            ]);
            parts.pair(T::INTERNAL_IPV4_ADDRESS, T::INTERNAL_IPV4_NETMASK);
            for _ in 0..parts.source.below(3) {
                parts.pair(T::INTERNAL_IPV6_ADDRESS, T::INTERNAL_IPV6_PREFIX_LENGTH);
            }
        }
        CmType::CONFIGURATION_RESPONSE | CmType::CONFIGURATION_RESUME_RESPONSE => {
            tsid = if cm_type == CmType::CONFIGURATION_RESPONSE {
                Tsid::UNASSIGNED
            } else {
                tsid
            };
            parts.required(&[T::COOKIE, T::ALTERNATE_SERVER, T::OFFENDING_TYPE]);
            parts.optional(&[T::RETRY_AFTER, T::REASON_TEXT]);
        }
        CmType::CONFIGURATION_RESUME_REQUEST => {
            parts.required(&[T::PROTOCOL_REVISION, T::RESUME_PROOF]);
            parts.optional(&[T::COOKIE, T::AUTH_TOKEN, T::PADDING]);
        }
        CmType::CONFIGURATION_RELEASE_REQUEST => parts.optional(&[T::REASON_TEXT]),
        CmType::KEEPALIVE => parts.optional(&[T::PADDING]),
        CmType::KEEPALIVE_RESPONSE if success => {
            parts.optional(&[T::NAT_INFO_IPV4, T::NAT_INFO_IPV6])
        }
        CmType::SERVICE_REQUEST | CmType::CLIENT_SERVICE_REQUEST => {
            parts.required(&[T::SERVICE_TYPE]);
            parts.optional(&[
                T::REDUNDANCY_FACTOR,
                T::REDUNDANCY_METHOD,
                T::DSCP,
                T::CERTIFICATE_FINGERPRINT,
                T::RETRY_AFTER,
                T::SOCKET_REFERENCE,
            ]);
            parts.repeated(&[
                T::CONNECTION_INFO_IPV4,
                T::CONNECTION_INFO_IPV6,
                T::ROUTED_PREFIX_IPV4,
                T::ROUTED_PREFIX_IPV6,
                T::ALTERNATE_SERVER,
            ]);
        }
        CmType::SERVICE_RESPONSE | CmType::CLIENT_SERVICE_RESPONSE if success => {
            parts.required(&[T::SERVICE_TYPE]);
            parts.optional(&[
                T::REDUNDANCY_FACTOR,
                T::REDUNDANCY_METHOD,
                T::COMPANION_ENDPOINT,
                T::KEEPALIVE_INTERVAL,
                T::PEER_SERVICE_RESPONSE,
                T::CERTIFICATE_FINGERPRINT,
            ]);
            parts.repeated(&[T::CONNECTION_INFO_IPV4, T::ROUTED_PREFIX_IPV6]);
            match parts.source.below(4) {
                0 => parts.required(&[T::TUNNEL_TAG]),
                pairs => (1..pairs).for_each(|_| parts.pair(T::TUNNEL_SESSION_ID, T::TUNNEL_TAG)),
            }
        }
        CmType::SERVICE_RESPONSE | CmType::CLIENT_SERVICE_RESPONSE => {
            parts.required(&[T::SERVICE_TYPE]);
            parts.refusal(code);
        }
        _ if success => {}
        _ => parts.refusal(code),
    }
    // What is unknown may be anywhere, between the halves of a pair as well.
    let mut tlvs = parts.shuffled();
    for _ in 0..source.below(3) {
        let at = usize::from(source.u8()) % (tlvs.len() + 1);
        tlvs.insert(at, tlv(TlvType(0xFF00 | source.u16()), source));
    }
    // Codes that need a TLV which this type cannot carry.
    let cannot = matches!(code, ResponseCode::COOKIE_REQUIRED | ResponseCode::REDIRECT)
        && !matches!(
            cm_type,
            CmType::CONFIGURATION_RESPONSE | CmType::CONFIGURATION_RESUME_RESPONSE
        );
    if cm_type.is_response() && cannot {
        for tlv in &mut tlvs {
            if let Tlv::ResponseCode(code) = tlv {
                *code = ResponseCode::BUSY;
            }
        }
    }
    MessageBuilder::new(cm_type, tsid, Sequence(source.u32())).tlvs(tlvs)
}

/// TLVs that have to stay together, in groups.
struct Parts<'s, 'a> {
    source: &'s mut Source<'a>,
    groups: Vec<Vec<Tlv<'a>>>,
}

impl<'a> Parts<'_, 'a> {
    fn required(&mut self, types: &[TlvType]) {
        for &ty in types {
            self.groups.push(vec![tlv(ty, self.source)]);
        }
    }

    fn optional(&mut self, types: &[TlvType]) {
        for &ty in types {
            if self.source.below(2) == 0 {
                self.required(&[ty]);
            }
        }
    }

    fn repeated(&mut self, types: &[TlvType]) {
        for &ty in types {
            for _ in 0..self.source.below(3) {
                self.required(&[ty]);
            }
        }
    }

    fn pair(&mut self, first: TlvType, second: TlvType) {
        self.groups
            .push(vec![tlv(first, self.source), tlv(second, self.source)]);
    }

    fn refusal(&mut self, code: ResponseCode) {
        self.optional(&[TlvType::RETRY_AFTER, TlvType::REASON_TEXT]);
        if code == ResponseCode::UNSUPPORTED_TLV {
            self.required(&[TlvType::OFFENDING_TYPE]);
        }
    }

    /// All TLVs, groups in any order.
    fn shuffled(mut self) -> Vec<Tlv<'a>> {
        let mut order = Vec::new();
        while !self.groups.is_empty() {
            let at = usize::from(self.source.u8()) % self.groups.len();
            order.extend(self.groups.remove(at));
        }
        order
    }
}

/// A packet that frames: IPv4 or IPv6, at most 600 bytes, its contents any bytes.
pub(crate) fn ip_packet(source: &mut Source<'_>) -> Vec<u8> {
    let body = usize::from(source.u16()) % 560;
    if source.below(2) == 0 {
        let words = 5 + source.below(11);
        let header = usize::from(words) * 4;
        let mut packet = vec![0x40 | words];
        packet.extend_from_slice(source.bytes(header - 1 + body));
        let total = u16::try_from(packet.len()).expect("short").to_be_bytes();
        packet[2..4].copy_from_slice(&total);
        packet
    } else {
        let mut packet = vec![0x60];
        packet.extend_from_slice(source.bytes(39 + body));
        packet[4..6].copy_from_slice(&u16::try_from(body).expect("short").to_be_bytes());
        packet
    }
}
