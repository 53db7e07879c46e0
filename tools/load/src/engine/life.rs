//! Transports come and go, and what state machines say is carried out.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use mio::unix::SourceFd;
use mio::{Interest, Token};
use tsc_csm::client::{AttemptFailure, Epoch, Event, TransportFailure, TransportLoss};
use tsc_osaa::dtls::DtlsEvent;
use tsc_tpl::ResponseCode;

use super::{Engine, Security};
use crate::clock::{Now, monotonic_ns};
use crate::link::{StreamLink, client_address};
use crate::member::{Link, Phase, Speech};

impl Engine {
    /// Carries out what a client's machines ask for.
    pub(super) fn drain(&mut self, now: &Now, number: u32) {
        loop {
            self.drain_session(now, number);
            let Some(member) = self.members.get_mut(number as usize) else {
                return;
            };
            if let Speech::Turn(turn) = &mut member.speech {
                let (message, is_ready) = (turn.poll_transmit(), turn.is_ready());
                if let Some(message) = message {
                    self.outlet.message(member, number, &message);
                    continue;
                }
                if is_ready {
                    self.came_up(now, number);
                }
                break;
            }
            let epoch = member.epoch;
            let Some(client) = member.client() else {
                return;
            };
            if let Some(transmit) = client.poll_transmit() {
                if transmit.epoch == epoch {
                    self.outlet.message(member, number, &transmit.bytes);
                }
                continue;
            }
            let Some(event) = client.poll_event() else {
                break;
            };
            self.handle_event(now, number, event);
        }
        self.arm(now, number);
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "an enum that may grow")]
    fn handle_event(&mut self, now: &Now, number: u32, event: Event) {
        let Some(member) = self.members.get_mut(number as usize) else {
            return;
        };
        match event {
            Event::Open { epoch, .. } => self.open_link(now, number, epoch),
            Event::Close { epoch, .. } if epoch == member.epoch => self.close_link(now, number),
            Event::Configured(_) => {
                member.take_address();
                self.came_up(now, number);
            }
            Event::Suspended(reason) => {
                self.counters.suspended += 1;
                self.last_failure = Some(format!("{reason:?}"));
            }
            Event::Resumed(_) => self.counters.resumed += 1,
            Event::AttemptFailed { failure, .. } => {
                self.counters.failed_attempts += 1;
                self.counters.busy += u64::from(is_busy(&failure));
                self.last_failure = Some(failure.to_string());
            }
            Event::Down(reason) if member.phase != Phase::Down => {
                member.phase = Phase::Down;
                self.counters.down += 1;
                self.last_failure = Some(reason.to_string());
            }
            _ => {}
        }
    }

    pub(super) fn open_link(&mut self, now: &Now, number: u32, epoch: Epoch) {
        let registered = self.new_link(now, number).and_then(|mut link| {
            let token = Token(number as usize);
            let registry = self.poll.registry();
            match &mut link {
                Link::Stream(stream) => {
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    registry.register(stream.socket(), token, interest)?;
                }
                Link::Datagram(Some(own)) | Link::Dtls(_, Some(own)) => {
                    let fd = own.as_raw_fd();
                    registry.register(&mut SourceFd(&fd), token, Interest::READABLE)?;
                }
                Link::Datagram(None) | Link::Dtls(_, None) | Link::Closed => {}
            }
            Ok(link)
        });
        let Some(member) = self.members.get_mut(number as usize) else {
            return;
        };
        member.epoch = epoch;
        member.reset_decoder();
        match registered {
            Ok(link) => {
                member.link = link;
                self.check_ready(now, number);
            }
            Err(error) => {
                member.link = Link::Closed;
                self.last_failure = Some(error.to_string());
                match &mut member.speech {
                    Speech::Tunnel(client, _) => {
                        client.transport_failed(now.instant, epoch, TransportFailure::Unreachable);
                    }
                    Speech::Bare(_) | Speech::Turn(_) => {
                        member.phase = Phase::Down;
                        self.counters.down += 1;
                    }
                }
            }
        }
    }

    fn new_link(&self, now: &Now, number: u32) -> io::Result<Link> {
        let server = self.outlet.server;
        let is_local = server.ip().is_loopback() && server.is_ipv4();
        let from = is_local.then(|| client_address(number));
        let stream = |tls| {
            let stream = StreamLink::connect(server, from, tls)?;
            Ok(Link::Stream(Box::new(stream)))
        };
        let own = || match self.outlet.way.socket() {
            Some(_) => Ok(None),
            None => own_socket(server).map(Some),
        };
        match &self.protocol.security {
            Security::Udp => own().map(Link::Datagram),
            Security::Tcp => stream(None),
            Security::Tls(config, name) => stream(Some((config, name))),
            Security::Dtls(config, name) => {
                let session = config.connect(now.instant, name);
                Ok(Link::Dtls(session.map_err(io::Error::other)?, own()?))
            }
        }
    }

    fn close_link(&mut self, now: &Now, number: u32) {
        let Some(member) = self.members.get_mut(number as usize) else {
            return;
        };
        match std::mem::take(&mut member.link) {
            Link::Dtls(mut session, own) => {
                session.close(now.instant);
                self.outlet.session(session.as_mut(), own.as_ref(), number);
            }
            Link::Stream(mut stream) => {
                // What was to be sent before it closes; it is over in any case.
                let _over = stream.flush();
            }
            Link::Datagram(_) | Link::Closed => {}
        }
    }

    /// Tells the state machine once that its stream is there, or that it needs no handshake.
    pub(super) fn check_ready(&mut self, now: &Now, number: u32) {
        let Some(member) = self.members.get_mut(number as usize) else {
            return;
        };
        let is_ready = match &member.link {
            Link::Stream(stream) => stream.is_ready(),
            Link::Datagram(_) => true,
            Link::Closed | Link::Dtls(..) => false,
        };
        if !is_ready {
            return;
        }
        let epoch = member.epoch;
        match &mut member.speech {
            Speech::Tunnel(client, _) => {
                client.transport_opened(now.instant, epoch);
                self.talkative.push(number);
            }
            Speech::Bare(_) => self.came_up(now, number),
            Speech::Turn(turn) => {
                turn.start(now.instant);
                self.talkative.push(number);
            }
        }
    }

    fn came_up(&mut self, now: &Now, number: u32) {
        let Some(member) = self.members.get_mut(number as usize) else {
            return;
        };
        if let Phase::Opening(since) = member.phase {
            member.phase = Phase::Up;
            self.counters.up += 1;
            self.set_up
                .record_ns(monotonic_ns().max(now.ns).saturating_sub(since));
        }
    }

    /// A stream is over.
    pub(super) fn lost(
        &mut self,
        now: &Now,
        number: u32,
        why: TransportLoss,
        error: Option<io::Error>,
    ) {
        let Some(member) = self.members.get_mut(number as usize) else {
            return;
        };
        let Link::Stream(stream) = &member.link else {
            return;
        };
        let was_ready = stream.is_ready();
        let epoch = member.epoch;
        member.link = Link::Closed;
        let mut failure = TransportFailure::Unreachable;
        if let Some(error) = error {
            if error.kind() == io::ErrorKind::ConnectionRefused {
                failure = TransportFailure::Refused;
            }
            self.last_failure = Some(error.to_string());
        }
        match &mut member.speech {
            Speech::Tunnel(client, _) => {
                if was_ready {
                    client.transport_lost(now.instant, epoch, why);
                } else {
                    client.transport_failed(now.instant, epoch, failure);
                }
                self.talkative.push(number);
            }
            Speech::Bare(_) | Speech::Turn(_) => {
                member.phase = Phase::Down;
                self.counters.down += 1;
            }
        }
    }

    /// Moves what a DTLS association has to say.
    fn drain_session(&mut self, now: &Now, number: u32) {
        let Some(member) = self.members.get_mut(number as usize) else {
            return;
        };
        let Link::Dtls(session, own) = &mut member.link else {
            return;
        };
        self.outlet.session(session.as_mut(), own.as_ref(), number);
        let mut closed = None;
        let mut connected = false;
        while let Some(event) = session.poll_event() {
            match event {
                DtlsEvent::Connected(_) => connected = true,
                DtlsEvent::Closed(error) => closed = Some(error),
            }
        }
        let epoch = member.epoch;
        if connected {
            match &mut member.speech {
                Speech::Tunnel(client, _) => client.transport_opened(now.instant, epoch),
                Speech::Turn(turn) => turn.start(now.instant),
                Speech::Bare(_) => {}
            }
        }
        if let Some(error) = closed {
            self.last_failure = Some(error.to_string());
            member.link = Link::Closed;
            match &mut member.speech {
                Speech::Tunnel(client, _) => {
                    // Whichever it is; the other is without effect.
                    client.transport_failed(now.instant, epoch, TransportFailure::Handshake);
                    client.transport_lost(now.instant, epoch, TransportLoss::Failed);
                }
                Speech::Bare(_) | Speech::Turn(_) => {
                    member.phase = Phase::Down;
                    self.counters.down += 1;
                }
            }
        }
    }

    /// Sets a client's timer, unless it is set for that or earlier.
    fn arm(&mut self, now: &Now, number: u32) {
        let Some(member) = self.members.get_mut(number as usize) else {
            return;
        };
        let Some(at) = member.poll_timeout() else {
            return;
        };
        let wait = at.saturating_duration_since(now.instant).as_nanos();
        let at_ns = now
            .ns
            .saturating_add(u64::try_from(wait).unwrap_or(u64::MAX));
        if member.armed_ns.is_none_or(|armed| at_ns < armed) {
            member.armed_ns = Some(at_ns);
            self.timers.set(at_ns, number);
        }
    }
}

/// Whether a server was reached that cannot take more.
fn is_busy(failure: &AttemptFailure) -> bool {
    let AttemptFailure::Refused(refusal) = failure else {
        return false;
    };
    matches!(
        refusal.code,
        ResponseCode::BUSY | ResponseCode::NO_RESOURCES
    )
}

/// A socket for the datagrams of one client.
fn own_socket(server: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(server)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
