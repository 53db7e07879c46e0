//! MSRP sessions.

use std::time::Instant;

use tsc_sip::{
    msrp::{self, Chunk, Decoder, Head, Item, MsrpUri, Session, limits},
    random::SeededRandom,
};

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
