//! Captures of a running server: each sees its own tunnels or interface, through resumes and companions, and nothing else.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::wildcard_enum_match_arm
)]

#[path = "calls/units.rs"]
mod units;

use std::{net::SocketAddr, path::Path, time::Duration};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::timeout,
};
use tsc_demo::lab::{Lab, LabOptions, Side};
use tsc_server::{
    config::TraceRedaction,
    trace::{MAX_TRACES, TraceError, TraceFilter, TraceOptions, TraceStatus},
};
use tsc_tapi::{
    DtlsBackendKind, Notification, Server, Transport, Tunnel, TunnelBuilder, TunnelTransport,
    UdpSocket,
};
use tsc_tpl::{CmType, Limits, MessageBuilder, ResponseCode, Sequence, Tlv, Tsid, Unit, registry};

use self::units::units;

/// Nothing here takes longer unless it hangs.
const LIMIT: Duration = Duration::from_secs(60);

const OPENSSL: DtlsBackendKind = DtlsBackendKind::OpenSsl;

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(LIMIT, what).await.expect("in time")
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

    fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    fn tsid(&self) -> Tsid {
        Tsid(self.tunnel.config().tunnel_id)
    }

    /// Datagrams may be lost, so one is sent again until it is heard.
    async fn says(&self, other: &Self, text: &str) {
        let mut buffer = vec![0; 4000];
        let exchange = async {
            loop {
                self.socket
                    .send_to(text.as_bytes(), other.address())
                    .await
                    .unwrap();
                let wait = Duration::from_millis(500);
                let heard = timeout(wait, other.socket.recv_from(&mut buffer)).await;
                // One that was sent twice may be heard later.
                if let Ok(heard) = heard
                    && buffer[..heard.unwrap().0] == *text.as_bytes()
                {
                    return;
                }
            }
        };
        soon(exchange).await;
    }
}

/// What was said, and which way it went past the server: once each, in order.
fn said(path: &Path) -> Vec<String> {
    let mut said = Vec::new();
    for unit in units(path).into_iter().filter(|unit| !unit.control) {
        let way = if unit.inbound { "in" } else { "out" };
        let text = format!("{way} {}", unit.text);
        if !said.contains(&text) {
            said.push(text);
        }
    }
    said
}

fn messages(path: &Path) -> Vec<String> {
    let units = units(path).into_iter().filter(|unit| unit.control);
    units.map(|unit| unit.text).collect()
}

/// A running server, and a directory for captures.
struct Bench {
    lab: Lab,
    directory: TempDir,
}

