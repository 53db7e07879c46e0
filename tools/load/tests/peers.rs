//! Other programs that the server is compared with, as far as they need no root: coturn and stunnel have to be installed.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::float_cmp
)]

mod support;

use support::{number, report, tsc_load};

const MODEST: &str = "--windows 1 --window 0.3 --drain 20";

fn carries_calls(names: &str, sessions: f64) {
    let report = report(&format!(
        "run --peer {names} --tunnels {sessions} --rate 60 {MODEST}"
    ));
    let subjects = report["subjects"].as_array().unwrap();
    let measured: Vec<_> = subjects
        .iter()
        .map(|subject| subject["subject"].as_str().unwrap())
        .collect();
    assert_eq!(measured.join(","), names);
    for subject in subjects {
        let load = &subject["loads"][0];
        assert_eq!(number(subject, "/set_up/clients"), sessions);
        assert!(number(load, "/sent") > 0.0);
        assert_eq!(number(load, "/lost"), 0.0, "{subject:#}");
        assert_eq!(number(subject, "/strangers"), 0.0, "{subject:#}");
        assert!(
            number(load, "/up_us/p50") > 0.0,
            "the far end saw the requests"
        );
        assert!(number(load, "/per_cpu_second/median") > 0.0);
    }
}

#[test]
fn coturn_over_every_transport() {
    carries_calls("coturn-udp,coturn-tcp,coturn-tls,coturn-dtls", 3.0);
}

#[test]
fn stunnel() {
    carries_calls("stunnel", 3.0);
}

#[test]
fn a_command_line_with_nothing_to_measure_is_wrong() {
    let output = tsc_load("run --transport udp");
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("--spawn-server"), "{said}");
}
