//! One client's trouble is not another's: names without an answer, hosts that want everything, ends that are none.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    unreachable_pub
)]

mod support;

use std::{
    future::pending,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use fast_socks5::client::{Config, Socks5Datagram, Socks5Stream};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    sync::Semaphore,
};
use tsc_connect::{
    accept::Shared,
    forward,
    net::{HostNet, Net},
    udp,
};

use support::{echo, listener, running, socks_proxy, socks_proxy_into, soon, udp_echo};

/// This host's network with names of its own, and sockets that take their time.
#[derive(Clone, Debug)]
struct Odd {
    /// Look-ups of `slow` and `missing`.
    asked: Arc<AtomicUsize>,
    /// One permit for each answer about `slow`.
    answers: Arc<Semaphore>,
    /// One for each UDP socket.
    sockets: Arc<Semaphore>,
}

impl Odd {
    fn new() -> Self {
        Self {
            asked: Arc::default(),
            answers: Arc::new(Semaphore::new(0)),
            sockets: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
        }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Net for Odd {
    type Stream = TcpStream;
    type Listener = TcpListener;
    type Datagrams = UdpSocket;

    async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        HostNet.connect(to).await
    }

    async fn listen(&self, on: SocketAddr) -> io::Result<TcpListener> {
        HostNet.listen(on).await
    }

    async fn bind(&self, on: SocketAddr) -> io::Result<UdpSocket> {
        self.sockets.acquire().await.unwrap().forget();
        HostNet.bind(on).await
    }

    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        match name {
            "black.hole" => pending().await,
            "missing" => {
                self.asked.fetch_add(1, Ordering::Relaxed);
                Err(ErrorKind::NotFound.into())
            }
            "slow" => {
                self.asked.fetch_add(1, Ordering::Relaxed);
                self.answers.acquire().await.unwrap().forget();
                Ok(vec![Ipv4Addr::LOCALHOST.into()])
            }
            name => panic!("{name}"),
        }
    }
}

async fn association(net: &Odd, shared: &Shared) -> (Socks5Datagram<TcpStream>, support::Running) {
    let (proxy, running) = socks_proxy_into(net.clone(), shared).await;
    let control = TcpStream::connect(proxy).await.unwrap();
    let association = soon(Socks5Datagram::bind(control, "127.0.0.1:0")).await;
    (association.unwrap(), running)
}

async fn next(association: &Socks5Datagram<TcpStream>) -> Vec<u8> {
    let mut buffer = [0; 2000];
    let (len, _) = soon(association.recv_from(&mut buffer)).await.unwrap();
    buffer[..len].to_vec()
}

#[tokio::test]
async fn a_name_without_an_answer_holds_no_other_datagram_up() {
    let net = Odd::new();
    let (association, _proxy) = association(&net, &Shared::new(4)).await;
    let (target, _target) = udp_echo().await;
    for _ in 0..3 {
        let lost = association.send_to(b"lost", ("black.hole", 7)).await;
        lost.unwrap();
    }
    let slow = ("slow", target.port());
    association.send_to(b"one", slow).await.unwrap();
    association.send_to(b"two", slow).await.unwrap();
    association.send_to(b"direct", target).await.unwrap();
    assert_eq!(next(&association).await, b"direct");
    // What waited is sent with the answer, in order; and the answer is remembered.
    net.answers.add_permits(1);
    assert_eq!(next(&association).await, b"one");
    assert_eq!(next(&association).await, b"two");
    association.send_to(b"three", slow).await.unwrap();
    assert_eq!(next(&association).await, b"three");
    assert_eq!(net.asked(), 1);
}

#[tokio::test]
async fn that_a_name_has_no_address_is_remembered_too() {
    let net = Odd::new();
    let (association, _proxy) = association(&net, &Shared::new(4)).await;
    let (target, _target) = udp_echo().await;
    for _ in 0..5 {
        let lost = association.send_to(b"lost", ("missing", 7)).await;
        lost.unwrap();
        association.send_to(b"direct", target).await.unwrap();
        assert_eq!(next(&association).await, b"direct");
    }
    assert_eq!(net.asked(), 1);
}

