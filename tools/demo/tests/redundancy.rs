//! Redundancy between the real client and the real server, over a network that loses datagrams.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::wildcard_enum_match_arm
)]

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use tokio::time::timeout;
use tsc_demo::{
    lab::{Lab, LabOptions, Side},
    relay::{BadNetwork, Relay},
};
use tsc_tapi::{
    DtlsBackendKind, MAX_COPIES, Notification, Notifications, Redundancy, Server, Service,
    Transport, Tunnel, UdpSocket,
};

const LIMIT: Duration = Duration::from_secs(60);
const PACKETS: u32 = 3_000;

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(LIMIT, what).await.expect("in time")
}

/// What is told of the service next: available, enabled, and of which socket.
async fn told(notifications: &mut Notifications) -> (bool, bool, SocketAddr) {
    loop {
        match soon(notifications.recv()).await {
            Some(Notification::Service {
                service,
                available,
                enabled,
                socket,
                ..
            }) => {
                assert_eq!(service, Service::Redundancy);
                return (available, enabled, socket);
            }
            Some(Notification::Down(reason)) => panic!("{reason:?}"),
            None => panic!("no tunnel"),
            Some(_) => {}
        }
    }
}

/// A tunnel over a bad network, and one without: whoever is called.
struct World {
    lab: Lab,
    relay: Relay,
    near: Tunnel,
    far: Tunnel,
}

async fn world(transport: Transport, network: BadNetwork, options: &LabOptions) -> World {
    let lab = Lab::start(options).unwrap();
    let backend = DtlsBackendKind::OpenSsl;
    let server = lab.server_for(Side::Access, transport, backend).unwrap();
    let address = SocketAddr::new("127.0.0.1".parse().unwrap(), server.port().unwrap());
    let relay = Relay::start(address, network).await.unwrap();
    let server = Server::new(transport, "127.0.0.1", relay.address().port());
    let near = Tunnel::builder(server)
        .trust(lab.trust())
        .server_name("localhost")
        .dtls_backend(backend)
        .connect();
    let near = soon(near).await.unwrap();
    let far = lab.tunnel(Transport::Tcp, backend).unwrap().connect();
    let far = soon(far).await.unwrap();
    World {
        lab,
        relay,
        near,
        far,
    }
}

fn bind(tunnel: &Tunnel) -> UdpSocket {
    let address = tunnel.config().ipv4().unwrap();
    tunnel.bind_udp(SocketAddr::new(address, 0)).unwrap()
}

/// Sends numbered packets evenly, like media but faster.
async fn send(from: &UdpSocket, to: SocketAddr) {
    let mut pace = tokio::time::interval(Duration::from_millis(2));
    for number in 0..PACKETS {
        pace.tick().await;
        let mut payload = [0; 172];
        payload[..4].copy_from_slice(&number.to_be_bytes());
        from.send_to(&payload, to).await.unwrap();
    }
}

/// How many of them arrive, each once, until nothing comes any more.
async fn receive(at: &UdpSocket) -> u32 {
    let mut seen = BTreeSet::new();
    let mut buffer = [0; 2000];
    while let Ok(received) = timeout(Duration::from_secs(2), at.recv_from(&mut buffer)).await {
        let (len, _) = received.unwrap();
        assert_eq!(len, 172);
        let number = u32::from_be_bytes(*buffer.first_chunk().unwrap());
        assert!(seen.insert(number), "{number} came twice");
    }
    u32::try_from(seen.len()).unwrap()
}

/// Speech both ways: how many packets are lost from the near end, and to it.
async fn talk(near: &UdpSocket, far: &UdpSocket) -> (u32, u32) {
    let (near_at, far_at) = (near.local_addr().unwrap(), far.local_addr().unwrap());
    let (_, _, up, down) = tokio::join!(
        send(near, far_at),
        send(far, near_at),
        receive(far),
        receive(near)
    );
    (PACKETS - up, PACKETS - down)
}

