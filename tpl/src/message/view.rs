//! What a parsed message says, by name.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "an accessor picks one kind of TLV and skips the rest"
)]

use core::fmt;
use core::net::{IpAddr, SocketAddr};

use super::Message;
use crate::ids::Tsid;
use crate::registry::{RedundancyMethod, ResponseCode, ServiceType, TlvType, TransportCode};
use crate::tlv::{
    AddressRequest, AuthToken, CertificateFingerprint, Cookie, Dscp, ReceptionReport,
    RedundancyFactor, ResumeKey, ResumeProof, Seconds, ServerEndpoint, ServiceList, Text, Tlv,
    TunnelTag,
};

/// An inner address with its prefix length (TLVs 1+2 or 3+4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AssignedAddress {
    /// The address.
    pub addr: IpAddr,
    /// Length of the prefix it is in; widens nothing (spec 8.1).
    pub prefix_len: u8,
}

impl fmt::Display for AssignedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix_len)
    }
}

/// Connection_Info of either family (TLVs 11 and 12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// In a flow key the inner transport, in a peer candidate the outer one.
    pub transport: TransportCode,
    /// Source; zero = any.
    pub source: SocketAddr,
    /// Destination; zero = any.
    pub destination: SocketAddr,
}

/// Accessors for TLVs that appear at most once.
macro_rules! single {
    ($($(#[$meta:meta])* $name:ident: $variant:ident -> $ty:ty;)*) => {$(
        $(#[$meta])*
        #[must_use]
        pub fn $name(&self) -> Option<$ty> {
            self.tlvs.iter().find_map(|tlv| match *tlv {
                Tlv::$variant(value) => Some(value),
                _ => None,
            })
        }
    )*};
}

/// Accessors for TLVs of two families that may repeat; in wire order, which is order of preference.
macro_rules! several {
    ($($(#[$meta:meta])* $name:ident: $($variant:ident)|+ -> $ty:ty;)*) => {$(
        $(#[$meta])*
        pub fn $name(&self) -> impl Iterator<Item = $ty> {
            self.tlvs.iter().filter_map(|tlv| match *tlv {
                $(Tlv::$variant(value) => Some(value.into()),)+
                _ => None,
            })
        }
    )*};
}

impl<'a> Message<'a> {
    single! {
        /// The outcome; there in every response.
        response_code: ResponseCode -> ResponseCode;
        /// The service that is meant; there in every service request.
        service_type: ServiceType -> ServiceType;
        /// The sender's revision of the protocol.
        protocol_revision: ProtocolRevision -> u16;
        /// Time between signs of life; 0 = none.
        keepalive_interval: KeepaliveInterval -> Seconds;
        /// How long an idle tunnel persists.
        persistence_time: PersistenceTime -> Seconds;
        /// The key of resume proofs.
        resume_key: ResumeKey -> ResumeKey<'a>;
        /// The proof of a resume request.
        resume_proof: ResumeProof -> ResumeProof<'a>;
        /// Longest inner packet in bytes; a wish in a request, checked in a response.
        inner_mtu: InnerMtu -> u16;
        /// Mark of outer packets.
        dscp: Dscp -> Dscp;
        /// The cookie to send, or the one sent.
        cookie: Cookie -> Cookie<'a>;
        /// The client's token.
        auth_token: AuthToken -> AuthToken<'a>;
        /// The first Tunnel_Tag: with [`companions`](Self::companions) empty, that of a peer tunnel.
        tunnel_tag: TunnelTag -> TunnelTag<'a>;
        /// Seconds to wait.
        retry_after: RetryAfter -> Seconds;
        /// The type that was not understood.
        offending_type: OffendingType -> TlvType;
        /// Name and version of the client.
        client_info: ClientInfo -> Text<'a>;
        /// An explanation for people.
        reason_text: ReasonText -> Text<'a>;
        /// Services that the sender can do.
        supported_services: SupportedServices -> ServiceList<'a>;
        /// Services in force after a resume.
        active_services: ActiveServices -> ServiceList<'a>;
        /// How many copies or companions.
        redundancy_factor: RedundancyFactor -> RedundancyFactor;
        /// How copies travel.
        redundancy_method: RedundancyMethod -> RedundancyMethod;
        /// Whether the peer is available.
        peer_service_response: PeerServiceResponse -> bool;
        /// A peer's certificate.
        certificate_fingerprint: CertificateFingerprint -> CertificateFingerprint<'a>;
        /// Where a companion tunnel is opened.
        companion_endpoint: CompanionEndpoint -> ServerEndpoint;
        /// For the client's own logs.
        socket_reference: SocketReference -> u32;
    }

    several! {
        /// SIP servers in order of preference.
        sip_servers: SipServerIpv4 | SipServerIpv6 -> SocketAddr;
        /// DNS servers in order of preference.
        dns_servers: DnsServerIpv4 | DnsServerIpv6 -> IpAddr;
        /// The client's outer endpoint as the server sees it; at most one of each family.
        nat_info: NatInfoIpv4 | NatInfoIpv6 -> SocketAddr;
        /// Other servers to go to, in order of preference.
        alternate_servers: AlternateServer -> ServerEndpoint;
        /// Wishes for addresses.
        address_requests: AddressRequest -> AddressRequest;
    }

    /// Inner addresses with their prefix lengths.
    pub fn addresses(&self) -> impl Iterator<Item = AssignedAddress> {
        addresses(&self.tlvs)
    }

    /// Reserved or claimed tunnels with their tags (17+22).
    pub fn companions(&self) -> impl Iterator<Item = (Tsid, TunnelTag<'a>)> {
        let mut tsid = None;
        self.tlvs.iter().filter_map(move |tlv| match *tlv {
            Tlv::TunnelSessionId(id) => {
                tsid = Some(id);
                None
            }
            Tlv::TunnelTag(tag) => tsid.take().map(|id| (id, tag)),
            _ => None,
        })
    }

    /// What has become of a redundancy group's packets, if the sender knows our private TLV.
    #[must_use]
    pub fn reception_report(&self) -> Option<ReceptionReport> {
        self.tlvs.iter().find_map(|tlv| match tlv {
            Tlv::Unknown(private) if private.ty() == TlvType::RECEPTION_REPORT => {
                ReceptionReport::from_bytes(private.value())
            }
            _ => None,
        })
    }

    /// Flows and candidates (Connection_Info).
    pub fn flows(&self) -> impl Iterator<Item = Flow> {
        self.tlvs.iter().filter_map(|tlv| match *tlv {
            Tlv::ConnectionInfoIpv4(info) => Some(Flow {
                transport: info.transport,
                source: info.source.into(),
                destination: info.destination.into(),
            }),
            Tlv::ConnectionInfoIpv6(info) => Some(Flow {
                transport: info.transport,
                source: info.source.into(),
                destination: info.destination.into(),
            }),
            _ => None,
        })
    }

    /// Prefixes behind the client: address and length.
    pub fn routed_prefixes(&self) -> impl Iterator<Item = (IpAddr, u8)> {
        self.tlvs.iter().filter_map(|tlv| match *tlv {
            Tlv::RoutedPrefixIpv4(prefix) => Some((prefix.addr().into(), prefix.prefix_len())),
            Tlv::RoutedPrefixIpv6(prefix) => Some((prefix.addr().into(), prefix.prefix_len())),
            _ => None,
        })
    }
}

/// Inner addresses with their prefix lengths; the rules have made sure that halves are adjacent.
pub(super) fn addresses(tlvs: &[Tlv<'_>]) -> impl Iterator<Item = AssignedAddress> {
    let mut pending = None;
    tlvs.iter().filter_map(move |tlv| {
        let prefix_len = match *tlv {
            Tlv::InternalIpv4Address(addr) => {
                pending = Some(IpAddr::V4(addr));
                return None;
            }
            Tlv::InternalIpv6Address(addr) => {
                pending = Some(IpAddr::V6(addr));
                return None;
            }
            Tlv::InternalIpv4Netmask(mask) => mask.prefix_len(),
            Tlv::InternalIpv6PrefixLength(len) => len.value(),
            _ => return None,
        };
        pending
            .take()
            .map(|addr| AssignedAddress { addr, prefix_len })
    })
}
