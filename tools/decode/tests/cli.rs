//! The built program: what it prints and how it ends. Captures are written by `pcap-file`, not by us.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation
)]

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::{DataLink, TsResolution};
use serde_json::Value;
use tsc_tpl::{
    CmType, IpPacket, Limits, MessageBuilder, RedundancyEntry, RedundancyFrame, ResponseCode,
    ResumeKey, Sequence, StunKind, StunMessage, Tlv, Tsid,
};

const KEEPALIVE: &str = "10070000 0040000000000001 0000000b";

fn run(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tsc-decode"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The program may end before it has read everything.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

#[track_caller]
fn check(output: &Output, code: i32) -> String {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        output.status.code(),
        Some(code),
        "stdout: {text}\nstderr: {errors}"
    );
    text
}

fn json(output: &Output, code: i32) -> Vec<Value> {
    check(output, code)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn encode(builder: &MessageBuilder<'_>) -> Vec<u8> {
    let mut wire = Vec::new();
    builder.encode(&mut wire).unwrap();
    wire
}

fn keepalive(sequence: u32) -> Vec<u8> {
    encode(&MessageBuilder::new(
        CmType::KEEPALIVE,
        Tsid(1),
        Sequence(sequence),
    ))
}

fn request() -> Vec<u8> {
    let builder = MessageBuilder::new(CmType::CONFIGURATION_REQUEST, Tsid::UNASSIGNED, Sequence(1));
    encode(&builder.tlv(Tlv::ProtocolRevision(1)))
}

/// An IPv4 packet around `upper`.
fn ipv4(protocol: u8, upper: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 20];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(20 + upper.len() as u16).to_be_bytes());
    packet[8] = 64;
    packet[9] = protocol;
    packet[12..20].copy_from_slice(&[192, 0, 2, 1, 192, 0, 2, 2]);
    packet.extend_from_slice(upper);
    packet
}

fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let length = 8 + payload.len() as u16;
    let header = [source, destination, length, 0].map(u16::to_be_bytes);
    ipv4(17, &[header.as_flattened(), payload].concat())
}

fn tcp(sequence: u32, syn: bool, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 20];
    header[..2].copy_from_slice(&40000u16.to_be_bytes());
    header[2..4].copy_from_slice(&5060u16.to_be_bytes());
    header[4..8].copy_from_slice(&sequence.to_be_bytes());
    header[12] = 0x50;
    header[13] = if syn { 0x02 } else { 0x10 };
    header.extend_from_slice(payload);
    ipv4(6, &header)
}

fn ethernet(ip: &[u8]) -> Vec<u8> {
    [&[0; 12][..], &[0x08, 0x00], ip].concat()
}

/// A pcap file in a directory of its own.
fn pcap(datalink: DataLink, packets: &[Vec<u8>]) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test.pcap");
    let header = PcapHeader {
        datalink,
        ts_resolution: TsResolution::NanoSecond,
        ..PcapHeader::default()
    };
    let mut writer =
        PcapWriter::with_header(std::fs::File::create(&path).unwrap(), header).unwrap();
    for (index, packet) in packets.iter().enumerate() {
        let time = Duration::new(1_700_000_000, index as u32);
        writer
            .write_packet(&PcapPacket::new(time, packet.len() as u32, packet))
            .unwrap();
    }
    (directory, path)
}

fn decode_pcap(
    datalink: DataLink,
    packets: &[Vec<u8>],
    arguments: &[&str],
    code: i32,
) -> Vec<Value> {
    let (_directory, path) = pcap(datalink, packets);
    let arguments = [&["--json", "--pcap", path.to_str().unwrap()], arguments].concat();
    json(&run(&arguments, b""), code)
}

#[test]
fn hex_on_the_command_line() {
    let expected = "Keepalive tsid=0040000000000001 seq=11 (16 bytes)\n";
    assert_eq!(check(&run(&[KEEPALIVE], b""), 0), expected);
    let words: Vec<_> = KEEPALIVE.split(' ').collect();
    assert_eq!(check(&run(&words, b""), 0), expected);
    assert_eq!(
        check(
            &run(
                &["0x10,0x07,0x00,0x00", "0x0040000000000001,0x0000000b"],
                b""
            ),
            0
        ),
        expected
    );
    assert_eq!(check(&run(&["-"], KEEPALIVE.as_bytes()), 0), expected);
    let xxd = "00000000: 1007 0000 0040 0000 0000 0001 0000 000b  .....@..........\n";
    assert_eq!(check(&run(&["-"], xxd.as_bytes()), 0), expected);
}