impl Bench {
    fn new(system: &str) -> Self {
        let options = LabOptions {
            system: system.to_owned(),
            ..LabOptions::default()
        };
        Self {
            lab: Lab::start(&options).unwrap(),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn options(&self, name: &str, filter: TraceFilter) -> TraceOptions {
        let mut options = TraceOptions::new(self.directory.path().join(name));
        options.filter = filter;
        options
    }

    async fn start(&self, name: &str, filter: TraceFilter) -> TraceStatus {
        let options = self.options(name, filter);
        soon(self.lab.server.start_trace(options)).await.unwrap()
    }

    /// The file of a capture that has been stopped.
    async fn stop(&self, name: &str) -> std::path::PathBuf {
        let stopped = soon(self.lab.server.stop_trace(name)).await.unwrap();
        assert_eq!(stopped.packets.dropped, 0, "{name}");
        assert_eq!(
            stopped.packets.written,
            units(&stopped.file).len() as u64,
            "{name}"
        );
        stopped.file
    }

    async fn running(&self) -> Vec<String> {
        let traces = soon(self.lab.server.traces()).await.unwrap();
        traces.into_iter().map(|trace| trace.name).collect()
    }

    async fn end(&self, side: Side, transport: Transport) -> End {
        End::open(self.lab.tunnel_to(side, transport, OPENSSL).unwrap()).await
    }
}

fn expected(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|line| (*line).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_capture_sees_its_tunnel_or_interface_and_nothing_else() {
    let bench = Bench::new("workers = 3\ntrace-file-size = 1");
    let [a, b, c] = [
        bench.end(Side::Access, Transport::Tls).await,
        bench.end(Side::Access, Transport::Udp).await,
        bench.end(Side::Core, Transport::Dtls).await,
    ];
    a.says(&b, "before").await;
    let started = bench.start("all.pcapng", TraceFilter::All).await;
    assert_eq!(started.tunnels, 3);
    assert!(started.left.unwrap() <= Duration::from_secs(3600));
    let of_a = TraceFilter::Tunnel(a.tsid());
    assert_eq!(bench.start("a.pcapng", of_a.clone()).await.tunnels, 1);
    let of_b = TraceFilter::Address(b.address().ip());
    assert_eq!(bench.start("b.pcapng", of_b).await.tunnels, 1);
    for (name, tunnels) in [("access", 2), ("core", 1)] {
        let filter = TraceFilter::Interface(name.to_owned());
        assert_eq!(bench.start(name, filter).await.tunnels, tunnels);
    }
    let nobody = TraceFilter::Identity("nobody".to_owned());
    assert_eq!(bench.start("nobody", nobody).await.tunnels, 0);
    a.says(&b, "a to b").await;
    b.says(&c, "b to c").await;
    c.says(&a, "c to a").await;
    let file = bench.stop("a.pcapng").await;
    assert_eq!(said(&file), expected(&["in a to b", "out c to a"]));
    assert_eq!(
        bench.running().await,
        ["all.pcapng", "b.pcapng", "access", "core", "nobody"]
    );

    // The others go on; one that begins in between sees the rest only.
    bench.start("a-again.pcapng", of_a).await;
    a.says(&b, "a to b again").await;
    let tsids = [a.tsid(), b.tsid(), c.tsid()].map(|tsid| tsid.to_string());
    for end in [a, b, c] {
        soon(end.tunnel.close(LIMIT)).await.unwrap();
    }
    // A tunnel that comes up with the address is seen from its request on, and a request that is refused by its interface.
    let later = bench.end(Side::Core, Transport::Tcp).await;
    let full = bench
        .lab
        .server_for(Side::Core, Transport::Tcp, OPENSSL)
        .unwrap();
    soon(refused((full.host().to_owned(), full.port().unwrap()))).await;
    let file = bench.stop("a-again.pcapng").await;
    assert_eq!(said(&file), ["in a to b again"]);
    let release = messages(&file);
    assert!(
        release[0].contains("Configuration_Release_Request") && release.len() == 2,
        "{release:?}"
    );
    assert!(release.iter().all(|message| message.contains(&tsids[0])));
    assert!(release[1].contains("Configuration_Release_Response"));
    let b_said = ["out a to b", "in b to c", "out a to b again"];
    assert_eq!(said(&bench.stop("b.pcapng").await), expected(&b_said));
    let access = bench.stop("access").await;
    assert_eq!(
        said(&access),
        [
            "in a to b",
            "out a to b",
            "in b to c",
            "out c to a",
            "in a to b again",
            "out a to b again"
        ]
    );
    let core = bench.stop("core").await;
    assert_eq!(said(&core), expected(&["out b to c", "in c to a"]));
    for (file, own, others) in [
        (&access, &tsids[..2], &tsids[2..]),
        (&core, &tsids[2..], &tsids[..2]),
    ] {
        let text = messages(file).join("\n");
        assert!(own.iter().all(|tsid| text.contains(tsid)), "{text}");
        assert!(!others.iter().any(|tsid| text.contains(tsid)), "{text}");
    }
    let of_core = messages(&core).join("\n");
    let requests = of_core.matches("Configuration_Request").count();
    assert_eq!(requests, 2, "of the later one, and the refused: {of_core}");
    assert_eq!(messages(&bench.stop("nobody").await), [""; 0]);
    let all = said(&bench.stop("all.pcapng").await);
    for line in said(&access).iter().chain(&said(&core)) {
        assert!(all.contains(line), "{line} in {all:?}");
    }
    assert!(!all.iter().any(|line| line.contains("before")), "{all:?}");
    assert_eq!(bench.running().await, [""; 0]);
    drop(later);
}

/// Asks for a tunnel where there is no address left.
async fn refused(server: (String, u16)) {
    let mut request = Vec::new();
    MessageBuilder::new(CmType::CONFIGURATION_REQUEST, Tsid::UNASSIGNED, Sequence(1))
        .tlv(Tlv::ProtocolRevision(registry::PROTOCOL_REVISION))
        .encode(&mut request)
        .unwrap();
    let mut stream = TcpStream::connect(server).await.unwrap();
    stream.write_all(&request).await.unwrap();
    let (mut answer, mut buffer) = (Vec::new(), [0; 2048]);
    let code = loop {
        let len = stream.read(&mut buffer).await.unwrap();
        assert_ne!(len, 0, "no answer");
        answer.extend_from_slice(&buffer[..len]);
        if let Ok(Unit::Control(message)) = Unit::decode_datagram(&answer, &Limits::WIDEST) {
            break message.parse().unwrap().response_code();
        }
    };
    assert_ne!(code.unwrap(), ResponseCode::SUCCESS);
}

/// Passes connections on, until it is told to cut them.
async fn relay(target: SocketAddr) -> (SocketAddr, watch::Sender<()>, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let cut = watch::Sender::new(());
    let mut cuts = cut.subscribe();
    let mut task = JoinSet::new();
    task.spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            cuts.mark_unchanged();
            let mut server = TcpStream::connect(target).await.unwrap();
            tokio::select! {
                _ = copy_bidirectional(&mut client, &mut server) => {}
                _ = cuts.changed() => {}
            }
        }
    });
    (address, cut, task)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capture_follows_its_tunnel_to_another_transport() {
    let bench = Bench::new("workers = 4");
    let server = bench.lab.server_for(Side::Access, Transport::Tls, OPENSSL);
    let server = server.unwrap();
    let target = SocketAddr::new(server.host().parse().unwrap(), server.port().unwrap());
    let (address, cut, _task) = relay(target).await;
    let through = Server::new(Transport::Tls, address.ip().to_string(), address.port());
    let builder = Tunnel::builder(through).trust(bench.lab.trust());
    let mut notifications = builder.notifications();
    let far = bench.end(Side::Core, Transport::Tcp).await;
    // By its address before it is there, and by its name.
    let next: SocketAddr = "10.64.0.1:4000".parse().unwrap();
    bench
        .start("address", TraceFilter::Address(next.ip()))
        .await;
    let access = TraceFilter::Interface("access".to_owned());
    bench.start("access", access).await;
    let near = End::open(builder).await;
    assert_eq!(near.address(), next);
    bench.start("tsid", TraceFilter::Tunnel(near.tsid())).await;
    near.says(&far, "first").await;
    for round in 0..3 {
        cut.send_replace(());
        let resumed = async {
            loop {
                match notifications.recv().await.expect("not the end") {
                    Notification::Resumed(_) => return,
                    Notification::Down(reason) => panic!("{reason:?}"),
                    _ => {}
                }
            }
        };
        soon(resumed).await;
        near.says(&far, &format!("resumed {round}")).await;
        far.says(&near, &format!("answered {round}")).await;
    }
    let by_address = bench.stop("address").await;
    let by_name = bench.stop("tsid").await;
    let of_interface = bench.stop("access").await;
    let lines = [
        "in first",
        "in resumed 0",
        "out answered 0",
        "in resumed 1",
        "out answered 1",
        "in resumed 2",
        "out answered 2",
    ];
    assert_eq!(said(&by_address), expected(&lines));
    assert_eq!(said(&by_name), expected(&lines));
    let count = |file, what: &str| {
        let messages: Vec<String> = messages(file);
        messages
            .iter()
            .filter(|message| message.contains(what))
            .count()
    };
    // Before it has its address, by which one of them knows it, a tunnel asks without a name. A request that came in at another worker is
    // there once, as its answer is.
    for (what, known) in [
        ("Configuration_Request", 1),
        ("Configuration_Response", 1),
        ("Configuration_Resume_Request", 3),
        ("Configuration_Resume_Response", 3),
    ] {
        assert_eq!(count(&by_address, what), known, "{what}");
        assert_eq!(count(&of_interface, what), known, "{what}");
        let named = if known == 1 { 0 } else { known };
        assert_eq!(count(&by_name, what), named, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capture_of_a_tunnel_holds_what_goes_over_its_companions() {
    let bench = Bench::new("");
    let builder = bench.lab.tunnel(Transport::Tcp, OPENSSL).unwrap();
    let mut notifications = builder.notifications();
    let near = End::open(builder).await;
    let other = bench.end(Side::Access, Transport::Tcp).await;
    let far = bench.end(Side::Core, Transport::Tcp).await;
    bench.start("near", TraceFilter::Tunnel(near.tsid())).await;
    near.socket
        .set_tunnel_transport(TunnelTransport::Datagram)
        .unwrap();
    let beside = async {
        loop {
            let notification = notifications.recv().await.expect("not the end");
            if let Notification::Service { enabled: true, .. } = notification {
                return;
            }
        }
    };
    soon(beside).await;
    near.says(&far, "beside").await;
    other.says(&far, "another tunnel").await;
    far.says(&near, "back").await;
    let file = bench.stop("near").await;
    assert_eq!(said(&file), expected(&["in beside", "out back"]));
    let report = soon(bench.lab.server.report()).await.unwrap();
    assert_eq!(report.sessions.sessions, 4, "the companion among them");
    let messages = messages(&file);
    // The companion's own request and answer are there, by its own name.
    let own = near.tsid().to_string();
    assert!(
        messages
            .iter()
            .any(|message| message.contains("Configuration_Response") && !message.contains(&own)),
        "{messages:#?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capture_of_a_user_sees_all_tunnels_of_that_user_and_of_nobody_else() {
    let lab = Lab::start(&LabOptions {
        interface: "authentication = \"mtls\"".to_owned(),
        clear: false,
        ..LabOptions::default()
    });
    let bench = Bench {
        lab: lab.unwrap(),
        directory: tempfile::tempdir().unwrap(),
    };
    let open = async |name: &str, transport| {
        let builder = bench.lab.tunnel(transport, OPENSSL).unwrap();
        let identity = bench.lab.client_identity(name).unwrap();
        End::open(builder.identity(identity)).await
    };
    let alice = open("alice", Transport::Tls).await;
    let bob = open("bob", Transport::Tls).await;
    let filter = TraceFilter::Identity("CN=alice".to_owned());
    assert_eq!(bench.start("alice", filter).await.tunnels, 1);
    let also_alice = open("alice", Transport::Dtls).await;
    alice.says(&bob, "alice to bob").await;
    bob.says(&also_alice, "bob to alice").await;
    let carol = open("carol", Transport::Dtls).await;
    carol.says(&bob, "carol to bob").await;
    let file = bench.stop("alice").await;
    assert_eq!(
        said(&file),
        expected(&["in alice to bob", "out bob to alice"])
    );
    // The second tunnel from its request on, which has no name.
    let requests = messages(&file);
    assert!(
        requests[0].contains("Configuration_Request"),
        "{requests:#?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_must_not_be_written_down_is_not_in_the_file() {
    const INVITE: &str = "INVITE sip:+15551234@example.org SIP/2.0\r\n\
        Via: SIP/2.0/UDP 10.64.0.1:4000;branch=z9hG4bK1\r\n\
        From: \"Alice Secret\" <sip:alice@example.org>;tag=1\r\n\
        To: <sip:+15551234@example.org>\r\n\
        Call-ID: 1@10.64.0.1\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n";
    let bench = Bench::new("trace-redaction = \"sip\"");
    let near = bench.end(Side::Access, Transport::Tls).await;
    let far = bench.end(Side::Core, Transport::Udp).await;
    // The configuration's wish is the default, and the least.
    let mut options = bench.options("none", TraceFilter::All);
    options.redaction = Some(TraceRedaction::None);
    let refused = bench.lab.server.start_trace(options).await;
    assert!(matches!(refused, Err(TraceError::Redaction { .. })));
    bench.start("sip", TraceFilter::All).await;
    let mut options = bench.options("headers", TraceFilter::All);
    options.redaction = Some(TraceRedaction::Headers);
    soon(bench.lab.server.start_trace(options)).await.unwrap();
    near.says(&far, INVITE).await;
    for (name, is_sip) in [("sip", true), ("headers", false)] {
        let file = bench.stop(name).await;
        let bytes = std::fs::read(file).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(text.contains("INVITE sip:"), is_sip, "{name}");
        for secret in ["alice", "Alice", "Secret", "5551234"] {
            assert!(!text.contains(secret), "{secret} in {name}");
        }
    }
    assert!(!bench.directory.path().join("none").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn captures_are_bounded_and_overwrite_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let configured = directory.path().join("configured.pcapng");
    let bench = Bench::new(&format!("trace-file = {:?}", configured.to_str().unwrap()));
    let server = &bench.lab.server;
    for number in 0..MAX_TRACES {
        bench.start(&number.to_string(), TraceFilter::All).await;
    }
    let refused = server
        .start_trace(bench.options("more", TraceFilter::All))
        .await;
    assert!(matches!(refused, Err(TraceError::TooMany)), "{refused:?}");
    bench.stop("0").await;
    let again = server
        .start_trace(bench.options("0", TraceFilter::All))
        .await;
    assert!(matches!(again, Err(TraceError::File(_))), "{again:?}");
    let used = server
        .start_trace(bench.options("1", TraceFilter::All))
        .await;
    assert!(
        matches!(used, Err(TraceError::NameInUse { .. })),
        "{used:?}"
    );
    // A link leads nowhere, and what a ring would take over is left alone.
    let path = |name: &str| bench.directory.path().join(name);
    std::os::unix::fs::symlink(path("elsewhere"), path("link")).unwrap();
    std::fs::write(path("ring.1"), "precious").unwrap();
    for name in ["link", "ring"] {
        let mut options = bench.options(name, TraceFilter::All);
        options.files = Some(2);
        let refused = server.start_trace(options).await;
        assert!(matches!(refused, Err(TraceError::File(_))), "{refused:?}");
    }
    assert!(!path("elsewhere").exists());
    assert_eq!(std::fs::read_to_string(path("ring.1")).unwrap(), "precious");
    let unknown = TraceFilter::Interface("unknown".to_owned());
    let unknown = server.start_trace(bench.options("unknown", unknown)).await;
    assert!(matches!(unknown, Err(TraceError::NoSuchInterface { .. })));
    let spoilt: [fn(&mut TraceOptions); 6] = [
        |options| options.files = Some(0),
        |options| options.files = Some(1001),
        |options| options.file_size = Some(0),
        |options| options.file_time = Some(Duration::from_secs(86_401)),
        |options| options.time = Duration::ZERO,
        |options| options.time = Duration::from_secs(604_801),
    ];
    for spoil in spoilt {
        let mut options = bench.options("range", TraceFilter::All);
        spoil(&mut options);
        let refused = server.start_trace(options).await;
        assert!(
            matches!(refused, Err(TraceError::OutOfRange { .. })),
            "{refused:?}"
        );
    }
    assert!(!path("range").exists() && !path("unknown").exists() && !path("more").exists());

    // That of the configuration is one of them, and not to be stopped.
    let traces = soon(server.traces()).await.unwrap();
    assert_eq!((traces.len(), traces[0].left), (MAX_TRACES, None));
    assert_eq!(traces[0].name, "configured.pcapng");
    let refused = server.stop_trace("configured.pcapng").await;
    assert!(matches!(refused, Err(TraceError::Configured { .. })));
    let refused = server.stop_trace("0").await;
    assert!(matches!(refused, Err(TraceError::NoSuchTrace { .. })));
    let tracer = server.tracer().unwrap();
    assert_eq!(soon(tracer.stop_all()).await.unwrap().len(), MAX_TRACES - 1);
    assert_eq!(bench.running().await, ["configured.pcapng"]);
    let near = bench.end(Side::Access, Transport::Tls).await;
    let far = bench.end(Side::Core, Transport::Udp).await;
    near.says(&far, "goes on").await;

    // With the server all end, and those who ask later are told.
    bench.start("last", TraceFilter::All).await;
    near.says(&far, "the last word").await;
    drop((near, far));
    let last = path("last");
    let Bench {
        lab,
        directory: _kept,
    } = bench;
    lab.server.stop().unwrap();
    assert!(said(&configured).contains(&"in goes on".to_owned()));
    assert_eq!(
        said(&last),
        expected(&["in the last word", "out the last word"])
    );
    assert!(matches!(tracer.list().await, Err(TraceError::Stopping)));
}
