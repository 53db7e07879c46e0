//! What must hold for any bytes. Used by the fuzz targets, the corpus replay and the property tests.
#![allow(dead_code)] // each user takes a part

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use tsc_sip::{
    digest::{Challenge, Credentials},
    media::{Codec, MediaConfig, MediaSession, RtcpReport, Source},
    random::SeededRandom,
    sdp::{Agreed, Description, SdpError},
    sip::{HeaderName, Message, ParseError, StatusCode},
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
    let limits = Limits { transactions: 8 };
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
    assert!((1.0..=4.5).contains(&report.mos), "{}", report.mos);
}
