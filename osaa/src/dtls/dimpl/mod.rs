//! Handshakes by the `dimpl` crate, which is Rust without unsafe code, with the cryptography of AWS-LC.
//!
//! What is done around it:
//!
//! - **The cookie** is made and checked by the endpoint, as for OpenSSL. The library draws the secret of its cookie
//!   inside each session, and starts at the right message number only after an exchange of its own. So the exchange is
//!   played to it when the hello comes that has brought ours back, and ours is made to count ([`provider`]).
//! - **Verification** is [`crate::cert`]'s. The library gives the first certificate only; those between it and the authority
//!   are collected beside it ([`chain`]).
//! - **Alerts**: it sends none when it gives up, so that is done for it.
//! - **Keys** come out through the cipher suites that it is given ([`provider`]).
//!
//! Limits that stay: ECDSA P-256 or P-384 at both ends, no RSA; one certificate is sent, without intermediate ones; a
//! server asks for a client certificate only if it requires one, and a client without one gives up where it is asked;
//! no ALPN, no SNI; the extended master secret (RFC 7627) is a must.

mod chain;
mod handshake;
mod provider;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use dimpl::Config;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::cert::{
    CertificateError, ClientAuth, ClientSecurity, Identity, PeerIdentity, ServerSecurity,
};

use super::association::Association;
use super::config::{ClientBackend, ServerBackend};
use super::record::ClientHello;
use super::{DtlsBackendKind, DtlsConfigError, DtlsError, DtlsOptions, DtlsSession};

use self::handshake::DimplHandshake;
use self::provider::SigningKeys;

/// Judges the chain that the peer presented, which may be empty.
type Judge = Box<dyn Fn(&[CertificateDer<'_>]) -> Verdict + Send>;
type Verdict = Result<Option<PeerIdentity>, CertificateError>;

/// What all handshakes of one configuration share.
struct Shared {
    config: Arc<Config>,
    /// What we present; a client that has nothing never sends it.
    certificate: Vec<u8>,
    keys: Arc<SigningKeys>,
    options: DtlsOptions,
}

/// Makes client sessions.
pub(super) struct Client {
    shared: Shared,
    security: ClientSecurity,
}

/// Makes server sessions.
pub(super) struct Server {
    shared: Shared,
    security: ServerSecurity,
}

impl Client {
    pub(super) fn new(
        security: &ClientSecurity,
        options: &DtlsOptions,
    ) -> Result<Self, DtlsConfigError> {
        let (certificate, keys) = match security.identity() {
            Some(identity) => present(identity)?,
            // The library wants both, whether they are needed or not.
            None => (vec![0], throwaway_key()?),
        };
        Ok(Self {
            shared: Shared {
                config: config(options, false)?,
                certificate,
                keys,
                options: options.clone(),
            },
            security: security.clone(),
        })
    }
}

impl ClientBackend for Client {
    fn connect(
        &self,
        now: Instant,
        name: &ServerName<'static>,
    ) -> Result<Box<dyn DtlsSession>, DtlsConfigError> {
        let (security, name) = (self.security.clone(), name.clone());
        let has_certificate = security.identity().is_some();
        let judge: Judge = Box::new(move |chain| {
            security
                .verify_server_chain(chain, &name, UnixTime::now())
                .map(Some)
        });
        let handshake = DimplHandshake::client(now, &self.shared, judge, has_certificate);
        let timeout = self.shared.options.handshake_timeout;
        let mut session = Association::new(now, timeout, true, handshake);
        session.advance(now, |handshake| handshake.start(now));
        Ok(Box::new(session))
    }
}

impl Server {
    pub(super) fn new(
        security: &ServerSecurity,
        options: &DtlsOptions,
    ) -> Result<Self, DtlsConfigError> {
        let (certificate, keys) = present(security.identity())?;
        let asks = match security.client_auth() {
            ClientAuth::None => false,
            ClientAuth::Required(_) | ClientAuth::Fingerprint(_) => true,
            ClientAuth::Optional(_) => {
                return Err(DtlsConfigError::Unsupported {
                    backend: DtlsBackendKind::Dimpl,
                    what: "client certificates that are optional: require them, or do not ask for them",
                });
            }
        };
        Ok(Self {
            shared: Shared {
                config: config(options, asks)?,
                certificate,
                keys,
                options: options.clone(),
            },
            security: security.clone(),
        })
    }
}

impl ServerBackend for Server {
    fn takes_proved_hello(&self) -> bool {
        true
    }

    fn accept(
        &self,
        now: Instant,
        _peer: SocketAddr,
        datagram: &[u8],
        hello: &ClientHello<'_>,
    ) -> Result<Box<dyn DtlsSession>, DtlsError> {
        let cookie = hello
            .cookie
            .try_into()
            .map_err(|_| DtlsError::Backend("not our cookie".to_owned()))?;
        let security = self.security.clone();
        let judge: Judge =
            Box::new(move |chain| security.verify_client_chain(chain, UnixTime::now()));
        let handshake = DimplHandshake::server(now, &self.shared, judge, cookie);
        let timeout = self.shared.options.handshake_timeout;
        let mut session = Association::new(now, timeout, false, handshake);
        session.advance(now, |handshake| handshake.accept(now, datagram));
        Ok(Box::new(session))
    }
}

fn config(
    options: &DtlsOptions,
    asks_for_certificate: bool,
) -> Result<Arc<Config>, DtlsConfigError> {
    /// Datagrams of one flight: with the smallest mtu some 30 KiB of certificates. Also of what came too early.
    const FLIGHT: usize = 64;
    /// More than fit the time that a handshake has, which is what ends it.
    const RETRANSMISSIONS: usize = 32;
    Config::builder()
        .mtu(usize::from(options.mtu))
        .max_queue_rx(FLIGHT)
        .max_queue_tx(FLIGHT)
        .require_client_certificate(asks_for_certificate)
        .use_server_cookie(true)
        .flight_start_rto(options.first_retransmission)
        .flight_retries(RETRANSMISSIONS)
        .handshake_timeout(options.handshake_timeout)
        .with_crypto_provider(provider::provider())
        .build()
        .map(Arc::new)
        .map_err(|error| DtlsConfigError::Backend(error.to_string()))
}

/// The certificate and key of an identity in the library's form.
fn present(identity: &Identity) -> Result<(Vec<u8>, Arc<SigningKeys>), DtlsConfigError> {
    let keys =
        SigningKeys::new(identity.key().secret_der()).ok_or(DtlsConfigError::UnsupportedKey {
            backend: DtlsBackendKind::Dimpl,
            reason: "it must be ECDSA P-256 or P-384",
        })?;
    match identity.chain() {
        [certificate] => Ok((certificate.to_vec(), keys)),
        _ => Err(DtlsConfigError::Unsupported {
            backend: DtlsBackendKind::Dimpl,
            what: "a chain of several certificates of one's own",
        }),
    }
}

fn throwaway_key() -> Result<Arc<SigningKeys>, DtlsConfigError> {
    EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
        .ok()
        .and_then(|key| SigningKeys::new(key.as_ref()))
        .ok_or_else(|| DtlsConfigError::Backend("no key could be made".to_owned()))
}
