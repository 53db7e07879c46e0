//! Calls, chats, files and downloads at once, over the host's loopback: the libraries and the programs.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::{
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use common::{PATIENCE, World, client, run, run_until};
use tokio::process::Command;
use tsc_sip::{
    client::{ClientOptions, FileProgress, FileSource, Progress},
    pattern,
    report::{Outcome, Role, SessionKind, SessionReport},
    server::ServerOptions,
    sip::Transport,
    stop::Stopper,
};

fn server() -> ServerOptions {
    ServerOptions {
        http_port: Some(0),
        ..ServerOptions::default()
    }
}

/// A caller over TCP that calls nobody.
fn caller(world: &World) -> ClientOptions {
    let mut options = client(world, "play");
    options.transport = Transport::Tcp;
    options.calls = 0;
    options.duration = Some(Duration::from_millis(400));
    options.downloads.server = world.server.http_address();
    options
}

async fn callee_reports(world: &mut World, count: usize) -> Vec<SessionReport> {
    let mut reports = world.server.session_reports().unwrap();
    let mut all = Vec::new();
    while all.len() < count {
        let report = tokio::time::timeout(PATIENCE, reports.recv()).await;
        all.push(report.unwrap().unwrap());
    }
    all
}

#[tokio::test]
async fn everything_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut world = World::start(ServerOptions {
        receive: Some(directory.path().to_owned()),
        ..server()
    })
    .await;
    let mut options = caller(&world);
    options.register = true;
    options.calls = 5;
    options.sessions.chats = 10;
    options.sessions.files = 3;
    options.sessions.file = FileSource::Pattern(300_001);
    options.downloads.count = 4;
    options.downloads.path = "/bytes/200001".into();
    let told = Arc::new(AtomicU64::new(0));
    let progress = Arc::clone(&told);
    options.sessions.progress = Some(Progress(Arc::new(move |_, how_far| match how_far {
        FileProgress::Accepted { bytes, total } => assert!(bytes <= total),
        FileProgress::Sent { size, sha1 } => {
            assert_eq!(sha1.len(), 40);
            progress.fetch_add(size, Ordering::Relaxed);
        }
        FileProgress::Failed => panic!("a file failed"),
    })));
    let report = run(options).await.unwrap();
    assert_eq!(report.outcome(), Outcome::Ok, "{report:?}");
    assert_eq!(report.calls.len(), 5);
    assert!(report.calls.iter().all(|call| call.received > 0));
    assert_eq!((report.chats.len(), report.files.len()), (10, 3));
    for chat in &report.chats {
        assert_eq!((chat.sent, chat.received), (5, 5));
        assert_eq!((chat.bytes_sent, chat.bytes_received), (15_000, 15_000));
        assert!(chat.rtt_ms.is_some() && chat.setup_ms.is_some());
    }
    for download in &report.downloads {
        assert_eq!((download.status, download.bytes), (Some(200), 200_001));
        assert!(download.checked);
    }
    assert_eq!(
        told.load(Ordering::Relaxed),
        3 * 300_001,
        "all are told of once"
    );

    let mut wanted = vec![0; 300_001];
    pattern::fill(0, &mut wanted);
    let callees = callee_reports(&mut world, 13).await;
    let mut kept = 0;
    for callee in callees {
        assert_eq!(
            (callee.outcome, callee.role),
            (Outcome::Ok, Role::Callee),
            "{callee:?}"
        );
        if callee.kind == SessionKind::File {
            let file = callee.file.unwrap();
            assert!(file.intact);
            assert!(std::fs::read(file.path.unwrap()).unwrap() == wanted);
            assert_eq!(file.sha1, report.files[0].file.as_ref().unwrap().sha1);
            kept += 1;
        }
    }
    assert_eq!(kept, 3);
    world.stop().await;
}

#[tokio::test]
async fn files_of_any_size_and_from_disk() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("talk 100%.bin");
    std::fs::write(&path, [7; 5000]).unwrap();
    for source in [
        FileSource::Pattern(0),
        FileSource::Pattern(1),
        FileSource::Pattern(2048),
        FileSource::Pattern(2049),
        FileSource::Path(path),
    ] {
        let mut world = World::start(server()).await;
        let mut options = caller(&world);
        options.sessions.files = 1;
        options.sessions.file = source.clone();
        let report = run(options).await.unwrap();
        assert_eq!(report.outcome(), Outcome::Ok, "{source:?} {report:?}");
        let callee = callee_reports(&mut world, 1).await.remove(0);
        let (ours, theirs) = (report.files[0].file.clone().unwrap(), callee.file.unwrap());
        assert!(ours.intact && theirs.intact, "{source:?}");
        assert_eq!((ours.name, ours.size), (theirs.name, theirs.size));
    }
}

