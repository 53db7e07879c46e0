//! Answers on plain UDP that no server gives: who guesses a sequence must not end an attempt with them (spec 8.2).
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm
)]

use std::time::{Duration, Instant};

use tsc_csm::Transport;
use tsc_csm::client::{AttemptFailure, Client, DownReason, DropReason, Epoch, Event, Inbound};
use tsc_sim::{Rng, client_config};
use tsc_tpl::{
    CmType, Cookie, Header, Limits, MessageBuilder, ResponseCode, ResumeKey, Seconds, Tlv, Tsid,
    Unit,
};

/// A client whose transport is open and whose request has gone out.
struct Asking {
    client: Client,
    now: Instant,
    epoch: Epoch,
    request: Header,
}

impl Asking {
    fn new(transport: Transport) -> Self {
        let now = Instant::now();
        let config = client_config(&[transport]);
        let mut client = Client::new(config, Box::new(Rng::new(5))).unwrap();
        client.start(now);
        let Some(Event::Open { epoch, .. }) = client.poll_event() else {
            panic!("nothing to open")
        };
        client.transport_opened(now, epoch);
        let request = request(&mut client).unwrap();
        Self {
            client,
            now,
            epoch,
            request,
        }
    }

    /// With the cookie that the server asked for.
    fn with_cookie() -> Self {
        let mut asking = Self::new(Transport::Udp);
        let cookie = Tlv::Cookie(Cookie::new(&[7; 16]).unwrap());
        asking.answer(refusal(&asking.request, ResponseCode::COOKIE_REQUIRED).tlv(cookie));
        asking.request = request(&mut asking.client).unwrap();
        asking
    }

    fn answer(&mut self, answer: MessageBuilder<'_>) -> Option<DropReason> {
        let mut bytes = Vec::new();
        answer.encode(&mut bytes).unwrap();
        self.answer_bytes(&bytes)
    }

    fn answer_bytes(&mut self, bytes: &[u8]) -> Option<DropReason> {
        let unit = Unit::decode_datagram(bytes, &Limits::WIDEST).unwrap();
        match self.client.handle_unit(self.now, self.epoch, unit) {
            Inbound::Dropped(reason) => Some(reason),
            _ => None,
        }
    }

    /// How the attempts fail when nothing more comes.
    fn failures(&mut self) -> Vec<AttemptFailure> {
        let mut failures = Vec::new();
        loop {
            while let Some(event) = self.client.poll_event() {
                match event {
                    Event::AttemptFailed { failure, .. } => failures.push(failure),
                    Event::Open { .. } | Event::Down(_) => return failures,
                    _ => {}
                }
            }
            self.now = self.client.poll_timeout().unwrap();
            self.client.handle_timeout(self.now);
        }
    }

    fn is_up(&self) -> bool {
        self.client.assignment().is_some()
    }
}

fn request(client: &mut Client) -> Option<Header> {
    let transmit = client.poll_transmit()?;
    match Unit::decode_datagram(&transmit.bytes, &Limits::WIDEST) {
        Ok(Unit::Control(message)) => Some(message.header()),
        _ => None,
    }
}

fn refusal<'a>(request: &Header, code: ResponseCode) -> MessageBuilder<'a> {
    MessageBuilder::response(request, code).unwrap()
}

fn success<'a>(request: &Header) -> MessageBuilder<'a> {
    refusal(request, ResponseCode::SUCCESS)
        .tsid(Tsid(77))
        .tlv(Tlv::ProtocolRevision(1))
        .tlv(Tlv::InternalIpv4Address([10, 0, 0, 1].into()))
        .tlv(Tlv::InternalIpv4Netmask(
            tsc_tpl::Ipv4Netmask::new(24).unwrap(),
        ))
        .tlv(Tlv::KeepaliveInterval(Seconds(50)))
        .tlv(Tlv::PersistenceTime(Seconds(330)))
        .tlv(Tlv::InnerMtu(1400))
        .tlv(Tlv::ResumeKey(ResumeKey::new(&[1; 32])))
}

