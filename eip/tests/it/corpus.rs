//! Replays the committed corpus of the fuzz targets with the fuzzers' own assertions.

use std::path::Path;

use crate::{fuzz, fuzz_tcp};

fn replay(target: &str, check: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut files: Vec<_> = std::fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 10, "a corpus in {}", directory.display());
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        let outcome = std::panic::catch_unwind(|| check(&bytes));
        assert!(outcome.is_ok(), "{} fails", file.display());
    }
}

#[test]
fn packet_corpus_holds() {
    replay("packet", fuzz::packet);
}

#[test]
fn exchange_corpus_holds() {
    replay("exchange", fuzz::exchange);
}

#[test]
fn tcp_corpus_holds() {
    replay("tcp", fuzz_tcp::tcp);
}
