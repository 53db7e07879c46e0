//! What a configuration says once it is checked: plain, typed data.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tsc_csm::Transport;
use tsc_osaa::socket::OuterDscp;

use super::egress::{DataFlowConfig, Egress, PolicyConfig, TunEgressConfig, UserSpaceConfig};
use super::range::AddressRange;
use super::source::PemRef;
use super::tokens::TokenTable;

/// Most tunnels an interface or the system can be configured for (the vendor's upper limit).
pub const MAX_TUNNELS: u32 = 200_000;
/// Most addresses in one pool. Each costs a slot of the route table, so this bounds memory.
pub const MAX_POOL_ADDRESSES: u128 = 1 << 20;
/// Most addresses in all pools together.
pub const MAX_ADDRESSES: u128 = 1 << 22;

/// A complete, checked configuration.
///
/// Names are resolved and checked: each pool and TLS profile that an interface names exists.
/// Interfaces that are `state = "disabled"` are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `[tscf-config]`: what holds for the whole server.
    pub system: SystemConfig,
    /// `[[tls-profile]]`: certificates, by name.
    pub tls_profiles: Vec<TlsProfile>,
    /// `[[tscf-address-pool]]`: inner addresses, by name.
    pub pools: Vec<PoolConfig>,
    /// `[[tscf-interface]]`: what clients reach. At least one.
    pub interfaces: Vec<InterfaceConfig>,
    /// `[[tscf-protocol-policy]]`, by name.
    pub policies: Vec<PolicyConfig>,
    /// `[[tscf-data-flow]]`, by name.
    pub data_flows: Vec<DataFlowConfig>,
    /// `[user-space-egress]`.
    pub user_space: UserSpaceConfig,
    /// `[tun-egress]`.
    pub tun: TunEgressConfig,
}

impl Config {
    /// The pool of this name.
    pub fn pool(&self, name: &str) -> Option<&PoolConfig> {
        self.pools.iter().find(|pool| pool.name == name)
    }

    /// The protocol policy of this name.
    pub fn policy(&self, name: &str) -> Option<&PolicyConfig> {
        self.policies.iter().find(|policy| policy.name == name)
    }

    /// The data flow of this name.
    pub fn data_flow(&self, name: &str) -> Option<&DataFlowConfig> {
        self.data_flows.iter().find(|flow| flow.name == name)
    }

    /// Whether an egress is used: by a pool, or by a policy that a pool names.
    pub fn uses(&self, egress: Egress) -> bool {
        let by_policy = |name: &String| {
            let chosen = self.policy(name).and_then(|policy| policy.egress);
            chosen.and_then(super::PolicyEgress::egress) == Some(egress)
        };
        self.pools
            .iter()
            .any(|pool| pool.egress == egress || pool.policies.iter().any(by_policy))
    }

    /// The TLS profile of this name.
    pub fn tls_profile(&self, name: &str) -> Option<&TlsProfile> {
        self.tls_profiles
            .iter()
            .find(|profile| profile.name == name)
    }
}

/// `[tscf-config]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemConfig {
    /// `element-id`, 0-1023: this server among its peers, part of each TSID (spec 5).
    pub element_id: u16,
    /// Timers of interfaces that set none of their own.
    pub timers: Timers,
    /// `workers`, 1-64: threads that share the work; `None` (0) is one for each processor.
    pub workers: Option<u8>,
    /// `gather-time`, up to 2 ms: how long a busy worker may rest between its turns, so that packets share system calls. With several workers
    /// at most 1 ms counts: a packet may meet two.
    pub gather_time: Duration,
    /// `busy-poll`, up to 1 ms: how long a worker looks for the next packet after one, before it sleeps.
    pub busy_poll: Duration,
    /// `max-tunnels`: tunnels of all interfaces together, persistent ones included.
    pub max_tunnels: u32,
    /// `max-half-open`: handshakes in progress on all interfaces together.
    pub max_half_open: u32,
    /// `busy-when-overloaded`: whether new tunnels are refused, and media on UDP ports shed, while a worker has more to do than
    /// it can.
    pub busy_when_overloaded: bool,
    /// `address-quarantine`: how long a released inner address is kept back, in pools that do not say.
    pub quarantine: Duration,
    /// `graceful-stop-deadline`: how long a stop waits for clients to confirm their release.
    pub stop_deadline: Duration,
    /// `log-level`: the least severe records written.
    pub log_level: LogLevel,
    /// `log-format`: how records are written.
    pub log_format: LogFormat,
    /// `trace-file`: a pcapng of inner packets and control messages, if wanted.
    pub trace_file: Option<PathBuf>,
    /// `trace-redaction`: what is taken away of what is written there.
    pub trace_redaction: TraceRedaction,
    /// `trace-file-size`, 1-1048576 MB: bound of such a file.
    pub trace_file_size: u32,
    /// `trace-files`, 1-1000: how many are kept; with 1 nothing follows a file that is full.
    pub trace_files: u16,
    /// `trace-file-time`, up to a day: after this the next file is begun, if there are several. Zero is never.
    pub trace_file_time: Duration,
    /// `trace-outer`: whether outer packets are written there, too.
    pub trace_outer: bool,
    /// `trace-insecure-decryption-secrets`: whether the secrets of all TLS and DTLS connections are written there. No environment
    /// variable sets it.
    pub trace_insecure_decryption_secrets: bool,
    /// `trace-directory`: where captures are written that are started at run time.
    pub trace_directory: Option<PathBuf>,
    /// `control-socket`: where a running server takes orders of its user and of root, if anywhere.
    pub control_socket: Option<PathBuf>,
}