/// Well framed, with the wrong content: a Configuration_Response without any TLV.
fn malformed(request: &Header) -> Vec<u8> {
    let mut bytes = vec![0x10, CmType::CONFIGURATION_RESPONSE.0, 0, 0];
    bytes.extend(Tsid::UNASSIGNED.0.to_be_bytes());
    bytes.extend(request.sequence.0.to_be_bytes());
    bytes
}

#[test]
fn without_a_cookie_only_cookie_required_is_believed() {
    let mut asking = Asking::new(Transport::Udp);
    let request = asking.request;
    for code in [
        ResponseCode::MALFORMED,
        ResponseCode::NOT_AUTHORIZED,
        ResponseCode::BUSY,
    ] {
        let dropped = asking.answer(refusal(&request, code));
        assert_eq!(dropped, Some(DropReason::Unexpected), "{code}");
    }
    assert_eq!(
        asking.answer(success(&request)),
        Some(DropReason::Unexpected)
    );
    assert!(asking.answer_bytes(&malformed(&request)).is_some());
    assert_eq!(asking.client.poll_event(), None, "nothing has happened");
    let cookie = Tlv::Cookie(Cookie::new(&[7; 16]).unwrap());
    let dropped = asking.answer(refusal(&request, ResponseCode::COOKIE_REQUIRED).tlv(cookie));
    assert_eq!(dropped, None);
    assert!(self::request(&mut asking.client).is_some(), "asks again");
}

#[test]
fn a_malformed_answer_does_not_keep_the_true_one_out() {
    let mut asking = Asking::with_cookie();
    let request = asking.request;
    assert!(asking.answer_bytes(&malformed(&request)).is_some());
    let dropped = asking.answer(refusal(&request, ResponseCode::MALFORMED));
    assert_eq!(dropped, Some(DropReason::Unexpected));
    assert!(!asking.is_up());
    assert_eq!(asking.answer(success(&request)), None);
    assert!(asking.is_up());
}

#[test]
fn without_a_true_one_it_is_the_reason() {
    let mut asking = Asking::with_cookie();
    let request = asking.request;
    asking.answer(refusal(&request, ResponseCode::MALFORMED));
    let start = asking.now;
    let failures = asking.failures();
    let [AttemptFailure::Refused(refusal)] = failures.as_slice() else {
        panic!("{failures:?}")
    };
    assert_eq!(refusal.code, ResponseCode::MALFORMED);
    assert!(
        asking.now - start > Duration::from_secs(19),
        "all transmissions"
    );
}

#[test]
fn other_refusals_and_other_transports_are_believed_at_once() {
    let mut asking = Asking::with_cookie();
    asking.answer(refusal(
        &asking.request.clone(),
        ResponseCode::NOT_AUTHORIZED,
    ));
    let start = asking.now;
    assert!(matches!(
        asking.failures().as_slice(),
        [AttemptFailure::Refused(refusal)] if refusal.code == ResponseCode::NOT_AUTHORIZED
    ));
    assert_eq!(asking.now, start);
    for transport in [Transport::Tcp, Transport::Tls, Transport::Dtls] {
        let mut asking = Asking::new(transport);
        asking.answer(refusal(&asking.request.clone(), ResponseCode::MALFORMED));
        let start = asking.now;
        assert_eq!(asking.failures().len(), 1, "{transport}");
        assert_eq!(asking.now, start);
    }
}

#[test]
fn every_failed_attempt_is_told_of_before_the_end() {
    let mut asking = Asking::new(Transport::Tls);
    asking.answer(refusal(
        &asking.request.clone(),
        ResponseCode::NOT_AUTHORIZED,
    ));
    let events: Vec<Event> = std::iter::from_fn(|| asking.client.poll_event()).collect();
    let [
        Event::Close { .. },
        Event::AttemptFailed {
            epoch,
            target,
            failure: AttemptFailure::Refused(refusal),
        },
        Event::Down(DownReason::CannotConnect(AttemptFailure::Refused(last))),
    ] = events.as_slice()
    else {
        panic!("{events:?}")
    };
    assert_eq!(*epoch, asking.epoch);
    assert_eq!(target.transport, Transport::Tls);
    assert_eq!(refusal, last);
}
