//! `tsc_trace_start` and `tsc_trace_stop` of `tsc_control_api.h`: the capture of a tunnel while it is up.
#![expect(
    unsafe_code,
    reason = "memory of the caller, and names that the linker knows"
)]

use std::{
    ffi::{CStr, OsStr, c_char, c_int},
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tsc_tapi::{CaptureStats, ErrorCode, Redaction, TraceError, TraceOptions, Tunnel as Inner};

use crate::{
    boundary,
    control::{misused, note},
    ctypes::Handle,
    errno::{Errno, Result},
    library::{self, without_signals},
    tunnel::{Failure, Tunnel},
};

/// `tsc_trace_options`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    redaction: c_int,
    file_size: u32,
    files: u32,
    file_time: u32,
    outer: c_int,
    insecure_decryption_secrets: c_int,
}

/// `tsc_trace_stats`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stats {
    written: u64,
    dropped: u64,
}

impl From<CaptureStats> for Stats {
    fn from(stats: CaptureStats) -> Self {
        Self {
            written: stats.written,
            dropped: stats.dropped,
        }
    }
}

fn options(from: &Options) -> Option<TraceOptions> {
    let mut options = TraceOptions::default();
    options.redaction = match from.redaction {
        0 => Redaction::None,
        1 => Redaction::Headers,
        2 => Redaction::Sip,
        _ => return None,
    };
    if from.file_size > 0 {
        options.file_size = u64::from(from.file_size) * 1_000_000;
    }
    if from.files > 0 {
        options.files = u16::try_from(from.files).unwrap_or(u16::MAX);
    }
    options.file_time = (from.file_time > 0).then(|| Duration::from_secs(from.file_time.into()));
    options.outer = from.outer != 0;
    options.insecure_write_decryption_secrets(from.insecure_decryption_secrets != 0);
    Some(options)
}

fn tunnel(handle: Handle) -> Result<Arc<Tunnel>> {
    let gone = |errno| misused(errno, "no such tunnel");
    let library = library::enter_existing().map_err(gone)?;
    library.tunnel(handle).map_err(gone)
}

/// Waits for what `begin` begins with the tunnel.
fn wait<T, F>(tunnel: &Tunnel, begin: impl FnOnce(&Inner) -> F) -> std::result::Result<T, Failure>
where
    F: Future<Output = std::result::Result<T, TraceError>>,
{
    // Not under the tunnel's lock: others have business with it.
    let Ok(begun) = tunnel.with(begin) else {
        return Err(tunnel.missing());
    };
    // What it makes threads for it makes here.
    let done = without_signals(|| tunnel.runtime().block_on(begun));
    done.map_err(|error| Failure::new(ErrorCode::Error, error))
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn tsc_trace_start(
    handle: Handle,
    path: *const c_char,
    from: *const Options,
) -> c_int {
    boundary::code(|| {
        if path.is_null() {
            return Err(misused(Errno::INVALID, "path is NULL"));
        }
        // SAFETY: the caller vouches for it, and for its end.
        let path = OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes());
        // SAFETY: the caller vouches for it, if it is not NULL. It holds integers only, so that nothing in it is invalid.
        let from = unsafe { from.as_ref() }.copied().unwrap_or_default();
        let options =
            options(&from).ok_or_else(|| misused(Errno::INVALID, "no tsc_trace_redaction"))?;
        let tunnel = tunnel(handle)?;
        let path = PathBuf::from(path);
        Ok(note(&wait(&tunnel, |tunnel| {
            tunnel.start_trace(path, options)
        })))
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn tsc_trace_stop(handle: Handle, stats: *mut Stats) -> c_int {
    boundary::code(|| {
        let tunnel = tunnel(handle)?;
        let stopped = wait(&tunnel, Inner::stop_trace);
        if let Ok(of) = &stopped
            && !stats.is_null()
        {
            // SAFETY: the caller vouches for the room.
            unsafe { stats.write(of.map(Stats::from).unwrap_or_default()) };
        }
        Ok(note(&stopped.map(drop)))
    })
}
