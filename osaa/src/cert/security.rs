//! Whom a client trusts, whom a server admits, and the settings of both in the form the record layers use.

use std::{fmt, sync::Arc};

use rustls::{
    RootCertStore,
    client::{Resumption, WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::SingleCertAndKey,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};
use tracing::warn;

#[cfg(feature = "dtls-openssl")]
use super::resumption::{SessionMemory, TicketKeys};
use super::{
    CertificateError, CredentialError, Identity, PeerIdentity, PemSource, pinned::Pinned,
    verifier::AcceptAnyServer,
};

/// The application protocol of a tunnel (spec 8.4): offered by clients; servers accept its absence, not a different
/// one. Applies to TLS and DTLS.
pub const ALPN: &[u8] = b"tscf";

/// Most servers whose sessions a client remembers, those of TLS and those of DTLS.
pub(super) const SESSIONS: usize = 32;

/// Certificate authorities that are trusted. Cheap to clone.
#[derive(Clone)]
pub struct Roots(Arc<RootCertStore>);

impl Roots {
    /// Every certificate of a PEM text.
    ///
    /// # Errors
    /// Reading, syntax, or a certificate that cannot be a root.
    pub fn from_pem(source: &PemSource) -> Result<Self, CredentialError> {
        Self::from_der(source.certificates()?)
    }

    /// Certificates in DER; none may be unusable, since a root left out silently refuses peers later.
    ///
    /// # Errors
    /// An empty list or an unusable certificate.
    pub fn from_der(
        certificates: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> Result<Self, CredentialError> {
        let mut store = RootCertStore::empty();
        for certificate in certificates {
            store
                .add(certificate)
                .map_err(|e| CredentialError::UnusableCertificate(e.to_string()))?;
        }
        if store.is_empty() {
            return Err(CredentialError::NoRoots {
                origin: "the list".to_owned(),
            });
        }
        Ok(Self(Arc::new(store)))
    }

    /// The operating system's roots (or those of `SSL_CERT_FILE` and `SSL_CERT_DIR`). Single unusable ones are skipped,
    /// as every system has a few.
    ///
    /// # Errors
    /// None could be found at all.
    pub fn system() -> Result<Self, CredentialError> {
        let found = rustls_native_certs::load_native_certs();
        let mut store = RootCertStore::empty();
        let (_, skipped) = store.add_parsable_certificates(found.certs);
        if skipped > 0 || !found.errors.is_empty() {
            warn!(
                skipped,
                errors = found.errors.len(),
                "some system root certificates cannot be used"
            );
        }
        if store.is_empty() {
            return Err(CredentialError::NoRoots {
                origin: "the system's certificate store".to_owned(),
            });
        }
        Ok(Self(Arc::new(store)))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Never true: an empty list cannot be made.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells one set of roots from another: a hash of their names, keys and constraints.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut each: Vec<[u8; 32]> = self
            .0
            .roots
            .iter()
            .map(|root| {
                let mut hash = Sha256::new();
                hash.update(Sha256::digest(&root.subject));
                hash.update(Sha256::digest(&root.subject_public_key_info));
                hash.update(root.name_constraints.as_deref().unwrap_or_default());
                hash.finalize().into()
            })
            .collect();
        each.sort_unstable();
        each.iter()
            .fold(Sha256::new(), |hash, root| hash.chain_update(root))
            .finalize()
            .into()
    }

    /// The distinguished names of the roots in DER, as a server lists them in its certificate request.
    #[must_use]
    pub fn subjects(&self) -> Vec<Vec<u8>> {
        self.0
            .subjects()
            .into_iter()
            .map(|name| name.as_ref().to_vec())
            .collect()
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Roots({})", self.0.len())
    }
}

/// Whose server certificates a client accepts.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Trust {
    /// Those issued below the operating system's roots.
    System,
    /// Those issued below these roots.
    Roots(Roots),
    /// The one certificate with this SHA-256, whatever it says of itself: of who told it is trusted.
    Fingerprint([u8; 32]),
    /// **Any.** The tunnel is then encrypted towards whoever answers: for experiments only. Logged with a warning
    /// each time it is taken into use.
    DangerousNone,
}

/// What a server asks of a client's certificate (spec 8.4).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ClientAuth {
    /// None is asked for.
    None,
    /// One is asked for; a client without one is admitted, a client with a bad one is not.
    Optional(Roots),
    /// Without a good one there is no connection (mutual TLS).
    Required(Roots),
    /// One is asked for, and there is a connection only with the one that has this SHA-256.
    Fingerprint([u8; 32]),
}

/// What a client's handshake shows in clear, to servers and to whoever is on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HelloOptions {
    /// Offer the application protocol `tscf` (ALPN). Spec 8.4 wants it; where a box on the way refuses what it does not know, a
    /// server accepts its absence. The `dimpl` and `webrtc` libraries for DTLS never offer it.
    pub alpn: bool,
    /// Send the server's name (SNI). A server with several certificates needs it. `dimpl` never sends it, `webrtc` always.
    pub sni: bool,
}

