//! The program itself: exit codes, readiness, signals.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

/// Nothing here takes longer unless it hangs.
const LIMIT: Duration = Duration::from_secs(20);

fn config(port: u16) -> String {
    format!(
        r#"
[[tscf-address-pool]]
name = "clients"
address-range = ["10.64.0.0/24"]

[[tscf-interface]]
realm-id = "access"
local-address-pools = ["clients"]
authentication = "none"

[[tscf-interface.tscf-port]]
address = "127.0.0.1"
port = {port}
transport-protocol = ["tcp", "udp"]
"#
    )
}

fn command(directory: &Path, text: &str) -> Command {
    let path = directory.join("tsc-server.toml");
    std::fs::write(&path, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tsc-server"));
    command
        .arg("--config")
        .arg(path)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null());
    command
}

fn run(command: &mut Command) -> (Output, String) {
    let output = command.output().unwrap();
    let errors = String::from_utf8(output.stderr.clone()).unwrap();
    (output, errors)
}

/// A server process that is stopped when the test ends, however it ends.
struct Program {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Program {
    fn start(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let errors = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in errors.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    fn wait_for(&self, wanted: &str) -> String {
        let end = Instant::now() + LIMIT;
        loop {
            let line = self
                .lines
                .recv_timeout(end.saturating_duration_since(Instant::now()));
            let line = line.unwrap_or_else(|_| panic!("no line with {wanted}"));
            if line.contains(wanted) {
                return line;
            }
        }
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args(["-s", name, &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "the server does not end");
            std::thread::yield_now();
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

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
    let mut command = command(directory.path(), &config(0));
    command.args(["--log-format", "json"]);
    let mut program = Program::start(command);
    let line = program.wait_for("ready");
    let record: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        record["fields"]["event"]
            .as_str()
            .or_else(|| record["event"].as_str()),
        Some("ready"),
        "{line}"
    );
    program.signal("INT");
    assert_eq!(program.wait().code(), Some(0));
}