/// The target is 0.2 %; of 3,000 packets that are six, and chance may have some more.
#[tokio::test(flavor = "multi_thread")]
async fn two_copies_leave_next_to_nothing_of_ten_percent_loss() {
    for transport in [Transport::Udp, Transport::Dtls] {
        let network = BadNetwork {
            loss: 0.1,
            ..BadNetwork::default()
        };
        let world = world(transport, network, &LabOptions::default()).await;
        let (near, far) = (bind(&world.near), bind(&world.far));
        let (up, down) = talk(&near, &far).await;
        assert!(up > 200 && down > 200, "{transport}: {up} and {down} lost");
        let mut notifications = world.near.notifications();
        near.set_redundancy(Redundancy::Copies(2)).unwrap();
        let local = near.local_addr().unwrap();
        assert_eq!(told(&mut notifications).await, (true, true, local));
        let (up, down) = talk(&near, &far).await;
        assert!(up <= 12 && down <= 12, "{transport}: {up} and {down} lost");
        let status = soon(near.redundancy_status()).await.unwrap();
        assert_eq!((status.granted, status.sending), (Some(2), 2));
        assert_eq!(status.sent, u64::from(PACKETS));
        assert_eq!(status.received, u64::from(PACKETS - down));
        assert!(
            status.recovered > 200 && status.duplicates > 3_000,
            "{status:?}"
        );
        let stats = soon(world.lab.server.report()).await.unwrap().sessions;
        assert!(stats.recovered > 200, "{stats:?}");
        // The socket that is closed gives it back.
        drop(near);
        let again = bind(&world.near);
        assert_eq!(soon(again.redundancy_status()).await.unwrap().granted, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn adaptive_redundancy_begins_with_losses_and_costs_little_before() {
    let world = world(
        Transport::Udp,
        BadNetwork::default(),
        &LabOptions::default(),
    )
    .await;
    let (near, far) = (bind(&world.near), bind(&world.far));
    let mut notifications = world.near.notifications();
    near.set_redundancy(Redundancy::Adaptive { most: 2 })
        .unwrap();
    assert!(told(&mut notifications).await.1);
    let before = world.relay.passed();
    assert_eq!(talk(&near, &far).await, (0, 0));
    let after = world.relay.passed();
    // A packet of 172 bytes with its inner headers is 200 bytes.
    let up = (after.up - before.up) as f64 / f64::from(PACKETS * 200);
    let down = (after.down - before.down) as f64 / f64::from(PACKETS * 200);
    assert!(up < 1.05 && down < 1.05, "{up} {down}");
    let status = soon(near.redundancy_status()).await.unwrap();
    assert_eq!((status.granted, status.copies), (Some(0), 0));
    assert!(status.uplink.is_some_and(|uplink| uplink.expected > 0));
    drop((near, far, world));

    let network = BadNetwork {
        loss: 0.1,
        ..BadNetwork::default()
    };
    let world = self::world(Transport::Dtls, network, &LabOptions::default()).await;
    let (near, far) = (bind(&world.near), bind(&world.far));
    let mut notifications = world.near.notifications();
    near.set_redundancy(Redundancy::Adaptive { most: 2 })
        .unwrap();
    assert!(told(&mut notifications).await.1);
    talk(&near, &far).await;
    let status = soon(near.redundancy_status()).await.unwrap();
    assert_eq!((status.granted, status.sending), (Some(2), 2), "{status:?}");
}

/// Each packet goes over three connections, or over one of them, and is passed on once.
#[tokio::test(flavor = "multi_thread")]
async fn streams_have_further_streams_instead_of_copies() {
    let lab = Lab::start(&LabOptions::default()).unwrap();
    for transport in [Transport::Tcp, Transport::Tls] {
        let backend = DtlsBackendKind::OpenSsl;
        let near = soon(lab.tunnel(transport, backend).unwrap().connect());
        let near = near.await.unwrap();
        let far = soon(lab.tunnel(Transport::Udp, backend).unwrap().connect());
        let far = far.await.unwrap();
        let sockets = (bind(&near), bind(&far));
        let mut notifications = near.notifications();
        for (wish, doubles) in [
            (Redundancy::Copies(2), true),
            (Redundancy::Balanced(2), false),
        ] {
            sockets.0.set_redundancy(wish).unwrap();
            let local = sockets.0.local_addr().unwrap();
            assert_eq!(told(&mut notifications).await, (true, true, local));
            assert_eq!(talk(&sockets.0, &sockets.1).await, (0, 0), "{transport}");
            let status = soon(sockets.0.redundancy_status()).await.unwrap();
            assert_eq!(status.granted, Some(2));
            assert_eq!(
                status.duplicates > 2 * u64::from(PACKETS) / 2,
                doubles,
                "{status:?}"
            );
            sockets.0.set_redundancy(Redundancy::Off).unwrap();
        }
        soon(near.close(LIMIT)).await.unwrap();
        soon(far.close(LIMIT)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_it_is_not_to_be_had_nothing_changes() {
    let options = LabOptions::default();
    let lab = Lab::start(&options).unwrap();
    // The other side has no services.
    for transport in [Transport::Tls, Transport::Udp] {
        let tunnel = lab
            .tunnel_to(Side::Core, transport, DtlsBackendKind::OpenSsl)
            .unwrap();
        let tunnel = soon(tunnel.connect()).await.unwrap();
        let mut notifications = tunnel.notifications();
        let socket = bind(&tunnel);
        socket.set_redundancy(Redundancy::Copies(1)).unwrap();
        let local = socket.local_addr().unwrap();
        assert_eq!(told(&mut notifications).await, (false, false, local));
        socket.send_to(b"still there", local).await.unwrap();
        let mut buffer = [0; 100];
        let (len, from) = soon(socket.recv_from(&mut buffer)).await.unwrap();
        assert_eq!((&buffer[..len], from), (&b"still there"[..], local));
        let error = socket
            .set_redundancy(Redundancy::Copies(MAX_COPIES + 1))
            .unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
        soon(tunnel.close(LIMIT)).await.unwrap();
        let error = socket.set_redundancy(Redundancy::Off).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted);
    }
}
