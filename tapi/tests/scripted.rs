//! The client against a server of a few lines, over plain TCP: what happens to a tunnel, and what it tells.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::wildcard_enum_match_arm
)]

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};
use tsc_tapi::{
    AttemptFailure, CloseError, ConnectError, DownReason, Notification, Notifications, Server,
    SocketError, SuspendReason, Transport, Tunnel, UdpSocket,
    proxy::{Proxy, ProxyScheme},
};
use tsc_tpl::{
    CmType, Header, Ipv4Netmask, Limits, MessageBuilder, ResponseCode, ResumeKey, Seconds,
    Sequence, ServiceList, StreamDecoder, Text, Tlv, Tsid, Unit, registry,
};

/// Nothing here takes longer unless it hangs.
const LIMIT: Duration = Duration::from_secs(20);
const TSID: Tsid = Tsid(0x0042_0000_0000_0001);
const INNER: Ipv4Addr = Ipv4Addr::new(10, 9, 8, 7);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(LIMIT, what).await.expect("in time")
}

/// What a client sent.
#[derive(Debug)]
enum Received {
    Control(Header),
    Packet(Vec<u8>),
    End,
}

/// A connection at the server's end.
struct Peer {
    stream: TcpStream,
    decoder: StreamDecoder,
    waiting: VecDeque<Received>,
}

impl Peer {
    async fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = soon(listener.accept()).await.unwrap();
        Self {
            stream,
            decoder: StreamDecoder::new(Limits::WIDEST),
            waiting: VecDeque::new(),
        }
    }

    async fn next(&mut self) -> Received {
        loop {
            if let Some(received) = self.waiting.pop_front() {
                return received;
            }
            let mut buffer = [0; 4096];
            let len = soon(self.stream.read(&mut buffer)).await.unwrap_or(0);
            if len == 0 {
                return Received::End;
            }
            let mut feed = self.decoder.feed(&buffer[..len]);
            while let Some(unit) = feed.next().unwrap() {
                self.waiting.push_back(match unit {
                    Unit::Control(message) => Received::Control(message.header()),
                    Unit::Ip(packet) => Received::Packet(packet.as_bytes().to_vec()),
                    other => panic!("{other}"),
                });
            }
        }
    }

    /// The next message of this type; keepalives before it are answered.
    async fn expect(&mut self, cm_type: CmType) -> Header {
        loop {
            match self.next().await {
                Received::Control(header) if header.cm_type == cm_type => return header,
                Received::Control(header) if header.cm_type == CmType::KEEPALIVE => {
                    self.answer(&header, ResponseCode::SUCCESS).await;
                }
                other => panic!("{other:?} instead of {cm_type:?}"),
            }
        }
    }

    async fn packet(&mut self) -> Vec<u8> {
        loop {
            match self.next().await {
                Received::Packet(packet) => return packet,
                Received::Control(_) => {}
                Received::End => panic!("no packet"),
            }
        }
    }

    async fn send(&mut self, message: MessageBuilder<'_>) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes).unwrap();
        self.stream.write_all(&bytes).await.unwrap();
    }

    async fn answer(&mut self, request: &Header, code: ResponseCode) {
        self.send(MessageBuilder::response(request, code).unwrap())
            .await;
    }

    /// Grants what was asked for: a tunnel, or its resume.
    async fn grant(&mut self, request: &Header) {
        let answer = request.cm_type.response().unwrap();
        let message = MessageBuilder::new(answer, TSID, request.sequence)
            .tlv(Tlv::ResponseCode(ResponseCode::SUCCESS))
            .tlv(Tlv::ProtocolRevision(registry::PROTOCOL_REVISION))
            .tlv(Tlv::InternalIpv4Address(INNER))
            .tlv(Tlv::InternalIpv4Netmask(Ipv4Netmask::new(32).unwrap()))
            .tlv(Tlv::KeepaliveInterval(Seconds(300)))
            .tlv(Tlv::PersistenceTime(Seconds(300)))
            .tlv(Tlv::InnerMtu(1400));
        let last = if request.cm_type == CmType::CONFIGURATION_RESUME_REQUEST {
            Tlv::ActiveServices(ServiceList::new(&[]).unwrap())
        } else {
            Tlv::ResumeKey(ResumeKey::new(&[7; 32]))
        };
        self.send(message.tlv(last)).await;
    }

    /// Accepts a connection and grants what is asked for on it.
    async fn serve(listener: &TcpListener, request: CmType) -> Self {
        let mut peer = Self::accept(listener).await;
        let request = peer.expect(request).await;
        peer.grant(&request).await;
        peer
    }
}

