//! The program itself: exit codes, readiness, signals.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod program_support;

use std::{net::TcpListener, process::Command};

use program_support::{Program, client::Client, command, config, event, run, text};
use tsc_tpl::{CmType, MessageBuilder, ResponseCode, Sequence, ServiceType, Tlv, Tsid};

#[test]
fn a_good_configuration_passes_the_check() {
    let directory = tempfile::tempdir().unwrap();
    let (output, errors) = run(command(directory.path(), &config(0)).arg("--check-config"));
    assert_eq!(output.status.code(), Some(0), "{errors}");
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("ok: 1 interface")
    );
}

#[test]
fn a_wrong_key_exits_with_2_and_says_where_and_what_instead() {
    let directory = tempfile::tempdir().unwrap();
    let text = config(0).replace("address-range", "adress-range");
    let (output, errors) = run(&mut command(directory.path(), &text));
    assert_eq!(output.status.code(), Some(2));
    assert!(
        errors.contains("tsc-server.toml:4:1") && errors.contains("address-range"),
        "{errors}"
    );
}

#[test]
fn a_missing_file_exits_with_2() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tsc-server"));
    let (output, errors) = run(command.args(["--config", "/nonexistent/tsc-server.toml"]));
    assert_eq!(output.status.code(), Some(2));
    assert!(errors.contains("/nonexistent/tsc-server.toml"), "{errors}");
}

#[test]
fn a_port_in_use_exits_with_3_and_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let (output, errors) = run(&mut command(directory.path(), &config(port)));
    assert_eq!(output.status.code(), Some(3), "{errors}");
    assert!(errors.contains(&format!("127.0.0.1:{port}")), "{errors}");
}

