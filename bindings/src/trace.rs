//! Captures of a tunnel.

use std::time::Duration;

use tsc_tapi::{CaptureStats, TraceOptions};

/// How packets are written to a pcapng file. It holds what calls say and who makes them, as far as `redaction` leaves it.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct TraceSettings {
    /// Where.
    pub path: String,
    /// What is left out. Default: nothing.
    #[uniffi(default)]
    pub redaction: Option<Redaction>,
    /// Bound of a file, in bytes. Default: 1 GiB.
    #[uniffi(default)]
    pub file_size: Option<u64>,
    /// How many files are kept, up to 1000. Default: one, and what does not fit is dropped.
    #[uniffi(default)]
    pub files: Option<u16>,
    /// Begins the next file after so long, if several are kept.
    #[uniffi(default)]
    pub file_time: Option<Duration>,
    /// Writes outer packets too: what goes over the wire.
    #[uniffi(default = false)]
    pub outer: bool,
    /// **Writes the secrets of the tunnel's TLS and DTLS connections, of those that begin while the file is written.** Whoever has the file can
    /// read all that they carry, wherever it was recorded. Refused together with a redaction.
    #[uniffi(default = false)]
    pub insecure_decryption_secrets: bool,
}

/// What is left out of captures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum Redaction {
    /// Nothing.
    Nothing,
    /// Everything behind the headers of inner packets.
    Headers,
    /// As `Headers`, but SIP stays with identities masked, and RTP with its header.
    Sip,
}

/// What became of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Record)]
pub struct TraceStats {
    /// Packets in its files.
    pub written: u64,
    /// Packets that are missing: the disk was too slow, or the file full.
    pub dropped: u64,
}

impl From<CaptureStats> for TraceStats {
    fn from(stats: CaptureStats) -> Self {
        Self {
            written: stats.written,
            dropped: stats.dropped,
        }
    }
}

impl TraceSettings {
    pub(crate) fn options(&self) -> TraceOptions {
        let mut options = TraceOptions::default();
        options.redaction = match self.redaction {
            None | Some(Redaction::Nothing) => tsc_tapi::Redaction::None,
            Some(Redaction::Headers) => tsc_tapi::Redaction::Headers,
            Some(Redaction::Sip) => tsc_tapi::Redaction::Sip,
        };
        options.file_size = self.file_size.unwrap_or(options.file_size);
        options.files = self.files.unwrap_or(options.files);
        options.file_time = self.file_time;
        options.outer = self.outer;
        options.insecure_write_decryption_secrets(self.insecure_decryption_secrets);
        options
    }
}
