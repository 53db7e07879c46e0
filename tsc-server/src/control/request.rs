//! What is asked and answered.

use std::{
    net::IpAddr,
    ops::Not,
    path::{Component, Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use tsc_osaa::trace::CaptureError;
use tsc_tpl::Tsid;

use crate::{
    config::TraceRedaction,
    trace::{TraceError, TraceFilter, TraceOptions, TraceStatus},
};

/// Longest name of a file, in bytes: room for the number of a ring behind it.
const MAX_NAME: usize = 200;

/// What a running server can be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Request {
    /// Start a capture.
    TraceStart(StartRequest),
    /// Stop one, or all.
    TraceStop(StopRequest),
    /// The captures that run.
    TraceList(Nothing),
}

impl Request {
    /// The captures that run.
    #[must_use]
    pub const fn trace_list() -> Self {
        Self::TraceList(Nothing {})
    }

    /// Reads a line.
    pub(super) fn parse(line: &[u8]) -> Result<Self, Failure> {
        serde_json::from_slice(line).map_err(|error| Failure::new("malformed", error))
    }
}

/// No further fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// Which capture to start. At most one of `interface`, `tunnel`, `address` and `identity` says what it sees; without one it is
/// everything. What is left out is as the configuration says for its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct StartRequest {
    /// Name of the file in `trace-directory`.
    pub file: String,
    /// `realm-id` of an interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// TSID of a tunnel, 16 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<String>,
    /// Inner address of a tunnel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Whose tunnels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// `none`, `headers` or `sip`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redaction: Option<String>,
    /// How many files are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<u16>,
    /// MB of each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_size: Option<u32>,
    /// Seconds of each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_time: Option<u64>,
    /// Seconds until it ends.
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    pub time: Option<u64>,
    /// Whether it has outer packets too.
    #[serde(skip_serializing_if = "Not::not")]
    pub outer: bool,
    /// **Whether it has the secrets that decrypt connections.**
    #[serde(skip_serializing_if = "Not::not")]
    pub insecure_decryption_secrets: bool,
}

/// Which capture to stop.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StopRequest {
    /// Its name; without one all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// What comes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Answer {
    /// What was started or stopped, or what runs.
    Traces(Vec<TraceRecord>),
    /// Nothing was done.
    Error(Failure),
}

/// Why nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// For programs.
    pub kind: String,
    /// For people.
    pub text: String,
}

impl Failure {
    pub(super) fn new(kind: &str, text: impl ToString) -> Self {
        Self {
            kind: kind.to_owned(),
            text: text.to_string(),
        }
    }
}

/// A capture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct TraceRecord {
    /// The name of its file.
    pub name: String,
    /// The file.
    pub file: String,
    /// `all`, or `interface`, `tunnel`, `address` or `identity` and which.
    pub filter: String,
    /// What is taken away.
    pub redaction: String,
    /// Whether it has outer packets.
    #[serde(default)]
    pub outer: bool,
    /// **Whether it has the secrets that decrypt connections.**
    #[serde(default)]
    pub insecure_decryption_secrets: bool,
    /// When it began, in seconds since 1970.
    pub started: u64,
    /// Seconds that it runs on; none for that of the configuration.
    pub left: Option<u64>,
    /// Tunnels that it saw when it began.
    pub tunnels: usize,
    /// Packets and control messages in its files.
    pub written: u64,
    /// Those that were lost.
    pub dropped: u64,
}

impl From<&TraceStatus> for TraceRecord {
    fn from(status: &TraceStatus) -> Self {
        let started: SystemTime = status.started;
        let left = status.left;
        Self {
            name: status.name.clone(),
            file: status.file.display().to_string(),
            filter: status.filter.to_string(),
            redaction: status.redaction.to_string(),
            outer: status.outer,
            insecure_decryption_secrets: status.insecure_decryption_secrets,
            started: started
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            // Rounded up: what is not over has some time left.
            left: left.map(|left| {
                left.as_millis()
                    .div_ceil(1000)
                    .try_into()
                    .unwrap_or(u64::MAX)
            }),
            tunnels: status.tunnels,
            written: status.packets.written,
            dropped: status.packets.dropped,
        }
    }
}

