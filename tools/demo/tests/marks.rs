//! Marks of outer packets between the real client and the real server: what somebody on the way sees of them.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::wildcard_enum_match_arm
)]

use std::{
    collections::BTreeSet,
    io::IoSliceMut,
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    sync::{Arc, Mutex},
    time::Duration,
};

use nix::{
    cmsg_space,
    sys::socket::{
        ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt::IpRecvTos,
    },
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tsc_demo::lab::{Lab, LabOptions};
use tsc_tapi::{
    Dscp, DtlsBackendKind, Notification, OuterDscp, Server, Service, Transport, Tunnel,
    TunnelTransport, UdpSocket as InnerSocket,
};

const LIMIT: Duration = Duration::from_secs(20);

/// Payloads are longer than any control message of an open tunnel.
const LONG: usize = 400;

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(LIMIT, what).await.expect("in time")
}

/// What passed in one direction: the marks of long datagrams.
type Shared = Arc<Mutex<BTreeSet<u8>>>;

/// Somebody on the way between a client and the server.
struct Middle {
    address: SocketAddr,
    up: Shared,
    down: Shared,
}

/// A datagram, its sender and its whole octet of DSCP and ECN; `None` after a while of silence.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> Option<(usize, Option<SocketAddr>, u8)> {
    let mut slices = [IoSliceMut::new(buffer)];
    let mut space = cmsg_space!(i32);
    let message = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut slices,
        Some(&mut space),
        MsgFlags::empty(),
    )
    .ok()?;
    let class = message.cmsgs().unwrap().find_map(|part| match part {
        ControlMessageOwned::Ipv4Tos(tos) => Some(tos),
        _ => None,
    });
    let from = message.address.and_then(|address| {
        let address = address.as_sockaddr_in()?;
        Some(SocketAddr::from((address.ip(), address.port())))
    });
    Some((message.bytes, from, class.unwrap()))
}

impl Middle {
    /// It ends after a while of silence.
    fn start(server: SocketAddr) -> Self {
        Self::at(UdpSocket::bind("127.0.0.1:0").unwrap(), server)
    }

    /// With connections to the same port, where the server has both.
    async fn start_both(server: SocketAddr) -> Self {
        // Numbers that are taken for UDP are kept until the end, so that they are not offered again.
        let mut taken = Vec::new();
        let (listener, near) = loop {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            match UdpSocket::bind(listener.local_addr().unwrap()) {
                Ok(near) => break (listener, near),
                Err(error) => assert!(taken.len() < 64, "{error}"),
            }
            taken.push(listener);
        };
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(server).await?;
                    copy_bidirectional(&mut client, &mut server).await
                });
            }
        });
        Self::at(near, server)
    }

    fn at(near: UdpSocket, server: SocketAddr) -> Self {
        let far = UdpSocket::bind("127.0.0.1:0").unwrap();
        for socket in [&near, &far] {
            socket.set_read_timeout(Some(LIMIT)).unwrap();
            setsockopt(socket, IpRecvTos, &true).unwrap();
        }
        let middle = Self {
            address: near.local_addr().unwrap(),
            up: Shared::default(),
            down: Shared::default(),
        };
        let client: Arc<Mutex<Option<SocketAddr>>> = Arc::default();
        let note = |seen: &Shared, len: usize, class: u8| {
            if len > LONG {
                seen.lock().unwrap().insert(class);
            }
        };
        let (to_near, to_far) = (near.try_clone().unwrap(), far.try_clone().unwrap());
        let (up, learned) = (Arc::clone(&middle.up), Arc::clone(&client));
        std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while let Some((len, from, class)) = receive(&near, &mut buffer) {
                *learned.lock().unwrap() = from;
                note(&up, len, class);
                to_far.send_to(&buffer[..len], server).unwrap();
            }
        });
        let down = Arc::clone(&middle.down);
        std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while let Some((len, _, class)) = receive(&far, &mut buffer) {
                note(&down, len, class);
                let client = client.lock().unwrap().unwrap();
                to_near.send_to(&buffer[..len], client).unwrap();
            }
        });
        middle
    }

    async fn tunnel(&self, lab: &Lab, transport: Transport, marking: OuterDscp) -> Tunnel {
        let server = Server::new(transport, "127.0.0.1", self.address.port());
        let builder = Tunnel::builder(server)
            .trust(lab.trust())
            .server_name("localhost")
            .dtls_backend(DtlsBackendKind::OpenSsl)
            .outer_dscp(marking);
        soon(builder.connect()).await.unwrap()
    }
}

