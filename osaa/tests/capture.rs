//! Capture files, read back by another reader.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::wildcard_enum_match_arm
)]

mod common;

use std::{
    fs::File,
    future::poll_fn,
    io::IoSlice,
    net::SocketAddr,
    path::Path,
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use common::{Ca, bounded};

use pcap_file::{
    DataLink,
    pcapng::{Block, PcapNgReader, blocks::enhanced_packet::EnhancedPacketOption},
};
use tokio::net::{TcpListener, TcpStream};
use tsc_osaa::{
    cert::ServerName,
    datagram::{DatagramOptions, DatagramSocket, RecvBatch, SendBatch},
    socket::StreamOptions,
    stream::{RECV_BUFFER, StreamTransport},
    trace::{
        Capture, CaptureError, CaptureOptions, CaptureWriter, Direction, Interface, Ring, Tap,
    },
};

/// An IPv4 packet with a UDP datagram from port 5060 to 5060.
fn packet(payload: &[u8]) -> Vec<u8> {
    let total = u16::try_from(28 + payload.len()).unwrap();
    let mut bytes = vec![0x45, 0];
    bytes.extend(total.to_be_bytes());
    bytes.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    bytes.extend([0x13, 0xc4, 0x13, 0xc4]);
    bytes.extend((total - 20).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    bytes
}

const CONTROL: [u8; 16] = [0x10, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2];

/// A file of at most so many bytes.
fn small(limit: u64) -> CaptureOptions {
    let mut options = CaptureOptions::default();
    options.limit = limit;
    options
}

/// The packets in a file: original lengths, and what is there.
fn packets(path: &Path) -> Vec<(u32, Vec<u8>)> {
    let mut reader = PcapNgReader::new(File::open(path).unwrap()).unwrap();
    let mut found = Vec::new();
    while let Some(block) = reader.next_block() {
        if let Block::EnhancedPacket(packet) = block.unwrap() {
            found.push((packet.original_len, packet.data.to_vec()));
        }
    }
    found
}

fn sample(capture: &Capture) {
    capture.record(Interface::Control, Direction::Outbound, &CONTROL);
    capture.record(Interface::Inner, Direction::Inbound, &packet(b"hello"));
    capture.record(
        Interface::Inner,
        Direction::Outbound,
        &packet(b"odd length!"),
    );
}

#[test]
fn what_was_captured_is_read_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("capture.pcapng");
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let writer = CaptureWriter::create(&path, CaptureOptions::default()).unwrap();
    let handle = writer.handle();
    sample(&handle);
    let stats = writer.close().unwrap();
    assert_eq!((stats.written, stats.dropped), (3, 0));
    // Handles that outlive the writer capture nothing.
    handle.record(Interface::Inner, Direction::Inbound, &[0x45]);
    assert_eq!(handle.stats().dropped, 1);

    let mut reader = PcapNgReader::new(File::open(&path).unwrap()).unwrap();
    let mut found = Vec::new();
    while let Some(block) = reader.next_block() {
        if let Block::EnhancedPacket(packet) = block.unwrap() {
            assert!(packet.timestamp >= before);
            assert!(packet.timestamp < before + Duration::from_secs(60));
            let EnhancedPacketOption::Flags(flags) = packet.options[0] else {
                panic!("{:?}", packet.options);
            };
            found.push((packet.interface_id, flags, packet.data.to_vec()));
        }
    }
    assert_eq!(
        found,
        [
            (1, 2, CONTROL.to_vec()),
            (0, 1, packet(b"hello")),
            (0, 2, packet(b"odd length!")),
        ]
    );
    let links: Vec<DataLink> = reader.interfaces().iter().map(|i| i.linktype).collect();
    assert_eq!(links, [DataLink::from(101), DataLink::from(147)]);
}

#[cfg(unix)]
#[test]
fn only_the_owner_may_read_it() {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt};
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("capture.pcapng");
    let is_private = || {
        let writer = CaptureWriter::create(&path, CaptureOptions::default()).unwrap();
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(writer);
    };
    is_private();
    // Somebody was let look at the one before.
    std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    is_private();
}