/// The server's timers of a tunnel (spec 5). Zero means: never by this timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// `keepalive-timer`: idle time until a tunnel over TCP or TLS turns persistent. 0 or 30-660 s.
    pub keepalive_stream: Duration,
    /// `keepalive-timer-datagram`: the same over UDP or DTLS. 0 or 30-660 s.
    pub keepalive_datagram: Duration,
    /// `tunnel-persistence-time`: idle time until a persistent tunnel closes. 0 or 10-700 s.
    pub persistence: Duration,
}

/// `[[tscf-interface]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceConfig {
    /// `realm-id`: its name in logs and statistics; unique.
    pub name: String,
    /// `[[tscf-interface.tscf-port]]`: where it listens. At least one.
    pub ports: Vec<PortConfig>,
    /// `local-address-pools`: names of its pools, in order of preference. At least one.
    pub pools: Vec<String>,
    /// `assigned-services`: services its clients may have.
    pub services: AssignedServices,
    /// Its timers; those of `[tscf-config]` where it sets none.
    pub timers: Timers,
    /// `inner-mtu`: longest inner packet in bytes, 576-9000; at least 1280 with IPv6 pools.
    pub inner_mtu: u16,
    /// `dscp`: the mark that clients are told to set on outer packets, 0-63.
    pub dscp: Option<u8>,
    /// `outer-dscp`: how the server marks outer packets to clients.
    pub outer_dscp: OuterDscp,
    /// `sip-servers`: assigned to clients, in order of preference.
    pub sip_servers: Vec<SocketAddr>,
    /// `dns-servers`: assigned to clients, in order of preference.
    pub dns_servers: Vec<IpAddr>,
    /// `alternate-servers`: told to clients, in order of preference.
    pub alternates: Vec<Alternate>,
    /// `redirect`: refuse each configuration request with `redirect` to the alternates.
    pub redirect: bool,
    /// How clients prove who they are.
    pub authentication: Authentication,
    /// What a client, a source prefix or a stranger may use.
    pub limits: InterfaceLimits,
    /// `[[tscf-interface.routed-prefix]]`: networks behind clients, with the service `STG`.
    pub routed: Vec<RoutedPrefixes>,
}

/// `[[tscf-interface.routed-prefix]]`: the inner networks that a gateway may have behind it (spec 7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutedPrefixes {
    /// `identity` of the client; unique.
    pub identity: String,
    /// `prefixes`: granted when it asks.
    pub prefixes: Vec<IpNet>,
}

/// `[[tscf-interface.tscf-port]]`: one address and port number, with what is spoken there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// `address` and `port`. Port 0 lets the system choose, IPv6 listens for IPv6 only.
    pub listen: SocketAddr,
    /// `transport-protocol`: at least one; TCP and TLS, and UDP and DTLS, share a socket by first byte.
    pub transports: Transports,
    /// `tls-profile`: name of the certificates; present exactly when TLS or DTLS is spoken.
    pub tls_profile: Option<String>,
    /// `dtls-backend`; present exactly when DTLS is spoken.
    pub dtls_backend: Option<DtlsBackend>,
}

/// The transports of one port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Transports {
    /// Clear, stream.
    pub tcp: bool,
    /// Protected, stream.
    pub tls: bool,
    /// Clear, datagram.
    pub udp: bool,
    /// Protected, datagram.
    pub dtls: bool,
}

impl Transports {
    /// Whether `transport` is among them.
    pub fn contains(self, transport: Transport) -> bool {
        match transport {
            Transport::Tcp => self.tcp,
            Transport::Tls => self.tls,
            Transport::Udp => self.udp,
            Transport::Dtls => self.dtls,
        }
    }

    /// Adds `transport`.
    pub fn insert(&mut self, transport: Transport) {
        match transport {
            Transport::Tcp => self.tcp = true,
            Transport::Tls => self.tls = true,
            Transport::Udp => self.udp = true,
            Transport::Dtls => self.dtls = true,
        }
    }

