//! Captures of the outside, of real tunnels: what Wireshark makes of them, and what is not in them.

use std::{fs, net::SocketAddr, path::Path, process::Command, time::Duration};

use tsc_demo::lab::{Lab, LabOptions, Side};
use tsc_server::{
    config::TraceRedaction,
    trace::{self, TraceError, TraceFilter},
};
use tsc_tapi::{DtlsBackendKind, Redaction, TraceOptions, Transport, Tunnel, UdpSocket};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../wireshark/tscf.lua");

const MESSAGE: &[u8] = b"MESSAGE sip:bob.secretive@example.com SIP/2.0\r\n\
Via: SIP/2.0/UDP 10.64.0.1:5060;branch=z9hG4bK1\r\n\
From: \"Alice Confidential\" <sip:alice.confidential@example.com>;tag=1\r\n\
To: <sip:bob.secretive@example.com>\r\n\
Call-ID: 1@10.64.0.1\r\n\
CSeq: 1 MESSAGE\r\n\
Content-Type: text/plain\r\n\
Content-Length: 14\r\n\r\nprivate matter";

/// What may be in no capture that leaves out what is said.
const NAMES: [&[u8]; 4] = [b"secretive", b"onfidential", b"private", b"matter"];

/// What `tshark` shows of those fields in the packets of the outside that the filter lets pass.
fn outer_fields(path: &Path, filter: &str, fields: &[&str]) -> Vec<Vec<String>> {
    let filter = format!("frame.interface_name == \"outer\" && ({filter})");
    let mut command = Command::new("tshark");
    command
        // Nobody's own preferences or plugins.
        .env("HOME", "/nonexistent")
        .env("XDG_CONFIG_HOME", "/nonexistent")
        .args(["-n", "-X", &format!("lua_script:{SCRIPT}"), "-T", "fields"])
        // The system may have chosen a port that stands for some other protocol there.
        .args(["-o", "tcp.try_heuristic_first:TRUE"])
        .args(["-o", "udp.try_heuristic_first:TRUE"])
        .args(["-Y", &filter, "-r"])
        .arg(path);
    for field in fields {
        command.args(["-e", field]);
    }
    let output = command
        .output()
        .expect("tshark is installed (Debian: apt-get install tshark)");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let text = String::from_utf8(output.stdout).unwrap();
    let words = |line: &str| line.split('\t').map(str::to_owned).collect();
    text.lines().map(words).collect()
}

/// How many packets of the outside the filter lets pass.
fn outer(path: &Path, filter: &str) -> usize {
    outer_fields(path, filter, &["frame.number"]).len()
}

fn has(path: &Path, text: &[u8]) -> bool {
    let bytes = fs::read(path).unwrap();
    bytes.windows(text.len()).any(|window| window == text)
}

/// A server whose capture is that file, and what else `[tscf-config]` says.
fn lab(file: &Path, system: &str) -> Lab {
    Lab::start(&LabOptions {
        system: format!("trace-file = {:?}\n{system}", file.display().to_string()),
        ..LabOptions::default()
    })
    .unwrap()
}

async fn tunnel(lab: &Lab, transport: Transport, trace: Option<(&Path, TraceOptions)>) -> Tunnel {
    let builder = lab.tunnel_to(Side::Access, transport, DtlsBackendKind::OpenSsl);
    let mut builder = builder.unwrap();
    if let Some((path, options)) = trace {
        builder = builder.trace(path).trace_options(options);
    }
    builder.connect().await.unwrap()
}

fn socket(tunnel: &Tunnel) -> UdpSocket {
    let address = tunnel.config().ipv4().unwrap();
    tunnel.bind_udp(SocketAddr::new(address, 5060)).unwrap()
}

async fn close(tunnel: Tunnel) {
    tunnel.close(Duration::from_secs(5)).await.unwrap();
}

/// Sends something from one to the other and waits for it. Over UDP and DTLS on loopback nothing is lost that a socket has room for.
async fn pass(from: &UdpSocket, to: &UdpSocket, payload: &[u8]) {
    let target = to.local_addr().unwrap();
    from.send_to(payload, target).await.unwrap();
    let mut buffer = vec![0; 2000];
    let heard = tokio::time::timeout(Duration::from_secs(20), to.recv_from(&mut buffer));
    let (len, _) = heard.await.unwrap().unwrap();
    assert_eq!(buffer[..len], *payload);
}

const OUTER: &str = "trace-outer = true";
const SECRETS: &str = "trace-insecure-decryption-secrets = true";

