//! Transactions in virtual time: each test is a story of RFC 3261 section 17.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tsc_sip::{
    random::SeededRandom,
    sip::{Contacts, HeaderName, Message, Method, NameAddr, Request, Response, SipUri, StatusCode},
    transaction::{ClientId, Event, Limits, ServerId, Timers, TransactionError, TransactionLayer},
};

const LOCAL: &str = "192.0.2.1:5060";
const PEER: &str = "192.0.2.2:5060";

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn uri(text: &str) -> SipUri {
    text.parse().unwrap()
}

fn request(method: Method) -> Request {
    let from = NameAddr::new(uri("sip:alice@a")).with_tag("alice");
    let to = NameAddr::new(uri("sip:bob@b"));
    let mut request = Request::new(method, uri("sip:bob@192.0.2.2"), from, to, "call", 1);
    request.head.contacts = Contacts::List(vec![NameAddr::new(uri("sip:alice@192.0.2.1"))]);
    request
}

fn response(request: &Request, code: u16) -> Vec<u8> {
    let status = StatusCode::new(code).unwrap();
    request.response(status, "bob").encode()
}

/// One layer and its clock.
struct World {
    layer: TransactionLayer,
    start: Instant,
    now: Instant,
}

impl World {
    fn new(local: &str) -> Self {
        Self::with_limit(local, 100)
    }

    fn with_limit(local: &str, transactions: usize) -> Self {
        let random = Box::new(SeededRandom::new(1));
        let limits = Limits {
            transactions,
            per_source: transactions,
        };
        let start = Instant::now();
        Self {
            layer: TransactionLayer::new(at(local), Timers::default(), limits, random),
            start,
            now: start,
        }
    }

    /// Messages that were sent just now.
    fn sent(&mut self) -> Vec<Message> {
        std::iter::from_fn(|| self.layer.poll_transmit())
            .map(|transmit| Message::parse(&transmit.payload).unwrap())
            .collect()
    }

    fn sent_request(&mut self) -> Request {
        match self.sent().remove(0) {
            Message::Request(request) => request,
            Message::Response(response) => panic!("{response:?}"),
        }
    }

    fn sent_response(&mut self) -> Response {
        match self.sent().remove(0) {
            Message::Response(response) => response,
            Message::Request(request) => panic!("{request:?}"),
        }
    }

    fn receive(&mut self, datagram: &[u8]) {
        self.layer
            .handle_datagram(self.now, at(PEER), datagram)
            .unwrap();
    }

    /// Goes on until everything is over; the times in ms at which something was sent, and when it was over.
    fn run_out(&mut self) -> (Vec<u128>, u128) {
        let mut times = Vec::new();
        while let Some(next) = self.layer.poll_timeout() {
            assert!(next >= self.now);
            // An early timer is harmless.
            self.layer.handle_timeout(self.now);
            assert!(self.sent().is_empty());
            self.now = next;
            self.layer.handle_timeout(self.now);
            times.extend(self.sent().iter().map(|_| self.elapsed()));
        }
        assert!(self.layer.is_empty());
        (times, self.elapsed())
    }

    fn elapsed(&self) -> u128 {
        self.now.duration_since(self.start).as_millis()
    }

    fn pass(&mut self, millis: u64) {
        let end = self.now + Duration::from_millis(millis);
        while let Some(next) = self.layer.poll_timeout().filter(|next| *next <= end) {
            self.now = next;
            self.layer.handle_timeout(next);
        }
        self.now = end;
    }

    fn ask(&mut self, method: Method) -> (ClientId, Request) {
        let id = self
            .layer
            .request(self.now, request(method), at(PEER))
            .unwrap();
        (id, self.sent_request())
    }

    /// The next event; that something had to be repeated is a story of its own.
    fn event(&mut self) -> Option<Event> {
        std::iter::from_fn(|| self.layer.poll_event())
            .find(|event| !matches!(event, Event::Unanswered { .. }))
    }

    fn status(&mut self) -> u16 {
        match self.event() {
            Some(Event::Response { response, .. }) => response.status.code(),
            other => panic!("{other:?}"),
        }
    }