#[test]
fn text_shows_every_tlv_and_hides_secrets() {
    let key = [0xAB; 32];
    let wire = encode(
        &MessageBuilder::new(CmType::CONFIGURATION_RESPONSE, Tsid(1), Sequence(1)).tlvs([
            Tlv::ResponseCode(ResponseCode::SUCCESS),
            Tlv::ProtocolRevision(1),
            Tlv::InternalIpv4Address([10, 0, 0, 5].into()),
            Tlv::InternalIpv4Netmask(tsc_tpl::Ipv4Netmask::new(24).unwrap()),
            Tlv::KeepaliveInterval(tsc_tpl::Seconds(50)),
            Tlv::PersistenceTime(tsc_tpl::Seconds(330)),
            Tlv::ResumeKey(ResumeKey::new(&key)),
            Tlv::InnerMtu(1400),
        ]),
    );
    let hex: String = wire.iter().map(|byte| format!("{byte:02x}")).collect();
    let text = check(&run(&[&hex], b""), 0);
    assert!(
        text.contains("\n  Internal_IPv4_Address = 10.0.0.5\n"),
        "{text}"
    );
    assert!(
        text.contains("\n  Resume_Key = <32 bytes hidden>\n"),
        "{text}"
    );
    assert!(!text.contains("abab"), "{text}");
    let objects = json(&run(&["--json", &hex], b""), 0);
    assert!(!objects[0].to_string().contains("abab"));
    assert_eq!(objects[0]["control"]["tlvs"][2]["value"], "10.0.0.5");
    let text = check(&run(&["--show-secrets", &hex], b""), 0);
    assert!(
        text.contains(&format!("\n  Resume_Key = {}\n", "ab".repeat(32))),
        "{text}"
    );
}

#[test]
fn json_fields_of_a_message() {
    let objects = json(&run(&["--json", KEEPALIVE], b""), 0);
    let expected = serde_json::json!({
        "index": 1, "kind": "control", "ok": true, "length": 16,
        "control": {
            "type": "Keepalive", "type_code": 7, "tsid": "0040000000000001", "sequence": 11, "tlvs": [],
        },
    });
    assert_eq!(objects, [expected]);
}

#[test]
fn malformed_messages_are_shown_and_counted() {
    let unknown = "10070001 0040000000000001 0000000b 00630001 00";
    let output = run(&[unknown], b"");
    let text = check(&output, 1);
    assert!(
        text.contains(
            "unknown TLV type 0x63 = <1 bytes> ! unknown TLV type 0x63 must be understood"
        ),
        "{text}"
    );
    assert!(text.contains("(answer: unsupported_tlv)"), "{text}");
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("1 errors")
    );
    let objects = json(&run(&["--json", unknown], b""), 1);
    assert_eq!(objects[0]["ok"], false);
    assert_eq!(objects[0]["control"]["answer"], "unsupported_tlv");
    assert_eq!(
        objects[0]["error"],
        "unknown TLV type 0x63 must be understood"
    );
    // No unit at all.
    let objects = json(&run(&["--json", "ff00"], b""), 1);
    assert_eq!(objects[0]["kind"], "error");
    assert_eq!(objects[0]["error"], "first byte 0xff starts no unit");
    // Several datagrams, the second cut.
    let text = format!("{KEEPALIVE}\n\n1007\n\n{KEEPALIVE}\n");
    let objects = json(&run(&["--json", "-"], text.as_bytes()), 1);
    let ok: Vec<_> = objects
        .iter()
        .map(|object| object["ok"].as_bool().unwrap())
        .collect();
    assert_eq!(ok, [true, false, true]);
}

