//! From a configuration to a worker with open ports.

use std::{net::SocketAddr, time::Instant};

use tokio::sync::mpsc;
use tsc_csm::{Random, Transport, server::Server as Core};
use tsc_osaa::{
    cert::ServerSecurity,
    datagram::{DatagramOptions, DatagramSocket, RecvBatch},
    dtls::{
        DtlsBackendKind, DtlsEndpointLimits, DtlsOptions, DtlsServerConfig, DtlsServerEndpoint,
    },
    listener::{ListenerConfig, StreamListener},
    random::OsRandom,
    socket::{DEFAULT_SEND_LIMIT, StreamOptions},
    stream::RECV_BUFFER,
    trace::{CaptureWriter, DEFAULT_FILE_LIMIT},
};
use tsc_tpl::Limits;

use super::{
    Batch, Counters, Interface, Listener, Log, Order, Phase, Port, Router, Streams, Tun, Ways,
    Worker, core_config::core_config, tun::give_up_capabilities,
};
use crate::{
    config::{
        Authentication, Config, DtlsBackend, Egress, InterfaceConfig, PortConfig, Transports,
    },
    egress::user_space::UserSpace,
    server::StartError,
};

/// How often a port number that the system chose is given back because it is taken for the other protocol.
const PORT_ATTEMPTS: u32 = 16;

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

/// Opens everything that `config` names. Must be called inside the runtime that will poll the worker.
pub(crate) fn open(
    config: &Config,
    orders: mpsc::Receiver<Order>,
) -> Result<(Worker, Vec<Bound>), StartError> {
    OsRandom
        .try_fill(&mut [0; 1])
        .map_err(|error| StartError::Random(error.to_string()))?;
    let now = Instant::now();
    let core = Core::new(core_config(config), now, Box::new(SystemRandom))?;
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
        plain_ports: Vec::new(),
        streams: Streams::new(DEFAULT_SEND_LIMIT),
        ways: Ways::default(),
        router: Router::new(config, now),
        tun: None,
        user_space: None,
        name_servers: config
            .interfaces
            .iter()
            .map(|interface| interface.dns_servers.clone())
            .collect(),
        batch: Batch::default(),
        counters: Counters::default(),
        capture: None,
        orders,
        phase: Phase::Running,
        stop_deadline: config.system.stop_deadline,
        failure: None,
        timer: Box::pin(tokio::time::sleep(std::time::Duration::ZERO)),
        read_buffer: vec![0; RECV_BUFFER],
        receive: RecvBatch::new(RECEIVE_SLOTS),
        log: Log::new(
            config
                .interfaces
                .iter()
                .map(|interface| interface.name.clone()),
        ),
        ready: Vec::new(),
        again: false,
    };
    let mut bound = Vec::new();
    for (index, interface) in config.interfaces.iter().enumerate() {
        for port in &interface.ports {
            worker.open_port(config, index, interface, port, &mut bound)?;
        }
    }
    if config.uses(Egress::UserSpace) {
        let own: Vec<_> = bound.iter().map(|port| port.address).collect();
        let mut seed = [0; 8];
        OsRandom.fill(&mut seed);
        let seed = u64::from_ne_bytes(seed);
        worker.user_space = Some(UserSpace::new(&config.user_space, &own, seed)?);
    }
    worker.tun = Tun::open(config)?;
    if worker.tun.is_some() {
        give_up_capabilities()?;
    }
    // It starts a thread, which inherits what this one has left.
    if let Some(path) = &config.system.trace_file {
        let writer = CaptureWriter::create(path, DEFAULT_FILE_LIMIT)?;
        let handle = writer.handle();
        worker.capture = Some((writer, handle));
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
        let security =
            match port
                .tls_profile
                .as_deref()
                .and_then(|name| config.tls_profile(name))
            {
                Some(profile) => Some(profile.server_security(mtls).map_err(|error| {
                    StartError::Credentials {
                        profile: profile.name.clone(),
                        error,
                    }
                })?),
                None => None,
            };
        let (stream, datagram) = open_sockets(interface, port, security.as_ref())?;
        let transports = port.transports;
        if let Some(socket) = stream {
            let spoken = [
                (Transport::Tcp, transports.tcp),
                (Transport::Tls, transports.tls),
            ];
            push_bound(bound, interface, socket.local_addr(), spoken);
            self.listeners.push(Listener {
                socket,
                interface: index,
            });
        }
        if let Some(socket) = datagram {
            let spoken = [
                (Transport::Udp, transports.udp),
                (Transport::Dtls, transports.dtls),
            ];
            push_bound(bound, interface, socket.local_addr(), spoken);
            let mut plain = None;
            if transports.udp {
                plain = self.core.add_listener(index, socket.local_addr());
                self.plain_ports.push(self.ports.len());
            }
            let endpoint = match (&security, port.dtls_backend) {
                (Some(security), Some(backend)) if transports.dtls => {
                    Some(dtls_endpoint(interface, security, backend)?)
                }
                _ => None,
            };
            self.ports.push(Port::new(socket, index, plain, endpoint));
        }
        Ok(())
    }
}

