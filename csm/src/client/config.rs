//! What a client is told before it starts.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tsc_tpl::registry::{
    AUTH_TOKEN_LEN, COOKIE_LEN, MAX_DATAGRAM_AUTH_TOKEN, MAX_INNER_MTU, MAX_TEXT,
    MIN_INNER_MTU_IPV4, TLV_HEADER_LEN,
};
use tsc_tpl::{Family, ServiceType};

use crate::secret::Secret;
use crate::transport::Transport;

/// Most targets an application may configure.
pub const MAX_TARGETS: usize = 32;

/// Default of [`ClientConfig::race_delay`]: a person waits, and an attempt costs the server little before it asks.
pub const RACE_DELAY: Duration = Duration::from_millis(25);

/// Where a transport leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// The server with this index in the application's own list; the driver knows its name and port.
    Configured(usize),
    /// An address given by a server (Alternate_Server). The certificate name and SNI stay those of the
    /// configured server `origin` (spec 5, "Redirect").
    Address {
        /// Where to connect.
        address: SocketAddr,
        /// Index of the configured server whose name the certificate must bear.
        origin: usize,
    },
}

impl Endpoint {
    /// Index of the configured server whose name certificate and SNI carry.
    #[must_use]
    pub const fn origin(self) -> usize {
        match self {
            Self::Configured(origin) | Self::Address { origin, .. } => origin,
        }
    }
}

/// One way to reach a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Over what.
    pub transport: Transport,
    /// To where.
    pub endpoint: Endpoint,
}

/// A wish for inner addresses (TLV 24).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressWish {
    /// Of which family.
    pub family: Family,
    /// How many.
    pub count: u8,
}

/// Waits between attempts (spec 5): after a failure a target rests for a random time up to a limit that
/// doubles with each failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Limit of the first wait; spec: 1 s.
    pub first: Duration,
    /// Limit of all waits; spec: 60 s.
    pub longest: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(60),
        }
    }
}

/// Configuration of one tunnel's client end.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Ways to reach the servers, in order of preference; 1 to [`MAX_TARGETS`].
    pub targets: Vec<Target>,
    /// Sent as Auth_Token; at most 2048 bytes, 900 if a target is DTLS, 832 if it goes over plain UDP.
    pub auth_token: Option<Secret>,
    /// Send the token on clear transports too, where anyone on the path can read it. Spec 3.3 leaves that to
    /// the operator; off by default.
    pub token_in_clear: bool,
    /// Sent as Client_Info; at most 128 bytes.
    pub client_info: Option<String>,
    /// Sent as Address_Request; empty leaves the choice to the server.
    pub addresses: Vec<AddressWish>,
    /// Sent as Inner_MTU: the largest inner packet wanted, 576 to 9000.
    pub inner_mtu: Option<u16>,
    /// Sent as Supported_Services.
    pub supported_services: Vec<ServiceType>,
    /// Tried first, with a [`HEAD_START`](super::HEAD_START) before all others: what worked last on this network.
    pub first: Option<Target>,
    /// The owner looks configured targets up when it is asked to by [`Event::Resolve`](super::Event::Resolve), so that their
    /// addresses are tried beside each other. Else it is given targets to open, and looks for them itself.
    pub lookup: bool,
    /// Between the beginnings of two attempts of one search, as long as none has failed (RFC 8305, "Connection Attempt Delay").
    pub race_delay: Duration,
    /// Begin with any transport, and move from TCP or TLS to UDP or DTLS as soon as one of these targets proves to work.
    pub upgrade: bool,
    /// One attempt, from `Open` to the answer, may take this long.
    pub attempt_timeout: Duration,
    /// The first configuration, with all attempts and waits, may take this long.
    pub connect_timeout: Duration,
    /// A lost tunnel is given up after this long; `None` takes the server's persistence time, after which the
    /// server has forgotten it, or an hour if that is 0 (never).
    pub resume_timeout: Option<Duration>,
    /// Waits between attempts.
    pub retry: RetryPolicy,
    /// Follow redirects and alternates received on a clear transport to hosts the application did not
    /// configure. Anyone on the path can then take the client away; off by default (spec 5).
    pub follow_clear_redirects: bool,
    /// SHA-256 of the certificate that this client shows to others over peer tunnels; without one it has none. With
    /// [`ServiceType::ENABLE_PEER`] among the `supported_services` others may ask for them.
    pub peer_fingerprint: Option<[u8; 32]>,
    /// Addresses of the configured servers known from the start; more are learnt through
    /// [`Client::resolved`](super::Client::resolved).
    pub known_hosts: Vec<IpAddr>,
}