#[tokio::test]
async fn refusals_are_clear() {
    let world = World::start(ServerOptions {
        max_file: 1000,
        ..server()
    })
    .await;
    let mut options = caller(&world);
    options.sessions.files = 1;
    options.downloads.count = 1;
    options.downloads.path = "/nothing".into();
    let report = run(options.clone()).await.unwrap();
    assert_eq!(report.outcome(), Outcome::CallFailed);
    assert_eq!(report.files[0].status, Some(488));
    assert_eq!(report.downloads[0].status, Some(404));

    for (callee, status) in [("busy", 486), ("nobody", 404)] {
        options.sessions.callee = callee.into();
        options.sessions.chats = 1;
        options.sessions.files = 0;
        let report = run(options.clone()).await.unwrap();
        assert_eq!(report.chats[0].status, Some(status), "{callee}");
        assert_eq!(report.chats[0].outcome, Outcome::CallFailed);
    }
    // Too long for the callee's chats.
    options.sessions.callee = "echo".into();
    options.sessions.message_size = 65_537;
    let report = run(options.clone()).await.unwrap();
    let error = report.chats[0].error.as_ref().unwrap();
    assert!(error.contains("413"), "{error}");
    // A file that is not there.
    options.sessions.files = 1;
    options.sessions.file = FileSource::Path("/nonexistent/file".into());
    let report = run(options).await.unwrap();
    assert_eq!(report.files[0].outcome, Outcome::Configuration);
}

#[tokio::test]
async fn nobody_there_is_said_at_once() {
    let world = World::start(server()).await;
    let mut options = caller(&world);
    // A port at which nobody listens: the connection is refused.
    let free = tokio::net::TcpListener::bind((common::LOOPBACK, 0))
        .await
        .unwrap();
    options.sip_server = Some(free.local_addr().unwrap());
    drop(free);
    options.sessions.chats = 1;
    let report = run(options).await.unwrap();
    let error = report.chats[0].error.as_ref().unwrap();
    assert!(error.contains("cannot be reached"), "{error}");
}

#[tokio::test]
async fn a_file_that_is_stopped_is_given_up_on_both_sides() {
    let mut world = World::start(server()).await;
    let mut options = caller(&world);
    options.sessions.files = 1;
    options.sessions.file = FileSource::Pattern(1 << 27);
    let (stopper, stop) = Stopper::new();
    let stopper = Mutex::new(Some(stopper));
    options.sessions.progress = Some(Progress(Arc::new(move |_, how_far| {
        if let FileProgress::Accepted {
            bytes: 100_000.., ..
        } = how_far
            && let Some(stopper) = stopper.lock().unwrap().take()
        {
            stopper.stop();
        }
    })));
    let report = run_until(options, stop).await.unwrap();
    assert_eq!(report.outcome(), Outcome::CallFailed, "{report:?}");
    let callee = callee_reports(&mut world, 1).await.remove(0);
    assert_eq!(callee.outcome, Outcome::CallFailed);
    let error = callee.error.unwrap();
    assert!(
        error.contains("gave up") || error.contains("before all was there"),
        "{error}"
    );
    assert!(!callee.file.is_some_and(|file| file.intact));
}

#[tokio::test]
async fn the_callee_hangs_up_when_it_stops() {
    let mut world = World::start(server()).await;
    let mut options = caller(&world);
    options.sessions.files = 1;
    options.sessions.file = FileSource::Pattern(1 << 27);
    let under_way = Arc::new(tokio::sync::Notify::new());
    let notify = Arc::clone(&under_way);
    options.sessions.progress = Some(Progress(Arc::new(move |_, _| notify.notify_one())));
    let mut reports = world.server.session_reports().unwrap();
    let caller = tokio::spawn(run(options));
    tokio::time::timeout(PATIENCE, under_way.notified())
        .await
        .unwrap();
    world.stop().await;
    let callee = reports.recv().await.unwrap();
    assert_eq!(callee.outcome, Outcome::CallFailed);
    let report = caller.await.unwrap().unwrap();
    assert_eq!(report.outcome(), Outcome::CallFailed);
}

/// The numbers of the SDK guide's limits, and more, in the program; with its JSON and exit codes.
#[tokio::test]
async fn the_program_reports_all() {
    let world = World::start(server()).await;
    let http = world.server.http_address().unwrap();
    let line = format!(
        "--no-tunnel 127.0.0.1 --sip-server {} --http-server {http} --duration 0.5 --calls 10 --chats 20 --files 2 \
         --file-size 50000 --http 2 --http-path /bytes/10000",
        world.server.address()
    );
    let start = |more: &str| {
        let line = format!("{line} {more}");
        Command::new(env!("CARGO_BIN_EXE_tsc_sip_inner_tcp"))
            .args(line.split_whitespace())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
    };
    let output = tokio::time::timeout(PATIENCE, start("--json"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["outcome"], "ok");
    for (name, count) in [("calls", 10), ("chats", 20), ("files", 2), ("downloads", 2)] {
        let list = json[name].as_array().unwrap();
        assert_eq!(list.len(), count, "{name}");
        assert!(list.iter().all(|one| one["outcome"] == "ok"), "{name}");
    }
    let output = tokio::time::timeout(PATIENCE, start("--peer nobody"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    let table = String::from_utf8(output.stdout).unwrap();
    for part in ["call ", "chat ", "file ", "http ", "404"] {
        assert!(table.contains(part), "{part:?} in {table}");
    }
    // Nothing draws bars where there is no terminal.
    assert!(!String::from_utf8(output.stderr).unwrap().contains('['));
}
