//! A server of a few lines, over plain TCP: it assigns addresses and switches packets between its tunnels.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::AbortHandle,
};
use tsc_tapi::{Prefix, Server, Transport, Tunnel};
use tsc_tpl::{
    CmType, Ipv4Netmask, Ipv6PrefixLength, Limits, Message, MessageBuilder, ResponseCode,
    ResumeKey, RoutedPrefix, Seconds, ServiceList, ServiceType, StreamDecoder, Tlv, Tsid, Unit,
    registry,
};

use crate::soon;

/// Packets that wait for one tunnel; more are dropped, as by any server.
const QUEUE: usize = 256;
/// The first tunnel's identifier; others follow.
const FIRST: u64 = 0x0042_0000_0000_0001;

/// A server with its tunnels, numbered from 0 in the order in which they came.
pub struct World {
    listener: SocketAddr,
    hub: Arc<Hub>,
    task: AbortHandle,
}

/// What all connections of a world share.
#[derive(Default)]
struct Hub {
    ports: Mutex<HashMap<usize, mpsc::Sender<Vec<u8>>>>,
    tunnels: AtomicU64,
    dns: Mutex<Vec<IpAddr>>,
    /// One packet of so many is lost; 0 is none.
    loss: AtomicU64,
    packets: AtomicU64,
    /// The server reads nothing.
    stalled: watch::Sender<bool>,
    connections: Mutex<HashMap<usize, AbortHandle>>,
    /// What is routed to whom.
    routes: Mutex<Vec<(Prefix, usize)>>,
    /// What the server may grant.
    grants: Mutex<Vec<Prefix>>,
    /// Resumes bring no services back.
    forgetful: Mutex<bool>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn v4(index: usize) -> IpAddr {
    Ipv4Addr::new(10, 9, 0, 1 + u8::try_from(index).unwrap()).into()
}

pub fn v6(index: usize) -> IpAddr {
    Ipv6Addr::new(0xFD00, 0, 0, 0, 0, 0, 0, 1 + u16::try_from(index).unwrap()).into()
}

impl World {
    pub async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let hub = Arc::new(Hub::default());
        let shared = Arc::clone(&hub);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                tokio::spawn(serve(Arc::clone(&shared), stream));
            }
        });
        Self {
            listener: address,
            hub,
            task: task.abort_handle(),
        }
    }

    /// A world with two tunnels.
    pub async fn with_two() -> (Self, Tunnel, Tunnel) {
        let world = Self::new().await;
        let (first, second) = (world.tunnel().await, world.tunnel().await);
        (world, first, second)
    }

    pub fn server(&self) -> Server {
        let address = self.listener;
        Server::new(Transport::Tcp, address.ip().to_string(), address.port())
    }

    pub async fn tunnel(&self) -> Tunnel {
        soon(Tunnel::builder(self.server()).connect())
            .await
            .unwrap()
    }

    /// DNS servers assigned to tunnels that come from now on.
    pub fn set_dns(&self, servers: impl IntoIterator<Item = IpAddr>) {
        *self.hub.dns.lock().unwrap() = servers.into_iter().collect();
    }

    /// Loses every so manieth packet; 0 is none.
    pub fn lose(&self, every: u64) {
        self.hub.loss.store(every, Ordering::Relaxed);
    }

    /// The server reads nothing while this holds.
    pub fn stall(&self, stalled: bool) {
        self.hub.stalled.send_replace(stalled);
    }

    /// Breaks a tunnel's connection.
    pub fn cut(&self, index: usize) {
        if let Some(connection) = self.hub.connections.lock().unwrap().remove(&index) {
            connection.abort();
        }
    }

    /// Prefixes that may be granted to anybody.
    pub fn allow(&self, prefixes: &[Prefix]) {
        *self.hub.grants.lock().unwrap() = prefixes.to_vec();
    }

    pub fn routes(&self) -> Vec<(Prefix, usize)> {
        self.hub.routes.lock().unwrap().clone()
    }

    /// Services do not survive resumes from now on.
    pub fn forget_services(&self) {
        *self.hub.forgetful.lock().unwrap() = true;
    }
}

