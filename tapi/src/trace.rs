//! What an application says of a tunnel's capture file, and when there is one.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::task::spawn_blocking;
use tsc_osaa::trace::{
    CaptureError, CaptureOptions, CaptureStats, CaptureWriter, DEFAULT_FILE_LIMIT, Interface, Ring,
    Tap,
};
use tsc_redact::Redaction;

use crate::{error::TraceError, shared::Shared};

/// How the capture file of a tunnel is written: [`TunnelBuilder::trace_options`](crate::TunnelBuilder::trace_options),
/// [`Tunnel::start_trace`](crate::Tunnel::start_trace).
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
    /// Writes outer packets too: what the tunnel's transports send and receive, as it is on the wire. Of a way through a proxy only
    /// what follows the proxy's consent; of packets with any redaction only headers. Default: false.
    pub outer: bool,
    /// See [`Self::insecure_write_decryption_secrets`].
    insecure_decryption_secrets: bool,
}

impl Default for TraceOptions {
    fn default() -> Self {
        Self {
            redaction: Redaction::None,
            file_size: DEFAULT_FILE_LIMIT,
            files: 1,
            file_time: None,
            outer: false,
            insecure_decryption_secrets: false,
        }
    }
}

impl TraceOptions {
    /// **Whether the file gets the secrets of the tunnel's TLS and DTLS connections.** Whoever has them can read all that was ever recorded
    /// of these connections, anywhere on the way. Only connections that begin while the file is written; with DTLS only those of the library
    /// OpenSSL. Refused together with a redaction. Default: false.
    pub const fn insecure_write_decryption_secrets(&mut self, write: bool) -> &mut Self {
        self.insecure_decryption_secrets = write;
        self
    }

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
        options.outer = self.outer;
        options.insecure_decryption_secrets = self.insecure_decryption_secrets;
        options
    }
}

fn redact(redaction: Redaction, side: Interface, bytes: &mut Vec<u8>) {
    match side {
        Interface::Inner => redaction.packet(bytes),
        Interface::Control => redaction.control(bytes),
        Interface::Outer => redaction.outer(bytes),
    }
}

/// The capture of a tunnel, if there is one now.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    /// What the driver and its transports write to.
    pub(crate) tap: Tap,
    writer: Mutex<Option<CaptureWriter>>,
}

impl Trace {
    /// Writes to a new file from now on.
    pub(crate) fn open(&self, path: &Path, options: TraceOptions) -> Result<(), CaptureError> {
        if options.insecure_decryption_secrets {
            tracing::warn!(
                event = "trace-insecure-decryption-secrets",
                path = %path.display(),
                "INSECURE: the capture file gets the secrets that decrypt this tunnel"
            );
        }
        let writer = CaptureWriter::create(path, options.capture())?;
        let mut place = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.tap.set(&[writer.handle()]);
        let before = place.replace(writer);
        drop(place);
        // Somebody else's, of the same moment.
        drop(before);
        Ok(())
    }

    /// Writes nothing more. The file is complete once the writer is closed.
    pub(crate) fn take(&self) -> Option<CaptureWriter> {
        let mut place = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.tap.set(&[]);
        place.take()
    }
}

pub(crate) async fn start(
    shared: Arc<Shared>,
    path: PathBuf,
    options: TraceOptions,
) -> Result<(), TraceError> {
    let started = spawn_blocking(move || {
        let check = || match shared.over() {
            Some(reason) => Err(TraceError::TunnelDown(reason)),
            None => Ok(()),
        };
        // Before a file of that name is emptied.
        check()?;
        // What is wrong with the file before is no reason against a new one; the log says it.
        drop(finish(&shared));
        shared.trace.open(&path, options)?;
        // The driver closes what is there after the tunnel is over; of what comes later nobody else does.
        check().inspect_err(|_| drop(shared.trace.take()))
    });
    started.await.map_err(|_| TraceError::RuntimeGone)?
}

pub(crate) async fn stop(shared: Arc<Shared>) -> Result<Option<CaptureStats>, TraceError> {
    let stopped = spawn_blocking(move || finish(&shared).map(CaptureWriter::close).transpose());
    Ok(stopped.await.map_err(|_| TraceError::RuntimeGone)??)
}

/// What was written to, with all that is on the wire by now.
fn finish(shared: &Shared) -> Option<CaptureWriter> {
    if shared.trace.tap.is_on() {
        shared.turn();
    }
    shared.trace.take()
}
