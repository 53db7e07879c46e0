//! Replays the fuzz targets' corpora with the fuzz targets' own assertions.
#![cfg(feature = "dtls-openssl")]
#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::{fs, path::Path};

#[path = "../fuzz/shared/mod.rs"]
mod shared;

fn replay(target: &str, check: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut files = 0;
    for entry in fs::read_dir(&directory).expect("a corpus") {
        check(&fs::read(entry.unwrap().path()).unwrap());
        files += 1;
    }
    assert!(files >= 5, "{files} files in {}", directory.display());
}

#[test]
fn datagrams_of_strangers() {
    replay("dtls_endpoint", shared::dtls_endpoint);
}

#[test]
fn certificates_of_peers() {
    replay("certificate", shared::certificate);
}

#[test]
fn answers_of_proxies() {
    replay("proxy", shared::proxy);
}