/// One connection, from its first message to its end.
async fn serve(hub: Arc<Hub>, mut stream: TcpStream) {
    let mut decoder = StreamDecoder::new(Limits::WIDEST);
    let mut buffer = vec![0; 64 * 1024];
    let mut answers = Vec::new();
    let mut index = None;
    while index.is_none() {
        let Ok(len @ 1..) = stream.read(&mut buffer).await else {
            return;
        };
        let mut feed = decoder.feed(&buffer[..len]);
        while let Some(unit) = feed.next().unwrap() {
            let Unit::Control(message) = unit else {
                continue;
            };
            let request = message.parse().unwrap();
            let tunnel = match request.header().cm_type {
                CmType::CONFIGURATION_REQUEST => hub.tunnels.fetch_add(1, Ordering::Relaxed),
                CmType::CONFIGURATION_RESUME_REQUEST => request.header().tsid.0 - FIRST,
                other => panic!("{other:?}"),
            };
            let tunnel = usize::try_from(tunnel).unwrap();
            grant(&hub, &request, tunnel, &mut answers);
            index = Some(tunnel);
        }
    }
    let index = index.unwrap();
    if stream.write_all(&answers).await.is_err() {
        return;
    }
    let (port, packets) = mpsc::channel(QUEUE);
    hub.ports.lock().unwrap().insert(index, port);
    let switch = tokio::spawn(switch(Arc::clone(&hub), index, stream, decoder, packets));
    let mut connections = hub.connections.lock().unwrap();
    connections.insert(index, switch.abort_handle());
}

async fn switch(
    hub: Arc<Hub>,
    index: usize,
    stream: TcpStream,
    mut decoder: StreamDecoder,
    mut packets: mpsc::Receiver<Vec<u8>>,
) {
    let mut stalled = hub.stalled.subscribe();
    let mut buffer = vec![0; 64 * 1024];
    let (mut reader, mut writer) = stream.into_split();
    let (answer, mut answers) = mpsc::unbounded_channel::<Vec<u8>>();
    let read = async {
        loop {
            stalled.wait_for(|stalled| !stalled).await.unwrap();
            let Ok(len @ 1..) = reader.read(&mut buffer).await else {
                return;
            };
            let mut feed = decoder.feed(&buffer[..len]);
            while let Some(unit) = feed.next().unwrap() {
                match unit {
                    Unit::Ip(packet) => hub.forward(packet.destination(), packet.as_bytes()),
                    Unit::Control(message) => {
                        let mut bytes = Vec::new();
                        hub.answer(index, &message.parse().unwrap(), &mut bytes);
                        answer.send(bytes).unwrap();
                    }
                    other => panic!("{other}"),
                }
            }
        }
    };
    let write = async {
        loop {
            let bytes = tokio::select! {
                bytes = packets.recv() => bytes,
                bytes = answers.recv() => bytes,
            };
            match bytes {
                Some(bytes) if writer.write_all(&bytes).await.is_ok() => {}
                _ => return,
            }
        }
    };
    tokio::select! {
        () = read => {}
        () = write => {}
    }
}

fn grant(hub: &Hub, request: &Message<'_>, index: usize, out: &mut Vec<u8>) {
    let header = request.header();
    let (IpAddr::V4(v4), IpAddr::V6(v6)) = (v4(index), v6(index)) else {
        panic!()
    };
    let tsid = Tsid(FIRST + index as u64);
    let answer = header.cm_type.response().unwrap();
    let mut message = MessageBuilder::new(answer, tsid, header.sequence)
        .tlv(Tlv::ResponseCode(ResponseCode::SUCCESS))
        .tlv(Tlv::ProtocolRevision(registry::PROTOCOL_REVISION))
        .tlv(Tlv::InternalIpv4Address(v4))
        .tlv(Tlv::InternalIpv4Netmask(Ipv4Netmask::new(32).unwrap()))
        .tlv(Tlv::InternalIpv6Address(v6))
        .tlv(Tlv::InternalIpv6PrefixLength(
            Ipv6PrefixLength::new(128).unwrap(),
        ))
        .tlv(Tlv::KeepaliveInterval(Seconds(300)))
        .tlv(Tlv::PersistenceTime(Seconds(300)))
        .tlv(Tlv::InnerMtu(1400));
    for server in hub.dns.lock().unwrap().iter() {
        message = message.tlv(match server {
            IpAddr::V4(server) => Tlv::DnsServerIpv4(*server),
            IpAddr::V6(server) => Tlv::DnsServerIpv6(*server),
        });
    }
    let stg = [ServiceType::ENABLE_STG];
    let active: &[ServiceType] = if hub.resumed(index) { &stg } else { &[] };
    let last = if header.cm_type == CmType::CONFIGURATION_RESUME_REQUEST {
        Tlv::ActiveServices(ServiceList::new(active).unwrap())
    } else {
        Tlv::ResumeKey(ResumeKey::new(&[7; 32]))
    };
    message.tlv(last).encode(out).unwrap();
}