/// A forward of datagrams to `target`.
async fn udp_forward(
    net: &Odd,
    target: &str,
    per_host: usize,
    shared: &Shared,
) -> (SocketAddr, support::Running) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let (net, target) = (net.clone(), target.parse().unwrap());
    let counters = Arc::clone(&shared.counters);
    let task = tokio::spawn(async move {
        let forward = udp::forward(socket, net, target, per_host, counters);
        forward.await.unwrap();
    });
    (address, running(task))
}

/// A peer of it.
async fn peer(host: &str, forward: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((host, 0)).await.unwrap();
    socket.connect(forward).await.unwrap();
    socket
}

async fn answer(peer: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 2000];
    let len = soon(peer.recv(&mut buffer)).await.unwrap();
    buffer[..len].to_vec()
}

#[tokio::test]
async fn peers_of_a_forward_wait_for_its_name_together() {
    let (net, shared) = (Odd::new(), Shared::new(4));
    let (target, _target) = udp_echo().await;
    let name = format!("slow:{}", target.port());
    let (forward, _forward) = udp_forward(&net, &name, udp::PEERS, &shared).await;
    let (a, b) = (
        peer("127.0.0.1", forward).await,
        peer("127.0.0.1", forward).await,
    );
    a.send(b"a1").await.unwrap();
    a.send(b"a2").await.unwrap();
    b.send(b"b1").await.unwrap();
    // Both are known before there is an answer.
    soon(async {
        while shared.counters.summary().accepted < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    net.answers.add_permits(1);
    assert_eq!(answer(&a).await, b"a1");
    assert_eq!(answer(&a).await, b"a2");
    assert_eq!(answer(&b).await, b"b1");
    assert_eq!(net.asked(), 1);
}

#[tokio::test]
async fn a_forward_asks_once_for_a_name_that_does_not_exist() {
    let (net, shared) = (Odd::new(), Shared::new(4));
    let (forward, _forward) = udp_forward(&net, "missing:7", udp::PEERS, &shared).await;
    for number in 1..=4 {
        let peer = peer("127.0.0.1", forward).await;
        peer.send(b"lost").await.unwrap();
        soon(async {
            while shared.counters.summary().failed < number {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    assert_eq!(net.asked(), 1);
}

#[tokio::test]
async fn a_peer_whose_socket_cannot_be_opened_yet_holds_no_other_up() {
    let (net, shared) = (Odd::new(), Shared::new(4));
    let (target, _target) = udp_echo().await;
    let name = target.to_string();
    let (forward, _forward) = udp_forward(&net, &name, udp::PEERS, &shared).await;
    let first = peer("127.0.0.1", forward).await;
    first.send(b"1").await.unwrap();
    assert_eq!(answer(&first).await, b"1");
    // As while there is no tunnel.
    let all = Semaphore::MAX_PERMITS - 1;
    assert_eq!(net.sockets.forget_permits(all), all);
    let second = peer("127.0.0.1", forward).await;
    second.send(b"2").await.unwrap();
    soon(async {
        while shared.counters.summary().accepted < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    first.send(b"1 again").await.unwrap();
    assert_eq!(answer(&first).await, b"1 again");
    net.sockets.add_permits(1);
    assert_eq!(answer(&second).await, b"2");
}

#[tokio::test]
async fn bytes_are_counted_before_their_connection_ends() {
    let shared = Shared::new(16);
    let (proxy, _proxy) = socks_proxy(&shared).await;
    let (target, _target) = echo().await;
    let host = target.ip().to_string();
    let connect = Socks5Stream::connect(proxy, host, target.port(), Config::default());
    let mut stream = soon(connect).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut answer = [0; 6];
    soon(stream.read_exact(&mut answer)).await.unwrap();
    let summary = shared.counters.summary();
    assert_eq!((summary.bytes_out, summary.bytes_in), (5, 6));
}

/// A connection from an address of this host.
async fn connection(from: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket
        .bind(SocketAddr::new(from.parse().unwrap(), 0))
        .unwrap();
    soon(socket.connect(to)).await.unwrap()
}

#[tokio::test]
async fn one_host_cannot_take_all_connections_that_there_are_for_strangers() {
    let shared = Shared::new(1);
    let strangers = shared.other_side(8, 2);
    let (target, _target) = echo().await;
    let (listener, address) = listener().await;
    let _forward = running(tokio::spawn(forward::forward(
        listener,
        HostNet,
        target.into(),
        strangers,
    )));
    let mut first = connection("127.0.0.1", address).await;
    let mut second = connection("127.0.0.1", address).await;
    for stream in [&mut first, &mut second] {
        assert_eq!(soon(stream.read_u8()).await.unwrap(), b'>');
    }
    for _ in 0..10 {
        let mut third = connection("127.0.0.1", address).await;
        let refused = soon(third.read_u8()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionReset);
    }
    let mut other = connection("127.0.0.2", address).await;
    assert_eq!(soon(other.read_u8()).await.unwrap(), b'>');
    let summary = shared.counters.summary();
    assert_eq!((summary.accepted, summary.refused), (3, 10), "{summary}");
    // The end of one makes room for the next.
    first.shutdown().await.unwrap();
    assert_eq!(soon(first.read(&mut [0])).await.unwrap(), 0);
    soon(async {
        loop {
            let mut next = connection("127.0.0.1", address).await;
            if next.read_u8().await.is_ok() {
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn one_host_cannot_push_the_peers_of_others_out_of_a_forward() {
    let (net, shared) = (Odd::new(), Shared::new(4));
    let (target, _target) = udp_echo().await;
    let (forward, _forward) = udp_forward(&net, &target.to_string(), 2, &shared).await;
    let other = peer("127.0.0.2", forward).await;
    let mut peers = vec![];
    other.send(b"x").await.unwrap();
    assert_eq!(answer(&other).await, b"x");
    for _ in 0..udp::PEERS {
        let peer = peer("127.0.0.1", forward).await;
        peer.send(b"x").await.unwrap();
        assert_eq!(answer(&peer).await, b"x");
        peers.push(peer);
    }
    for (peer, known) in [
        (&other, true),
        (peers.last().unwrap(), true),
        (&peers[0], false),
    ] {
        let before = shared.counters.summary().accepted;
        peer.send(b"y").await.unwrap();
        assert_eq!(answer(peer).await, b"y");
        assert_eq!(shared.counters.summary().accepted == before, known);
    }
}

/// A connection through a forward, both of its ends.
async fn through() -> (TcpStream, TcpStream, support::Running) {
    let (target, target_address) = listener().await;
    let (listener, address) = listener().await;
    let forward = forward::forward(listener, HostNet, target_address.into(), Shared::new(4));
    let forward = running(tokio::spawn(forward));
    let mut near = TcpStream::connect(address).await.unwrap();
    let mut far = soon(target.accept()).await.unwrap().0;
    near.write_all(b"there").await.unwrap();
    far.write_all(b"back!").await.unwrap();
    let mut bytes = [0; 5];
    soon(far.read_exact(&mut bytes)).await.unwrap();
    soon(near.read_exact(&mut bytes)).await.unwrap();
    (near, far, forward)
}

#[tokio::test]
async fn a_connection_that_breaks_off_does_not_look_whole() {
    let is_reset =
        |end: io::Result<u8>| assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    // The target resets it, or the client does.
    let (mut near, far, _forward) = through().await;
    far.set_zero_linger().unwrap();
    drop(far);
    is_reset(soon(near.read_u8()).await);
    let (near, mut far, _forward) = through().await;
    near.set_zero_linger().unwrap();
    drop(near);
    is_reset(soon(far.read_u8()).await);
    // The program ends in the middle of it.
    let (mut near, mut far, forward) = through().await;
    drop(forward);
    is_reset(soon(near.read_u8()).await);
    is_reset(soon(far.read_u8()).await);
    // A target that refuses has not answered with nothing.
    let refusing = support::nobody().await;
    let (listener, address) = listener().await;
    let forward = forward::forward(listener, HostNet, refusing.into(), Shared::new(4));
    let _forward = running(tokio::spawn(forward));
    let mut near = TcpStream::connect(address).await.unwrap();
    is_reset(soon(near.read_u8()).await);
}
