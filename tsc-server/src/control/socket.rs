//! The server's end.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
        net as blocking,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    net::{UnixListener, UnixStream},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    MAX_CONNECTIONS, MAX_REQUEST,
    request::{Answer, Failure, Request, TraceRecord},
};
use crate::trace::{Requester, Tracer};

/// Until a request must be complete, and until an answer must be taken.
const PATIENCE: Duration = Duration::from_secs(5);

/// A pause after connections could not be accepted.
const REST: Duration = Duration::from_secs(1);

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// A server that runs has it.
    #[error("control socket {path}: in use by a running server", path = .path.display())]
    InUse {
        /// Where.
        path: PathBuf,
    },
    /// Something is there that no server has left behind.
    #[error("control socket {path}: there is something else, which is left alone", path = .path.display())]
    NotASocket {
        /// Where.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("control socket {path}: {error}", path = .path.display())]
    System {
        /// Where.
        path: PathBuf,
        /// What it says.
        error: io::Error,
    },
}

/// An open control socket. Dropping it takes it away.
#[derive(Debug)]
pub struct ControlSocket {
    listener: blocking::UnixListener,
    path: PathBuf,
    /// Device and number of the socket's file, by which it is known to be ours.
    file: (u64, u64),
    /// The server's user.
    uid: u32,
    /// Where captures are written.
    directory: Option<PathBuf>,
    /// Ours for as long as this process lives, however it ends: then the socket is nobody's.
    _lock: File,
}

impl ControlSocket {
    /// Opens it for the server's user, in place of one that a server has left behind. Captures are written into `directory`.
    ///
    /// # Errors
    ///
    /// [`ControlError`]; what is there is left alone.
    pub fn bind(path: &Path, directory: Option<&Path>) -> Result<Self, ControlError> {
        let system = |error| ControlError::System {
            path: path.to_owned(),
            error,
        };
        let in_use = || ControlError::InUse {
            path: path.to_owned(),
        };
        let lock = lock(path).map_err(system)?.ok_or_else(in_use)?;
        match fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => {
                // Of another program, which has no lock of ours.
                if blocking::UnixStream::connect(path).is_ok() {
                    return Err(in_use());
                }
                fs::remove_file(path).map_err(system)?;
            }
            Ok(_) => {
                return Err(ControlError::NotASocket {
                    path: path.to_owned(),
                });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(system(error)),
        }
        let listener = blocking::UnixListener::bind(path).map_err(system)?;
        // Until this is done whoever gets in is still asked who it is.
        fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(system)?;
        listener.set_nonblocking(true).map_err(system)?;
        let file = fs::symlink_metadata(path).map_err(system)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            file: (file.dev(), file.ino()),
            uid: file.uid(),
            directory: directory.map(Path::to_owned),
            _lock: lock,
        })
    }

    /// Serves until it is dropped.
    pub async fn serve(self, tracer: Tracer) {
        let listener = self.listener.try_clone().and_then(UnixListener::from_std);
        let listener = match listener {
            Ok(listener) => listener,
            Err(error) => {
                tracing::warn!(event = "control-failed", %error);
                return;
            }
        };
        tracing::info!(event = "control-open", path = %self.path.display());
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                    Ok((stream, _)) => {
                        let (tracer, directory) = (tracer.clone(), self.directory.clone());
                        connections.spawn(connection(stream, self.uid, tracer, directory));
                    }
                    Err(error) => {
                        tracing::warn!(event = "control-failed", %error);
                        sleep(REST).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let is_ours = |found: fs::Metadata| (found.dev(), found.ino()) == self.file;
        if fs::symlink_metadata(&self.path).is_ok_and(is_ours) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The right to the socket, beside it; `None` if another process has it. The file stays: taking it away would give the next one
/// another file to lock.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(name)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

/// One request and its answer.
async fn connection(stream: UnixStream, own: u32, tracer: Tracer, directory: Option<PathBuf>) {
    let Ok(peer) = stream.peer_cred() else { return };
    let by = peer.uid();
    // Heard to its end in any case: who is cut off while asking does not hear the answer.
    let heard = timeout(PATIENCE, line(&stream)).await;
    let answer = match heard {
        Ok(Err(Unheard::Gone)) => return,
        _ if by != own && by != 0 => {
            tracing::debug!(event = "control-refused", uid = by);
            let text = "only the server's user and root may ask";
            Answer::Error(Failure::new("not-allowed", text))
        }
        Ok(Ok(line)) => match Request::parse(&line) {
            Ok(request) => answer(request, by, &tracer, directory.as_deref()).await,
            Err(failure) => Answer::Error(failure),
        },
        Ok(Err(Unheard::TooLong)) => {
            let text = format!("a request has at most {MAX_REQUEST} bytes");
            Answer::Error(Failure::new("malformed", text))
        }
        Err(_) => {
            let text = "a request ends with a line feed, and comes at once";
            Answer::Error(Failure::new("timeout", text))
        }
    };
    let Ok(mut bytes) = serde_json::to_vec(&answer) else {
        return;
    };
    bytes.push(b'\n');
    // Who does not take it has done without.
    let _ = timeout(PATIENCE, write(&stream, &bytes)).await;
}

async fn answer(request: Request, by: u32, tracer: &Tracer, directory: Option<&Path>) -> Answer {
    let by = Requester::User(by);
    let done = match request {
        Request::TraceStart(start) => match start.options(directory) {
            Ok(options) => tracer
                .start_for(options, by)
                .await
                .map(|status| vec![status]),
            Err(failure) => return Answer::Error(failure),
        },
        Request::TraceStop(stop) => tracer.stop_for(stop.name.as_deref(), by).await,
        Request::TraceList(_) => tracer.list().await,
    };
    match done {
        Ok(traces) => Answer::Traces(traces.iter().map(TraceRecord::from).collect()),
        Err(error) => Answer::Error(error.into()),
    }
}

/// Why there is no request.
enum Unheard {
    TooLong,
    Gone,
}

/// The line that comes, without its end. Whoever closes need not end it.
async fn line(stream: &UnixStream) -> Result<Vec<u8>, Unheard> {
    let mut line = Vec::new();
    let mut buffer = [0; 512];
    loop {
        let read = match stream.readable().await {
            Ok(()) => stream.try_read(&mut buffer),
            Err(_) => return Err(Unheard::Gone),
        };
        match read {
            Ok(0) if line.is_empty() => return Err(Unheard::Gone),
            Ok(0) => return Ok(line),
            Ok(len) => {
                line.extend_from_slice(buffer.get(..len).unwrap_or_default());
                let end = line.iter().position(|byte| *byte == b'\n');
                if end.map_or(line.len(), |end| end + 1) > MAX_REQUEST {
                    return Err(Unheard::TooLong);
                }
                if let Some(end) = end {
                    line.truncate(end);
                    return Ok(line);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Err(Unheard::Gone),
        }
    }
}

async fn write(stream: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(len) => bytes = bytes.get(len..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
