//! The server's program, run by the tests that look at it from outside.
// Each test file uses its own part of this.
#![allow(dead_code, unreachable_pub)]

pub mod client;

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use serde_json::Value;

/// Nothing here takes longer unless it hangs.
pub const LIMIT: Duration = Duration::from_secs(20);

/// TCP and UDP on one port of this machine.
pub fn config(port: u16) -> String {
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

/// The program with a configuration of this text, written into `directory`.
pub fn command(directory: &Path, text: &str) -> Command {
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

/// Runs to the end; the second value is what went to standard error.
pub fn run(command: &mut Command) -> (Output, String) {
    let output = command.output().unwrap();
    let errors = String::from_utf8(output.stderr.clone()).unwrap();
    (output, errors)
}

/// A server process that is stopped when the test ends, however it ends.
pub struct Program {
    child: Child,
    lines: mpsc::Receiver<String>,
}

/// A port of a [`Program`], as its log tells.
#[derive(Debug, PartialEq, Eq)]
pub struct Port {
    pub interface: String,
    pub transport: String,
    pub address: SocketAddr,
}

impl Program {
    pub fn start(mut command: Command) -> Self {
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

    /// Starts with a log in JSON, and waits until the server is ready.
    pub fn start_json(mut command: Command) -> (Self, Vec<Port>) {
        command.args(["--log-format", "json"]);
        let program = Self::start(command);
        let mut ports = Vec::new();
        loop {
            let record = program.record("until it is ready");
            match event(&record) {
                "listening" => ports.push(Port {
                    interface: text(&record, "interface").to_owned(),
                    transport: text(&record, "transport").to_owned(),
                    address: text(&record, "address").parse().unwrap(),
                }),
                "ready" => return (program, ports),
                _ => {}
            }
        }
    }

    fn line(&self, end: Instant, wanted: &str) -> String {
        let line = self
            .lines
            .recv_timeout(end.saturating_duration_since(Instant::now()));
        line.unwrap_or_else(|_| panic!("no line: {wanted}"))
    }

    /// The next line that contains `wanted`.
    pub fn wait_for(&self, wanted: &str) -> String {
        let end = Instant::now() + LIMIT;
        loop {
            let line = self.line(end, wanted);
            if line.contains(wanted) {
                return line;
            }
        }
    }

    fn record(&self, wanted: &str) -> Value {
        let line = self.line(Instant::now() + LIMIT, wanted);
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// The next record with this event that `fits`, of a log in JSON.
    pub fn wait_for_event(&self, wanted: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + LIMIT;
        let mut others = Vec::new();
        while Instant::now() < end {
            let Ok(line) = self.lines.recv_timeout(end - Instant::now()) else {
                break;
            };
            let record: Value = serde_json::from_str(&line).unwrap();
            if event(&record) == wanted && fits(&record) {
                return record;
            }
            others.push(line);
        }
        panic!("no {wanted} that fits; instead:\n{}", others.join("\n"))
    }

    /// All records up to and with the next of this event, of a log in JSON.
    pub fn records_until(&self, last: &str) -> Vec<Value> {
        let mut records = Vec::new();
        loop {
            let record = self.record(last);
            let is_last = event(&record) == last;
            records.push(record);
            if is_last {
                return records;
            }
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args(["-s", name, &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    pub fn wait(&mut self) -> ExitStatus {
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

/// The name of a record; empty if it has none.
pub fn event(record: &Value) -> &str {
    record["event"].as_str().unwrap_or_default()
}

/// A field that must be text.
pub fn text<'r>(record: &'r Value, field: &str) -> &'r str {
    record[field]
        .as_str()
        .unwrap_or_else(|| panic!("{field} of {record}"))
}
