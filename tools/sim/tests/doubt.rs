//! Answers on plain UDP that no server gives: who guesses a sequence must not end an attempt with them (spec 8.2).
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm
)]

mod common;

use std::time::Duration;

use common::asking::{Asking, refusal, request, success};
use tsc_csm::Transport;
use tsc_csm::client::{AttemptFailure, DownReason, DropReason, Event};
use tsc_tpl::{CmType, Cookie, Header, ResponseCode, Tlv, Tsid};

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
    let asked = asking.request;
    for code in [
        ResponseCode::MALFORMED,
        ResponseCode::NOT_AUTHORIZED,
        ResponseCode::BUSY,
    ] {
        let dropped = asking.answer(refusal(&asked, code));
        assert_eq!(dropped, Some(DropReason::Unexpected), "{code}");
    }
    assert_eq!(asking.answer(success(&asked)), Some(DropReason::Unexpected));
    assert!(asking.answer_bytes(&malformed(&asked)).is_some());
    assert_eq!(asking.client.poll_event(), None, "nothing has happened");
    let cookie = Tlv::Cookie(Cookie::new(&[7; 16]).unwrap());
    let dropped = asking.answer(refusal(&asked, ResponseCode::COOKIE_REQUIRED).tlv(cookie));
    assert_eq!(dropped, None);
    assert!(request(&mut asking.client).is_some(), "asks again");
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
    assert_eq!(*epoch, Some(asking.epoch));
    assert_eq!(target.transport, Transport::Tls);
    assert_eq!(refusal, last);
}
