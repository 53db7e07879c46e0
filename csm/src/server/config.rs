//! What a server is told before it starts.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tsc_tpl::ServiceType;
use tsc_tpl::registry::{
    DEFAULT_INNER_MTU, MAX_ELEMENT_ID, MAX_INNER_MTU, MIN_INNER_MTU_IPV4, MIN_INNER_MTU_IPV6,
};

use super::MAX_SHARDS;
use super::cookie::CookieConfig;
use super::pool::{PoolConfig, PoolError, Pools};
use crate::assignment::Alternate;
use crate::prefix::{MAX_ROUTED_PREFIXES, Prefix};

/// Most SIP servers, DNS servers, or alternates of one interface, so that a response fits one datagram.
pub const MAX_LISTED: usize = 8;
/// Most addresses of one tunnel, all families together.
pub const MAX_ADDRESSES: u8 = 8;

/// Most identities with routed prefixes of one interface.
pub const MAX_ROUTED_IDENTITIES: usize = 4_096;

/// Configuration of one worker's server.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Bits 63-54 of every TSID: 0-1023, different for each worker and node of a system.
    pub element_id: u16,
    /// Address pools; interfaces name them by index.
    pub pools: Vec<PoolConfig>,
    /// Interfaces; bindings and listeners name them by index.
    pub interfaces: Vec<InterfaceConfig>,
    /// How long an inner address rests after its tunnel closed (spec 5, "Release").
    pub quarantine: Duration,
    /// What strangers and clients may use up.
    pub limits: Limits,
    /// Set where several workers or nodes share an address; otherwise the key is random.
    pub cookie: Option<CookieConfig>,
}

impl ServerConfig {
    /// Element 0, no pool, no interface, a quarantine of 30 s.
    #[must_use]
    pub fn new() -> Self {
        Self {
            element_id: 0,
            pools: Vec::new(),
            interfaces: Vec::new(),
            quarantine: Duration::from_secs(30),
            limits: Limits::default(),
            cookie: None,
        }
    }

    pub(crate) fn check(&self) -> Result<(), ServerConfigError> {
        if self.element_id > MAX_ELEMENT_ID {
            return Err(ServerConfigError::ElementId(self.element_id));
        }
        self.interfaces
            .iter()
            .try_for_each(|interface| interface.check(&self.pools))
    }

    /// What may be granted is known to be harmless from the start (spec 7, "STG").
    pub(crate) fn check_routed_prefixes(&self, pools: &Pools) -> Result<(), ServerConfigError> {
        self.interfaces
            .iter()
            .try_for_each(|interface| interface.check_routed_prefixes(pools))
    }
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self::new()
    }
}

/// Bounds on what a server keeps and does (spec 8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tunnels of all interfaces, persistent ones included.
    pub tunnels: usize,
    /// Tunnels configured from one source prefix (/32 or /64).
    pub tunnels_per_prefix: u32,
    /// Tunnels of one authenticated identity.
    pub tunnels_per_identity: u32,
    /// Transports that are open and have no tunnel yet.
    pub pending: usize,
    /// Of those, from one source prefix.
    pub pending_per_prefix: u32,
    /// New transports and requests from one source prefix in a second; 0 is no limit.
    pub requests_per_second: u32,
    /// How many of them may come at once.
    pub request_burst: u32,
    /// Stateless answers to strangers in a second, all together; 0 is no limit.
    pub stateless_per_second: u32,
    /// Told to clients with `busy` and `no_resources`.
    pub retry_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tunnels: 100_000,
            tunnels_per_prefix: 1_024,
            tunnels_per_identity: 8,
            pending: 4_096,
            pending_per_prefix: 256,
            requests_per_second: 100,
            request_burst: 200,
            stateless_per_second: 20_000,
            retry_after: Duration::from_secs(5),
        }
    }
}

/// The two timers of a tunnel (spec 5, "Server timers").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelTimers {
    /// Idle time after which an active tunnel becomes persistent: 0 (never), or 30-660 s.
    pub keepalive: Duration,
    /// Idle time after which a persistent tunnel is closed: 0 (never), or 10-700 s. Counted from when it
    /// became persistent.
    pub persistence: Duration,
}

