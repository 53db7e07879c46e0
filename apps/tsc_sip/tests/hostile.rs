//! Peers that fill everything there is to fill, while a good one is served.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use common::{
    PATIENCE,
    memory::{Host, Memory},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::{Instant, timeout},
};
use tsc_sip::{
    client::{ClientOptions, ClientReport, FileSource, run_client},
    net::{InnerNet, InnerSocket},
    report::Outcome,
    server::{ServerOptions, SipServer},
    sip::{Message, Transport},
    stop::Stop,
};

const SERVER: [u8; 4] = [10, 0, 0, 1];
const GOOD: [u8; 4] = [10, 0, 0, 2];

struct World {
    network: Memory,
    server: SipServer,
}

impl World {
    async fn start() -> Self {
        let network = Memory::default();
        let options = ServerOptions {
            http_port: Some(0),
            ..ServerOptions::default()
        };
        let server = SipServer::start(network.host(SERVER), options).await;
        let server = server.unwrap();
        Self { network, server }
    }

    fn good(&self) -> Arc<Host> {
        self.network.host(GOOD)
    }

    /// Where the server listens by TCP: SIP, messages, HTTP.
    fn listeners(&self) -> Vec<SocketAddr> {
        let mut all = self.network.listeners();
        all.retain(|at| at.ip() == IpAddr::from(SERVER));
        all
    }

    fn hostile(&self, number: u8) -> Arc<Host> {
        self.network.host([10, 0, 1, number])
    }

    /// A run of everything by the good peer.
    async fn everything(&self, transport: Transport) -> ClientReport {
        let mut options = ClientOptions::new("alice", "play");
        options.sip_server = Some(self.server.address());
        options.transport = transport;
        options.duration = Some(Duration::from_millis(200));
        options.sessions.chats = 2;
        options.sessions.files = 1;
        options.sessions.file = FileSource::Pattern(100_000);
        options.downloads.server = self.server.http_address();
        options.downloads.path = "/bytes/100000".into();
        options.downloads.count = 2;
        let run = run_client(self.good(), options, Stop::never());
        let report = timeout(PATIENCE, run).await.unwrap().unwrap();
        assert_eq!(report.outcome(), Outcome::Ok, "{report:?}");
        report
    }
}

/// Opens so many connections to each listener, says `text` on them, and keeps them.
async fn fill(world: &World, host: &Host, count: usize, text: &str) -> Vec<DuplexStream> {
    let mut kept = Vec::new();
    for listener in world.listeners() {
        for _ in 0..count {
            let mut stream = host.connect_tcp(listener).await.unwrap();
            // It may be refused already.
            let _ = stream.write_all(text.as_bytes()).await;
            kept.push(stream);
        }
    }
    kept
}

/// Whether the server has closed a connection, after all that it had to say.
async fn is_closed(stream: &mut DuplexStream) -> bool {
    let mut buffer = vec![0; 65_536];
    loop {
        match timeout(Duration::ZERO, stream.read(&mut buffer)).await {
            Ok(Ok(0) | Err(_)) => return true,
            Ok(Ok(_)) => {}
            Err(_) => return false,
        }
    }
}

async fn closed(stream: &mut DuplexStream) -> Duration {
    let (started, mut buffer) = (Instant::now(), vec![0; 65_536]);
    let end = async { while !matches!(stream.read(&mut buffer).await, Ok(0) | Err(_)) {} };
    timeout(Duration::from_secs(3600), end).await.unwrap();
    started.elapsed()
}

const OPTIONS: &str = "OPTIONS sip:x@x SIP/2.0\r\nVia: SIP/2.0/TCP 10.0.0.2:9;branch=z9hG4bKbranch;alias\r\n\
     From: <sip:peer@x>;tag=peer\r\nTo: <sip:x@x>\r\nCall-ID: call@x\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n";

fn options(branch: &str) -> String {
    OPTIONS.replace("branch;", &format!("{branch};"))
}

async fn ask(stream: &mut DuplexStream, request: &str, answer: &str) {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    while !heard.windows(answer.len()).any(|w| w == answer.as_bytes()) {
        let mut buffer = [0; 4096];
        let read = timeout(PATIENCE, stream.read(&mut buffer)).await;
        let length = read.unwrap().unwrap();
        assert!(length > 0, "closed before {answer:?}");
        heard.extend_from_slice(&buffer[..length]);
    }
}

