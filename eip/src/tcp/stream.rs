//! What the holder of a connection does with it.

use std::net::SocketAddr;
use std::time::Instant;

use smoltcp::socket::tcp::State;

use super::Tcp;
use super::connection::{Connection, Owner};
use super::types::{TcpHandle, TcpOptions, TcpState};
use crate::egress::Egress;
use crate::error::TcpError;
use crate::slots::Key;

impl Tcp {
    fn held(&self, handle: TcpHandle) -> Option<&Connection> {
        self.connections
            .get(handle.0)
            .filter(|connection| connection.owner == Owner::Handle)
    }

    fn held_mut(&mut self, handle: TcpHandle) -> Option<&mut Connection> {
        self.connections
            .get_mut(handle.0)
            .filter(|connection| connection.owner == Owner::Handle)
    }

    pub(crate) fn local_addr(&self, handle: TcpHandle) -> Option<SocketAddr> {
        self.held(handle).map(|connection| connection.tuple.local)
    }

    pub(crate) fn peer_addr(&self, handle: TcpHandle) -> Option<SocketAddr> {
        self.held(handle).map(|connection| connection.tuple.remote)
    }

    pub(crate) fn state(&self, handle: TcpHandle) -> Option<TcpState> {
        let connection = self.held(handle)?;
        Some(if connection.attached {
            connection.state().into()
        } else {
            TcpState::Closed
        })
    }

    /// Bytes that wait to be acknowledged, and bytes that wait to be read.
    pub(crate) fn queued(&self, handle: TcpHandle) -> Option<(usize, usize)> {
        let socket = self.held(handle)?.group.socket();
        Some((socket.send_queue(), socket.recv_queue()))
    }

    pub(crate) fn send_capacity(&self, handle: TcpHandle) -> Option<usize> {
        let connection = self.held(handle)?;
        let socket = connection.group.socket();
        let open = connection.attached && !connection.write_closed && socket.may_send();
        Some(if open {
            connection.capacity.saturating_sub(socket.send_queue())
        } else {
            0
        })
    }

    pub(crate) fn set_options(
        &mut self,
        now: Instant,
        handle: TcpHandle,
        options: TcpOptions,
    ) -> bool {
        let Some(connection) = self.held_mut(handle) else {
            return false;
        };
        connection.options = options;
        connection.heard = connection.heard.max(now);
        connection.group.set_options(&options);
        if connection.attached {
            self.schedule(now, handle.0);
        }
        true
    }

    pub(crate) fn options(&self, handle: TcpHandle) -> Option<TcpOptions> {
        self.held(handle).map(|connection| connection.options)
    }

    pub(crate) fn write(
        &mut self,
        now: Instant,
        handle: TcpHandle,
        data: &[u8],
    ) -> Result<usize, TcpError> {
        let connection = self.held_mut(handle).ok_or(TcpError::Closed)?;
        if let Some(error) = connection.failure {
            return Err(error);
        }
        if connection.write_closed || (connection.announced && !connection.attached) {
            return Err(TcpError::ShutDown);
        }
        let written = if connection.announced {
            connection
                .group
                .socket_mut()
                .send_slice(data)
                .map_err(|_| TcpError::ShutDown)?
        } else {
            0
        };
        connection.wants_write |= written < data.len();
        connection.update_waiting(now, false);
        if written > 0 {
            self.schedule(now, handle.0);
        }
        Ok(written)
    }

    pub(crate) fn read(
        &mut self,
        now: Instant,
        handle: TcpHandle,
        buffer: &mut [u8],
    ) -> Result<Option<usize>, TcpError> {
        let connection = self.held_mut(handle).ok_or(TcpError::Closed)?;
        let socket = connection.group.socket_mut();
        if socket.recv_queue() > 0 {
            let read = socket.recv_slice(buffer).unwrap_or(0);
            connection.count_read(read);
            if connection.attached && connection.window_is_worth_telling() {
                self.schedule(now, handle.0);
            }
            return Ok(Some(read));
        }
        connection.told_readable = false;
        match connection.failure {
            _ if connection.is_finished() => Ok(Some(0)),
            Some(error) => Err(error),
            None => Ok(None),
        }
    }

    pub(crate) fn peek(
        &mut self,
        handle: TcpHandle,
        buffer: &mut [u8],
    ) -> Result<Option<usize>, TcpError> {
        let connection = self.held_mut(handle).ok_or(TcpError::Closed)?;
        let socket = connection.group.socket_mut();
        if socket.recv_queue() > 0 {
            return Ok(Some(socket.peek_slice(buffer).unwrap_or(0)));
        }
        match connection.failure {
            _ if connection.is_finished() => Ok(Some(0)),
            Some(error) => Err(error),
            None => Ok(None),
        }
    }

    pub(crate) fn shutdown(
        &mut self,
        now: Instant,
        handle: TcpHandle,
        egress: &mut Egress,
    ) -> Result<(), TcpError> {
        let connection = self.held(handle).ok_or(TcpError::Closed)?;
        if let Some(error) = connection.failure {
            return Err(error);
        }
        self.finish(now, handle.0, egress);
        Ok(())
    }

    /// Sends a FIN after what is queued.
    fn finish(&mut self, now: Instant, key: Key, egress: &mut Egress) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if std::mem::replace(&mut connection.write_closed, true) || !connection.attached {
            return;
        }
        connection.fin_deferred = true;
        self.settle(now, key, false, egress);
    }

    /// The handle is given up; what was written is still delivered. Returns whether it was held.
    pub(crate) fn close(&mut self, now: Instant, handle: TcpHandle, egress: &mut Egress) -> bool {
        let linger = self.limits.linger;
        let key = handle.0;
        let Some(connection) = self.held_mut(handle) else {
            return false;
        };
        let unread = connection.group.socket().recv_queue() > 0;
        if !connection.attached || !connection.announced || unread {
            // RFC 2525, section 2.17: data that nobody will read are not acknowledged by a FIN.
            return self.abort(now, key, egress);
        }
        connection.owner = Owner::Nobody;
        connection.linger_until = now.checked_add(linger);
        self.finish(now, key, egress);
        // It may have been shut down before: the deadline is new in any case.
        if self.connections.get(key).is_some_and(|left| left.attached) {
            self.schedule(now, key);
        }
        true
    }

    pub(crate) fn abort_handle(
        &mut self,
        now: Instant,
        handle: TcpHandle,
        egress: &mut Egress,
    ) -> bool {
        self.held(handle).is_some() && self.abort(now, handle.0, egress)
    }

    /// Ends a connection at once.
    pub(super) fn abort(&mut self, now: Instant, key: Key, egress: &mut Egress) -> bool {
        // After both FINs there is nothing to reset; see `wait`.
        let over = self
            .connections
            .get(key)
            .is_none_or(|connection| connection.state() == State::TimeWait);
        if !over {
            self.send_reset(now, key, egress);
        }
        if let Some(connection) = self.connections.get_mut(key) {
            connection.owner = Owner::Nobody;
        }
        self.detach(key);
        true
    }
}
