//! Replays the fuzz corpus, and random inputs of the same shape, with what the fuzz targets assert.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    unreachable_pub
)]

#[path = "../fuzz/shared/mod.rs"]
mod shared;

use std::path::Path;

use proptest::prelude::*;

fn replay(target: &str, run: impl Fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut files: Vec<_> = corpus
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no corpus in {}", corpus.display());
    for file in files {
        eprintln!("{}", file.display());
        run(&std::fs::read(&file).unwrap());
    }
}

#[test]
fn the_servers_corpus() {
    replay("server", shared::server);
}

#[test]
fn the_clients_corpus() {
    replay("client", shared::client);
}

/// Operations with messages that have a valid frame.
fn input() -> impl Strategy<Value = Vec<u8>> {
    let tlv = (
        prop_oneof![0u16..45, 0x8000u16..0x8007],
        prop::collection::vec(any::<u8>(), 0..40),
    );
    let tsid = prop_oneof![Just([0xEE; 8]), Just([0xFF; 8]), any::<[u8; 8]>()];
    let message = (
        0u8..14,
        tsid,
        any::<u32>(),
        prop::collection::vec(tlv, 0..5),
    )
        .prop_map(|(cm_type, tsid, sequence, tlvs)| {
            let mut bytes = vec![0x10, cm_type, 0, tlvs.len() as u8];
            bytes.extend(tsid);
            bytes.extend(sequence.to_be_bytes());
            for (ty, value) in tlvs {
                bytes.extend(ty.to_be_bytes());
                bytes.extend((value.len() as u16).to_be_bytes());
                bytes.extend(value);
            }
            bytes
        });
    let bytes = prop_oneof![4 => message, 1 => prop::collection::vec(any::<u8>(), 0..250)];
    let operation = (any::<u8>(), bytes).prop_map(|(op, mut bytes)| {
        bytes.truncate(255);
        let mut operation = vec![op, bytes.len() as u8];
        operation.extend(bytes);
        operation
    });
    prop::collection::vec(operation, 0..40).prop_map(|operations| operations.concat())
}

proptest! {
    #[test]
    fn any_input_at_a_server(input in input()) {
        shared::server(&input);
    }

    #[test]
    fn any_input_at_a_client(input in input()) {
        shared::client(&input);
    }
}
