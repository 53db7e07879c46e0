//! Reports of chats, files and downloads.

use std::{fmt::Write, path::PathBuf};

use serde::Serialize;

use super::{Fail, Outcome, Role};

/// What a message session is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionKind {
    /// Text both ways.
    Chat,
    /// A file.
    File,
}

/// The file of a session.
#[derive(Clone, Debug, Serialize)]
pub struct FileFacts {
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub size: u64,
    /// Its SHA-1 in hexadecimal: of what was sent, or of what arrived.
    pub sha1: Option<String>,
    /// Whether the receiver has all of it, with the hash that was offered. The sender learns it by the success report.
    pub intact: bool,
    /// Where the receiver put it.
    pub path: Option<PathBuf>,
}

/// One message session, as one side saw it. The names of the JSON fields are stable.
#[derive(Clone, Debug, Serialize)]
pub struct SessionReport {
    /// Chat or file.
    pub kind: SessionKind,
    /// Call-ID.
    pub call_id: String,
    /// The other side's address of record.
    pub peer: String,
    /// Which side this is.
    pub role: Role,
    /// Result.
    pub outcome: Outcome,
    /// What went wrong, for people.
    pub error: Option<String>,
    /// Final SIP status of the INVITE, if one came.
    pub status: Option<u16>,
    /// From the INVITE to its 200, in milliseconds.
    pub setup_ms: Option<f64>,
    /// Length of the session, in milliseconds.
    pub duration_ms: Option<f64>,
    /// Messages that the other side has all of.
    pub sent: u64,
    /// Messages that arrived.
    pub received: u64,
    /// Bytes of messages that the other side has acknowledged.
    pub bytes_sent: u64,
    /// Bytes of messages that arrived.
    pub bytes_received: u64,
    /// Mean time from a message to the one that answers it, in milliseconds; the caller of a chat knows it.
    pub rtt_ms: Option<f64>,
    /// The file, if it is about one.
    pub file: Option<FileFacts>,
}

impl SessionReport {
    /// A session of which nothing is known yet.
    #[must_use]
    pub fn new(
        kind: SessionKind,
        call_id: impl Into<String>,
        peer: impl Into<String>,
        role: Role,
    ) -> Self {
        Self {
            kind,
            call_id: call_id.into(),
            peer: peer.into(),
            role,
            outcome: Outcome::Ok,
            error: None,
            status: None,
            setup_ms: None,
            duration_ms: None,
            sent: 0,
            received: 0,
            bytes_sent: 0,
            bytes_received: 0,
            rtt_ms: None,
            file: None,
        }
    }
}

impl Fail for SessionReport {
    fn fail(&mut self, outcome: Outcome, error: String) {
        if self.outcome == Outcome::Ok {
            self.outcome = outcome;
            self.error = Some(error);
        }
    }
}

/// One download. The names of the JSON fields are stable.
#[derive(Clone, Debug, Serialize)]
pub struct DownloadReport {
    /// What was asked for.
    pub url: String,
    /// Result.
    pub outcome: Outcome,
    /// What went wrong, for people.
    pub error: Option<String>,
    /// HTTP status, if one came.
    pub status: Option<u16>,
    /// Bytes of content that arrived.
    pub bytes: u64,
    /// From the start of the connection to the last byte, in milliseconds.
    pub duration_ms: Option<f64>,
    /// SHA-256 of the content in hexadecimal.
    pub sha256: Option<String>,
    /// Whether the server gave a hash to compare with (`Repr-Digest`, RFC 9530).
    pub checked: bool,
}

impl DownloadReport {
    /// A download of which nothing is known yet.
    #[must_use]
    pub const fn new(url: String) -> Self {
        Self {
            url,
            outcome: Outcome::Ok,
            error: None,
            status: None,
            bytes: 0,
            duration_ms: None,
            sha256: None,
            checked: false,
        }
    }

    /// Notes a failure; the first one stays.
    pub fn fail(&mut self, outcome: Outcome, error: impl Into<String>) {
        if self.outcome == Outcome::Ok {
            self.outcome = outcome;
            self.error = Some(error.into());
        }
    }
}

fn result(outcome: Outcome) -> &'static str {
    if outcome == Outcome::Ok {
        "ok"
    } else {
        "FAILED"
    }
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| format!("{v:.1}"))
}

/// Megabits in a second.
fn rate(bytes: u64, millis: Option<f64>) -> String {
    #[allow(clippy::cast_precision_loss)] // for people
    let rate = millis
        .filter(|ms| *ms > 0.0)
        .map(|ms| bytes as f64 * 8.0 / ms / 1000.0);
    number(rate)
}

/// The table that people read: a line for each session; empty if there is none.
#[must_use]
pub fn session_table(sessions: &[SessionReport]) -> String {
    let mut out = String::new();
    if sessions.is_empty() {
        return out;
    }
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "{:<5} {:<4} {:<24} {:<6} {:>8} {:>6} {:>6} {:>12} {:>8} {:>9}  file",
        "kind", "no", "peer", "result", "setup ms", "sent", "recv", "bytes", "rtt ms", "Mbit/s"
    );
    for (at, session) in sessions.iter().enumerate() {
        let bytes = session.bytes_sent + session.bytes_received;
        let file = session.file.as_ref().map(|file| {
            let sha1 = file.sha1.as_deref().unwrap_or("-");
            let intact = if file.intact { "intact" } else { "NOT INTACT" };
            format!("{} sha1 {sha1} {intact}", file.name)
        });
        let _ = writeln!(
            out,
            "{:<5} {:<4} {:<24} {:<6} {:>8} {:>6} {:>6} {:>12} {:>8} {:>9}  {}",
            match session.kind {
                SessionKind::Chat => "chat",
                SessionKind::File => "file",
            },
            at + 1,
            session.peer.chars().take(24).collect::<String>(),
            result(session.outcome),
            number(session.setup_ms),
            session.sent,
            session.received,
            bytes,
            number(session.rtt_ms),
            rate(bytes, session.duration_ms),
            file.as_deref().unwrap_or("-"),
        );
    }
    for (at, session) in sessions.iter().enumerate() {
        if let Some(error) = &session.error {
            let _ = writeln!(out, "session {}: {error}", at + 1);
        }
    }
    out
}

/// The same for downloads.
#[must_use]
pub fn download_table(downloads: &[DownloadReport]) -> String {
    let mut out = String::new();
    if downloads.is_empty() {
        return out;
    }
    let _ = writeln!(
        out,
        "{:<5} {:<6} {:>6} {:>12} {:>9} {:<8} url",
        "http", "result", "status", "bytes", "Mbit/s", "hash"
    );
    for (at, download) in downloads.iter().enumerate() {
        let _ = writeln!(
            out,
            "{:<5} {:<6} {:>6} {:>12} {:>9} {:<8} {}",
            at + 1,
            result(download.outcome),
            download
                .status
                .map_or_else(|| "-".to_owned(), |s| s.to_string()),
            download.bytes,
            rate(download.bytes, download.duration_ms),
            if download.checked { "checked" } else { "-" },
            download.url,
        );
    }
    for (at, download) in downloads.iter().enumerate() {
        if let Some(error) = &download.error {
            let _ = writeln!(out, "http {}: {error}", at + 1);
        }
    }
    out
}