    /// A request of the peer, as its transaction.
    fn asked(&mut self, request: &Request) -> ServerId {
        self.receive(&request.encode());
        match self.event() {
            Some(Event::Request { id, .. }) => id,
            other => panic!("{other:?}"),
        }
    }

    fn answer(&mut self, id: ServerId, request: &Request, code: u16) {
        let status = StatusCode::new(code).unwrap();
        let response = request.response(status, "local");
        self.layer.respond(self.now, id, &response).unwrap();
    }
}

/// A request as the peer sends it.
fn from_peer(method: Method, branch: &str) -> Request {
    let mut request = request(method);
    let via = tsc_sip::sip::Via::udp(at(PEER), branch);
    request.head.via.push(via);
    request
}

#[test]
fn an_invite_is_repeated_by_timer_a_until_timer_b() {
    let mut world = World::new(LOCAL);
    world.ask(Method::Invite);
    let (times, over) = world.run_out();
    assert_eq!(times, [500, 1500, 3500, 7500, 15_500, 31_500]);
    assert_eq!(over, 32_000);
    assert!(matches!(world.event(), Some(Event::Timeout { .. })));
    assert_eq!(world.event(), None);
}

#[test]
fn another_request_is_repeated_by_timer_e_until_timer_f() {
    let mut world = World::new(LOCAL);
    world.ask(Method::Register);
    let (times, over) = world.run_out();
    let wanted = [
        500, 1500, 3500, 7500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500,
    ];
    assert_eq!(times, wanted);
    assert_eq!(over, 32_000);
    assert!(matches!(world.event(), Some(Event::Timeout { .. })));
}

#[test]
fn an_unreachable_peer_ends_what_it_has_not_answered() {
    let mut world = World::new(LOCAL);
    let (answered, invite) = world.ask(Method::Invite);
    world.receive(&response(&invite, 180));
    assert_eq!(world.status(), 180);
    let (lost, _) = world.ask(Method::Invite);
    let (also_lost, _) = world.ask(Method::Bye);
    world.pass(500);
    assert_eq!(world.layer.poll_event(), None, "one copy may be lost");
    world.pass(1000);
    // Both are repeated again, and whoever can is asked to have a look.
    let unanswered = Some(Event::Unanswered { to: at(PEER) });
    assert_eq!(world.layer.poll_event(), unanswered);
    assert_eq!(world.layer.poll_event(), unanswered);
    world.layer.handle_unreachable(at("192.0.2.99:5060"));
    assert_eq!(world.layer.poll_event(), None, "somebody else");
    world.layer.handle_unreachable(at(PEER));
    for id in [lost, also_lost] {
        assert_eq!(world.layer.poll_event(), Some(Event::Unreachable { id }));
    }
    assert_eq!(
        world.layer.poll_event(),
        None,
        "a forged error ends no call that rings"
    );
    assert_eq!(world.layer.len(), 1);
    assert!(world.layer.sent_request(answered).is_some());
}

#[test]
fn after_a_provisional_response_an_invite_waits_and_others_go_on_at_t2() {
    let mut world = World::new(LOCAL);
    let (_, invite) = world.ask(Method::Invite);
    world.receive(&response(&invite, 180));
    assert_eq!(world.status(), 180);
    assert_eq!(world.layer.poll_timeout(), None, "it may ring for ever");

    let mut world = World::new(LOCAL);
    let (_, options) = world.ask(Method::Options);
    world.receive(&response(&options, 100));
    assert_eq!(world.status(), 100);
    let (times, over) = world.run_out();
    assert_eq!(times, [4000, 8000, 12_000, 16_000, 20_000, 24_000, 28_000]);
    assert_eq!(over, 32_000);
}

