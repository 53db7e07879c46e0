//! SIP messages.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Instant,
};

use tsc_sip::{
    digest::{Challenge, Credentials},
    random::SeededRandom,
    sip::{HeaderName, Message, ParseError, StatusCode},
    transaction::{Event, Limits, Timers, TransactionLayer},
};

const LOCAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 5060);
const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), 5060);

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
