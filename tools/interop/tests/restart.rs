//! The tunnel server is restarted while our SIP programs are in a call: they open another tunnel, register again, and the call
//! goes on; so does what comes after it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use std::{process::Command, time::Duration};

use serde_json::Value;
use tsc_interop::{
    ClientOptions, Egress, Lab, Namespace, Process, Transport, address, isolated_cases, program,
};

/// What both programs log when RTP arrives, at first and whenever it comes by another way.
const MEDIA: &str = "media arrives";

/// A SIP program in the core, without a tunnel.
fn in_the_core(name: &str) -> Command {
    let mut command = Namespace::Core.command(program(name));
    command.args(["--no-tunnel", &address::CORE_V4.to_string()]);
    command
}

fn through(lab: &Lab, name: &str, transport: Transport) -> Command {
    let options = ClientOptions {
        transport,
        ..ClientOptions::default()
    };
    lab.client(name, options)
}

fn callee(mut command: Command) -> Process {
    command
        .args(["--open-registration", "--no-http", "--json"])
        .args(["--log-level", "info"]);
    Process::start("tsc_sip_server", command)
}

/// Where the callee is reached, after so many renewals.
fn address_of(callee: &Process, renewals: usize) -> String {
    let ready = callee.wait_for_nth(renewals, "ready sip:");
    ready.trim_start_matches("ready sip:").to_owned()
}

/// A caller in a call with media both ways, which it does not end by itself.
fn caller(mut command: Command, at: Option<&str>, callee: &Process) -> Process {
    if let Some(at) = at {
        command.args(["--sip-server", at]);
    }
    command.args(["--duration", "3600", "--json", "--log-level", "info"]);
    let caller = Process::start("tsc_sip_client", command);
    for program in [&caller, callee] {
        let _ = program.wait_for(MEDIA);
    }
    caller
}

/// The caller's report of a call that has gone on, with media both ways again, until it was told to end it.
fn went_on(caller: Process, callee: &Process) -> Value {
    for program in [&caller, callee] {
        let _ = program.wait_for_nth(1, MEDIA);
    }
    let ended = caller.stop();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.output);
    let report: Value = serde_json::from_str(&ended.output).unwrap();
    let call = &report["calls"][0];
    assert_eq!(
        (&report["outcome"], &call["outcome"]),
        (&"ok".into(), &"ok".into())
    );
    eprintln!("renewals {}, call {call}", report["renewals"]);
    report
}

/// What the callee says of its next call.
fn callee_report(callee: &Process) -> Value {
    let report = callee.wait_for("\"role\":\"callee\"");
    serde_json::from_str(&report).unwrap()
}

fn the_caller_moves(transport: Transport, signal: &str, reason: &str) {
    let mut lab = Lab::new(Egress::Tun);
    let callee = callee(in_the_core("tsc_sip_server"));
    let at = address_of(&callee, 0);
    let command = through(&lab, "tsc_sip_client", transport);
    let caller = caller(command, Some(&at), &callee);
    lab.restart_server_by(signal);
    let report = went_on(caller, &callee);
    assert_eq!(report["calls"][0]["moves"], 1);
    let renewals = report["renewals"].as_array().unwrap();
    assert_eq!(renewals.len(), 1, "{report}");
    assert!(
        renewals[0]["reason"].as_str().unwrap().contains(reason),
        "{report}"
    );
    let there = callee_report(&callee);
    assert_eq!(
        (&there["outcome"], &there["moves"]),
        (&"ok".into(), &1.into())
    );
    assert!(callee.stop().status.success());
}

fn the_callee_moves(transport: Transport) {
    let mut lab = Lab::new(Egress::Tun);
    let callee = callee(through(&lab, "tsc_sip_server", transport));
    let at = address_of(&callee, 0);
    let caller_there = caller(in_the_core("tsc_sip_client"), Some(&at), &callee);
    lab.restart_server();
    let report = went_on(caller_there, &callee);
    assert_eq!(report["calls"][0]["moves"], 1);
    let renewal: Value = serde_json::from_str(&callee.wait_for("\"renewal\"")).unwrap();
    // And the next call finds it where it says that it is now.
    let at = address_of(&callee, 1);
    assert!(
        at.starts_with(renewal["renewal"]["address"].as_str().unwrap()),
        "{at}"
    );
    let mut next = in_the_core("tsc_sip_client");
    next.args(["--sip-server", &at, "--duration", "0.5"]);
    let next = Process::start("tsc_sip_client", next).wait();
    assert_eq!(next.status.code(), Some(0), "{}", next.output);
    let there = callee_report(&callee);
    assert_eq!(
        (&there["outcome"], &there["moves"]),
        (&"ok".into(), &1.into())
    );
    assert!(callee.stop().status.success());
}

