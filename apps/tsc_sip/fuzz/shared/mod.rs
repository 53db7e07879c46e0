//! What must hold for any bytes. Used by the fuzz targets, the corpus replay and the property tests.
#![allow(dead_code)] // each user takes a part

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use tsc_sip::{
    digest::{Challenge, Credentials},
    media::{Codec, MediaConfig, MediaSession, RtcpReport, Source},
    msrp::{
        self, ByteRange, Chunk, Coverage, Decoder, Flag, Head, Item, Method, MsrpUri, Session,
        limits,
    },
    random::SeededRandom,
    sdp::{Agreed, Description, SdpError},
    sip::{
        HeaderName, Message, ParseError, StatusCode,
        stream::{Frame, FramingError, StreamFramer},
    },
    transaction::{Event, Limits, Timers, TransactionLayer},
};

const LOCAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 5060);
const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), 5060);
const PEER_RTCP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), 5061);

/// What is read can be written and is then read as the same; and a layer stays bounded whatever comes.
pub(crate) fn sip_message(data: &[u8]) {
    if let Ok(message) = Message::parse(data) {
        let head = message.head();
        for value in head.headers(&HeaderName::WwwAuthenticate) {
            if let Some(challenge) = Challenge::parse(value) {
                assert_eq!(Challenge::parse(&challenge.to_string()), Some(challenge));
            }
        }
        for value in head.headers(&HeaderName::Authorization) {
            if let Some(credentials) = Credentials::parse(value) {
                let again = Credentials::parse(&credentials.to_string());
                assert_eq!(again.map(|c| c.response), Some(credentials.response));
            }
        }
        match Message::parse(&message.encode()) {
            Ok(again) => assert_eq!(again, message),
            // A list takes a line for each value when it is written.
            Err(ParseError::TooLong | ParseError::TooManyLines) => {}
            Err(error) => panic!("{error}: {message:?}"),
        }
    }
    let random = Box::new(SeededRandom::new(1));
    let limits = Limits {
        transactions: 8,
        per_source: 4,
    };
    let mut layer = TransactionLayer::new(LOCAL, Timers::default(), limits, random);
    let mut now = Instant::now();
    for _ in 0..2 {
        let _ = layer.handle_datagram(now, PEER, data);
        while let Some(event) = layer.poll_event() {
            if let Event::Request { id, request, .. } = event {
                let response = request.response(StatusCode::OK, "tag");
                let _ = layer.respond(now, id, &response);
            }
        }
    }
    assert!(
        layer.len() <= 1,
        "the same message twice is one transaction"
    );
    while let Some(next) = layer.poll_timeout() {
        assert!(next > now, "time goes on");
        now = next;
        layer.handle_timeout(now);
    }
    assert!(layer.is_empty());
    while let Some(transmit) = layer.poll_transmit() {
        match Message::parse(&transmit.payload) {
            Ok(_) | Err(ParseError::TooLong | ParseError::TooManyLines) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// What is read can be written and is then read as the same; and answering it is safe.
pub(crate) fn sdp(data: &[u8]) {
    let Ok(session) = Description::parse(data) else {
        return;
    };
    match Description::parse(session.to_string().as_bytes()) {
        Ok(again) => assert_eq!(again, session),
        // Lines that were left out when it was read are written.
        Err(SdpError::TooLarge) => {}
        Err(error) => panic!("{error}: {session:?}"),
    }
    let rtcp = SocketAddr::new(LOCAL.ip(), 5061);
    if let Ok((answer, agreed)) = Description::answer(&session, 1, LOCAL, rtcp, &Codec::ALL) {
        assert_eq!(answer.media.len(), session.media.len());
        assert_eq!(answer.media.iter().filter(|m| m.port != 0).count(), 1);
        assert_ne!(agreed.remote_rtp.port(), 0);
    }
    let offer = Description::offer(1, LOCAL, rtcp, &Codec::ALL);
    let _ = Description::accept(&offer, &session);
}

/// Packets, each with a byte of length, one that says RTP or RTCP, and one of milliseconds before it.
pub(crate) fn rtp_rtcp(data: &[u8]) {
    const LIMIT: usize = 16_000;
    if let Ok(report) = RtcpReport::parse(data)
        && let Ok(bytes) = report.encode()
    {
        assert_eq!(RtcpReport::parse(&bytes), Ok(report));
    }
    let agreed = Agreed {
        codec: Codec::Pcmu,
        remote_rtp: PEER,
        remote_rtcp: PEER_RTCP,
        send: true,
        receive: true,
    };
    let mut config = MediaConfig::new(Source::Echo, "a@b");
    config.max_recording = LIMIT;
    config.render = true;
    let mut now = Instant::now();
    let mut session = MediaSession::new(now, agreed, config, &mut SeededRandom::new(1));
    let mut packets = 0;
    let mut rest = data;
    let mut out = Vec::new();
    while let [length, kind, millis, tail @ ..] = rest {
        let (packet, tail) = tail.split_at(tail.len().min(usize::from(*length)));
        rest = tail;
        now += Duration::from_millis((*millis).into());
        if kind % 4 == 0 {
            session.handle_rtcp(now, PEER_RTCP, packet);
        } else {
            session.handle_rtp(now, PEER, packet);
            packets += 1;
        }
        out.clear();
        session.tick(&mut out);
        if let Some(report) = session.poll_rtcp(now) {
            assert!(RtcpReport::parse(&report).is_ok());
        }
    }
    let last = session.stop(now);
    assert!(last.is_some_and(|bye| RtcpReport::parse(&bye).is_ok_and(|report| report.bye)));
    let report = session.report();
    assert!(report.received + report.duplicated <= packets);
    assert!(report.late <= report.received && report.reordered <= report.received);
    assert!(report.heard.len() <= LIMIT && report.played.len() <= LIMIT);
    assert!(report.rendered.len() <= LIMIT);
    assert!((1.0..=4.5).contains(&report.mos), "{}", report.mos);
}

/// However a stream is cut, the same frames come out; and what comes out can be written and read again.
pub(crate) fn sip_stream(data: &[u8]) {
    // The first byte says how it is cut.
    let Some((step, stream)) = data.split_first() else {
        return;
    };
    let whole = frames(stream, stream.len().max(1));
    let cut = frames(stream, usize::from(*step).max(1));
    // A line end between messages is a pong or the first half of a ping, as it comes.
    let messages = |frames: &[Frame]| -> Vec<Frame> {
        let is_message = |f: &&Frame| !matches!(f, Frame::Ping | Frame::Pong);
        frames.iter().filter(is_message).cloned().collect()
    };
    assert_eq!(messages(&whole.0), messages(&cut.0));
    if let (Err(a), Err(b)) = (whole.1, cut.1) {
        assert_eq!(a, b);
    }
    for frame in messages(&whole.0) {
        if let Frame::Message(message) = frame
            && let Ok(again) = Message::parse(&message.encode())
        {
            let read = frames(&again.encode(), 7);
            assert_eq!(read, (vec![Frame::Message(Box::new(again))], Ok(())));
        }
    }
}

fn frames(stream: &[u8], step: usize) -> (Vec<Frame>, Result<(), FramingError>) {
    let mut framer = StreamFramer::default();
    let mut frames = Vec::new();
    for part in stream.chunks(step) {
        framer.push(part);
        loop {
            match framer.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Err(error)),
            }
        }
    }
    (frames, Ok(()))
}

pub(crate) const ALICE: &str = "msrp://192.0.2.1:9/alice;tcp";
pub(crate) const BOB: &str = "msrp://192.0.2.2:2855/bob;tcp";

pub(crate) fn msrp_session(local: &str, remote: &str, seed: u64) -> Session {
    let uri = |text: &str| text.parse::<MsrpUri>();
    let (Ok(local), Ok(remote)) = (uri(local), uri(remote)) else {
        panic!("malformed constant");
    };
    let config = msrp::Config {
        max_message: 10_000,
        ..msrp::Config::default()
    };
    Session::new(
        local,
        vec![remote],
        config,
        Box::new(SeededRandom::new(seed)),
    )
}

/// However a stream is cut, the same items come out, and a session takes it: it stays bounded, says only what is MSRP, and
/// hands out nothing that was not announced.
pub(crate) fn msrp(data: &[u8]) {
    let Some((step, stream)) = data.split_first() else {
        return;
    };
    let step = usize::from(*step).max(1);
    let (whole, end) = items(stream, stream.len().max(1));
    let (cut, other_end) = items(stream, step);
    // Where it turns bad, what came before is the same.
    assert_eq!(whole, cut);
    assert_eq!(end, other_end);
    for chunk in chunks(&whole) {
        let bytes = chunk.encode();
        assert_eq!(items(&bytes, bytes.len()), items(&bytes, step));
    }

    let now = Instant::now();
    let mut session = msrp_session(BOB, ALICE, 1);
    let sent = session.send(now, "text/plain", &[b'x'; 5000], true);
    assert!(sent.is_ok());
    let mut known: Vec<String> = Vec::new();
    for part in stream.chunks(step) {
        if session.handle_input(now, part).is_err() {
            break;
        }
        while let Some(event) = session.poll_event() {
            match event {
                msrp::Event::Started { message, .. } => {
                    assert!(!known.contains(&message));
                    known.push(message);
                    assert!(known.len() <= limits::INCOMING);
                }
                msrp::Event::Data {
                    message,
                    offset,
                    bytes,
                } => {
                    assert!(known.contains(&message) && !bytes.is_empty());
                    assert!(offset + bytes.len() as u64 <= 10_000);
                }
                msrp::Event::Received { message, size } => {
                    assert!(size <= 10_000);
                    known.retain(|other| *other != message);
                }
                msrp::Event::Aborted { message } => known.retain(|other| *other != message),
                msrp::Event::Accepted { .. }
                | msrp::Event::Delivered { .. }
                | msrp::Event::Failed { .. } => {}
            }
        }
        let mut said = Vec::new();
        while let Some(bytes) = session.poll_transmit() {
            said.extend(bytes);
        }
        assert_eq!(items(&said, said.len().max(1)).1, Ok(()));
    }
    if let Some(at) = session.poll_timeout() {
        session.handle_timeout(at);
    }
    assert_eq!(session.poll_timeout(), None);
}

fn items(stream: &[u8], step: usize) -> (Vec<Item>, Result<(), msrp::DecodeError>) {
    let mut decoder = Decoder::default();
    let mut items: Vec<Item> = Vec::new();
    for part in stream.chunks(step) {
        decoder.push(part);
        loop {
            match (decoder.next_item(), items.last_mut()) {
                // How a body is cut means nothing.
                (Ok(Some(Item::Body(more))), Some(Item::Body(all))) => all.extend(more),
                (Ok(Some(item)), _) => items.push(item),
                (Ok(None), _) => break,
                (Err(error), _) => return (settled(items), Err(error)),
            }
        }
    }
    (settled(items), Ok(()))
}

/// Without the last body if it has no end: how much of it is known depends on how it came.
fn settled(mut items: Vec<Item>) -> Vec<Item> {
    if let Some(Item::Body(_)) = items.last() {
        items.pop();
    }
    items
}

fn chunks(items: &[Item]) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let mut open: Option<(Head, Option<Vec<u8>>)> = None;
    for item in items {
        match item {
            Item::Head { head, has_body } => {
                open = Some(((**head).clone(), has_body.then(Vec::new)));
            }
            Item::Body(bytes) => {
                if let Some((_, Some(body))) = &mut open {
                    body.extend_from_slice(bytes);
                }
            }
            Item::End(flag) => {
                if let Some((head, body)) = open.take() {
                    let flag = *flag;
                    chunks.push(Chunk { head, body, flag });
                }
            }
        }
    }
    chunks
}

