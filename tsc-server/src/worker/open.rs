//! From a configuration to a worker with open ports.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use tokio::sync::mpsc;
use tsc_csm::{
    self as csm, Random, Transport,
    server::{
        self as core, AuthPolicy, Identity, RedirectPolicy, Server as Core, TokenVerifier, TunnelTimers,
        pool::{self, PoolRange},
    },
};
use tsc_osaa::{
    datagram::{DatagramOptions, DatagramSocket, RecvBatch},
    dtls::{DtlsBackendKind, DtlsEndpointLimits, DtlsOptions, DtlsServerConfig, DtlsServerEndpoint},
    listener::{ListenerConfig, StreamListener},
    random::OsRandom,
    socket::{DEFAULT_SEND_LIMIT, StreamOptions},
    stream::RECV_BUFFER,
    trace::{CaptureWriter, DEFAULT_FILE_LIMIT},
};
use tsc_tpl::{Limits, ServiceType};

use super::{Batch, Counters, Interface, Listener, Order, Phase, Port, Streams, Ways, Worker};
use crate::{
    config::{
        self, AddressRange, Authentication, Config, DtlsBackend, InterfaceConfig, PoolConfig, PortConfig, TokenTable,
    },
    server::StartError,
};

/// Receive buffer of a UDP port: at 50,000 packets of 200 bytes a second it bridges a pause of the process of
/// some 90 ms.
const UDP_RECEIVE_BUFFER: usize = 4 << 20;

/// Buffers of one receive call. Each holds a train of datagrams.
const RECEIVE_SLOTS: usize = 32;

/// A port that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bound {
    /// `realm-id` of its interface.
    pub interface: String,
    /// What is spoken there.
    pub transport: Transport,
    /// Where, with the port that the system chose if 0 was configured.
    pub address: SocketAddr,
}

/// The operating system's generator, as the machines want it.
struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&mut self, buf: &mut [u8]) {
        OsRandom.fill(buf);
    }
}

impl TokenVerifier for TokenTable {
    fn verify(&self, token: &[u8]) -> Option<Identity> {
        self.identity(token).map(Identity::new)
    }
}

/// Opens everything that `config` names. Must be called inside the runtime that will poll the worker.
pub(crate) fn open(config: &Config, orders: mpsc::Receiver<Order>) -> Result<(Worker, Vec<Bound>), StartError> {
    OsRandom.try_fill(&mut [0; 1]).map_err(|error| StartError::Random(error.to_string()))?;
    let now = Instant::now();
    let core = Core::new(core_config(config), now, Box::new(SystemRandom))?;
    let capture = match &config.system.trace_file {
        None => None,
        Some(path) => {
            let writer = CaptureWriter::create(path, DEFAULT_FILE_LIMIT)?;
            let handle = writer.handle();
            Some((writer, handle))
        }
    };
    let mut worker = Worker {
        core,
        interfaces: config
            .interfaces
            .iter()
            .map(|interface| Interface {
                limits: Limits::new(interface.inner_mtu),
                inter_client_block: interface.services.inter_client_block,
            })
            .collect(),
        listeners: Vec::new(),
        ports: Vec::new(),
        streams: Streams::new(DEFAULT_SEND_LIMIT),
        ways: Ways::default(),
        batch: Batch::default(),
        counters: Counters::default(),
        capture,
        orders,
        phase: Phase::Running,
        timer: Box::pin(tokio::time::sleep(std::time::Duration::ZERO)),
        read_buffer: vec![0; RECV_BUFFER],
        receive: RecvBatch::new(RECEIVE_SLOTS),
        ready: Vec::new(),
        again: false,
    };
    let mut bound = Vec::new();
    for (index, interface) in config.interfaces.iter().enumerate() {
        for port in &interface.ports {
            worker.open_port(config, index, interface, port, &mut bound)?;
        }
    }
    Ok((worker, bound))
}

impl Worker {
    fn open_port(
        &mut self,
        config: &Config,
        index: usize,
        interface: &InterfaceConfig,
        port: &PortConfig,
        bound: &mut Vec<Bound>,
    ) -> Result<(), StartError> {
        let mtls = matches!(interface.authentication, Authentication::Mtls);
        let security = match port.tls_profile.as_deref().and_then(|name| config.tls_profile(name)) {
            Some(profile) => Some(profile.server_security(mtls).map_err(|error| StartError::Credentials {
                profile: profile.name.clone(),
                error,
            })?),
            None => None,
        };
        let half_open = usize::try_from(interface.limits.half_open).unwrap_or(usize::MAX);
        let mut listen = port.listen;
        if port.transports.stream() {
            let mut options = ListenerConfig::default();
            options.plain = port.transports.tcp;
            options.tls = security.clone().filter(|_| port.transports.tls);
            options.handshake_timeout = interface.limits.configuration_time;
            options.max_handshakes = half_open;
            options.stream = StreamOptions::server();
            options.stream.nodelay = !interface.services.nagle;
            let socket = StreamListener::bind(listen, options)?;
            // With port 0 the datagram half gets the same number, so that one port serves all transports.
            listen.set_port(socket.local_addr().port());
            for (transport, on) in [(Transport::Tcp, port.transports.tcp), (Transport::Tls, port.transports.tls)] {
                push_bound(bound, interface, transport, socket.local_addr(), on);
            }
            self.listeners.push(Listener { socket, interface: index });
        }
        if port.transports.datagram() {
            let mut options = DatagramOptions::default();
            options.recv_buffer = Some(UDP_RECEIVE_BUFFER);
            let socket = DatagramSocket::bind(listen, &options)?;
            let local = socket.local_addr();
            let plain = if port.transports.udp { self.core.add_listener(index, local) } else { None };
            let endpoint = match (&security, port.dtls_backend) {
                (Some(security), Some(backend)) if port.transports.dtls => {
                    let mut options = DtlsOptions::default();
                    options.handshake_timeout = interface.limits.configuration_time;
                    let config = DtlsServerConfig::new(backend_kind(backend), security, &options)?;
                    let mut limits = DtlsEndpointLimits::default();
                    limits.half_open = half_open;
                    let mut key = [0; 32];
                    OsRandom.fill(&mut key);
                    Some(DtlsServerEndpoint::new(&config, limits, &key))
                }
                _ => None,
            };
            for (transport, on) in [(Transport::Udp, port.transports.udp), (Transport::Dtls, port.transports.dtls)] {
                push_bound(bound, interface, transport, local, on);
            }
            self.ports.push(Port::new(socket, index, plain, endpoint));
        }
        Ok(())
    }
}