/// All listeners: SIP, messages and HTTP. One peer, and then so many that they could fill the tables even with their shares.
#[tokio::test]
async fn connections_that_fill_every_table_displace_themselves() {
    let world = World::start().await;
    assert_eq!(world.listeners().len(), 3);
    // What the good peer has open stays open, and is used later.
    let mut sip = world
        .good()
        .connect_tcp(world.server.address())
        .await
        .unwrap();
    ask(&mut sip, &options("first"), "SIP/2.0 200").await;
    let http = world.server.http_address().unwrap();
    let mut http = world.good().connect_tcp(http).await.unwrap();
    ask(&mut http, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "test data").await;

    let one = fill(&world, &world.hostile(1), 1000, "").await;
    world.everything(Transport::Tcp).await;
    let mut all = vec![one];
    for (number, text) in [
        "",
        "INVITE sip:half",
        "GET /bytes/2000000 HTTP/1.1\r\nHost: x\r\n\r\n",
        "MSRP half SEND\r\nTo-Path: ",
        &options("hostile"),
        "\r\n\r\n",
        "x",
        "HEAD /bytes/1999999 HTTP/1.1\r\nHost: x\r\n\r\n",
        "",
    ]
    .into_iter()
    .enumerate()
    {
        let host = world.hostile(2 + u8::try_from(number).unwrap());
        all.push(fill(&world, &host, 300, text).await);
    }
    world.everything(Transport::Tcp).await;
    ask(&mut sip, &options("second"), "SIP/2.0 200").await;
    ask(&mut http, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "test data").await;

    // The tables have room for 512 each.
    let mut open = 0;
    for stream in all.iter_mut().flatten() {
        open += usize::from(!is_closed(stream).await);
    }
    assert!(open <= 3 * 512, "{open}");
}