impl StartRequest {
    /// What the server is to do; files are made in `directory`.
    pub(super) fn options(self, directory: Option<&Path>) -> Result<TraceOptions, Failure> {
        let malformed = |text: &str| Failure::new("malformed", text);
        let Some(directory) = directory else {
            let text =
                "the server's configuration names no `trace-directory` to write captures into";
            return Err(Failure::new("no-directory", text));
        };
        let mut options = TraceOptions::new(path(directory, &self.file)?);
        let filters = [
            self.interface.map(TraceFilter::Interface),
            match self.tunnel {
                Some(text) => Some(TraceFilter::Tunnel(tsid(&text).ok_or_else(|| {
                    malformed("a tunnel is named by its TSID, 16 hexadecimal digits")
                })?)),
                None => None,
            },
            self.address.map(TraceFilter::Address),
            self.identity.map(TraceFilter::Identity),
        ];
        if let [.., Some(TraceFilter::Identity(name))] = &filters
            && name.chars().any(char::is_control)
        {
            return Err(malformed("an identity has no control characters"));
        }
        let mut filters = filters.into_iter().flatten();
        options.filter = filters.next().unwrap_or(TraceFilter::All);
        if filters.next().is_some() {
            return Err(malformed(
                "at most one of interface, tunnel, address and identity",
            ));
        }
        if let Some(word) = self.redaction {
            let mut known = TraceRedaction::ALL.iter();
            let found = known.find(|redaction| redaction.as_str() == word);
            let found = found.ok_or_else(|| malformed("redaction is none, headers or sip"))?;
            options.redaction = Some(*found);
        }
        options.files = self.files;
        options.file_size = self.file_size;
        options.file_time = self.file_time.map(Duration::from_secs);
        if let Some(time) = self.time {
            options.time = Duration::from_secs(time);
        }
        options.outer = self.outer;
        options.insecure_decryption_secrets = self.insecure_decryption_secrets;
        Ok(options)
    }
}

/// A TSID as logs and captures show it.
pub(crate) fn tsid(text: &str) -> Option<Tsid> {
    let is_tsid = text.len() == 16 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    let tsid = Tsid(u64::from_str_radix(text, 16).ok()?);
    (is_tsid && tsid != Tsid::UNASSIGNED).then_some(tsid)
}

/// A file of this name, which leads nowhere else.
fn path(directory: &Path, name: &str) -> Result<PathBuf, Failure> {
    let mut parts = Path::new(name).components();
    let is_plain = matches!(parts.next(), Some(Component::Normal(part)) if part == name)
        && parts.next().is_none();
    let is_good = is_plain
        && name.len() <= MAX_NAME
        && !name.starts_with('.')
        // Which stops all.
        && name != "all"
        && !name.chars().any(char::is_control);
    if is_good {
        return Ok(directory.join(name));
    }
    let text = format!(
        "the file is a name of at most {MAX_NAME} bytes, without directories, not hidden and not \"all\": it is made in {}",
        directory.display()
    );
    Err(Failure::new("bad-name", text))
}

