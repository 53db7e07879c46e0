//! The Wireshark dissector (`tools/wireshark/tscf.lua`): that its tables are those of `tsc-tpl`, and that `tshark` with it shows
//! what `tsc-decode` shows of the same capture.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod pdml;
mod samples;
mod tables;
mod tls;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pcap_file::DataLink;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionBlock;
use serde_json::Value;
use tsc_tpl::{CmType, StunKind, StunMessage, TlvType};

use crate::pdml::{Shown, all};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../wireshark/tscf.lua");
const SERVER: u16 = 4567;

#[test]
fn the_tables_are_those_of_the_registry() {
    const BEGIN: &str = "it fails when they differ.\n";
    const END: &str = "-- end of tables";
    let script = std::fs::read_to_string(SCRIPT).unwrap();
    let (before, rest) = script.split_once(BEGIN).unwrap();
    let (written, after) = rest.split_once(END).unwrap();
    let tables = tables::render();
    if std::env::var_os("TSC_WRITE_TABLES").is_some() {
        std::fs::write(SCRIPT, format!("{before}{BEGIN}{tables}{END}{after}")).unwrap();
        return;
    }
    assert_eq!(
        written, tables,
        "run this test with TSC_WRITE_TABLES=1, and look whether new kinds of values need a reader"
    );
}

/// A capture of the outside, Ethernet frames in the order given.
#[derive(Default)]
struct Capture {
    frames: Vec<Vec<u8>>,
}

impl Capture {
    fn udp(&mut self, client: u16, from_client: bool, payload: &[u8]) {
        let (source, destination) = ends(client, from_client);
        let datagram = samples::udp(source, destination, payload);
        self.ip(17, from_client, &datagram);
    }

    fn tcp(&mut self, client: u16, from_client: bool, sequence: u32, payload: &[u8]) {
        let (source, destination) = ends(client, from_client);
        let mut segment = vec![0; 20];
        segment[..2].copy_from_slice(&source.to_be_bytes());
        segment[2..4].copy_from_slice(&destination.to_be_bytes());
        segment[4..8].copy_from_slice(&sequence.to_be_bytes());
        segment[12] = 0x50;
        segment[13] = 0x10;
        segment[14..16].copy_from_slice(&[0xFF, 0xFF]);
        segment.extend(payload);
        self.ip(6, from_client, &segment);
    }

    fn ip(&mut self, protocol: u8, from_client: bool, payload: &[u8]) {
        let (source, destination) = match from_client {
            true => ([198, 51, 100, 9], [192, 0, 2, 1]),
            false => ([192, 0, 2, 1], [198, 51, 100, 9]),
        };
        let total = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
        let mut frame = vec![0; 12];
        frame.extend([
            8, 0, 0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, protocol, 0, 0,
        ]);
        frame.extend(source);
        frame.extend(destination);
        frame.extend(payload);
        self.frames.push(frame);
    }

    /// Has a client's server listen on a port that nobody knows.
    fn move_server(&mut self, client: u16, server: u16) {
        for frame in &mut self.frames {
            let ports = &mut frame[34..38];
            for (from, to) in [(SERVER, client), (client, SERVER)] {
                let old = [from, to].map(u16::to_be_bytes);
                let new = [from, to].map(|port| if port == SERVER { server } else { port });
                if ports == old.as_flattened() {
                    ports.copy_from_slice(new.map(u16::to_be_bytes).as_flattened());
                    break;
                }
            }
        }
    }

    fn write(&self, path: &Path) {
        let header = PcapHeader {
            datalink: DataLink::ETHERNET,
            ..PcapHeader::default()
        };
        let file = std::fs::File::create(path).unwrap();
        let mut writer = PcapWriter::with_header(file, header).unwrap();
        for (at, frame) in (0..).zip(&self.frames) {
            let time = Duration::from_millis(1_700_000_000_000 + at);
            let len = u32::try_from(frame.len()).unwrap();
            writer
                .write_packet(&PcapPacket::new(time, len, frame))
                .unwrap();
        }
    }
}

fn ends(client: u16, from_client: bool) -> (u16, u16) {
    if from_client {
        (client, SERVER)
    } else {
        (SERVER, client)
    }
}

