//! The assertions of the fuzz targets, as functions of bytes. `fuzz_targets` and the replay of the corpus
//! (`tests/corpus.rs`) share this file, so that what a fuzzer found keeps being checked by the ordinary tests.

use std::{
    net::SocketAddr,
    sync::OnceLock,
    time::{Duration, Instant},
};

use rustls_pki_types::CertificateDer;
use tsc_osaa::{
    cert::{ClientAuth, Identity, PeerIdentity, PemSource, ServerSecurity},
    dtls::{
        DtlsBackendKind, DtlsEndpointLimits, DtlsOptions, DtlsServerConfig, DtlsServerEndpoint,
    },
    proxy::{Body, Chunks, MAX_CHALLENGES, MAX_HEAD, parse_head},
};

/// Half-open handshakes that the endpoint under test allows.
const HALF_OPEN: usize = 8;

/// A server identity that protects nothing.
fn config() -> &'static DtlsServerConfig {
    static CONFIG: OnceLock<DtlsServerConfig> = OnceLock::new();
    CONFIG.get_or_init(|| {
        let identity = Identity::from_pem(
            &PemSource::Memory(include_bytes!("worthless.pem").to_vec()),
            &PemSource::Memory(include_bytes!("worthless.key").to_vec()),
        )
        .expect("a good identity");
        let security = ServerSecurity::new(identity, ClientAuth::None).expect("good settings");
        let options = DtlsOptions::default();
        DtlsServerConfig::new(DtlsBackendKind::OpenSsl, &security, &options).expect("OpenSSL")
    })
}

/// Input: pieces of a peer byte, a length (u16, big endian) and that many bytes of a datagram. A zero-length piece
/// lets a second pass.
///
/// Whatever strangers send: no panic, never more than the allowed handshakes, no association without a handshake,
/// and no answer longer than what was sent unless the sender has proved its address.
pub(crate) fn dtls_endpoint(mut data: &[u8]) {
    let limits = DtlsEndpointLimits {
        half_open: HALF_OPEN,
        half_open_per_prefix: HALF_OPEN,
        associations: HALF_OPEN,
        ..DtlsEndpointLimits::default()
    };
    let mut endpoint = DtlsServerEndpoint::new(config(), limits, &[7; 32]);
    let mut now = Instant::now();
    let mut out = Vec::new();
    while let [peer, high, low, rest @ ..] = data {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (datagram, rest) = rest.split_at(length);
        data = rest;
        if datagram.is_empty() {
            now += Duration::from_secs(1);
            endpoint.handle_timeout(now);
        }
        let from = SocketAddr::from(([192, 0, 2, *peer], 5000));
        let before = endpoint.stats().started;
        assert_eq!(
            endpoint.handle_datagram(now, from, datagram),
            None,
            "nobody can finish a handshake blindly"
        );
        let proved = endpoint.stats().started > before || endpoint.stats().half_open > 0;
        while endpoint.poll_event().is_some() {}
        let mut answered = 0;
        loop {
            out.clear();
            let Some(transmit) = endpoint.poll_transmit(&mut out) else {
                break;
            };
            answered += transmit.len;
        }
        assert!(
            proved || answered <= datagram.len(),
            "{answered} bytes for {}",
            datagram.len()
        );
        let stats = endpoint.stats();
        assert!(
            stats.half_open <= HALF_OPEN && stats.associations <= HALF_OPEN,
            "{stats:?}"
        );
    }
}

/// Input: a certificate in DER. Reading it never fails in another way than by saying so, and what it says is bounded.
pub(crate) fn certificate(data: &[u8]) {
    if let Some(peer) = PeerIdentity::from_chain(&[CertificateDer::from(data)]) {
        assert!(peer.names().len() <= tsc_osaa::cert::MAX_NAMES);
        assert!(!peer.identity().is_empty());
        assert_eq!(peer.chain().len(), 1);
    }
}

/// Input: an answer, with its body. Texts for people are short and clean, challenges are bounded; a head is found at its last
/// byte and not before, and a chunked body ends at the same place whether it comes at once or byte by byte.
pub(crate) fn proxy(data: &[u8]) {
    let Ok(Some((head, length))) = parse_head(data) else {
        return;
    };
    assert!(length <= data.len() && length <= MAX_HEAD);
    let (before, body) = data.split_at(length);
    assert_eq!(parse_head(before), Ok(Some((head.clone(), length))));
    if let Some((_, shorter)) = before.split_last() {
        assert!(
            !matches!(parse_head(shorter), Ok(Some(_))),
            "a head without its end"
        );
    }
    for text in [Some(&head.reason), head.location.as_ref()]
        .into_iter()
        .flatten()
    {
        assert!(text.len() <= 128 && text.bytes().all(|byte| (0x20..0x7F).contains(&byte)));
    }
    assert!(head.challenges.len() <= MAX_CHALLENGES);
    assert!(!(head.keeps && head.body == Body::UntilClose));
    if head.body == Body::Chunked {
        let mut at_once = Chunks::default();
        let taken = at_once.take(body);
        let mut bytewise = Chunks::default();
        let mut count = 0;
        let mut failed = false;
        for byte in body {
            match bytewise.take(std::slice::from_ref(byte)) {
                Ok(1) => count += 1,
                Ok(_) => break,
                Err(_) => {
                    failed = true;
                    break;
                }
            }
        }
        assert_eq!(taken.is_err(), failed);
        assert!(failed || taken == Ok(count));
        assert_eq!(at_once.is_done(), bytewise.is_done());
    }
}
