//! What both ends are configured with, and the factories for sessions.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls_pki_types::ServerName;

use crate::cert::{ClientSecurity, ServerSecurity};

use crate::trace::Tap;

use super::record::ClientHello;
use super::{DtlsBackendKind, DtlsConfigError, DtlsError, DtlsSession};

/// What both ends need besides certificates.
#[derive(Clone, Debug)]
pub struct DtlsOptions {
    /// Largest datagram (UDP payload) of a handshake; longer messages are fragmented. 548 to 16 384 bytes, the
    /// default of 1 232 fits outer packets of 1 280 bytes, IPv6 included (spec 7, MTU). Data records are
    /// as long as what is given to [`DtlsSession::send`].
    pub mtu: u16,
    /// How long a handshake may take. Default 10 s.
    pub handshake_timeout: Duration,
    /// First retransmission of a handshake flight, 50 ms to 5 s; `openssl` doubles it each time up to 3.2 s,
    /// `dimpl` without a bound and give or take a quarter, `webrtc` keeps the interval. Default 400 ms.
    pub first_retransmission: Duration,
    /// Whether earlier sessions are resumed, which saves a round trip and the certificates; `openssl` only. A client offers
    /// the session that it remembers of the server, a server hands out tickets where it does not ask clients who they are. A
    /// client is then known again by who can see its handshakes on two networks. Default true.
    pub resumption: bool,
    /// Whose capture gets the secrets of handshakes, if it wants them; `openssl` only, the other libraries keep theirs to themselves.
    pub tap: Option<Tap>,
}

impl Default for DtlsOptions {
    fn default() -> Self {
        Self {
            mtu: 1_232,
            handshake_timeout: Duration::from_secs(10),
            first_retransmission: Duration::from_millis(400),
            resumption: true,
            tap: None,
        }
    }
}

impl DtlsOptions {
    fn check(&self) -> Result<(), DtlsConfigError> {
        if !(548..=16_384).contains(&self.mtu) {
            return Err(DtlsConfigError::Option {
                option: "mtu",
                reason: "548 to 16384 bytes",
            });
        }
        let retransmission = Duration::from_millis(50)..=Duration::from_secs(5);
        if !retransmission.contains(&self.first_retransmission) {
            return Err(DtlsConfigError::Option {
                option: "first_retransmission",
                reason: "50 ms to 5 s",
            });
        }
        Ok(())
    }
}

/// Makes client sessions; cheap to clone.
#[derive(Clone)]
pub struct DtlsClientConfig {
    kind: DtlsBackendKind,
    backend: Arc<dyn ClientBackend>,
}

impl DtlsClientConfig {
    /// Loads certificates and key into the backend.
    ///
    /// # Errors
    ///
    /// The backend is not in this build, cannot use the identity, or an option is out of range.
    pub fn new(
        kind: DtlsBackendKind,
        security: &ClientSecurity,
        options: &DtlsOptions,
    ) -> Result<Self, DtlsConfigError> {
        let backend = client_backend(kind, security, options)?;
        Ok(Self { kind, backend })
    }

    /// Starts an association with the server called `name` (sent as SNI unless it is an address, and what
    /// its certificate is checked for). The ClientHello waits in
    /// [`poll_transmit`](DtlsSession::poll_transmit), or will after the waker was woken.
    ///
    /// # Errors
    ///
    /// The backend needs a tokio runtime and there is none, or the library failed.
    pub fn connect(
        &self,
        now: Instant,
        name: &ServerName<'static>,
    ) -> Result<Box<dyn DtlsSession>, DtlsConfigError> {
        self.backend.connect(now, name)
    }

    /// The backend in use.
    #[must_use]
    pub fn kind(&self) -> DtlsBackendKind {
        self.kind
    }
}

impl std::fmt::Debug for DtlsClientConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DtlsClientConfig")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// Makes server sessions for [`DtlsServerEndpoint`](super::DtlsServerEndpoint)s; cheap to clone, one for all
/// workers.
#[derive(Clone)]
pub struct DtlsServerConfig {
    kind: DtlsBackendKind,
    pub(super) backend: Arc<dyn ServerBackend>,
}

impl DtlsServerConfig {
    /// Loads certificates and key into the backend.
    ///
    /// # Errors
    ///
    /// The backend is not in this build, cannot use the identity (`webrtc`, `dimpl`: RSA) or do what is asked for
    /// (`dimpl`: optional client certificates), or an option is out of range.
    pub fn new(
        kind: DtlsBackendKind,
        security: &ServerSecurity,
        options: &DtlsOptions,
    ) -> Result<Self, DtlsConfigError> {
        let backend = server_backend(kind, security, options)?;
        Ok(Self { kind, backend })
    }

    /// The backend in use.
    #[must_use]
    pub fn kind(&self) -> DtlsBackendKind {
        self.kind
    }
}

impl std::fmt::Debug for DtlsServerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DtlsServerConfig")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// What a library gives for clients.
pub(super) trait ClientBackend: Send + Sync {
    fn connect(
        &self,
        now: Instant,
        name: &ServerName<'static>,
    ) -> Result<Box<dyn DtlsSession>, DtlsConfigError>;
}

/// What a library gives for servers.
pub(super) trait ServerBackend: Send + Sync {
    /// True: [`accept`](Self::accept) is only called with a hello whose cookie the endpoint has made and checked.
    /// False: it is called with a client's first hello, and the session makes its own cookie exchange.
    fn takes_proved_hello(&self) -> bool;

    /// Starts a session with the datagram that holds the ClientHello; `hello` is what was read in it.
    fn accept(
        &self,
        now: Instant,
        peer: SocketAddr,
        datagram: &[u8],
        hello: &ClientHello<'_>,
    ) -> Result<Box<dyn DtlsSession>, DtlsError>;
}

fn client_backend(
    kind: DtlsBackendKind,
    security: &ClientSecurity,
    options: &DtlsOptions,
) -> Result<Arc<dyn ClientBackend>, DtlsConfigError> {
    options.check()?;
    #[cfg(feature = "dtls-openssl")]
    if kind == DtlsBackendKind::OpenSsl {
        return Ok(Arc::new(super::openssl::Client::new(security, options)?));
    }
    #[cfg(feature = "dtls-dimpl")]
    if kind == DtlsBackendKind::Dimpl {
        return Ok(Arc::new(super::dimpl::Client::new(security, options)?));
    }
    #[cfg(feature = "dtls-webrtc")]
    if kind == DtlsBackendKind::WebRtc {
        return Ok(Arc::new(super::webrtc::Client::new(security, options)?));
    }
    // Without any backend it is not looked at.
    let _ = security;
    Err(DtlsConfigError::Unavailable(kind))
}

fn server_backend(
    kind: DtlsBackendKind,
    security: &ServerSecurity,
    options: &DtlsOptions,
) -> Result<Arc<dyn ServerBackend>, DtlsConfigError> {
    options.check()?;
    #[cfg(feature = "dtls-openssl")]
    if kind == DtlsBackendKind::OpenSsl {
        return Ok(Arc::new(super::openssl::Server::new(security, options)?));
    }
    #[cfg(feature = "dtls-dimpl")]
    if kind == DtlsBackendKind::Dimpl {
        return Ok(Arc::new(super::dimpl::Server::new(security, options)?));
    }
    #[cfg(feature = "dtls-webrtc")]
    if kind == DtlsBackendKind::WebRtc {
        return Ok(Arc::new(super::webrtc::Server::new(security, options)?));
    }
    // Without any backend it is not looked at.
    let _ = security;
    Err(DtlsConfigError::Unavailable(kind))
}
