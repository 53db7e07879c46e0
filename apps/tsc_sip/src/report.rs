//! What is told at the end of a call, for people and for programs.

mod transfers;

use std::{
    fmt::Write,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;

pub use transfers::{
    DownloadReport, FileFacts, SessionKind, SessionReport, download_table, session_table,
};

use crate::{
    Renewal,
    media::{Audio, Codec, MediaReport, SAMPLE_RATE, WavError},
    net::DirectPackets,
};

/// How a program or a call ended. The numbers are the exit codes of all programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Outcome {
    /// All calls, sessions and downloads were made, and what they were to bring has arrived.
    Ok = 0,
    /// The command line, a file that it names, or the surroundings cannot be used (also clap's code).
    Configuration = 2,
    /// No tunnel, or the tunnel was lost.
    TunnelFailed = 3,
    /// The registrar refused or did not answer.
    RegistrationRefused = 4,
    /// A call, session or download was refused, not answered, or broken off.
    CallFailed = 5,
    /// A call was made, but nothing was heard; or what arrived is not what was sent.
    MediaFailed = 6,
}

impl Outcome {
    /// The exit code.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        self as u8
    }
}

/// Which side of the call reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// We called.
    Caller,
    /// We were called.
    Callee,
}

/// One call, as one side saw it. The names of the JSON fields are stable.
#[derive(Clone, Debug, Serialize)]
pub struct CallReport {
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
    /// How long the caller waited before the INVITE until what it asks of its tunnel was in force, in milliseconds; absent if it
    /// asked for nothing or did not wait, and if that was not in force in time.
    pub services_ms: Option<f64>,
    /// From the INVITE to its 200 (to the ACK, at the callee), in milliseconds.
    pub setup_ms: Option<f64>,
    /// Length of the call, in milliseconds.
    pub duration_ms: Option<f64>,
    /// How often either side went on at another address, because its network had been replaced.
    pub moves: u32,
    /// Codec.
    pub codec: Option<Codec>,
    /// RTP packets sent.
    pub sent: u64,
    /// RTP packets that arrived, each counted once.
    pub received: u64,
    /// RTP packets that did not arrive.
    pub lost: u64,
    /// RTP packets that came after their playout time.
    pub late: u64,
    /// Further copies of RTP packets.
    pub duplicated: u64,
    /// RTP packets overtaken by others.
    pub reordered: u64,
    /// Interarrival jitter (RFC 3550), in milliseconds.
    pub jitter_ms: f64,
    /// Mean round trip by RTCP, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Shortest round trip by RTCP, in milliseconds.
    pub shortest_rtt_ms: Option<f64>,
    /// Mean time that packets waited to be played, in milliseconds.
    pub playout_ms: Option<f64>,
    /// Estimated mean opinion score (G.107) of what was heard; absent if there was no media.
    pub mos: Option<f64>,
    /// RTP packets that the other side says it missed.
    pub remote_lost: Option<i32>,
    /// Jitter that the other side sees, in milliseconds.
    pub remote_jitter_ms: Option<f64>,
    /// Packets dropped as not belonging to the call.
    pub ignored: u64,
    /// RTP packets that went without the tunnel server, by a peer tunnel; all others went over it. Absent where none did and none
    /// was to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direct: Option<DirectPackets>,
    /// Where the recording is.
    pub recording: Option<PathBuf>,
    /// G.711 payload that was sent.
    #[serde(skip)]
    pub played: Vec<u8>,
    /// G.711 payload that arrived, by timestamp.
    #[serde(skip)]
    pub heard: Vec<u8>,
    /// What the listener heard, if that is recorded.
    #[serde(skip)]
    pub rendered: Vec<i16>,
}

/// A report that notes failures.
pub(crate) trait Fail {
    /// Notes a failure; the first one stays.
    fn fail(&mut self, outcome: Outcome, error: String);
}

impl Fail for CallReport {
    fn fail(&mut self, outcome: Outcome, error: String) {
        if self.outcome == Outcome::Ok {
            self.outcome = outcome;
            self.error = Some(error);
        }
    }
}

/// Milliseconds with a fraction, to the microsecond.
#[must_use]
pub fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