#[test]
fn a_refused_invite_is_acknowledged_each_time_until_timer_d() {
    let mut world = World::new(LOCAL);
    let (_, invite) = world.ask(Method::Invite);
    let busy = response(&invite, 486);
    world.receive(&busy);
    assert_eq!(world.status(), 486);
    let ack = world.sent_request();
    assert_eq!(ack.method, Method::Ack);
    assert_eq!(ack.head.via, invite.head.via, "the INVITE's own branch");
    assert_eq!(ack.head.to.tag(), Some("bob"));
    assert_eq!((ack.uri, ack.head.cseq.number), (invite.uri, 1));
    world.receive(&busy);
    assert_eq!(world.sent_request().method, Method::Ack);
    assert_eq!(world.event(), None, "told once");
    let (times, over) = world.run_out();
    assert_eq!((times.len(), over), (0, 32_000));
}

#[test]
fn the_ack_of_a_success_is_repeated_with_it_until_timer_m() {
    let mut world = World::new(LOCAL);
    let (id, invite) = world.ask(Method::Invite);
    let mut ack = request(Method::Ack);
    ack.head.to = ack.head.to.with_tag("bob");
    let early = world.layer.acknowledge(id, ack.clone(), at(PEER));
    assert_eq!(early, Err(TransactionError::State));
    let ok = response(&invite, 200);
    world.receive(&ok);
    assert_eq!(world.status(), 200);
    assert!(world.sent().is_empty(), "the program sends it");
    world.layer.acknowledge(id, ack, at(PEER)).unwrap();
    let first = world.sent_request();
    assert_ne!(first.head.via, invite.head.via, "a transaction of its own");
    world.receive(&ok);
    assert_eq!(world.sent_request(), first);
    assert_eq!(world.event(), None, "told once");
    // Another branch of a forked INVITE is told.
    let forked = invite.response(StatusCode::OK, "carol").encode();
    world.receive(&forked);
    assert_eq!(world.status(), 200);
    assert_eq!(world.run_out().1, 32_000);
}

#[test]
fn a_final_response_is_absorbed_again_until_timer_k() {
    let mut world = World::new(LOCAL);
    let (_, bye) = world.ask(Method::Bye);
    let ok = response(&bye, 200);
    world.receive(&ok);
    world.receive(&ok);
    assert_eq!(world.status(), 200);
    assert_eq!(world.event(), None);
    assert_eq!(world.layer.stats().absorbed, 1);
    assert_eq!(world.run_out(), (vec![], 5000));
    world.receive(&ok);
    assert_eq!(world.layer.stats().stray, 1);
}

#[test]
fn cancel_waits_for_a_provisional_response() {
    let mut world = World::new(LOCAL);
    let (id, invite) = world.ask(Method::Invite);
    world.layer.cancel(world.now, id).unwrap();
    assert!(world.sent().is_empty(), "nothing to cancel yet (9.1)");
    world.receive(&response(&invite, 100));
    let cancel = world.sent_request();
    assert_eq!(cancel.method, Method::Cancel);
    assert_eq!(cancel.head.via, invite.head.via);
    assert_eq!(cancel.head.cseq.number, invite.head.cseq.number);
    assert_eq!(
        (cancel.uri.clone(), cancel.head.to.clone()),
        (invite.uri.clone(), invite.head.to.clone())
    );
    assert_eq!(world.status(), 100);
    world.receive(&response(&cancel, 200));
    assert_eq!(world.status(), 200);
    world.receive(&response(&invite, 487));
    assert_eq!(world.status(), 487);
    assert_eq!(world.sent_request().method, Method::Ack);
    world.run_out();
}

#[test]
fn a_cancelled_invite_that_stays_unanswered_times_out() {
    let mut world = World::new(LOCAL);
    let (id, invite) = world.ask(Method::Invite);
    world.receive(&response(&invite, 180));
    world.status();
    world.layer.cancel(world.now, id).unwrap();
    assert_eq!(world.sent_request().method, Method::Cancel);
    world.run_out();
    let events: Vec<_> = std::iter::from_fn(|| world.event()).collect();
    assert!(events.contains(&Event::Timeout { id }), "{events:?}");
}

#[test]
fn what_is_no_transaction_cannot_be_asked_or_cancelled() {
    let mut world = World::new(LOCAL);
    for method in [Method::Ack, Method::Cancel] {
        let result = world.layer.request(world.now, request(method), at(PEER));
        assert_eq!(result, Err(TransactionError::State));
    }
    let (id, _) = world.ask(Method::Options);
    assert_eq!(
        world.layer.cancel(world.now, id),
        Err(TransactionError::State)
    );
}