impl Default for HelloOptions {
    /// Both.
    fn default() -> Self {
        Self {
            alpn: true,
            sni: true,
        }
    }
}

/// A client's side of TLS and DTLS: whom it trusts and what it presents. Cheap to clone.
#[derive(Clone)]
pub struct ClientSecurity {
    inner: Arc<ClientInner>,
}

struct ClientInner {
    trust: Trust,
    identity: Option<Identity>,
    verifier: Arc<dyn ServerCertVerifier>,
    config: Arc<rustls::ClientConfig>,
    #[cfg(feature = "dtls-openssl")]
    dtls_sessions: SessionMemory,
    hello: HelloOptions,
}

impl ClientSecurity {
    /// Takes trust and, for servers that authenticate clients, an identity into use.
    ///
    /// # Errors
    /// The system has no roots.
    pub fn new(trust: Trust, identity: Option<Identity>) -> Result<Self, CredentialError> {
        let provider = provider();
        let verifier: Arc<dyn ServerCertVerifier> = match &trust {
            Trust::System => webpki_server_verifier(&Roots::system()?, &provider)?,
            Trust::Roots(roots) => webpki_server_verifier(roots, &provider)?,
            Trust::Fingerprint(fingerprint) => Arc::new(Pinned {
                fingerprint: *fingerprint,
                algorithms: provider.signature_verification_algorithms,
            }),
            Trust::DangerousNone => {
                warn!(
                    "DANGEROUS: server certificates are not verified; anyone on the path can read and change this tunnel"
                );
                Arc::new(AcceptAnyServer(provider.signature_verification_algorithms))
            }
        };
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| CredentialError::UnusableKey(e.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&verifier));
        let mut config = match &identity {
            None => builder.with_no_client_auth(),
            Some(identity) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(
                Arc::clone(identity.certified()),
            ))),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A resume of a tunnel is a resumption of its TLS session: no certificates, and one round trip less with TLS 1.2. What was
        // verified is remembered here only, for as long as this lives. No TLS 0-RTT (spec 2).
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        config.enable_early_data = false;
        Ok(Self {
            inner: Arc::new(ClientInner {
                trust,
                identity,
                verifier,
                config: Arc::new(config),
                #[cfg(feature = "dtls-openssl")]
                dtls_sessions: SessionMemory::default(),
                hello: HelloOptions::default(),
            }),
        })
    }

    /// Whom this client trusts.
    #[must_use]
    pub fn trust(&self) -> &Trust {
        &self.inner.trust
    }

    /// What this client presents when asked.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.inner.identity.as_ref()
    }

    /// Shows no more of itself in the clear part of handshakes than this. What sessions were remembered is forgotten.
    #[must_use]
    pub fn with_hello(self, hello: HelloOptions) -> Self {
        let inner = &self.inner;
        let mut config = rustls::ClientConfig::clone(&inner.config);
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        config.enable_sni = hello.sni;
        config.alpn_protocols = if hello.alpn {
            vec![ALPN.to_vec()]
        } else {
            Vec::new()
        };
        Self {
            inner: Arc::new(ClientInner {
                trust: inner.trust.clone(),
                identity: inner.identity.clone(),
                verifier: Arc::clone(&inner.verifier),
                config: Arc::new(config),
                #[cfg(feature = "dtls-openssl")]
                dtls_sessions: SessionMemory::default(),
                hello,
            }),
        }
    }

    /// What handshakes show in clear.
    #[must_use]
    pub fn hello(&self) -> HelloOptions {
        self.inner.hello
    }

    /// The verifier that TLS uses, for record layers that take one.
    #[must_use]
    pub fn verifier(&self) -> &Arc<dyn ServerCertVerifier> {
        &self.inner.verifier
    }

    /// Verifies a server's chain (end entity first) for a name at a time, as TLS does: the one path for DTLS
    /// backends, whose own verification must be off. That the server holds the key is the handshake's business.
    ///
    /// # Errors
    /// What is wrong with the certificate.
    pub fn verify_server_chain(
        &self,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<PeerIdentity, CertificateError> {
        let (leaf, intermediates) = chain.split_first().ok_or(CertificateError::Missing)?;
        self.inner
            .verifier
            .verify_server_cert(leaf, intermediates, name, &[], now)
            .map_err(|e| CertificateError::from_rustls(e, "server"))?;
        PeerIdentity::from_chain(chain).ok_or(CertificateError::Missing)
    }

    pub(crate) fn config(&self) -> &Arc<rustls::ClientConfig> {
        &self.inner.config
    }

    #[cfg(feature = "dtls-openssl")]
    pub(crate) fn dtls_sessions(&self) -> &SessionMemory {
        &self.inner.dtls_sessions
    }
}

impl fmt::Debug for ClientSecurity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientSecurity")
            .field("trust", &self.inner.trust)
            .field("identity", &self.inner.identity)
            .finish_non_exhaustive()
    }
}

/// A server's side of TLS and DTLS: what it presents and what it asks of clients. Cheap to clone.
#[derive(Clone)]
pub struct ServerSecurity {
    inner: Arc<ServerInner>,
}