impl From<TraceError> for Failure {
    fn from(error: TraceError) -> Self {
        let kind = match &error {
            TraceError::TooMany => "too-many",
            TraceError::NameInUse { .. } => "name-in-use",
            TraceError::NoName { .. } => "bad-name",
            TraceError::NoSuchInterface { .. } => "no-such-interface",
            TraceError::OutOfRange { .. } => "out-of-range",
            TraceError::Redaction { .. } | TraceError::File(CaptureError::SecretsInRedacted) => {
                "redaction"
            }
            TraceError::OutsideOfTunnel => "outside-of-tunnel",
            TraceError::File(_) => "file",
            TraceError::NoSuchTrace { .. } => "no-such-trace",
            TraceError::Configured { .. } => "configured",
            TraceError::Stopping => "stopping",
        };
        Self::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn start(line: &str) -> Result<TraceOptions, String> {
        match Request::parse(line.as_bytes()).map_err(|failure| failure.kind)? {
            Request::TraceStart(start) => start
                .options(Some(Path::new("/traces")))
                .map_err(|failure| failure.kind),
            other @ (Request::TraceStop(_) | Request::TraceList(_)) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_request_says_all_that_a_capture_may_be_told() {
        let options = start(
            r#"{"request":"trace-start","file":"a.pcapng","tunnel":"00c0ffee00C0FFEE","redaction":"sip",
                "files":3,"file-size":4,"file-time":5,"for":6,"outer":true,"insecure-decryption-secrets":true}"#,
        );
        let mut expected = TraceOptions::new("/traces/a.pcapng");
        expected.filter = TraceFilter::Tunnel(Tsid(0x00c0_ffee_00c0_ffee));
        expected.redaction = Some(TraceRedaction::Sip);
        expected.files = Some(3);
        expected.file_size = Some(4);
        expected.file_time = Some(Duration::from_secs(5));
        expected.time = Duration::from_secs(6);
        expected.outer = true;
        expected.insecure_decryption_secrets = true;
        assert_eq!(options, Ok(expected));
        let plain = start(r#"{"file":"b","request":"trace-start"}"#);
        assert_eq!(plain, Ok(TraceOptions::new("/traces/b")));
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let long = "x".repeat(MAX_NAME + 1);
        for name in [
            "",
            ".",
            "..",
            "/",
            "/etc/passwd",
            "../x",
            "a/b",
            "a/",
            "./a",
            ".hidden",
            "a\\nb",
            "all",
            &long,
        ] {
            let line = format!(r#"{{"request":"trace-start","file":"{name}"}}"#);
            assert_eq!(start(&line), Err("bad-name".to_owned()), "{name}");
        }
        let line = format!(
            r#"{{"request":"trace-start","file":"{}"}}"#,
            "x".repeat(MAX_NAME)
        );
        assert!(start(&line).is_ok());
    }

    #[test]
    fn what_is_not_understood_is_refused_and_not_guessed() {
        for line in [
            "",
            "{}",
            "[]",
            "nonsense",
            r#"{"request":"trace-begin"}"#,
            r#"{"request":"trace-list","file":"a"}"#,
            r#"{"request":"trace-stop","file":"a"}"#,
            r#"{"request":"trace-stop"} {}"#,
            r#"{"request":"trace-start","file":"a","more":1}"#,
            r#"{"request":"trace-start","file":"a","file":"b"}"#,
            r#"{"request":"trace-start","file":"a","files":-1}"#,
            r#"{"request":"trace-start","file":"a","address":"10.64.0"}"#,
        ] {
            let failure = Request::parse(line.as_bytes()).unwrap_err();
            assert_eq!(failure.kind, "malformed", "{line}");
        }
        for fields in [
            r#""tunnel":"0c0ffee""#,
            r#""tunnel":"+0c0ffee00c0ffee""#,
            r#""tunnel":"ffffffffffffffff""#,
            r#""redaction":"much""#,
            r#""identity":"a\nb""#,
            r#""address":"10.64.0.1","interface":"access""#,
        ] {
            let line = format!(r#"{{"request":"trace-start","file":"a",{fields}}}"#);
            assert_eq!(start(&line), Err("malformed".to_owned()), "{fields}");
        }
    }

    #[test]
    fn without_a_directory_there_is_no_capture() {
        let failure = StartRequest::default().options(None).unwrap_err();
        assert_eq!(failure.kind, "no-directory");
    }

    proptest! {
        #[test]
        fn any_line_is_a_request_or_an_error(line in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Request::parse(&line);
        }

        #[test]
        fn any_request_survives_its_line(
            file in ".{0,30}",
            filter in prop::option::of((0..4, "[0-9a-f]{16}")),
            redaction in prop::option::of("none|headers|sip"),
            numbers in prop::option::of((any::<u16>(), any::<u32>(), any::<u64>(), any::<u64>())),
            outer: bool,
            insecure_decryption_secrets: bool,
        ) {
            let mut start = StartRequest {
                file: file.clone(),
                redaction,
                outer,
                insecure_decryption_secrets,
                ..StartRequest::default()
            };
            if let Some((which, text)) = filter {
                match which {
                    0 => start.interface = Some(text),
                    1 => start.tunnel = Some(text),
                    2 => start.address = Some(IpAddr::from([10, 64, 0, 1])),
                    _ => start.identity = Some(text),
                }
            }
            if let Some((files, size, time, total)) = numbers {
                start.files = Some(files);
                start.file_size = Some(size);
                start.file_time = Some(time);
                start.time = Some(total);
            }
            let request = Request::TraceStart(start.clone());
            let line = serde_json::to_vec(&request).unwrap();
            prop_assert_eq!(Request::parse(&line), Ok(request));
            // Whatever the name, the file is in the directory itself.
            if let Ok(options) = start.options(Some(Path::new("/traces"))) {
                prop_assert_eq!(options.file.parent(), Some(Path::new("/traces")));
                prop_assert_eq!(options.file.file_name(), Some(file.as_ref()));
            }
        }
    }
}