fn push_bound(bound: &mut Vec<Bound>, interface: &InterfaceConfig, transport: Transport, address: SocketAddr, on: bool) {
    if on {
        bound.push(Bound { interface: interface.name.clone(), transport, address });
    }
}

const fn backend_kind(backend: DtlsBackend) -> DtlsBackendKind {
    match backend {
        DtlsBackend::Openssl => DtlsBackendKind::OpenSsl,
        DtlsBackend::Webrtc => DtlsBackendKind::WebRtc,
    }
}

/// The session core's view of a configuration.
fn core_config(config: &Config) -> core::ServerConfig {
    let system = &config.system;
    let mut limits = core::Limits {
        tunnels: usize::try_from(system.max_tunnels).unwrap_or(usize::MAX),
        pending: usize::try_from(system.max_half_open).unwrap_or(usize::MAX),
        ..core::Limits::default()
    };
    limits.requests_per_second = config.interfaces.iter().map(|i| i.limits.requests_per_prefix).max().unwrap_or(0);
    core::ServerConfig {
        element_id: system.element_id,
        pools: config.pools.iter().map(core_pool).collect(),
        interfaces: config.interfaces.iter().map(|interface| core_interface(config, interface)).collect(),
        quarantine: system.quarantine,
        limits,
        cookie: None,
    }
}

fn core_pool(pool: &PoolConfig) -> pool::PoolConfig {
    let range = |range: &AddressRange| pool::AddressRange { first: range.first(), last: range.last() };
    pool::PoolConfig {
        name: pool.name.clone(),
        ranges: pool
            .ranges
            .iter()
            .map(|addresses| PoolRange {
                range: range(addresses),
                prefix_len: if addresses.is_ipv6() { pool.prefix_len_v6 } else { pool.prefix_len_v4 },
            })
            .collect(),
        exclusions: pool.exclude.iter().map(range).collect(),
    }
}

fn core_interface(config: &Config, interface: &InterfaceConfig) -> core::InterfaceConfig {
    let pools = interface
        .pools
        .iter()
        .filter_map(|name| config.pools.iter().position(|pool| pool.name == *name))
        .collect();
    let timers = &interface.timers;
    let mut core = core::InterfaceConfig::new(interface.name.clone(), pools);
    core.stream_timers = TunnelTimers { keepalive: timers.keepalive_stream, persistence: timers.persistence };
    core.datagram_timers = TunnelTimers { keepalive: timers.keepalive_datagram, persistence: timers.persistence };
    if interface.services.sip {
        core.sip_servers.clone_from(&interface.sip_servers);
    }
    core.dns_servers.clone_from(&interface.dns_servers);
    core.alternates = interface
        .alternates
        .iter()
        .map(|alternate| csm::Alternate { transport: alternate.transport.into(), address: alternate.address })
        .collect();
    core.redirect = if interface.redirect { RedirectPolicy::Always } else { RedirectPolicy::Never };
    core.services = Vec::<ServiceType>::new();
    core.inner_mtu = interface.inner_mtu;
    core.dscp = interface.dscp;
    core.auth = match &interface.authentication {
        Authentication::None => AuthPolicy::None,
        Authentication::Mtls => AuthPolicy::Mtls,
        Authentication::Token(token) => {
            core.token_in_clear = token.allow_on_clear;
            AuthPolicy::Token(Arc::clone(&token.tokens) as Arc<dyn TokenVerifier>)
        }
    };
    if interface.limits.max_tunnels > 0 {
        core.max_tunnels = usize::try_from(interface.limits.max_tunnels).unwrap_or(usize::MAX);
    }
    core
}

impl From<config::Transport> for Transport {
    fn from(transport: config::Transport) -> Self {
        match transport {
            config::Transport::Tcp => Self::Tcp,
            config::Transport::Tls => Self::Tls,
            config::Transport::Udp => Self::Udp,
            config::Transport::Dtls => Self::Dtls,
        }
    }
}
