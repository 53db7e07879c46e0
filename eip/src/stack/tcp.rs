//! The verbs of TCP.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::Stack;
use super::input::Origin;
use crate::addresses::Addresses;
use crate::error::{BindError, TcpConnectError, TcpError};
use crate::tcp::{TcpHandle, TcpIncomingId, TcpListenHandle, TcpOptions, TcpState};

/// Packets that the stack sends to itself in one call: connections between two of its own sockets
/// would otherwise keep a caller busy for as long as they have data.
const LOCAL_PACKETS: usize = 64;

/// After so many packets of others in a row, connections get a turn.
const OTHERS_IN_A_ROW: u8 = 32;

impl Stack {
    /// Starts opening a connection to `remote`. [`Event::TcpConnected`](crate::Event::TcpConnected)
    /// or [`Event::TcpFailed`](crate::Event::TcpFailed) follows. `local` is the own address and
    /// port to use; the wildcard lets the stack choose the address, port 0 the port.
    ///
    /// # Errors
    ///
    /// [`TcpConnectError`] if `remote` cannot be reached in principle or a limit is reached.
    pub fn tcp_connect(
        &mut self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        options: TcpOptions,
    ) -> Result<TcpHandle, TcpConnectError> {
        self.latest = Some(now);
        let own = own(self.transparent, &self.addresses);
        self.tcp.connect(now, own, local, remote, options)
    }

    /// Opens a listener on `local`: one of the stack's addresses, or the wildcard (`0.0.0.0`, `::`)
    /// for all addresses of that IP version. Port 0 picks a free one. At most `backlog`
    /// connections wait to be accepted (at least 1); peers that come then keep trying until there
    /// is room.
    ///
    /// # Errors
    ///
    /// [`BindError`] if the port is taken, the address is not ours, or a limit is reached.
    pub fn tcp_listen(
        &mut self,
        local: SocketAddr,
        backlog: usize,
    ) -> Result<TcpListenHandle, BindError> {
        let own = own(self.transparent, &self.addresses);
        self.tcp.listen(own, local, backlog)
    }

    /// Takes the oldest connection that waits at a listener, and its peer. `None` if none waits; the
    /// listener's next event comes after that.
    pub fn tcp_accept(&mut self, listener: TcpListenHandle) -> Option<(TcpHandle, SocketAddr)> {
        self.tcp.accept(listener)
    }

    /// Closes a listener. Connections that were not accepted are reset. Returns whether it was open.
    pub fn tcp_listener_close(&mut self, now: Instant, listener: TcpListenHandle) -> bool {
        self.latest = Some(now);
        self.tcp.close_listener(listener, &mut self.egress)
    }

    /// The address and port that a listener is bound to.
    #[must_use]
    pub fn tcp_listener_addr(&self, listener: TcpListenHandle) -> Option<SocketAddr> {
        self.tcp.listener_addr(listener)
    }

    /// Answers a request to a transparent stack: the peer gets its connection.
    /// [`Event::TcpConnected`](crate::Event::TcpConnected) follows when it has acknowledged that.
    ///
    /// # Errors
    ///
    /// [`TcpConnectError::Withdrawn`] if the request is gone, others if a limit is reached; the
    /// request then stays.
    pub fn tcp_incoming_accept(
        &mut self,
        now: Instant,
        id: TcpIncomingId,
        options: TcpOptions,
    ) -> Result<TcpHandle, TcpConnectError> {
        self.latest = Some(now);
        self.tcp.accept_incoming(now, id, options, &mut self.egress)
    }

    /// Refuses a request to a transparent stack by a reset. Returns whether it was still there.
    pub fn tcp_incoming_reject(&mut self, now: Instant, id: TcpIncomingId) -> bool {
        self.latest = Some(now);
        self.tcp.reject_incoming(id, &mut self.egress)
    }

    /// Forgets a request to a transparent stack without an answer: the next repetition is a new one.
    /// Returns whether it was still there.
    pub fn tcp_incoming_drop(&mut self, id: TcpIncomingId) -> bool {
        self.tcp.drop_incoming(id)
    }

    /// The packet that asks for the connection, for an ICMP error to quote. It may lack options and
    /// data of the original.
    #[must_use]
    pub fn tcp_incoming_packet(&self, id: TcpIncomingId) -> Option<&[u8]> {
        self.tcp.incoming_packet(id)
    }

    /// Writes to a connection. Returns how many bytes were taken: 0 if the send buffer is full or
    /// the connection is not open yet, in which case
    /// [`Event::TcpWritable`](crate::Event::TcpWritable) (or `TcpConnected`) says when to go on.
    ///
    /// # Errors
    ///
    /// [`TcpError`] once nothing can be sent any more.
    pub fn tcp_send(
        &mut self,
        now: Instant,
        handle: TcpHandle,
        data: &[u8],
    ) -> Result<usize, TcpError> {
        self.latest = Some(now);
        self.tcp.write(now, handle, data)
    }

    /// Reads from a connection: `Some` number of bytes, `Some(0)` when the peer has shut down its
    /// end (or `buffer` is empty), `None` if nothing waits.
    ///
    /// # Errors
    ///
    /// [`TcpError`] if the connection has failed and everything received was read.
    pub fn tcp_recv(
        &mut self,
        now: Instant,
        handle: TcpHandle,
        buffer: &mut [u8],
    ) -> Result<Option<usize>, TcpError> {
        self.latest = Some(now);
        self.tcp.read(now, handle, buffer)
    }

