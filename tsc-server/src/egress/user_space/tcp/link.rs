//! One connection: the tunnel's half in a stack, the host's half in a socket, and what is between.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use socket2::SockRef;
use tsc_eip::{Stack, TcpHandle};

/// What is copied at once.
pub(super) const PIECE: usize = 64 * 1024;

/// What is read from the host though the stack has no room: it is then told when there is.
const AHEAD: usize = 16 * 1024;

/// Bytes copied each way before other connections get their turn.
const IN_A_ROW: u64 = 256 * 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Link {
    handle: TcpHandle,
    /// The socket has something to read, or it is not known that it has not.
    readable: bool,
    /// The same for room to write.
    writable: bool,
    /// Read from the host and not taken by the stack: at most [`PIECE`], mostly empty.
    ahead: Vec<u8>,
    host: End,
    /// The tunnel has ended its stream, and the host was told.
    tunnel_ended: bool,
}

/// How far the host's stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    /// No more comes from the host.
    Read,
    /// The tunnel was told.
    Told,
}

/// What was done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copied {
    /// Bytes from the tunnel taken by the host.
    pub(super) sent: u64,
    /// Bytes from the host taken by the stack.
    pub(super) received: u64,
    pub(super) progress: Progress,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing until one of the sides says so.
    Waiting,
    /// The same again, after the others.
    More,
    /// Both streams have ended and everything was handed over.
    Ended,
    /// One of the sides has failed.
    Failed,
}

/// One side has failed.
struct Broken;

impl Link {
    pub(super) const fn new(handle: TcpHandle) -> Self {
        Self {
            handle,
            readable: true,
            writable: true,
            ahead: Vec::new(),
            host: End::Open,
            tunnel_ended: false,
        }
    }

    pub(super) const fn handle(&self) -> TcpHandle {
        self.handle
    }

    /// The socket has become readable or writable, or has failed.
    pub(super) const fn ready(&mut self) {
        self.readable = true;
        self.writable = true;
    }

    /// Copies both ways, through `buffer` of [`PIECE`] bytes.
    pub(super) fn copy(
        &mut self,
        now: Instant,
        stack: &mut Stack,
        stream: &mut TcpStream,
        buffer: &mut [u8],
    ) -> Copied {
        let (mut sent, mut received) = (0, 0);
        let result = self
            .copy_out(now, stack, stream, buffer, &mut sent)
            .and_then(|more| {
                let also = self.copy_in(now, stack, stream, buffer, &mut received)?;
                Ok(more || also)
            });
        let progress = match result {
            Err(Broken) => Progress::Failed,
            Ok(_) if self.tunnel_ended && self.host == End::Told => Progress::Ended,
            Ok(true) => Progress::More,
            Ok(false) => Progress::Waiting,
        };
        Copied {
            sent,
            received,
            progress,
        }
    }

    /// From the tunnel to the host. True if there is more to copy at once.
    fn copy_out(
        &mut self,
        now: Instant,
        stack: &mut Stack,
        stream: &mut TcpStream,
        buffer: &mut [u8],
        sent: &mut u64,
    ) -> Result<bool, Broken> {
        while self.writable && !self.tunnel_ended {
            if *sent >= IN_A_ROW {
                return Ok(true);
            }
            // Left in the stack until the host has taken it: that closes the window.
            let waiting = match stack.tcp_peek(self.handle, buffer).map_err(broken)? {
                // Asked for again, so that the next data are told of.
                None => match stack.tcp_recv(now, self.handle, &mut []).map_err(broken)? {
                    None | Some(_) => return Ok(false),
                },
                Some(0) => {
                    self.tunnel_ended = true;
                    // Fails only where the host has failed, which reading finds.
                    let _failed = stream.shutdown(Shutdown::Write);
                    return Ok(false);
                }
                Some(len) => buffer.get(..len).unwrap_or_default(),
            };
            match stream.write(waiting) {
                Ok(0) => self.writable = false,
                Ok(len) => {
                    let taken = buffer.get_mut(..len).unwrap_or_default();
                    stack.tcp_recv(now, self.handle, taken).map_err(broken)?;
                    *sent += u64::try_from(len).unwrap_or_default();
                }
                Err(error) => {
                    if !later(&error)? {
                        self.writable = false;
                    }
                }
            }
        }
        Ok(false)
    }

    /// From the host to the tunnel. True if there is more to copy at once.
    fn copy_in(
        &mut self,
        now: Instant,
        stack: &mut Stack,
        stream: &mut TcpStream,
        buffer: &mut [u8],
        received: &mut u64,
    ) -> Result<bool, Broken> {
        loop {
            if !self.ahead.is_empty() {
                let taken = stack
                    .tcp_send(now, self.handle, &self.ahead)
                    .map_err(broken)?;
                *received += u64::try_from(taken).unwrap_or_default();
                self.ahead.drain(..taken.min(self.ahead.len()));
                if !self.ahead.is_empty() {
                    // The stack says when there is room.
                    return Ok(false);
                }
                // An idle connection holds no memory.
                self.ahead = Vec::new();
            }
            match self.host {
                End::Told => return Ok(false),
                End::Read => {
                    stack.tcp_shutdown(now, self.handle).map_err(broken)?;
                    self.host = End::Told;
                    return Ok(false);
                }
                End::Open if !self.readable => return Ok(false),
                End::Open if *received >= IN_A_ROW => return Ok(true),
                End::Open => {}
            }
            let room = stack.tcp_send_capacity(self.handle).ok_or(Broken)?;
            let room = room.max(AHEAD).min(buffer.len());
            let buffer = buffer.get_mut(..room).unwrap_or_default();
            match stream.read(buffer) {
                Ok(0) => self.host = End::Read,
                Ok(len) => {
                    let data = buffer.get(..len).unwrap_or_default();
                    let taken = stack.tcp_send(now, self.handle, data).map_err(broken)?;
                    *received += u64::try_from(taken).unwrap_or_default();
                    self.ahead
                        .extend_from_slice(data.get(taken..).unwrap_or_default());
                }
                Err(error) => {
                    if !later(&error)? {
                        self.readable = false;
                    }
                }
            }
        }
    }
}

fn broken<E>(_: E) -> Broken {
    Broken
}

/// Whether the call is to be repeated at once; no if the socket says when.
fn later(error: &io::Error) -> Result<bool, Broken> {
    #[allow(clippy::wildcard_enum_match_arm, reason = "a foreign enum that grows")]
    match error.kind() {
        io::ErrorKind::Interrupted => Ok(true),
        io::ErrorKind::WouldBlock => Ok(false),
        _ => Err(Broken),
    }
}

/// Makes the coming close of the socket a reset. If that fails it is an orderly end, of which nothing better can be made.
pub(super) fn close_by_reset(stream: &TcpStream) {
    let _orderly = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
