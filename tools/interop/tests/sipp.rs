//! SIPp in the core, and our SIP programs in tunnels.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use std::time::Duration;

use tsc_interop::{
    ClientOptions, Egress, Lab, Namespace, Process, Statistics, isolated_cases, wait_for_port,
};

/// Calls of a run.
const CALLS: u64 = 500;
/// Calls that begin in a second.
const RATE: u64 = 20;
/// The run takes 25 s where nothing disturbs it.
const LIMIT: Duration = Duration::from_secs(120);

/// SIPp in the core, which ends by itself after all calls and counts in `sipp.csv`.
fn sipp(lab: &Lab, arguments: &str) -> Process {
    let mut command = Namespace::Core.command("sipp");
    command
        .current_dir(lab.path(""))
        .args(arguments.split_whitespace())
        .args(["-i", "198.51.100.2", "-mi", "198.51.100.2", "-mp", "6000"])
        .args(["-m", &CALLS.to_string(), "-rtp_echo", "-nostdin"])
        .args(["-trace_stat", "-fd", "1", "-stf", "sipp.csv"])
        .args(["-trace_err", "-error_file", "sipp.err"]);
    Process::start(format!("sipp {arguments}"), command)
}

/// What SIPp counted, once it has ended.
fn result(lab: &Lab, sipp: Process) -> Statistics {
    let outcome = sipp.wait_within(LIMIT);
    let errors = std::fs::read_to_string(lab.path("sipp.err")).unwrap_or_default();
    let statistics = Statistics::read(&lab.path("sipp.csv"));
    let statistics =
        statistics.unwrap_or_else(|| panic!("no statistics: {}\n{errors}", outcome.status));
    eprintln!("SIPp: {statistics:?}");
    if statistics.failed > 0 {
        eprintln!("{}", errors.lines().take(60).collect::<Vec<_>>().join("\n"));
    }
    statistics
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Of the calls none may fail. Media are heard as well as this machine lets four programs and 20 calls have the processor
/// every 20 ms: where something else takes it, some calls are over before they heard anything.
fn most_heard(calls: &[serde_json::Value]) {
    // 50 packets in a second.
    let heard = |call: &&serde_json::Value| {
        let (sent, received) = (
            call["sent"].as_u64().unwrap(),
            call["received"].as_u64().unwrap(),
        );
        sent >= 40 && received * 10 >= sent * 8
    };
    let heard = calls.iter().filter(heard).count();
    eprintln!("{heard} of {} calls heard themselves", calls.len());
    assert!(heard * 2 > calls.len(), "{heard} of {}", calls.len());
}

/// Our client calls SIPp's built-in callee, which sends our RTP back.
fn call_sipp(egress: Egress, transport: &str) {
    let lab = Lab::new(egress);
    let mut callee = sipp(&lab, &format!("-sn uas -t {transport}1 -p 5060"));
    wait_for_port(
        &mut callee,
        if transport == "u" { "udp" } else { "tcp" },
        5060,
    );
    let mut caller = if transport == "t" {
        let mut caller = lab.client("tsc_sip_inner_tcp", ClientOptions::default());
        caller.args(["--chats", "0", "--files", "0", "--http", "0"]);
        caller
    } else {
        lab.client("tsc_sip_client", ClientOptions::default())
    };
    caller
        .args(["--sip-server", "198.51.100.2:5060", "--no-register"])
        .args(["--call", "service", "--duration", "1", "--json"])
        .args(["--calls", &CALLS.to_string(), "--rate", &RATE.to_string()]);
    let caller = Process::start("tsc_sip_client", caller).wait_within(LIMIT);
    let report = json(&caller.output);
    let outcome = report["outcome"].as_str().unwrap();
    assert!(
        ["ok", "media_failed"].contains(&outcome),
        "{outcome}: {}",
        report["error"]
    );
    let calls = report["calls"].as_array().unwrap();
    assert_eq!(u64::try_from(calls.len()).unwrap(), CALLS);
    most_heard(calls);
    let statistics = result(&lab, callee);
    assert_eq!(
        (statistics.created, statistics.successful, statistics.failed),
        (CALLS, CALLS, 0)
    );
}

/// SIPp's built-in caller calls our server in a tunnel, and sends its RTP back.
fn sipp_calls(transport: &str) {
    let lab = Lab::new(Egress::Tun);
    let mut callee = lab.client("tsc_sip_server", ClientOptions::default());
    callee
        .args(["--open-registration", "--callee", "service=play", "--json"])
        .args(["--exit-after", &CALLS.to_string()]);
    let callee = Process::start("tsc_sip_server", callee);
    let ready = callee.wait_for("ready sip:");
    let address = ready.trim_start_matches("ready sip:");
    let caller = sipp(
        &lab,
        &format!("-sn uac -t {transport}1 -d 1000 -r {RATE} -p 5070 {address}"),
    );
    let statistics = result(&lab, caller);
    assert_eq!(
        (statistics.created, statistics.successful, statistics.failed),
        (CALLS, CALLS, 0)
    );
    let reports = callee.wait().output;
    let calls: Vec<_> = reports
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(json)
        .collect();
    assert_eq!(u64::try_from(calls.len()).unwrap(), CALLS);
    for call in &calls {
        let outcome = call["outcome"].as_str().unwrap();
        assert!(["ok", "media_failed"].contains(&outcome), "{call}");
    }
    most_heard(&calls);
}

/// The cases wait more than they work, and run at once.
#[test]
fn of_500_calls_none_fails() {
    isolated_cases(
        "of_500_calls_none_fails",
        &[
            ("SIPp called over TUN, UDP", || call_sipp(Egress::Tun, "u")),
            ("SIPp called over TUN, TCP", || call_sipp(Egress::Tun, "t")),
            ("SIPp called over user space, UDP", || {
                call_sipp(Egress::UserSpace, "u");
            }),
            ("SIPp called over user space, TCP", || {
                call_sipp(Egress::UserSpace, "t");
            }),
            ("SIPp calls over TUN, UDP", || sipp_calls("u")),
            ("SIPp calls over TUN, TCP", || sipp_calls("t")),
        ],
    );
}
