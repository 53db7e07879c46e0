//! The end of whoever asks.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use super::request::{Answer, Request};

/// Longest answer: the captures there can be, with long names.
const MAX_ANSWER: u64 = 256 * 1024;

/// How long an answer may take. Stopping a capture writes what waits, at most 8 MiB for each.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// Nobody is there, or not for us.
    #[error("cannot reach a server at {path}: {error}", path = .path.display())]
    Connect {
        /// Where.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The connection failed.
    #[error("no answer from {path}: {error}", path = .path.display())]
    Lost {
        /// Where.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// What came is none.
    #[error("no answer of a server from {path}: {error}", path = .path.display())]
    Answer {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        error: serde_json::Error,
    },
}

/// Asks the server with this control socket, and waits for its answer.
///
/// # Errors
///
/// [`AskError`]. What a server refuses is an answer.
pub fn ask(path: &Path, request: &Request) -> Result<Answer, AskError> {
    let owned = || path.to_owned();
    let mut stream = UnixStream::connect(path).map_err(|error| AskError::Connect {
        path: owned(),
        error,
    })?;
    let bytes = exchange(&mut stream, request).map_err(|error| AskError::Lost {
        path: owned(),
        error,
    })?;
    serde_json::from_slice(&bytes).map_err(|error| AskError::Answer {
        path: owned(),
        error,
    })
}

fn exchange(stream: &mut UnixStream, request: &Request) -> io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    // A server that has heard enough may have answered all the same.
    let asked = stream.write_all(&line);
    let mut answer = Vec::new();
    let heard = stream.take(MAX_ANSWER).read_to_end(&mut answer);
    if answer.ends_with(b"\n") {
        return Ok(answer);
    }
    asked?;
    heard?;
    Err(io::ErrorKind::UnexpectedEof.into())
}