#[test]
fn an_invite_gets_100_at_once_and_its_last_provisional_response_again() {
    let mut world = World::new(PEER);
    let invite = from_peer(Method::Invite, "z9hG4bK1");
    let id = world.asked(&invite);
    assert_eq!(world.sent_response().status, StatusCode::TRYING);
    world.answer(id, &invite, 180);
    assert_eq!(world.sent_response().status, StatusCode::RINGING);
    world.receive(&invite.encode());
    assert_eq!(world.sent_response().status, StatusCode::RINGING);
    assert_eq!(world.event(), None, "absorbed");
}

#[test]
fn a_refusal_is_repeated_by_timer_g_until_its_ack_and_timer_i() {
    let mut world = World::new(PEER);
    let invite = from_peer(Method::Invite, "z9hG4bK1");
    let id = world.asked(&invite);
    world.answer(id, &invite, 486);
    world.sent();
    world.pass(1600);
    assert_eq!(world.sent().len(), 2, "after 500 and 1500 ms");
    let mut ack = from_peer(Method::Ack, "z9hG4bK1");
    ack.head.to = ack.head.to.with_tag("local");
    world.receive(&ack.encode());
    assert_eq!(world.event(), None, "the ACK of a refusal is not told");
    assert_eq!(world.run_out(), (vec![], 1600 + 5000));
}

#[test]
fn a_refusal_without_ack_ends_with_timer_h() {
    let mut world = World::new(PEER);
    let invite = from_peer(Method::Invite, "z9hG4bK1");
    let id = world.asked(&invite);
    world.answer(id, &invite, 486);
    world.sent();
    let (times, over) = world.run_out();
    let wanted = [
        500, 1500, 3500, 7500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500,
    ];
    assert_eq!((times.as_slice(), over), (wanted.as_slice(), 32_000));
    assert_eq!(world.event(), Some(Event::AckMissing { id }));
}

#[test]
fn a_success_is_repeated_until_its_ack() {
    let mut world = World::new(PEER);
    let invite = from_peer(Method::Invite, "z9hG4bK1");
    let id = world.asked(&invite);
    world.answer(id, &invite, 200);
    world.sent();
    world.receive(&invite.encode());
    assert!(
        world.sent().is_empty(),
        "the 2xx repeats by itself (RFC 6026)"
    );
    world.pass(600);
    assert_eq!(world.sent_response().status, StatusCode::OK);
    // The ACK has a branch of its own and is matched by the dialog.
    let mut ack = from_peer(Method::Ack, "z9hG4bK2");
    ack.head.to = ack.head.to.with_tag("local");
    world.receive(&ack.encode());
    assert!(matches!(world.event(), Some(Event::Acknowledged { id: acked, .. }) if acked == id));
    world.receive(&ack.encode());
    assert_eq!(world.event(), None, "told once");
    assert_eq!(world.run_out(), (vec![], 32_000));
}

#[test]
fn a_success_without_ack_is_told() {
    let mut world = World::new(PEER);
    let invite = from_peer(Method::Invite, "z9hG4bK1");
    let id = world.asked(&invite);
    world.answer(id, &invite, 200);
    world.sent();
    assert_eq!(world.run_out().0.len(), 10);
    assert_eq!(world.event(), Some(Event::AckMissing { id }));
    let mut ack = from_peer(Method::Ack, "z9hG4bK2");
    ack.head.to = ack.head.to.with_tag("local");
    world.receive(&ack.encode());
    assert_eq!(world.layer.stats().stray, 1, "forgotten");
}

#[test]
fn other_requests_get_their_response_again_until_timer_j() {
    let mut world = World::new(PEER);
    let bye = from_peer(Method::Bye, "z9hG4bK1");
    let id = world.asked(&bye);
    assert!(world.sent().is_empty(), "no 100 for a BYE");
    world.receive(&bye.encode());
    assert!(world.sent().is_empty(), "nothing to repeat yet");
    world.answer(id, &bye, 200);
    assert_eq!(world.sent_response().status, StatusCode::OK);
    world.receive(&bye.encode());
    assert_eq!(world.sent_response().status, StatusCode::OK);
    let twice = bye.response(StatusCode::OK, "local");
    assert_eq!(
        world.layer.respond(world.now, id, &twice),
        Err(TransactionError::State)
    );
    assert_eq!(world.run_out(), (vec![], 32_000));
    assert_eq!(
        world.layer.respond(world.now, id, &twice),
        Err(TransactionError::Unknown)
    );
}

