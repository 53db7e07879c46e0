//! Replays the committed fuzz corpus with the assertions of the fuzz targets, and keeps the seeds in it.
//!
//! `TSC_WRITE_CORPUS=1 cargo test -p tsc-sip --test bytes corpus` writes the seeds anew.

use std::{fs, path::PathBuf};

use tsc_sip::media::{ReceptionReport, RtcpReport, SenderInfo};
use tsc_sip::msrp::Flag;

use crate::{msrp_chunk, shared};

fn corpus(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target)
}

fn replay(target: &str, seeds: &[(&str, Vec<u8>)], run: fn(&[u8])) {
    let directory = corpus(target);
    let write = std::env::var_os("TSC_WRITE_CORPUS").is_some();
    for (name, seed) in seeds {
        let file = directory.join(name);
        if write {
            fs::create_dir_all(&directory).unwrap();
            fs::write(&file, seed).unwrap();
        }
        assert!(
            fs::read(&file).is_ok_and(|found| found == *seed),
            "{file:?} is not its seed"
        );
    }
    let files: Vec<_> = fs::read_dir(&directory).unwrap().collect();
    assert!(files.len() >= seeds.len());
    for file in files {
        run(&fs::read(file.unwrap().path()).unwrap());
    }
}

fn message(start: &str, method: &str, more: &str) -> Vec<u8> {
    format!(
        "{start}\r\nVia: SIP/2.0/UDP 192.0.2.2:5060;branch=z9hG4bK1;rport\r\nMax-Forwards: 70\r\n\
         From: \"Alice\" <sip:alice@192.0.2.2>;tag=a\r\nTo: <sip:play@192.0.2.1>\r\nCall-ID: 1@x\r\n\
         CSeq: 1 {method}\r\n{more}"
    )
    .into_bytes()
}