#[test]
fn a_stream_has_offsets_and_an_end() {
    let packet = udp(1, 2, b"");
    let wire = [request(), packet.clone(), keepalive(2)].concat();
    let hex: String = wire.iter().map(|byte| format!("{byte:02x} ")).collect();
    let objects = json(&run(&["--json", "--stream", "-"], hex.as_bytes()), 0);
    let seen: Vec<_> = objects
        .iter()
        .map(|object| (object["offset"].as_u64(), object["kind"].as_str()))
        .collect();
    assert_eq!(
        seen,
        [
            (Some(0), Some("control")),
            (Some(22), Some("ip")),
            (Some(50), Some("control"))
        ]
    );
    assert_eq!(objects[1]["ip"]["source_port"], 1);
    let cut = hex.trim_end().rsplit_once(' ').unwrap().0;
    let objects = json(&run(&["--json", "--stream", cut], b""), 1);
    assert_eq!(
        objects[2]["error"],
        "the stream ended inside a unit, after 15 of its bytes"
    );
    assert_eq!(objects[2]["offset"], 50);
    // The same as datagrams: one unit, then bytes too many.
    check(&run(&[&hex], b""), 1);
}

#[test]
fn our_own_captures() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tunnel.pcapng");
    let mut writer = PcapNgWriter::new(std::fs::File::create(&path).unwrap()).unwrap();
    for (linktype, name) in [
        (DataLink::RAW, "inner"),
        (DataLink::USER0, "control"),
        (DataLink::RAW, "outer"),
    ] {
        let options = vec![
            InterfaceDescriptionOption::IfName(name.into()),
            InterfaceDescriptionOption::IfTsResol(9),
        ];
        writer
            .write_pcapng_block(InterfaceDescriptionBlock {
                linktype,
                snaplen: 0,
                options,
            })
            .unwrap();
    }
    let inner = udp(5060, 5061, b"x");
    let entry = RedundancyEntry {
        sequence: Sequence(7),
        packet: IpPacket::decode(&inner, &Limits::default()).unwrap(),
    };
    let mut frame = Vec::new();
    RedundancyFrame::encode_datagram(&[entry], &Limits::default(), &mut frame).unwrap();
    for (interface_id, data, flags) in [
        (1, request(), 2),
        (0, inner, 1),
        (1, frame, 1),
        (2, udp(40_000, 4567, &request()), 2),
    ] {
        let block = EnhancedPacketBlock {
            interface_id,
            timestamp: Duration::new(1_700_000_000, 5),
            original_len: data.len() as u32,
            data: data.into(),
            options: vec![EnhancedPacketOption::Flags(flags)],
        };
        writer.write_pcapng_block(block).unwrap();
    }
    drop(writer);
    let path = path.to_str().unwrap();
    let objects = json(&run(&["--json", "--pcap", path], b""), 0);
    let kinds: Vec<_> = objects
        .iter()
        .map(|object| object["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["control", "ip", "redundancy"]);
    assert_eq!(objects[0]["direction"], "out");
    assert_eq!(objects[1]["direction"], "in");
    assert_eq!(objects[1]["frame"], 2);
    assert_eq!(objects[1]["ip"]["destination_port"], 5061);
    assert_eq!(objects[2]["time"], "1700000000.000000005");
    assert_eq!(objects[2]["redundancy"]["entries"][0]["sequence"], 7);
    assert_eq!(
        objects[2]["redundancy"]["entries"][0]["ip"]["source"],
        "192.0.2.1"
    );
    let text = check(&run(&["--pcap", path], b""), 0);
    assert!(
        text.contains(
            "#2 1700000000.000000005 in IPv4 192.0.2.1:5060 > 192.0.2.2:5061 UDP 29 bytes\n"
        ),
        "{text}"
    );
    // The last is what the first was on the wire. An inner packet is none of the outside, whatever its port.
    for port in ["4567", "5061"] {
        let objects = json(&run(&["--json", "--pcap", path, "--port", port], b""), 0);
        let seen = objects.iter().filter(|object| object["kind"] == "control");
        assert_eq!(seen.count(), if port == "4567" { 2 } else { 1 });
        assert_eq!(
            objects
                .iter()
                .filter(|object| object["kind"] == "ip")
                .count(),
            1
        );
    }
    // The same from standard input.
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(json(&run(&["--json", "--pcap", "-"], &bytes), 0), objects);
}

/// A capture of headers only, as `trace-redaction` makes it.
#[test]
fn inner_packets_that_were_cut_are_shown_by_their_headers() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("headers.pcap");
    let header = PcapHeader {
        datalink: DataLink::RAW,
        ..PcapHeader::default()
    };
    let mut writer =
        PcapWriter::with_header(std::fs::File::create(&path).unwrap(), header).unwrap();
    let packet = udp(5060, 5061, b"not kept");
    for kept in [28, 10] {
        let part = PcapPacket::new(Duration::ZERO, packet.len() as u32, &packet[..kept]);
        writer.write_packet(&part).unwrap();
    }
    drop(writer);
    let path = path.to_str().unwrap();
    let objects = json(&run(&["--json", "--pcap", path], b""), 1);
    assert_eq!(objects[0]["ip"]["destination_port"], 5061);
    assert_eq!(objects[0]["length"], 36);
    assert_eq!(objects[1]["kind"], "error");
}

