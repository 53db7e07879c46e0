//! The loop: one thread that drives all clients, their traffic, a reflector, and hostile traffic beside them.

mod life;
mod turn;

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use mio::{Events, Poll};
use rustls_pki_types::ServerName;
use tsc_csm::client::{Client, ClientConfig, Endpoint, Epoch, Target};
use tsc_csm::{Random, Transport};
use tsc_osaa::dtls::DtlsClientConfig;
use tsc_osaa::random::OsRandom;

use crate::attack::Attacker;
use crate::clock::Now;
use crate::echo::StreamEcho;
use crate::inlet::Inlet;
use crate::link::{Buffers, DatagramSocket};
use crate::measure::Latency;
use crate::member::{Member, Phase, Speech};
use crate::outlet::{Outlet, Way};
use crate::peer::{Account, TurnClient};
use crate::reflector::Reflector;
use crate::system::Stop;
use crate::timers::Timers;
use crate::traffic::Traffic;

/// Events of sockets taken in one turn.
const EVENTS: usize = 1024;

/// The first configuration of a client may take so long; a herd of thousands is patient.
const PATIENCE: Duration = Duration::from_secs(300);

/// What the clients speak, and over what.
#[derive(Clone)]
pub struct Protocol {
    /// The transport.
    pub security: Security,
    /// What is said over it.
    pub dialect: Dialect,
}

/// What is said over a transport.
#[derive(Clone)]
pub enum Dialect {
    /// Payloads only, to a relay: the baseline. Over streams with two bytes of length.
    Bare,
    /// Tunnels.
    Tunnel,
    /// TURN, to a peer that we are compared with.
    Turn(Arc<Account>),
}

/// What a transport needs.
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
        match self.security {
            Security::Tcp => Transport::Tcp,
            Security::Udp => Transport::Udp,
            Security::Tls(..) => Transport::Tls,
            Security::Dtls(..) => Transport::Dtls,
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
    /// Of them, those that the server answered with busy or no resources.
    pub busy: u64,
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
    inlet: Inlet,
    buffers: Box<Buffers>,
    /// For what is read from streams and from clients' own sockets.
    scratch: Vec<u8>,
    poll: Poll,
    /// Taken away while they are worked on.
    events: Option<Events>,
    timers: Timers,
    /// Members whose socket may have more.
    again: VecDeque<u32>,
    /// Members whose state machine may have something to say.
    talkative: Vec<u32>,
    reflector: Option<Reflector>,
    echo: Option<StreamEcho>,
    attacker: Option<Attacker>,
    /// Leaves the processor to others when there is nothing to do.
    is_considerate: bool,
    /// The load itself.
    pub traffic: Traffic,
    counters: Counters,
    /// From the first attempt until the tunnel was there.
    set_up: Latency,
    last_failure: Option<String>,
    idle_ns: u64,
    turns: u64,
    stop: Stop,
}

struct Chance;

impl Random for Chance {
    fn fill(&mut self, buf: &mut [u8]) {
        OsRandom.fill(buf);
    }
}

