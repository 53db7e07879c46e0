//! DTLS 1.2 by the `webrtc-dtls` crate, made to fit the sans-IO trait.
//!
//! ```text
//!            caller                  |            tokio tasks
//!  handle_datagram --> filter --> channel --> Conn::recv \
//!  poll_transmit  <-- Shared <------------- Conn::send    webrtc_dtls::conn::DTLSConn
//!  recv           <-- Shared <------------- read         /
//!  send --------------------------> channel --> write
//! ```
//!
//! The library's listener is never used: it can be stopped by one datagram. What else is done around it:
//!
//! - **Records in the clear** are only let in while a handshake is in progress, and only plausible ones: the
//!   library obeys an unauthenticated alert at any time and breaks off on data or nonsense in the clear.
//! - **The last flight** of a server is kept and sent again when the client repeats its own. The library
//!   forgets it, so that one lost datagram would hold the client up for ever.
//! - **Deadline**: the library has none; the session aborts its task.
//! - **Verification** is [`crate::cert`]'s, called in the handshake.
//!
//! Limits that stay: own keys must be ECDSA P-256 or Ed25519, no ALPN, SNI is sent for addresses too, a record of
//! more than 8 155 bytes is not received, a fatal alert after the handshake looks like close_notify,
//! retransmission at a fixed interval by tokio's clock, and the copy of the private key inside the library is not
//! wiped from memory.

mod conn;
mod key;
mod session;
mod shared;
mod task;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::runtime::Handle;
use webrtc_dtls::cipher_suite::CipherSuiteId;
use webrtc_dtls::config::{ClientAuthType, Config, ExtendedMasterSecretType};
use webrtc_dtls::extension::extension_use_srtp::SrtpProtectionProfile;

use crate::cert::{CertificateError, ClientAuth, ClientSecurity, PeerIdentity, ServerSecurity};

use super::config::{ClientBackend, ServerBackend};
use super::record::ClientHello;
use super::{DtlsBackendKind, DtlsConfigError, DtlsError, DtlsOptions, DtlsSession};

use self::session::WebRtcSession;

/// Makes client sessions.
pub(super) struct Client {
    config: Config,
    security: ClientSecurity,
    options: DtlsOptions,
}

/// Makes server sessions.
pub(super) struct Server {
    config: Config,
    security: ServerSecurity,
    options: DtlsOptions,
}

/// Judges the chain that the peer presented, which may be empty.
type Judge = Arc<dyn Fn(&[CertificateDer<'_>]) -> Verdict + Send + Sync>;
type Verdict = Result<Option<PeerIdentity>, CertificateError>;

impl Client {
    pub(super) fn new(
        security: &ClientSecurity,
        options: &DtlsOptions,
    ) -> Result<Self, DtlsConfigError> {
        let certificates = match security.identity() {
            Some(identity) => vec![key::certificate(identity)?],
            None => Vec::new(),
        };
        Ok(Self {
            config: Config {
                certificates,
                ..base(options)
            },
            security: security.clone(),
            options: options.clone(),
        })
    }
}

impl ClientBackend for Client {
    fn connect(
        &self,
        now: Instant,
        name: &ServerName<'static>,
    ) -> Result<Box<dyn DtlsSession>, DtlsConfigError> {
        let runtime = Handle::try_current()
            .map_err(|_| DtlsConfigError::NoRuntime(DtlsBackendKind::WebRtc))?;
        let config = Config {
            server_name: name.to_str().into_owned(),
            ..self.config.clone()
        };
        let (security, name) = (self.security.clone(), name.clone());
        let judge: Judge = Arc::new(move |chain| {
            security
                .verify_server_chain(chain, &name, UnixTime::now())
                .map(Some)
        });
        let deadline = now + self.options.handshake_timeout;
        Ok(Box::new(WebRtcSession::start(
            &runtime, config, true, judge, deadline,
        )))
    }
}

impl Server {
    pub(super) fn new(
        security: &ServerSecurity,
        options: &DtlsOptions,
    ) -> Result<Self, DtlsConfigError> {
        Ok(Self {
            config: Config {
                certificates: vec![key::certificate(security.identity())?],
                client_auth: match security.client_auth() {
                    ClientAuth::None => ClientAuthType::NoClientCert,
                    ClientAuth::Optional(_) => ClientAuthType::RequestClientCert,
                    ClientAuth::Required(_) | ClientAuth::Fingerprint(_) => {
                        ClientAuthType::RequireAnyClientCert
                    }
                },
                // Clients by dimpl always offer it, and an offer that finds nothing is refused. Nobody uses the keys.
                srtp_protection_profiles: vec![
                    SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm,
                    SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80,
                ],
                ..base(options)
            },
            security: security.clone(),
            options: options.clone(),
        })
    }
}

impl ServerBackend for Server {
    fn takes_proved_hello(&self) -> bool {
        false
    }

    fn accept(
        &self,
        now: Instant,
        _peer: SocketAddr,
        datagram: &[u8],
        _hello: &ClientHello<'_>,
    ) -> Result<Box<dyn DtlsSession>, DtlsError> {
        let runtime =
            Handle::try_current().map_err(|_| DtlsError::Backend("no tokio runtime".to_owned()))?;
        let security = self.security.clone();
        let judge: Judge =
            Arc::new(move |chain| security.verify_client_chain(chain, UnixTime::now()));
        let deadline = now + self.options.handshake_timeout;
        let mut session =
            WebRtcSession::start(&runtime, self.config.clone(), false, judge, deadline);
        session.handle_datagram(now, datagram);
        Ok(Box::new(session))
    }
}

/// What both ends have in common.
fn base(options: &DtlsOptions) -> Config {
    /// What the library does not count into its mtu: headers of record and fragment, nonce and tag.
    const UNCOUNTED: usize = 13 + 12 + 8 + 16;
    Config {
        cipher_suites: vec![
            CipherSuiteId::Tls_Ecdhe_Ecdsa_With_Aes_128_Gcm_Sha256,
            CipherSuiteId::Tls_Ecdhe_Rsa_With_Aes_128_Gcm_Sha256,
        ],
        extended_master_secret: ExtendedMasterSecretType::Require,
        flight_interval: options.first_retransmission,
        // Verification is ours, in the callback that each session sets.
        insecure_skip_verify: true,
        mtu: usize::from(options.mtu) - UNCOUNTED,
        ..Config::default()
    }
}
