//! The leg of everything at once: calls, chats, files and downloads in one tunnel, SIP, MSRP and HTTP over inner TCP.

use std::{sync::Arc, time::Duration, time::Instant};

use anyhow::Context as _;
use serde::Serialize;
use tsc_sip::{
    client::{ClientOptions, ClientReport, FileSource, run_client},
    http::DownloadOptions,
    report::{CallReport, Outcome, SessionKind, SessionReport, millis},
    server::{ServerOptions, SipServer},
    sip::Transport as SipTransport,
    stop::Stop,
};

use crate::{
    lab::{Lab, SIP_SERVER, Side},
    leg::{self, GOODBYE, LegOptions, LegReport},
};

/// How long the callee's reports may take once the caller has all of its own.
const REPORTS: Duration = Duration::from_secs(30);

/// How much of everything. The guide limits an SDK instance to 3 calls, 10 chats and 1 file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// Calls at the same time.
    pub calls: usize,
    /// Chats at the same time.
    pub chats: usize,
    /// Transfers at the same time.
    pub files: usize,
    /// Bytes of each file.
    pub file_size: u64,
    /// Downloads by HTTP at the same time.
    pub downloads: usize,
    /// Bytes of each download.
    pub download_size: u64,
}

impl Default for Numbers {
    /// 50 calls, 100 chats, 10 files and 10 downloads of 200,000 bytes.
    fn default() -> Self {
        Self {
            calls: 50,
            chats: 100,
            files: 10,
            file_size: 200_000,
            downloads: 10,
            download_size: 200_000,
        }
    }
}

/// What there was beside RTP, as both sides agree. The names are those of `--json`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// Calls that were heard on both sides.
    pub calls: usize,
    /// Chats whose messages were all answered with the same.
    pub chats: usize,
    /// Messages of chats, both ways.
    pub messages: u64,
    /// Files that arrived with the hash that was offered.
    pub files: usize,
    /// Downloads with the hash that the server named.
    pub downloads: usize,
    /// Bytes of messages, files and downloads.
    pub bytes: u64,
}

/// Runs the leg.
pub async fn run(lab: &Lab, options: &LegOptions, numbers: &Numbers) -> LegReport {
    let mut report = LegReport::new(options);
    match everything(lab, options, numbers, &mut report).await {
        Ok(both) => judge(&mut report, numbers, &both),
        Err(error) => report.error = Some(format!("{error:#}")),
    }
    report
}

/// What the two sides have to say.
struct Both {
    caller: ClientReport,
    calls: Vec<CallReport>,
    sessions: Vec<SessionReport>,
}

async fn everything(
    lab: &Lab,
    options: &LegOptions,
    numbers: &Numbers,
    report: &mut LegReport,
) -> anyhow::Result<Both> {
    let callee_net = Arc::new(
        leg::open(lab, options, Side::Core)
            .await
            .context("the SIP server's tunnel")?,
    );
    let server = ServerOptions {
        record: options.record.clone(),
        http_port: Some(DownloadOptions::PORT),
        ..ServerOptions::default()
    };
    let mut server = SipServer::start(Arc::clone(&callee_net), server).await?;
    anyhow::ensure!(
        server.address().to_string() == SIP_SERVER,
        "the SIP server got {} instead of {SIP_SERVER}",
        server.address()
    );
    let mut session_reports = server.session_reports().context("no session reports")?;

    // One tunnel for everything.
    let started = Instant::now();
    let caller_net = Arc::new(
        leg::open(lab, options, Side::Access)
            .await
            .context("the caller's tunnel")?,
    );
    report.tunnel_ms = Some(millis(started.elapsed()));
    let mut caller = ClientOptions::new("alice", "play");
    caller.transport = SipTransport::Tcp;
    caller.duration = options.duration;
    caller.record.clone_from(&options.record);
    caller.calls = numbers.calls;
    caller.sessions.chats = numbers.chats;
    caller.sessions.files = numbers.files;
    caller.sessions.file = FileSource::Pattern(numbers.file_size);
    caller.downloads.count = numbers.downloads;
    caller.downloads.path = format!("/bytes/{}", numbers.download_size);
    let caller = run_client(Arc::clone(&caller_net), caller, Stop::never()).await?;

    let ok = |outcome: &&Outcome| **outcome == Outcome::Ok;
    let up = caller.calls.iter().map(|c| &c.outcome).filter(ok).count();
    let both = caller.chats.iter().chain(&caller.files);
    let over = both.map(|s| &s.outcome).filter(ok).count();
    let (mut calls, mut sessions) = (Vec::new(), Vec::new());
    let reports = async {
        while calls.len() < up {
            calls.push(server.next_report().await?);
        }
        while sessions.len() < over {
            sessions.push(session_reports.recv().await?);
        }
        Some(())
    };
    let reports = tokio::time::timeout(REPORTS, reports).await;
    reports
        .ok()
        .flatten()
        .context("the SIP server does not report")?;
    server.stop(GOODBYE).await?;
    leg::close(caller_net, "the caller", false).await?;
    leg::close(callee_net, "the SIP server", false).await?;
    Ok(Both {
        caller,
        calls,
        sessions,
    })
}