/// What `tshark` shows of a capture file.
fn tshark(path: &Path, options: &[&str]) -> Vec<Vec<Shown>> {
    let output = Command::new("tshark")
        // Nobody's own preferences or plugins.
        .env("HOME", "/nonexistent")
        .env("XDG_CONFIG_HOME", "/nonexistent")
        .args([
            "-n",
            "-X",
            &format!("lua_script:{SCRIPT}"),
            "-T",
            "pdml",
            "-r",
        ])
        .arg(path)
        .args(options)
        .output()
        .expect("tshark is installed (Debian: apt-get install tshark)");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(!errors.to_lowercase().contains("lua"), "{errors}");
    let document = String::from_utf8(output.stdout).unwrap();
    if let Some(at) = document.find("Lua Error") {
        panic!("{}", &document[at..document.len().min(at + 500)]);
    }
    pdml::packets(&document)
}

/// What `tsc-decode` says of it: for each frame its objects.
fn tsc_decode(path: &Path, frames: usize) -> Vec<Vec<Value>> {
    let output = Command::new(env!("CARGO_BIN_EXE_tsc-decode"))
        .args(["--json", "--port", &SERVER.to_string(), "--pcap"])
        .arg(path)
        .output()
        .unwrap();
    let mut objects = vec![Vec::new(); frames];
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let object: Value = serde_json::from_str(line).unwrap();
        // What is only known at the end of the file has none.
        if let Some(frame) = object["frame"].as_u64() {
            objects[usize::try_from(frame).unwrap() - 1].push(object);
        }
    }
    objects
}

/// What the dissector finds wrong.
fn errors(unit: &[Shown]) -> Vec<&str> {
    let wrong =
        ["framing", "value", "rule", "unsupported", "cut"].map(|kind| format!("tsm.expert.{kind}"));
    let infos = (0..unit.len()).filter(|at| wrong.contains(&unit[*at].name));
    infos
        .map(|at| {
            let message = unit[at..]
                .iter()
                .find(|field| field.name == "_ws.expert.message");
            message.unwrap().show.as_str()
        })
        .collect()
}

/// Compares a unit as both show it.
#[track_caller]
fn compare(unit: &[Shown], object: &Value) {
    let context = format!("{object}\n{unit:?}");
    match object["error"].as_str() {
        Some(error) => assert_eq!(errors(unit).first(), Some(&error), "{context}"),
        None => assert!(errors(unit).is_empty(), "{context}"),
    }
    let shown = |name: &str| all(unit, name);
    let number = |value: &Value| value.as_u64().unwrap().to_string();
    let kind = object["kind"].as_str().unwrap();
    if kind == "error" {
        assert!(shown("tsm.unit").is_empty(), "{context}");
        return;
    }
    assert_eq!(shown("tsm.unit"), [kind], "{context}");
    let value = &object[kind];
    match kind {
        "control" => {
            assert_eq!(
                shown("tsm.type"),
                [number(&value["type_code"])],
                "{context}"
            );
            assert_eq!(
                shown("tsm.sequence"),
                [number(&value["sequence"])],
                "{context}"
            );
            let tsid = match value["tsid"].as_str().unwrap() {
                "unassigned" => "0xffffffffffffffff".to_owned(),
                tsid => format!("0x{tsid}"),
            };
            assert_eq!(shown("tsm.tsid"), [tsid], "{context}");
            let tlvs = value["tlvs"].as_array().unwrap();
            let texts: Vec<_> = tlvs
                .iter()
                .map(|tlv| {
                    let (name, len) = (tlv["type"].as_str().unwrap(), &tlv["length"]);
                    match tlv["value"].as_str() {
                        Some(value) => format!("{name} = {value}"),
                        None => format!("{name} = <{len} bytes>"),
                    }
                })
                .collect();
            assert_eq!(shown("tsm.tlv"), texts, "{context}");
            let of = |key: &str| -> Vec<_> { tlvs.iter().map(|tlv| number(&tlv[key])).collect() };
            assert_eq!(shown("tsm.tlv.type"), of("type_code"), "{context}");
            assert_eq!(shown("tsm.tlv.length"), of("length"), "{context}");
            // Each TLV that is wrong says so.
            let wrong: Vec<_> = tlvs
                .iter()
                .filter_map(|tlv| tlv["error"].as_str())
                .collect();
            assert!(
                wrong.is_empty() || errors(unit)[..wrong.len()] == wrong,
                "{context}"
            );
        }
        "ip" => compare_inner(unit, &[value], &context),
        "redundancy" => {
            let entries = value["entries"].as_array().unwrap();
            let of =
                |key: &str| -> Vec<_> { entries.iter().map(|entry| number(&entry[key])).collect() };
            assert_eq!(
                shown("tsm.redundancy.sequence"),
                of("sequence"),
                "{context}"
            );
            assert_eq!(shown("tsm.redundancy.length"), of("length"), "{context}");
            let inner: Vec<_> = entries.iter().map(|entry| &entry["ip"]).collect();
            compare_inner(unit, &inner, &context);
        }
        "reserved" => {
            let frame = match value["frame"].as_str().unwrap() {
                "compressed_short" => "0x1d",
                "compressed_long" => "0x1e",
                _ => "0x1f",
            };
            assert_eq!(shown("tsm.frame.type"), [frame], "{context}");
            assert_eq!(
                shown("tsm.reserved.index"),
                [number(&value["index"])],
                "{context}"
            );
            let length = number(&value["payload_length"]);
            assert_eq!(shown("tsm.reserved.length"), [length], "{context}");
        }
        other => panic!("{other}: {context}"),
    }
}