/// Opens the sockets of a port. With port 0 both get the same number, so that one port serves all transports.
fn open_sockets(
    interface: &InterfaceConfig,
    port: &PortConfig,
    security: Option<&ServerSecurity>,
) -> Result<(Option<StreamListener>, Option<DatagramSocket>), StartError> {
    let mut left = PORT_ATTEMPTS;
    loop {
        let mut listen = port.listen;
        let stream = if port.transports.stream() {
            let options = listener_config(interface, port.transports, security);
            let socket = StreamListener::bind(listen, options)?;
            listen = socket.local_addr();
            Some(socket)
        } else {
            None
        };
        if !port.transports.datagram() {
            return Ok((stream, None));
        }
        let mut options = DatagramOptions::default();
        options.recv_buffer = Some(UDP_RECEIVE_BUFFER);
        match DatagramSocket::bind(listen, &options) {
            Ok(socket) => return Ok((stream, Some(socket))),
            // The system chose a number for TCP that somebody has for UDP.
            Err(_) if port.listen.port() == 0 && stream.is_some() && left > 0 => left -= 1,
            Err(error) => return Err(error.into()),
        }
    }
}

fn listener_config(
    interface: &InterfaceConfig,
    transports: Transports,
    security: Option<&ServerSecurity>,
) -> ListenerConfig {
    let mut config = ListenerConfig::default();
    config.plain = transports.tcp;
    config.tls = security.filter(|_| transports.tls).cloned();
    config.handshake_timeout = interface.limits.configuration_time;
    config.max_handshakes = half_open(interface);
    config.stream = StreamOptions::server();
    config.stream.nodelay = !interface.services.nagle;
    config
}

fn dtls_endpoint(
    interface: &InterfaceConfig,
    security: &ServerSecurity,
    backend: DtlsBackend,
) -> Result<DtlsServerEndpoint, StartError> {
    let options = DtlsOptions {
        handshake_timeout: interface.limits.configuration_time,
        ..DtlsOptions::default()
    };
    let config = DtlsServerConfig::new(backend_kind(backend), security, &options)?;
    let limits = DtlsEndpointLimits {
        half_open: half_open(interface),
        ..DtlsEndpointLimits::default()
    };
    let mut key = [0; 32];
    OsRandom.fill(&mut key);
    Ok(DtlsServerEndpoint::new(&config, limits, &key))
}

fn half_open(interface: &InterfaceConfig) -> usize {
    usize::try_from(interface.limits.half_open).unwrap_or(usize::MAX)
}

fn push_bound(
    bound: &mut Vec<Bound>,
    interface: &InterfaceConfig,
    address: SocketAddr,
    spoken: [(Transport, bool); 2],
) {
    for (transport, _) in spoken.into_iter().filter(|(_, on)| *on) {
        bound.push(Bound {
            interface: interface.name.clone(),
            transport,
            address,
        });
    }
}

const fn backend_kind(backend: DtlsBackend) -> DtlsBackendKind {
    match backend {
        DtlsBackend::Openssl => DtlsBackendKind::OpenSsl,
        DtlsBackend::Webrtc => DtlsBackendKind::WebRtc,
    }
}
