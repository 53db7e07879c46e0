//! Draining by SIGUSR2, with the program itself.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod program_support;

use program_support::{Program, client::Client, command, config, text};
use tsc_tpl::{CmType, MessageBuilder, ResponseCode, Seconds, Sequence};

/// The counters of the tunnels.
fn tunnels(program: &Program) -> serde_json::Value {
    program.signal("USR1");
    program.wait_for_event("report", |record| text(record, "part") == "tunnels")
}

#[test]
fn newcomers_are_told_busy_and_tunnels_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let (mut program, ports) = Program::start_json(command(directory.path(), &config(0)));
    let mut old = Client::connect(&ports[0]);
    let tunnel = old.configure();
    assert_eq!(tunnel.code, Some(ResponseCode::SUCCESS));
    assert_eq!(tunnels(&program)["draining"], 0);

    program.signal("USR2");
    program.wait_for_event("draining", |_| true);
    let refused = Client::connect(&ports[0]).configure();
    assert_eq!(refused.code, Some(ResponseCode::BUSY));
    assert_eq!(refused.retry_after, Some(Seconds(5)));
    let keepalive = MessageBuilder::new(CmType::KEEPALIVE, tunnel.tsid, Sequence(2));
    assert_eq!(old.ask(keepalive).code, Some(ResponseCode::SUCCESS));
    let report = tunnels(&program);
    assert!(report["draining"].as_u64().unwrap() >= 1, "{report}");
    assert_eq!(report["turned_away"], 1, "{report}");
    assert_eq!(report["sessions"], 1, "{report}");
    let release = CmType::CONFIGURATION_RELEASE_REQUEST;
    let release = MessageBuilder::new(release, tunnel.tsid, Sequence(3));
    assert_eq!(old.ask(release).code, Some(ResponseCode::SUCCESS));

    program.signal("USR2");
    program.wait_for_event("draining-over", |_| true);
    let mut new = Client::connect(&ports[0]);
    assert_eq!(new.configure().code, Some(ResponseCode::SUCCESS));
    assert_eq!(tunnels(&program)["draining"], 0);
    program.signal("USR2");
    program.wait_for_event("draining", |_| true);
    drop(new);
    program.signal("TERM");
    assert_eq!(program.wait().code(), Some(0));
}

#[test]
fn newcomers_are_redirected_where_there_is_somewhere_to_go() {
    let directory = tempfile::tempdir().unwrap();
    let alternates = "authentication = \"none\"\nalternate-servers = [\"tcp://192.0.2.1:5060\"]";
    let text = config(0).replace("authentication = \"none\"", alternates);
    let (program, ports) = Program::start_json(command(directory.path(), &text));
    let before = Client::connect(&ports[0]).configure();
    assert_eq!(before.code, Some(ResponseCode::SUCCESS));
    program.signal("USR2");
    program.wait_for_event("draining", |_| true);
    let refused = Client::connect(&ports[0]).configure();
    assert_eq!(refused.code, Some(ResponseCode::REDIRECT));
    assert_eq!(refused.alternates, 1);
}
