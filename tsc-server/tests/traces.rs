//! Captures of a running server by its control socket and `tsc-server trace`, with the program itself.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod program_support;

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use program_support::{LIMIT, Port, Program, client::Client, command, config, run, text};
use serde_json::{Value, json};
use tempfile::TempDir;
use tsc_tpl::{CmType, Limits, MessageBuilder, ResponseCode, Sequence, Tsid, Unit};

/// A server with a control socket, and room for captures.
struct Bench {
    directory: TempDir,
    program: Program,
    ports: Vec<Port>,
}

fn with_control(directory: &Path, more: &str) -> Command {
    let text = format!(
        "[tscf-config]\nworkers = 2\ncontrol-socket = \"control\"\ntrace-directory = \"traces\"\n{more}\n{}",
        config(0)
    );
    command(directory, &text)
}

impl Bench {
    fn new(more: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("traces")).unwrap();
        let (program, ports) = Program::start_json(with_control(directory.path(), more));
        Self {
            directory,
            program,
            ports,
        }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("control")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join("traces").join(name)
    }

    /// `tsc-server trace`: exit code, standard output and standard error.
    fn trace(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tsc-server"));
        command.arg("trace").args(arguments);
        let (output, errors) = run(command.arg("--control").arg(self.socket()));
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), text, errors)
    }

    /// The same for programs, which must work.
    fn traces(&self, arguments: &[&str]) -> Vec<Value> {
        let (code, text, errors) = self.trace(&[arguments, &["--json"]].concat());
        assert_eq!(code, Some(0), "{errors}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        answer["traces"].as_array().unwrap().clone()
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    /// What these bytes are answered.
    fn says(&self, bytes: &[u8]) -> Value {
        let mut stream = self.connect();
        // It may have heard enough before the end.
        let _ = stream.write_all(bytes);
        answer(stream)
    }
}

fn answer(mut stream: UnixStream) -> Value {
    let mut answer = Vec::new();
    // Unread bytes of ours may make the end an error.
    let _ = stream.read_to_end(&mut answer);
    serde_json::from_slice(&answer).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

/// The tunnels that the messages of a capture are about.
fn tsids(path: &Path) -> Vec<Tsid> {
    let mut reader = pcap_file::pcapng::PcapNgReader::new(fs::File::open(path).unwrap()).unwrap();
    let mut tsids = Vec::new();
    while let Some(block) = reader.next_block() {
        if let Some(packet) = block.unwrap().into_enhanced_packet()
            && let Unit::Control(message) =
                Unit::decode_datagram(&packet.data, &Limits::WIDEST).unwrap()
        {
            tsids.push(message.header().tsid);
        }
    }
    tsids
}

fn keepalive(client: &mut Client, tsid: Tsid, sequence: u32) {
    let request = MessageBuilder::new(CmType::KEEPALIVE, tsid, Sequence(sequence));
    assert_eq!(client.ask(request).code, Some(ResponseCode::SUCCESS));
}

#[test]
fn the_command_line_starts_lists_and_stops_captures() {
    let mut bench = Bench::new("trace-redaction = \"headers\"");
    let (mut watched, mut other) = (
        Client::connect(&bench.ports[0]),
        Client::connect(&bench.ports[0]),
    );
    let (tsid, other_tsid) = (watched.configure().tsid, other.configure().tsid);
    let name = tsid.to_string();
    let start = [
        "start",
        "--file",
        "one.pcapng",
        "--tunnel",
        &name,
        "--for",
        "600",
    ];
    let (code, text_out, errors) = bench.trace(&start);
    assert_eq!(code, Some(0), "{errors}");
    assert!(
        text_out.contains("one.pcapng") && text_out.contains("headers"),
        "{text_out}"
    );
    let started = bench.program.wait_for_event("trace-started", |_| true);
    assert_eq!(started["tunnels"], 1, "{started}");
    assert!(started["uid"].is_u64(), "{started}");
    assert_eq!(text(&started, "filter"), format!("tunnel {name}"));
    let everything = bench.traces(&["start", "--file", "all.pcapng"]);
    assert_eq!(everything[0]["tunnels"], 2);

    keepalive(&mut watched, tsid, 2);
    keepalive(&mut other, other_tsid, 2);
    let listed = bench.traces(&["list"]);
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[0]["name"], "one.pcapng");
    assert_eq!(listed[0]["filter"], format!("tunnel {name}"));
    assert!((1..=600).contains(&listed[0]["left"].as_u64().unwrap()));

    let stopped = bench.traces(&["stop", "one.pcapng"]);
    assert_eq!(
        (&stopped[0]["written"], &stopped[0]["dropped"]),
        (&json!(2), &json!(0))
    );
    let record = bench.program.wait_for_event("trace-stopped", |_| true);
    assert_eq!(
        (text(&record, "reason"), &record["written"]),
        ("asked", &json!(2))
    );
    assert_eq!(tsids(&bench.file("one.pcapng")), [tsid, tsid]);
    keepalive(&mut watched, tsid, 3);
    let file = bench.file("one.pcapng");
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(tsids(&file).len(), 2, "it is closed");

    // What is refused says why, and changes nothing.
    for (arguments, reason) in [
        (&["start", "--file", "one.pcapng"][..], "overwrite nothing"),
        (&["start", "--file", "all.pcapng"], "is running"),
        (&["start", "--file", "../escaped"], "without directories"),
        (
            &["start", "--file", "x", "--interface", "nowhere"],
            "no interface named nowhere",
        ),
        (
            &["start", "--file", "x", "--redaction", "none"],
            "trace-redaction",
        ),
        (&["start", "--file", "x", "--for", "604801"], "604800"),
        (
            &["start", "--file", "x", "--tunnel", "12"],
            "16 hexadecimal",
        ),
        (
            &["start", "--file", "x", "--outer", "--tunnel", &name],
            "belong to no tunnel",
        ),
        (
            &["start", "--file", "x", "--insecure-decryption-secrets"],
            "redacted",
        ),
        (&["stop", "x"], "no capture named x"),
    ] {
        let (code, _, errors) = bench.trace(arguments);
        assert_eq!(code, Some(1), "{arguments:?}: {errors}");
        assert!(errors.contains(reason), "{arguments:?}: {errors}");
    }
    // What clap or we see at once is a wrong command line.
    for arguments in [
        &["begin"][..],
        &["start"],
        &["stop"],
        &[
            "start",
            "--file",
            "x",
            "--tunnel",
            &name,
            "--interface",
            "access",
        ],
    ] {
        let (code, _, errors) = bench.trace(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {errors}");
    }
    assert!(!bench.file("x").exists());

    // The time is over for one; the rest ends with the server, whose socket goes with it.
    bench.traces(&["start", "--file", "short", "--for", "1"]);
    let record = bench.program.wait_for_event("trace-stopped", |_| true);
    assert_eq!(
        (text(&record, "name"), text(&record, "reason")),
        ("short", "time")
    );
    assert_eq!(bench.traces(&["list"]).len(), 1);
    drop((watched, other));
    bench.program.signal("TERM");
    let record = bench.program.wait_for_event("trace-stopped", |_| true);
    assert_eq!(
        (text(&record, "name"), text(&record, "reason")),
        ("all.pcapng", "server")
    );
    assert_eq!(bench.program.wait().code(), Some(0));
    assert!(!bench.socket().exists());
    let all = tsids(&bench.file("all.pcapng"));
    for tsid in [tsid, other_tsid] {
        assert!(
            all.iter().filter(|found| **found == tsid).count() >= 2,
            "{all:?}"
        );
    }
    let (code, _, errors) = bench.trace(&["list"]);
    assert_eq!(code, Some(1), "{errors}");
    assert!(errors.contains("cannot reach a server"), "{errors}");
}

#[test]
fn the_socket_is_found_by_the_configuration() {
    let bench = Bench::new("");
    let path = bench.directory.path().join("tsc-server.toml");
    let ask = |flags: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tsc-server"));
        command.env_remove("TSC_CONTROL_SOCKET");
        run(command
            .arg("--config")
            .arg(&path)
            .args(flags)
            .args(["trace", "list"]))
    };
    let (output, errors) = ask(&[]);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    assert_eq!(output.stdout, b"no capture is running\n");
    let (output, errors) = ask(&["--check-config"]);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    fs::write(&path, config(0)).unwrap();
    let (output, errors) = ask(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(errors.contains("control-socket"), "{errors}");
}

#[test]
fn what_comes_to_the_control_socket_harms_nothing() {
    let bench = Bench::new("");
    let found = fs::metadata(bench.socket()).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o600);
    let kind = |answer: Value| text(&answer["error"], "kind").to_owned();
    let long = vec![b' '; 5000];
    let nested = vec![b'['; 4000];
    for bytes in [
        &b"\n"[..],
        b"nonsense\n",
        b"{}\n",
        b"{\"request\":\"trace-list\"\n",
        b"{\"request\":\"stop\"}\n",
        b"\xFF\xFE\0\n",
        &long,
        &[&nested[..], b"\n"].concat(),
    ] {
        assert_eq!(kind(bench.says(bytes)), "malformed", "{bytes:?}");
    }
    let list = b"{\"request\":\"trace-list\"}\n";
    assert_eq!(bench.says(list), json!({"traces": []}));
    // In pieces, and without its end by one who closes.
    let mut stream = bench.connect();
    for byte in &list[..list.len() - 1] {
        stream.write_all(&[*byte]).unwrap();
    }
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(answer(stream), json!({"traces": []}));

    // More than there is room for, all silent: tunnels do not notice, and whoever asks waits for a few seconds.
    let silent: Vec<UnixStream> = (0..20).map(|_| bench.connect()).collect();
    let _tunnel = Client::configured(&bench.ports[0]);
    let begun = Instant::now();
    let mut asking = bench.connect();
    asking.write_all(list).unwrap();
    let kinds: Vec<String> = silent
        .into_iter()
        .take(8)
        .map(|stream| kind(answer(stream)))
        .collect();
    assert_eq!(kinds, vec!["timeout"; 8]);
    // The other twelve are gone by now.
    assert_eq!(answer(asking), json!({"traces": []}));
    assert!(begun.elapsed() < LIMIT);
    let _tunnel = Client::configured(&bench.ports[0]);
}

#[test]
fn a_socket_belongs_to_one_server_and_is_nobodys_after_a_crash() {
    let mut bench = Bench::new("");
    let directory = bench.directory.path().to_owned();
    let (output, errors) = run(&mut with_control(&directory, ""));
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("in use by a running server"), "{errors}");
    assert_eq!(
        bench.trace(&["list"]).0,
        Some(0),
        "the first one has it still"
    );

    bench.program.signal("KILL");
    assert_eq!(bench.program.wait().code(), None);
    assert!(bench.socket().exists());
    assert_eq!(bench.trace(&["list"]).0, Some(1));
    let (program, _) = Program::start_json(with_control(&directory, ""));
    bench.program = program;
    assert_eq!(bench.trace(&["list"]).0, Some(0));
    bench.program.signal("TERM");
    assert_eq!(bench.program.wait().code(), Some(0));

    // What no server has left there is left alone.
    fs::write(bench.socket(), "precious").unwrap();
    let (output, errors) = run(&mut with_control(&directory, ""));
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert_eq!(fs::read_to_string(bench.socket()).unwrap(), "precious");
}

#[test]
fn a_capture_that_cannot_be_written_ends_alone() {
    let bench = Bench::new("");
    let mut client = Client::connect(&bench.ports[0]);
    let tsid = client.configure().tsid;
    bench.traces(&["start", "--file", "goes-on"]);
    // Each second another file, until there is no directory any more: as with a full disk, the next cannot be made.
    bench.traces(&[
        "start",
        "--file",
        "ring",
        "--files",
        "2",
        "--file-time",
        "1",
    ]);
    keepalive(&mut client, tsid, 2);
    fs::remove_dir_all(bench.directory.path().join("traces")).unwrap();
    let mut sequence = 2;
    while bench.traces(&["list"]).len() == 2 {
        sequence += 1;
        keepalive(&mut client, tsid, sequence);
    }
    let record = bench.program.wait_for_event("trace-stopped", |_| true);
    assert_eq!(
        (text(&record, "name"), text(&record, "reason")),
        ("ring", "failed")
    );
    keepalive(&mut client, tsid, sequence + 1);
    let left = bench.traces(&["stop", "all"]);
    assert_eq!(left[0]["name"], "goes-on");
    assert_eq!(left[0]["written"], 2 * u64::from(sequence));
    assert_eq!(left[0]["dropped"], 0);
}