    /// Those present, in the order TCP, TLS, UDP, DTLS.
    pub fn iter(self) -> impl Iterator<Item = Transport> {
        Transport::ALL
            .iter()
            .copied()
            .filter(move |transport| self.contains(*transport))
    }

    /// Whether a TCP socket is needed.
    pub fn stream(self) -> bool {
        self.tcp || self.tls
    }

    /// Whether a UDP socket is needed.
    pub fn datagram(self) -> bool {
        self.udp || self.dtls
    }

    /// Whether one of them gives no secrecy and no integrity.
    pub fn clear(self) -> bool {
        self.tcp || self.udp
    }

    /// Whether one of them needs certificates.
    pub fn protected(self) -> bool {
        self.tls || self.dtls
    }
}

/// `tls-profile`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsProfile {
    /// `name`, unique.
    pub name: String,
    /// `certificate`: the server's chain, its own certificate first.
    pub certificate: PemRef,
    /// `private-key` of the first certificate.
    pub private_key: PemRef,
    /// `client-ca`: authorities whose clients are accepted under `authentication = "mtls"`.
    pub client_ca: Vec<PemRef>,
}

/// `[[tscf-address-pool]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// `name`, unique.
    pub name: String,
    /// `address-range`: no two overlap, in this pool or between pools.
    pub ranges: Vec<AddressRange>,
    /// `exclude`: parts of the ranges that are never handed out.
    pub exclude: Vec<AddressRange>,
    /// `netmask` handed out with IPv4 addresses, as a prefix length (0-32).
    pub prefix_len_v4: u8,
    /// `prefix-length` handed out with IPv6 addresses (0-128).
    pub prefix_len_v6: u8,
    /// `address-quarantine`: how long a released address is kept back.
    pub quarantine: Duration,
    /// `egress`: how packets of its tunnels reach what is behind the server.
    pub egress: Egress,
    /// `protocol-policy`: names of policies; the first that matches a packet decides.
    pub policies: Vec<String>,
    /// `data-flow`: name of the rates for its tunnels.
    pub data_flow: Option<String>,
}

impl PoolConfig {
    /// Whether it holds addresses of this family.
    pub fn has_family(&self, ipv6: bool) -> bool {
        self.ranges.iter().any(|range| range.is_ipv6() == ipv6)
    }
}

/// How the clients of an interface prove who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// They do not.
    None,
    /// By a certificate of one of the profile's `client-ca`; all transports of the interface are protected.
    Mtls,
    /// By an Auth_Token.
    Token(TokenAuthentication),
}

/// `authentication = "token"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenAuthentication {
    /// `token-file`, as configured.
    pub file: PathBuf,
    /// What the file holds: hashes, never tokens.
    pub tokens: Arc<TokenTable>,
    /// `allow-token-on-clear`: take tokens on TCP and UDP, where anyone on the path reads them.
    pub allow_on_clear: bool,
}

/// `[tscf-interface.limits]`: bounds on what clients and strangers use (spec 8.3).
/// A source prefix is an IPv4 address or an IPv6 /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceLimits {
    /// `max-tunnels`: tunnels of the interface, persistent ones included; 0 = only the system's limit.
    pub max_tunnels: u32,
    /// `tunnels-per-prefix`.
    pub tunnels_per_prefix: u32,
    /// `tunnels-per-identity`, for authenticated clients.
    pub tunnels_per_identity: u32,
    /// `requests-per-prefix`: configuration and resume requests and handshakes a second.
    pub requests_per_prefix: u32,
    /// `half-open`: handshakes and unconfigured connections in progress.
    pub half_open: u32,
    /// `configuration-time`: how long a connection may take to be configured.
    pub configuration_time: Duration,
    /// `media-queue-time`: how long media may wait for a TCP or TLS tunnel that is slower, in whole milliseconds.
    pub media_queue_time: Duration,
    /// `stream-queue`: KB of media, and of bulk data, that may wait for such a tunnel.
    pub stream_queue: u32,
    /// `stream-timeout`: how long what was sent on such a tunnel may stay unacknowledged (TCP_USER_TIMEOUT), in whole
    /// seconds.
    pub stream_timeout: Duration,
}

/// `alternate-servers`: another server a client may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Alternate {
    /// How to reach it.
    pub transport: Transport,
    /// Where.
    pub address: SocketAddr,
}

