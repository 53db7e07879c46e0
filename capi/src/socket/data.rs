//! Sending and receiving.

use std::{ffi::c_int, net::SocketAddr, sync::Arc};

use tsc_tapi::TcpStream;

use super::{Direction, Inner, Socket, now};
use crate::errno::{Errno, Result};

impl Socket {
    /// Sends; without an address to the peer.
    pub(crate) fn send(&self, data: &[u8], flags: c_int, to: Option<SocketAddr>) -> Result<usize> {
        if flags & !(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) != 0 {
            return Err(Errno::UNSUPPORTED);
        }
        if !self.is_stream {
            to.map_or(Ok(()), |to| self.check_family(to))?;
            let socket = self.datagrams()?;
            let sent = match to {
                Some(to) => socket.try_send_to(data, to),
                None => socket.try_send(data),
            };
            return sent.map_err(|error| match Errno::from(error) {
                Errno::NOT_CONNECTED => Errno(libc::EDESTADDRREQ),
                other => other,
            });
        }
        let blocks = self.blocks() && flags & libc::MSG_DONTWAIT == 0;
        let limit = self.settings().send_limit;
        let mut sent = 0;
        let all = self.until(Direction::Write, blocks, limit, |socket| {
            let Some(stream) = socket.stream(Direction::Write)? else {
                return Err(Errno(libc::EPIPE));
            };
            loop {
                let rest = data.get(sent..).unwrap_or_default();
                sent += stream.try_write(rest)?;
                if sent >= data.len() {
                    return Ok(());
                }
            }
        });
        match all {
            // What was taken is told first.
            Err(_) if sent > 0 => Ok(sent),
            Err(failed) => Err(failed),
            Ok(()) => Ok(sent),
        }
    }

    /// Receives; the sender is that of a datagram.
    pub(crate) fn receive(
        &self,
        buffer: &mut [u8],
        flags: c_int,
    ) -> Result<(usize, Option<SocketAddr>)> {
        let known = libc::MSG_DONTWAIT | libc::MSG_PEEK | libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
        if flags & !known != 0 {
            return Err(Errno::UNSUPPORTED);
        }
        let peeks = flags & libc::MSG_PEEK != 0;
        let blocks = self.blocks() && flags & libc::MSG_DONTWAIT == 0;
        let limit = self.settings().receive_limit;
        if !self.is_stream {
            return self.until(Direction::Read, blocks, limit, |socket| {
                let datagrams = socket.datagrams()?;
                let (length, from) = if peeks {
                    datagrams.try_peek_from(buffer)?
                } else {
                    datagrams.try_recv_from(buffer)?
                };
                Ok((length, Some(from)))
            });
        }
        let wants_all = blocks && !peeks && flags & libc::MSG_WAITALL != 0;
        let mut received = 0;
        let done = self.until(Direction::Read, blocks, limit, |socket| {
            let Some(stream) = socket.stream(Direction::Read)? else {
                return Ok(());
            };
            loop {
                let room = buffer.get_mut(received..).unwrap_or_default();
                let read = if peeks {
                    now(stream.peek(room)).ok_or(Errno::AGAIN)??
                } else {
                    stream.try_read(room)?
                };
                received += read;
                if read == 0 || !wants_all || received >= buffer.len() {
                    return Ok(());
                }
            }
        });
        match done {
            // What was read is told first.
            Err(_) if received > 0 => Ok((received, None)),
            Err(failed) => Err(failed),
            Ok(()) => Ok((received, None)),
        }
    }

    /// The connection, unless this direction is shut down.
    fn stream(&self, direction: Direction) -> Result<Option<Arc<TcpStream>>> {
        match &*self.inner() {
            Inner::Stream {
                stream,
                no_read,
                no_write,
            } => {
                let is_shut = match direction {
                    Direction::Read => *no_read,
                    Direction::Write => *no_write,
                };
                Ok((!is_shut).then(|| Arc::clone(stream)))
            }
            Inner::Connecting { .. } => Err(Errno::AGAIN),
            Inner::Closed => Err(Errno::BAD),
            Inner::Fresh { .. } | Inner::Listener(_) | Inner::Datagram(_) => {
                Err(Errno::NOT_CONNECTED)
            }
        }
    }
}
