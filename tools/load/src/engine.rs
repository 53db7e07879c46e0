//! The loop: one thread that drives all clients, their traffic, and a reflector.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use mio::{Events, Interest, Poll, Token};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustls_pki_types::ServerName;
use tsc_csm::client::{
    Client, ClientConfig, Endpoint, Epoch, Event, Target, TransportFailure, TransportLoss,
};
use tsc_csm::{Random, Transport};
use tsc_osaa::dtls::{DtlsClientConfig, DtlsEvent};
use tsc_osaa::random::OsRandom;

use crate::clock::{Now, monotonic_ns};
use crate::link::{Buffers, DatagramSocket, ReadEnd, StreamLink, client_address};
use crate::measure::Latency;
use crate::member::{Link, Member, Phase, Speech, Taken};
use crate::outlet::Outlet;
use crate::reflector::Reflector;
use crate::timers::Timers;
use crate::traffic::{Arrived, Traffic};

/// Batches of datagrams read in one turn.
const BATCHES: usize = 4;

/// Requests sent in one turn, so that reading is never kept waiting for long.
const REQUESTS: usize = 64;

/// Timers run in one turn.
const TIMERS: usize = 256;

/// What the clients speak.
#[derive(Clone)]
pub enum Protocol {
    /// Payloads over this transport (TCP or UDP) to a relay: the baseline.
    Bare(Transport),
    /// Tunnels.
    Tunnel(Security),
}

/// What a tunnel's transport needs.
#[derive(Clone)]
pub enum Security {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// TLS.
    Tls(Arc<rustls::ClientConfig>, ServerName<'static>),
    /// DTLS.
    Dtls(DtlsClientConfig, ServerName<'static>),
}

impl Protocol {
    /// What the clients' packets travel over.
    #[must_use]
    pub const fn transport(&self) -> Transport {
        match self {
            Self::Bare(transport) => *transport,
            Self::Tunnel(Security::Tcp) => Transport::Tcp,
            Self::Tunnel(Security::Udp) => Transport::Udp,
            Self::Tunnel(Security::Tls(..)) => Transport::Tls,
            Self::Tunnel(Security::Dtls(..)) => Transport::Dtls,
        }
    }
}

/// What went how often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Clients that came up.
    pub up: u64,
    /// Clients that were given up, before or after.
    pub down: u64,
    /// Attempts that failed and were made again.
    pub failed_attempts: u64,
    /// Tunnels that lost their transport.
    pub suspended: u64,
    /// Tunnels that were resumed.
    pub resumed: u64,
    /// Packets that were none of ours.
    pub strangers: u64,
    /// Packets that a queue or socket had no room for.
    pub unsent: u64,
}

/// See the module.
pub struct Engine {
    protocol: Protocol,
    members: Vec<Member>,
    outlet: Outlet,
    buffers: Buffers,
    scratch: Vec<u8>,
    poll: Poll,
    events: Events,
    timers: Timers,
    arrived: Vec<Arrived>,
    /// Members whose socket may have more.
    again: VecDeque<u32>,
    /// Members whose state machine may have something to say.
    talkative: Vec<u32>,
    reflector: Option<Reflector>,
    /// The load itself.
    pub traffic: Traffic,
    counters: Counters,
    /// From the first attempt until the tunnel was there.
    set_up: Latency,
    last_failure: Option<String>,
    idle_ns: u64,
}

struct Chance;

impl Random for Chance {
    fn fill(&mut self, buf: &mut [u8]) {
        OsRandom.fill(buf);
    }
}

impl Engine {
    /// Makes clients that have not begun. `server` is a tunnel server or a relay of the baseline.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn new(
        protocol: Protocol,
        server: SocketAddr,
        members: u32,
        traffic: Traffic,
    ) -> io::Result<Self> {
        let socket = match protocol.transport() {
            Transport::Udp | Transport::Dtls => Some(DatagramSocket::bind(SocketAddrV4::new(
                Ipv4Addr::UNSPECIFIED,
                0,
            ))?),
            Transport::Tcp | Transport::Tls => None,
        };
        let mut engine = Self {
            protocol,
            members: Vec::new(),
            outlet: Outlet::new(socket, server),
            buffers: Buffers::default(),
            scratch: vec![0; 256 * 1024],
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            timers: Timers::default(),
            arrived: Vec::new(),
            again: VecDeque::new(),
            talkative: Vec::new(),
            reflector: None,
            traffic,
            counters: Counters::default(),
            set_up: Latency::new(),
            last_failure: None,
            idle_ns: 0,
        };
        for _ in 0..members {
            let member = engine.new_member()?;
            engine.members.push(member);
        }
        Ok(engine)
    }