#[test]
fn outer_udp_in_ethernet_frames() {
    let packets = [
        ethernet(&udp(40000, 5060, &request())),
        ethernet(&udp(5060, 40000, &keepalive(3))),
        // Another port, STUN that is no Binding, a DTLS record, ARP.
        ethernet(&udp(40000, 53, &keepalive(4))),
        ethernet(&udp(40000, 5060, &allocate())),
        ethernet(&udp(40000, 5060, &[22, 0xFE, 0xFD, 0])),
        [&[0; 12][..], &[0x08, 0x06], &[0; 28]].concat(),
    ];
    let objects = decode_pcap(DataLink::ETHERNET, &packets, &["--port", "5060"], 0);
    let seen: Vec<_> = objects
        .iter()
        .map(|object| (object["frame"].as_u64(), object["kind"].as_str()))
        .collect();
    let expected = [(1, "control"), (2, "control"), (4, "opaque"), (5, "opaque")];
    assert_eq!(
        seen,
        expected.map(|(frame, kind)| (Some(frame), Some(kind)))
    );
    assert_eq!(objects[0]["outer"]["transport"], "udp");
    assert_eq!(objects[0]["outer"]["destination"], "192.0.2.2:5060");
    assert_eq!(
        (&objects[2]["opaque"], &objects[3]["opaque"]),
        (&"stun".into(), &"dtls".into())
    );
    let both = decode_pcap(
        DataLink::ETHERNET,
        &packets,
        &["--port", "5060", "--port", "53"],
        0,
    );
    assert_eq!(both.len(), 5);
}

/// A request of TURN (RFC 8656), which uses STUN as well.
fn allocate() -> Vec<u8> {
    let mut request = StunMessage::new(StunKind::Request, [7; 12]).encode()[..20].to_vec();
    request[..4].copy_from_slice(&[0, 3, 0, 0]);
    request
}

#[test]
fn stun_of_peer_tunnels_is_shown_beside_units() {
    let ask = StunMessage::new(StunKind::Request, [0xAB; 12]);
    let answer = ask.success("198.51.100.7:40000".parse().unwrap());
    let open = StunMessage::new(StunKind::Indication, [1; 12]);
    let messages = [ask, answer, open].map(|message| message.encode());
    let mut broken = messages[0].clone();
    *broken.last_mut().unwrap() ^= 1;

    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
    let shown = check(&run(&[&hex(&messages[1])], b""), 0);
    let transaction = "ab".repeat(12);
    let expected = format!(
        "STUN Binding success, seen as 198.51.100.7:40000 transaction={transaction} ({} bytes)\n",
        messages[1].len()
    );
    assert_eq!(shown, expected);

    let packets = messages.map(|message| ethernet(&udp(40000, 3478, &message)));
    let objects = decode_pcap(DataLink::ETHERNET, &packets, &["--port", "3478"], 0);
    let types: Vec<_> = objects
        .iter()
        .map(|object| &object["stun"]["type"])
        .collect();
    assert_eq!(types, ["request", "success", "indication"]);
    assert!(objects.iter().all(|object| object["kind"] == "stun"));
    assert_eq!(objects[1]["stun"]["seen"], "198.51.100.7:40000");
    assert_eq!(objects[1]["stun"]["transaction"], transaction);
    assert_eq!(objects[1]["stun"]["fingerprint"], true);

    let objects = json(&run(&["--json", &hex(&broken)], b""), 1);
    assert_eq!(objects[0]["kind"], "error");
}

