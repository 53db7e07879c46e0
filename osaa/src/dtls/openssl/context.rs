//! What all sessions of one configuration share, and what each carries for the callbacks.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use foreign_types::ForeignTypeRef;
use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::pkey::{Id, PKey, Private};
use openssl::ssl::{
    AlpnError, Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslRef, SslSession,
    SslSessionCacheMode, SslVerifyMode, SslVersion,
};
use openssl::stack::{Stack, StackRef};
use openssl::x509::{X509, X509Name};
use openssl_sys::{
    X509_V_ERR_APPLICATION_VERIFICATION, X509_V_ERR_CERT_HAS_EXPIRED,
    X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_REJECTED, X509_V_ERR_CERT_REVOKED,
    X509_V_ERR_CERT_SIGNATURE_FAILURE, X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_INVALID_CA,
    X509_V_ERR_INVALID_PURPOSE, X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY, X509_V_OK,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::cert::resumption::{LIFETIME, TicketKey};
use crate::cert::{
    ALPN, CertificateError, ClientAuth, ClientSecurity, Identity, PeerIdentity, ServerSecurity,
};
use crate::dtls::association::Association;
use crate::dtls::config::{ClientBackend, ServerBackend};
use crate::dtls::handshake::Step;
use crate::dtls::record::ClientHello;
use crate::dtls::{DtlsBackendKind, DtlsConfigError, DtlsError, DtlsOptions, DtlsSession};
use crate::trace::{ConnectionSecrets, Tap};

use super::ffi;
use super::handshake::OpenSslHandshake;
use super::resumption::Resumption;

/// `tscf` as a list of one protocol, RFC 7301 section 3.1.
const ALPN_LIST: &[u8] = b"\x04tscf";

/// ECDHE with AEAD, which is all that spec and practice need; the key exchange makes past traffic safe.
const CIPHERS: &str = "ECDHE+AESGCM:ECDHE+CHACHA20";
const GROUPS: &str = "X25519:P-256:P-384";

/// Bound of the doubling of retransmission intervals, in microseconds.
const LONGEST_INTERVAL: u32 = 3_200_000;

/// Room that is left for the cookie in a ClientHello with a session. Ours has 32 bytes, others' have up to that as well.
const COOKIE: usize = 32;

/// Makes client sessions.
pub(in crate::dtls) struct Client {
    ctx: SslContext,
    security: ClientSecurity,
    options: DtlsOptions,
}

/// Makes server sessions.
pub(in crate::dtls) struct Server {
    /// One, or where there are tickets one for each key that is valid, so two at most.
    contexts: Mutex<Vec<(Option<Arc<TicketKey>>, SslContext)>>,
    security: ServerSecurity,
    options: DtlsOptions,
}

impl Client {
    pub(in crate::dtls) fn new(
        security: &ClientSecurity,
        options: &DtlsOptions,
    ) -> Result<Self, DtlsConfigError> {
        let mut ctx = context(options).map_err(backend)?;
        ctx.set_verify(SslVerifyMode::PEER);
        if options.resumption {
            ctx.clear_options(SslOptions::NO_TICKET);
        }
        if security.hello().alpn {
            ctx.set_alpn_protos(ALPN_LIST).map_err(backend)?;
        }
        if let Some(identity) = security.identity() {
            present(&mut ctx, identity)?;
        }
        Ok(Self {
            ctx: ctx.build(),
            security: security.clone(),
            options: options.clone(),
        })
    }

    fn start(
        &self,
        name: &ServerName<'static>,
        mut resumption: Option<Resumption>,
    ) -> Result<OpenSslHandshake, ErrorStack> {
        let role = Role::Client {
            security: self.security.clone(),
            name: name.clone(),
        };
        let mut ssl = new_ssl(
            &self.ctx,
            &self.options,
            SessionData::new(role, &self.options, &[]),
        )?;
        // SNI carries names only, RFC 6066 section 3.
        if let ServerName::DnsName(name) = name
            && self.security.hello().sni
        {
            ssl.set_hostname(name.as_ref())?;
        }
        if let Some(resumption) = &mut resumption
            && let Some(session) = resumption.offered()
            && ffi::offer(&mut ssl, session).is_err()
        {
            resumption.give_up();
        }
        ssl.set_connect_state();
        OpenSslHandshake::new(ssl, resumption)
    }

    /// Sends the hello. It must fit a datagram, as no stateless server takes fragments: with a session that is too long for
    /// that, another handshake is begun without.
    fn greet(
        &self,
        handshake: &mut OpenSslHandshake,
        now: Instant,
        name: &ServerName<'static>,
    ) -> Step {
        let step = handshake.advance(now);
        if !handshake.offers_too_much(usize::from(self.options.mtu).saturating_sub(COOKIE)) {
            return step;
        }
        handshake.forget_session();
        *handshake = self
            .start(name, None)
            .map_err(|error| DtlsError::Backend(error.to_string()))?;
        handshake.advance(now)
    }
}

impl ClientBackend for Client {
    fn connect(
        &self,
        now: Instant,
        name: &ServerName<'static>,
    ) -> Result<Box<dyn DtlsSession>, DtlsConfigError> {
        let resumption = self
            .options
            .resumption
            .then(|| Resumption::new(&self.security, now, name));
        let handshake = self.start(name, resumption).map_err(backend)?;
        let timeout = self.options.handshake_timeout;
        let mut session = Association::new(now, timeout, true, handshake);
        session.advance(now, |handshake| self.greet(handshake, now, name));
        Ok(Box::new(session))
    }
}

impl Server {
    pub(in crate::dtls) fn new(
        security: &ServerSecurity,
        options: &DtlsOptions,
    ) -> Result<Self, DtlsConfigError> {
        let server = Self {
            contexts: Mutex::default(),
            security: security.clone(),
            options: options.clone(),
        };
        server.context(Instant::now(), &[])?;
        Ok(server)
    }

    /// The context for a handshake in which the client brings `ticket` (empty: none). Each has one key, as OpenSSL knows no
    /// second.
    fn context(&self, now: Instant, ticket: &[u8]) -> Result<SslContext, DtlsConfigError> {
        let keys = self
            .security
            .dtls_tickets()
            .filter(|_| self.options.resumption);
        let key = keys.map(|keys| keys.serving(now, ticket));
        let name = |key: &Option<Arc<TicketKey>>| key.as_ref().map(|key| key.name);
        let mut contexts = self.contexts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, ctx)) = contexts.iter().find(|(of, _)| name(of) == name(&key)) {
            return Ok(ctx.clone());
        }
        let ctx = self.new_context(key.as_deref())?;
        if contexts.len() > 1 {
            contexts.remove(0);
        }
        contexts.push((key, ctx.clone()));
        Ok(ctx)
    }

    fn new_context(&self, tickets: Option<&TicketKey>) -> Result<SslContext, DtlsConfigError> {
        let security = &self.security;
        let mut ctx = context(&self.options).map_err(backend)?;
        if let Some(key) = tickets {
            ctx.clear_options(SslOptions::NO_TICKET);
            ffi::set_ticket_key(&mut ctx, key).map_err(backend)?;
            ffi::set_session_lifetime(&mut ctx, LIFETIME);
        }
        let key = present(&mut ctx, security.identity())?;
        if key == Id::ED25519 {
            // It would load and then refuse every client: in DTLS 1.2 no cipher suite is found for it.
            return Err(DtlsConfigError::UnsupportedKey {
                backend: DtlsBackendKind::OpenSsl,
                reason: "a server's must be RSA or ECDSA",
            });
        }
        ctx.set_options(SslOptions::COOKIE_EXCHANGE | SslOptions::CIPHER_SERVER_PREFERENCE);
        ctx.set_cookie_verify_cb(|ssl, cookie| {
            data(ssl).is_some_and(|data| !cookie.is_empty() && *data.cookie == *cookie)
        });
        ctx.set_alpn_select_callback(|_, offered| {
            select_alpn(offered).ok_or(AlpnError::ALERT_FATAL)
        });
        let (mode, roots) = match security.client_auth() {
            ClientAuth::None => (SslVerifyMode::NONE, None),
            ClientAuth::Fingerprint(_) => (
                SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT,
                None,
            ),
            ClientAuth::Optional(roots) => (SslVerifyMode::PEER, Some(roots)),
            ClientAuth::Required(roots) => (
                SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT,
                Some(roots),
            ),
        };
        ctx.set_verify(mode);
        if let Some(roots) = roots {
            let mut names = Stack::new().map_err(backend)?;
            for subject in roots.subjects() {
                let name = X509Name::from_der(&subject).map_err(backend)?;
                names.push(name).map_err(backend)?;
            }
            ctx.set_client_ca_list(names);
        }
        Ok(ctx.build())
    }

    fn start(&self, ctx: &SslContext, cookie: &[u8]) -> Result<OpenSslHandshake, ErrorStack> {
        let role = Role::Server {
            security: self.security.clone(),
        };
        let data = SessionData::new(role, &self.options, cookie);
        let mut ssl = new_ssl(ctx, &self.options, data)?;
        ssl.set_accept_state();
        OpenSslHandshake::new(ssl, None)
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
        let ctx = self
            .context(now, hello.ticket())
            .map_err(|error| DtlsError::Backend(error.to_string()))?;
        let handshake = self
            .start(&ctx, hello.cookie)
            .map_err(|error| DtlsError::Backend(error.to_string()))?;
        let timeout = self.options.handshake_timeout;
        let mut session = Association::new(now, timeout, false, handshake);
        session.advance(now, |handshake| handshake.listen(now, datagram));
        Ok(Box::new(session))
    }
}