/// `assigned-services`; all off by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AssignedServices {
    /// `SIP`: SIP servers are assigned.
    pub sip: bool,
    /// `nagle`: small writes are gathered on TCP and TLS (`TCP_NODELAY` off).
    pub nagle: bool,
    /// `STG`: gateways are granted routed prefixes.
    pub stg: bool,
    /// `redundancy`: packets of sockets that ask for it are repeated in the datagrams that follow.
    pub redundancy: bool,
    /// `DDT`: datagrams of sockets that ask for it travel beside a stream.
    pub ddt: bool,
    /// `DTTE`: sockets of clear tunnels that ask for it have a protected one beside.
    pub dtte: bool,
    /// `server-keepalive`: the server sends the Keepalives of clients that ask for it.
    pub server_keepalive: bool,
    /// `peer`: clients that want it are brought together, and reach each other without the server.
    pub peer: bool,
    /// `inter-client-block`: no packet passes from one tunnel of the interface to another tunnel, nor between them.
    pub inter_client_block: bool,
}

/// A closed set of words of the configuration language.
pub(crate) trait Keyword: Copy + 'static {
    /// Every value, in the order in which people are told of them.
    const ALL: &'static [Self];
    /// The word for it.
    fn word(self) -> &'static str;
    /// The value of exactly this word.
    fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|value| value.word() == word)
    }
}

/// Declares an enum whose variants are words of the configuration language.
macro_rules! keywords {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        $vis enum $name { $($(#[$doc])* $variant,)+ }

        impl $name {
            /// Every value.
            $vis const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The word used in the configuration.
            $vis const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl Keyword for $name {
            const ALL: &'static [Self] = Self::ALL;
            fn word(self) -> &'static str { self.as_str() }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

pub(super) use keywords;

impl Keyword for Transport {
    const ALL: &'static [Self] = &Self::ALL;
    fn word(self) -> &'static str {
        self.name()
    }
}

keywords! {
    /// A DTLS implementation.
    pub enum DtlsBackend {
        /// OpenSSL: RSA and ECDSA certificates, stateless cookie. The default.
        Openssl = "openssl",
        /// The `dimpl` crate: ECDSA P-256 and P-384 certificates only, no intermediate ones, no optional client
        /// certificates; stateless cookie.
        Dimpl = "dimpl",
        /// The `webrtc-dtls` crate: ECDSA P-256 and Ed25519 certificates only.
        Webrtc = "webrtc",
    }
}

impl DtlsBackend {
    /// Whether this build contains it.
    pub const fn compiled_in(self) -> bool {
        match self {
            Self::Openssl => cfg!(feature = "dtls-openssl"),
            Self::Dimpl => cfg!(feature = "dtls-dimpl"),
            Self::Webrtc => cfg!(feature = "dtls-webrtc"),
        }
    }

    /// The one used unless configured: the first that this build contains.
    pub fn preferred() -> Option<Self> {
        Self::ALL.iter().copied().find(|b| b.compiled_in())
    }
}

keywords! {
    /// The least severe log records that are written.
    pub enum LogLevel {
        /// Nothing.
        Off = "off",
        /// What needs an operator.
        Error = "error",
        /// What may need one.
        Warn = "warn",
        /// Starts, stops, tunnels. The default.
        Info = "info",
        /// Refused and malformed input too.
        Debug = "debug",
        /// Everything but packet contents.
        Trace = "trace",
    }
}

keywords! {
    /// What is taken away of what a capture holds.
    pub enum TraceRedaction {
        /// Nothing. The default.
        None = "none",
        /// All of inner packets behind their transport headers, and secrets of control messages.
        Headers = "headers",
        /// The same, but SIP stays with users, numbers and names masked, and RTP with its header.
        Sip = "sip",
    }
}

keywords! {
    /// How log records are written.
    pub enum LogFormat {
        /// For people: one line a record.
        Text = "text",
        /// For machines: one JSON object a line.
        Json = "json",
    }
}

keywords! {
    /// The values of `assigned-services`, the vendor's and the specification's.
    pub(crate) enum Service {
        /// Assigned SIP servers.
        Sip = "SIP",
        /// Tunnel redundancy.
        Redundancy = "redundancy",
        /// Dynamic datagram tunnel.
        Ddt = "DDT",
        /// Dynamic tunnel traffic encryption.
        Dtte = "DTTE",
        /// Keepalives sent by the server.
        ServerKeepalive = "server-keepalive",
        /// Nagle's algorithm on streams.
        Nagle = "nagle",
        /// Security traversing gateway.
        Stg = "STG",
        /// No traffic between clients.
        InterClientBlock = "inter-client-block",
        /// Peer tunneling.
        Peer = "peer",
    }
}

keywords! {
    /// `authentication`.
    pub(crate) enum AuthenticationKind {
        /// Not at all.
        None = "none",
        /// By client certificates.
        Mtls = "mtls",
        /// By tokens.
        Token = "token",
    }
}

keywords! {
    /// `state` of an interface.
    pub(crate) enum State {
        /// In use.
        Enabled = "enabled",
        /// Checked, but not used.
        Disabled = "disabled",
    }
}
