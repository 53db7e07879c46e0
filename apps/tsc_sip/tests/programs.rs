//! The two programs as a user starts them: signals, exit codes, what is said.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::{
    path::Path,
    process::{Output, Stdio},
};

use common::{PATIENCE, World};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::UdpSocket,
    process::{Child, Command},
};
use tsc_sip::{report::Outcome, server::ServerOptions, sip::Message};

const CLIENT: &str = env!("CARGO_BIN_EXE_tsc_sip_client");
const SERVER: &str = env!("CARGO_BIN_EXE_tsc_sip_server");
/// A tunnel server that is never asked: the command line is refused before.
const TUNNEL: &str = "--server 127.0.0.1:9 --transport tcp";

fn start(program: &str, line: &str) -> Child {
    Command::new(program)
        .args(line.split_whitespace())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

async fn terminate(child: &Child) {
    let id = child.id().unwrap().to_string();
    let kill = Command::new("kill").args(["-TERM", &id]).status().await;
    assert!(kill.unwrap().success());
}

async fn end(child: Child) -> Output {
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output());
    output.await.unwrap().unwrap()
}

/// Both programs, with what they need besides the tunnel.
const BOTH: [(&str, &str); 2] = [(CLIENT, ""), (SERVER, "--open-registration")];

async fn refused(program: &str, line: &str) -> String {
    let output = end(start(program, line)).await;
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{line}: {error}");
    assert!(output.stdout.is_empty(), "{line}");
    error
}

#[tokio::test]
async fn sigterm_makes_the_caller_hang_up_and_report() {
    let mut world = World::start(ServerOptions::default()).await;
    let line = format!(
        "--no-tunnel 127.0.0.1 --sip-server {} --duration 3600 --json",
        world.server.address()
    );
    let child = start(CLIENT, &line);
    let up = tokio::time::timeout(PATIENCE, world.server.calls_up(1));
    up.await.unwrap();
    terminate(&child).await;
    let output = end(child).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["outcome"], "ok");
    assert!(json["calls"][0]["received"].as_u64().unwrap() > 0);
    let callee = tokio::time::timeout(PATIENCE, world.server.next_report()).await;
    assert_eq!(callee.unwrap().unwrap().outcome, Outcome::Ok, "it said BYE");
}

#[tokio::test]
async fn sigterm_makes_the_callee_report_a_caller_that_vanished() {
    let line =
        "--no-tunnel 127.0.0.1 --sip-port 0 --no-http --open-registration --media-timeout 0 --json";
    let mut server = start(SERVER, line);
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let mut line = async || {
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await;
        line.unwrap().unwrap()
    };
    let ready = line().await.unwrap();
    let address = ready.strip_prefix("ready sip:").unwrap();
    // A caller that says INVITE and ACK, and then nothing any more.
    let peer = UdpSocket::bind((common::LOOPBACK, 0)).await.unwrap();
    let local = peer.local_addr().unwrap();
    let body = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 9 RTP/AVP 0\r\n";
    let head = |method: &str, to: &str| {
        format!(
            "{method} sip:play@x SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bK{method}\r\n\
             From: <sip:peer@x>;tag=peer\r\nTo: {to}\r\nCall-ID: call@x\r\nCSeq: 1 {method}\r\n\
             Contact: <sip:peer@{local}>\r\nContent-Type: application/sdp\r\n\r\n"
        )
    };
    let invite = head("INVITE", "<sip:play@x>") + body;
    peer.send_to(invite.as_bytes(), address).await.unwrap();
    let answer = loop {
        let mut buffer = vec![0; 4096];
        let received = tokio::time::timeout(PATIENCE, peer.recv_from(&mut buffer)).await;
        buffer.truncate(received.unwrap().unwrap().0);
        match Message::parse(&buffer).unwrap() {
            Message::Response(response) if response.status.is_success() => break response,
            Message::Response(_) => {}
            Message::Request(request) => panic!("{request:?}"),
        }
    };
    let ack = head("ACK", &answer.head.to.to_string());
    peer.send_to(ack.as_bytes(), address).await.unwrap();

    terminate(&server).await;
    let report = line().await.expect("a report of the call that was up");
    assert!(report.contains("BYE failed: no answer"), "{report}");
    assert!(line().await.is_none());
    let status = tokio::time::timeout(PATIENCE, server.wait()).await;
    assert_eq!(status.unwrap().unwrap().code(), Some(0));
}

#[tokio::test]
async fn files_that_cannot_be_written_are_noticed_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let below = |path: &Path| path.join("x").display().to_string();
    for (program, more) in BOTH {
        let trace = format!("{TUNNEL} {more} --trace {}", below(&file));
        let error = refused(program, &trace).await;
        assert!(error.contains(&below(&file)), "{error}");
        for network in [TUNNEL, "--no-tunnel 127.0.0.1"] {
            let record = format!("{network} {more} --record {}", below(&file));
            let error = refused(program, &record).await;
            assert!(error.contains("--record"), "{error}");
        }
    }
    // Nothing is left in a directory that can be used.
    let good = directory.path().join("new/heard");
    let line = format!("{TUNNEL} --record {} --ca /nonexistent.pem", good.display());
    refused(CLIENT, &line).await;
    assert_eq!(std::fs::read_dir(&good).unwrap().count(), 0);
}

#[tokio::test]
async fn a_token_is_not_taken_for_transports_that_would_show_it() {
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    std::fs::write(&token, "secret\n").unwrap();
    for (program, more) in BOTH {
        for transport in ["tcp", "udp"] {
            let line = format!(
                "--server 127.0.0.1:9 --transport {transport} {more} --token-file {}",
                token.display()
            );
            let error = refused(program, &line).await;
            assert!(
                error.contains("--token-file") && error.contains("tls"),
                "{error}"
            );
        }
    }
}

/// An address that this machine does not send to from where we are; and a callee that never answers.
#[tokio::test]
async fn a_caller_ends_at_once_when_nothing_can_be_sent_and_on_a_signal() {
    let line = "--no-tunnel 127.0.0.1 --sip-server 192.0.2.1:5060 --no-register --json";
    let output = end(start(CLIENT, line)).await;
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    let error = |output: &Output| {
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        json["calls"][0]["error"].as_str().unwrap().to_owned()
    };
    let text = error(&output);
    assert!(text.contains("cannot be reached"), "{text}");

    let silent = UdpSocket::bind((common::LOOPBACK, 0)).await.unwrap();
    let line = format!(
        "--no-tunnel 127.0.0.1 --sip-server {} --no-register --json",
        silent.local_addr().unwrap()
    );
    let child = start(CLIENT, &line);
    let mut buffer = [0; 4096];
    let invite = tokio::time::timeout(PATIENCE, silent.recv_from(&mut buffer));
    invite.await.unwrap().unwrap();
    terminate(&child).await;
    let output = end(child).await;
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    let text = error(&output);
    assert!(text.contains("stopped while ringing"), "{text}");
}