/// What is said and never ended, or never read, has its time.
#[tokio::test(start_paused = true)]
async fn connections_that_stall_are_closed() {
    let world = World::start().await;
    let (sip, http) = (world.server.address(), world.server.http_address().unwrap());
    let listeners = world.listeners();
    let msrp = listeners.into_iter().find(|at| *at != sip && *at != http);
    let host = world.hostile(1);
    let get = "GET /bytes/2000000 HTTP/1.1\r\nHost: x\r\n\r\n";
    for (at, text, seconds) in [
        (sip, "", 32),
        (sip, "\r\n\r\n\r\n\r\n", 32),
        (sip, "INVITE sip:half", 32),
        // Its first message was in time, its second is not.
        (sip, &(options("a") + "INVITE sip:half"), 32),
        (sip, &options("b"), 300),
        (msrp.unwrap(), "", 10),
        (msrp.unwrap(), "MSRP half SEND\r\nTo-Path: ", 10),
        (http, "", 30),
        (http, "GET / HTTP/1.1\r\nHost", 30),
        // Complete, and one more that is not.
        (http, "GET / HTTP/1.1\r\nHost: x\r\n\r\nGET", 30),
        (http, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", 30),
    ] {
        let mut stream = host.connect_tcp(at).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let after = closed(&mut stream).await;
        let wanted = Duration::from_secs(seconds);
        let range = wanted..wanted + Duration::from_secs(2);
        assert!(range.contains(&after), "{at} {text:?}: {after:?}");
    }
    // Nothing is read of what comes: the writer gives up, and what was on its way is all there is.
    let mut stream = host.connect_tcp(http).await.unwrap();
    stream.write_all(get.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let mut rest = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();
    assert!(rest.len() < 1_000_000, "{} bytes", rest.len());
}

/// A drip of bytes does not keep a message open.
#[tokio::test(start_paused = true)]
async fn a_message_that_drips_in_does_not_last() {
    let world = World::start().await;
    let host = world.hostile(1);
    let mut stream = host.connect_tcp(world.server.address()).await.unwrap();
    let started = Instant::now();
    while stream.write_all(b"x").await.is_ok() {
        assert!(started.elapsed() < Duration::from_secs(100));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(started.elapsed() >= Duration::from_secs(32));
}

const OFFER: &str = "v=0\r\no=- 1 1 IN IP4 10.0.1.1\r\ns=-\r\nc=IN IP4 10.0.1.1\r\nt=0 0\r\nm=audio 9 RTP/AVP 0\r\n";

fn datagram(method: &str, number: usize, local: SocketAddr) -> String {
    format!(
        "{method} sip:play@x SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bK{number}\r\n\
         From: <sip:peer@x>;tag=peer\r\nTo: <sip:play@x>\r\nCall-ID: {number}@x\r\nCSeq: 1 {method}\r\n\
         Contact: <sip:peer@{local}>\r\nContent-Type: application/sdp\r\n\r\n{OFFER}"
    )
}

/// Sends so many requests, and counts the final responses by their status until there are as many.
async fn flood(host: &Host, server: SocketAddr, method: &str, count: usize) -> (usize, usize) {
    let at = SocketAddr::new(host.addresses()[0], 0);
    let socket = host.bind_udp(at).await.unwrap();
    let local = socket.local_addr().unwrap();
    let (mut taken, mut refused) = (0, 0);
    for number in 0..count {
        let request = datagram(method, number, local);
        socket.send_to(request.as_bytes(), server).await.unwrap();
        loop {
            let mut buffer = vec![0; 4096];
            let received = timeout(PATIENCE, socket.recv_from(&mut buffer)).await;
            buffer.truncate(received.unwrap().unwrap().0);
            let Ok(Message::Response(response)) = Message::parse(&buffer) else {
                continue;
            };
            let ours = response.head.call_id == format!("{number}@x");
            match response.status.code() {
                200 if ours => taken += 1,
                486 if ours => refused += 1,
                _ => continue,
            }
            break;
        }
    }
    (taken, refused)
}

#[tokio::test]
async fn calls_of_one_address_leave_room_for_others() {
    let world = World::start().await;
    let host = world.hostile(1);
    let (taken, refused) = flood(&host, world.server.address(), "INVITE", 300).await;
    assert_eq!((taken, refused), (192, 108));
    let report = world.everything(Transport::Udp).await;
    assert_eq!(report.calls.len(), 1);
}

#[tokio::test]
async fn transactions_of_one_address_leave_room_for_others() {
    let world = World::start().await;
    // The table has room for 4096, and each stays for 32 s.
    for number in 1..=3 {
        let host = world.hostile(number);
        let (taken, _) = flood(&host, world.server.address(), "OPTIONS", 3000).await;
        assert_eq!(taken, 3000, "its old ones make room for its new ones");
    }
    world.everything(Transport::Udp).await;
}

/// A peer that claims every port of its own for one connection.
#[tokio::test]
async fn aliases_of_one_address_leave_room_for_others() {
    let world = World::start().await;
    let mut kept = Vec::new();
    for number in 1..=40 {
        let host = world.hostile(number);
        let mut stream = host.connect_tcp(world.server.address()).await.unwrap();
        for port in 1000..1020 {
            let via = format!("10.0.1.{number}:{port};");
            let request = options(&format!("{number}-{port}")).replace("10.0.0.2:9;", &via);
            ask(&mut stream, &request, "SIP/2.0 200").await;
        }
        kept.push(stream);
    }
    // Nobody listens at that port: the server can say BYE by this connection only.
    let mut good = world
        .good()
        .connect_tcp(world.server.address())
        .await
        .unwrap();
    let invite = |method: &str, to: &str| {
        let body = if method == "INVITE" { OFFER } else { "" };
        format!(
            "{method} sip:play@x SIP/2.0\r\nVia: SIP/2.0/TCP 10.0.0.2:9;branch=z9hG4bKgood;alias\r\n\
             From: <sip:peer@x>;tag=peer\r\nTo: {to}\r\nCall-ID: good@x\r\nCSeq: 1 {method}\r\n\
             Contact: <sip:peer@10.0.0.2:9;transport=tcp>\r\nContent-Type: application/sdp\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    ask(&mut good, &invite("INVITE", "<sip:play@x>"), "SIP/2.0 200").await;
    world.server.hang_up();
    ask(&mut good, "\r\n\r\n", "BYE sip:peer@10.0.0.2:9").await;
}
