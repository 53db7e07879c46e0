//! A server with several workers is one server: whichever worker a tunnel is at, it reaches every other, and is resumed
//! wherever its new transport arrives.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    clippy::cast_possible_truncation
)]

use std::{net::SocketAddr, pin::pin, time::Duration};

use tokio::{
    io::copy_bidirectional,
    net::{self, TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::timeout,
};
use tsc_demo::lab::{Lab, LabOptions, Side};
use tsc_tapi::{
    DtlsBackendKind, Notification, Notifications, Server, Transport, Tunnel, TunnelBuilder,
    UdpSocket,
};

/// Nothing here takes longer unless it hangs.
const LIMIT: Duration = Duration::from_secs(60);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(LIMIT, what).await.expect("in time")
}

fn lab(workers: usize) -> Lab {
    Lab::start(&LabOptions {
        system: format!("workers = {workers}"),
        ..LabOptions::default()
    })
    .unwrap()
}

/// Every transport, DTLS by each back end.
fn legs() -> Vec<(Transport, DtlsBackendKind)> {
    let openssl = DtlsBackendKind::OpenSsl;
    let mut legs: Vec<_> = Transport::ALL.map(|transport| (transport, openssl)).into();
    legs.push((Transport::Dtls, DtlsBackendKind::Dimpl));
    legs.push((Transport::Dtls, DtlsBackendKind::WebRtc));
    legs
}

/// A tunnel with a socket inside.
struct End {
    tunnel: Tunnel,
    socket: UdpSocket,
}

impl End {
    async fn open(builder: TunnelBuilder) -> Self {
        let tunnel = soon(builder.connect()).await.unwrap();
        let address = tunnel.config().ipv4().unwrap();
        let socket = tunnel.bind_udp((address, 4000).into()).unwrap();
        Self { tunnel, socket }
    }

    /// Datagrams may be lost while a tunnel moves, so one is sent again until it is heard.
    async fn reaches(&self, other: &Self, payload: &[u8]) {
        let mut buffer = vec![0; 4000];
        let to = other.socket.local_addr().unwrap();
        let exchange = async {
            loop {
                self.socket.send_to(payload, to).await.unwrap();
                let wait = Duration::from_millis(500);
                let heard = timeout(wait, other.socket.recv_from(&mut buffer)).await;
                let Ok(heard) = heard else { continue };
                let (len, sender) = heard.unwrap();
                // One that was sent twice may be heard later.
                if buffer[..len] == *payload {
                    assert_eq!(sender, self.socket.local_addr().unwrap());
                    return;
                }
            }
        };
        soon(exchange).await;
    }
}

