//! What time does to sessions and tickets. Time is what the tests say it is.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::{ServerName, UnixTime};

use super::resumption::session;
use crate::cert::{ClientAuth, ClientSecurity, Identity, PemSource, Roots, ServerSecurity, Trust};
use crate::dtls::{
    DtlsBackendKind, DtlsClientConfig, DtlsEndpointLimits, DtlsOptions, DtlsServerConfig,
    DtlsServerEndpoint, DtlsState,
};

const HOUR: Duration = Duration::from_secs(3_600);
const NAME: &str = "server.test";

struct Pair {
    client: ClientSecurity,
    server: ServerSecurity,
}

impl Pair {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([NAME.to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2100, 1, 1);
        let certificate = PemSource::from(params.self_signed(&key).unwrap().pem().as_str());
        let key = PemSource::from(key.serialize_pem().as_str());
        let identity = Identity::from_pem(&certificate, &key).unwrap();
        let trust = Trust::Roots(Roots::from_pem(&certificate).unwrap());
        Self {
            client: ClientSecurity::new(trust, None).unwrap(),
            server: ServerSecurity::new(identity, ClientAuth::None).unwrap(),
        }
    }

    /// Whether a connection at that time resumes a session.
    fn resumes(&self, server: &DtlsServerConfig, now: Instant) -> bool {
        let peer = SocketAddr::from(([192, 0, 2, 1], 4_000));
        let (kind, options) = (DtlsBackendKind::OpenSsl, DtlsOptions::default());
        let client = DtlsClientConfig::new(kind, &self.client, &options).unwrap();
        let mut client = client.connect(now, &name()).unwrap();
        let mut endpoint = DtlsServerEndpoint::new(server, DtlsEndpointLimits::default(), &[1; 32]);
        let mut datagram = Vec::new();
        for _ in 0..10 {
            while client.poll_transmit(&mut datagram).is_some() {
                let _connected = endpoint.handle_datagram(now, peer, &datagram);
                datagram.clear();
            }
            while endpoint.poll_transmit(&mut datagram).is_some() {
                client.handle_datagram(now, &datagram);
                datagram.clear();
            }
        }
        assert_eq!(client.state(), DtlsState::Connected);
        let stats = endpoint.stats();
        assert_eq!(stats.connected_total, 1);
        stats.resumed == 1
    }

    fn config(&self) -> DtlsServerConfig {
        let (kind, options) = (DtlsBackendKind::OpenSsl, DtlsOptions::default());
        DtlsServerConfig::new(kind, &self.server, &options).unwrap()
    }
}

fn name() -> ServerName<'static> {
    ServerName::try_from(NAME).unwrap()
}

#[test]
fn a_ticket_is_good_under_the_key_before_and_not_under_the_one_before_that() {
    let pair = Pair::new();
    let (server, now) = (pair.config(), Instant::now());
    assert!(!pair.resumes(&server, now));
    assert!(pair.resumes(&server, now + 5 * HOUR));
    // The first connection after six hours has the key changed.
    assert!(pair.resumes(&server, now + 7 * HOUR));
    // Another worker finds the same keys.
    assert!(pair.resumes(&pair.config(), now + 11 * HOUR));
    // The client knows that its session is too old. The new one has a ticket under the third key.
    assert!(!pair.resumes(&server, now + 13 * HOUR));
    assert!(pair.resumes(&server, now + 14 * HOUR));
}

#[test]
fn a_server_takes_no_ticket_whose_key_is_gone() {
    let pair = Pair::new();
    let (server, now) = (pair.config(), Instant::now());
    assert!(!pair.resumes(&server, now + 5 * HOUR));
    // Others change the keys; the key is twelve hours old, the session eight.
    let other = Pair {
        client: ClientSecurity::new(pair.client.trust().clone(), None).unwrap(),
        server: pair.server.clone(),
    };
    assert!(!other.resumes(&server, now + 7 * HOUR));
    assert!(!pair.resumes(&server, now + 13 * HOUR));
    assert!(pair.resumes(&server, now + 14 * HOUR));
}

#[test]
fn a_session_is_not_offered_once_its_certificate_has_expired() {
    let pair = Pair::new();
    let now = Instant::now();
    assert!(!pair.resumes(&pair.config(), now));
    let at = |year: u64| {
        let since_1970 = Duration::from_secs((year - 1970) * 365 * 24 * 3_600);
        session(
            &pair.client,
            now,
            UnixTime::since_unix_epoch(since_1970),
            &name(),
        )
    };
    assert!(at(2080).is_some());
    assert!(at(2110).is_none());
    assert!(at(2080).is_none(), "it is forgotten");
}
