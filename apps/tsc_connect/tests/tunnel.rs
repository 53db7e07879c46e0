//! `tsc-connect` through a real tunnel server: unchanged programs' connections end inside another tunnel, and the other
//! way round.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use std::{
    fmt::Display, io::Write as _, net::SocketAddr, process::Stdio, sync::Arc, time::Duration,
};

use clap::Parser as _;
use fast_socks5::client::{Config, Socks5Datagram, Socks5Stream};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpStream, UdpSocket},
    time::timeout,
};
use tsc_connect::{
    accept::Shared,
    cli::Args,
    session::{Current, HostSide, TunnelSide},
};
use tsc_demo::lab::{Lab, LabOptions};
use tsc_tapi::{DtlsBackendKind, Transport, Tunnel};

/// Nothing here takes longer unless it hangs.
const LIMIT: Duration = Duration::from_secs(30);
const OPENSSL: DtlsBackendKind = DtlsBackendKind::OpenSsl;

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(LIMIT, what).await.expect("in time")
}

fn lab() -> Lab {
    Lab::start(&LabOptions {
        address_range: "10.64.0.0/24\", \"fd00:64::/120".to_owned(),
        ..LabOptions::default()
    })
    .unwrap()
}

async fn open(lab: &Lab, transport: Transport) -> Arc<Tunnel> {
    Arc::new(
        soon(lab.tunnel(transport, OPENSSL).unwrap().connect())
            .await
            .unwrap(),
    )
}

/// Listens inside `tunnel` on TCP and UDP, and sends back what comes.
fn echo(tunnel: &Tunnel, port: u16) -> tokio::task::JoinSet<()> {
    let mut tasks = tokio::task::JoinSet::new();
    for address in [
        tunnel.config().ipv4().unwrap(),
        tunnel.config().ipv6().unwrap(),
    ] {
        let address = SocketAddr::new(address, port);
        let listener = tunnel.bind_tcp(address).unwrap();
        let socket = tunnel.bind_udp(address).unwrap();
        tasks.spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await.unwrap();
                    write.shutdown().await.unwrap();
                });
            }
        });
        tasks.spawn(async move {
            let mut buffer = [0; 2000];
            loop {
                let (len, from) = socket.recv_from(&mut buffer).await.unwrap();
                socket.send_to(&buffer[..len], from).await.unwrap();
            }
        });
    }
    tasks
}