/// What both ends have in common.
fn context(options: &DtlsOptions) -> Result<SslContextBuilder, ErrorStack> {
    let mut ctx = SslContext::builder(SslMethod::dtls())?;
    if options.tap.is_some() {
        ctx.set_keylog_callback(|ssl, line| {
            if let Some(secrets) = data(ssl).and_then(|data| data.secrets.as_ref()) {
                secrets.take_line(line);
            }
        });
    }
    ctx.set_min_proto_version(Some(SslVersion::DTLS1_2))?;
    ctx.set_max_proto_version(Some(SslVersion::DTLS1_2))?;
    ctx.set_cipher_list(CIPHERS)?;
    ctx.set_groups_list(GROUPS)?;
    ctx.set_options(
        SslOptions::NO_RENEGOTIATION
            | SslOptions::NO_TICKET
            | SslOptions::NO_COMPRESSION
            | SslOptions::NO_QUERY_MTU,
    );
    ctx.set_session_cache_mode(SslSessionCacheMode::OFF);
    ffi::set_verifier::<OurVerifier>(&mut ctx);
    Ok(ctx)
}

/// Loads chain and key, and tells the kind of key.
fn present(ctx: &mut SslContextBuilder, identity: &Identity) -> Result<Id, DtlsConfigError> {
    let load = |ctx: &mut SslContextBuilder| -> Result<Id, ErrorStack> {
        for (index, certificate) in identity.chain().iter().enumerate() {
            let certificate = X509::from_der(certificate)?;
            if index == 0 {
                ctx.set_certificate(&certificate)?;
            } else {
                ctx.add_extra_chain_cert(certificate)?;
            }
        }
        let key = private_key(identity.key().secret_der())?;
        ctx.set_private_key(&key)?;
        ctx.check_private_key()?;
        Ok(key.id())
    };
    load(ctx).map_err(|error| DtlsConfigError::Identity(error.to_string()))
}

