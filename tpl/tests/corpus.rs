//! Replays the committed fuzz corpus with the assertions of the fuzz targets, and keeps the seeds in it.
//!
//! `TSC_WRITE_CORPUS=1 cargo test -p tsc-tpl --test corpus` writes the seeds anew.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod seeds;
#[path = "../fuzz/shared/mod.rs"]
mod shared;

use std::fs;
use std::path::{Path, PathBuf};

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target)
}

fn replay(target: &str, check: fn(&[u8])) {
    let mut files: Vec<_> = fs::read_dir(corpus(target))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 12, "only {} files for {target}", files.len());
    for file in files {
        // Shown if the check panics.
        eprintln!("{}", file.display());
        check(&fs::read(&file).unwrap());
    }
}

#[test]
fn datagrams() {
    replay("datagram", shared::datagram);
}

#[test]
fn streams() {
    replay("stream", shared::stream);
}

#[test]
fn stun() {
    replay("stun", shared::stun);
}

#[test]
fn roundtrips() {
    replay("roundtrip", shared::roundtrip);
}

#[test]
fn every_seed_is_committed() {
    let write = std::env::var_os("TSC_WRITE_CORPUS").is_some();
    for (target, name, bytes) in seeds::all() {
        let file = corpus(target).join(name);
        if write {
            fs::create_dir_all(corpus(target)).unwrap();
            fs::write(&file, &bytes).unwrap();
        }
        let committed =
            fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert_eq!(committed, bytes, "{} differs from its seed", file.display());
    }
}
