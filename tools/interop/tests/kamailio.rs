//! Kamailio in the core, as registrar and proxy of clients in tunnels.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use std::process::Command;

use tsc_interop::{ClientOptions, Egress, Lab, Process, Transport, isolated, kamailio};

const REGISTRAR: &str = "198.51.100.2:5060";

fn client(lab: &Lab, transport: Transport, user: &str, password: &str) -> Command {
    let options = ClientOptions {
        transport,
        ..ClientOptions::default()
    };
    let mut command = lab.client("tsc_sip_client", options);
    command
        .args(["--sip-server", REGISTRAR, "--user", user, "--json"])
        .env("TSC_SIP_PASSWORD", password);
    command
}

/// Each of two clients registers with its password, and calls the other one through the proxy.
fn call_each_other(egress: Egress) {
    let lab = Lab::new(egress);
    let registrar = kamailio(&lab.path(""), "core.example");
    // Each in a tunnel of another kind.
    let ends = [("alice", Transport::Udp), ("bob", Transport::Tls)];
    for [(caller, by), (callee, to)] in [[ends[0], ends[1]], [ends[1], ends[0]]] {
        let options = ClientOptions {
            transport: to,
            ..ClientOptions::default()
        };
        let mut server = lab.client("tsc_sip_server", options);
        server
            .args(["--open-registration", "--json", "--exit-after", "1"])
            .args(["--register-at", REGISTRAR, "--register-as", callee])
            .args(["--callee", &format!("{callee}=play")])
            .env("TSC_SIP_PASSWORD", format!("secret-{callee}"));
        let server = Process::start(format!("tsc_sip_server {callee}"), server);
        let _ = server.wait_for("ready sip:");
        let _ = registrar.wait_for(&format!("registered {callee}"));
        let mut client = client(&lab, by, caller, &format!("secret-{caller}"));
        client.args(["--call", callee, "--duration", "3"]);
        let client = Process::start(format!("tsc_sip_client {caller}"), client).wait();
        let report: serde_json::Value = serde_json::from_str(&client.output).unwrap();
        assert_eq!(report["outcome"], "ok", "{}", client.output);
        assert!(report["register_ms"].is_number(), "{report}");
        // 150 packets, of which a machine under load may lose some.
        assert!(
            report["calls"][0]["received"].as_u64().unwrap() >= 100,
            "{report}"
        );
        let ended = server.wait();
        assert!(ended.status.success(), "{}", ended.output);
        let line = ended.output.lines().find(|line| line.starts_with('{'));
        let report: serde_json::Value = serde_json::from_str(line.unwrap()).unwrap();
        assert_eq!(report["outcome"], "ok", "{report}");
        assert!(report["received"].as_u64().unwrap() >= 100, "{report}");
        // The proxy has seen the call from the beginning to the end.
        let _ = registrar.wait_for(&format!("INVITE from {caller} to {callee}"));
        let _ = registrar.wait_for(&format!("in-dialog ACK from {caller}"));
        let _ = registrar.wait_for(&format!("in-dialog BYE from {caller}"));
    }
    // Not everybody is let in.
    let mut wrong = client(&lab, Transport::Tls, "alice", "guessed");
    wrong.args(["--calls", "0"]);
    let wrong = Process::start("tsc_sip_client with a wrong password", wrong).wait();
    assert_eq!(wrong.status.code(), Some(4), "{}", wrong.output);
}

#[test]
fn clients_call_each_other_over_tun() {
    isolated("clients_call_each_other_over_tun", || {
        call_each_other(Egress::Tun);
    });
}

#[test]
fn clients_call_each_other_over_user_space() {
    isolated("clients_call_each_other_over_user_space", || {
        call_each_other(Egress::UserSpace);
    });
}
