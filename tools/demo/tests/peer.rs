//! Calls whose media leaves the tunnel server: by the demo's program, in a network of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::process::Command;

use serde_json::Value;

/// What the program says of two calls over each of these transports.
fn run(transports: &[&str]) -> Vec<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tsc-demo"));
    command.args(["--service", "peer", "--duration", "3", "--json"]);
    for transport in transports {
        command.args(["--transport", transport]);
    }
    let output = command.output().unwrap();
    let (out, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(output.status.code(), Some(0), "{out}\n{errors}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    report["calls"].as_array().unwrap().clone()
}

#[test]
fn the_server_relays_none_of_a_calls_media_while_there_is_a_peer_tunnel() {
    let calls = run(&["udp", "dtls"]);
    assert_eq!(calls.len(), 4);
    for (call, transport) in calls.iter().zip(["udp", "udp", "dtls", "dtls"]) {
        assert_eq!(call["transport"], transport);
        let number = |name: &str| call[name].as_u64().unwrap();
        let (sent, relayed) = (number("sent"), number("relayed"));
        assert!(sent >= 290, "{call}");
        if call["way"] == "server" {
            // All of the media, and what SIP and RTCP say.
            assert_eq!(number("directly"), 0, "{call}");
            assert!(relayed > sent, "{call}");
            assert!(call["rtt_ms"].as_f64().unwrap() >= 80.0, "{call}");
        } else {
            // What went over the server was on its way before the peer tunnel was up, or is signalling.
            assert!(number("relayed_beside") < 30, "{call}");
            assert!(number("directly") > sent / 2, "{call}");
            assert!(number("directly") + relayed >= sent, "{call}");
            assert!(relayed < sent / 2, "{call}");
            assert!(call["rtt_ms"].as_f64().unwrap() < 40.0, "{call}");
        }
    }
}

#[test]
fn it_is_for_datagrams_and_says_so() {
    let output = Command::new(env!("CARGO_BIN_EXE_tsc-demo"))
        .args(["--service", "peer", "--transport", "tcp"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("for udp and dtls"), "{errors}");
}
