//! The SDK against the real server: cuts, restarts, stops, IPv6, client certificates.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    clippy::cast_possible_truncation
)]

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::timeout,
};
use tsc_demo::lab::{Lab, LabOptions, SIP_SERVER, Side};
use tsc_tapi::{
    ConnectError, DownReason, DtlsBackendKind, Encryption, Notification, Notifications, Server,
    Service, Transport, Trust, Tunnel, TunnelBuilder, UdpSocket,
};
use tsc_tpl::{CmType, MessageBuilder, ResponseCode, Sequence, Tsid};

/// Nothing here takes longer unless it hangs.
const LIMIT: Duration = Duration::from_secs(20);
const OPENSSL: DtlsBackendKind = DtlsBackendKind::OpenSsl;

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(LIMIT, what).await.expect("in time")
}

async fn open(builder: TunnelBuilder) -> Tunnel {
    soon(builder.connect()).await.unwrap()
}

/// Every transport, DTLS by each back end.
fn legs() -> Vec<(Transport, DtlsBackendKind)> {
    let mut legs: Vec<_> = Transport::ALL.map(|transport| (transport, OPENSSL)).into();
    legs.push((Transport::Dtls, DtlsBackendKind::Dimpl));
    legs.push((Transport::Dtls, DtlsBackendKind::WebRtc));
    legs
}

async fn exchange(from: &UdpSocket, to: &UdpSocket, payload: &[u8]) {
    from.send_to(payload, to.local_addr().unwrap())
        .await
        .unwrap();
    let mut buffer = vec![0; 4000];
    let (len, sender) = soon(to.recv_from(&mut buffer)).await.unwrap();
    assert_eq!(buffer[..len], *payload);
    assert_eq!(sender, from.local_addr().unwrap());
}

/// A TCP relay between clients and a server, to be cut and led elsewhere.
struct Relay {
    address: SocketAddr,
    /// Where to; a change cuts all connections.
    target: watch::Sender<SocketAddr>,
    _tasks: JoinSet<()>,
}

impl Relay {
    async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let target = watch::Sender::new(target);
        let targets = target.subscribe();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut relayed = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let mut targets = targets.clone();
                relayed.spawn(async move {
                    let to = *targets.borrow_and_update();
                    let Ok(mut server) = TcpStream::connect(to).await else {
                        return;
                    };
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        _ = targets.changed() => {}
                    }
                });
            }
        });
        Self {
            address,
            target,
            _tasks: tasks,
        }
    }

    fn server(&self, transport: Transport) -> Server {
        let ip = self.address.ip().to_string();
        Server::new(transport, ip, self.address.port())
    }
}

