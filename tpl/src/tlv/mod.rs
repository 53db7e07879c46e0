//! TLVs with typed values (spec 3.3).

mod opaque;
mod types;
mod value;

use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};

use bytes::BufMut;

pub use self::opaque::{
    AuthToken, CertificateFingerprint, Cookie, ResumeKey, ResumeProof, ServiceList, Text,
    TunnelTag, UnknownTlv,
};
pub use self::types::{
    AddressRequest, ConnectionInfo, Dscp, Family, Ipv4Netmask, Ipv6PrefixLength, Padding,
    PayloadType, ReceptionReport, RedundancyFactor, RoutedPrefix, Seconds, ServerEndpoint,
};
use self::value::Value;
use crate::error::{EncodeError, MessageError, UnitError};
use crate::ids::Tsid;
use crate::registry::{RedundancyMethod, ResponseCode, ServiceType, TLV_HEADER_LEN, TlvType};
use crate::room;

/// Declares [`Tlv`]: one row per registry entry, so that type, decoder, encoder and text cannot drift apart.
macro_rules! tlvs {
    ($($(#[$meta:meta])* $variant:ident($value:ty) = $ty:ident;)*) => {
        /// One TLV with its typed, checked value. Whatever exists of this type can be encoded.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Tlv<'a> {
            $($(#[$meta])* $variant($value),)*
            /// A type that is not known and may be ignored.
            Unknown(UnknownTlv<'a>),
        }

        impl<'a> Tlv<'a> {
            /// Its type.
            #[must_use]
            pub const fn ty(&self) -> TlvType {
                match self {
                    $(Self::$variant(_) => TlvType::$ty,)*
                    Self::Unknown(unknown) => unknown.ty(),
                }
            }

            pub(crate) fn decode(ty: TlvType, bytes: &'a [u8]) -> Result<Self, MessageError> {
                let value = match ty {
                    $(TlvType::$ty => Value::decode(bytes).map(Self::$variant),)*
                    _ => {
                        let unknown = UnknownTlv::new(ty, bytes).ok_or(MessageError::UnsupportedTlv(ty))?;
                        return Ok(Self::Unknown(unknown));
                    }
                };
                value.map_err(|error| MessageError::Value { ty, error })
            }

            /// Length of the value on the wire.
            fn value_len(&self) -> usize {
                match self {
                    $(Self::$variant(value) => value.encoded_len(),)*
                    Self::Unknown(unknown) => unknown.value().len(),
                }
            }

            /// Appends the value.
            fn encode_value(&self, out: &mut impl BufMut) {
                match self {
                    $(Self::$variant(value) => value.encode(out),)*
                    Self::Unknown(unknown) => out.put_slice(unknown.value()),
                }
            }

            /// The value as text, without the name. Secrets are hidden, peer-chosen text is escaped.
            fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$variant(value) => value.show(f),)*
                    Self::Unknown(unknown) => write!(f, "<{} bytes>", unknown.value().len()),
                }
            }
        }
    };
}

tlvs! {
    /// An assigned inner IPv4 address, followed by its netmask.
    InternalIpv4Address(Ipv4Addr) = INTERNAL_IPV4_ADDRESS;
    /// The netmask of the address before it.
    InternalIpv4Netmask(Ipv4Netmask) = INTERNAL_IPV4_NETMASK;
    /// An assigned inner IPv6 address, followed by its prefix length.
    InternalIpv6Address(Ipv6Addr) = INTERNAL_IPV6_ADDRESS;
    /// The prefix length of the address before it.
    InternalIpv6PrefixLength(Ipv6PrefixLength) = INTERNAL_IPV6_PREFIX_LENGTH;
    /// A SIP server, in order of preference.
    SipServerIpv4(SocketAddrV4) = SIP_SERVER_IPV4;
    /// A SIP server, in order of preference. Flow label and scope are not carried.
    SipServerIpv6(SocketAddrV6) = SIP_SERVER_IPV6;
    /// Time between signs of life; 0 = none.
    KeepaliveInterval(Seconds) = KEEPALIVE_INTERVAL;
    /// How long an idle tunnel persists.
    PersistenceTime(Seconds) = PERSISTENCE_TIME;
    /// The client's outer endpoint as the server sees it.
    NatInfoIpv4(SocketAddrV4) = NAT_INFO_IPV4;
    /// The client's outer endpoint as the server sees it. Flow label and scope are not carried.
    NatInfoIpv6(SocketAddrV6) = NAT_INFO_IPV6;
    /// A flow or a candidate.
    ConnectionInfoIpv4(ConnectionInfo<SocketAddrV4>) = CONNECTION_INFO_IPV4;
    /// A flow or a candidate.
    ConnectionInfoIpv6(ConnectionInfo<SocketAddrV6>) = CONNECTION_INFO_IPV6;
    /// The service that is meant.
    ServiceType(ServiceType) = SERVICE_TYPE;
    /// The outcome.
    ResponseCode(ResponseCode) = RESPONSE_CODE;
    /// How many copies or companions.
    RedundancyFactor(RedundancyFactor) = REDUNDANCY_FACTOR;
    /// How copies travel; unknown methods are kept.
    RedundancyMethod(RedundancyMethod) = REDUNDANCY_METHOD;
    /// A reserved or claimed tunnel, followed by its tag.
    TunnelSessionId(Tsid) = TUNNEL_SESSION_ID;
    /// Whether the peer is available.
    PeerServiceResponse(bool) = PEER_SERVICE_RESPONSE;
    /// Reserved.
    HeaderCompressionIndex(u8) = HEADER_COMPRESSION_INDEX;
    /// Reserved.
    PayloadType(PayloadType) = PAYLOAD_TYPE;
    /// Reserved.
    BufferSize(u32) = BUFFER_SIZE;
    /// The right to claim a reserved tunnel.
    TunnelTag(TunnelTag<'a>) = TUNNEL_TAG;
    /// The key of resume proofs.
    ResumeKey(ResumeKey<'a>) = RESUME_KEY;
    /// A wish for addresses.
    AddressRequest(AddressRequest) = ADDRESS_REQUEST;
    /// Reserved.
    PathId(u8) = PATH_ID;
    /// A prefix behind the client.
    RoutedPrefixIpv4(RoutedPrefix<Ipv4Addr>) = ROUTED_PREFIX_IPV4;
    /// A prefix behind the client.
    RoutedPrefixIpv6(RoutedPrefix<Ipv6Addr>) = ROUTED_PREFIX_IPV6;
    /// A DNS server.
    DnsServerIpv4(Ipv4Addr) = DNS_SERVER_IPV4;
    /// A DNS server.
    DnsServerIpv6(Ipv6Addr) = DNS_SERVER_IPV6;
    /// Longest inner packet in bytes. In a request a wish, hence any number; checked in a response.
    InnerMtu(u16) = INNER_MTU;
    /// Mark of outer packets.
    Dscp(Dscp) = DSCP;
    /// Another server to go to.
    AlternateServer(ServerEndpoint) = ALTERNATE_SERVER;
    /// For the client's own logs.
    SocketReference(u32) = SOCKET_REFERENCE;
    /// Proof of the client's address.
    Cookie(Cookie<'a>) = COOKIE;
    /// Proof of the client's identity.
    AuthToken(AuthToken<'a>) = AUTH_TOKEN;
    /// Proof that a tunnel is the client's.
    ResumeProof(ResumeProof<'a>) = RESUME_PROOF;
    /// A peer's certificate.
    CertificateFingerprint(CertificateFingerprint<'a>) = CERTIFICATE_FINGERPRINT;
    /// Services in force after a resume.
    ActiveServices(ServiceList<'a>) = ACTIVE_SERVICES;
    /// Where a companion tunnel is opened.
    CompanionEndpoint(ServerEndpoint) = COMPANION_ENDPOINT;
    /// How long to wait.
    RetryAfter(Seconds) = RETRY_AFTER;
    /// The type that was not understood.
    OffendingType(TlvType) = OFFENDING_TYPE;
    /// Name and version of the client.
    ClientInfo(Text<'a>) = CLIENT_INFO;
    /// Services that the sender can do.
    SupportedServices(ServiceList<'a>) = SUPPORTED_SERVICES;
    /// An explanation for people.
    ReasonText(Text<'a>) = REASON_TEXT;
    /// Zeros.
    Padding(Padding) = PADDING;
    /// Revision of the protocol.
    ProtocolRevision(u16) = PROTOCOL_REVISION;
}

impl Tlv<'_> {
    /// Length on the wire in bytes, type and length fields included.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        TLV_HEADER_LEN + self.value_len()
    }

    /// Appends the TLV: type, length, value.
    ///
    /// # Errors
    ///
    /// No room, or an unknown value beyond 65535 bytes; nothing was written.
    pub fn encode(&self, out: &mut impl BufMut) -> Result<(), EncodeError> {
        let len = self.encoded_len();
        // Only the value of an unknown type can be too long for the field.
        let value_len =
            u16::try_from(self.value_len()).map_err(|_| UnitError::MessageTooLong(len))?;
        room::check(len, out)?;
        out.put_u16(self.ty().0);
        out.put_u16(value_len);
        self.encode_value(out);
        Ok(())
    }

    /// The value as text, without the name. Secrets are hidden, peer-chosen text is escaped.
    #[must_use]
    pub fn value(&self) -> impl fmt::Display {
        fmt::from_fn(move |f| self.show(f))
    }
}

/// `Name=value`; secrets are hidden, peer-chosen text is escaped.
impl fmt::Display for Tlv<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=", self.ty())?;
        self.show(f)
    }
}
