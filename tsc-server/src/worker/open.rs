//! From a configuration to a worker with open ports.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    num::NonZero,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, watch};
use tsc_csm::{
    Alternate, BoxedRandom, Random, Transport,
    server::{MAX_SHARDS, Server as Core},
};
use tsc_osaa::{
    cert::ServerSecurity,
    datagram::{DatagramOptions, DatagramSocket, RecvBatch},
    dtls::{
        DtlsBackendKind, DtlsEndpointLimits, DtlsOptions, DtlsServerConfig, DtlsServerEndpoint,
    },
    listener::{ListenerConfig, StreamListener},
    random::{BlockRandom, OsRandom},
    socket::{PortSharing, StreamOptions},
    stream::RECV_BUFFER,
    trace::{self, CaptureWriter},
};
use tsc_tpl::Limits;

use super::{
    Batch, Captures, Counters, Listener, Load, Log, Mesh, Order, Phase, Port, Streams, Tun, Ways,
    Worker, backlog::Backlog, busy_poll::BusyPoll, core_config::core_config, gather::Gather,
    tun::give_up_capabilities,
};
use crate::{
    config::{
        Authentication, Config, DtlsBackend, Egress, InterfaceConfig, PortConfig, Transports,
    },
    egress::{
        rates::{self, AllRates},
        router::Router,
        user_space::UserSpace,
    },
    server::StartError,
    trace::{Outsides, Tap, configured_capture, outsides},
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

/// The operating system's generator, as the machines want it: several draws a set-up.
#[derive(Default)]
struct SystemRandom(BlockRandom);

impl Random for SystemRandom {
    fn fill(&mut self, buf: &mut [u8]) {
        self.0.fill(buf);
    }
}

/// What all workers of a server are opened from.
#[derive(Debug)]
pub(crate) struct Plan {
    cores: Vec<Core>,
    meshes: Vec<Mesh>,
    common: Common,
}

/// What they share.
#[derive(Clone, Debug)]
struct Common {
    workers: u8,
    rates: AllRates,
    /// Proves addresses to any of them.
    dtls_cookies: [u8; 32],
    securities: Arc<Securities>,
    outsides: Outsides,
}

impl Common {
    fn outside(&self, interface: &InterfaceConfig) -> Option<trace::Tap> {
        self.outsides.get(&interface.name).cloned()
    }
}

/// What the ports under TLS and DTLS are set up with, by TLS profile and by whether clients must show certificates. Each has
/// ticket keys of its own: a client that comes back may reach another worker or another port, and resumes its session there.
type Securities = BTreeMap<(String, bool), ServerSecurity>;

/// What one worker is opened from.
#[derive(Debug)]
pub(crate) struct Part {
    core: Core,
    mesh: Mesh,
    common: Common,
    /// `None` for the first worker, which opens what there is one of.
    first: Option<FromFirst>,
}

/// What the first worker has made for another.
#[derive(Debug)]
struct FromFirst {
    tun: Option<Tun>,
    capture: Option<Tap>,
}

/// What the first worker has opened for all.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The open ports, in the order of the configuration.
    pub(crate) ports: Vec<Bound>,
    /// The configuration, with the port numbers that the system chose.
    pub(crate) config: Config,
    /// Fills the capture file until it is dropped.
    pub(crate) writer: Option<CaptureWriter>,
    /// For the other workers, the second one's first.
    tuns: Vec<Tun>,
}

impl Plan {
    /// For as many workers as `config` wants.
    pub(crate) fn new(config: &Config) -> Result<Self, StartError> {
        OsRandom
            .try_fill(&mut [0; 1])
            .map_err(|error| StartError::Random(error.to_string()))?;
        let workers = config.system.workers.unwrap_or_else(processors);
        let now = Instant::now();
        let random = || -> BoxedRandom { Box::new(SystemRandom::default()) };
        let randoms = (0..workers).map(|_| random()).collect();
        let mut dtls_cookies = [0; 32];
        OsRandom.fill(&mut dtls_cookies);
        Ok(Self {
            cores: Core::sharded(core_config(config), now, randoms)?,
            meshes: Mesh::connect(workers),
            common: Common {
                workers,
                rates: rates::all(config, now),
                dtls_cookies,
                securities: Arc::new(securities(config)?),
                outsides: outsides(config),
            },
        })
    }

    /// What is told of each interface's ports.
    pub(crate) fn outsides(&self) -> Outsides {
        Arc::clone(&self.common.outsides)
    }

    /// The part of the first worker.
    pub(crate) fn first(&mut self) -> Option<Part> {
        self.part(None)
    }

    /// The part of the next worker.
    pub(crate) fn next(&mut self, opened: &mut Opened) -> Option<Part> {
        let tun = (!opened.tuns.is_empty()).then(|| opened.tuns.remove(0));
        let capture = opened.writer.as_ref().map(Tap::configured);
        self.part(Some(FromFirst { tun, capture }))
    }