fn open_options() -> TraceOptions {
    let mut options = TraceOptions::default();
    options.outer = true;
    options.insecure_write_decryption_secrets(true);
    options
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn captures_of_the_outside_are_opened_by_their_own_secrets_and_by_nothing_else() {
    for (transport, protocol) in [(Transport::Tls, "tls"), (Transport::Dtls, "dtls")] {
        for open in [true, false] {
            let directory = tempfile::tempdir().unwrap();
            let server_file = directory.path().join("server.pcapng");
            let client_file = directory.path().join("client.pcapng");
            let mut options = open_options();
            options.insecure_write_decryption_secrets(open);
            let system = if open {
                [OUTER, SECRETS].join("\n")
            } else {
                OUTER.to_owned()
            };
            let lab = lab(&server_file, &system);
            let near = tunnel(&lab, transport, Some((&client_file, options))).await;
            let far = tunnel(&lab, Transport::Udp, None).await;
            pass(&socket(&near), &socket(&far), MESSAGE).await;
            close(near).await;
            close(far).await;
            drop(lab.server.stop().unwrap());
            for file in [&client_file, &server_file] {
                let whose = format!("{} {open}", file.display());
                let handshake = format!("{protocol}.handshake.type");
                let damage =
                    "_ws.malformed || tcp.analysis.lost_segment || tcp.analysis.retransmission";
                let filter = format!("{protocol} || {damage}");
                let fields = [
                    &handshake,
                    "_ws.malformed",
                    "tsm.type",
                    "sip.Method",
                    "sip.from.user",
                ];
                let shown = outer_fields(file, &filter, &fields);
                // What several packets or messages of one have of a field.
                let all = |field: usize| -> Vec<&str> {
                    let all = shown.iter().flat_map(|line| line[field].split(','));
                    all.filter(|value| !value.is_empty()).collect()
                };
                // A handshake is one with or without them.
                assert!(
                    all(0).contains(&"1") && all(0).contains(&"2"),
                    "{whose}: {shown:?}"
                );
                assert!(all(1).is_empty(), "{whose}: {shown:?}");
                if !open {
                    assert!(all(2).is_empty() && all(3).is_empty(), "{whose}: {shown:?}");
                    continue;
                }
                assert_eq!(outer(file, damage), 0, "{whose}");
                // Request, answer, and what ends the tunnel.
                for kind in ["1", "2", "5", "6"] {
                    assert!(all(2).contains(&kind), "{whose}: {kind} of {:?}", all(2));
                }
                assert_eq!(all(3), ["MESSAGE"], "{whose}");
                assert_eq!(all(4), ["alice.confidential"], "{whose}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_alone_open_what_somebody_else_has_recorded() {
    for (transport, protocol) in [(Transport::Tls, "tls"), (Transport::Dtls, "dtls")] {
        let directory = tempfile::tempdir().unwrap();
        let [wire, secrets, both] =
            ["wire", "secrets", "both"].map(|name| directory.path().join(name));
        let lab = lab(&wire, OUTER);
        let mut options = open_options();
        options.outer = false;
        let near = tunnel(&lab, transport, Some((&secrets, options))).await;
        close(near).await;
        drop(lab.server.stop().unwrap());
        let merged = Command::new("mergecap")
            .arg("-a")
            .arg("-w")
            .args([&both, &secrets, &wire])
            .status();
        assert!(merged.unwrap().success());
        let filter = format!("{protocol} && tsm.type");
        assert_eq!(
            (outer(&wire, &filter), outer(&secrets, "ip")),
            (0, 0),
            "{protocol}"
        );
        assert!(outer(&both, &filter) >= 2, "{protocol}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redacted_capture_of_a_server_names_nobody_outside_either() {
    for redaction in ["headers", "sip"] {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("server.pcapng");
        let system = format!("{OUTER}\ntrace-redaction = \"{redaction}\"");
        let lab = lab(&file, &system);
        // Both carry everything in clear.
        let near = tunnel(&lab, Transport::Tcp, None).await;
        let far = tunnel(&lab, Transport::Udp, None).await;
        pass(&socket(&near), &socket(&far), MESSAGE).await;
        close(near).await;
        close(far).await;
        drop(lab.server.stop().unwrap());
        for name in NAMES {
            assert!(
                !has(&file, name),
                "{redaction}: {}",
                String::from_utf8_lossy(name)
            );
        }
        assert_eq!(has(&file, b"MESSAGE sip:"), redaction == "sip");
        for wanted in ["tcp.flags.syn == 1", "tcp.len > 300", "udp.length > 300"] {
            assert!(outer(&file, wanted) > 0, "{redaction}: {wanted}");
        }
        // Nothing is behind the headers.
        for line in outer_fields(&file, "ip", &["frame.cap_len", "ip.proto"]) {
            let headers = [["40", "6"], ["28", "17"]];
            assert!(headers.iter().any(|headers| line == headers), "{line:?}");
        }
        let refused = Lab::start(&LabOptions {
            system: format!("{system}\n{SECRETS}"),
            ..LabOptions::default()
        });
        let refused = refused.err().unwrap().to_string();
        assert!(
            refused.contains("trace-insecure-decryption-secrets"),
            "{refused}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_file_of_a_ring_is_opened_alone_over_dtls_and_all_together_over_tls() {
    const ROUNDS: usize = 60;
    for (transport, protocol) in [(Transport::Dtls, "dtls"), (Transport::Tls, "tls")] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("client.pcapng");
        let lab = Lab::start(&LabOptions::default()).unwrap();
        let mut options = open_options();
        options.files = 100;
        options.file_size = 50_000;
        let near = tunnel(&lab, transport, Some((&path, options))).await;
        let far = tunnel(&lab, Transport::Udp, None).await;
        let (from, to) = (socket(&near), socket(&far));
        for _ in 0..ROUNDS {
            pass(&from, &to, &[MESSAGE, &[b'x'; 700]].concat()).await;
        }
        drop((from, to));
        close(near).await;
        close(far).await;
        drop(lab.server.stop().unwrap());
        let files: Vec<_> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert!(files.len() > 2, "{files:?}");
        let messages = format!("{protocol} && sip.Method == \"MESSAGE\"");
        if transport == Transport::Dtls {
            let found: Vec<_> = files.iter().map(|file| outer(file, &messages)).collect();
            assert!(found.iter().all(|found| *found > 0), "{found:?}");
            assert_eq!(found.iter().sum::<usize>(), ROUNDS);
        }
        let all = directory.path().join("all");
        let merged = Command::new("mergecap")
            .arg("-w")
            .arg(&all)
            .args(&files)
            .status();
        assert!(merged.unwrap().success());
        assert_eq!(outer(&all, &messages), ROUNDS, "{protocol}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capture_begins_and_ends_while_its_tunnel_is_up() {
    let lab = Lab::start(&LabOptions::default()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| directory.path().join(name));
    let near = tunnel(&lab, Transport::Tls, None).await;
    let far = tunnel(&lab, Transport::Udp, None).await;
    let (from, to) = (socket(&near), socket(&far));
    assert_eq!(near.stop_trace().await.unwrap(), None);
    pass(&from, &to, b"before it begins").await;
    let mut options = TraceOptions::default();
    options.outer = true;
    near.start_trace(&first, options).await.unwrap();
    pass(&from, &to, b"into the first").await;
    // Another file, without an end of the first.
    near.start_trace(&second, TraceOptions::default())
        .await
        .unwrap();
    pass(&from, &to, b"into the second").await;
    let stats = near.stop_trace().await.unwrap().unwrap();
    assert!(stats.written > 0 && stats.dropped == 0, "{stats:?}");
    pass(&from, &to, b"after the end").await;
    let before = fs::read(&second).unwrap();
    for (file, text, is_there) in [
        (&first, "before it begins", false),
        (&first, "into the first", true),
        (&first, "into the second", false),
        (&second, "into the first", false),
        (&second, "into the second", true),
        (&second, "after the end", false),
    ] {
        assert_eq!(
            has(file, text.as_bytes()),
            is_there,
            "{} {text}",
            file.display()
        );
    }
    // Under TLS, and in the middle of a connection.
    assert!(outer(&first, "tcp.len > 0 && tcp.flags.syn == 0") > 0);
    let mut options = open_options();
    options.redaction = Redaction::Sip;
    let refused = near.start_trace(&second, options).await.unwrap_err();
    assert!(
        matches!(refused, tsc_tapi::TraceError::Capture(_)),
        "{refused}"
    );
    assert_eq!(fs::read(&second).unwrap(), before);
    drop((from, to));
    close(near).await;
    close(far).await;
    drop(lab.server.stop().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_tunnel_that_is_over_nothing_is_captured_and_no_file_is_touched() {
    let lab = Lab::start(&LabOptions::default()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("trace.pcapng");
    let near = tunnel(&lab, Transport::Tcp, Some((&path, TraceOptions::default()))).await;
    drop(lab.server.stop().unwrap());
    near.closed().await;
    let captured = fs::read(&path).unwrap();
    assert!(has(&path, b"stopping"), "why it is over");
    let limit = Duration::from_secs(20);
    let started = near.start_trace(&path, TraceOptions::default());
    let refused = tokio::time::timeout(limit, started)
        .await
        .unwrap()
        .unwrap_err();
    assert!(
        matches!(refused, tsc_tapi::TraceError::TunnelDown(_)),
        "{refused}"
    );
    let stopped = tokio::time::timeout(limit, near.stop_trace())
        .await
        .unwrap();
    assert_eq!(stopped.unwrap(), None);
    assert_eq!(fs::read(&path).unwrap(), captured);
}

#[test]
fn a_capture_ends_though_nobody_drives_its_tunnel() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    };
    let lab = Lab::start(&LabOptions::default()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("trace.pcapng");
    let (driving, other) = (runtime(), runtime());
    let near = driving.block_on(tunnel(
        &lab,
        Transport::Tcp,
        Some((&path, TraceOptions::default())),
    ));
    let stats = other.block_on(near.stop_trace()).unwrap().unwrap();
    assert!(stats.written >= 2, "{stats:?}");
    driving.block_on(close(near));
    drop(lab.server.stop().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capture_of_a_running_server_has_the_outside_of_its_interface_and_the_secrets_of_its_time()
 {
    for (transport, protocol) in [(Transport::Tls, "tls"), (Transport::Dtls, "dtls")] {
        let directory = tempfile::tempdir().unwrap();
        let lab = Lab::start(&LabOptions::default()).unwrap();
        let options = |name: &str, filter, open| {
            let mut options = trace::TraceOptions::new(directory.path().join(name));
            options.filter = filter;
            options.outer = true;
            options.insecure_decryption_secrets = open;
            options
        };
        let interface = |side: &str| TraceFilter::Interface(side.to_owned());
        let before = tunnel(&lab, transport, None).await;
        for started in [
            options("opened", interface("access"), true),
            options("also-opened", TraceFilter::All, true),
            options("closed", interface("access"), false),
            options("elsewhere", interface("core"), true),
        ] {
            lab.server.start_trace(started).await.unwrap();
        }
        let listed = lab.server.traces().await.unwrap();
        let shown: Vec<_> = listed
            .iter()
            .map(|trace| (trace.outer, trace.insecure_decryption_secrets))
            .collect();
        assert_eq!(
            shown,
            [(true, true), (true, true), (true, false), (true, true)]
        );

        let meanwhile = tunnel(&lab, transport, None).await;
        let (from, to) = (socket(&before), socket(&meanwhile));
        pass(&from, &to, MESSAGE).await;
        let stopped = lab.server.stop_trace("opened").await.unwrap();
        assert!(
            stopped.insecure_decryption_secrets && stopped.packets.dropped == 0,
            "{stopped:?}"
        );
        let opened = fs::read(&stopped.file).unwrap();
        // For the others this goes on.
        pass(&from, &to, MESSAGE).await;
        for name in ["also-opened", "closed", "elsewhere"] {
            lab.server.stop_trace(name).await.unwrap();
        }
        let after = tunnel(&lab, transport, None).await;
        pass(&from, &to, MESSAGE).await;
        assert_eq!(fs::read(&stopped.file).unwrap(), opened, "it is over");

        // One leg of two: the other connection was there before.
        let messages = format!("{protocol} && sip.Method == \"MESSAGE\"");
        for (name, shown) in [
            ("opened", 1),
            ("also-opened", 2),
            ("closed", 0),
            ("elsewhere", 0),
        ] {
            let file = directory.path().join(name);
            assert_eq!(outer(&file, &messages), shown, "{protocol} {name}");
            // The answer of the one that came meanwhile.
            let hello = format!("{protocol}.handshake.type == 2");
            assert_eq!(
                outer(&file, &hello),
                usize::from(name != "elsewhere"),
                "{protocol} {name}"
            );
            let has_secrets = has(&file, b"_RANDOM ") || has(&file, b"TRAFFIC_SECRET_0 ");
            assert_eq!(has_secrets, name.ends_with("opened"), "{protocol} {name}");
        }
        assert_eq!(outer(&directory.path().join("elsewhere"), "frame"), 0);

        let name = tsc_tpl::Tsid(after.config().tunnel_id);
        for open in [false, true] {
            let mut refused = options("refused", TraceFilter::Tunnel(name), open);
            refused.outer = !open;
            let refused = lab.server.start_trace(refused).await.unwrap_err();
            assert!(matches!(refused, TraceError::OutsideOfTunnel), "{refused}");
        }
        let mut refused = options("refused", TraceFilter::All, true);
        refused.redaction = Some(TraceRedaction::Sip);
        let refused = lab.server.start_trace(refused).await.unwrap_err();
        assert!(refused.to_string().contains("secrets"), "{refused}");
        assert!(!directory.path().join("refused").exists());
        drop((from, to));
        for tunnel in [before, meanwhile, after] {
            close(tunnel).await;
        }
        drop(lab.server.stop().unwrap());
    }
}