#[test]
fn the_file_is_bounded_and_losses_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("capture.pcapng");
    let writer = CaptureWriter::create(&path, small(10_000)).unwrap();
    let handle = writer.handle();
    for _ in 0..100 {
        handle.record(Interface::Inner, Direction::Inbound, &packet(&[0; 972]));
    }
    let stats = writer.close().unwrap();
    assert_eq!(stats.written, 9);
    assert_eq!(stats.dropped, 91);
    assert!(path.metadata().unwrap().len() < 10_500);
}

/// Names of the files beside each other, and how many packets each has.
fn ring(path: &Path) -> Vec<(String, usize)> {
    let directory = path.parent().unwrap().read_dir().unwrap();
    let mut files: Vec<_> = directory
        .map(|file| {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, packets(&path).len())
        })
        .collect();
    files.sort();
    files
}

#[test]
fn of_a_ring_the_newest_files_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c");
    let mut options = small(10_000);
    options.ring = Some(Ring {
        files: 3,
        period: Some(Duration::from_secs(3600)),
    });
    let writer = CaptureWriter::create(&path, options).unwrap();
    for count in 0..31_u8 {
        writer
            .handle()
            .record(Interface::Inner, Direction::Inbound, &packet(&[count; 972]));
    }
    // One that fits no file pushes none out.
    writer
        .handle()
        .record(Interface::Inner, Direction::Inbound, &packet(&[0; 20_000]));
    let stats = writer.close().unwrap();
    assert_eq!((stats.written, stats.dropped), (31, 1));
    let expected = [("c", 4), ("c.1", 9), ("c.2", 9)].map(|(name, count)| (name.to_owned(), count));
    assert_eq!(ring(&path), expected);
    assert_eq!(packets(&path).last().unwrap().1, packet(&[30; 972]));
    // What was captured before a restart stays as long as the ring lets it.
    drop(CaptureWriter::create(&path, options).unwrap());
    let expected = [("c", 0), ("c.1", 4), ("c.2", 9)].map(|(name, count)| (name.to_owned(), count));
    assert_eq!(ring(&path), expected);
}

#[test]
fn a_file_of_a_ring_ends_with_its_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c");
    let mut options = CaptureOptions::default();
    options.ring = Some(Ring {
        files: 4,
        period: Some(Duration::ZERO),
    });
    let writer = CaptureWriter::create(&path, options).unwrap();
    sample(&writer.handle());
    assert_eq!(writer.close().unwrap().written, 3);
    let expected = ["c", "c.1", "c.2"].map(|name| (name.to_owned(), 1));
    assert_eq!(ring(&path), expected);
}

/// A ring of new files only, of which each packet begins one.
fn fresh() -> CaptureOptions {
    let mut options = CaptureOptions::default();
    options.fresh = true;
    options.ring = Some(Ring {
        files: 3,
        period: Some(Duration::ZERO),
    });
    options
}

#[test]
fn a_fresh_ring_takes_no_name_that_is_there() {
    for name in ["c", "c.1", "c.2"] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c");
        std::fs::write(directory.path().join(name), name).unwrap();
        let error = CaptureWriter::create(&path, fresh()).unwrap_err();
        assert!(matches!(error, CaptureError::Create { .. }), "{error}");
        let text = std::fs::read_to_string(directory.path().join(name)).unwrap();
        assert_eq!(text, name);
    }
    // One that comes later ends the capture, and stays what it is.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c");
    let writer = CaptureWriter::create(&path, fresh()).unwrap();
    let later = directory.path().join("c.2");
    std::fs::write(&later, "later").unwrap();
    sample(&writer.handle());
    let error = writer.close().unwrap_err();
    assert!(error.to_string().contains("is there already"), "{error}");
    assert_eq!(std::fs::read_to_string(&later).unwrap(), "later");
}

#[test]
fn a_ring_goes_on_when_its_files_are_taken_away() {
    for options in [fresh(), {
        let mut options = fresh();
        options.fresh = false;
        options
    }] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c");
        let writer = CaptureWriter::create(&path, options).unwrap();
        std::fs::rename(&path, directory.path().join("looked-at")).unwrap();
        sample(&writer.handle());
        assert_eq!(writer.close().unwrap().written, 3);
        let names: Vec<_> = ring(&path).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["c", "c.1", "looked-at"]);
    }
}