impl ClientConfig {
    /// Defaults for the given targets.
    #[must_use]
    pub fn new(targets: Vec<Target>) -> Self {
        Self {
            targets,
            auth_token: None,
            token_in_clear: false,
            client_info: None,
            addresses: Vec::new(),
            inner_mtu: None,
            supported_services: Vec::new(),
            first: None,
            lookup: false,
            race_delay: RACE_DELAY,
            upgrade: false,
            attempt_timeout: Duration::from_secs(20),
            connect_timeout: Duration::from_secs(60),
            resume_timeout: None,
            retry: RetryPolicy::default(),
            follow_clear_redirects: false,
            peer_fingerprint: None,
            known_hosts: Vec::new(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), ClientConfigError> {
        if self.targets.is_empty() {
            return Err(ClientConfigError::NoTarget);
        }
        if self.targets.len() > MAX_TARGETS {
            return Err(ClientConfigError::TooManyTargets(self.targets.len()));
        }
        if self
            .client_info
            .as_ref()
            .is_some_and(|info| info.len() > MAX_TEXT)
        {
            return Err(ClientConfigError::ClientInfoTooLong);
        }
        if let Some(token) = &self.auth_token {
            let limit = |target: &Target| match target.transport {
                Transport::Dtls => MAX_DATAGRAM_AUTH_TOKEN,
                // The longest cookie has to fit beside it.
                Transport::Udp if self.token_in_clear => {
                    MAX_DATAGRAM_AUTH_TOKEN - TLV_HEADER_LEN - *COOKIE_LEN.end()
                }
                Transport::Tcp | Transport::Tls | Transport::Udp => *AUTH_TOKEN_LEN.end(),
            };
            let limit = self.targets.iter().map(limit).min().unwrap_or_default();
            if token.is_empty() || token.len() > limit {
                return Err(ClientConfigError::AuthTokenLength {
                    length: token.len(),
                    limit,
                });
            }
        }
        if self.addresses.iter().any(|wish| wish.count == 0) || self.addresses.len() > 8 {
            return Err(ClientConfigError::AddressWishes);
        }
        if let Some(mtu) = self
            .inner_mtu
            .filter(|mtu| !(MIN_INNER_MTU_IPV4..=MAX_INNER_MTU).contains(mtu))
        {
            return Err(ClientConfigError::InnerMtu(mtu));
        }
        if self.supported_services.len() > 32 {
            return Err(ClientConfigError::TooManyServices(
                self.supported_services.len(),
            ));
        }
        Ok(())
    }
}

/// Why a [`ClientConfig`] cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientConfigError {
    /// There is nowhere to go.
    #[error("no target configured")]
    NoTarget,
    /// More than [`MAX_TARGETS`].
    #[error("{0} targets are more than {MAX_TARGETS}")]
    TooManyTargets(usize),
    /// More than 128 bytes.
    #[error("client info is longer than {MAX_TEXT} bytes")]
    ClientInfoTooLong,
    /// Empty or too long for one of the targets' transports.
    #[error("an authentication token of {length} bytes is not between 1 and {limit}")]
    AuthTokenLength {
        /// Bytes given.
        length: usize,
        /// Most allowed with these targets.
        limit: usize,
    },
    /// A count of zero, or more than 8 wishes.
    #[error("address wishes must be at most 8, each for one address or more")]
    AddressWishes,
    /// Outside 576 to 9000.
    #[error("an inner MTU of {0} is not between 576 and 9000")]
    InnerMtu(u16),
    /// More than 32.
    #[error("{0} supported services are more than 32")]
    TooManyServices(usize),
}