/// Inner packets were given to Wireshark's own dissectors.
fn compare_inner(unit: &[Shown], inner: &[&Value], context: &str) {
    let shown = |names: [&str; 2]| -> Vec<_> {
        let fields = unit
            .iter()
            .filter(|field| names.contains(&field.name.as_str()));
        fields.map(|field| field.show.clone()).collect()
    };
    let text = |key: &str| -> Vec<_> {
        inner
            .iter()
            .map(|ip| ip[key].as_str().unwrap().to_owned())
            .collect()
    };
    let port = |key: &str| -> Vec<_> { inner.iter().map(|ip| ip[key].to_string()).collect() };
    assert_eq!(shown(["ip.src", "ipv6.src"]), text("source"), "{context}");
    assert_eq!(
        shown(["ip.dst", "ipv6.dst"]),
        text("destination"),
        "{context}"
    );
    assert_eq!(
        shown(["udp.srcport", "tcp.srcport"]),
        port("source_port"),
        "{context}"
    );
    assert_eq!(
        shown(["udp.dstport", "tcp.dstport"]),
        port("destination_port"),
        "{context}"
    );
}

/// A piece of an inner TCP connection whose own content goes on in a packet to come.
fn inner_http() -> Vec<u8> {
    let mut segment = vec![0; 20];
    segment[..4].copy_from_slice(&[0xC0, 0, 0, 80]);
    segment[7] = 1;
    segment[12] = 0x50;
    segment[13] = 0x18;
    segment.extend(b"GET / HTTP/1.1\r\nHost: exa");
    let mut packet = samples::inner4(1, b"");
    packet.truncate(20);
    packet[3] = u8::try_from(20 + segment.len()).unwrap();
    packet[9] = 6;
    [packet, segment].concat()
}

fn temporary(name: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    (directory, path)
}

#[test]
fn tshark_shows_what_tsc_decode_shows() {
    let mut capture = Capture::default();
    let (messages, data) = (samples::messages(), samples::data());
    for unit in messages.iter().chain(&data).chain(&samples::damaged()) {
        capture.udp(40_000, true, unit);
    }
    let ask = StunMessage::new(StunKind::Request, [7; 12]);
    capture.udp(40_000, true, &ask.encode());
    capture.udp(
        40_000,
        false,
        &ask.success("198.51.100.9:40000".parse().unwrap()).encode(),
    );

    // All that streams carry, in segments that fit none of it; then less, cut in two at each place, and byte by byte.
    let on_streams: Vec<_> = data
        .iter()
        .filter(|unit| unit[..2] != [0x1C, 3])
        .cloned()
        .chain([inner_http()])
        .collect();
    let stream = [messages.concat(), on_streams.concat(), messages[7].clone()].concat();
    for (at, piece) in stream.chunks(37).enumerate() {
        capture.tcp(41_000, true, 1 + u32::try_from(at * 37).unwrap(), piece);
    }
    let short = [
        messages[3].as_slice(),
        &inner_http(),
        &samples::redundancy(9, &[samples::inner4(5, b"")]),
        &messages[9],
        &data[0],
    ]
    .concat();
    let mut client = 42_000;
    for cut in 1..short.len() {
        client += 1;
        capture.tcp(client, true, 1, &short[..cut]);
        capture.tcp(client, true, 1 + u32::try_from(cut).unwrap(), &short[cut..]);
    }
    for (at, byte) in (1..).zip(&short) {
        capture.tcp(41_001, true, at, &[*byte]);
    }
    // A stream that is no sequence of units, from its second unit on.
    capture.tcp(
        41_002,
        true,
        1,
        &[messages[3].as_slice(), &[0xFF; 20]].concat(),
    );

    let (_directory, path) = temporary("all.pcap");
    capture.write(&path);
    // What comes again is shown again.
    let packets = tshark(&path, &["-o", "tsm.copies:TRUE"]);
    let frames = tsc_decode(&path, packets.len());
    assert_eq!(packets.len(), capture.frames.len());
    let (mut compared, mut wrong, mut stun) = (0, 0, 0);
    for (packet, objects) in packets.iter().zip(&frames) {
        if objects
            .first()
            .is_some_and(|object| object["kind"] == "stun")
        {
            assert_eq!(all(packet, "stun.type").len(), 1);
            stun += 1;
            continue;
        }
        let units = pdml::units(packet);
        assert_eq!(units.len(), objects.len(), "{objects:?}\n{packet:?}");
        for (unit, object) in units.iter().zip(objects) {
            compare(unit, object);
            compared += 1;
            wrong += usize::from(object["ok"] == false);
        }
    }
    assert_eq!(stun, 2);
    assert!(
        compared > 1300 && wrong > 400,
        "{compared} units, {wrong} of them wrong"
    );

    // Nothing is missing: every type of message and TLV was there, valid.
    let valid: Vec<_> = frames
        .iter()
        .flatten()
        .filter(|object| object["ok"] == true)
        .collect();
    for cm_type in CmType::ALL {
        assert!(
            valid
                .iter()
                .any(|object| object["control"]["type_code"] == cm_type.0),
            "{cm_type}"
        );
    }
    for ty in TlvType::ALL {
        let has = |object: &&Value| {
            let tlvs = object["control"]["tlvs"].as_array();
            tlvs.is_some_and(|tlvs| tlvs.iter().any(|tlv| tlv["type_code"] == ty.0))
        };
        assert!(valid.iter().any(has), "{ty}");
    }
}

