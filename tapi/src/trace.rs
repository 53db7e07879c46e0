//! What an application says of a tunnel's capture file.

use std::time::Duration;

use tsc_osaa::trace::{CaptureOptions, DEFAULT_FILE_LIMIT, Interface, Ring};
use tsc_redact::Redaction;

/// How the capture file of a tunnel is written: [`TunnelBuilder::trace_options`](crate::TunnelBuilder::trace_options).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TraceOptions {
    /// What is taken away of what is written. Default: nothing.
    pub redaction: Redaction,
    /// Bound of a file, in bytes. Default: 1 GiB.
    pub file_size: u64,
    /// How many files are kept, up to 1000: the newest has the name, those before it that name with `.1`, `.2` and so on. Default: 1,
    /// and what does not fit is dropped.
    pub files: u16,
    /// Begins the next file at the latest so long after the first packet of the one before, if several are kept. Default: `None`.
    pub file_time: Option<Duration>,
}

impl Default for TraceOptions {
    fn default() -> Self {
        Self {
            redaction: Redaction::None,
            file_size: DEFAULT_FILE_LIMIT,
            files: 1,
            file_time: None,
        }
    }
}

impl TraceOptions {
    pub(crate) fn capture(&self) -> CaptureOptions {
        let mut options = CaptureOptions::default();
        options.limit = self.file_size;
        options.ring = (self.files > 1).then_some(Ring {
            files: self.files,
            period: self.file_time,
        });
        options.redact = match self.redaction {
            Redaction::None => None,
            Redaction::Headers => Some(|side, bytes| redact(Redaction::Headers, side, bytes)),
            Redaction::Sip => Some(|side, bytes| redact(Redaction::Sip, side, bytes)),
        };
        options
    }
}

fn redact(redaction: Redaction, side: Interface, bytes: &mut Vec<u8>) {
    match side {
        Interface::Inner => redaction.packet(bytes),
        Interface::Control => redaction.control(bytes),
    }
}