fn private_key(der: &[u8]) -> Result<PKey<Private>, ErrorStack> {
    /// RFC 8410: OID 1.3.101.112, then the seed of 32 bytes as an OCTET STRING in an OCTET STRING.
    const ED25519: &[u8] = &[0x06, 0x03, 0x2B, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
    PKey::private_key_from_der(der).or_else(|error| {
        // OpenSSL 3.0 does not read PKCS#8 version 2, in which Ed25519 keys often come.
        let seed = der
            .windows(ED25519.len() + 32)
            .find_map(|window| window.strip_prefix(ED25519));
        seed.map_or(Err(error), |seed| {
            PKey::private_key_from_raw_bytes(seed, Id::ED25519)
        })
    })
}

fn new_ssl(ctx: &SslContext, options: &DtlsOptions, data: SessionData) -> Result<Ssl, ErrorStack> {
    let mut ssl = Ssl::new(ctx)?;
    ssl.set_ex_data(index()?, data);
    ssl.set_mtu(u32::from(options.mtu))?;
    ffi::set_timer::<OurTimer>(&ssl);
    ffi::set_steps::<OurSteps>(&ssl);
    Ok(ssl)
}

/// Finds `tscf` in a client's list, RFC 7301 section 3.1.
fn select_alpn(mut offered: &[u8]) -> Option<&[u8]> {
    while let Some((&length, rest)) = offered.split_first() {
        let (name, rest) = rest.split_at_checked(usize::from(length))?;
        if name == ALPN {
            return Some(name);
        }
        offered = rest;
    }
    None
}

/// What a session carries for the callbacks, inside its `SSL`.
pub(super) struct SessionData {
    role: Role,
    /// The cookie that the endpoint has checked; the hello must still carry it.
    cookie: Box<[u8]>,
    first_interval: u32,
    verdict: Mutex<Option<Verdict>>,
    held: HeldSessions,
    /// Where the secrets of this handshake go, if anybody asked for them.
    secrets: Option<Arc<ConnectionSecrets>>,
}

/// Every session that an `SSL` has had so far; to be dropped after it. OpenSSL keeps messages for retransmission with a pointer to the
/// session of their time, but without a reference, and then reads there. A client's session is replaced when the server does not
/// take the one that was offered, and by a ticket: whoever is on the path can have both happen within one call. So it is looked
/// at before each message. A handshake has few messages that replace it.
#[derive(Clone, Default)]
pub(super) struct HeldSessions(Arc<Mutex<Vec<SslSession>>>);

impl HeldSessions {
    pub(super) fn hold(&self, ssl: &SslRef) {
        let Some(session) = ssl.session() else {
            return;
        };
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held
            .last()
            .is_none_or(|last| last.as_ptr() != session.as_ptr())
        {
            held.push(session.to_owned());
        }
    }
}

struct OurSteps;

impl ffi::Steps for OurSteps {
    fn step(ssl: &SslRef) {
        if let Some(data) = data(ssl) {
            data.held.hold(ssl);
        }
    }
}

enum Role {
    Client {
        security: ClientSecurity,
        name: ServerName<'static>,
    },
    Server {
        security: ServerSecurity,
    },
}

type Verdict = Result<Option<PeerIdentity>, CertificateError>;

impl SessionData {
    fn new(role: Role, options: &DtlsOptions, cookie: &[u8]) -> Self {
        Self {
            role,
            cookie: cookie.into(),
            first_interval: micros(options.first_retransmission),
            verdict: Mutex::new(None),
            held: HeldSessions::default(),
            secrets: options.tap.as_ref().and_then(Tap::secrets),
        }
    }

    pub(super) fn secrets(&self) -> Option<Arc<ConnectionSecrets>> {
        self.secrets.clone()
    }

    /// What has to outlive the `SSL`.
    pub(super) fn held(&self) -> HeldSessions {
        self.held.clone()
    }

    fn judge(&self, chain: &[CertificateDer<'_>]) -> Verdict {
        match &self.role {
            Role::Client { security, name } => security
                .verify_server_chain(chain, name, UnixTime::now())
                .map(Some),
            Role::Server { security } => security.verify_client_chain(chain, UnixTime::now()),
        }
    }

    /// Takes the verdict on the peer. A handshake in which nothing was presented is judged now: that is an error
    /// wherever a certificate is required.
    pub(super) fn take_verdict(&self) -> Verdict {
        self.take_refusal_or_verdict()
            .unwrap_or_else(|| self.judge(&[]))
    }

    /// Takes the verdict if a chain was presented and judged.
    pub(super) fn take_refusal_or_verdict(&self) -> Option<Verdict> {
        self.verdict
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

/// The data of a session.
pub(super) fn data(ssl: &SslRef) -> Option<&SessionData> {
    ssl.ex_data(index().ok()?)
}

fn index() -> Result<Index<Ssl, SessionData>, ErrorStack> {
    static INDEX: OnceLock<Index<Ssl, SessionData>> = OnceLock::new();
    if let Some(index) = INDEX.get() {
        return Ok(*index);
    }
    let new = Ssl::new_ex_index()?;
    Ok(*INDEX.get_or_init(|| new))
}

struct OurVerifier;

impl ffi::Verifier for OurVerifier {
    fn verify(ssl: &SslRef, presented: &StackRef<X509>) -> i32 {
        let Some(data) = data(ssl) else {
            return X509_V_ERR_APPLICATION_VERIFICATION;
        };
        let chain: Result<Vec<_>, ErrorStack> = presented
            .iter()
            .map(|certificate| certificate.to_der().map(CertificateDer::from))
            .collect();
        let verdict = match chain {
            Ok(chain) => data.judge(&chain),
            Err(_) => Err(CertificateError::Malformed),
        };
        let result = match &verdict {
            Ok(_) => X509_V_OK,
            Err(error) => alert_for(error),
        };
        *data.verdict.lock().unwrap_or_else(PoisonError::into_inner) = Some(verdict);
        result
    }
}

/// The reason that makes OpenSSL send the alert that fits.
fn alert_for(error: &CertificateError) -> i32 {
    match error {
        CertificateError::Expired { .. } => X509_V_ERR_CERT_HAS_EXPIRED,
        CertificateError::NotYetValid { .. } => X509_V_ERR_CERT_NOT_YET_VALID,
        CertificateError::UnknownIssuer => X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY,
        CertificateError::NameMismatch { .. } => X509_V_ERR_HOSTNAME_MISMATCH,
        CertificateError::WrongPurpose { .. } => X509_V_ERR_INVALID_PURPOSE,
        CertificateError::CaAsEndEntity => X509_V_ERR_INVALID_CA,
        CertificateError::BadSignature => X509_V_ERR_CERT_SIGNATURE_FAILURE,
        CertificateError::Revoked => X509_V_ERR_CERT_REVOKED,
        CertificateError::Missing
        | CertificateError::UnsupportedAlgorithm
        | CertificateError::Malformed
        | CertificateError::Other(_) => X509_V_ERR_CERT_REJECTED,
    }
}

struct OurTimer;

impl ffi::Timer for OurTimer {
    fn next(ssl: &SslRef, last: u32) -> u32 {
        if last == 0 {
            data(ssl).map_or(1_000_000, |data| data.first_interval)
        } else {
            last.saturating_mul(2).min(LONGEST_INTERVAL.max(last))
        }
    }
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

fn backend(error: ErrorStack) -> DtlsConfigError {
    DtlsConfigError::Backend(error.to_string())
}
