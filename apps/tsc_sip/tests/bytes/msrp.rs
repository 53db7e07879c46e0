//! MSRP sessions in simulated time: two ends and the bytes between them.

use std::time::{Duration, Instant};

use proptest::{collection::vec, prelude::*};
use tsc_sip::msrp::{
    Chunk, Decoder, Event, Flag, Inbox, Item, MessageId, SendError, Session, Start, limits, status,
};

use crate::{
    msrp_chunk,
    shared::msrp::{ALICE, BOB, msrp_session},
};

struct World {
    now: Instant,
    alice: Session,
    bob: Session,
    heard: Vec<Vec<u8>>,
    inbox: Inbox,
    /// What happened to Alice's messages.
    events: Vec<Event>,
    largest_chunk: usize,
}

impl World {
    fn new() -> Self {
        Self {
            now: Instant::now(),
            alice: msrp_session(ALICE, BOB, 1),
            bob: msrp_session(BOB, ALICE, 2),
            heard: Vec::new(),
            inbox: Inbox::default(),
            events: Vec::new(),
            largest_chunk: 0,
        }
    }

    /// Carries bytes both ways, in pieces, until nothing moves.
    fn run(&mut self, step: usize) {
        loop {
            let (mut there, mut back) = (Vec::new(), Vec::new());
            while let Some(bytes) = self.alice.poll_transmit() {
                self.largest_chunk = self.largest_chunk.max(bytes.len());
                there.extend(bytes);
            }
            for part in there.chunks(step) {
                self.bob.handle_input(self.now, part).unwrap();
                self.listen();
            }
            while let Some(bytes) = self.bob.poll_transmit() {
                back.extend(bytes);
            }
            for part in back.chunks(step) {
                self.alice.handle_input(self.now, part).unwrap();
            }
            while let Some(event) = self.alice.poll_event() {
                self.events.push(event);
            }
            if there.is_empty() && back.is_empty() {
                return;
            }
        }
    }

    fn listen(&mut self) {
        while let Some(event) = self.bob.poll_event() {
            self.heard
                .extend(self.inbox.handle(event).map(|text| text.body));
        }
    }

    fn send(&mut self, body: &[u8]) -> MessageId {
        self.alice.send(self.now, "text/plain", body, true).unwrap()
    }

    fn is_delivered(&self, id: MessageId) -> bool {
        self.events.contains(&Event::Delivered { id })
    }
}

/// What Bob answers to bytes.
fn answers(bytes: &[u8]) -> Vec<u16> {
    let mut bob = msrp_session(BOB, ALICE, 2);
    bob.handle_input(Instant::now(), bytes).unwrap();
    let mut decoder = Decoder::default();
    while let Some(bytes) = bob.poll_transmit() {
        decoder.push(&bytes);
    }
    let mut codes = Vec::new();
    while let Some(item) = decoder.next_item().unwrap() {
        if let Item::Head { head, .. } = item
            && let Start::Response { code, .. } = head.start
        {
            codes.push(code);
        }
    }
    codes
}

#[test]
fn a_message_arrives_and_is_reported() {
    for length in [0, 1, 2047, 2048, 2049, 10_000] {
        let mut world = World::new();
        let body: Vec<u8> = (0..length).map(|n: u32| n.to_be_bytes()[3]).collect();
        world.alice.greet();
        let id = world.send(&body);
        world.run(100);
        assert_eq!(world.heard, [body], "{length}");
        assert!(world.is_delivered(id) && world.alice.is_idle());
        assert!(world.largest_chunk < limits::CHUNK + 400);
        assert_eq!(world.alice.poll_timeout(), None);
    }
}

#[test]
fn long_messages_do_not_hold_up_short_ones() {
    let mut world = World::new();
    world.send(&[b'l'; 200_000]);
    // The chunks that may be on their way, and then no more.
    let mut decoder = Decoder::default();
    while let Some(bytes) = world.alice.poll_transmit() {
        decoder.push(&bytes);
    }
    world.send(b"short");
    assert_eq!(world.alice.poll_transmit(), None);
    let mut answered = 0;
    while let Some(item) = decoder.next_item().unwrap() {
        if let Item::Head { head, .. } = item
            && answered < 2
        {
            let response = Chunk::bare(head.response(status::OK)).encode();
            world.alice.handle_input(world.now, &response).unwrap();
            answered += 1;
        }
    }
    let next = [world.alice.poll_transmit(), world.alice.poll_transmit()];
    let short = |bytes: &Option<Vec<u8>>| {
        let bytes = bytes.as_ref().unwrap();
        bytes.windows(5).any(|window| window == b"short")
    };
    assert_eq!(
        next.iter().filter(|bytes| short(bytes)).count(),
        1,
        "chunks take turns"
    );
}

#[test]
fn no_more_chunks_are_on_their_way_than_allowed() {
    let mut world = World::new();
    let total = 1_000_000;
    let id = world
        .alice
        .begin(world.now, "text/plain", total, false)
        .unwrap();
    let mut given = 0;
    while world.alice.wants(id) {
        world.alice.feed(world.now, id, &[0; 2048]).unwrap();
        given += 1;
    }
    // One more waits.
    assert!((limits::TRANSACTIONS..=limits::TRANSACTIONS + 1).contains(&given));
    let mut sent = 0;
    while world.alice.poll_transmit().is_some() {
        sent += 1;
    }
    assert_eq!(sent, limits::TRANSACTIONS);
    let too_long = vec![0; 1_000_000];
    let error = world.alice.feed(world.now, id, &too_long).unwrap_err();
    assert_eq!(error, SendError::TooLong);
    for _ in 1..limits::OUTGOING {
        world.alice.begin(world.now, "a/b", 9, false).unwrap();
    }
    let error = world.alice.begin(world.now, "a/b", 9, false).unwrap_err();
    assert_eq!(error, SendError::Full);
}