#[test]
fn cancel_reaches_the_invite_with_its_branch() {
    let mut world = World::new(PEER);
    let invite = from_peer(Method::Invite, "z9hG4bK1");
    let id = world.asked(&invite);
    world.sent();
    world.receive(&from_peer(Method::Cancel, "z9hG4bK1").encode());
    assert_eq!(world.event(), Some(Event::Cancelled { id }));
    let ok = world.sent_response();
    assert_eq!(
        (ok.status, &ok.head.cseq.method),
        (StatusCode::OK, &Method::Cancel)
    );
    world.answer(id, &invite, 487);
    assert_eq!(world.sent_response().status.code(), 487);
    // After the final response there is nothing to cancel, but the CANCEL still gets its 200 again.
    world.receive(&from_peer(Method::Cancel, "z9hG4bK1").encode());
    assert_eq!(world.event(), None);
    assert_eq!(world.sent_response().status, StatusCode::OK);

    world.receive(&from_peer(Method::Cancel, "z9hG4bK9").encode());
    assert_eq!(
        world.sent_response().status,
        StatusCode::CALL_DOES_NOT_EXIST
    );
    assert_eq!(world.event(), None);
}

#[test]
fn peers_of_rfc_2543_are_matched_without_the_magic_cookie() {
    let mut world = World::new(PEER);
    let invite = from_peer(Method::Invite, "1");
    let id = world.asked(&invite);
    world.receive(&invite.encode());
    assert_eq!(world.event(), None);
    world.answer(id, &invite, 486);
    let mut ack = from_peer(Method::Ack, "1");
    ack.head.to = ack.head.to.with_tag("local");
    world.sent();
    world.receive(&ack.encode());
    assert_eq!(world.run_out().0.len(), 0, "acknowledged");
}

#[test]
fn responses_go_where_the_request_came_from() {
    let mut world = World::new(LOCAL);
    let mut options = from_peer(Method::Options, "z9hG4bK1");
    let behind_nat = at("198.51.100.7:40000");
    world
        .layer
        .handle_datagram(world.now, behind_nat, &options.encode())
        .unwrap();
    let Some(Event::Request { id, request, .. }) = world.event() else {
        panic!("no request");
    };
    assert_eq!(
        request.head.via[0].params.value("received"),
        Some("198.51.100.7")
    );
    assert_eq!(request.head.via[0].params.value("rport"), Some("40000"));
    assert_eq!(world.layer.reply_address(id), Some(behind_nat.into()));

    // Without rport the port of the Via counts (RFC 3261 18.2.2).
    options.head.via[0] = "x"
        .parse::<tsc_sip::sip::Host>()
        .map(|host| tsc_sip::sip::Via {
            host,
            port: None,
            ..options.head.via[0].clone()
        })
        .unwrap();
    let mut params = tsc_sip::sip::Params::default();
    params.set("branch", Some("z9hG4bK2".into()));
    options.head.via[0].params = params;
    world
        .layer
        .handle_datagram(world.now, behind_nat, &options.encode())
        .unwrap();
    let Some(Event::Request { id, .. }) = world.event() else {
        panic!("no request");
    };
    assert_eq!(
        world.layer.reply_address(id),
        Some(at("198.51.100.7:5060").into())
    );
}