#[test]
fn it_says_when_it_is_ready_and_stops_on_sigterm() {
    let directory = tempfile::tempdir().unwrap();
    let mut program = Program::start(command(directory.path(), &config(0)));
    program.wait_for(r#"event="ready""#);
    program.signal("TERM");
    program.wait_for(r#"event="stopped""#);
    assert_eq!(program.wait().code(), Some(0));
}

#[test]
fn json_logs_are_one_object_a_line() {
    let directory = tempfile::tempdir().unwrap();
    let (mut program, ports) = Program::start_json(command(directory.path(), &config(0)));
    let spoken: Vec<&str> = ports.iter().map(|port| port.transport.as_str()).collect();
    assert_eq!(spoken, ["tcp", "udp"]);
    program.signal("INT");
    assert_eq!(program.wait().code(), Some(0));
}

#[test]
fn usr1_reports_all_counters() {
    let directory = tempfile::tempdir().unwrap();
    let (mut program, ports) = Program::start_json(command(directory.path(), &config(0)));
    let first = Client::configured(&ports[0]);
    let second = Client::configured(&ports[0]);
    program.signal("USR1");
    let mut report = Vec::new();
    while !PARTS
        .iter()
        .all(|wanted| report.iter().any(|part| text(part, "part") == *wanted))
    {
        report.push(program.wait_for_event("report", |_| true));
    }
    check_report(&report, 2);
    // It does not wait for clients that have hung up.
    drop((first, second));
    program.signal("TERM");
    let records = program.records_until("stopped");
    let last: Vec<_> = records
        .into_iter()
        .filter(|record| event(record) == "report")
        .collect();
    check_report(&last, 0);
    assert_eq!(program.wait().code(), Some(0));
}

/// What each report has; egresses and a capture file add theirs.
const PARTS: [&str; 6] = ["tunnels", "pool", "switch", "streams", "datagrams", "dtls"];

/// Every part is there, with what two tunnels over TCP have left in it.
fn check_report(report: &[serde_json::Value], sessions: u64) {
    let part = |wanted: &str| {
        let found = report.iter().find(|part| text(part, "part") == wanted);
        found.unwrap_or_else(|| panic!("{wanted} in {report:?}"))
    };
    for (name, counter, expected) in [
        ("tunnels", "sessions", sessions),
        ("tunnels", "configured", 2),
        ("pool", "leased", sessions),
        ("streams", "accepted", 2),
    ] {
        assert_eq!(part(name)[counter], expected, "{counter} in {}", part(name));
    }
    assert_eq!(part("pool")["name"], "clients");
    // The counters that docs/limits.md names.
    for (name, counters) in [
        ("tunnels", &["rate_limited", "transmit_overflow"][..]),
        (
            "switch",
            &["stalled", "queue_full", "icmp_limited", "send_errors"],
        ),
        ("streams", &["evicted", "source_limit", "timeout"]),
        ("datagrams", &["send_errors", "recv_errors"]),
        (
            "dtls",
            &["rate_limited", "prefix_limited", "evicted", "table_full"],
        ),
    ] {
        for counter in counters {
            assert_eq!(part(name)[counter], 0, "{counter} in {}", part(name));
        }
    }
}

#[test]
fn quit_releases_the_tunnels_as_term_does() {
    for signal in ["QUIT", "TERM"] {
        let directory = tempfile::tempdir().unwrap();
        let (mut program, ports) = Program::start_json(command(directory.path(), &config(0)));
        let mut client = Client::configured(&ports[0]);
        program.signal(signal);
        assert_eq!(
            client.next().cm_type,
            CmType::CONFIGURATION_RELEASE_REQUEST,
            "{signal}"
        );
        // It does not wait for a client that has hung up.
        drop(client);
        program.wait_for_event("stopped", |_| true);
        assert_eq!(program.wait().code(), Some(0), "{signal}");
    }
}

/// Asks an older client for a service, as its server sees it.
fn ask_for_keepalives(client: &mut Client, tsid: Tsid, sequence: u32) -> Option<ResponseCode> {
    let service = ServiceType::ENABLE_SERVER_KEEPALIVE;
    let request = CmType::SERVICE_REQUEST;
    client
        .ask(MessageBuilder::new(request, tsid, Sequence(sequence)).tlv(Tlv::ServiceType(service)))
        .code
}

#[test]
fn hup_changes_the_services_of_new_tunnels_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tsc-server.toml");
    let with = |services: &str| {
        config(0).replace(
            "authentication",
            &format!("assigned-services = [{services}]\nauthentication"),
        )
    };
    let server_keepalive = ServiceType::ENABLE_SERVER_KEEPALIVE;
    let (mut program, ports) =
        Program::start_json(command(directory.path(), &with("\"server-keepalive\"")));
    let mut old = Client::connect(&ports[0]);
    let told = old.configure();
    assert_eq!(told.services, [server_keepalive]);

    let reloaded = |toml: &str| {
        std::fs::write(&path, toml).unwrap();
        program.signal("HUP");
        let record = program.wait_for_event("reloaded", |_| true);
        text(&record, "interfaces").to_owned()
    };
    assert_eq!(reloaded(&with("\"redundancy\", \"nagle\"")), "access");
    let mut new = Client::connect(&ports[0]);
    let told_new = new.configure();
    assert_eq!(told_new.services, [ServiceType::ENABLE_REDUNDANCY]);
    let success = Some(ResponseCode::SUCCESS);
    let unavailable = Some(ResponseCode::SERVICE_UNAVAILABLE);
    assert_eq!(ask_for_keepalives(&mut old, told.tsid, 2), success);
    assert_eq!(ask_for_keepalives(&mut new, told_new.tsid, 2), unavailable);
    assert_eq!(
        reloaded(&with("\"redundancy\", \"nagle\"")),
        "",
        "the same again"
    );

    let refused = |toml: &str| {
        std::fs::write(&path, toml).unwrap();
        program.signal("HUP");
        let record = program.wait_for_event("reload-refused", |_| true);
        assert_eq!(text(&record, "level"), "WARN");
        record
    };
    // More than services: none of it is taken over, and the log says what.
    let more = with("\"DDT\"").replace("10.64.0.0/24", "10.65.0.0/24");
    let record = refused(&more);
    let differs = text(&record, "differs");
    assert_eq!(differs, "address-range of [[tscf-address-pool]]");
    let record = refused("nonsense");
    assert!(text(&record, "errors").contains("tsc-server.toml:1"));
    let told = Client::connect(&ports[0]).configure();
    assert_eq!(told.services, [ServiceType::ENABLE_REDUNDANCY]);

    program.signal("TERM");
    assert_eq!(program.wait().code(), Some(0));
}