/// Notifications up to the first that `last` knows, without the attempts.
async fn until(
    notifications: &mut Notifications,
    last: impl Fn(&Notification) -> bool,
) -> Vec<&'static str> {
    let mut names = Vec::new();
    loop {
        let notification = soon(notifications.recv()).await.expect("not the end");
        names.push(match &notification {
            Notification::Connecting(_) => "connecting",
            Notification::Up(_) => "up",
            Notification::Suspended(_) => "suspended",
            Notification::Resumed(_) => "resumed",
            Notification::Down(_) => "down",
            other => panic!("{other:?}"),
        });
        if last(&notification) {
            return names;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_stream_is_resumed_with_its_addresses_and_sockets() {
    let lab = Lab::start(&LabOptions::default()).unwrap();
    for transport in [Transport::Tcp, Transport::Tls] {
        let relay = Relay::start(lab.server.address(transport).unwrap()).await;
        let builder = Tunnel::builder(relay.server(transport)).trust(lab.trust());
        let mut notifications = builder.notifications();
        let tunnel = open(builder).await;
        let other = open(lab.tunnel(Transport::Udp, OPENSSL).unwrap()).await;
        let near = tunnel
            .bind_udp((tunnel.config().ipv4().unwrap(), 4000).into())
            .unwrap();
        let far = other
            .bind_udp((other.config().ipv4().unwrap(), 4000).into())
            .unwrap();
        exchange(&near, &far, b"before").await;
        let before = tunnel.config();

        relay.target.send_modify(|_| {});
        let names = until(&mut notifications, |n| {
            matches!(n, Notification::Resumed(_))
        })
        .await;
        assert_eq!(
            names,
            ["connecting", "up", "suspended", "connecting", "resumed"],
            "{transport}"
        );
        let after = tunnel.config();
        assert_eq!(
            (after.tunnel_id, &after.addresses),
            (before.tunnel_id, &before.addresses)
        );
        exchange(&near, &far, b"after").await;
        exchange(&far, &near, b"and back").await;
        soon(tunnel.close(LIMIT)).await.unwrap();
        let names = until(&mut notifications, |n| matches!(n, Notification::Down(_))).await;
        assert_eq!(names, ["down"]);
        assert!(soon(notifications.recv()).await.is_none());
        soon(other.close(LIMIT)).await.unwrap();
    }
    let report = lab.server.stop().unwrap();
    assert_eq!(report.sessions.resumed, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_started_anew_does_not_resume() {
    let old = Lab::start(&LabOptions::default()).unwrap();
    let new = Lab::start(&LabOptions::default()).unwrap();
    let relay = Relay::start(old.server.address(Transport::Tcp).unwrap()).await;
    let builder = Tunnel::builder(relay.server(Transport::Tcp));
    let tunnel = open(builder).await;
    relay
        .target
        .send_replace(new.server.address(Transport::Tcp).unwrap());
    let reason = soon(tunnel.closed()).await;
    assert!(
        matches!(reason, DownReason::ResumeRejected { .. }),
        "{reason}"
    );
    // The application starts anew.
    let again = open(Tunnel::builder(relay.server(Transport::Tcp))).await;
    soon(again.close(LIMIT)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_releases_its_clients() {
    for (transport, backend) in legs() {
        let lab = Lab::start(&LabOptions::default()).unwrap();
        let tunnel = open(lab.tunnel(transport, backend).unwrap()).await;
        let server = lab.server;
        let stopped = tokio::task::spawn_blocking(move || server.stop());
        let reason = soon(tunnel.closed()).await;
        assert!(
            matches!(reason, DownReason::ReleasedByServer { .. }),
            "{transport} {backend}: {reason}"
        );
        let report = soon(stopped).await.unwrap().unwrap();
        assert_eq!(report.sessions.sessions, 0, "{transport} {backend}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_goes_over_ipv6_too_outside_and_inside() {
    let options = LabOptions {
        address: "::1".to_owned(),
        address_range: "fd00:64::/120".to_owned(),
        ..LabOptions::default()
    };
    let lab = Lab::start(&options).unwrap();
    let far = open(lab.tunnel(Transport::Tcp, OPENSSL).unwrap()).await;
    let to = far
        .bind_udp((far.config().ipv6().unwrap(), 4000).into())
        .unwrap();
    for (transport, backend) in legs() {
        let near = open(lab.tunnel(transport, backend).unwrap()).await;
        let config = near.config();
        assert_eq!(config.ipv4(), None);
        assert!(config.nat_view.unwrap().is_ipv6(), "{transport}");
        let from = near.bind_udp((config.ipv6().unwrap(), 0).into()).unwrap();
        for size in [1, 1352, 3000] {
            exchange(&from, &to, &vec![size as u8; size]).await;
            exchange(&to, &from, &vec![size as u8; size]).await;
        }
        soon(near.close(LIMIT)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_certificates_are_shown_over_tls_and_both_dtls_back_ends() {
    let options = LabOptions {
        interface: "authentication = \"mtls\"".to_owned(),
        clear: false,
        ..LabOptions::default()
    };
    let lab = Lab::start(&options).unwrap();
    for (transport, backend) in legs() {
        if !transport.is_protected() {
            continue;
        }
        let builder = || {
            lab.tunnel(transport, backend)
                .unwrap()
                .connect_timeout(Duration::from_secs(5))
        };
        let tunnel = open(builder().identity(lab.client_identity("alice").unwrap())).await;
        soon(tunnel.close(LIMIT)).await.unwrap();
        assert!(
            soon(builder().connect()).await.is_err(),
            "{transport} {backend} without a certificate"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_server_assigns_reaches_the_application() {
    let options = LabOptions {
        interface: "authentication = \"none\"\ninner-mtu = 1300\n\
                    dns-servers = [\"10.0.0.53\", \"2001:db8::53\"]"
            .to_owned(),
        ..LabOptions::default()
    };
    let lab = Lab::start(&options).unwrap();
    for (transport, backend) in legs() {
        let tunnel = open(lab.tunnel(transport, backend).unwrap()).await;
        let config = tunnel.config();
        assert_eq!(
            config.sip_servers,
            [SIP_SERVER.parse().unwrap()],
            "{transport}"
        );
        let dns: [std::net::IpAddr; 2] = ["10.0.0.53", "2001:db8::53"].map(|a| a.parse().unwrap());
        assert_eq!(config.dns_servers, dns, "{transport}");
        assert_eq!(config.inner_mtu, 1300, "{transport}");
        soon(tunnel.close(LIMIT)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_server_has_no_more_tunnels_than_it_is_told() {
    let options = LabOptions {
        system: "max-tunnels = 2".to_owned(),
        ..LabOptions::default()
    };
    let lab = Lab::start(&options).unwrap();
    // One on each interface: neither has a limit of its own.
    let access = open(lab.tunnel(Transport::Tls, OPENSSL).unwrap()).await;
    let _core = open(lab.tunnel_to(Side::Core, Transport::Udp, OPENSSL).unwrap()).await;
    let third = || {
        lab.tunnel(Transport::Tcp, OPENSSL)
            .unwrap()
            .connect_timeout(Duration::from_secs(3))
            .connect()
    };
    let error = soon(third()).await.expect_err("full");
    assert!(
        matches!(&error, ConnectError::Refused(refusal) if refusal.code == ResponseCode::NO_RESOURCES),
        "{error}"
    );
    soon(access.close(LIMIT)).await.unwrap();
    soon(third()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_server_has_no_more_half_open_connections_than_it_is_told() {
    let options = LabOptions {
        system: "max-half-open = 3".to_owned(),
        ..LabOptions::default()
    };
    let lab = Lab::start(&options).unwrap();
    let tunnel = open(lab.tunnel(Transport::Udp, OPENSSL).unwrap()).await;
    let keepalive = {
        let mut wire = Vec::new();
        MessageBuilder::new(CmType::CONFIGURATION_RELEASE_REQUEST, Tsid(1), Sequence(1))
            .encode(&mut wire)
            .unwrap();
        wire
    };
    // The first byte makes a connection a binding without a tunnel; the rest of the unit never comes.
    let mut waiting = Vec::new();
    for side in [Side::Access, Side::Core, Side::Access] {
        let server = lab.server_for(side, Transport::Tcp, OPENSSL).unwrap();
        let mut stream = TcpStream::connect((server.host(), server.port().unwrap()))
            .await
            .unwrap();
        stream.write_all(&keepalive[..1]).await.unwrap();
        waiting.push(stream);
        let count = waiting.len();
        soon(async {
            while lab.server.report().await.unwrap().sessions.pending < count {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    // One more is closed, whatever its interface, and who has a tunnel does not notice.
    let server = lab.server_for(Side::Core, Transport::Tcp, OPENSSL).unwrap();
    let mut stream = TcpStream::connect((server.host(), server.port().unwrap()))
        .await
        .unwrap();
    stream.write_all(&keepalive[..1]).await.unwrap();
    let mut rest = Vec::new();
    // Reset or closed.
    drop(soon(stream.read_to_end(&mut rest)).await);
    let report = lab.server.report().await.unwrap();
    assert_eq!(
        (report.sessions.pending, report.counters.not_opened),
        (3, 1)
    );
    soon(tunnel.close(LIMIT)).await.unwrap();
}

/// A tunnel begins on a stream, and goes on over datagrams as soon as they pass: the same tunnel, the same sockets.
#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_moves_from_a_stream_to_datagrams() {
    for (stream, datagrams) in [
        (Transport::Tcp, Transport::Udp),
        (Transport::Tls, Transport::Dtls),
    ] {
        let lab = Lab::start(&LabOptions::default()).unwrap();
        let other = lab.server_for(Side::Access, datagrams, OPENSSL).unwrap();
        let builder = lab
            .tunnel(stream, OPENSSL)
            .unwrap()
            .server(other)
            .race_delay(Duration::from_secs(2))
            .move_to_datagrams();
        let mut notifications = builder.notifications();
        let tunnel = open(builder).await;
        let first = tunnel.config();
        let socket = tunnel
            .bind_udp(SocketAddr::new(first.ipv4().unwrap(), 0))
            .unwrap();
        while tunnel.config().transport != datagrams {
            let told = soon(notifications.recv()).await;
            assert!(
                !matches!(told, None | Some(Notification::Suspended(_))),
                "{told:?}"
            );
        }
        assert_eq!(first.transport, stream);
        assert_eq!(tunnel.config().tunnel_id, first.tunnel_id);
        assert_eq!(tunnel.config().addresses, first.addresses);
        exchange(&socket, &socket, b"still here").await;
        soon(tunnel.close(LIMIT)).await.unwrap();
    }
}

/// Why a socket that must be encrypted beside a clear tunnel is not.
async fn why_not_encrypted(trust: Trust) -> String {
    let lab = Lab::start(&LabOptions::default()).unwrap();
    let builder = lab.tunnel(Transport::Tcp, OPENSSL).unwrap();
    let tunnel = open(builder.trust(trust)).await;
    let mut notifications = tunnel.notifications();
    let local = (tunnel.config().ipv4().unwrap(), 4000).into();
    let socket = tunnel.bind_udp(local).unwrap();
    socket.set_encryption(Encryption::Only).unwrap();
    let mut told = String::new();
    loop {
        match soon(notifications.recv()).await.unwrap() {
            Notification::AttemptFailed { server, reason } => {
                assert_eq!(server.transport(), Transport::Tls);
                told = reason;
            }
            Notification::Service {
                service,
                available,
                enabled,
                ..
            } => {
                assert_eq!(
                    (service, available, enabled),
                    (Service::Dtte, true, false),
                    "{told}"
                );
                return told;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn why_there_is_no_encrypted_tunnel_is_told() {
    const VARIABLE: &str = "SSL_CERT_FILE";
    const NOWHERE: &str = "/nowhere/roots.pem";
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if std::env::var(VARIABLE).as_deref() == Ok(NOWHERE) {
        let told = runtime.block_on(why_not_encrypted(Trust::System));
        assert!(told.contains("no usable root certificate"), "{told}");
    } else {
        let stranger = Lab::start(&LabOptions::default()).unwrap().trust();
        let told = runtime.block_on(why_not_encrypted(stranger));
        assert!(told.starts_with("server certificate rejected"), "{told}");
        // And as on a host without any roots.
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "why_there_is_no_encrypted_tunnel_is_told"])
            .env(VARIABLE, NOWHERE)
            .env("SSL_CERT_DIR", NOWHERE)
            .status()
            .unwrap();
        assert!(status.success());
    }
}