#[test]
fn what_is_not_answered_fails_in_time() {
    let mut world = World::new();
    let id = world.send(b"hello?");
    while world.alice.poll_transmit().is_some() {}
    let due = world.alice.poll_timeout().unwrap();
    assert_eq!(due, world.now + Duration::from_secs(30));
    world.alice.handle_timeout(due - Duration::from_millis(1));
    assert_eq!(world.alice.poll_event(), None);
    world.alice.handle_timeout(due);
    let failed = Event::Failed {
        id,
        status: status::TIMEOUT,
    };
    assert_eq!(world.alice.poll_event(), Some(failed));
    assert_eq!(world.alice.poll_timeout(), None);
}

#[test]
fn a_message_that_is_given_up_is_told() {
    let mut world = World::new();
    let id = world
        .alice
        .begin(world.now, "text/plain", 9000, true)
        .unwrap();
    world.alice.feed(world.now, id, &[0; 3000]).unwrap();
    world.run(500);
    world.alice.abort(world.now, id).unwrap();
    assert_eq!(world.alice.abort(world.now, id), Err(SendError::Unknown));
    let mut aborted = 0;
    while let Some(bytes) = world.alice.poll_transmit() {
        world.bob.handle_input(world.now, &bytes).unwrap();
        while let Some(event) = world.bob.poll_event() {
            aborted += usize::from(matches!(event, Event::Aborted { .. }));
        }
    }
    assert_eq!(aborted, 1);
}

#[test]
fn refusals_have_their_codes() {
    let good = String::from_utf8(msrp_chunk("abcd", "1-3/3", b"abc", Flag::End)).unwrap();
    let with = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        answers(good.replace(from, to).as_bytes())
    };
    assert_eq!(answers(good.as_bytes()), [status::OK]);
    assert_eq!(with("/bob;", "/eve;"), [status::NO_SUCH_SESSION]);
    assert_eq!(with("/alice;", "/eve;"), [status::NO_SUCH_SESSION]);
    assert_eq!(with("Message-ID: abcd\r\n", ""), [status::BAD_REQUEST]);
    assert_eq!(with("1-3/3", "3-1/3"), [status::BAD_REQUEST]);
    assert_eq!(with("1-3/3", "1-3/10001"), [status::STOP]);
    assert_eq!(
        with("1-3/3", "1-2/2"),
        [status::STOP],
        "longer than it says"
    );
    assert_eq!(with(" SEND", " NICKNAME"), [status::UNKNOWN_METHOD]);
    assert!(with("Success-Report: yes", "Failure-Report: no").is_empty());
    assert!(with("Success-Report: yes", "Failure-Report: partial").is_empty());
    let mut many = Vec::new();
    for n in 0..=limits::INCOMING {
        many.extend(msrp_chunk(
            &format!("id{n:02}"),
            "1-3/9",
            b"abc",
            Flag::More,
        ));
    }
    let codes = answers(&many);
    assert_eq!(codes.len(), limits::INCOMING + 1);
    assert_eq!(codes[limits::INCOMING], status::STOP);
    assert!(
        codes[..limits::INCOMING]
            .iter()
            .all(|code| *code == status::OK)
    );
}

#[test]
fn refused_messages_fail() {
    let mut world = World::new();
    let id = world
        .alice
        .send(world.now, "text/plain", &[0; 10_001], true)
        .unwrap();
    world.run(4096);
    let failed = Event::Failed {
        id,
        status: status::STOP,
    };
    assert!(world.events.contains(&failed), "{:?}", world.events);
    assert!(world.alice.is_idle() && world.heard.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is said, also what looks like an end line, arrives as it was, however the bytes are cut.
    #[test]
    fn all_messages_arrive(
        bodies in vec(prop_oneof![
            vec(any::<u8>(), 0..6000),
            "(\r\n-------[0-9a-f]{0,16}[$+#]?\r?\n?){0,40}".prop_map(String::into_bytes),
        ], 1..6),
        step in 1usize..5000,
    ) {
        let mut world = World::new();
        let ids: Vec<MessageId> = bodies.iter().map(|body| world.send(body)).collect();
        world.run(step);
        let mut heard = world.heard.clone();
        let mut wanted = bodies;
        heard.sort();
        wanted.sort();
        prop_assert_eq!(heard, wanted);
        for id in ids {
            prop_assert!(world.is_delivered(id));
        }
    }

    /// Chunks of one message in any order.
    #[test]
    fn chunks_in_any_order_make_the_message(
        order in Just((0usize..20).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let mut world = World::new();
        for at in order {
            let range = format!("{}-{}/60", at * 3 + 1, at * 3 + 3);
            let flag = if at == 19 { Flag::End } else { Flag::More };
            let body = [at.to_be_bytes()[7]; 3];
            let chunk = msrp_chunk("abcd", &range, &body, flag);
            world.bob.handle_input(world.now, &chunk).unwrap();
            world.listen();
        }
        let wanted: Vec<u8> = (0..60u8).map(|at| at / 3).collect();
        prop_assert_eq!(&world.heard, &[wanted]);
    }
}