    fn part(&mut self, first: Option<FromFirst>) -> Option<Part> {
        if self.cores.is_empty() || self.meshes.is_empty() {
            return None;
        }
        Some(Part {
            core: self.cores.remove(0),
            mesh: self.meshes.remove(0),
            common: self.common.clone(),
            first,
        })
    }
}

fn securities(config: &Config) -> Result<Securities, StartError> {
    let mut made = Securities::new();
    for interface in &config.interfaces {
        let mtls = interface.authentication == Authentication::Mtls;
        for name in interface.ports.iter().flat_map(|port| &port.tls_profile) {
            let key = (name.clone(), mtls);
            if !made.contains_key(&key)
                && let Some(profile) = config.tls_profile(name)
            {
                let security = profile.server_security(mtls);
                let security = security.map_err(|error| StartError::Credentials {
                    profile: profile.name.clone(),
                    error,
                })?;
                made.insert(key, security);
            }
        }
    }
    Ok(made)
}

/// How many there are for this process.
fn processors() -> u8 {
    let count = std::thread::available_parallelism().map_or(1, NonZero::get);
    u8::try_from(count.min(MAX_SHARDS)).unwrap_or(1)
}

/// Opens a worker. Must be called inside the runtime that will poll it. `failed` is told when it stops by itself.
pub(crate) fn open(
    config: &Config,
    part: Part,
    orders: mpsc::Receiver<Order>,
    failed: watch::Sender<bool>,
) -> Result<(Worker, Opened), StartError> {
    let Part {
        core,
        mesh,
        common,
        first,
    } = part;
    let mut worker = Worker {
        core,
        mesh,
        limits: config
            .interfaces
            .iter()
            .map(|interface| Limits::new(interface.inner_mtu))
            .collect(),
        listeners: Vec::new(),
        ports: Vec::new(),
        plain_ports: Vec::new(),
        streams: Streams::new(),
        ways: Ways::default(),
        router: Router::new(config, Arc::clone(&common.rates)),
        tun: None,
        user_space: None,
        name_servers: config
            .interfaces
            .iter()
            .map(|interface| interface.dns_servers.clone())
            .collect(),
        batch: Batch::default(),
        counters: Counters::default(),
        captures: Captures::default(),
        orders,
        turn_over: Vec::new(),
        phase: Phase::Running,
        stop_deadline: config.system.stop_deadline,
        failure: None,
        failed,
        timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
        read_buffer: vec![0; RECV_BUFFER],
        frame: Vec::new(),
        receive: Some(RecvBatch::new(RECEIVE_SLOTS)),
        log: Log::new(
            config
                .interfaces
                .iter()
                .map(|interface| interface.name.clone()),
        ),
        load: Load::new(config.system.busy_when_overloaded, Instant::now()),
        backlog: Backlog::new(Instant::now()),
        again: false,
        gather: Gather::new(Instant::now(), config.system.gather_time, 0),
        busy_poll: BusyPoll::new(config.system.busy_poll),
        received: 0,
        forwarded: 0,
    };
    let sharing = match (&first, common.workers) {
        (Some(_), _) => PortSharing::Another,
        (None, 1) => PortSharing::Alone,
        (None, _) => PortSharing::First,
    };
    let mut opened = Opened {
        ports: Vec::new(),
        config: config.clone(),
        writer: None,
        tuns: Vec::new(),
    };
    for (index, interface) in opened.config.interfaces.iter_mut().enumerate() {
        for number in 0..interface.ports.len() {
            worker.open_port(
                &common,
                sharing,
                (index, number),
                interface,
                &mut opened.ports,
            )?;
        }
    }
    if config.uses(Egress::UserSpace) {
        let own: Vec<_> = opened.ports.iter().map(|port| port.address).collect();
        let mut seed = [0; 8];
        OsRandom.fill(&mut seed);
        let seed = u64::from_ne_bytes(seed);
        let workers = usize::from(common.workers);
        worker.user_space = Some(UserSpace::new(&config.user_space, workers, &own, seed)?);
    }
    if let Some(FromFirst { tun, capture }) = first {
        worker.tun = tun;
        worker.captures.set(capture.into_iter().collect());
    } else {
        opened.tuns = Tun::open(config, common.workers)?;
        worker.tun = (!opened.tuns.is_empty()).then(|| opened.tuns.remove(0));
    }
    // A packet may meet two workers.
    let limit = match common.workers {
        1 => config.system.gather_time,
        _ => config.system.gather_time.min(Duration::from_millis(1)),
    };
    worker.gather = Gather::new(Instant::now(), limit, worker.room());
    // Nothing is made with them from here on; the capture's thread inherits what is left.
    if worker.tun.is_some() {
        give_up_capabilities()?;
    }
    if let Some(path) = &config.system.trace_file
        && worker.captures.is_idle()
    {
        let writer = CaptureWriter::create(path, configured_capture(&config.system))?;
        worker.captures.set(vec![Tap::configured(&writer)]);
        opened.writer = Some(writer);
    }
    Ok((worker, opened))
}