#[test]
fn what_is_taken_away_is_not_written() {
    fn shorten(interface: Interface, bytes: &mut Vec<u8>) {
        match interface {
            Interface::Inner => bytes.truncate(28),
            Interface::Control | Interface::Outer => bytes[15] = 0,
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("capture.pcapng");
    let mut options = CaptureOptions::default();
    options.redact = Some(shorten);
    let writer = CaptureWriter::create(&path, options).unwrap();
    sample(&writer.handle());
    writer.close().unwrap();
    let mut control = CONTROL.to_vec();
    control[15] = 0;
    let expected = [
        (16, control),
        (33, packet(b"hello")[..28].to_vec()),
        (39, packet(b"odd length!")[..28].to_vec()),
    ];
    assert_eq!(packets(&path), expected);
}

#[test]
fn a_file_that_cannot_be_created_says_why() {
    let error = CaptureWriter::create(Path::new("/nonexistent/x.pcapng"), small(1)).unwrap_err();
    assert!(matches!(error, CaptureError::Create { .. }));
    assert!(
        error
            .to_string()
            .starts_with("cannot create the capture file /nonexistent/x.pcapng: ")
    );
}

/// A disk without room: the reason comes out of `close`, and capturing does not disturb anything.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_reported_at_the_end() {
    let result = CaptureWriter::create(Path::new("/dev/full"), CaptureOptions::default());
    let error = match result {
        Err(error) => error,
        Ok(writer) => {
            sample(&writer.handle());
            writer.close().unwrap_err()
        }
    };
    assert!(
        matches!(
            error,
            CaptureError::Create { .. } | CaptureError::Write { .. }
        ),
        "{error}"
    );
}

/// Wireshark's own reader, where it is installed (CI installs it); the test above stands without it.
#[test]
fn tshark_understands_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("capture.pcapng");
    let writer = CaptureWriter::create(&path, CaptureOptions::default()).unwrap();
    sample(&writer.handle());
    writer.close().unwrap();
    let fields = [
        "frame.interface_name",
        "frame.packet_flags_direction",
        "ip.src",
        "udp.port",
    ];
    let mut command = Command::new("tshark");
    command.arg("-r").arg(&path).args(["-T", "fields"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let Ok(output) = command.output() else {
        assert!(std::env::var_os("CI").is_none(), "CI must have tshark");
        return;
    };
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split('\t').collect()).collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert_eq!(lines[0][0], "control");
    assert_eq!(lines[1][0], "inner");
    assert_eq!(lines[1][2..], ["10.0.0.1", "5060,5060"]);
    let directions: Vec<&str> = lines.iter().map(|line| line[1]).collect();
    assert!(
        directions[0] == directions[2] && directions[0] != directions[1],
        "{text}"
    );
}

/// A capture of outer packets in a directory of its own, and the tap that fills it.
fn outer(options: impl FnOnce(&mut CaptureOptions)) -> (tempfile::TempDir, CaptureWriter, Tap) {
    let directory = tempfile::tempdir().unwrap();
    let mut capture = CaptureOptions::default();
    capture.outer = true;
    options(&mut capture);
    let writer = CaptureWriter::create(&directory.path().join("capture"), capture).unwrap();
    let tap = Tap::new();
    tap.set(&[writer.handle()]);
    (directory, writer, tap)
}

/// Both ends of a TCP connection.
async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

/// Both ends of a TLS connection, of which the client's tells that tap.
async fn tls(tap: Tap) -> (StreamTransport, StreamTransport) {
    let ca = Ca::new("root");
    let (near, far) = sockets().await;
    let mut options = StreamOptions::client();
    options.tap = Some(tap);
    let (security, answers) = (ca.client_security(), ca.server_security());
    let server = StreamOptions::server();
    let name = ServerName::try_from("localhost").unwrap();
    let (near, far) = tokio::join!(
        StreamTransport::tls_client(near, &security, name, &options),
        StreamTransport::tls_server(far, &answers, &server),
    );
    (near.unwrap(), far.unwrap())
}

async fn read(stream: &mut StreamTransport, len: usize) -> Vec<u8> {
    let mut buffer = vec![0; RECV_BUFFER];
    let mut all = Vec::new();
    while all.len() < len {
        let read = stream.recv(&mut buffer).await.unwrap();
        all.extend_from_slice(&buffer[..read]);
    }
    all
}

/// RFC 1071, over words in the order of the wire.
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| match word {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        [high] => u32::from(*high) << 8,
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

/// A packet over IPv4: addresses and ports, what is between IP header and payload, and the payload.
fn parse(packet: &[u8], upper: usize) -> (SocketAddr, SocketAddr, &[u8], &[u8]) {
    assert_eq!(
        usize::from(packet[2]) << 8 | usize::from(packet[3]),
        packet.len()
    );
    assert_eq!(sum(&packet[..20]), 0xFFFF, "checksum of the header");
    let length = u16::try_from(packet.len() - 20).unwrap().to_be_bytes();
    let pseudo = [&packet[12..20], &[0, packet[9]], &length, &packet[20..]].concat();
    assert_eq!(sum(&pseudo), 0xFFFF, "checksum above");
    let address = |at: usize, port: usize| {
        let ip: [u8; 4] = packet[at..at + 4].try_into().unwrap();
        SocketAddr::from((ip, u16::from_be_bytes([packet[port], packet[port + 1]])))
    };
    let (header, payload) = packet[20..].split_at(upper);
    (address(12, 20), address(16, 22), header, payload)
}

#[tokio::test]
async fn a_stream_is_seen_from_its_beginning_to_its_end() {
    bounded(async {
        let (directory, writer, tap) = outer(|_| {});
        let (near, far) = sockets().await;
        let mut options = StreamOptions::client();
        options.tap = Some(tap.clone());
        let mut near = StreamTransport::plain(near, &options).unwrap();
        let (here, there) = (near.local_addr(), near.peer_addr());
        let mut far = StreamTransport::plain(far, &StreamOptions::server()).unwrap();
        // Longer than a packet can be.
        let question = vec![7; 100_000];
        let pieces = question.chunks(9000).map(IoSlice::new).collect::<Vec<_>>();
        let (sent, heard) = tokio::join!(near.send(&pieces), read(&mut far, question.len()));
        sent.unwrap();
        assert_eq!(heard, question);
        far.send(&[IoSlice::new(b"answer")]).await.unwrap();
        assert_eq!(read(&mut near, 6).await, b"answer");
        // What another capture might see does not belong here.
        tap.set(&[]);
        near.send(&[IoSlice::new(b"unseen")]).await.unwrap();
        tap.set(&[writer.handle()]);
        poll_fn(|cx| near.poll_shutdown(cx)).await.unwrap();
        drop((near, far));
        writer.close().unwrap();

        let found = packets(&directory.path().join("capture"));
        let mut seen = (Vec::new(), Vec::new());
        let mut flags = Vec::new();
        for (_, packet) in &found {
            let (from, to, tcp, payload) = parse(packet, 20);
            let is_mine = (from, to) == (here, there);
            assert!(is_mine || (from, to) == (there, here));
            let number = |at: usize| u32::from_be_bytes(tcp[at..at + 4].try_into().unwrap());
            let (mine, other) = if is_mine {
                (&mut seen.0, &seen.1)
            } else {
                (&mut seen.1, &seen.0)
            };
            let next = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap() + 1;
            let (sequence, acknowledged) = match tcp[13] {
                2 => (0, 0),
                18 => (0, 1),
                _ => (next(mine), next(other)),
            };
            assert_eq!((number(4), number(8)), (sequence, acknowledged));
            mine.extend_from_slice(payload);
            if !payload.is_empty() {
                assert_eq!(tcp[13], 24);
            } else {
                flags.push((is_mine, tcp[13]));
            }
        }
        assert_eq!(seen, (question, b"answer".to_vec()));
        let opening = [(true, 2), (false, 18), (true, 16)];
        assert_eq!(flags, [&opening[..], &[(true, 17)]].concat());
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_was_there_before_has_no_beginning() {
    bounded(async {
        let (directory, writer, tap) = outer(|_| {});
        tap.set(&[]);
        let (near, far) = sockets().await;
        let mut options = StreamOptions::client();
        options.tap = Some(tap.clone());
        let mut near = StreamTransport::plain(near, &options).unwrap();
        tap.set(&[writer.handle()]);
        near.send(&[IoSlice::new(b"late")]).await.unwrap();
        drop((near, far));
        writer.close().unwrap();
        let found = packets(&directory.path().join("capture"));
        let [(_, packet)] = &found[..] else {
            panic!("{found:?}");
        };
        assert_eq!(parse(packet, 20).3, b"late");
    })
    .await;
}

#[tokio::test]
async fn datagrams_of_a_run_are_seen_one_by_one() {
    bounded(async {
        let (directory, writer, tap) = outer(|_| {});
        let any = "127.0.0.1:0".parse().unwrap();
        let mut options = DatagramOptions::default();
        let mut far = DatagramSocket::bind(any, &options).unwrap();
        options.tap = Some(tap);
        let mut near = DatagramSocket::connect(far.local_addr(), None, &options).unwrap();
        let (here, there) = (near.local_addr(), far.local_addr());
        let mut batch = SendBatch::new(100_000);
        let sent: Vec<Vec<u8>> = [100, 100, 40, 200].map(|len| vec![1; len]).to_vec();
        for datagram in &sent {
            assert!(batch.push(there, None, datagram));
        }
        poll_fn(|cx| near.poll_send(cx, &mut batch)).await.unwrap();
        assert!(batch.push(here, None, b"one"));
        assert!(batch.push(here, None, b"two"));
        poll_fn(|cx| far.poll_send(cx, &mut batch)).await.unwrap();
        let mut inbox = RecvBatch::new(4);
        let mut received = 0;
        while received < 2 {
            received += poll_fn(|cx| near.poll_recv(cx, &mut inbox)).await.unwrap();
        }
        drop(near);
        writer.close().unwrap();
        let found = packets(&directory.path().join("capture"));
        let mut seen: Vec<_> = found.iter().map(|(_, packet)| parse(packet, 8)).collect();
        let back = seen.split_off(4);
        assert!(
            seen.iter()
                .all(|(from, to, ..)| (*from, *to) == (here, there))
        );
        let payloads: Vec<_> = seen.iter().map(|(.., payload)| payload.to_vec()).collect();
        assert_eq!(payloads, sent);
        let expected = [b"one", b"two"].map(|payload| (there, here, payload.to_vec()));
        let back = back
            .iter()
            .map(|(from, to, _, payload)| (*from, *to, payload.to_vec()));
        assert_eq!(back.collect::<Vec<_>>(), expected);
    })
    .await;
}

/// The blocks of a file after its interfaces: `Some` with the lines of secrets, `None` for packets.
fn blocks(path: &Path) -> Vec<Option<String>> {
    let mut reader = PcapNgReader::new(File::open(path).unwrap()).unwrap();
    let mut found = Vec::new();
    while let Some(block) = reader.next_block() {
        match block.unwrap() {
            Block::EnhancedPacket(_) => found.push(None),
            Block::Unknown(block) => {
                assert_eq!(block.type_, 10);
                let word =
                    |at: usize| u32::from_ne_bytes(block.value[at..at + 4].try_into().unwrap());
                assert_eq!(word(0), 0x544C_534B);
                let len = usize::try_from(word(4)).unwrap();
                assert_eq!(block.value.len(), (8 + len).next_multiple_of(4));
                found.push(Some(
                    String::from_utf8(block.value[8..8 + len].to_vec()).unwrap(),
                ));
            }
            _ => {}
        }
    }
    found
}

#[tokio::test]
async fn files_begin_with_the_secrets_of_connections_that_live() {
    bounded(async {
        for wanted in [true, false] {
            let (directory, writer, tap) = outer(|options| {
                options.insecure_decryption_secrets = wanted;
                options.limit = 100_000;
                options.ring = Some(Ring {
                    files: 9,
                    period: None,
                });
            });
            let (mut near, _far) = tls(tap).await;
            near.send(&[IoSlice::new(b"secret")]).await.unwrap();
            let fill = |letter| {
                // Secrets and handshakes may take half a file: no packet is longer.
                let packet = packet(&vec![letter; 45_000]);
                for _ in 0..2 {
                    let handle = writer.handle();
                    handle.record(Interface::Inner, Direction::Inbound, &packet);
                }
            };
            // The second and third time there is no room in the file before.
            fill(1);
            fill(2);
            // Not before the second has its beginning.
            let [second, first] = ["capture", "capture.1"].map(|name| directory.path().join(name));
            while !(first.exists() && second.metadata().is_ok_and(|file| file.len() > 45_000)) {
                tokio::task::yield_now().await;
            }
            drop(near);
            fill(3);
            assert_eq!(writer.close().unwrap().dropped, 0);
            let read = |name: &str| blocks(&directory.path().join(name));
            let first = read("capture.2");
            let secrets = |blocks: &[Option<String>]| {
                let lines: Vec<_> = blocks.iter().flatten().cloned().collect();
                lines.concat()
            };
            if !wanted {
                let all = ["capture", "capture.1", "capture.2"].map(read).concat();
                assert_eq!(secrets(&all), "");
                continue;
            }
            let of_first = secrets(&first);
            let labels: Vec<_> = of_first
                .lines()
                .map(|line| line.split(' ').next().unwrap())
                .collect();
            for label in [
                "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
                "SERVER_HANDSHAKE_TRAFFIC_SECRET",
                "CLIENT_TRAFFIC_SECRET_0",
                "SERVER_TRAFFIC_SECRET_0",
            ] {
                assert_eq!(labels.iter().filter(|found| **found == label).count(), 1);
            }
            assert_eq!(labels.len(), 4);
            // SYN, SYN, ACK and the ClientHello come before; what the server has answered comes after.
            let begin: Vec<_> = first.iter().take(6).map(Option::is_some).collect();
            assert_eq!(begin, [false, false, false, false, true, true]);
            let second = read("capture.1");
            assert_eq!(second[0].as_deref(), Some(&*of_first));
            // Nobody needs them any more.
            assert_eq!(secrets(&read("capture")), "");
        }
    })
    .await;
}

#[tokio::test]
async fn each_capture_of_a_tap_gets_what_it_wants_and_until_it_ends() {
    bounded(async {
        let mut captures = Vec::new();
        let tap = Tap::new();
        for (packets, secrets) in [(true, false), (false, true), (true, true)] {
            captures.push(outer(|options| {
                options.outer = packets;
                options.insecure_decryption_secrets = secrets;
            }));
        }
        let handles: Vec<_> = captures
            .iter()
            .map(|(_, writer, _)| writer.handle())
            .collect();
        tap.set(&handles);
        drop(handles);
        let (mut near, mut far) = tls(tap.clone()).await;
        near.send(&[IoSlice::new(b"asked")]).await.unwrap();
        assert_eq!(read(&mut far, 5).await, b"asked");
        far.send(&[IoSlice::new(b"answered")]).await.unwrap();
        assert_eq!(read(&mut near, 8).await, b"answered");
        // What was received last waits for its reader to come back; it is theirs all the same, and what comes then is not.
        tap.set(&[]);
        far.send(&[IoSlice::new(b"after the end")]).await.unwrap();
        assert_eq!(read(&mut near, 13).await, b"after the end");
        let found: Vec<_> = captures
            .into_iter()
            .map(|(directory, writer, _)| {
                let stats = writer.close().unwrap();
                assert_eq!(stats.dropped, 0);
                let found = blocks(&directory.path().join("capture"));
                let packets = found.iter().filter(|block| block.is_none()).count();
                assert_eq!(u64::try_from(packets).unwrap(), stats.written);
                (packets, found.into_iter().flatten().collect::<Vec<_>>())
            })
            .collect();
        let [
            (packets, none),
            (no_packets, secrets),
            (same_packets, same_secrets),
        ] = &found[..]
        else {
            panic!("{found:?}");
        };
        assert_eq!((none.len(), *no_packets), (0, 0));
        assert_eq!(secrets.len(), 4);
        assert_eq!(secrets, same_secrets);
        // The beginning, ClientHello, the server's answer in one or two, Finished, and what was said.
        assert!((8..10).contains(packets), "{packets}");
        assert_eq!(packets, same_packets);
        // Their writers are gone, which its secrets have nothing to do with any more.
        drop((near, far));
    })
    .await;
}

#[test]
fn a_redacted_capture_takes_no_secrets() {
    let mut options = CaptureOptions::default();
    options.redact = Some(|_, _| {});
    options.insecure_decryption_secrets = true;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("capture");
    let error = CaptureWriter::create(&path, options).unwrap_err();
    assert!(matches!(error, CaptureError::SecretsInRedacted), "{error}");
    assert!(!path.exists());
}