impl CallReport {
    /// A call of which nothing is known yet.
    #[must_use]
    pub fn new(call_id: impl Into<String>, peer: impl Into<String>, role: Role) -> Self {
        Self {
            call_id: call_id.into(),
            peer: peer.into(),
            role,
            outcome: Outcome::Ok,
            error: None,
            status: None,
            services_ms: None,
            setup_ms: None,
            duration_ms: None,
            moves: 0,
            codec: None,
            sent: 0,
            received: 0,
            lost: 0,
            late: 0,
            duplicated: 0,
            reordered: 0,
            jitter_ms: 0.0,
            rtt_ms: None,
            shortest_rtt_ms: None,
            playout_ms: None,
            mos: None,
            remote_lost: None,
            remote_jitter_ms: None,
            ignored: 0,
            direct: None,
            recording: None,
            played: Vec::new(),
            heard: Vec::new(),
            rendered: Vec::new(),
        }
    }

    /// Notes a failure; the first one stays.
    pub fn fail(&mut self, outcome: Outcome, error: impl Into<String>) {
        Fail::fail(self, outcome, error.into());
    }

    /// Notes how the media went. Nothing heard although packets were expected is a failure.
    pub fn note_media(&mut self, media: MediaReport, expected: bool) {
        self.codec = Some(media.codec);
        self.sent = media.sent;
        self.received = media.received;
        self.lost = media.lost;
        self.late = media.late;
        self.duplicated = media.duplicated;
        self.reordered = media.reordered;
        self.jitter_ms = millis(media.jitter);
        self.rtt_ms = media.rtt.map(millis);
        self.shortest_rtt_ms = media.shortest_rtt.map(millis);
        self.playout_ms = Some(millis(media.playout_delay));
        self.mos = Some((media.mos * 100.0).round() / 100.0);
        self.remote_lost = media.remote.map(|remote| remote.lost);
        self.remote_jitter_ms = media
            .remote
            .map(|remote| millis(Duration::from_secs(remote.jitter.into()) / SAMPLE_RATE));
        self.ignored = media.ignored;
        if self.direct.is_some() || media.direct != DirectPackets::default() {
            self.direct = Some(media.direct);
        }
        self.played = media.played;
        self.heard = media.heard;
        self.rendered = media.rendered;
        if expected && media.received == 0 {
            self.fail(Outcome::MediaFailed, "no RTP arrived");
        }
    }

    /// Writes what arrived into a directory, as WAV and as bare G.711 beside it, and what the listener heard of it.
    ///
    /// # Errors
    ///
    /// The directory or the files cannot be written.
    pub fn record(&mut self, directory: &Path, name: &str) -> Result<(), RecordError> {
        let Some(codec) = self.codec else {
            return Ok(());
        };
        // The name may hold a peer's text: nothing in it may lead out of the directory.
        let safe = |c: char| {
            if c.is_ascii_alphanumeric() || c == '-' {
                c
            } else {
                '_'
            }
        };
        let name: String = name.chars().take(100).map(safe).collect();
        fs::create_dir_all(directory)?;
        let path = directory.join(format!("{name}.wav"));
        Audio::write(&path, codec, &self.heard)?;
        let listener = directory.join(format!("{name}-heard.wav"));
        Audio::from_samples(std::mem::take(&mut self.rendered)).save(&listener)?;
        fs::write(path.with_extension(codec.file_suffix()), &self.heard)?;
        self.recording = Some(path);
        Ok(())
    }
}

