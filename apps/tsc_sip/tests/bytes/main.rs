//! The readers, the writers and the sessions, without a network: what holds for any bytes, and what for those of a session.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod corpus;
mod msrp;
mod properties;
#[path = "../../fuzz/shared/mod.rs"]
mod shared;

use tsc_sip::msrp::{ByteRange, Chunk, Flag, Head, Method, MsrpUri};

use shared::msrp::{ALICE, BOB};

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