#[test]
fn a_tunnel_is_found_on_any_port_and_its_packets_by_its_identifier() {
    let (messages, data) = (samples::messages(), samples::data());
    let copies = [
        samples::redundancy(1, &[data[0].clone()]),
        samples::redundancy(2, &[data[1].clone(), data[0].clone()]),
    ];
    let mut capture = Capture::default();
    for (from_client, unit) in [
        (true, &messages[0]),
        (false, &messages[1]),
        (true, &data[0]),
        (false, &copies[0]),
        (false, &copies[1]),
    ] {
        capture.udp(40_000, from_client, unit);
    }
    // Another one, of which the beginning is not there.
    capture.udp(40_001, true, &data[0]);
    for client in [40_000, 40_001] {
        capture.move_server(client, 50_000);
    }
    let (_directory, path) = temporary("elsewhere.pcap");
    capture.write(&path);
    let packets = tshark(&path, &[]);
    let tunnels: Vec<_> = packets
        .iter()
        .map(|packet| all(packet, "tsm.tunnel"))
        .collect();
    let known = vec!["0x0040000000000001"];
    let expected = [
        vec![],
        known.clone(),
        known.clone(),
        known.clone(),
        known,
        vec![],
    ];
    assert_eq!(tunnels, expected);
    // A copy is no second packet, and tells where the first was.
    assert_eq!(all(&packets[4], "tsm.redundancy.first_in"), ["4"]);
    assert_eq!(pdml::units(&packets[3]).len(), 1);
    assert_eq!(all(pdml::units(&packets[4])[0], "ip.src").len(), 0);
    assert_eq!(all(pdml::units(&packets[4])[0], "ipv6.src").len(), 1);

    // Filters on the tunnel, a service and an address; secrets only if asked for.
    let count = |filter: &str| tshark(&path, &["-2", "-R", filter]).len();
    assert_eq!(count("tsm.tunnel == 0x0040000000000001"), 4);
    assert_eq!(
        count("tsm.sip_server_ipv4 == 10.64.0.17 && tsm.supported_services"),
        0
    );
    assert_eq!(
        count("tsm.sip_server_ipv4 == 10.64.0.17 && tsm.type == 2"),
        1
    );
    assert!(all(&packets[1], "tsm.resume_key").is_empty());
    let secrets = tshark(&path, &["-o", "tsm.secrets:TRUE"]);
    assert_eq!(all(&secrets[1], "tsm.resume_key").len(), 1);
}