#[test]
fn sip_messages() {
    let sdp = "Contact: <sip:alice@192.0.2.2:5070;transport=udp>\r\nContent-Type: application/sdp\r\n\
        Content-Length: 21\r\n\r\nv=0\r\no=- 1 1 IN IP4 1";
    let digest = "m: <sip:a@b>;expires=60\r\nAuthorization: Digest username=\"alice\", realm=\"r\", nonce=\"n\", \
        uri=\"sip:b\", response=\"0\", algorithm=SHA-256, qop=auth, nc=00000001, cnonce=\"c\"\r\n\r\n";
    let challenge = "WWW-Authenticate: Digest realm=\"r\", nonce=\"n\", qop=\"auth\", algorithm=MD5\r\nl: 0\r\n\r\n";
    let seeds = [
        (
            "invite",
            message("INVITE sip:play@192.0.2.1 SIP/2.0", "INVITE", sdp),
        ),
        (
            "register",
            message("REGISTER sip:192.0.2.1 SIP/2.0", "REGISTER", digest),
        ),
        (
            "unregister",
            message(
                "REGISTER sip:192.0.2.1 SIP/2.0",
                "REGISTER",
                "Contact: *\r\nExpires: 0\r\n\r\n",
            ),
        ),
        (
            "challenge",
            message("SIP/2.0 401 Unauthorized", "REGISTER", challenge),
        ),
        (
            "ringing",
            message(
                "SIP/2.0 180 Ringing",
                "INVITE",
                "Record-Route: <sip:p;lr>, <sip:q;lr>\r\n\r\n",
            ),
        ),
        (
            "cancel",
            message(
                "CANCEL sip:play@192.0.2.1 SIP/2.0",
                "CANCEL",
                "Reason: x;\r\n folded\r\n\r\n",
            ),
        ),
        (
            "ack",
            message(
                "ACK sip:[2001:db8::1]:5060;lr SIP/2.0",
                "ACK",
                "Route: <sip:p;lr>\r\n\r\n",
            ),
        ),
        (
            "bye-other-uri",
            message("BYE tel:+1 SIP/2.0", "BYE", "Require: a, b\r\n\r\n"),
        ),
        ("bad-cseq", message("BYE sip:a@b SIP/2.0", "INVITE", "\r\n")),
        (
            "bad-length",
            message("BYE sip:a@b SIP/2.0", "BYE", "Content-Length: 9\r\n\r\n"),
        ),
        ("keepalive", b"\r\n\r\n".to_vec()),
        ("not-sip", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
    ];
    replay("sip_message", &seeds, shared::sip_message::sip_message);
}

#[test]
fn sip_streams() {
    let get = message(
        "OPTIONS sip:a@b SIP/2.0",
        "OPTIONS",
        "Content-Length: 3\r\n\r\nabc",
    );
    let short = message("OPTIONS sip:a@b SIP/2.0", "OPTIONS", "l: 0\r\n\r\n");
    let none = message("OPTIONS sip:a@b SIP/2.0", "OPTIONS", "\r\n");
    let cut = |step: u8, parts: &[&[u8]]| [&[step], parts.concat().as_slice()].concat();
    let seeds = [
        ("two", cut(10, &[&get, &short])),
        (
            "keepalives",
            cut(1, &[b"\r\n\r\n", &get, b"\r\n", &short, b"\r\n\r\n"]),
        ),
        ("malformed", cut(5, &[b"odd\r\nl: 4\r\n\r\nbody", &short])),
        ("no-length", cut(3, &[&none, &short])),
        ("far", cut(9, &[b"x\r\nl: 99999\r\n\r\n"])),
    ];
    replay("sip_stream", &seeds, shared::sip_stream::sip_stream);
}

#[test]
fn msrp_streams() {
    let chunk = msrp_chunk;
    let cut = |step: u8, parts: &[&[u8]]| [&[step], parts.concat().as_slice()].concat();
    let first = chunk("id01", "1-3/6", b"abc", Flag::More);
    let last = chunk("id01", "4-6/6", b"def", Flag::End);
    let abort = chunk("id01", "4-3/6", b"", Flag::Abort);
    let open = chunk("id02", "1-*/*", b"-------tid02?", Flag::End);
    let long = chunk("id03", "1-10001/10001", &[0; 9], Flag::More);
    let ok = b"MSRP abcd 200 OK\r\nTo-Path: msrp://a:1/a;tcp\r\nFrom-Path: msrp://b:1/b;tcp\r\n-------abcd$\r\n";
    let report = b"MSRP abcd REPORT\r\nTo-Path: msrp://192.0.2.2:2855/bob;tcp\r\nFrom-Path: msrp://192.0.2.1:9/alice;tcp\r\n\
        Message-ID: abcd\r\nByte-Range: 1-5/5\r\nStatus: 000 200 OK\r\n-------abcd$\r\n";
    let seeds = [
        ("message", cut(7, &[&first, &last])),
        ("disorder", cut(1, &[&last, &first])),
        ("aborted", cut(99, &[&first, &abort, &last])),
        ("unknown-length", cut(3, &[&open])),
        ("too-long", cut(40, &[&long, &first])),
        ("responses", cut(2, &[ok, report])),
        ("not-msrp", cut(4, &[b"GET / HTTP/1.1\r\n\r\n"])),
    ];
    replay("msrp", &seeds, shared::msrp::msrp);
}

#[test]
fn session_descriptions() {
    let start = "v=0\r\no=- 1 1 IN IP4 192.0.2.2\r\ns=-\r\nc=IN IP4 192.0.2.2\r\nt=0 0\r\n";
    let seeds = [
        ("offer", format!("{start}m=audio 4000 RTP/AVP 0 8 101\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\n\
            a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\na=ptime:20\r\na=sendrecv\r\n")),
        ("ipv6", "v=0\no=x 1 1 IN IP6 ::1\ns=-\nc=IN IP6 2001:db8::1\nt=0 0\na=sendonly\nm=audio 4 RTP/AVP 8\na=rtcp:9 IN IP6 ::1\n".into()),
        ("video-too", format!("{start}m=video 4 RTP/AVP 31\r\nc=IN IP4 224.0.0.1/127\r\nm=audio 6/2 RTP/AVP 0\r\na=inactive\r\n")),
        ("refused", format!("{start}m=audio 0 RTP/AVP 0\r\na=recvonly\r\n")),
        ("other-codec", format!("{start}m=audio 4 RTP/AVP 96 0\r\na=rtpmap:96 opus/48000/2\r\na=rtpmap:0 L16/8000\r\n")),
        ("messages", format!("{start}m=message 2855 TCP/MSRP *\r\na=setup:active\r\na=accept-types:text/plain text/*\r\n\
            a=path:msrp://r:1/r;tcp msrp://192.0.2.2:9/x;tcp\r\na=max-size:9\r\na=sendonly\r\na=file-transfer-id:1\r\n\
            a=file-selector:name:\"a%22b\" type:image/png size:9 hash:sha-1:00:01\r\n")),
        ("bad-media", format!("{start}m=audio x RTP/AVP 0\r\n")),
        ("bad-origin", "v=0\r\no=-\r\n".into()),
    ]
    .map(|(name, text)| (name, text.into_bytes()));
    replay("sdp", &seeds, shared::sdp::sdp);
}

fn packet(kind: u8, millis: u8, bytes: &[u8]) -> Vec<u8> {
    let mut packet = vec![u8::try_from(bytes.len()).unwrap(), kind, millis];
    packet.extend_from_slice(bytes);
    packet
}

fn rtp(sequence: u16, timestamp: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x80, 0];
    bytes.extend(sequence.to_be_bytes());
    bytes.extend(timestamp.to_be_bytes());
    bytes.extend(7u32.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

#[test]
fn rtp_and_rtcp() {
    let report = RtcpReport {
        ssrc: 7,
        sender: Some(SenderInfo {
            ntp: 1 << 40,
            rtp_timestamp: 1,
            packets: 9,
            octets: 1440,
        }),
        reception: vec![ReceptionReport {
            ssrc: 1,
            cumulative_lost: -1,
            last_sr: 5,
            ..ReceptionReport::default()
        }],
        cname: Some("a@b".into()),
        bye: true,
    };
    let rtcp = report.encode().unwrap();
    let mut stream = Vec::new();
    for n in [0u16, 1, 1, 4, 3, 9000, 9001] {
        stream.extend(packet(
            1,
            20,
            &rtp(
                n.wrapping_sub(2),
                u32::from(n) * 160,
                &[n.to_be_bytes()[1]; 20],
            ),
        ));
    }
    stream.extend(packet(0, 5, &rtcp));
    let far = [
        packet(1, 0, &rtp(1, 0, &[1])),
        packet(1, 1, &rtp(2, 0x7fff_ffff, &[1])),
        packet(1, 1, &rtp(3, 0x8000_0001, &[1])),
    ];
    let mut extension = rtp(1, 0, &[0, 1, 0, 1, 0, 0, 0, 0, 9]);
    extension[0] |= 0x30;
    let seeds = [
        ("stream", stream),
        ("report", rtcp.clone()),
        ("report-in-stream", packet(0, 0, &rtcp)),
        ("far-timestamps", far.concat()),
        ("extension-and-padding", packet(1, 0, &extension)),
        ("cut-report", rtcp[..rtcp.len() - 3].to_vec()),
    ];
    replay("rtp_rtcp", &seeds, shared::rtp_rtcp::rtp_rtcp);
}