struct ServerInner {
    identity: Identity,
    client_auth: ClientAuth,
    verifier: Arc<dyn ClientCertVerifier>,
    config: Arc<rustls::ServerConfig>,
    /// `None` where clients are asked who they are.
    #[cfg(feature = "dtls-openssl")]
    dtls_tickets: Option<TicketKeys>,
}

impl ServerSecurity {
    /// Takes an identity and a rule for client certificates into use.
    ///
    /// # Errors
    /// Roots that cannot be used.
    pub fn new(identity: Identity, client_auth: ClientAuth) -> Result<Self, CredentialError> {
        let provider = provider();
        let builder = |roots: &Roots| {
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots.0), Arc::clone(&provider))
        };
        let verifier: Arc<dyn ClientCertVerifier> = match &client_auth {
            ClientAuth::Fingerprint(fingerprint) => Ok(Arc::new(Pinned {
                fingerprint: *fingerprint,
                algorithms: provider.signature_verification_algorithms,
            })
                as Arc<dyn ClientCertVerifier>),
            ClientAuth::None => Ok(WebPkiClientVerifier::no_client_auth()),
            ClientAuth::Optional(roots) => builder(roots).allow_unauthenticated().build(),
            ClientAuth::Required(roots) => builder(roots).build(),
        }
        .map_err(|e| CredentialError::UnusableCertificate(e.to_string()))?;
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| CredentialError::UnusableKey(e.to_string()))?
            .with_client_cert_verifier(Arc::clone(&verifier))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(
                identity.certified(),
            ))));
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Sessions are remembered by the clients, in tickets under keys of this process that last for 12 hours at most. No TLS
        // 0-RTT (spec 2).
        config.session_storage = Arc::new(NoServerSessionStorage {});
        if matches!(client_auth, ClientAuth::None) {
            config.ticketer =
                ring::Ticketer::new().map_err(|e| CredentialError::UnusableKey(e.to_string()))?;
            config.send_tls13_tickets = 1;
        } else {
            // A ticket would go on proving who a client is when its certificate has expired.
            config.send_tls13_tickets = 0;
        }
        config.max_early_data_size = 0;
        #[cfg(feature = "dtls-openssl")]
        let dtls_tickets = matches!(client_auth, ClientAuth::None)
            .then(|| TicketKeys::new(std::time::Instant::now()));
        Ok(Self {
            inner: Arc::new(ServerInner {
                #[cfg(feature = "dtls-openssl")]
                dtls_tickets,
                identity,
                client_auth,
                verifier,
                config: Arc::new(config),
            }),
        })
    }

    /// What this server presents.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.inner.identity
    }

    /// What this server asks of clients.
    #[must_use]
    pub fn client_auth(&self) -> &ClientAuth {
        &self.inner.client_auth
    }

    /// The verifier that TLS uses, for record layers that take one.
    #[must_use]
    pub fn verifier(&self) -> &Arc<dyn ClientCertVerifier> {
        &self.inner.verifier
    }

    /// Verifies what a client presented, by this server's [`ClientAuth`]: the one path for DTLS backends,
    /// whose own verification must be off. `Ok(None)` is a client without a certificate where none is required (and any
    /// client under [`ClientAuth::None`], whose certificate was not asked for).
    ///
    /// # Errors
    /// What is wrong with the certificate, [`CertificateError::Missing`] included.
    pub fn verify_client_chain(
        &self,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Option<PeerIdentity>, CertificateError> {
        match (&self.inner.client_auth, chain.split_first()) {
            (ClientAuth::None, _) | (ClientAuth::Optional(_), None) => Ok(None),
            (ClientAuth::Required(_) | ClientAuth::Fingerprint(_), None) => {
                Err(CertificateError::Missing)
            }
            (
                ClientAuth::Optional(_) | ClientAuth::Required(_) | ClientAuth::Fingerprint(_),
                Some((leaf, intermediates)),
            ) => {
                self.inner
                    .verifier
                    .verify_client_cert(leaf, intermediates, now)
                    .map_err(|e| CertificateError::from_rustls(e, "client"))?;
                Ok(PeerIdentity::from_chain(chain))
            }
        }
    }

    pub(crate) fn config(&self) -> &Arc<rustls::ServerConfig> {
        &self.inner.config
    }

    /// The keys of tickets for DTLS; `None` where there are none, since clients are asked who they are.
    #[cfg(feature = "dtls-openssl")]
    pub(crate) fn dtls_tickets(&self) -> Option<&TicketKeys> {
        self.inner.dtls_tickets.as_ref()
    }
}

impl fmt::Debug for ServerSecurity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerSecurity")
            .field("identity", &self.inner.identity)
            .field("client_auth", &self.inner.client_auth)
            .finish_non_exhaustive()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn webpki_server_verifier(
    roots: &Roots,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, CredentialError> {
    WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots.0), Arc::clone(provider))
        .build()
        .map_err(|e| CredentialError::UnusableCertificate(e.to_string()))
}