/// A configured tunnel, with the server's end of it and its notifications from the start.
async fn up(listener: &TcpListener) -> (Tunnel, Peer, Notifications) {
    let builder = Tunnel::builder(server(listener));
    let notifications = builder.notifications();
    let serve = Peer::serve(listener, CmType::CONFIGURATION_REQUEST);
    let (tunnel, peer) = soon(async { tokio::join!(builder.connect(), serve) }).await;
    (tunnel.unwrap(), peer, notifications)
}

async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

fn server(listener: &TcpListener) -> Server {
    let address = listener.local_addr().unwrap();
    Server::new(Transport::Tcp, address.ip().to_string(), address.port())
}

fn bind(tunnel: &Tunnel) -> UdpSocket {
    tunnel.bind_udp(SocketAddr::from((INNER, 4000))).unwrap()
}

fn other() -> SocketAddr {
    SocketAddr::from(([10, 9, 8, 1], 5000))
}

async fn told(notifications: &mut Notifications) -> Option<Notification> {
    soon(notifications.recv()).await
}

fn assert_down(error: &std::io::Error) {
    assert!(
        matches!(SocketError::of(error), Some(SocketError::TunnelDown(_))),
        "{error}"
    );
}

#[tokio::test]
async fn a_life_is_told_in_order_and_sockets_survive_a_cut() {
    let listener = listen().await;
    let (tunnel, peer, mut notifications) = up(&listener).await;
    let socket = bind(&tunnel);
    assert!(matches!(
        told(&mut notifications).await,
        Some(Notification::Connecting(to)) if to == server(&listener)
    ));
    let Some(Notification::Up(config)) = told(&mut notifications).await else {
        panic!("not up")
    };
    assert_eq!(config.ipv4(), Some(INNER.into()));

    drop(peer);
    assert!(matches!(
        told(&mut notifications).await,
        Some(Notification::Suspended(SuspendReason::Lost(_)))
    ));
    // Waits for the next transport, within its queue.
    socket.send_to(b"meanwhile", other()).await.unwrap();
    let mut peer = Peer::accept(&listener).await;
    assert!(matches!(
        told(&mut notifications).await,
        Some(Notification::Connecting(_))
    ));
    let request = peer.expect(CmType::CONFIGURATION_RESUME_REQUEST).await;
    assert_eq!(request.tsid, TSID);
    peer.grant(&request).await;
    let Some(Notification::Resumed(config)) = told(&mut notifications).await else {
        panic!("not resumed")
    };
    assert_eq!(config.ipv4(), Some(INNER.into()));
    let packet = peer.packet().await;
    assert_eq!(packet[12..16], INNER.octets());
    assert_eq!(packet[28..], *b"meanwhile");

    let release = MessageBuilder::new(CmType::CONFIGURATION_RELEASE_REQUEST, TSID, Sequence(1))
        .tlv(Tlv::ReasonText(Text::new("enough").unwrap()));
    peer.send(release).await;
    peer.expect(CmType::CONFIGURATION_RELEASE_RESPONSE).await;
    let reason = DownReason::ReleasedByServer {
        text: Some("enough".to_owned()),
    };
    assert!(matches!(
        told(&mut notifications).await,
        Some(Notification::Down(why)) if why == reason
    ));
    // Nothing follows, for this reader and for one that comes too late.
    assert!(told(&mut notifications).await.is_none());
    assert!(told(&mut tunnel.notifications()).await.is_none());
    assert_eq!(soon(tunnel.closed()).await, reason);
    assert_down(&socket.send_to(b"late", other()).await.unwrap_err());
    assert_down(&soon(socket.recv_from(&mut [0; 9])).await.unwrap_err());
    assert_eq!(
        soon(tunnel.close(LIMIT)).await,
        Err(CloseError::AlreadyDown(reason))
    );
}

/// Before its transport has ended, which takes as long as the server lets it.
#[tokio::test]
async fn a_tunnel_is_over_as_soon_as_its_sockets_say_so() {
    let listener = listen().await;
    let (tunnel, mut peer, _) = up(&listener).await;
    let socket = bind(&tunnel);
    let mut buffer = [0; 9];
    let release = MessageBuilder::new(CmType::CONFIGURATION_RELEASE_REQUEST, TSID, Sequence(1));
    peer.send(release).await;
    assert_down(&soon(socket.recv_from(&mut buffer)).await.unwrap_err());
    assert_eq!(
        tunnel.down_reason(),
        Some(DownReason::ReleasedByServer { text: None })
    );
}

