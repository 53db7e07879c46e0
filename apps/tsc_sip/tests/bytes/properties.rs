//! Properties over generated inputs: of the readers, the writers and the receiver.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use proptest::{collection::vec, prelude::*, sample::Index};
use tsc_sip::{
    media::{Received, Receiver},
    msrp::{Coverage, Flag},
    sip::{Contacts, Head, Host, Message, Method, NameAddr, Request, SipUri, StatusCode, Uri, Via},
};

use crate::{msrp_chunk, shared};

/// A set of bytes is the one that a plain list of flags is.
fn coverage(ranges: &[(u8, u8)]) {
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

fn token() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9.!%*_+`'~-]{1,12}"
}

fn host() -> impl Strategy<Value = Host> {
    prop_oneof![
        "[a-z0-9][a-z0-9.-]{0,20}".prop_filter_map("host", |text| text.parse::<Host>().ok()),
        any::<[u8; 4]>().prop_map(|ip| Host::Ip(ip.into())),
        any::<[u16; 8]>().prop_map(|ip| Host::Ip(ip.into())),
    ]
}

fn sip_uri() -> impl Strategy<Value = SipUri> {
    ("\\PC{0,10}", host(), proptest::option::of(1..u16::MAX))
        .prop_map(|(user, host, port)| SipUri::new(&user, host, port))
}

fn name_addr() -> impl Strategy<Value = NameAddr> {
    ("\\PC{0,10}", sip_uri(), proptest::option::of(token())).prop_map(|(display, uri, tag)| {
        let mut address = NameAddr::new(uri);
        address.display = display;
        match tag {
            Some(tag) => address.with_tag(&tag),
            None => address,
        }
    })
}

fn via() -> impl Strategy<Value = Via> {
    (host(), token(), "\\PC{0,8}").prop_map(|(host, branch, odd)| {
        let mut via = Via::udp("192.0.2.1:5060".parse().unwrap(), &branch);
        via.host = host;
        via.params.set("odd", Some(odd));
        via
    })
}

prop_compose! {
    fn request()(
        method in token(),
        addresses in [name_addr(), name_addr()],
        via in vec(via(), 1..4),
        contacts in vec(name_addr(), 0..3),
        route in vec(name_addr(), 0..3),
        uri in sip_uri(),
        call_id in "[!-~]{1,20}",
        cseq in 0u32..1 << 31,
        max_forwards: u8,
        others in vec((token(), "[!-~]([ -~]{0,20}[!-~])?"), 0..4),
        body in vec(any::<u8>(), 0..50),
        star: bool,
    ) -> Request {
        let [from, to] = addresses;
        let method = Method::parse(&method).unwrap();
        let mut request = Request::new(method, uri, from, to, &call_id, cseq);
        request.max_forwards = max_forwards;
        let head: &mut Head = &mut request.head;
        head.via = via;
        head.contacts = if star { Contacts::All } else { Contacts::List(contacts) };
        head.route = route;
        head.body = body;
        for (name, value) in others {
            // A prefix keeps generated names apart from those that are parsed into types.
            let name = tsc_sip::sip::HeaderName::parse(&format!("X-{name}")).unwrap();
            head.push(name, value);
        }
        request
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn requests_and_their_responses_round_trip(request in request(), code in 100u16..700) {
        let message = Message::Request(request.clone());
        prop_assert_eq!(Message::parse(&message.encode()), Ok(message));
        let response = request.response(StatusCode::new(code).unwrap(), "tag");
        let message = Message::Response(response);
        prop_assert_eq!(Message::parse(&message.encode()), Ok(message));
    }

    #[test]
    fn any_bytes_are_survived(data in vec(any::<u8>(), 0..400)) {
        shared::sip_message::sip_message(&data);
        shared::sdp::sdp(&data);
        shared::rtp_rtcp::rtp_rtcp(&data);
        shared::sip_stream::sip_stream(&data);
        shared::msrp::msrp(&data);
    }

    #[test]
    fn coverage_is_a_set_of_bytes(ranges in vec((any::<u8>(), 0u8..9), 0..200)) {
        coverage(&ranges);
    }

    #[test]
    fn spoilt_msrp_is_survived(
        step: u8,
        body in vec(any::<u8>(), 0..300),
        spoil in vec((any::<Index>(), any::<u8>()), 0..4),
    ) {
        let mut bytes = vec![step];
        bytes.extend(msrp_chunk("ab12", "1-300/600", &body, Flag::More));
        bytes.extend(msrp_chunk("ab12", "301-*/600", &body, Flag::End));
        for (at, byte) in spoil {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        shared::msrp::msrp(&bytes);
    }

    #[test]
    fn spoilt_streams_are_survived(
        step: u8,
        requests in vec(request(), 1..3),
        spoil in vec((any::<Index>(), any::<u8>()), 0..3),
    ) {
        let mut bytes = vec![step];
        for request in requests {
            bytes.extend(request.encode());
            bytes.extend(b"\r\n\r\n");
        }
        for (at, byte) in spoil {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        shared::sip_stream::sip_stream(&bytes);
    }

    #[test]
    fn spoilt_messages_are_survived(
        request in request(),
        spoil in vec((any::<Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = request.encode();
        for (at, byte) in spoil {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        shared::sip_message::sip_message(&bytes);
    }

    #[test]
    fn spoilt_descriptions_are_survived(text in "v=0\r\no=- 1 1 IN IP4 1.2.3.4\r\n([macobt]=[ -~]{0,30}\r\n){0,8}") {
        shared::sdp::sdp(text.as_bytes());
    }

    #[test]
    fn uris_round_trip(uri in sip_uri()) {
        prop_assert_eq!(uri.to_string().parse(), Ok(Uri::Sip(uri)));
    }

    /// Whatever is lost, doubled and displaced a little, the counts are those of a simple model.
    #[test]
    fn the_receiver_counts_like_a_model(
        first: u16,
        start: u32,
        fates in vec((0u8..4, 0u32..5), 1..300),
    ) {
        let mut arrivals = Vec::new();
        for (n, (fate, displaced)) in (0u32..).zip(&fates) {
            // The first packet always arrives first: what precedes it cannot be known.
            let copies = if n == 0 { 1 } else { [0, 1, 1, 2][usize::from(*fate)] };
            let at = if n == 0 { 0 } else { n + displaced + 1 };
            arrivals.extend(std::iter::repeat_n((at, n), copies));
        }
        arrivals.sort_by_key(|(at, _)| *at);
        let mut receiver = Receiver::new();
        let now = Instant::now();
        let (mut seen, mut doubled, mut reordered, mut highest) = (BTreeSet::new(), 0, 0, 0);
        for (at, n) in arrivals {
            let sequence = first.wrapping_add(u16::try_from(n).unwrap());
            let timestamp = start.wrapping_add(n * 160);
            let arrival = now + Duration::from_millis(u64::from(at) * 20);
            let got = receiver.receive(arrival, sequence, timestamp);
            if seen.insert(n) {
                prop_assert_eq!(got, Received::New { offset: i64::from(n) * 160 });
                reordered += u64::from(n < highest);
                highest = highest.max(n);
            } else {
                prop_assert_eq!(got, Received::Duplicate);
                doubled += 1;
            }
        }
        let stats = receiver.stats();
        prop_assert_eq!(stats.expected, u64::from(highest) + 1);
        prop_assert_eq!(stats.received, seen.len() as u64);
        prop_assert_eq!(stats.duplicated, doubled);
        prop_assert_eq!(stats.reordered, reordered);
    }
}
