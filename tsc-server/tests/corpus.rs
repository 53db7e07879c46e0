//! Replays the fuzz targets' corpora with the fuzz targets' own assertions.
#![allow(clippy::expect_used, clippy::unwrap_used, missing_docs)]

use std::{fs, path::Path};

use tsc_server::UserSpaceCounters;

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
fn rewritten_packets() {
    replay("rewriter", shared::rewriter);
}

#[test]
fn packets_through_the_switch() {
    replay("switch", shared::switch);
}

#[test]
fn packets_through_the_user_space_egress() {
    replay("user_space", shared::user_space);
}

/// The inputs that were written by hand: fuzzing begins with all of it at work. They wait for nothing, so on a busy machine the
/// kernel may be late with one of them.
#[test]
fn inputs_reach_hosts_and_hosts_reach_tunnels() {
    let reaches = |name: &str, all: fn(&UserSpaceCounters) -> bool| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/user_space");
        let input = fs::read(path.join(name)).unwrap();
        let reached = (0..100).any(|_| all(&shared::user_space_counted(&input)));
        assert!(reached, "{name}: {:?}", shared::user_space_counted(&input));
    };
    reaches("udp-both-families", |counted| {
        (counted.udp_sent, counted.udp_received) == (3, 3)
    });
    reaches("udp-limits", |counted| {
        (counted.udp_tunnel_full, counted.udp_full) == (2, 4)
    });
    reaches("udp-timeout", |counted| counted.udp_timed_out == 1);
    reaches("fragments", |counted| {
        (counted.reassembled, counted.fragments_timed_out) == (4, 1)
    });
    reaches("tcp-life", |counted| {
        let bytes = (counted.tcp_sent_bytes, counted.tcp_received_bytes);
        (counted.tcp_opened, bytes) == (1, (5, 7))
    });
}