impl TunnelTimers {
    /// 300 s and 330 s.
    pub const STREAM: Self = Self {
        keepalive: Duration::from_secs(300),
        persistence: Duration::from_secs(330),
    };
    /// 50 s, as many NAT bindings last 30 s and clients send at half; and 330 s.
    pub const DATAGRAM: Self = Self {
        keepalive: Duration::from_secs(50),
        persistence: Duration::from_secs(330),
    };
}

/// How clients show who they are.
#[derive(Clone, Default)]
pub enum AuthPolicy {
    /// They need not.
    #[default]
    None,
    /// By the identity that the transport verified (a client certificate).
    Mtls,
    /// By an Auth_Token.
    Token(Arc<dyn TokenVerifier>),
}

impl fmt::Debug for AuthPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Mtls => "Mtls",
            Self::Token(_) => "Token(..)",
        })
    }
}

/// Decides about Auth_Tokens.
pub trait TokenVerifier: Send + Sync {
    /// Who the bearer is, or `None` if the token is not valid. Must not block, and should take the same time
    /// for any wrong token (spec 8.6).
    fn verify(&self, token: &[u8]) -> Option<Identity>;
}

/// Who a client is, after authentication. Compared as a whole; means nothing else to this crate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity(Arc<str>);

impl Identity {
    /// For example a certificate's subject, or a token's account.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The name given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// When clients are sent elsewhere (to [`InterfaceConfig::alternates`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RedirectPolicy {
    /// Never; alternates are only told to those who have a tunnel.
    #[default]
    Never,
    /// Instead of `no_resources` and `no_address`.
    WhenFull,
    /// Every new tunnel. A running server does the same while it is [drained](super::Server::set_draining).
    Always,
}

/// One interface, as `tscf-interface` describes it.
#[derive(Clone, Debug)]
pub struct InterfaceConfig {
    /// For logs.
    pub name: String,
    /// Indices of the pools that addresses come from, tried in order.
    pub pools: Vec<usize>,
    /// Timers of tunnels bound to TCP or TLS.
    pub stream_timers: TunnelTimers,
    /// Timers of tunnels bound to UDP or DTLS.
    pub datagram_timers: TunnelTimers,
    /// Told to clients, in order of preference; at most [`MAX_LISTED`].
    pub sip_servers: Vec<SocketAddr>,
    /// Told to clients, in order of preference; at most [`MAX_LISTED`].
    pub dns_servers: Vec<IpAddr>,
    /// Told to clients for resuming, and where redirects lead; at most [`MAX_LISTED`].
    pub alternates: Vec<Alternate>,
    /// When clients are sent to the alternates.
    pub redirect: RedirectPolicy,
    /// Where the interface listens, wildcard addresses included: companions are opened there.
    pub endpoints: Vec<Alternate>,
    /// *Assigned services*: what clients are offered (spec 7); blank by default. See
    /// [`Server::change_offers`](super::Server::change_offers).
    pub services: Vec<ServiceType>,
    /// *inter-client-block*: no packets between clients, which is the owner's switch to see to, and no peer tunnels.
    pub inter_client_block: bool,
    /// *STG*: the prefixes that may be granted to each identity, as far as [`ServiceType::ENABLE_STG`] is among the
    /// `services`; at most [`MAX_ROUTED_IDENTITIES`] with [`MAX_ROUTED_PREFIXES`] each. Two identities may share
    /// one, which then goes to the first that asks. As pools do, a prefix belongs to one worker: no other knows of
    /// its grants.
    pub routed_prefixes: BTreeMap<Identity, Vec<Prefix>>,
    /// Largest inner packet: 576-9000, at least 1280 where a pool has IPv6.
    pub inner_mtu: u16,
    /// Mark of clients' outer packets, 0-63.
    pub dscp: Option<u8>,
    /// How clients show who they are.
    pub auth: AuthPolicy,
    /// Accept Auth_Tokens on clear transports (spec 3.3 leaves that to the operator).
    pub token_in_clear: bool,
    /// Most tunnels of this interface, persistent ones included.
    pub max_tunnels: usize,
    /// Most addresses given to one tunnel, up to [`MAX_ADDRESSES`].
    pub max_addresses: u8,
    /// Instead of [`Limits::tunnels_per_prefix`].
    pub tunnels_per_prefix: Option<u32>,
    /// Instead of [`Limits::tunnels_per_identity`].
    pub tunnels_per_identity: Option<u32>,
    /// Instead of [`Limits::requests_per_second`]; twice that may come at once.
    pub requests_per_second: Option<u32>,
    /// How long a transport may be without a tunnel; spec 8.3: 10 s.
    pub configuration_time: Duration,
}