#[test]
fn captures_of_the_inside_need_no_settings() {
    let (_directory, path) = temporary("inside.pcapng");
    let mut writer = PcapNgWriter::new(std::fs::File::create(&path).unwrap()).unwrap();
    for linktype in [DataLink::RAW, DataLink::USER0] {
        let interface = InterfaceDescriptionBlock {
            linktype,
            snaplen: 0,
            options: vec![],
        };
        writer.write_pcapng_block(interface).unwrap();
    }
    let units = [samples::messages(), samples::data()].concat();
    for (interface_id, data) in units
        .iter()
        .map(|unit| (1, unit))
        .chain([(0, &samples::inner4(7, b""))])
    {
        let block = EnhancedPacketBlock {
            interface_id,
            timestamp: Duration::from_secs(1_700_000_000),
            original_len: u32::try_from(data.len()).unwrap(),
            data: data.into(),
            options: vec![],
        };
        writer.write_pcapng_block(block).unwrap();
    }
    drop(writer);
    let packets = tshark(&path, &[]);
    let output = Command::new(env!("CARGO_BIN_EXE_tsc-decode"))
        .args(["--json", "--pcap"])
        .arg(&path)
        .output()
        .unwrap();
    let objects = String::from_utf8(output.stdout).unwrap();
    assert_eq!(packets.len(), objects.lines().count());
    for (packet, object) in packets.iter().zip(objects.lines()).take(units.len()) {
        compare(
            pdml::units(packet)[0],
            &serde_json::from_str(object).unwrap(),
        );
    }
    assert_eq!(all(packets.last().unwrap(), "udp.srcport"), ["7"]);
}

#[test]
fn tunnels_under_tls_and_dtls_are_opened_by_a_key_log() {
    let keys = Arc::new(Mutex::new(String::new()));
    let (messages, data) = (samples::messages(), samples::data());
    // The first and the last on ports that nobody knows: there ALPN tells.
    let units: Vec<&[u8]> = messages
        .iter()
        .chain(&data[..3])
        .map(Vec::as_slice)
        .collect();
    let stream = [units.concat(), inner_http(), messages[7].clone()].concat();
    let records: Vec<_> = stream.chunks(333).collect();
    let mut capture = Capture::default();
    let mut plain = Capture::default();
    for (client, server) in [(43_000, SERVER), (43_001, 50_000)] {
        let mut sequences = [1, 1];
        for (from_client, bytes) in tls::exchange(false, &records, &keys) {
            for piece in bytes.chunks(200) {
                let sequence = &mut sequences[usize::from(from_client)];
                capture.tcp(client, from_client, *sequence, piece);
                *sequence += u32::try_from(piece.len()).unwrap();
            }
        }
        for (at, record) in (0..).zip(&records) {
            for from_client in [true, false] {
                plain.tcp(client, from_client, 1 + at * 333, record);
            }
        }
        for (from_client, bytes) in tls::exchange(true, &units, &keys) {
            capture.udp(client, from_client, &bytes);
        }
        for unit in &units {
            plain.udp(client, true, unit);
            plain.udp(client, false, unit);
        }
        if server != SERVER {
            capture.move_server(client, server);
        }
    }
    let (directory, path) = temporary("protected.pcap");
    capture.write(&path);
    let log = directory.path().join("keys");
    std::fs::write(&log, keys.lock().unwrap().as_bytes()).unwrap();
    let log = format!("tls.keylog_file:{}", log.display());
    let protected = tshark(&path, &["-o", &log, "-o", "tsm.copies:TRUE"]);
    let (_directory, path) = temporary("plain.pcap");
    plain.write(&path);
    let plain = tshark(&path, &["-o", "tsm.copies:TRUE"]);

    let units = |packets: &[Vec<Shown>], transport: &str| -> Vec<Vec<Shown>> {
        // The outer one: before anything that is inside it.
        let carried = |packet: &&Vec<Shown>| {
            let mut outside = packet.iter().take_while(|field| field.name != "tsm");
            outside.any(|field| field.name == transport)
        };
        let packets = packets.iter().filter(carried);
        let units = packets.flat_map(|packet| pdml::units(packet));
        // Which frame was the first is a matter of the capture.
        let same = |field: &&Shown| {
            field.name.starts_with("tsm") && field.name != "tsm.redundancy.first_in"
        };
        units
            .map(|unit| unit.iter().filter(same).cloned().collect())
            .collect()
    };
    for (protected_by, transport, count) in [("tls", "tcp", 76), ("dtls", "udp", 68)] {
        let (opened, expected) = (units(&protected, protected_by), units(&plain, transport));
        assert_eq!(opened.len(), count, "{protected_by}");
        assert_eq!(opened, expected, "{protected_by}");
    }
}
