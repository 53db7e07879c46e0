//! The way out: from a client's packet or message to bytes on its transport.

use std::net::{SocketAddr, UdpSocket};

use tsc_osaa::dtls::DtlsSession;

use crate::clock::Now;
use crate::link::DatagramSocket;
use crate::member::{Link, Member, Phase, Speech};

/// How datagrams of clients leave.
#[derive(Debug)]
pub(crate) enum Way {
    /// All clients share a socket; each has a source address of its own.
    Shared(DatagramSocket),
    /// There is one client, with this socket.
    Single(DatagramSocket),
    /// Each has its own.
    Own,
}

impl Way {
    /// The socket, unless each client has its own.
    pub(crate) const fn socket(&self) -> Option<&DatagramSocket> {
        match self {
            Self::Shared(socket) | Self::Single(socket) => Some(socket),
            Self::Own => None,
        }
    }

    pub(crate) const fn socket_mut(&mut self) -> Option<&mut DatagramSocket> {
        match self {
            Self::Shared(socket) | Self::Single(socket) => Some(socket),
            Self::Own => None,
        }
    }

    /// The one client that there is.
    pub(crate) const fn single(&self) -> Option<u32> {
        match self {
            Self::Single(_) => Some(0),
            Self::Shared(_) | Self::Own => None,
        }
    }
}

/// What all clients send through.
#[derive(Debug)]
pub(crate) struct Outlet {
    /// How their datagrams leave.
    pub(crate) way: Way,
    /// Where everything goes.
    pub(crate) server: SocketAddr,
    /// Clients whose stream has bytes to be written.
    pub(crate) dirty: Vec<u32>,
    wire: Vec<u8>,
    /// A packet with what a peer's protocol puts around it.
    wrapped: Vec<u8>,
    /// Datagrams that sockets of clients did not take.
    pub(crate) unsent: u64,
}

impl Outlet {
    pub(crate) const fn new(way: Way, server: SocketAddr) -> Self {
        Self {
            way,
            server,
            dirty: Vec::new(),
            wire: Vec::new(),
            wrapped: Vec::new(),
            unsent: 0,
        }
    }

    /// Sends an inner packet, or a payload on a bare session; `false` if there was no room or no transport.
    pub(crate) fn packet(
        &mut self,
        members: &mut [Member],
        number: u32,
        packet: &[u8],
        now: &Now,
    ) -> bool {
        let Some(member) = members.get_mut(number as usize) else {
            return false;
        };
        if member.phase != Phase::Up {
            return false;
        }
        match &mut member.speech {
            Speech::Tunnel(client, _) => {
                if client.can_send().is_none() {
                    return false;
                }
                client.note_sent(now.instant);
                self.bytes(member, number, &[], packet, false)
            }
            Speech::Bare(_) => {
                let length = u16::try_from(packet.len())
                    .unwrap_or(u16::MAX)
                    .to_be_bytes();
                let prefix: &[u8] = match member.link {
                    Link::Stream(_) => &length,
                    Link::Closed | Link::Datagram(_) | Link::Dtls(..) => &[],
                };
                self.bytes(member, number, prefix, packet, false)
            }
            Speech::Turn(turn) => {
                let is_stream = matches!(member.link, Link::Stream(_));
                let mut wrapped = std::mem::take(&mut self.wrapped);
                turn.wrap(packet, is_stream, &mut wrapped);
                let is_sent = self.bytes(member, number, &[], &wrapped, false);
                self.wrapped = wrapped;
                is_sent
            }
        }
    }

    /// Sends a control message.
    pub(crate) fn message(&mut self, member: &mut Member, number: u32, bytes: &[u8]) {
        // A full queue is what the protocol repeats messages for.
        let _sent = self.bytes(member, number, &[], bytes, true);
    }

    fn bytes(
        &mut self,
        member: &mut Member,
        number: u32,
        prefix: &[u8],
        bytes: &[u8],
        is_control: bool,
    ) -> bool {
        match &mut member.link {
            Link::Closed => false,
            Link::Datagram(own) => {
                self.datagram(own.as_ref(), number, bytes);
                true
            }
            Link::Dtls(session, own) => {
                let is_sent = session.send(bytes).is_ok();
                self.session(session.as_mut(), own.as_ref(), number);
                is_sent
            }
            Link::Stream(stream) => {
                let is_taken = stream.send(prefix, bytes, is_control);
                if !member.is_dirty {
                    member.is_dirty = true;
                    self.dirty.push(number);
                }
                is_taken
            }
        }
    }

    fn datagram(&mut self, own: Option<&UdpSocket>, number: u32, bytes: &[u8]) {
        match (own, &mut self.way) {
            (Some(own), _) => self.unsent += u64::from(own.send(bytes).is_err()),
            (None, Way::Shared(socket)) => socket.send(Some(number), self.server, bytes),
            (None, Way::Single(socket)) => socket.send(None, self.server, bytes),
            (None, Way::Own) => self.unsent += 1,
        }
    }

    /// Sends what a DTLS association has made.
    pub(crate) fn session(
        &mut self,
        session: &mut dyn DtlsSession,
        own: Option<&UdpSocket>,
        number: u32,
    ) {
        let mut wire = std::mem::take(&mut self.wire);
        while session.poll_transmit(&mut wire).is_some() {
            self.datagram(own, number, &wire);
            wire.clear();
        }
        self.wire = wire;
    }

    /// Lets a stream be written at the end of the turn.
    pub(crate) fn soil(&mut self, member: &mut Member, number: u32) {
        if !member.is_dirty {
            member.is_dirty = true;
            self.dirty.push(number);
        }
    }
}
