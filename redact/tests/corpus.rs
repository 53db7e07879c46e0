//! Replays the fuzz corpus, and random inputs, with what the fuzz target asserts.
#![allow(clippy::unwrap_used, unreachable_pub)]

#[path = "../fuzz/shared/mod.rs"]
mod shared;

use std::path::Path;

use proptest::prelude::*;

#[test]
fn the_corpus() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/redact");
    let files = corpus.read_dir().unwrap();
    let mut files: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "no corpus in {}", corpus.display());
    for file in files {
        eprintln!("{}", file.display());
        shared::redact(&std::fs::read(&file).unwrap());
    }
}

proptest! {
    #[test]
    fn anything(data in proptest::collection::vec(any::<u8>(), 0..200)) {
        shared::redact(&data);
    }
}
