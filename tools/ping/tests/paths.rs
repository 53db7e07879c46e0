//! Paths that are shorter than they seem, in network namespaces of the test's own.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod support;

use std::{env, fs, process::Command};

use support::{Pki, Server, diagnosis, examine, step};
use tsc_demo::lab::LabOptions;
use tsc_tapi::Transport;

const MARK: &str = "TSC_TEST_NAMESPACE";

/// True within a network namespace; outside, runs this test again in one and fails with it.
fn in_namespace(test: &str) -> bool {
    if env::var_os(MARK).is_some() {
        return true;
    }
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", "120", "unshare"]);
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    if u64::from_str_radix(line.unwrap().trim(), 16).unwrap() & (1 << 12) == 0 {
        // Without CAP_NET_ADMIN: root in a user namespace.
        command.args(["--user", "--map-root-user"]);
    }
    let status = command
        .arg("--net")
        .arg(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(MARK, "1")
        .status()
        .expect("timeout (coreutils) and unshare (util-linux) are needed");
    assert!(status.success(), "failed in its namespace: {status}");
    false
}

fn run(line: &str) {
    let mut words = line.split(' ');
    let status = Command::new(words.next().unwrap()).args(words).status();
    assert!(status.is_ok_and(|status| status.success()), "{line}");
}

/// The longest packet, over UDP and DTLS, and what is said about it.
fn longest(server: &Server, pki: &Pki) -> Vec<(u64, String)> {
    let (udp, dtls) = (server.url(Transport::Udp), server.url(Transport::Dtls));
    let (code, targets) = examine(&["--count", "2", "--ca", &pki.ca(), &udp, &dtls]);
    assert_eq!(code, 0, "{targets:#}");
    let targets = targets.as_array().unwrap();
    let found = targets.iter().map(|target| {
        let mtu = step(target, "mtu")["mtu"].as_u64();
        (mtu.unwrap(), diagnosis(target))
    });
    found.collect()
}

#[test]
fn an_interface_with_a_short_mtu() {
    if !in_namespace("an_interface_with_a_short_mtu") {
        return;
    }
    run("ip link set lo up mtu 1400");
    let pki = Pki::new();
    let server = Server::start(&pki.server(), &LabOptions::default());
    for (mtu, diagnosis) in longest(&server, &pki) {
        assert!((1396..=1400).contains(&mtu), "{mtu}");
        // The tunnel promises 1400 inside.
        assert!(diagnosis.contains("inner-mtu"), "{diagnosis}");
    }
}

#[test]
fn a_path_that_swallows_long_packets() {
    if !in_namespace("a_path_that_swallows_long_packets") {
        return;
    }
    run("ip link set lo up");
    run("nft add table inet swallow");
    run("nft add chain inet swallow input { type filter hook input priority 0 ; }");
    run("nft add rule inet swallow input ip length > 1334 drop");
    let pki = Pki::new();
    let server = Server::start(&pki.server(), &LabOptions::default());
    for (mtu, _) in longest(&server, &pki) {
        assert!((1330..=1334).contains(&mtu), "{mtu}");
    }
}
