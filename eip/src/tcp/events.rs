//! What owners are told, each thing once until they have acted on it.

use super::Tcp;
use super::connection::Owner;
use super::types::{TcpHandle, TcpIncoming, TcpIncomingId, TcpListenHandle};
use crate::error::TcpError;
use crate::event::Event;
use crate::slots::Key;

impl Tcp {
    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        if let Some(event) = self.poll_arrival() {
            return Some(event);
        }
        if let Some(event) = self.poll_acceptable() {
            return Some(event);
        }
        while let Some(index) = self.events.front() {
            let key = self.connections.key_at(index);
            if let Some(event) = key.and_then(|key| self.take_event(key)) {
                return Some(event);
            }
            self.events.pop();
        }
        None
    }

    fn poll_arrival(&mut self) -> Option<Event> {
        while let Some(key) = self.arrivals.pop_front() {
            if let Some(incoming) = self.incoming.get_mut(key) {
                incoming.announced = true;
                return Some(Event::TcpIncoming(TcpIncoming {
                    id: TcpIncomingId(key),
                    local: incoming.tuple.local,
                    remote: incoming.tuple.remote,
                }));
            }
        }
        None
    }

    fn poll_acceptable(&mut self) -> Option<Event> {
        while let Some(index) = self.acceptable.pop() {
            let Some(key) = self.listeners.key_at(index) else {
                continue;
            };
            let Some(listener) = self.listeners.get_mut(key) else {
                continue;
            };
            if !listener.queue.is_empty() {
                listener.told = true;
                return Some(Event::TcpAcceptable(TcpListenHandle(key)));
            }
        }
        None
    }

    fn take_event(&mut self, key: Key) -> Option<Event> {
        let connection = self.connections.get_mut(key)?;
        if connection.owner != Owner::Handle {
            return None;
        }
        let handle = TcpHandle(key);
        let pending = &mut connection.pending;
        if std::mem::take(&mut pending.connected) {
            return Some(Event::TcpConnected(handle));
        }
        if std::mem::take(&mut pending.readable) {
            // It may have been read meanwhile.
            if connection.is_readable() && !connection.told_readable {
                connection.told_readable = true;
                return Some(Event::TcpReadable(handle));
            }
        }
        let pending = &mut connection.pending;
        if std::mem::take(&mut pending.writable) {
            return Some(Event::TcpWritable(handle));
        }
        if std::mem::take(&mut pending.failed) {
            let error = connection.failure.unwrap_or(TcpError::Reset);
            return Some(Event::TcpFailed(handle, error));
        }
        None
    }

    /// A connection is open.
    pub(super) fn announce(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        connection.announced = true;
        self.counters.opened += 1;
        match connection.owner {
            Owner::Handle => {
                connection.pending.connected = true;
                self.raise(key);
            }
            Owner::Listener(listener_key) => {
                if let Some(listener) = self.listeners.get_mut(listener_key) {
                    listener.queue.push_back(key);
                    if !listener.told {
                        self.acceptable.push(listener_key);
                    }
                }
            }
            Owner::Nobody => {}
        }
    }

    /// Tells of what can be read and written.
    pub(super) fn signal(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let free = connection.room(&self.budget);
        // A wake-up for a quarter of the room there is, not for each acknowledgement.
        if connection.wants_write && free > 0 && free >= (connection.sender.queued() + free) / 4 {
            connection.wants_write = false;
            connection.pending.writable = true;
        }
        if !connection.told_readable && connection.is_readable() {
            connection.pending.readable = true;
        }
        if connection.pending.readable || connection.pending.writable {
            self.raise(key);
        }
    }

    /// Puts a connection into the queue of events.
    pub(super) fn raise(&mut self, key: Key) {
        if let Some(connection) = self.connections.get(key)
            && connection.owner == Owner::Handle
        {
            self.events.push(key);
        }
    }
}
