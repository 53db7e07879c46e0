//! What DTLS costs per record and per handshake, without sockets.
//!
//! `record`: a client seals 200 bytes (a voice packet in its tunnel) and the endpoint opens them. `handshake`: both ends,
//! cookie exchange included, ECDSA P-256. The figures of `webrtc` contain the hops between its tasks.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, missing_docs)]

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::Instant;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tsc_osaa::cert::{
    ClientAuth, ClientSecurity, Identity, PemSource, Roots, ServerSecurity, Trust,
};
use tsc_osaa::dtls::{
    AssociationKey, DtlsBackendKind, DtlsClientConfig, DtlsEndpointEvent, DtlsEndpointLimits,
    DtlsOptions, DtlsServerConfig, DtlsServerEndpoint, DtlsSession, DtlsState, MAX_PLAINTEXT,
};

const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 40_000);

struct Bell(Notify);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }
}

struct Configs {
    client: DtlsClientConfig,
    server: DtlsServerConfig,
}

impl Configs {
    fn new(kind: DtlsBackendKind, resumption: bool) -> Self {
        let certified = rcgen::generate_simple_self_signed(["server.test".to_owned()]).unwrap();
        let pem = PemSource::from(certified.cert.pem().as_str());
        let key = PemSource::from(certified.signing_key.serialize_pem().as_str());
        let identity = Identity::from_pem(&pem, &key).unwrap();
        let trust = Trust::Roots(Roots::from_pem(&pem).unwrap());
        let client = ClientSecurity::new(trust, None).unwrap();
        let server = ServerSecurity::new(identity, ClientAuth::None).unwrap();
        let options = DtlsOptions {
            resumption,
            ..DtlsOptions::default()
        };
        Self {
            client: DtlsClientConfig::new(kind, &client, &options).unwrap(),
            server: DtlsServerConfig::new(kind, &server, &options).unwrap(),
        }
    }
}

/// A client and an endpoint, back to back.
struct Link {
    client: Box<dyn DtlsSession>,
    endpoint: DtlsServerEndpoint,
    bell: Arc<Bell>,
    datagram: Vec<u8>,
    plaintext: Vec<u8>,
    key: Option<AssociationKey>,
}

impl Link {
    async fn connect(configs: &Configs) -> Self {
        let bell = Arc::new(Bell(Notify::new()));
        let waker = Waker::from(Arc::clone(&bell));
        let name = "server.test".try_into().unwrap();
        let mut client = configs.client.connect(Instant::now(), &name).unwrap();
        client.set_waker(&waker);
        let limits = DtlsEndpointLimits {
            unproved_per_second: 1_000_000,
            ..DtlsEndpointLimits::default()
        };
        let mut endpoint = DtlsServerEndpoint::new(&configs.server, limits, &[1; 32]);
        endpoint.set_waker(&waker);
        let mut link = Self {
            client,
            endpoint,
            bell,
            datagram: Vec::new(),
            plaintext: vec![0; MAX_PLAINTEXT],
            key: None,
        };
        while link.key.is_none() || link.client.state() != DtlsState::Connected {
            link.turn().await;
        }
        link
    }

    /// One record from the client to the endpoint.
    async fn record(&mut self, data: &[u8]) {
        self.client.send(data).unwrap();
        while self.turn().await == 0 {}
    }

    /// Moves what is there; waits if that is nothing. Returns the bytes that the endpoint has received.
    async fn turn(&mut self) -> usize {
        let now = Instant::now();
        let mut moved = false;
        let mut received = 0;
        while self.client.poll_event().is_some() {
            moved = true;
        }
        while self.client.poll_transmit(&mut self.datagram).is_some() {
            moved = true;
            let key = self.endpoint.handle_datagram(now, PEER, &self.datagram);
            self.datagram.clear();
            received += self.receive(key);
        }
        while let Some(event) = self.endpoint.poll_event() {
            moved = true;
            match event {
                DtlsEndpointEvent::Connected { key, .. } => self.key = Some(key),
                DtlsEndpointEvent::Readable { key } => received += self.receive(Some(key)),
                other => panic!("{other:?}"),
            }
        }
        while self.endpoint.poll_transmit(&mut self.datagram).is_some() {
            moved = true;
            self.client.handle_datagram(now, &self.datagram);
            self.datagram.clear();
        }
        if !moved {
            self.bell.0.notified().await;
        }
        received
    }

    fn receive(&mut self, key: Option<AssociationKey>) -> usize {
        let mut received = 0;
        if let Some(key) = key {
            while let Some(length) = self.endpoint.recv(key, &mut self.plaintext) {
                received += black_box(length);
            }
        }
        received
    }
}

fn dtls(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let _guard = runtime.enter();
    for kind in DtlsBackendKind::ALL {
        if !kind.is_available() {
            continue;
        }
        let configs = Configs::new(kind, false);
        let mut group = criterion.benchmark_group(format!("dtls/{kind}"));
        group.throughput(Throughput::Elements(1));
        group.bench_function("record", |bencher| {
            let mut link = runtime.block_on(Link::connect(&configs));
            let data = [7; 200];
            bencher.iter(|| runtime.block_on(link.record(&data)));
        });
        group.bench_function("handshake", |bencher| {
            bencher.iter(|| runtime.block_on(Link::connect(&configs)));
        });
        if kind == DtlsBackendKind::OpenSsl {
            let configs = Configs::new(kind, true);
            group.bench_function("resumption", |bencher| {
                drop(runtime.block_on(Link::connect(&configs)));
                bencher.iter(|| runtime.block_on(Link::connect(&configs)));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, dtls);
criterion_main!(benches);