impl Worker {
    /// Opens the port with this number of the interface with this index; writes the address into `interface` if the
    /// system chose it.
    fn open_port(
        &mut self,
        common: &Common,
        sharing: PortSharing,
        (index, number): (usize, usize),
        interface: &mut InterfaceConfig,
        bound: &mut Vec<Bound>,
    ) -> Result<(), StartError> {
        let Some(port) = interface.ports.get(number).cloned() else {
            return Ok(());
        };
        let mtls = interface.authentication == Authentication::Mtls;
        let security = port.tls_profile.clone().map(|name| (name, mtls));
        let security = security.and_then(|key| common.securities.get(&key));
        let (stream, datagram) = open_sockets(interface, &port, common, sharing, security)?;
        let local = stream.as_ref().map(StreamListener::local_addr);
        let local = local.or_else(|| datagram.as_ref().map(DatagramSocket::local_addr));
        if let Some((port, local)) = interface.ports.get_mut(number).zip(local) {
            port.listen = local;
        }
        let transports = port.transports;
        if let Some(socket) = stream {
            let spoken = [
                (Transport::Tcp, transports.tcp),
                (Transport::Tls, transports.tls),
            ];
            push_bound(bound, interface, socket.local_addr(), spoken);
            self.add_endpoints(index, socket.local_addr(), spoken);
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
            self.add_endpoints(index, socket.local_addr(), spoken);
            let mut plain = None;
            if transports.udp {
                plain = self.core.add_listener(index, socket.local_addr());
                self.plain_ports.push(self.ports.len());
            }
            let endpoint = match (security, port.dtls_backend) {
                (Some(security), Some(backend)) if transports.dtls => {
                    Some(dtls_endpoint(interface, common, security, backend)?)
                }
                _ => None,
            };
            let mut opened = Port::new(socket, index, plain, endpoint);
            opened.marking = interface.outer_dscp;
            self.ports.push(opened);
        }
        Ok(())
    }

    /// Tells the session core where companions find the interface.
    fn add_endpoints(
        &mut self,
        interface: usize,
        address: SocketAddr,
        spoken: [(Transport, bool); 2],
    ) {
        for (transport, _) in spoken.into_iter().filter(|(_, is_spoken)| *is_spoken) {
            let endpoint = Alternate { transport, address };
            self.core.add_endpoint(interface, endpoint);
        }
    }
}

/// Opens the sockets of a port. With port 0 both get the same number, so that one port serves all transports.
fn open_sockets(
    interface: &InterfaceConfig,
    port: &PortConfig,
    common: &Common,
    sharing: PortSharing,
    security: Option<&ServerSecurity>,
) -> Result<(Option<StreamListener>, Option<DatagramSocket>), StartError> {
    let mut left = PORT_ATTEMPTS;
    loop {
        let mut listen = port.listen;
        let stream = if port.transports.stream() {
            let mut options = listener_config(interface, port.transports, common, security);
            options.sharing = sharing;
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
        options.sharing = sharing;
        options.dscp = interface.outer_dscp.of_socket();
        options.tap = common.outside(interface);
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
    common: &Common,
    security: Option<&ServerSecurity>,
) -> ListenerConfig {
    let mut config = ListenerConfig::default();
    config.plain = transports.tcp;
    config.tls = security.filter(|_| transports.tls).cloned();
    config.handshake_timeout = interface.limits.configuration_time;
    config.max_handshakes = half_open(interface, common.workers);
    config.stream = StreamOptions::server();
    config.stream.tap = common.outside(interface);
    config.stream.nodelay = !interface.services.nagle;
    config.stream.dscp = interface.outer_dscp.of_socket();
    config.stream.media_time = interface.limits.media_queue_time;
    let queue = usize::try_from(interface.limits.stream_queue).unwrap_or(usize::MAX);
    config.stream.send_limit = queue.saturating_mul(1024);
    config.stream.user_timeout = Some(interface.limits.stream_timeout);
    config
}

fn dtls_endpoint(
    interface: &InterfaceConfig,
    common: &Common,
    security: &ServerSecurity,
    backend: DtlsBackend,
) -> Result<DtlsServerEndpoint, StartError> {
    let options = DtlsOptions {
        handshake_timeout: interface.limits.configuration_time,
        tap: common.outside(interface),
        ..DtlsOptions::default()
    };
    let config = DtlsServerConfig::new(backend_kind(backend), security, &options)?;
    let limits = DtlsEndpointLimits {
        half_open: half_open(interface, common.workers),
        ..DtlsEndpointLimits::default()
    };
    let cookies = &common.dtls_cookies;
    Ok(DtlsServerEndpoint::new(&config, limits, cookies))
}

/// The part of one worker, rounded up.
fn half_open(interface: &InterfaceConfig, workers: u8) -> usize {
    let part = interface.limits.half_open.div_ceil(workers.max(1).into());
    usize::try_from(part).unwrap_or(usize::MAX)
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
        DtlsBackend::Dimpl => DtlsBackendKind::Dimpl,
        DtlsBackend::Webrtc => DtlsBackendKind::WebRtc,
    }
}
