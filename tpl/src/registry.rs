//! Every number of the protocol, in one file.
//!
//! If real numbers are ever published, this is the file to change. Codes are newtypes that keep what a
//! peer sent, known or not; the constants name what the specification defines. Names are the
//! specification's; "(spec 3.1)" refers to its sections.

use core::fmt;

/// Declares a wire code: a newtype over the integer with named constants, `name()`, `Debug`, `Display`.
macro_rules! wire_code {
    (
        $(#[$meta:meta])*
        pub struct $name:ident($int:ty), $what:literal {
            $($(#[$vmeta:meta])* $konst:ident = $value:literal, $text:literal;)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub $int);

        impl $name {
            $($(#[$vmeta])* pub const $konst: Self = Self($value);)*

            /// All values with a name, in numeric order.
            pub const ALL: &'static [Self] = &[$(Self::$konst),*];

            /// The specification's name, or `None` for a value it does not define.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$konst => Some($text),)*
                    _ => None,
                }
            }

            /// Whether the specification defines this value.
            #[must_use]
            pub const fn is_known(self) -> bool {
                self.name().is_some()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.name() {
                    Some(name) => write!(f, "{name}({})", self.0),
                    None => write!(f, concat!(stringify!($name), "({:#x})"), self.0),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.name() {
                    Some(name) => f.pad(name),
                    None => write!(f, concat!("unknown ", $what, " {:#x}"), self.0),
                }
            }
        }
    };
}

/// The protocol revision that this crate speaks, the value of TLV `Protocol_Revision`.
pub const PROTOCOL_REVISION: u16 = 1;

/// Application protocol that clients offer in TLS and DTLS (ALPN) (spec 8.4).
pub const ALPN: &[u8] = b"tscf";

/// What the MAC of a resume proof begins with, before TSID, counter and cookie (spec 5).
pub const RESUME_LABEL: &[u8] = b"tscf resume 1";

/// Length of a control message's header in bytes (spec 3.1).
pub const HEADER_LEN: usize = 16;

/// Length of a TLV's type and length fields in bytes (spec 3.3).
pub const TLV_HEADER_LEN: usize = 4;

/// Longest control message in bytes, header included (spec 2).
pub const MAX_CONTROL_MESSAGE: usize = 4096;

/// Most TLVs in one control message (spec 2).
pub const MAX_TLVS: usize = 64;

/// Longest control message that a sender puts on a datagram transport, probing Keepalives excepted (spec 3.3).
pub const MAX_DATAGRAM_MESSAGE: usize = 1200;

/// Most bytes of a `Padding` TLV (spec 3.3).
pub const MAX_PADDING: usize = 9000;

/// Longest Keepalive on a datagram transport: header and one full `Padding`, for path MTU probes (spec 7).
pub const MAX_PROBE_KEEPALIVE: usize = HEADER_LEN + TLV_HEADER_LEN + MAX_PADDING;

/// Shortest Configuration_ or Resume_Request that a server looks at on plain UDP from a stranger (spec 8.2).
pub const MIN_UNAUTHENTICATED_REQUEST: usize = 128;

/// Smallest inner MTU with IPv4 only (spec 7).
pub const MIN_INNER_MTU_IPV4: u16 = 576;

/// Smallest inner MTU with IPv6 (spec 7).
pub const MIN_INNER_MTU_IPV6: u16 = 1280;

/// Largest inner MTU (spec 7).
pub const MAX_INNER_MTU: u16 = 9000;

/// Inner MTU unless configured (spec 7).
pub const DEFAULT_INNER_MTU: u16 = 1400;

/// Most entries in a redundancy frame (spec 6).
pub const MAX_REDUNDANCY_ENTRIES: usize = 9;

/// How far behind the newest sequence a redundancy receiver still accepts a packet it has not seen (spec 6).
pub const REDUNDANCY_WINDOW: u32 = 1024;

/// How many request sequences behind the newest a receiver remembers: the width of its bit map (spec 4).
pub const REQUEST_WINDOW: u32 = 32;

/// Longest `Client_Info` and `Reason_Text` in bytes of UTF-8 (spec 3.3).
pub const MAX_TEXT: usize = 128;

/// Length of a `Cookie` in bytes, least and most (spec 3.3).
pub const COOKIE_LEN: core::ops::RangeInclusive<usize> = 8..=64;

/// Length of an `Auth_Token` in bytes, least and most (spec 3.3).
pub const AUTH_TOKEN_LEN: core::ops::RangeInclusive<usize> = 1..=2048;

/// Longest `Auth_Token` on DTLS, where the request has to fit a datagram (spec 3.3).
pub const MAX_DATAGRAM_AUTH_TOKEN: usize = 900;

/// Largest `Redundancy_Factor` that receivers accept (spec 3.3).
pub const MAX_REDUNDANCY_FACTOR: u8 = 8;

/// Largest element id of a server, the upper 10 bits of a TSID (spec 5).
pub const MAX_ELEMENT_ID: u16 = 1023;

/// First byte of a control message: version 1, indication 0, reserved 0 (spec 3.1).
pub const FIRST_CONTROL: u8 = 0x10;
/// First byte of a redundancy frame (spec 6).
pub const FIRST_REDUNDANCY: u8 = 0x1C;
/// First byte of a short compressed frame, reserved (spec 6).
pub const FIRST_COMPRESSED_SHORT: u8 = 0x1D;
/// First byte of a long compressed frame, reserved (spec 6).
pub const FIRST_COMPRESSED_LONG: u8 = 0x1E;
/// First byte of an extension frame, reserved (spec 6).
pub const FIRST_EXTENSION: u8 = 0x1F;
/// First byte of a TLS handshake record: what tells TLS from plain TSCF on one TCP port (spec 2).
pub const FIRST_TLS_HANDSHAKE: u8 = 0x16;

/// What the first byte of a unit, a datagram or a connection announces (spec 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FirstByte {
    /// A control message.
    Control,
    /// An inner IPv4 packet.
    Ipv4,
    /// An inner IPv6 packet.
    Ipv6,
    /// A redundancy frame.
    Redundancy,
    /// One of the reserved data frames.
    Reserved,
    /// A STUN message; on datagram ports only, never inside a tunnel.
    Stun,
    /// A DTLS (or TLS) record: never a unit.
    Dtls,
    /// Nothing that the protocol knows.
    Invalid,
}

impl FirstByte {
    /// Classifies `byte`. Whole bytes are compared, except that IP packets are told by their high nibble.
    #[must_use]
    pub const fn classify(byte: u8) -> Self {
        match byte {
            FIRST_CONTROL => Self::Control,
            FIRST_REDUNDANCY => Self::Redundancy,
            FIRST_COMPRESSED_SHORT | FIRST_COMPRESSED_LONG | FIRST_EXTENSION => Self::Reserved,
            0x40..=0x4F => Self::Ipv4,
            0x60..=0x6F => Self::Ipv6,
            0x00 | 0x01 => Self::Stun,
            0x14..=0x1B | 0x20..=0x3F => Self::Dtls,
            _ => Self::Invalid,
        }
    }
}

wire_code! {
    /// CM_Type: the kind of a control message (spec 3.2).
    pub struct CmType(u8), "message type" {
        /// The client asks for a tunnel.
        CONFIGURATION_REQUEST = 1, "Configuration_Request";
        /// The server assigns or refuses one.
        CONFIGURATION_RESPONSE = 2, "Configuration_Response";
        /// The client moves its tunnel to this transport.
        CONFIGURATION_RESUME_REQUEST = 3, "Configuration_Resume_Request";
        /// The server's answer to that.
        CONFIGURATION_RESUME_RESPONSE = 4, "Configuration_Resume_Response";
        /// Either end ends the tunnel.
        CONFIGURATION_RELEASE_REQUEST = 5, "Configuration_Release_Request";
        /// The other end's answer to that.
        CONFIGURATION_RELEASE_RESPONSE = 6, "Configuration_Release_Response";
        /// Sign of life, or a path MTU probe.
        KEEPALIVE = 7, "Keepalive";
        /// Answer to a Keepalive.
        KEEPALIVE_RESPONSE = 8, "Keepalive_Response";
        /// The server asks the client for a service.
        SERVICE_REQUEST = 9, "Service_Request";
        /// The client's answer to that.
        SERVICE_RESPONSE = 10, "Service_Response";
        /// The client asks the server for a service, or the server forwards such a request to a peer.
        CLIENT_SERVICE_REQUEST = 11, "Client_Service_Request";
        /// Answer to that.
        CLIENT_SERVICE_RESPONSE = 12, "Client_Service_Response";
    }
}

impl CmType {
    /// Whether this is a known request: something that must be answered.
    #[must_use]
    pub const fn is_request(self) -> bool {
        self.is_known() && self.0 % 2 == 1
    }

    /// Whether this is a known response.
    #[must_use]
    pub const fn is_response(self) -> bool {
        self.is_known() && self.0.is_multiple_of(2)
    }

    /// The type that answers this one: the next code for every odd type below 128, known or not (spec 3.2).
    ///
    /// `None` means that a message of this type gets no answer: responses, 0, 255, private types.
    #[must_use]
    pub const fn response(self) -> Option<Self> {
        if self.0 < 128 && self.0 % 2 == 1 {
            Some(Self(self.0 + 1))
        } else {
            None
        }
    }
}

wire_code! {
    /// Type of a TLV (spec 3.3).
    pub struct TlvType(u16), "TLV type" {
        /// An assigned inner IPv4 address.
        INTERNAL_IPV4_ADDRESS = 1, "Internal_IPv4_Address";
        /// The mask of the address before it.
        INTERNAL_IPV4_NETMASK = 2, "Internal_IPv4_Netmask";
        /// An assigned inner IPv6 address.
        INTERNAL_IPV6_ADDRESS = 3, "Internal_IPv6_Address";
        /// The prefix length of the address before it.
        INTERNAL_IPV6_PREFIX_LENGTH = 4, "Internal_IPv6_Prefix_Length";
        /// A SIP server's address and port.
        SIP_SERVER_IPV4 = 5, "SIP_Server_IPv4";
        /// A SIP server's address and port.
        SIP_SERVER_IPV6 = 6, "SIP_Server_IPv6";
        /// Seconds between signs of life, 0 = none.
        KEEPALIVE_INTERVAL = 7, "Keepalive_Interval";
        /// Seconds that an idle tunnel persists.
        PERSISTENCE_TIME = 8, "Persistence_Time";
        /// The client's outer address and port as the server sees them.
        NAT_INFO_IPV4 = 9, "NAT_Info_IPv4";
        /// The client's outer address and port as the server sees them.
        NAT_INFO_IPV6 = 10, "NAT_Info_IPv6";
        /// Addresses of an inner socket, or a peer's candidate.
        CONNECTION_INFO_IPV4 = 11, "Connection_Info_IPv4";
        /// Addresses of an inner socket, or a peer's candidate.
        CONNECTION_INFO_IPV6 = 12, "Connection_Info_IPv6";
        /// The service that is meant.
        SERVICE_TYPE = 13, "Service_Type";
        /// The outcome.
        RESPONSE_CODE = 14, "Response_Code";
        /// How many copies.
        REDUNDANCY_FACTOR = 15, "Redundancy_Factor";
        /// How copies travel.
        REDUNDANCY_METHOD = 16, "Redundancy_Method";
        /// A reserved or claimed tunnel.
        TUNNEL_SESSION_ID = 17, "Tunnel_Session_ID";
        /// Whether the peer is available.
        PEER_SERVICE_RESPONSE = 18, "Peer_Service_Response";
        /// Reserved for header compression.
        HEADER_COMPRESSION_INDEX = 19, "Header_Compression_Index";
        /// Reserved for media compression.
        PAYLOAD_TYPE = 20, "Payload_Type";
        /// Reserved for the circuit breaker.
        BUFFER_SIZE = 21, "Buffer_Size";
        /// The right to claim a reserved tunnel. Secret.
        TUNNEL_TAG = 22, "Tunnel_Tag";
        /// Key of resume proofs. Secret.
        RESUME_KEY = 23, "Resume_Key";
        /// A wish for addresses.
        ADDRESS_REQUEST = 24, "Address_Request";
        /// Reserved for multipath.
        PATH_ID = 25, "Path_ID";
        /// A prefix behind the client.
        ROUTED_PREFIX_IPV4 = 26, "Routed_Prefix_IPv4";
        /// A prefix behind the client.
        ROUTED_PREFIX_IPV6 = 27, "Routed_Prefix_IPv6";
        /// A DNS server.
        DNS_SERVER_IPV4 = 28, "DNS_Server_IPv4";
        /// A DNS server.
        DNS_SERVER_IPV6 = 29, "DNS_Server_IPv6";
        /// Longest inner packet.
        INNER_MTU = 30, "Inner_MTU";
        /// Mark of outer packets.
        DSCP = 31, "DSCP";
        /// Another server to go to.
        ALTERNATE_SERVER = 32, "Alternate_Server";
        /// For the client's own logs.
        SOCKET_REFERENCE = 33, "Socket_Reference";
        /// Proof that a client's outer address is its own. Secret.
        COOKIE = 34, "Cookie";
        /// Proof of who the client is. Secret.
        AUTH_TOKEN = 35, "Auth_Token";
        /// Proof that a tunnel is the client's own.
        RESUME_PROOF = 36, "Resume_Proof";
        /// A peer's certificate.
        CERTIFICATE_FINGERPRINT = 37, "Certificate_Fingerprint";
        /// Services in force after a resume.
        ACTIVE_SERVICES = 38, "Active_Services";
        /// Where a companion tunnel is opened.
        COMPANION_ENDPOINT = 39, "Companion_Endpoint";
        /// Seconds to wait.
        RETRY_AFTER = 40, "Retry_After";
        /// The TLV that was not understood.
        OFFENDING_TYPE = 41, "Offending_Type";
        /// Name and version of the client, for people.
        CLIENT_INFO = 0x8001, "Client_Info";
        /// Services that the sender can do.
        SUPPORTED_SERVICES = 0x8002, "Supported_Services";
        /// An explanation for people.
        REASON_TEXT = 0x8003, "Reason_Text";
        /// Zeros.
        PADDING = 0x8004, "Padding";
        /// Revision of the protocol.
        PROTOCOL_REVISION = 0x8005, "Protocol_Revision";
    }
}

impl TlvType {
    /// Private use (spec 3.3), ours: what has become of a redundancy group's packets, in answers to Keepalives. Not among the
    /// named ones, so that what somebody else means by it, or makes of it, is ignored as anything unknown is.
    pub const RECEPTION_REPORT: Self = Self(0xFF52);

    /// Whether a receiver that does not know this type ignores it: the high bit (spec 3.3).
    #[must_use]
    pub const fn is_ignorable(self) -> bool {
        self.0 & 0x8000 != 0
    }

    /// Whether this type may appear more than once in a message (spec 3.3).
    ///
    /// Connection_Info is not called repeatable in 3.3 but is by section 7 (peer candidates). The
    /// rules of one message may be tighter: [`crate::Message`].
    #[must_use]
    pub const fn is_repeatable(self) -> bool {
        matches!(
            self,
            Self::INTERNAL_IPV4_ADDRESS
                | Self::INTERNAL_IPV4_NETMASK
                | Self::INTERNAL_IPV6_ADDRESS
                | Self::INTERNAL_IPV6_PREFIX_LENGTH
                | Self::SIP_SERVER_IPV4
                | Self::SIP_SERVER_IPV6
                | Self::CONNECTION_INFO_IPV4
                | Self::CONNECTION_INFO_IPV6
                | Self::TUNNEL_SESSION_ID
                | Self::TUNNEL_TAG
                | Self::ADDRESS_REQUEST
                | Self::ROUTED_PREFIX_IPV4
                | Self::ROUTED_PREFIX_IPV6
                | Self::DNS_SERVER_IPV4
                | Self::DNS_SERVER_IPV6
                | Self::ALTERNATE_SERVER
        )
    }
}

wire_code! {
    /// Outcome of a request (spec 3.4).
    pub struct ResponseCode(u16), "response code" {
        /// Done.
        SUCCESS = 0, "success";
        /// The service is not assigned to the interface, or not described yet.
        SERVICE_UNAVAILABLE = 1, "service_unavailable";
        /// The request breaks a rule.
        MALFORMED = 2, "malformed";
        /// No common Protocol_Revision.
        UNSUPPORTED_VERSION = 3, "unsupported_version";
        /// A TLV that must be understood is not; comes with Offending_Type.
        UNSUPPORTED_TLV = 4, "unsupported_tlv";
        /// No such tunnel here; resume.
        UNKNOWN_TUNNEL = 5, "unknown_tunnel";
        /// Nothing of what was asked can be given.
        NO_ADDRESS = 6, "no_address";
        /// A limit is reached; comes with Retry_After.
        NO_RESOURCES = 7, "no_resources";
        /// Not allowed.
        NOT_AUTHORIZED = 8, "not_authorized";
        /// Start anew with a Configuration_Request.
        RESUME_REJECTED = 9, "resume_rejected";
        /// Go to another server; comes with Alternate_Server.
        REDIRECT = 10, "redirect";
        /// The peer cannot be reached by a peer tunnel.
        PEER_UNAVAILABLE = 11, "peer_unavailable";
        /// Too much to do; comes with Retry_After.
        BUSY = 12, "busy";
        /// The service type is not known.
        UNSUPPORTED_SERVICE = 13, "unsupported_service";
        /// No compression index is left.
        INDEX_EXHAUSTED = 14, "index_exhausted";
        /// The message type is not known.
        UNSUPPORTED_MESSAGE = 15, "unsupported_message";
        /// Repeat the request with this Cookie.
        COOKIE_REQUIRED = 16, "cookie_required";
    }
}

wire_code! {
    /// A service; odd values enable, the even value after it disables (spec 3.5).
    pub struct ServiceType(u16), "service type" {
        /// Enable redundancy.
        ENABLE_REDUNDANCY = 1, "enable redundancy";
        /// Disable redundancy.
        DISABLE_REDUNDANCY = 2, "disable redundancy";
        /// Enable a dynamic datagram tunnel.
        ENABLE_DDT = 3, "enable DDT";
        /// Disable a dynamic datagram tunnel.
        DISABLE_DDT = 4, "disable DDT";
        /// Enable dynamic tunnel traffic encryption (`TSC_TLV_SERVICE_TYPE_ENABLE_DTTE`).
        ENABLE_DTTE = 5, "enable DTTE";
        /// Disable dynamic tunnel traffic encryption.
        DISABLE_DTTE = 6, "disable DTTE";
        /// Reserved: enable header compression.
        ENABLE_HEADER_COMPRESSION = 7, "enable header compression";
        /// Reserved: disable header compression.
        DISABLE_HEADER_COMPRESSION = 8, "disable header compression";
        /// Reserved: enable media compression.
        ENABLE_MEDIA_COMPRESSION = 9, "enable media compression";
        /// Reserved: disable media compression.
        DISABLE_MEDIA_COMPRESSION = 10, "disable media compression";
        /// Reserved: enable the circuit breaker.
        ENABLE_CIRCUIT_BREAKER = 11, "enable circuit breaker";
        /// Reserved: disable the circuit breaker.
        DISABLE_CIRCUIT_BREAKER = 12, "disable circuit breaker";
        /// Reserved: enable multipath.
        ENABLE_MULTIPATH = 13, "enable multipath";
        /// Reserved: disable multipath.
        DISABLE_MULTIPATH = 14, "disable multipath";
        /// Reserved: enable redundant traffic encoding.
        ENABLE_REDUNDANT_TRAFFIC_ENCODING = 15, "enable redundant traffic encoding";
        /// Reserved: disable redundant traffic encoding.
        DISABLE_REDUNDANT_TRAFFIC_ENCODING = 16, "disable redundant traffic encoding";
        /// Reserved: enable header redundancy removal.
        ENABLE_HEADER_REDUNDANCY_REMOVAL = 17, "enable header redundancy removal";
        /// Reserved: disable header redundancy removal.
        DISABLE_HEADER_REDUNDANCY_REMOVAL = 18, "disable header redundancy removal";
        /// Enable peer tunneling.
        ENABLE_PEER = 19, "enable peer service";
        /// Disable peer tunneling.
        DISABLE_PEER = 20, "disable peer service";
        /// Reserved: enable tunneled streams.
        ENABLE_TUNNELED_STREAMS = 21, "enable tunneled streams";
        /// Reserved: disable tunneled streams.
        DISABLE_TUNNELED_STREAMS = 22, "disable tunneled streams";
        /// Let the server send the Keepalives.
        ENABLE_SERVER_KEEPALIVE = 25, "enable server keepalive";
        /// Let the client send them again.
        DISABLE_SERVER_KEEPALIVE = 26, "disable server keepalive";
        /// Enable the security traversing gateway.
        ENABLE_STG = 27, "enable STG";
        /// Disable the security traversing gateway.
        DISABLE_STG = 28, "disable STG";
        /// The server asks the client to move to another one.
        HANDOVER = 31, "handover";
        /// The server takes that back.
        CANCEL_HANDOVER = 32, "cancel handover";
    }
}

impl ServiceType {
    /// Whether this value asks for the service (odd) rather than ends it (even) (spec 3.5).
    #[must_use]
    pub const fn is_enable(self) -> bool {
        self.0 % 2 == 1
    }

    /// The odd value of this service.
    #[must_use]
    pub const fn enable(self) -> Self {
        if self.is_enable() {
            self
        } else {
            Self(self.0.saturating_sub(1))
        }
    }

    /// The even value of this service.
    #[must_use]
    pub const fn disable(self) -> Self {
        // An odd number is never the largest u16 but one short of it, or 0xFFFF: saturate for that.
        if self.is_enable() {
            Self(self.0.saturating_add(1))
        } else {
            self
        }
    }
}

wire_code! {
    /// A transport, in TLVs 32 and 39 an outer one, in 11 and 12 an outer or inner one (spec 3.3).
    pub struct TransportCode(u8), "transport" {
        /// TCP; in a flow key inner TCP.
        TCP = 1, "TCP";
        /// TLS.
        TLS = 2, "TLS";
        /// UDP; in a flow key inner UDP.
        UDP = 3, "UDP";
        /// DTLS.
        DTLS = 4, "DTLS";
    }
}

wire_code! {
    /// How redundancy travels (spec 3.3).
    pub struct RedundancyMethod(u8), "redundancy method" {
        /// Copies of the last packets in each datagram.
        COPIES = 1, "copies";
        /// Every packet over all tunnels.
        FAN_OUT = 2, "fan-out";
        /// Each packet over one of the tunnels.
        LOAD_BALANCE = 3, "load balance";
    }
}