/// The state machine of a tunnel over a transport to the one server there is.
///
/// # Errors
///
/// None that a fixed configuration could have.
pub(crate) fn new_client(transport: Transport) -> io::Result<Client> {
    let mut config = ClientConfig::new(vec![Target {
        transport,
        endpoint: Endpoint::Configured(0),
    }]);
    config.connect_timeout = PATIENCE;
    Client::new(config, Box::new(Chance)).map_err(io::Error::other)
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
        // Elsewhere than on loopback all clients have the same address, and need ports of their own.
        let is_shared = server.ip().is_loopback() && server.is_ipv4();
        let way = if is_shared && !protocol.transport().is_stream() {
            let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
            Way::Shared(DatagramSocket::bind(any)?)
        } else {
            Way::Own
        };
        Self::over(way, protocol, server, members, traffic)
    }

    /// One bare client, which sends through `socket` to an echo at `far`.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn through(socket: DatagramSocket, far: SocketAddr, traffic: Traffic) -> io::Result<Self> {
        let protocol = Protocol {
            security: Security::Udp,
            dialect: Dialect::Bare,
        };
        Self::over(Way::Single(socket), protocol, far, 1, traffic)
    }

    fn over(
        way: Way,
        protocol: Protocol,
        server: SocketAddr,
        members: u32,
        traffic: Traffic,
    ) -> io::Result<Self> {
        let new_member = |_| match &protocol.dialect {
            Dialect::Bare => Ok(Member::bare()),
            Dialect::Tunnel => new_client(protocol.transport()).map(Member::tunnel),
            Dialect::Turn(account) => Ok(Member::turn(TurnClient::new(Arc::clone(account)))),
        };
        Ok(Self {
            members: (0..members).map(new_member).collect::<io::Result<_>>()?,
            protocol,
            outlet: Outlet::new(way, server),
            inlet: Inlet::default(),
            buffers: Box::default(),
            scratch: vec![0; 256 * 1024],
            poll: Poll::new()?,
            events: Some(Events::with_capacity(EVENTS)),
            timers: Timers::default(),
            again: VecDeque::new(),
            talkative: Vec::new(),
            reflector: None,
            echo: None,
            attacker: None,
            is_considerate: false,
            traffic,
            counters: Counters::default(),
            set_up: Latency::new(),
            last_failure: None,
            idle_ns: 0,
            turns: 0,
            stop: Stop::new()?,
        })
    }

    /// Lets packets of a client that are due at the same time leave in one call, where they are alike.
    pub fn allow_trains(&mut self) {
        if let Some(socket) = self.outlet.way.socket_mut() {
            socket.allow_trains();
        }
    }

    /// Echoes within this process, for bare sessions and for what comes out of the core side.
    pub fn set_reflector(&mut self, reflector: Reflector) {
        self.reflector = Some(reflector);
    }

    /// Echoes on streams within this process.
    pub fn set_echo(&mut self, echo: StreamEcho) {
        self.echo = Some(echo);
    }

    /// Leaves the processor to others whenever there is nothing to do, because the system under test has a part that runs on it.
    pub const fn be_considerate(&mut self) {
        self.is_considerate = true;
    }

    /// Hostile traffic beside the clients; `None` ends it. What there was before is given back.
    pub fn set_attacker(&mut self, attacker: Option<Attacker>) -> Option<Attacker> {
        std::mem::replace(&mut self.attacker, attacker)
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

    /// How many of the first `members` tunnels can send at the moment.
    #[must_use]
    pub fn alive(&self, members: u32) -> u32 {
        let can_send = |member: &&Member| match &member.speech {
            Speech::Tunnel(client, _) => client.can_send().is_some(),
            Speech::Bare(_) | Speech::Turn(_) => member.phase == Phase::Up,
        };
        let some = self.members.iter().take(members as usize);
        u32::try_from(some.filter(can_send).count()).unwrap_or(u32::MAX)
    }

    /// What went how often.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut counters = self.counters;
        counters.strangers += self.traffic.strangers();
        let socket = self.outlet.way.socket();
        counters.unsent += self.outlet.unsent + socket.map_or(0, DatagramSocket::unsent);
        counters
    }

    /// Keepalives that all tunnels have sent.
    #[must_use]
    pub fn keepalives(&self) -> u64 {
        let sent = |member: &Member| match &member.speech {
            Speech::Tunnel(client, _) => client.stats().keepalives,
            Speech::Bare(_) | Speech::Turn(_) => 0,
        };
        self.members.iter().map(sent).sum()
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

    /// The receive buffer of the clients' datagram socket, in bytes.
    #[must_use]
    pub fn receive_buffer(&self) -> Option<usize> {
        self.outlet.way.socket().map(DatagramSocket::receive_buffer)
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
            Some(client) => client.start(now.instant),
            None => self.open_link(&now, member, Epoch(0)),
        }
        self.drain(&now, member);
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
            if let Some(client) = state.client() {
                client.release(now.instant, deadline);
                self.drain(&now, member);
            }
        }
        let is_up = |member: &Member| matches!(member.phase, Phase::Up | Phase::Opening(_));
        while Now::read().instant < deadline && self.members.iter().any(is_up) {
            self.turn(Some(Duration::from_millis(5)))?;
        }
        Ok(())
    }
}