    /// As [`tcp_recv`](Self::tcp_recv), but leaves the data where they are.
    ///
    /// # Errors
    ///
    /// As [`tcp_recv`](Self::tcp_recv).
    pub fn tcp_peek(
        &mut self,
        handle: TcpHandle,
        buffer: &mut [u8],
    ) -> Result<Option<usize>, TcpError> {
        self.tcp.peek(handle, buffer)
    }

    /// Bytes that [`tcp_send`](Self::tcp_send) would take now. `None` if the handle is not held.
    #[must_use]
    pub fn tcp_send_capacity(&self, handle: TcpHandle) -> Option<usize> {
        self.tcp.send_capacity(handle)
    }

    /// Bytes written and not acknowledged by the peer yet, and bytes received and not read yet.
    /// `None` if the handle is not held.
    #[must_use]
    pub fn tcp_queued(&self, handle: TcpHandle) -> Option<(usize, usize)> {
        self.tcp.queued(handle)
    }

    /// Shuts down our end: the peer is told after everything written has been sent. Reading goes
    /// on. May be called before the connection is open, and again.
    ///
    /// # Errors
    ///
    /// [`TcpError`] if the connection has failed.
    pub fn tcp_shutdown(&mut self, now: Instant, handle: TcpHandle) -> Result<(), TcpError> {
        self.latest = Some(now);
        self.tcp.shutdown(now, handle, &mut self.egress)
    }

    /// Gives up a connection. What was written is still delivered in the background, for
    /// [`StackConfig::tcp_linger`](crate::StackConfig::tcp_linger) at most; if something received
    /// was not read, or more comes, the peer gets a reset, as it does from a kernel. Returns whether
    /// the handle was held.
    pub fn tcp_close(&mut self, now: Instant, handle: TcpHandle) -> bool {
        self.latest = Some(now);
        self.tcp.close(now, handle, &mut self.egress)
    }

    /// Gives up a connection at once: the peer gets a reset, and what was not sent is lost. Returns
    /// whether the handle was held.
    pub fn tcp_abort(&mut self, now: Instant, handle: TcpHandle) -> bool {
        self.latest = Some(now);
        self.tcp.abort_handle(handle, &mut self.egress)
    }

    /// Fails all connections from an address that is not the stack's any more, as if their hosts could not be reached.
    pub fn tcp_end_at(&mut self, now: Instant, address: IpAddr) {
        self.latest = Some(now);
        self.tcp.end_at(address);
    }

    /// A port that no listener has, as the stack would choose one for a connection from `local`. It is not kept
    /// free. `None` if there is none.
    pub fn tcp_free_port(&mut self, local: IpAddr) -> Option<u16> {
        self.tcp.free_port(local)
    }

    /// The connection's own address and port. `None` if the handle is not held.
    #[must_use]
    pub fn tcp_local_addr(&self, handle: TcpHandle) -> Option<SocketAddr> {
        self.tcp.local_addr(handle)
    }

    /// The peer's address and port. `None` if the handle is not held.
    #[must_use]
    pub fn tcp_peer_addr(&self, handle: TcpHandle) -> Option<SocketAddr> {
        self.tcp.peer_addr(handle)
    }

    /// The connection's state. `None` if the handle is not held.
    #[must_use]
    pub fn tcp_state(&self, handle: TcpHandle) -> Option<TcpState> {
        self.tcp.state(handle)
    }

    /// The connection's options. `None` if the handle is not held.
    #[must_use]
    pub fn tcp_options(&self, handle: TcpHandle) -> Option<TcpOptions> {
        self.tcp.options(handle)
    }

    /// Changes the connection's options. Returns whether the handle is held.
    pub fn tcp_set_options(
        &mut self,
        now: Instant,
        handle: TcpHandle,
        options: TcpOptions,
    ) -> bool {
        self.latest = Some(now);
        self.tcp.set_options(now, handle, options)
    }

    /// Changes [`StackConfig::tcp_total_bytes`](crate::StackConfig::tcp_total_bytes), for an owner of several stacks
    /// that share memory. What is held already stays, if it is more.
    pub const fn set_tcp_total_bytes(&mut self, bytes: usize) {
        self.tcp.set_total_bytes(bytes);
    }

    /// The next packet for the tunnel from whichever part has one: datagrams and answers first, but
    /// connections are not starved by them.
    pub(super) fn next_packet(&mut self) -> Option<Vec<u8>> {
        if self.others_in_a_row < OTHERS_IN_A_ROW
            && let Some(packet) = self.egress.poll_transmit()
        {
            self.others_in_a_row += 1;
            return Some(packet);
        }
        self.others_in_a_row = 0;
        self.next_segment().or_else(|| self.egress.poll_transmit())
    }

    fn next_segment(&mut self) -> Option<Vec<u8>> {
        let now = self.latest?;
        for _ in 0..LOCAL_PACKETS {
            let (remote, packet) = self.tcp.poll_transmit(now, &mut self.egress)?;
            if self.transparent || !self.addresses.contains(remote) {
                self.counted.packets_out += 1;
                return Some(packet);
            }
            self.counted.packets_local += 1;
            self.input(now, Origin::Local, &packet);
            self.egress.recycle(packet);
            self.deliver_local(now);
        }
        None
    }
}

/// The addresses that count as the stack's own; absent if all do.
const fn own(transparent: bool, addresses: &Addresses) -> Option<&Addresses> {
    if transparent { None } else { Some(addresses) }
}