fn bind(tunnel: &Tunnel) -> InnerSocket {
    let address = tunnel.config().ipv4().unwrap();
    tunnel.bind_udp((address, 4000).into()).unwrap()
}

/// Sends packets of several marks, all of which arrive.
async fn talk(from: &InnerSocket, to: &InnerSocket) {
    let mut buffer = vec![0; 2000];
    for dscp in [46, 0, 46, 10] {
        from.set_dscp(dscp).unwrap();
        from.send_to(&[7; LONG], to.local_addr().unwrap())
            .await
            .unwrap();
        let (len, _) = soon(to.recv_from(&mut buffer)).await.unwrap();
        assert_eq!(len, LONG);
    }
}

/// Marks that the long datagrams of two tunnels have: up and down.
async fn marks(
    interface: &str,
    marking: OuterDscp,
    transport: Transport,
) -> (BTreeSet<u8>, BTreeSet<u8>) {
    let lab = Lab::start(&LabOptions {
        interface: format!("authentication = \"none\"\n{interface}"),
        ..LabOptions::default()
    })
    .unwrap();
    let server = lab.server.address(transport).unwrap();
    let (near, far) = (Middle::start(server), Middle::start(server));
    let a = near.tunnel(&lab, transport, marking).await;
    let b = far.tunnel(&lab, transport, OuterDscp::Off).await;
    let (from, to) = (bind(&a), bind(&b));
    talk(&from, &to).await;
    let seen = |shared: &Shared| shared.lock().unwrap().clone();
    (seen(&near.up), seen(&far.down))
}

const COPIED: [u8; 3] = [0, 10 << 2, 46 << 2];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_marked_by_default() {
    for transport in [Transport::Udp, Transport::Dtls] {
        let (up, down) = marks("", OuterDscp::Off, transport).await;
        assert_eq!((up, down), ([0].into(), [0].into()), "{transport}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ends_copy_when_told_to() {
    for transport in [Transport::Udp, Transport::Dtls] {
        let (up, down) = marks("outer-dscp = \"copy\"", OuterDscp::Copy, transport).await;
        assert_eq!((up, down), (COPIED.into(), COPIED.into()), "{transport}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_mark_for_all_and_the_application_has_the_last_word() {
    let set = |mark| OuterDscp::Set(Dscp::new(mark).unwrap());
    let server = "outer-dscp = 26\ndscp = 20";
    let (up, down) = marks(server, OuterDscp::Off, Transport::Dtls).await;
    assert_eq!((up, down), ([20 << 2].into(), [26 << 2].into()));
    let (up, _) = marks(server, set(34), Transport::Dtls).await;
    assert_eq!(up, [34 << 2].into());
    let (up, _) = marks(server, OuterDscp::Copy, Transport::Udp).await;
    assert_eq!(up, COPIED.into());
}

/// Marks that go up in the datagrams beside a stream.
async fn marks_beside(interface: &str, marking: OuterDscp, stream: Transport) -> BTreeSet<u8> {
    let lab = Lab::start(&LabOptions {
        interface: format!("authentication = \"none\"\n{interface}"),
        clear: !stream.is_protected(),
        ..LabOptions::default()
    })
    .unwrap();
    let server = lab.server.address(stream).unwrap();
    let near = Middle::start_both(server).await;
    let tunnel = near.tunnel(&lab, stream, marking).await;
    let mut notifications = tunnel.notifications();
    let other = lab.tunnel(stream, DtlsBackendKind::OpenSsl).unwrap();
    let other = soon(other.connect()).await.unwrap();
    let (from, to) = (bind(&tunnel), bind(&other));
    from.set_tunnel_transport(TunnelTransport::Datagram)
        .unwrap();
    while !matches!(
        soon(notifications.recv()).await.unwrap(),
        Notification::Service {
            service: Service::Ddt,
            enabled: true,
            ..
        }
    ) {}
    talk(&from, &to).await;
    near.up.lock().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_beside_a_stream_is_marked_as_any_datagram() {
    for stream in [Transport::Tcp, Transport::Tls] {
        let asked = marks_beside("dscp = 20", OuterDscp::Off, stream).await;
        assert_eq!(asked, [20 << 2].into(), "{stream}");
        let copied = marks_beside("", OuterDscp::Copy, stream).await;
        assert_eq!(copied, COPIED.into(), "{stream}");
    }
}