/// The bytes of a chunk of a message from [`ALICE`] to [`BOB`].
pub(crate) fn msrp_chunk(id: &str, range: &str, body: &[u8], flag: Flag) -> Vec<u8> {
    let uri = |text: &str| text.parse::<MsrpUri>();
    let (Ok(alice), Ok(bob)) = (uri(ALICE), uri(BOB)) else {
        panic!("malformed constant");
    };
    let head = Head::request(Method::Send, format!("t{id}"), &[bob], &alice)
        .with("Message-ID", id)
        .with("Byte-Range", range)
        .with("Success-Report", "yes")
        .with("Content-Type", "text/plain");
    assert!(ByteRange::parse(range).is_some());
    let body = Some(body.to_vec());
    Chunk { head, body, flag }.encode()
}

/// A set of bytes is the one that a plain list of flags is.
pub(crate) fn coverage(ranges: &[(u8, u8)]) {
    let mut covered = Coverage::default();
    let mut model = [false; 512];
    for (start, length) in ranges {
        let (start, end) = (u64::from(*start), u64::from(*start) + u64::from(*length));
        if covered.add(start, end).is_ok() {
            for (at, flag) in (0u64..).zip(model.iter_mut()) {
                *flag |= (start..end).contains(&at);
            }
        }
    }
    assert_eq!(
        covered.len(),
        model.iter().filter(|flag| **flag).count() as u64
    );
    let first_gap = model.iter().take_while(|flag| **flag).count() as u64;
    for total in 0..300 {
        assert_eq!(covered.is_complete(total), total <= first_gap);
    }
}