    fn new_member(&self) -> io::Result<Member> {
        if let Protocol::Bare(_) = self.protocol {
            return Ok(Member::bare());
        }
        let target = Target {
            transport: self.protocol.transport(),
            endpoint: Endpoint::Configured(0),
        };
        let mut config = ClientConfig::new(vec![target]);
        // A herd of thousands is patient.
        config.connect_timeout = Duration::from_secs(300);
        let client = Client::new(config, Box::new(Chance)).map_err(io::Error::other)?;
        Ok(Member::tunnel(client))
    }

    /// Echoes within this process, for bare sessions and for what comes out of the core side.
    pub fn set_reflector(&mut self, reflector: Reflector) {
        self.reflector = Some(reflector);
    }

    /// How many clients there are.
    #[must_use]
    pub fn members(&self) -> u32 {
        u32::try_from(self.members.len()).unwrap_or(u32::MAX)
    }

    /// Inner address of a tunnel.
    #[must_use]
    pub fn address(&self, member: u32) -> Option<Ipv4Addr> {
        self.members.get(member as usize)?.address
    }

    /// What went how often.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut counters = self.counters;
        counters.strangers += self.traffic.strangers();
        counters.unsent += self
            .outlet
            .socket
            .as_ref()
            .map_or(0, DatagramSocket::unsent);
        counters
    }

    /// How long set-ups took.
    #[must_use]
    pub const fn set_up(&self) -> &Latency {
        &self.set_up
    }

    /// Why the last attempt failed, if one has.
    #[must_use]
    pub fn last_failure(&self) -> Option<&str> {
        self.last_failure.as_deref()
    }

    /// Time spent in turns that found nothing to do.
    #[must_use]
    pub const fn idle_ns(&self) -> u64 {
        self.idle_ns
    }

    /// The receive buffer of the clients' datagram socket.
    #[must_use]
    pub fn receive_buffer(&self) -> Option<usize> {
        self.outlet
            .socket
            .as_ref()
            .map(DatagramSocket::receive_buffer)
    }

    /// Lets a client begin.
    pub fn start(&mut self, member: u32) {
        let now = Now::read();
        let Some(state) = self.members.get_mut(member as usize) else {
            return;
        };
        if state.phase != Phase::Waiting {
            return;
        }
        state.phase = Phase::Opening(now.ns);
        match state.client() {
            Some(client) => {
                client.start(now.instant);
                self.drain(&now, member);
            }
            None => self.open_link(&now, member, Epoch(0)),
        }
    }

    /// Lets all tunnels end in order; returns when the server has answered or time is over.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn release(&mut self, patience: Duration) -> io::Result<()> {
        let now = Now::read();
        let deadline = now.instant + patience;
        for member in 0..self.members() {
            let Some(state) = self.members.get_mut(member as usize) else {
                continue;
            };
            let Some(client) = state.client() else {
                continue;
            };
            client.release(now.instant, deadline);
            self.drain(&now, member);
        }
        let is_up = |member: &Member| matches!(member.phase, Phase::Up | Phase::Opening(_));
        while Now::read().instant < deadline && self.members.iter().any(is_up) {
            self.turn(Some(Duration::from_millis(5)))?;
        }
        Ok(())
    }

    /// One turn: sends what is due, reads what has come, runs timers. With `wait` it sleeps up to so long if there is
    /// nothing to do; without it never sleeps.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn turn(&mut self, wait: Option<Duration>) -> io::Result<()> {
        let begun = Now::read();
        let mut busy = self.send_requests(&begun);
        busy |= self.receive(&begun)?;
        busy |= self.reflect()?;
        busy |= self.run_timers(&begun);
        self.flush(&begun);
        let wait = match wait {
            Some(wait) if !busy => self.longest_sleep(&begun, wait),
            _ => Duration::ZERO,
        };
        if self.outlet.socket.is_none() {
            busy |= self.poll_streams(&begun, wait)?;
            self.flush(&begun);
        } else if wait > Duration::ZERO {
            self.sleep(wait)?;
        }
        if !busy {
            self.idle_ns += monotonic_ns().saturating_sub(begun.ns);
        }
        Ok(())
    }

    fn send_requests(&mut self, now: &Now) -> bool {
        let mut any = false;
        for _ in 0..REQUESTS {
            let Some(request) = self.traffic.next_request(now.ns) else {
                break;
            };
            any = true;
            let (number, packet) = (request.member, request.packet);
            let is_sent = self.outlet.packet(&mut self.members, number, packet, now);
            if !is_sent {
                self.traffic.note_unsent();
                self.counters.unsent += 1;
            }
        }
        any
    }

    fn receive(&mut self, now: &Now) -> io::Result<bool> {
        let mut any = false;
        for _ in 0..BATCHES {
            let Some(socket) = &self.outlet.socket else {
                break;
            };
            if !socket.receive(&mut self.buffers)? {
                break;
            }
            any = true;
            for received in self.buffers.datagrams() {
                let Some((number, member)) = received
                    .client
                    .filter(|_| received.from == self.outlet.server)
                    .and_then(|number| Some((number, self.members.get_mut(number as usize)?)))
                else {
                    self.counters.strangers += 1;
                    continue;
                };
                let epoch = member.epoch;
                let taken = match &mut member.link {
                    Link::Datagram => member.speech.datagram(
                        now.instant,
                        number,
                        epoch,
                        received.bytes,
                        &mut self.arrived,
                    ),
                    Link::Dtls(session) => {
                        session.handle_datagram(now.instant, received.bytes);
                        let mut taken = Taken::default();
                        while let Some(length) = session.recv(&mut self.scratch) {
                            let bytes = self.scratch.get(..length).unwrap_or_default();
                            let one = member.speech.datagram(
                                now.instant,
                                number,
                                epoch,
                                bytes,
                                &mut self.arrived,
                            );
                            taken.control |= one.control;
                            taken.strangers += one.strangers;
                        }
                        // Handshakes and their answers; nothing to do for data.
                        taken.control |= !matches!(member.phase, Phase::Up);
                        taken
                    }
                    Link::Closed | Link::Stream(_) => Taken {
                        strangers: 1,
                        ..Taken::default()
                    },
                };
                self.counters.strangers += taken.strangers;
                if taken.control {
                    self.talkative.push(number);
                }
            }
            self.settle(now);
        }
        Ok(any)
    }

    /// Counts what has arrived, sends echoes, and lets state machines speak.
    fn settle(&mut self, now: &Now) {
        let mut arrived = std::mem::take(&mut self.arrived);
        if !arrived.is_empty() {
            let now_ns = monotonic_ns();
            for one in arrived.drain(..) {
                let Some(echo) = self.traffic.note_arrival(now_ns, &one) else {
                    continue;
                };
                let (number, packet) = (echo.member, echo.packet);
                let is_sent = self.outlet.packet(&mut self.members, number, packet, now);
                if !is_sent {
                    self.counters.unsent += 1;
                }
            }
        }
        self.arrived = arrived;
        while let Some(member) = self.talkative.pop() {
            self.drain(now, member);
        }
    }

    fn reflect(&mut self) -> io::Result<bool> {
        let Some(reflector) = &mut self.reflector else {
            return Ok(false);
        };
        let traffic = &mut self.traffic;
        reflector.turn(&mut self.buffers, |now_ns, probe| {
            traffic.note_request(now_ns, probe);
        })
    }

    fn poll_streams(&mut self, now: &Now, wait: Duration) -> io::Result<bool> {
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(1));
        let wait = if self.again.is_empty() {
            wait
        } else {
            Duration::ZERO
        };
        let polled = self.poll.poll(&mut events, Some(wait));
        // After a sleep the time is another one.
        let later;
        let now = if wait.is_zero() {
            now
        } else {
            later = Now::read();
            &later
        };
        let mut any = false;
        for event in &events {
            any = true;
            let Ok(number) = u32::try_from(event.token().0) else {
                continue;
            };
            if event.is_writable() {
                self.writable(now, number);
            }
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                self.again.push_back(number);
            }
        }
        self.events = events;
        match polled {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            Ok(()) | Err(_) => {}
        }
        for _ in 0..self.again.len() {
            if let Some(number) = self.again.pop_front() {
                any = true;
                self.read_stream(now, number);
            }
        }
        self.settle(now);
        Ok(any)
    }

    fn read_stream(&mut self, now: &Now, number: u32) {
        let Some(member) = self.members.get_mut(number as usize) else {
            return;
        };
        let Member {
            link: Link::Stream(stream),
            speech,
            epoch,
            phase,
            ..
        } = member
        else {
            return;
        };
        let mut taken = Taken::default();
        let arrived = &mut self.arrived;
        let was_ready = stream.is_ready();
        let end = stream.read(&mut self.scratch, |bytes| {
            let one = speech.stream(now.instant, number, *epoch, bytes, arrived);
            taken.control |= one.control;
            taken.strangers += one.strangers;
        });
        self.counters.strangers += taken.strangers;
        let is_up = *phase == Phase::Up;
        if !was_ready {
            // TLS answers within its handshake.
            self.outlet.soil(member, number);
            self.check_ready(now, number);
        }
        match end {
            Ok(ReadEnd::Drained) => {}
            Ok(ReadEnd::More) => self.again.push_back(number),
            Ok(ReadEnd::Closed) => self.lost(now, number, TransportLoss::ClosedByServer, None),
            Err(error) => {
                self.lost(now, number, TransportLoss::Failed, Some(error.to_string()));
            }
        }
        if taken.control || !is_up {
            self.talkative.push(number);
        }
    }

    fn writable(&mut self, now: &Now, number: u32) {
        let Some(Member {
            link: Link::Stream(stream),
            ..
        }) = self.members.get_mut(number as usize)
        else {
            return;
        };
        match stream.writable() {
            Ok(()) => self.check_ready(now, number),
            Err(error) => self.lost(now, number, TransportLoss::Failed, Some(error.to_string())),
        }
    }

    /// Tells the state machine once that its stream or association is there.
    fn check_ready(&mut self, now: &Now, number: u32) {
        let Some(member) = self.members.get_mut(number as usize) else {
            return;
        };
        let is_ready = match &member.link {
            Link::Stream(stream) => stream.is_ready(),
            Link::Datagram => true,
            Link::Closed | Link::Dtls(_) => false,
        };
        if !is_ready {
            return;
        }
        let epoch = member.epoch;
        match &mut member.speech {
            Speech::Tunnel(client, _) => {
                client.transport_opened(now.instant, epoch);
                self.drain(now, number);
            }
            Speech::Bare(_) => self.came_up(now, number),
        }
    }

    fn came_up(&mut self, now: &Now, number: u32) {
        let Some(member) = self.members.get_mut(number as usize) else {
            return;
        };
        if let Phase::Opening(since) = member.phase {
            member.phase = Phase::Up;
            self.counters.up += 1;
            self.set_up.record_ns(monotonic_ns().max(now.ns) - since);
        }
    }

    fn lost(&mut self, now: &Now, number: u32, why: TransportLoss, text: Option<String>) {
        let Some(member) = self.members.get_mut(number as usize) else {
            return;
        };
        let Link::Stream(stream) = &member.link else {
            return;
        };
        let was_ready = stream.is_ready();
        let epoch = member.epoch;
        member.link = Link::Closed;
        if let Some(text) = text {
            self.last_failure = Some(text);
        }
        match &mut member.speech {
            Speech::Tunnel(client, _) => {
                if was_ready {
                    client.transport_lost(now.instant, epoch, why);
                } else {
                    client.transport_failed(now.instant, epoch, TransportFailure::Unreachable);
                }
                self.talkative.push(number);
            }
            Speech::Bare(_) => {
                member.phase = Phase::Down;
                self.counters.down += 1;
            }
        }
    }

    fn run_timers(&mut self, now: &Now) -> bool {
        let mut any = false;
        for _ in 0..TIMERS {
            let Some(number) = self.timers.due(now.ns) else {
                break;
            };
            let Some(member) = self.members.get_mut(number as usize) else {
                continue;
            };
            member.armed_ns = None;
            let due = member.poll_timeout().is_some_and(|at| at <= now.instant);
            if due {
                any = true;
                if let Link::Dtls(session) = &mut member.link {
                    session.handle_timeout(now.instant);
                }
                if let Some(client) = member.client() {
                    client.handle_timeout(now.instant);
                }
            }
            self.drain(now, number);
        }
        self.settle(now);
        any
    }

    /// Carries out what a client's machines ask for.
    fn drain(&mut self, now: &Now, number: u32) {
        loop {
            self.drain_session(now, number);
            let Some(member) = self.members.get_mut(number as usize) else {
                return;
            };
            let Some(client) = member.client() else {
                return;
            };
            if let Some(transmit) = client.poll_transmit() {
                if transmit.epoch == member.epoch {
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
                self.last_failure = Some(failure.to_string());
            }
            Event::Down(reason) => {
                if member.phase != Phase::Down {
                    member.phase = Phase::Down;
                    self.counters.down += 1;
                    self.last_failure = Some(reason.to_string());
                }
            }
            _ => {}
        }
    }

    fn open_link(&mut self, now: &Now, number: u32, epoch: Epoch) {
        let server = self.outlet.server;
        let from = server.ip().is_loopback().then(|| client_address(number));
        let opened = match &self.protocol {
            Protocol::Bare(Transport::Udp | Transport::Dtls) | Protocol::Tunnel(Security::Udp) => {
                Ok(Link::Datagram)
            }
            Protocol::Bare(Transport::Tcp | Transport::Tls) | Protocol::Tunnel(Security::Tcp) => {
                StreamLink::connect(server, from, None).map(|link| Link::Stream(Box::new(link)))
            }
            Protocol::Tunnel(Security::Tls(config, name)) => {
                StreamLink::connect(server, from, Some((config, name)))
                    .map(|link| Link::Stream(Box::new(link)))
            }
            Protocol::Tunnel(Security::Dtls(config, name)) => config
                .connect(now.instant, name)
                .map(Link::Dtls)
                .map_err(io::Error::other),
        };
        let registered = opened.and_then(|mut link| {
            if let Link::Stream(stream) = &mut link {
                self.poll.registry().register(
                    stream.socket(),
                    Token(number as usize),
                    Interest::READABLE | Interest::WRITABLE,
                )?;
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
                if let Some(client) = member.client() {
                    client.transport_failed(now.instant, epoch, TransportFailure::Unreachable);
                } else {
                    member.phase = Phase::Down;
                    self.counters.down += 1;
                }
            }
        }
    }

    fn close_link(&mut self, now: &Now, number: u32) {
        let Some(member) = self.members.get_mut(number as usize) else {
            return;
        };
        match std::mem::take(&mut member.link) {
            Link::Dtls(mut session) => {
                session.close(now.instant);
                self.outlet.session(session.as_mut(), number);
            }
            Link::Stream(mut stream) => {
                // What was to be sent before it closes; it is over in any case.
                let _over = stream.flush();
            }
            Link::Datagram | Link::Closed => {}
        }
    }

    /// Moves what a DTLS association has to say.
    fn drain_session(&mut self, now: &Now, number: u32) {
        let Some(member) = self.members.get_mut(number as usize) else {
            return;
        };
        let Link::Dtls(session) = &mut member.link else {
            return;
        };
        self.outlet.session(session.as_mut(), number);
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
            if let Some(client) = member.client() {
                client.transport_opened(now.instant, epoch);
            }
        }
        if let Some(error) = closed {
            self.last_failure = Some(error.to_string());
            member.link = Link::Closed;
            if let Some(client) = member.client() {
                client.transport_failed(now.instant, epoch, TransportFailure::Handshake);
                client.transport_lost(now.instant, epoch, TransportLoss::Failed);
            }
        }
    }

    fn arm(&mut self, now: &Now, number: u32) {
        let Some(member) = self.members.get_mut(number as usize) else {
            return;
        };
        let Some(at) = member.poll_timeout() else {
            return;
        };
        let wait = at.saturating_duration_since(now.instant);
        let at_ns = now
            .ns
            .saturating_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX));
        if member.armed_ns.is_none_or(|armed| at_ns < armed) {
            member.armed_ns = Some(at_ns);
            self.timers.set(at_ns, number);
        }
    }

    /// Writes what this turn has gathered.
    fn flush(&mut self, now: &Now) {
        if let Some(socket) = &mut self.outlet.socket {
            socket.flush();
        }
        let mut dirty = std::mem::take(&mut self.outlet.dirty);
        for number in dirty.drain(..) {
            let Some(member) = self.members.get_mut(number as usize) else {
                continue;
            };
            member.is_dirty = false;
            if let Link::Stream(stream) = &mut member.link
                && let Err(error) = stream.flush()
            {
                self.lost(now, number, TransportLoss::Failed, Some(error.to_string()));
            }
        }
        // What has come up meanwhile is written in the next turn.
        dirty.append(&mut self.outlet.dirty);
        self.outlet.dirty = dirty;
        self.settle(now);
    }

    /// How long nothing has to be done, at most `wait`.
    fn longest_sleep(&self, now: &Now, wait: Duration) -> Duration {
        if !self.outlet.dirty.is_empty() {
            return Duration::ZERO;
        }
        let next = [self.timers.next_ns(), self.traffic.due_ns()];
        let until = next.into_iter().flatten().min().unwrap_or(u64::MAX);
        let mut wait = wait.min(Duration::from_nanos(until.saturating_sub(now.ns)));
        if self.outlet.socket.is_none() && self.reflector.is_some() {
            // Streams are waited for by another means than the reflector's socket.
            wait = wait.min(Duration::from_millis(1));
        }
        wait
    }

    /// Sleeps until a datagram comes, at most `wait`; what is shorter than a millisecond is spent awake.
    fn sleep(&self, wait: Duration) -> io::Result<()> {
        let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
        let sockets = [
            self.outlet.socket.as_ref(),
            self.reflector.as_ref().map(Reflector::socket),
        ];
        let mut fds: Vec<_> = sockets
            .iter()
            .flatten()
            .map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN))
            .collect();
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