/// Both come through the tunnel server, which assigns the one to the other as its SIP server.
fn both_move() {
    const SERVER: &str = "10.64.1.1:5060";
    let sip = format!("assigned-services = [\"SIP\"]\nsip-servers = [\"{SERVER}\"]");
    let realm = r#"
[[tscf-address-pool]]
name = "sip"
address-range = ["10.64.1.1"]
address-quarantine = 0

[[tscf-interface]]
realm-id = "sip"
local-address-pools = ["sip"]
authentication = "none"

[[tscf-interface.tscf-port]]
address = "192.0.2.1"
port = 4568
transport-protocol = ["tls"]
tls-profile = "default"
"#;
    let mut lab = Lab::with(Egress::Tun, &sip, realm);
    let mut command = Namespace::Access.command(program("tsc_sip_server"));
    command
        .args(["--server", "192.0.2.1:4568", "--server-name", "localhost"])
        .arg("--ca")
        .arg(lab.authority());
    let callee = callee(command);
    assert_eq!(address_of(&callee, 0), SERVER);
    let command = through(&lab, "tsc_sip_client", Transport::Dtls);
    let caller = caller(command, None, &callee);
    lab.restart_server();
    let report = went_on(caller, &callee);
    assert_eq!(report["renewals"].as_array().unwrap().len(), 1);
    assert_eq!(address_of(&callee, 1), SERVER);
    let there = callee_report(&callee);
    assert_eq!(
        (&there["outcome"], &there["moves"]),
        (&"ok".into(), &2.into())
    );
    assert!(callee.stop().status.success());
}

/// As it was asked to.
fn the_program_ends_instead() {
    let mut lab = Lab::new(Egress::Tun);
    let callee = callee(in_the_core("tsc_sip_server"));
    let at = address_of(&callee, 0);
    let mut command = through(&lab, "tsc_sip_client", Transport::Tls);
    command.args(["--renew-timeout", "0"]);
    let caller = caller(command, Some(&at), &callee);
    lab.restart_server();
    let ended = caller.wait();
    assert_eq!(ended.status.code(), Some(3), "{}", ended.output);
    let report: Value = serde_json::from_str(&ended.output).unwrap();
    let error = report["error"].as_str().unwrap();
    assert!(error.contains("does not resume the tunnel"), "{error}");
    assert!(report.get("renewals").is_none());
}

/// The server has said goodbye and does not come back.
fn no_other_tunnel_comes_up() {
    let lab = Lab::new(Egress::Tun);
    let callee = callee(in_the_core("tsc_sip_server"));
    let at = address_of(&callee, 0);
    let mut command = through(&lab, "tsc_sip_client", Transport::Dtls);
    command.args(["--renew-timeout", "3"]);
    let caller = caller(command, Some(&at), &callee);
    lab.server.signal("TERM");
    let ended = caller.wait_within(Duration::from_secs(30));
    assert_eq!(ended.status.code(), Some(3), "{}", ended.output);
    let report: Value = serde_json::from_str(&ended.output).unwrap();
    let error = report["error"].as_str().unwrap();
    let both = ["released by the server", "no new tunnel came up"];
    assert!(both.iter().all(|part| error.contains(part)), "{error}");
    assert_eq!(report["calls"][0]["outcome"], "tunnel_failed");
}

#[test]
fn calls_go_on_when_the_tunnel_server_is_restarted() {
    isolated_cases(
        "calls_go_on_when_the_tunnel_server_is_restarted",
        &[
            ("caller, killed", || {
                the_caller_moves(Transport::Udp, "KILL", "does not resume the tunnel");
            }),
            ("caller, in order", || {
                the_caller_moves(Transport::Tls, "TERM", "released by the server");
            }),
            ("callee", || the_callee_moves(Transport::Tcp)),
            ("both", both_move),
            ("not wanted", the_program_ends_instead),
            ("not back", no_other_tunnel_comes_up),
        ],
    );
}