#[tokio::test]
async fn a_server_that_forgot_the_tunnel_ends_it() {
    let listener = listen().await;
    let (tunnel, peer, _) = up(&listener).await;
    let socket = bind(&tunnel);
    drop(peer);
    let mut peer = Peer::accept(&listener).await;
    let request = peer.expect(CmType::CONFIGURATION_RESUME_REQUEST).await;
    peer.answer(&request, ResponseCode::RESUME_REJECTED).await;
    assert!(matches!(
        soon(tunnel.closed()).await,
        DownReason::ResumeRejected { .. }
    ));
    assert_down(&soon(socket.recv_from(&mut [0; 9])).await.unwrap_err());
}

#[tokio::test]
async fn the_next_server_is_tried_when_one_is_away_or_refuses() {
    let (away, refuses, grants) = (listen().await, listen().await, listen().await);
    let servers = [server(&away), server(&refuses), server(&grants)];
    let builder = Tunnel::builder(servers[0].clone())
        .server(servers[1].clone())
        .server(servers[2].clone());
    let mut notifications = builder.notifications();
    drop(away);
    let serve = async {
        let mut peer = Peer::accept(&refuses).await;
        let request = peer.expect(CmType::CONFIGURATION_REQUEST).await;
        peer.answer(&request, ResponseCode::NO_RESOURCES).await;
        Peer::serve(&grants, CmType::CONFIGURATION_REQUEST).await
    };
    let (tunnel, _peer) = soon(async { tokio::join!(builder.connect(), serve) }).await;
    let _tunnel = tunnel.unwrap();
    let (mut tried, mut failed) = (Vec::new(), Vec::new());
    loop {
        match told(&mut notifications).await {
            Some(Notification::Connecting(server)) => tried.push(server),
            Some(Notification::AttemptFailed { server, reason }) => {
                assert!(!reason.is_empty());
                failed.push(server);
            }
            Some(Notification::Up(_)) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(tried, servers);
    assert_eq!(failed, servers[..2]);
}

#[tokio::test]
async fn a_final_refusal_is_told_and_ends_the_notifications() {
    let listener = listen().await;
    let builder = Tunnel::builder(server(&listener));
    let mut notifications = builder.notifications();
    let serve = async {
        let mut peer = Peer::accept(&listener).await;
        let request = peer.expect(CmType::CONFIGURATION_REQUEST).await;
        peer.answer(&request, ResponseCode::NOT_AUTHORIZED).await;
        peer
    };
    let (tunnel, _peer) = soon(async { tokio::join!(builder.connect(), serve) }).await;
    let error = tunnel.expect_err("refused");
    let ConnectError::Refused(refusal) = error else {
        panic!("{error}")
    };
    assert_eq!(refusal.code, ResponseCode::NOT_AUTHORIZED);
    let mut last = None;
    while let Some(notification) = told(&mut notifications).await {
        last = Some(notification);
    }
    assert!(matches!(
        last,
        Some(Notification::Down(DownReason::CannotConnect(_)))
    ));
}

#[tokio::test]
async fn a_mute_server_does_not_hold_up_a_close() {
    let listener = listen().await;
    let (tunnel, _peer, _) = up(&listener).await;
    let begun = Instant::now();
    let result = soon(tunnel.close(Duration::from_millis(100))).await;
    assert_eq!(result, Err(CloseError::NotConfirmed));
    // Not even for the second that an orderly end of the transport may take.
    assert!(begun.elapsed() < Duration::from_millis(900));
}

#[tokio::test]
async fn the_longest_times_are_no_error() {
    let listener = listen().await;
    let builder = Tunnel::builder(server(&listener))
        .attempt_timeout(Duration::MAX)
        .connect_timeout(Duration::MAX)
        .resume_timeout(Duration::MAX);
    let mut notifications = builder.notifications();
    let serve = Peer::serve(&listener, CmType::CONFIGURATION_REQUEST);
    let (tunnel, peer) = soon(async { tokio::join!(builder.connect(), serve) }).await;
    let tunnel = tunnel.unwrap();
    // Lost and resumed, which is where the resume time counts.
    drop(peer);
    let mut peer = Peer::serve(&listener, CmType::CONFIGURATION_RESUME_REQUEST).await;
    while !matches!(
        told(&mut notifications).await.expect("not the end"),
        Notification::Resumed(_)
    ) {}
    let confirm = async {
        let request = peer.expect(CmType::CONFIGURATION_RELEASE_REQUEST).await;
        peer.answer(&request, ResponseCode::SUCCESS).await;
        assert!(matches!(peer.next().await, Received::End));
        drop(peer);
    };
    let (closed, ()) = soon(async { tokio::join!(tunnel.close(Duration::MAX), confirm) }).await;
    assert_eq!(closed, Ok(()));
}

#[tokio::test]
async fn a_dropped_attempt_lets_go_of_its_connection() {
    let listener = listen().await;
    let connect = tokio::spawn(Tunnel::builder(server(&listener)).connect());
    let mut peer = Peer::accept(&listener).await;
    peer.expect(CmType::CONFIGURATION_REQUEST).await;
    connect.abort();
    assert!(matches!(peer.next().await, Received::End));
}

#[tokio::test]
async fn a_dropped_tunnel_is_released_and_its_sockets_say_so() {
    let listener = listen().await;
    let (tunnel, mut peer, _) = up(&listener).await;
    let socket = bind(&tunnel);
    drop(tunnel);
    let request = peer.expect(CmType::CONFIGURATION_RELEASE_REQUEST).await;
    peer.answer(&request, ResponseCode::SUCCESS).await;
    let error = soon(socket.recv_from(&mut [0; 9])).await.unwrap_err();
    assert_eq!(
        SocketError::of(&error),
        Some(&SocketError::TunnelDown(DownReason::Released {
            confirmed: true
        }))
    );
}

#[test]
fn a_runtime_that_ends_ends_its_tunnels() {
    let first = tokio::runtime::Runtime::new().unwrap();
    let (tunnel, _peer, mut notifications) = first.block_on(async {
        let listener = listen().await;
        up(&listener).await
    });
    let socket = bind(&tunnel);
    first.shutdown_timeout(LIMIT);
    let second = tokio::runtime::Runtime::new().unwrap();
    second.block_on(async {
        assert_down(&soon(socket.recv_from(&mut [0; 9])).await.unwrap_err());
        assert_eq!(
            soon(tunnel.closed()).await,
            DownReason::Released { confirmed: false }
        );
        while told(&mut notifications).await.is_some() {}
    });
}

#[tokio::test]
async fn a_tunnel_that_lingers_is_handed_to_the_next_request_like_it() {
    let listener = listen().await;
    let builder = || Tunnel::builder(server(&listener)).linger(Duration::from_secs(60));
    let serve = Peer::serve(&listener, CmType::CONFIGURATION_REQUEST);
    let (tunnel, mut peer) = soon(async { tokio::join!(builder().connect(), serve) }).await;
    let tunnel = tunnel.unwrap();
    drop(tunnel);
    // At once, with nobody at the server.
    let again = builder();
    let mut notifications = again.notifications();
    let tunnel = soon(again.connect()).await.unwrap();
    assert_eq!(tunnel.config().tunnel_id, TSID.0);
    assert!(matches!(
        told(&mut notifications).await,
        Some(Notification::Up(_))
    ));
    let socket = bind(&tunnel);
    socket.send_to(b"still here", other()).await.unwrap();
    assert!(peer.packet().await.ends_with(b"still here"));
    // Another request gets a tunnel of its own, which does not linger.
    let serve = Peer::serve(&listener, CmType::CONFIGURATION_REQUEST);
    let another = Tunnel::builder(server(&listener)).client_info("another");
    let (another, mut its_peer) = soon(async { tokio::join!(another.connect(), serve) }).await;
    drop(another.unwrap());
    its_peer.expect(CmType::CONFIGURATION_RELEASE_REQUEST).await;
    // One whose sockets are open does not linger.
    drop(tunnel);
    let request = peer.expect(CmType::CONFIGURATION_RELEASE_REQUEST).await;
    peer.answer(&request, ResponseCode::SUCCESS).await;
    drop(socket);
}

#[tokio::test]
async fn a_tunnel_lingers_no_longer_than_it_may_and_close_ends_it() {
    let listener = listen().await;
    for time in [Duration::from_millis(50), Duration::from_secs(60)] {
        let builder = Tunnel::builder(server(&listener)).linger(time);
        let serve = Peer::serve(&listener, CmType::CONFIGURATION_REQUEST);
        let (tunnel, mut peer) = soon(async { tokio::join!(builder.connect(), serve) }).await;
        let tunnel = tunnel.unwrap();
        let release = async {
            let request = peer.expect(CmType::CONFIGURATION_RELEASE_REQUEST).await;
            peer.answer(&request, ResponseCode::SUCCESS).await;
        };
        if time < Duration::from_secs(1) {
            drop(tunnel);
            soon(release).await;
        } else {
            let close = tunnel.close(Duration::from_secs(5));
            let (closed, ()) = soon(async { tokio::join!(close, release) }).await;
            closed.unwrap();
        }
    }
}

/// Without a network nothing is tried; afterwards media that has waited for too long is not sent any more, signalling is.
#[tokio::test]
async fn a_host_without_a_network_tries_nothing_until_there_is_one() {
    let listener = listen().await;
    let (tunnel, peer, mut notifications) = up(&listener).await;
    let socket = bind(&tunnel);
    tunnel.set_network_available(false);
    drop(peer);
    while !matches!(
        told(&mut notifications).await,
        Some(Notification::Suspended(_))
    ) {}
    socket.send_to(b"media", other()).await.unwrap();
    let signalling = SocketAddr::new(other().ip(), 5060);
    socket.send_to(b"signalling", signalling).await.unwrap();
    let tried = timeout(Duration::from_millis(1500), listener.accept()).await;
    assert!(tried.is_err(), "without a network");
    tunnel.set_network_available(true);
    let mut peer = Peer::serve(&listener, CmType::CONFIGURATION_RESUME_REQUEST).await;
    let packet = peer.packet().await;
    assert_eq!(packet[28..], *b"signalling");
}

/// What answers in place of the server is told as such, and not asked again and again.
#[tokio::test]
async fn a_captive_portal_is_no_server() {
    let listener = listen().await;
    let address = server(&listener);
    let portal = tokio::spawn(async move {
        let mut visits = 0;
        while let Ok((mut stream, _)) = listener.accept().await {
            visits += 1;
            let _ = stream.read(&mut [0; 1000]).await;
            let answer = b"HTTP/1.1 302 Found\r\nLocation: http://portal.example/\r\n\r\n";
            let _ = stream.write_all(answer).await;
            if visits == 100 {
                break;
            }
        }
    });
    let builder = Tunnel::builder(address).connect_timeout(Duration::from_secs(4));
    let error = soon(builder.connect()).await.unwrap_err();
    assert!(
        matches!(
            error,
            ConnectError::NotConfigured(AttemptFailure::Framing(_))
        ),
        "{error:?}"
    );
    assert!(!portal.is_finished(), "a hundred attempts in four seconds");
    portal.abort();
}

/// A proxy that cuts its connections when it is told to, as others do when nothing was said on them for a moment.
async fn impatient_proxy(to: SocketAddr, cut: watch::Receiver<()>) -> Proxy {
    let listener = listen().await;
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut cut = cut.clone();
            cut.mark_unchanged();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(client.read_u8().await?);
                }
                let mut server = TcpStream::connect(to).await?;
                client.write_all(b"HTTP/1.1 200 Yes\r\n\r\n").await?;
                tokio::select! {
                    _ = copy_bidirectional(&mut client, &mut server) => {}
                    _ = cut.changed() => {}
                }
                Ok::<_, std::io::Error>(())
            });
        }
    });
    Proxy::new(ProxyScheme::Http, address.ip(), address.port())
}

/// Each time the tunnel is resumed by one connection, and its sockets go on.
#[tokio::test]
async fn a_proxy_that_cuts_idle_connections_costs_a_resume_each_time() {
    let listener = listen().await;
    let (cut, cuts) = watch::channel(());
    let proxy = impatient_proxy(listener.local_addr().unwrap(), cuts).await;
    let builder = Tunnel::builder(server(&listener)).proxy(proxy);
    let mut notifications = builder.notifications();
    let serve = Peer::serve(&listener, CmType::CONFIGURATION_REQUEST);
    let (tunnel, mut peer) = soon(async { tokio::join!(builder.connect(), serve) }).await;
    let tunnel = tunnel.unwrap();
    let socket = bind(&tunnel);
    for round in 0..4_u8 {
        cut.send_replace(());
        while !matches!(peer.next().await, Received::End) {}
        peer = Peer::serve(&listener, CmType::CONFIGURATION_RESUME_REQUEST).await;
        while !matches!(
            told(&mut notifications).await,
            Some(Notification::Resumed(_))
        ) {}
        socket.send_to(&[round], other()).await.unwrap();
        assert_eq!(peer.packet().await[28..], [round]);
    }
}