#[test]
fn the_table_is_bounded() {
    let mut world = World::with_limit(PEER, 2);
    world.asked(&from_peer(Method::Options, "z9hG4bK1"));
    world.ask(Method::Options);
    world.receive(&from_peer(Method::Options, "z9hG4bK2").encode());
    assert_eq!(world.event(), None);
    assert_eq!(world.layer.stats().overload, 1);
    let full = world
        .layer
        .request(world.now, request(Method::Bye), at(PEER));
    assert_eq!(full, Err(TransactionError::Full));
    // A program that never answers does not hold its place for ever.
    world.run_out();
    assert!(
        matches!(world.event(), Some(Event::Timeout { .. })),
        "our own request"
    );
    world.asked(&from_peer(Method::Options, "z9hG4bK3"));
}

#[test]
fn a_source_that_asks_too_much_displaces_its_own_answered_requests() {
    let mut world = World::with_limit(PEER, 2);
    let first = from_peer(Method::Options, "z9hG4bK1");
    let id = world.asked(&first);
    world.answer(id, &first, 200);
    world.asked(&from_peer(Method::Options, "z9hG4bK2"));
    world.asked(&from_peer(Method::Options, "z9hG4bK3"));
    assert_eq!(world.layer.reply_address(id), None, "it was answered");
    assert_eq!(world.layer.stats().overload, 1);
    // Now both wait for their answer.
    world.receive(&from_peer(Method::Options, "z9hG4bK4").encode());
    assert_eq!(world.event(), None);
    // Somebody else takes the place of one of them all the same.
    let other = from_peer(Method::Options, "z9hG4bK5").encode();
    let from = at("192.0.2.77:5060");
    let taken = world.layer.handle_datagram(world.now, from, &other);
    assert!(taken.is_ok() && matches!(world.event(), Some(Event::Request { .. })));
    assert_eq!(world.layer.len(), 2);
    world.sent();
    world.run_out();
}

/// 17.1.4 and 17.2.4.
#[test]
fn what_cannot_be_sent_ends_its_transaction_and_no_other() {
    let mut world = World::new(LOCAL);
    let (good, _) = world.ask(Method::Options);
    for method in [Method::Options, Method::Invite] {
        let request = request(method);
        let id = world.layer.request(world.now, request, at(PEER)).unwrap();
        let of = world.layer.poll_transmit().unwrap().of;
        assert_eq!(of, id.into());
        world.layer.handle_transport_error(of);
        assert_eq!(world.event(), Some(Event::Unreachable { id }));
    }
    // A repetition, after a provisional response.
    let (ringing, options) = world.ask(Method::Options);
    world.receive(&response(&options, 180));
    assert_eq!(world.status(), 180);
    world.layer.handle_transport_error(ringing.into());
    assert_eq!(world.event(), Some(Event::Unreachable { id: ringing }));
    // The other side's.
    for (method, code, ends) in [
        (Method::Invite, 200, true),
        (Method::Invite, 486, true),
        (Method::Options, 200, false),
    ] {
        let asked = from_peer(method, &format!("z9hG4bK{code}{ends}"));
        let id = world.asked(&asked);
        while world.layer.poll_transmit().is_some() {}
        world.answer(id, &asked, code);
        let of = world.layer.poll_transmit().unwrap().of;
        assert_eq!(of, id.into());
        world.layer.handle_transport_error(of);
        let missing = ends.then_some(Event::AckMissing { id });
        assert_eq!(world.event(), missing);
        assert_eq!(world.layer.reply_address(id), None);
    }
    assert_eq!(world.layer.len(), 1);
    assert!(world.layer.sent_request(good).is_some());
}

#[test]
fn noise_is_counted() {
    let mut world = World::new(LOCAL);
    let result = world
        .layer
        .handle_datagram(world.now, at(PEER), b"GET / HTTP/1.1\r\n\r\n");
    assert!(result.is_err());
    assert!(
        world
            .layer
            .handle_datagram(world.now, at(PEER), b"\r\n\r\n")
            .is_ok()
    );
    assert_eq!(world.layer.stats().malformed, 1);
    // Responses to nobody, and one that went astray (two Vias).
    let (_, options) = world.ask(Method::Options);
    let mut astray = options.response(StatusCode::OK, "t");
    astray.head.via.push(options.head.via[0].clone());
    astray.head.push(HeaderName::Server, "x");
    world.receive(&astray.encode());
    assert_eq!(world.layer.stats().stray, 1);
    assert_eq!(world.event(), None);
}
