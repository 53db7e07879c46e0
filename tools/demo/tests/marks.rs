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
use tokio::time::timeout;
use tsc_demo::lab::{Lab, LabOptions};
use tsc_tapi::{Dscp, DtlsBackendKind, OuterDscp, Server, Transport, Tunnel};

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
        let open = || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_read_timeout(Some(LIMIT)).unwrap();
            setsockopt(&socket, IpRecvTos, &true).unwrap();
            socket
        };
        let (near, far) = (open(), open());
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
    let (from, to) = (
        a.bind_udp((a.config().ipv4().unwrap(), 4000).into())
            .unwrap(),
        b.bind_udp((b.config().ipv4().unwrap(), 5000).into())
            .unwrap(),
    );
    let mut buffer = vec![0; 2000];
    for dscp in [46, 0, 46, 10] {
        from.set_dscp(dscp).unwrap();
        from.send_to(&[7; LONG], to.local_addr().unwrap())
            .await
            .unwrap();
        let (len, _) = soon(to.recv_from(&mut buffer)).await.unwrap();
        assert_eq!(len, LONG);
    }
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
