//! Peers in the core that never read, or vanish: the server's memory stays bounded, others are not disturbed, and who comes
//! back goes on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use std::{fs, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};
use tsc_interop::{CORE, Egress, Lab, Namespace, isolated, nginx};
use tsc_tapi::{PemSource, Roots, Server, TcpStream, Transport, Trust, Tunnel};

/// Nothing here takes longer unless it hangs.
const LIMIT: Duration = Duration::from_secs(90);

/// Connections to who never reads.
const CONNECTIONS: usize = 32;

/// Most that the server may grow by, in KiB: for each connection, a window of the inner side and a socket's worth more.
const GROWTH: u64 = 2 * 1024 * CONNECTIONS as u64;

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(LIMIT, what).await.expect("in time")
}

fn block_on<T>(what: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.unwrap().block_on(what)
}

async fn open(lab: &Lab, transport: Transport) -> Tunnel {
    let server = lab.address();
    let server = Server::new(transport, server.ip().to_string(), server.port());
    let roots = Roots::from_pem(&PemSource::File(lab.authority())).unwrap();
    let builder = Tunnel::builder(server)
        .trust(Trust::Roots(roots))
        .server_name("localhost");
    soon(builder.connect()).await.unwrap()
}

/// Writes until a second is not enough for another block; gives the bytes of whole blocks.
async fn fill(stream: &mut TcpStream) -> u64 {
    let block = vec![b'x'; 64 * 1024];
    let mut sent = 0;
    while let Ok(written) = timeout(Duration::from_secs(1), stream.write_all(&block)).await {
        written.unwrap();
        sent += 64 * 1024;
    }
    sent
}

/// Both ends of a conversation between tunnels.
struct Others {
    one: Tunnel,
    other: Tunnel,
}

impl Others {
    async fn new(lab: &Lab) -> Self {
        Self {
            one: open(lab, Transport::Udp).await,
            other: open(lab, Transport::Tls).await,
        }
    }

    /// So many bytes from one to the other and back.
    async fn talk(&self) {
        const SIZE: usize = 1_000_000;
        let at = SocketAddr::new(self.other.config().ipv4().unwrap(), 0);
        let listener = self.other.bind_tcp(at).unwrap();
        let at = listener.local_addr().unwrap();
        let echo = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            stream.write_all(&all).await.unwrap();
            stream.shutdown().await.unwrap();
        };
        let speak = async {
            let mut stream = self.one.connect_tcp(at).await.unwrap();
            let said: Vec<u8> = (0..SIZE).map(|i| (i % 251).to_le_bytes()[0]).collect();
            stream.write_all(&said).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).await.unwrap();
            assert!(heard == said, "{} bytes came back", heard.len());
        };
        soon(async { tokio::join!(echo, speak) }).await;
    }
}

/// A stopped process reads nothing, while its kernel takes connections for it.
fn never_reads(egress: Egress) {
    let lab = Lab::new(egress);
    let deaf = nginx(Namespace::Core, &CORE, &lab.path(""), &lab.path(""));
    deaf.signal("STOP");
    block_on(async {
        let others = Others::new(&lab).await;
        others.talk().await;
        let tunnel = open(&lab, Transport::Tls).await;
        let before = lab.server.resident_kib();
        let mut filling = Vec::new();
        for number in 0..CONNECTIONS {
            let mut stream = soon(tunnel.connect_tcp(CORE[number % 2])).await.unwrap();
            filling.push(tokio::spawn(async move {
                let sent = fill(&mut stream).await;
                (stream, sent)
            }));
        }
        let mut streams = Vec::new();
        let mut sent = 0;
        for task in filling {
            let (stream, bytes) = soon(task).await.unwrap();
            assert!(bytes > 0);
            sent += bytes;
            streams.push(stream);
        }
        let full = lab.server.resident_kib();
        eprintln!(
            "{egress:?}: {sent} bytes are under way, the server grew from {before} to {full} KiB"
        );
        assert!(full < before + GROWTH, "from {before} to {full} KiB");
        // The same tunnel has room for another, and the others are not disturbed.
        others.talk().await;
        // Who reads after all gets everything, and so nothing was dropped: the request was not HTTP.
        deaf.signal("CONT");
        for stream in &mut streams {
            let mut answer = [0; 12];
            soon(stream.read_exact(&mut answer)).await.unwrap();
            assert_eq!(&answer, b"HTTP/1.1 400");
        }
    });
}

#[test]
fn who_never_reads_costs_little_over_tun() {
    isolated("who_never_reads_costs_little_over_tun", || {
        never_reads(Egress::Tun);
    });
}

#[test]
fn who_never_reads_costs_little_over_user_space() {
    isolated("who_never_reads_costs_little_over_user_space", || {
        never_reads(Egress::UserSpace);
    });
}

/// The core is cut off in the midst of transfers both ways, and comes back.
fn vanishes(egress: Egress) {
    const SIZE: usize = 8_000_000;
    let lab = Lab::new(egress);
    let root = lab.path("www");
    fs::create_dir(&root).unwrap();
    let file: Vec<u8> = (0..SIZE).map(|i| (i * i % 251).to_le_bytes()[0]).collect();
    fs::write(root.join("file"), &file).unwrap();
    let _nginx = nginx(Namespace::Core, &CORE, &lab.path(""), &root);
    block_on(async {
        let others = Others::new(&lab).await;
        let tunnel = open(&lab, Transport::Tls).await;
        let mut streams = Vec::new();
        for at in CORE {
            let mut stream = soon(tunnel.connect_tcp(at)).await.unwrap();
            let request = b"GET /file HTTP/1.0\r\n\r\n";
            soon(stream.write_all(request)).await.unwrap();
            let mut begun = vec![0; 1_000_000];
            soon(stream.read_exact(&mut begun)).await.unwrap();
            streams.push((stream, begun));
        }
        lab.network.plug_core(false);
        let before = lab.server.resident_kib();
        // Datagrams for somebody who is gone, far more than anybody should keep.
        let local = tunnel.local_address_for(CORE[0]).unwrap();
        let socket = tunnel.bind_udp((local, 0).into()).unwrap();
        for _ in 0..20_000 {
            // Errors that hosts report in between are expected.
            let _ = soon(socket.send_to(&[0; 1200], CORE[0])).await;
        }
        others.talk().await;
        let after = lab.server.resident_kib();
        eprintln!("{egress:?}: without the core the server grew from {before} to {after} KiB");
        assert!(after < before + GROWTH, "from {before} to {after} KiB");
        lab.network.plug_core(true);
        for (stream, read) in &mut streams {
            soon(stream.read_to_end(read)).await.unwrap();
            let body = read.len() - SIZE;
            assert!(read[body..] == file, "other bytes");
        }
    });
}

#[test]
fn a_core_that_vanishes_harms_nobody_over_tun() {
    isolated("a_core_that_vanishes_harms_nobody_over_tun", || {
        vanishes(Egress::Tun);
    });
}

#[test]
fn a_core_that_vanishes_harms_nobody_over_user_space() {
    isolated("a_core_that_vanishes_harms_nobody_over_user_space", || {
        vanishes(Egress::UserSpace);
    });
}