impl InterfaceConfig {
    /// Defaults, with addresses from the given pools.
    #[must_use]
    pub fn new(name: impl Into<String>, pools: Vec<usize>) -> Self {
        Self {
            name: name.into(),
            pools,
            stream_timers: TunnelTimers::STREAM,
            datagram_timers: TunnelTimers::DATAGRAM,
            sip_servers: Vec::new(),
            dns_servers: Vec::new(),
            alternates: Vec::new(),
            redirect: RedirectPolicy::Never,
            endpoints: Vec::new(),
            services: Vec::new(),
            inter_client_block: false,
            routed_prefixes: BTreeMap::new(),
            inner_mtu: DEFAULT_INNER_MTU,
            dscp: None,
            auth: AuthPolicy::None,
            token_in_clear: false,
            max_tunnels: usize::MAX,
            max_addresses: 2,
            tunnels_per_prefix: None,
            tunnels_per_identity: None,
            requests_per_second: None,
            configuration_time: super::CONFIGURATION_TIME,
        }
    }

    pub(crate) const fn timers(&self, stream: bool) -> TunnelTimers {
        if stream {
            self.stream_timers
        } else {
            self.datagram_timers
        }
    }

    pub(super) fn check_routed_prefixes(&self, pools: &Pools) -> Result<(), ServerConfigError> {
        let error = |identity: &Identity, error| ServerConfigError::RoutedPrefix {
            interface: self.name.clone(),
            identity: identity.clone(),
            error,
        };
        for (number, (identity, prefixes)) in self.routed_prefixes.iter().enumerate() {
            if number >= MAX_ROUTED_IDENTITIES || prefixes.len() > MAX_ROUTED_PREFIXES {
                return Err(error(identity, RoutedPrefixError::TooMany));
            }
            for (place, prefix) in prefixes.iter().enumerate() {
                let mut before = prefixes.iter().take(place);
                let why = if !prefix.is_routable() {
                    RoutedPrefixError::NotRoutable(*prefix)
                } else if pools.overlaps(prefix) {
                    RoutedPrefixError::OverlapsPool(*prefix)
                } else if before.any(|other| other.overlaps(prefix)) {
                    RoutedPrefixError::Overlap(*prefix)
                } else {
                    continue;
                };
                return Err(error(identity, why));
            }
        }
        Ok(())
    }

    pub(super) fn check(&self, pools: &[PoolConfig]) -> Result<(), ServerConfigError> {
        let interface = || self.name.clone();
        let mut v6 = false;
        for pool in &self.pools {
            let Some(pool) = pools.get(*pool) else {
                return Err(ServerConfigError::UnknownPool {
                    interface: interface(),
                    pool: *pool,
                });
            };
            v6 |= pool.ranges.iter().any(|range| range.range.first.is_ipv6());
        }
        let least = if v6 {
            MIN_INNER_MTU_IPV6
        } else {
            MIN_INNER_MTU_IPV4
        };
        if !(least..=MAX_INNER_MTU).contains(&self.inner_mtu) {
            return Err(ServerConfigError::InnerMtu {
                interface: interface(),
                mtu: self.inner_mtu,
                least,
            });
        }
        for timers in [self.stream_timers, self.datagram_timers] {
            check_time(timers.keepalive, 30, 660).map_err(|seconds| {
                ServerConfigError::KeepaliveTime {
                    interface: interface(),
                    seconds,
                }
            })?;
            check_time(timers.persistence, 10, 700).map_err(|seconds| {
                ServerConfigError::PersistenceTime {
                    interface: interface(),
                    seconds,
                }
            })?;
        }
        if self.dscp.is_some_and(|dscp| dscp > 63) {
            return Err(ServerConfigError::Dscp {
                interface: interface(),
            });
        }
        if [
            self.sip_servers.len(),
            self.dns_servers.len(),
            self.alternates.len(),
        ]
        .into_iter()
        .any(|length| length > MAX_LISTED)
            || self.services.len() > 32
        {
            return Err(ServerConfigError::TooManyListed {
                interface: interface(),
            });
        }
        if self.redirect != RedirectPolicy::Never && self.alternates.is_empty() {
            return Err(ServerConfigError::NowhereToRedirect {
                interface: interface(),
            });
        }
        if self.max_addresses == 0 || self.max_addresses > MAX_ADDRESSES {
            return Err(ServerConfigError::MaxAddresses {
                interface: interface(),
            });
        }
        Ok(())
    }
}