#[test]
fn outer_tcp_is_put_in_order() {
    let wire = [request(), udp(1, 2, b"voice"), keepalive(2)].concat();
    let first = u32::MAX - 10;
    let piece = |from: usize, to: usize| {
        ethernet(&tcp(
            first.wrapping_add(1).wrapping_add(from as u32),
            false,
            &wire[from..to],
        ))
    };
    let packets = [
        ethernet(&tcp(first, true, b"")),
        piece(0, 5),
        // Late, early, repeated, overlapping.
        piece(20, 30),
        piece(5, 20),
        piece(5, 20),
        ethernet(&tcp(first, true, b"")),
        piece(40, wire.len()),
        piece(25, 45),
    ];
    let objects = decode_pcap(DataLink::ETHERNET, &packets, &["--port", "5060"], 0);
    let kinds: Vec<_> = objects
        .iter()
        .map(|object| object["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["control", "ip", "control"]);
    assert_eq!(objects[1]["offset"], 22);
    assert_eq!(objects[0]["outer"]["transport"], "tcp");

    // Without the last piece there is a gap; without the end, half a unit.
    let objects = decode_pcap(DataLink::ETHERNET, &packets[..7], &["--port", "5060"], 1);
    assert_eq!(
        objects.last().unwrap()["error"],
        "bytes are missing from here on"
    );
    let objects = decode_pcap(DataLink::ETHERNET, &packets[..2], &["--port", "5060"], 1);
    assert_eq!(
        objects.last().unwrap()["error"],
        "the stream ended inside a unit, after 5 of its bytes"
    );
    // TLS is told once; a new connection on the same ports is a new stream.
    let packets = [
        tcp(100, true, b""),
        tcp(101, false, &[0x16, 3, 1, 0, 5]),
        tcp(106, false, &[0x17, 3, 3, 0, 5]),
        tcp(900, true, b""),
        tcp(901, false, &keepalive(1)),
        tcp(917, false, &[0xFF]),
        tcp(918, false, &keepalive(2)),
    ];
    let objects = decode_pcap(DataLink::IPV4, &packets, &["--port", "5060"], 1);
    let kinds: Vec<_> = objects
        .iter()
        .map(|object| object["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["opaque", "control", "error"]);
    assert_eq!(objects[2]["offset"], 16);
}

#[test]
fn a_gap_does_not_grow_without_bound() {
    let mut packets = vec![tcp(0, true, b""), tcp(1, false, &keepalive(1))];
    packets.extend((0..200).map(|index| tcp(100 + index * 16, false, &keepalive(index))));
    let objects = decode_pcap(DataLink::RAW, &packets, &["--port", "5060"], 1);
    assert_eq!(objects.len(), 2);
    assert_eq!(objects[1]["error"], "bytes are missing from here on");
    // Told when the bound was met, not at the end.
    assert_eq!(objects[1]["frame"], 67);
}

#[test]
fn wrong_use_and_unreadable_files_exit_with_2() {
    for arguments in [
        &[][..],
        &["--json"],
        &["--no-such-flag"],
        &["10", "--pcap", "x"],
        &["--port", "5060", "10"],
        &["--pcap", "/nonexistent/file"],
        &["--inner-mtu", "10", KEEPALIVE],
        &["zz"],
        &["100"],
        &["-"],
    ] {
        let output = run(arguments, b"");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(
            output.stdout.is_empty() && !output.stderr.is_empty(),
            "{arguments:?}"
        );
    }
    assert_eq!(
        run(&["--pcap", "-"], b"no capture at all").status.code(),
        Some(2)
    );
    let (_directory, path) = pcap(
        DataLink::ETHERNET,
        &[ethernet(&udp(1, 5060, &keepalive(1)))],
    );
    let output = run(&["--pcap", path.to_str().unwrap()], b"");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("--port"));
    // A file that ends inside a packet: what came before is shown.
    let bytes = std::fs::read(&path).unwrap();
    let two = [bytes.as_slice(), &bytes[24..bytes.len() - 1]].concat();
    let output = run(&["--json", "--pcap", "-", "--port", "5060"], &two);
    assert_eq!(json(&output, 2).len(), 1);
}

#[test]
fn help_teaches() {
    let text = check(&run(&["--help"], b""), 0);
    for part in [
        "Examples:",
        "Exit codes:",
        "JSON:",
        "--port",
        "xxd message.bin | tsc-decode -",
        "redundancy",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
}

#[test]
fn inner_packets_are_held_against_the_inner_mtu() {
    let packet = udp(1, 2, &[0; 600]);
    let hex: String = packet.iter().map(|byte| format!("{byte:02x}")).collect();
    check(&run(&[&hex], b""), 0);
    let output = run(&["--inner-mtu", "576", &hex], b"");
    assert!(check(&output, 1).contains("exceeds the inner MTU of 576"));
}