/// Sums everything up, and says what is wrong with it. Other than on a leg of a call alone a packet of RTP may be lost: the
/// queues of the tunnel drop what comes in faster than it goes out.
fn judge(report: &mut LegReport, numbers: &Numbers, both: &Both) {
    let facts = facts(both);
    let Both { caller, calls, .. } = both;
    report.sum_up(caller.calls.iter().chain(calls).cloned().collect());
    let wanted = (
        numbers.calls,
        numbers.chats,
        numbers.files,
        numbers.downloads,
    );
    let got = (facts.calls, facts.chats, facts.files, facts.downloads);
    let failed = [
        caller.calls.iter().find_map(|call| call.error.clone()),
        caller.chats.iter().find_map(|chat| chat.error.clone()),
        caller.files.iter().find_map(|file| file.error.clone()),
        caller.downloads.iter().find_map(|one| one.error.clone()),
    ];
    report.error = (got != wanted).then(|| {
        let why = failed.into_iter().flatten().next();
        let why = why.unwrap_or_else(|| "the two sides differ".to_owned());
        format!("calls, chats, files and downloads: {got:?} of {wanted:?}: {why}")
    });
    report.ok = report.error.is_none();
    report.inner_tcp = Some(facts);
}

fn facts(both: &Both) -> Facts {
    let Both {
        caller,
        calls,
        sessions,
    } = both;
    let heard = |call: &&CallReport| call.outcome == Outcome::Ok && !call.heard.is_empty();
    let other_side = |ours: &SessionReport| {
        let mut sessions = sessions.iter();
        sessions.find(|theirs| theirs.call_id == ours.call_id && theirs.outcome == Outcome::Ok)
    };
    let chats = caller.chats.iter().filter(|chat| {
        let theirs = other_side(chat);
        chat.outcome == Outcome::Ok
            && theirs.is_some_and(|theirs| {
                theirs.kind == SessionKind::Chat && theirs.received == chat.sent
            })
    });
    let files = caller.files.iter().filter(|ours| {
        let theirs = other_side(ours).and_then(|theirs| theirs.file.as_ref());
        let ours = ours.file.as_ref();
        ours.zip(theirs)
            .is_some_and(|(ours, theirs)| ours.intact && theirs.intact && ours.sha1 == theirs.sha1)
    });
    let downloads = caller.downloads.iter();
    let downloads = downloads.filter(|one| one.outcome == Outcome::Ok && one.checked);
    let all = caller.chats.iter().chain(&caller.files);
    let moved: u64 = all.map(|one| one.bytes_sent + one.bytes_received).sum();
    let loaded: u64 = caller.downloads.iter().map(|one| one.bytes).sum();
    Facts {
        calls: calls
            .iter()
            .filter(heard)
            .count()
            .min(caller.calls.iter().filter(heard).count()),
        chats: chats.count(),
        messages: caller
            .chats
            .iter()
            .map(|chat| chat.sent + chat.received)
            .sum(),
        files: files.count(),
        downloads: downloads.count(),
        bytes: moved + loaded,
    }
}