async fn resumed(notifications: &mut Notifications) {
    loop {
        match soon(notifications.recv()).await.expect("not the end") {
            Notification::Resumed(_) => return,
            Notification::Down(reason) => panic!("{reason:?}"),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tunnels_of_all_workers_reach_each_other() {
    let lab = lab(3);
    let mut ends = Vec::new();
    for (transport, backend) in legs() {
        for _ in 0..4 {
            ends.push(End::open(lab.tunnel(transport, backend).unwrap()).await);
        }
    }
    for (index, end) in ends.iter().enumerate() {
        // One of the same transport, and one of another.
        for step in [1, 7] {
            let other = &ends[(index + step) % ends.len()];
            end.reaches(other, format!("{index} and {step}").as_bytes())
                .await;
        }
    }
    let report = soon(lab.server.report()).await.unwrap();
    assert_eq!(report.sessions.sessions, ends.len());
    assert_eq!(report.pools[0].leased, ends.len() as u64);
    assert!(report.counters.crossed > 0, "{:?}", report.counters);
    assert_eq!(report.counters.worker_behind, 0);
    for end in ends {
        soon(end.tunnel.close(LIMIT)).await.unwrap();
    }
    let report = lab.server.stop().unwrap();
    assert_eq!(report.sessions.sessions, 0);
}

/// A relay between one client and a server that can change the address that the server sees, as a NAT does.
struct Relay {
    address: SocketAddr,
    /// A change gives the client another address, and cuts connections.
    rebind: watch::Sender<()>,
    _task: JoinSet<()>,
}

impl Relay {
    async fn start(transport: Transport, target: SocketAddr) -> Self {
        let rebind = watch::Sender::new(());
        let rebinds = rebind.subscribe();
        let mut task = JoinSet::new();
        let address = if transport.is_stream() {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            task.spawn(relay_streams(listener, target, rebinds));
            address
        } else {
            let socket = net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let address = socket.local_addr().unwrap();
            task.spawn(relay_datagrams(socket, target, rebinds));
            address
        };
        Self {
            address,
            rebind,
            _task: task,
        }
    }
}

async fn relay_streams(
    listener: TcpListener,
    target: SocketAddr,
    mut rebinds: watch::Receiver<()>,
) {
    while let Ok((mut client, _)) = listener.accept().await {
        rebinds.mark_unchanged();
        let mut server = TcpStream::connect(target).await.unwrap();
        tokio::select! {
            _ = copy_bidirectional(&mut client, &mut server) => {}
            _ = rebinds.changed() => {}
        }
    }
}

async fn relay_datagrams(
    near: net::UdpSocket,
    target: SocketAddr,
    mut rebinds: watch::Receiver<()>,
) {
    let mut client = None;
    let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        let far = net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        far.connect(target).await.unwrap();
        loop {
            tokio::select! {
                received = near.recv_from(&mut up) => {
                    let (len, from) = received.unwrap();
                    client = Some(from);
                    let _ = far.send(&up[..len]).await;
                }
                received = far.recv(&mut down) => {
                    if let (Ok(len), Some(client)) = (received, client) {
                        let _ = near.send_to(&down[..len], client).await;
                    }
                }
                changed = rebinds.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    break;
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tunnels_are_resumed_at_whichever_worker_they_come_in() {
    let lab = lab(8);
    for (transport, backend) in legs() {
        let server = lab.server_for(Side::Access, transport, backend).unwrap();
        let target = SocketAddr::new(server.host().parse().unwrap(), server.port().unwrap());
        let relay = Relay::start(transport, target).await;
        let ip = relay.address.ip().to_string();
        let builder = Tunnel::builder(Server::new(transport, ip, relay.address.port()))
            .trust(lab.trust())
            .dtls_backend(backend);
        let mut notifications = builder.notifications();
        let near = End::open(builder).await;
        let far = End::open(lab.tunnel(Transport::Tcp, backend).unwrap()).await;
        near.reaches(&far, b"before").await;
        let before = near.tunnel.config();
        let moved = || async { soon(lab.server.report()).await.unwrap().counters.moved };
        let start = moved().await;
        // One of eight new transports comes in where the tunnel lives; the others have to go there.
        let mut rounds = 0;
        while moved().await == start {
            rounds += 1;
            assert!(rounds < 20, "{transport} {backend}: none of 20 has moved");
            relay.rebind.send_replace(());
            // A Keepalive that overtakes the relay's change finds nothing wrong.
            let mut again = tokio::time::interval(Duration::from_secs(1));
            let mut resumed = pin!(resumed(&mut notifications));
            loop {
                tokio::select! {
                    () = &mut resumed => break,
                    _ = again.tick() => near.tunnel.network_changed(),
                }
            }
            let after = near.tunnel.config();
            assert_eq!(
                (after.tunnel_id, &after.addresses),
                (before.tunnel_id, &before.addresses)
            );
            far.reaches(&near, format!("to {transport} {rounds}").as_bytes())
                .await;
            near.reaches(&far, format!("from {transport} {rounds}").as_bytes())
                .await;
        }
        soon(near.tunnel.close(LIMIT)).await.unwrap();
        soon(far.tunnel.close(LIMIT)).await.unwrap();
        // Nobody's datagrams take a detour any more.
        let forgotten = async {
            while lab.server.report().await.unwrap().away > 0 {
                tokio::task::yield_now().await;
            }
        };
        soon(forgotten).await;
    }
    let report = lab.server.stop().unwrap();
    assert!(report.sessions.resumed >= legs().len() as u64);
    assert_eq!(report.sessions.resume_rejected, 0);
    assert_eq!(report.counters.worker_behind, 0);
}

/// Hands datagrams of one client on, with a delay towards the server.
async fn slow(near: net::UdpSocket, target: SocketAddr) {
    let far = net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    far.connect(target).await.unwrap();
    let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
    let mut client = None;
    loop {
        tokio::select! {
            received = near.recv_from(&mut up) => {
                let (len, from) = received.unwrap();
                client = Some(from);
                tokio::time::sleep(Duration::from_millis(50)).await;
                let _ = far.send(&up[..len]).await;
            }
            received = far.recv(&mut down) => {
                if let (Ok(len), Some(client)) = (received, client) {
                    let _ = near.send_to(&down[..len], client).await;
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_without_tunnels_stay_until_the_last_has_answered() {
    let lab = lab(8);
    let server = lab
        .server_for(Side::Access, Transport::Udp, DtlsBackendKind::OpenSsl)
        .unwrap();
    let target = SocketAddr::new(server.host().parse().unwrap(), server.port().unwrap());
    let mut relays = JoinSet::new();
    let mut ends = Vec::new();
    for _ in 0..4 {
        let socket = net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let ip = socket.local_addr().unwrap().ip().to_string();
        let port = socket.local_addr().unwrap().port();
        relays.spawn(slow(socket, target));
        let builder = Tunnel::builder(Server::new(Transport::Udp, ip, port));
        ends.push(End::open(builder).await);
    }
    let server = lab.server;
    let stopped = tokio::task::spawn_blocking(move || server.stop());
    let report = soon(stopped).await.unwrap().unwrap();
    assert_eq!(report.sessions.configured, 4);
    // An answer that another worker gets is a stranger's.
    assert_eq!(report.sessions.strangers, 0);
}