/// Whole seconds, zero or within the range.
fn check_time(time: Duration, least: u64, most: u64) -> Result<(), u64> {
    let seconds = time.as_secs();
    let whole = time.subsec_nanos() == 0;
    if whole && (seconds == 0 || (least..=most).contains(&seconds)) {
        Ok(())
    } else {
        Err(seconds)
    }
}

/// What is wrong with a routed prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RoutedPrefixError {
    /// See [`Prefix::is_routable`].
    #[error("{0} must not be routed to a client")]
    NotRoutable(Prefix),
    /// Its addresses would be another tunnel's.
    #[error("{0} overlaps an address pool")]
    OverlapsPool(Prefix),
    /// It could never be granted together with another of the same identity.
    #[error("{0} overlaps another routed prefix of the same identity")]
    Overlap(Prefix),
    /// More than [`MAX_ROUTED_PREFIXES`] for one identity, or more than [`MAX_ROUTED_IDENTITIES`].
    #[error(
        "more than {MAX_ROUTED_PREFIXES} routed prefixes for one identity, or than {MAX_ROUTED_IDENTITIES} identities"
    )]
    TooMany,
}

/// Why a [`ServerConfig`] cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServerConfigError {
    /// Above 1023.
    #[error("element id {0} is above {MAX_ELEMENT_ID}")]
    ElementId(u16),
    /// No shard, or too many.
    #[error("a server has 1 to {MAX_SHARDS} shards")]
    Shards,
    /// The pools cannot be used.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// An index with no pool behind it.
    #[error("interface {interface}: there is no pool {pool}")]
    UnknownPool {
        /// Name of the interface.
        interface: String,
        /// The index.
        pool: usize,
    },
    /// Outside the range of spec 7, "MTU".
    #[error("interface {interface}: an inner MTU of {mtu} is not between {least} and 9000")]
    InnerMtu {
        /// Name of the interface.
        interface: String,
        /// As configured.
        mtu: u16,
        /// 1280 where a pool has IPv6, else 576.
        least: u16,
    },
    /// Neither 0 nor 30-660 whole seconds.
    #[error("interface {interface}: a keepalive time of {seconds} s is neither 0 nor 30 to 660")]
    KeepaliveTime {
        /// Name of the interface.
        interface: String,
        /// As configured, rounded down.
        seconds: u64,
    },
    /// Neither 0 nor 10-700 whole seconds.
    #[error("interface {interface}: a persistence time of {seconds} s is neither 0 nor 10 to 700")]
    PersistenceTime {
        /// Name of the interface.
        interface: String,
        /// As configured, rounded down.
        seconds: u64,
    },
    /// Above 63.
    #[error("interface {interface}: a DSCP is at most 63")]
    Dscp {
        /// Name of the interface.
        interface: String,
    },
    /// More than [`MAX_LISTED`] servers of a kind, or more than 32 services.
    #[error(
        "interface {interface}: more than {MAX_LISTED} servers of one kind, or more than 32 services"
    )]
    TooManyListed {
        /// Name of the interface.
        interface: String,
    },
    /// A routed prefix that must not be granted.
    #[error("interface {interface}, identity {identity}: {error}", identity = identity.as_str())]
    RoutedPrefix {
        /// Name of the interface.
        interface: String,
        /// Whose prefix it is.
        identity: Identity,
        /// What is wrong.
        error: RoutedPrefixError,
    },
    /// A redirect policy without alternates.
    #[error("interface {interface}: redirects need alternates")]
    NowhereToRedirect {
        /// Name of the interface.
        interface: String,
    },
    /// Zero or above [`MAX_ADDRESSES`].
    #[error("interface {interface}: addresses per tunnel must be 1 to {MAX_ADDRESSES}")]
    MaxAddresses {
        /// Name of the interface.
        interface: String,
    },
}
