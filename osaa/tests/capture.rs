//! Capture files, read back by another reader.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::{
    fs::File,
    path::Path,
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use pcap_file::{
    DataLink,
    pcapng::{Block, PcapNgReader, blocks::enhanced_packet::EnhancedPacketOption},
};
use tsc_osaa::trace::{
    Capture, CaptureError, CaptureOptions, CaptureWriter, Direction, Interface, Ring,
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
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("capture.pcapng");
    let writer = CaptureWriter::create(&path, CaptureOptions::default()).unwrap();
    let mode = path.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(writer);
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

#[test]
fn what_is_taken_away_is_not_written() {
    fn shorten(interface: Interface, bytes: &mut Vec<u8>) {
        match interface {
            Interface::Inner => bytes.truncate(28),
            Interface::Control => bytes[15] = 0,
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