async fn exchange(
    mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
) {
    let sent: Vec<u8> = (0..300_000_u32).flat_map(u32::to_be_bytes).collect();
    let (mut read, mut write) = tokio::io::split(&mut stream);
    let mut back = Vec::new();
    let sending = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let ((), len) = soon(async { tokio::join!(sending, read.read_to_end(&mut back)) }).await;
    assert_eq!(len.unwrap(), sent.len());
    assert!(back == sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_and_forwards_reach_into_the_tunnel_over_every_transport() {
    let lab = lab();
    for transport in Transport::ALL {
        let near = open(&lab, transport).await;
        let far = open(&lab, transport).await;
        let _echo = echo(&far, 7);
        let targets = [
            SocketAddr::new(far.config().ipv4().unwrap(), 7),
            SocketAddr::new(far.config().ipv6().unwrap(), 7),
        ];
        let line = format!(
            "tsc-connect -s unused --socks 0 --http 0 -L 0:{} -L udp:0:{} -R 8:127.0.0.1:{}",
            targets[0],
            targets[1],
            // Nobody is there yet.
            9
        );
        let args = Args::try_parse_from(line.split(' ')).unwrap();
        let shared = Shared::new(64);
        let (current, net) = Current::new();
        let host = HostSide::open(&args, &net, &shared).await.unwrap();
        current.set(Some(Arc::clone(&near)));
        let at = |index: usize| host.opened[index].address;
        let (socks, http, tcp, udp) = (at(0), at(1), at(2), at(3));

        for target in targets {
            let host = target.ip().to_string();
            let stream = Socks5Stream::connect(socks, host, target.port(), Config::default());
            exchange(soon(stream).await.unwrap()).await;
            let mut stream = TcpStream::connect(http).await.unwrap();
            let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(soon(stream.read_u8()).await.unwrap());
            }
            assert!(head.starts_with(b"HTTP/1.1 200 "), "{transport}");
            exchange(stream).await;
        }
        let control = TcpStream::connect(socks).await.unwrap();
        let association = soon(Socks5Datagram::bind(control, "127.0.0.1:0"))
            .await
            .unwrap();
        let mut buffer = [0; 2000];
        for target in targets {
            association.send_to(b"datagram", target).await.unwrap();
            let (len, _) = soon(association.recv_from(&mut buffer)).await.unwrap();
            assert_eq!(&buffer[..len], b"datagram", "{transport} {target}");
        }
        exchange(TcpStream::connect(tcp).await.unwrap()).await;
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(b"forwarded", udp).await.unwrap();
        let (len, from) = soon(socket.recv_from(&mut buffer)).await.unwrap();
        assert_eq!(
            (&buffer[..len], from),
            (&b"forwarded"[..], udp),
            "{transport}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_listens_on_the_host_is_reached_at_the_inner_address() {
    let lab = lab();
    let near = open(&lab, Transport::Tls).await;
    let far = open(&lab, Transport::Udp).await;
    let service = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let datagrams = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let line = format!(
        "tsc-connect -s unused -R 80:{} -R udp:53:{}",
        service.local_addr().unwrap(),
        datagrams.local_addr().unwrap()
    );
    let args = Args::try_parse_from(line.split(' ')).unwrap();
    let side = TunnelSide::open(&args, &near, &Shared::new(64))
        .await
        .unwrap();
    // One for each address that the tunnel has.
    assert_eq!(side.opened.len(), 4);
    for address in [near.config().ipv4().unwrap(), near.config().ipv6().unwrap()] {
        let stream = soon(far.connect_tcp(SocketAddr::new(address, 80)))
            .await
            .unwrap();
        let serving = async {
            let (mut stream, _) = soon(service.accept()).await.unwrap();
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await.unwrap();
            write.shutdown().await.unwrap();
        };
        tokio::join!(serving, exchange(stream));
        let local = SocketAddr::new(
            far.local_address_for(SocketAddr::new(address, 53)).unwrap(),
            0,
        );
        let asking = far.bind_udp(local).unwrap();
        asking
            .send_to(b"question", SocketAddr::new(address, 53))
            .await
            .unwrap();
        let mut buffer = [0; 64];
        let (len, from) = soon(datagrams.recv_from(&mut buffer)).await.unwrap();
        assert_eq!(&buffer[..len], b"question");
        datagrams.send_to(b"answer", from).await.unwrap();
        let (len, from) = soon(asking.recv_from(&mut buffer)).await.unwrap();
        assert_eq!((&buffer[..len], from.port()), (&b"answer"[..], 53));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_outlives_its_tunnel() {
    let lab = lab();
    let far = open(&lab, Transport::Tls).await;
    let _echo = echo(&far, 7);
    let target = SocketAddr::new(far.config().ipv4().unwrap(), 7);
    let line = format!("tsc-connect -s unused -L 0:{target}");
    let args = Args::try_parse_from(line.split(' ')).unwrap();
    let (current, net) = Current::new();
    let host = HostSide::open(&args, &net, &Shared::new(64)).await.unwrap();
    for _ in 0..2 {
        // While there is no tunnel a connection waits for one.
        let waiting = TcpStream::connect(host.opened[0].address).await.unwrap();
        let near = open(&lab, Transport::Dtls).await;
        current.set(Some(Arc::clone(&near)));
        exchange(waiting).await;
        current.set(None);
        soon(Arc::into_inner(near).unwrap().close(LIMIT))
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_finds_its_tunnel_over_waits_for_the_next() {
    let (lab, next_lab) = (lab(), lab());
    let far = open(&next_lab, Transport::Tls).await;
    let _echo = echo(&far, 7);
    let target = SocketAddr::new(far.config().ipv4().unwrap(), 7);
    let line = format!("tsc-connect -s unused -L 0:{target}");
    let args = Args::try_parse_from(line.split(' ')).unwrap();
    let (current, net) = Current::new();
    let shared = Shared::new(64);
    let host = HostSide::open(&args, &net, &shared).await.unwrap();
    let near = open(&lab, Transport::Tls).await;
    current.set(Some(Arc::clone(&near)));
    lab.server.stop().unwrap();
    soon(near.closed()).await;
    let waiting = TcpStream::connect(host.opened[0].address).await.unwrap();
    soon(async {
        while shared.counters.summary().accepted == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    current.set(None);
    current.set(Some(open(&next_lab, Transport::Tls).await));
    exchange(waiting).await;
}

/// The program as a user starts it, with a forward to `target`.
fn start(lab: &Lab, target: impl Display) -> (tokio::process::Child, tempfile::NamedTempFile) {
    let mut ca = tempfile::NamedTempFile::new().unwrap();
    ca.write_all(lab.authority.certificate().as_bytes())
        .unwrap();
    let server = lab.server.address(Transport::Tls).unwrap();
    let child = tokio::process::Command::new(env!("CARGO_BIN_EXE_tsc-connect"))
        .args(["--server", &server.to_string(), "--json", "--once", "--ca"])
        .arg(ca.path())
        .args(["-L", &format!("0:{target}")])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    (child, ca)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_goes_away_does_not_end_the_program() {
    let lab = lab();
    let (mut child, _ca) = start(&lab, "10.64.0.250:7");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    soon(lines.next_line()).await.unwrap().unwrap();
    drop(lines);
    // It has to say that the tunnel was lost, to nobody, and ends as it would have ended.
    lab.server.stop().unwrap();
    assert_eq!(soon(child.wait()).await.unwrap().code(), Some(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_says_what_is_open_and_ends_in_order() {
    let lab = lab();
    let far = open(&lab, Transport::Tcp).await;
    let _echo = echo(&far, 7);
    let target = SocketAddr::new(far.config().ipv4().unwrap(), 7);
    let (mut child, _ca) = start(&lab, target);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut line = async || {
        let line = soon(lines.next_line()).await.unwrap().unwrap();
        serde_json::from_str::<serde_json::Value>(&line).unwrap()
    };
    let ready = line().await;
    assert_eq!(ready["event"], "ready", "{ready}");
    assert_eq!(
        ready["listeners"][0]["target"],
        target.to_string(),
        "{ready}"
    );
    let address: SocketAddr = ready["listeners"][0]["address"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    exchange(TcpStream::connect(address).await.unwrap()).await;
    // The server goes away for good: with --once that is the end.
    lab.server.stop().unwrap();
    assert_eq!(line().await["event"], "lost");
    let stopped = line().await;
    assert_eq!(
        (&stopped["event"], &stopped["accepted"]),
        (&"stopped".into(), &1.into()),
        "{stopped}"
    );
    assert_eq!(stopped["bytes_out"], 1_200_000, "{stopped}");
    assert_eq!(soon(child.wait()).await.unwrap().code(), Some(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_releases_the_tunnel_while_connections_are_being_opened() {
    // A server of names that never answers, and one address besides its own.
    let lab = Lab::start(&LabOptions {
        address_range: "10.64.0.1-10.64.0.2".to_owned(),
        interface: "authentication = \"none\"\ndns-servers = [\"10.64.0.1\"]".to_owned(),
        ..LabOptions::default()
    })
    .unwrap();
    let names = open(&lab, Transport::Tls).await;
    let address = names.config().ipv4().unwrap();
    assert_eq!(address.to_string(), "10.64.0.1");
    let names = (names.bind_udp((address, 53).into()).unwrap(), names);
    let (mut child, _ca) = start(&lab, "name.example:7");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = soon(lines.next_line()).await.unwrap().unwrap();
    let ready: serde_json::Value = serde_json::from_str(&ready).unwrap();
    let forward = ready["listeners"][0]["address"].as_str().unwrap();
    let waiting = TcpStream::connect(forward).await.unwrap();
    soon(names.0.recv_from(&mut [0; 512])).await.unwrap();
    let process = child.id().unwrap().to_string();
    let kill = tokio::process::Command::new("kill")
        .args(["-TERM", &process])
        .status();
    assert!(soon(kill).await.unwrap().success());
    assert!(soon(child.wait()).await.unwrap().success());
    drop(waiting);
    // The address is free again at once.
    let next = open(&lab, Transport::Tls).await;
    assert_eq!(next.config().ipv4().unwrap().to_string(), "10.64.0.2");
}