impl Hub {
    /// Whether the tunnel's prefixes are still routed to it.
    fn resumed(&self, index: usize) -> bool {
        let mut routes = self.routes.lock().unwrap();
        if *self.forgetful.lock().unwrap() {
            routes.retain(|(_, owner)| *owner != index);
        }
        routes.iter().any(|(_, owner)| *owner == index)
    }

    fn forward(&self, destination: IpAddr, packet: &[u8]) {
        let number = self.packets.fetch_add(1, Ordering::Relaxed) + 1;
        let loss = self.loss.load(Ordering::Relaxed);
        if loss > 0 && number.is_multiple_of(loss) {
            return;
        }
        let routed = || {
            let routes = self.routes.lock().unwrap();
            let found = routes
                .iter()
                .find(|(prefix, _)| prefix.contains(destination));
            found.map(|(_, index)| *index)
        };
        let ports = self.ports.lock().unwrap();
        let assigned =
            (0..ports.len()).find(|index| [v4(*index), v6(*index)].contains(&destination));
        if let Some(port) = assigned.or_else(routed).and_then(|index| ports.get(&index)) {
            // A full queue drops.
            drop(port.try_send(packet.to_vec()));
        }
    }

    fn answer(&self, index: usize, request: &Message<'_>, out: &mut Vec<u8>) {
        let header = request.header();
        let Some(mut answer) = MessageBuilder::response(&header, ResponseCode::SUCCESS) else {
            return;
        };
        if header.cm_type == CmType::CLIENT_SERVICE_REQUEST {
            let service = request.service_type().unwrap();
            let granted = self.service(index, service, request);
            if granted.is_empty() && service == ServiceType::ENABLE_STG {
                answer = MessageBuilder::response(&header, ResponseCode::NOT_AUTHORIZED).unwrap();
            }
            answer = answer.tlv(Tlv::ServiceType(service));
            for prefix in granted {
                let IpAddr::V4(address) = prefix.address() else {
                    panic!("{prefix:?}")
                };
                let prefix = RoutedPrefix::<Ipv4Addr>::new(address, prefix.prefix_len()).unwrap();
                answer = answer.tlv(Tlv::RoutedPrefixIpv4(prefix));
            }
        }
        answer.encode(out).unwrap();
    }

    fn service(&self, index: usize, service: ServiceType, request: &Message<'_>) -> Vec<Prefix> {
        let wanted: Vec<_> = request
            .routed_prefixes()
            .map(|(address, len)| Prefix::new(address, len).unwrap())
            .collect();
        let mut routes = self.routes.lock().unwrap();
        match service {
            ServiceType::ENABLE_STG => {
                let grants = self.grants.lock().unwrap();
                let granted: Vec<_> = grants
                    .iter()
                    .filter(|grant| wanted.is_empty() || wanted.contains(grant))
                    .copied()
                    .collect();
                routes.extend(granted.iter().map(|prefix| (*prefix, index)));
                granted
            }
            ServiceType::DISABLE_STG => {
                routes.retain(|(prefix, owner)| {
                    *owner != index || !(wanted.is_empty() || wanted.contains(prefix))
                });
                Vec::new()
            }
            other => panic!("{other:?}"),
        }
    }
}
