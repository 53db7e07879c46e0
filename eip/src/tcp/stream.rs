//! What the holder of a connection does with it.

use std::net::SocketAddr;
use std::time::Instant;

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
            connection.state()
        } else {
            TcpState::Closed
        })
    }

    /// Bytes that wait to be acknowledged, and bytes that wait to be read.
    pub(crate) fn queued(&self, handle: TcpHandle) -> Option<(usize, usize)> {
        let connection = self.held(handle)?;
        Some((connection.sender.queued(), connection.readable()))
    }

    pub(crate) fn send_capacity(&self, handle: TcpHandle) -> Option<usize> {
        Some(self.held(handle)?.room(&self.budget))
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
        let connection = self
            .connections
            .get_mut(handle.0)
            .filter(|connection| connection.owner == Owner::Handle)
            .ok_or(TcpError::Closed)?;
        if let Some(error) = connection.failure {
            return Err(error);
        }
        if connection.write_closed || (connection.announced && !connection.attached) {
            return Err(TcpError::ShutDown);
        }
        let written = connection.write(now, data, &self.budget);
        connection.wants_write |= written < data.len();
        connection.update_waiting(now, false);
        if written > 0 {
            self.recharge(handle.0);
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
        if let Some(receiver) = &mut connection.receiver
            && receiver.readable() > 0
        {
            let read = receiver.read(buffer);
            let attached = connection.attached;
            self.recharge(handle.0);
            // The peer may have to hear of room.
            if attached && read > 0 {
                self.schedule(now, handle.0);
            }
            return Ok(Some(read));
        }
        connection.told_readable = false;
        Self::nothing_to_read(connection)
    }

    pub(crate) fn peek(
        &mut self,
        handle: TcpHandle,
        buffer: &mut [u8],
    ) -> Result<Option<usize>, TcpError> {
        let connection = self.held(handle).ok_or(TcpError::Closed)?;
        match &connection.receiver {
            Some(receiver) if receiver.readable() > 0 => Ok(Some(receiver.peek(buffer))),
            Some(_) | None => Self::nothing_to_read(connection),
        }
    }

    fn nothing_to_read(connection: &Connection) -> Result<Option<usize>, TcpError> {
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
        if connection.write_closed || !connection.attached {
            return;
        }
        connection.end(now);
        self.settle(now, key, false, egress);
    }

    /// The handle is given up; what was written is still delivered. Returns whether it was held.
    pub(crate) fn close(&mut self, now: Instant, handle: TcpHandle, egress: &mut Egress) -> bool {
        let linger = self.limits.linger;
        let key = handle.0;
        let Some(connection) = self.held_mut(handle) else {
            return false;
        };
        let unread = connection.readable() > 0;
        if !connection.attached || !connection.announced || unread {
            // RFC 2525, section 2.17: data that nobody will read are not acknowledged by a FIN.
            return self.abort(key, egress);
        }
        connection.owner = Owner::Nobody;
        connection.linger_until = now.checked_add(linger);
        self.finish(now, key, egress);
        self.recharge(key);
        // It may have been shut down before: the deadline is new in any case.
        if self.connections.get(key).is_some_and(|left| left.attached) {
            self.schedule(now, key);
        }
        true
    }

    pub(crate) fn abort_handle(&mut self, handle: TcpHandle, egress: &mut Egress) -> bool {
        self.held(handle).is_some() && self.abort(handle.0, egress)
    }

    /// Ends a connection at once.
    pub(super) fn abort(&mut self, key: Key, egress: &mut Egress) -> bool {
        self.send_reset(key, egress);
        if let Some(connection) = self.connections.get_mut(key) {
            connection.owner = Owner::Nobody;
        }
        self.detach(key);
        true
    }
}