/// Why a recording cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The file system says no.
    #[error("the recording cannot be written: {0}")]
    Io(#[from] io::Error),
    /// The WAV file cannot be written.
    #[error("the recording cannot be written: {0}")]
    Wav(#[from] WavError),
}

/// Records in a thread that may block. A failure is logged: it does not make the call a bad one.
pub(crate) async fn record(
    mut report: CallReport,
    directory: Option<PathBuf>,
    name: String,
) -> CallReport {
    let Some(directory) = directory else {
        return report;
    };
    let spare = CallReport::new(report.call_id.clone(), report.peer.clone(), report.role);
    let written = tokio::task::spawn_blocking(move || {
        let result = report.record(&directory, &name);
        (report, result)
    })
    .await;
    match written {
        Ok((report, Ok(()))) => report,
        Ok((mut report, Err(error))) => {
            tracing::error!(%error, "no recording");
            report.fail(Outcome::Configuration, error.to_string());
            report
        }
        // The runtime is going down.
        Err(_) => spare,
    }
}

/// Lines for people: which tunnel took the place of one that was gone, and when we were reached again.
#[must_use]
pub fn renewals(renewals: &[Renewal]) -> String {
    let line = |renewal: &Renewal| {
        let Renewal {
            reason,
            address,
            tunnel_ms,
            ready_ms,
        } = renewal;
        format!(
            "tunnel gone: {reason}; another is up after {tunnel_ms:.1} ms, reached again at {address} after {ready_ms:.1} ms\n"
        )
    };
    renewals.iter().map(line).collect()
}

/// The table that people read: a line for each call.
#[must_use]
pub fn table(calls: &[CallReport]) -> String {
    let mut out = format!(
        "{:<4} {:<24} {:<6} {:<5} {:>8} {:>6} {:>6} {:>5} {:>5} {:>5} {:>5} {:>9} {:>8} {:>5}\n",
        "call",
        "peer",
        "result",
        "codec",
        "setup ms",
        "sent",
        "recv",
        "lost",
        "late",
        "dupl",
        "reord",
        "jitter ms",
        "rtt ms",
        "MOS"
    );
    let number = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "-".to_owned(), |v| format!("{v:.digits$}"))
    };
    for (at, call) in calls.iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "{:<4} {:<24} {:<6} {:<5} {:>8} {:>6} {:>6} {:>5} {:>5} {:>5} {:>5} {:>9.2} {:>8} {:>5}",
            at + 1,
            call.peer.chars().take(24).collect::<String>(),
            if call.outcome == Outcome::Ok {
                "ok"
            } else {
                "FAILED"
            },
            call.codec.map_or_else(|| "-".to_owned(), |c| c.to_string()),
            number(call.setup_ms, 1),
            call.sent,
            call.received,
            call.lost,
            call.late,
            call.duplicated,
            call.reordered,
            call.jitter_ms,
            number(call.rtt_ms, 2),
            number(call.mos, 2),
        );
    }
    for (at, call) in calls.iter().enumerate() {
        if let Some(direct) = call.direct {
            let _ = writeln!(
                out,
                "call {}: {} packets sent and {} received by a peer tunnel, {} and {} over the tunnel server",
                at + 1,
                direct.sent,
                direct.received,
                call.sent.saturating_sub(direct.sent),
                call.received.saturating_sub(direct.received),
            );
        }
        if let Some(error) = &call.error {
            let _ = writeln!(out, "call {}: {error}", at + 1);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_promised_names() {
        let mut report = CallReport::new("id", "sip:a@b", Role::Caller);
        report.setup_ms = Some(millis(Duration::from_micros(1_234_567)));
        let json = serde_json::to_value(&report).unwrap();
        for name in [
            "sent",
            "received",
            "lost",
            "late",
            "duplicated",
            "jitter_ms",
            "rtt_ms",
            "mos",
        ] {
            assert!(json.get(name).is_some(), "{name}");
        }
        assert_eq!(json["setup_ms"], 1234.567);
        assert_eq!(json["outcome"], "ok");
        assert!(json.get("heard").is_none());
    }

    #[test]
    fn recordings_stay_in_their_directory() {
        let dir = tempfile::tempdir().unwrap();
        let mut report = CallReport::new("id", "peer", Role::Callee);
        report.codec = Some(Codec::Pcmu);
        report.heard = Codec::Pcmu.encode(&[1000; 160]);
        report.rendered = vec![990; 160];
        report.record(dir.path(), "../../x/y").unwrap();
        let path = report.recording.unwrap();
        assert_eq!(path.parent(), Some(dir.path()));
        assert_eq!(fs::read(path.with_extension("ulaw")).unwrap(), report.heard);
        let listener = Audio::read(&dir.path().join("______x_y-heard.wav")).unwrap();
        assert_eq!(listener.samples(), [990; 160]);
        assert_eq!(
            Codec::Pcmu.encode(Audio::read(&path).unwrap().samples()),
            report.heard
        );
    }

    #[test]
    fn what_went_by_a_peer_tunnel_is_told_where_it_was_asked_for() {
        let mut report = CallReport::new("id", "peer", Role::Caller);
        (report.sent, report.received) = (200, 190);
        assert!(!table(std::slice::from_ref(&report)).contains("peer tunnel"));
        assert!(
            serde_json::to_value(&report)
                .unwrap()
                .get("direct")
                .is_none()
        );
        report.direct = Some(DirectPackets {
            sent: 150,
            received: 140,
        });
        let line = "call 1: 150 packets sent and 140 received by a peer tunnel, 50 and 50 over the tunnel server\n";
        assert!(table(std::slice::from_ref(&report)).ends_with(line));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(
            (&json["direct"]["sent"], &json["direct"]["received"]),
            (&150.into(), &140.into())
        );
    }

    #[test]
    fn the_first_failure_stays() {
        let mut report = CallReport::new("id", "peer", Role::Caller);
        report.fail(Outcome::CallFailed, "busy");
        report.fail(Outcome::MediaFailed, "silence");
        assert_eq!(report.outcome.exit_code(), 5);
        assert!(table(&[report]).contains("call 1: busy"));
    }
}
