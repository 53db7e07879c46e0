//! One turn of the loop: what is due leaves, what has come is taken.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use mio::Events;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tsc_csm::client::TransportLoss;

use super::{EVENTS, Engine};
use crate::clock::{Now, monotonic_ns};
use crate::link::ReadEnd;
use crate::member::{Link, Member, Phase, Speech, Taken};
use crate::reflector::Reflector;

/// Batches of datagrams read in one turn.
const BATCHES: usize = 4;

/// Requests sent in one turn, so that reading is never kept waiting for long.
const REQUESTS: usize = 64;

/// Timers run in one turn.
const TIMERS: usize = 256;

/// Datagrams read from one client's own socket in one turn.
const OWN_DATAGRAMS: usize = 64;

/// Signals are looked for once in so many turns.
const STOP_TURNS: u64 = 4096;

impl Engine {
    /// One turn: sends what is due, reads what has come, runs timers. With `wait` it sleeps up to so long if there is
    /// nothing to do; without it never sleeps.
    ///
    /// # Errors
    ///
    /// What the system says, or a signal wants this program to end.
    pub fn turn(&mut self, wait: Option<Duration>) -> io::Result<()> {
        self.turns = self.turns.wrapping_add(1);
        if wait.is_some() || self.turns.is_multiple_of(STOP_TURNS) {
            self.stop.check()?;
        }
        let begun = Now::read();
        let mut busy = self.send_requests(&begun);
        if let Some(attacker) = &mut self.attacker {
            busy |= attacker.turn(&mut self.buffers, begun.ns)?;
        }
        busy |= self.receive(&begun)?;
        busy |= self.reflect()?;
        busy |= self.run_timers(&begun);
        self.flush(&begun);
        let wait = match wait {
            Some(wait) if !busy => self.longest_sleep(&begun, wait),
            _ => Duration::ZERO,
        };
        if self.outlet.way.socket().is_none() {
            busy |= self.poll_sockets(&begun, wait)?;
            self.flush(&begun);
        } else if wait > Duration::ZERO {
            self.sleep(wait)?;
        }
        if !busy {
            if self.is_considerate {
                std::thread::yield_now();
            }
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
            if !self.outlet.packet(&mut self.members, number, packet, now) {
                self.traffic.note_unsent();
                self.counters.unsent += 1;
            }
        }
        any
    }

    /// Reads the socket that all clients share.
    fn receive(&mut self, now: &Now) -> io::Result<bool> {
        let mut any = false;
        for _ in 0..BATCHES {
            let Some(socket) = self.outlet.way.socket() else {
                break;
            };
            if !socket.receive(&mut self.buffers)? {
                break;
            }
            any = true;
            let (server, single) = (self.outlet.server, self.outlet.way.single());
            for received in self.buffers.datagrams() {
                let member = single
                    .or(received.client)
                    .filter(|_| received.from == server)
                    .and_then(|number| Some((number, self.members.get_mut(number as usize)?)));
                let Some((number, member)) = member else {
                    self.counters.strangers += 1;
                    continue;
                };
                let taken = self.inlet.datagram(now, number, member, received.bytes);
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
    pub(super) fn settle(&mut self, now: &Now) {
        let mut arrived = std::mem::take(&mut self.inlet.arrived);
        if !arrived.is_empty() {
            let now_ns = monotonic_ns();
            for one in arrived.drain(..) {
                let Some(echo) = self.traffic.note_arrival(now_ns, &one) else {
                    continue;
                };
                let (number, packet) = (echo.member, echo.packet);
                if !self.outlet.packet(&mut self.members, number, packet, now) {
                    self.counters.unsent += 1;
                }
            }
        }
        self.inlet.arrived = arrived;
        while let Some(member) = self.talkative.pop() {
            self.drain(now, member);
        }
    }

    fn reflect(&mut self) -> io::Result<bool> {
        let traffic = &mut self.traffic;
        let mut watch = |now_ns, probe: &_| traffic.note_request(now_ns, probe);
        let mut any = false;
        if let Some(reflector) = &mut self.reflector {
            any |= reflector.turn(&mut self.buffers, &mut watch)?;
        }
        if let Some(echo) = &mut self.echo {
            any |= echo.turn(&mut watch)?;
        }
        Ok(any)
    }

    /// Waits for streams and clients' own sockets, and reads what has come.
    fn poll_sockets(&mut self, now: &Now, wait: Duration) -> io::Result<bool> {
        let taken = self.events.take();
        let mut events = taken.unwrap_or_else(|| Events::with_capacity(EVENTS));
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
            let is_end = event.is_read_closed() || event.is_error();
            if is_end
                && let Some(Member {
                    link: Link::Stream(stream),
                    ..
                }) = self.members.get_mut(number as usize)
            {
                stream.ends();
            }
            if event.is_readable() || is_end {
                self.again.push_back(number);
            }
        }
        self.events = Some(events);
        match polled {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            Ok(()) | Err(_) => {}
        }
        for _ in 0..self.again.len() {
            if let Some(number) = self.again.pop_front() {
                any = true;
                self.read(now, number);
            }
        }
        self.settle(now);
        Ok(any)
    }

    fn read(&mut self, now: &Now, number: u32) {
        match self.members.get(number as usize).map(|one| &one.link) {
            Some(Link::Stream(_)) => self.read_stream(now, number),
            Some(Link::Datagram(_) | Link::Dtls(..)) => {
                if self.read_socket(now, number) {
                    self.again.push_back(number);
                }
            }
            Some(Link::Closed) | None => {}
        }
    }

    /// Reads a client's own datagram socket; whether there may be more.
    fn read_socket(&mut self, now: &Now, number: u32) -> bool {
        let Some(member) = self.members.get_mut(number as usize) else {
            return false;
        };
        for _ in 0..OWN_DATAGRAMS {
            let (Link::Datagram(Some(socket)) | Link::Dtls(_, Some(socket))) = &member.link else {
                return false;
            };
            // Whether nothing is there or nobody listens (any more): the state machines find out by themselves.
            let Ok(length) = socket.recv(&mut self.scratch) else {
                return false;
            };
            let bytes = self.scratch.get_mut(..length).unwrap_or_default();
            let taken = self.inlet.datagram(now, number, member, bytes);
            self.counters.strangers += taken.strangers;
            if taken.control {
                self.talkative.push(number);
            }
        }
        true
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
        let arrived = &mut self.inlet.arrived;
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
                self.lost(now, number, TransportLoss::Failed, Some(error));
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
            Err(error) => self.lost(now, number, TransportLoss::Failed, Some(error)),
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
            if member.poll_timeout().is_some_and(|at| at <= now.instant) {
                any = true;
                if let Link::Dtls(session, _) = &mut member.link {
                    session.handle_timeout(now.instant);
                }
                match &mut member.speech {
                    Speech::Tunnel(client, _) => client.handle_timeout(now.instant),
                    Speech::Turn(turn) => turn.handle_timeout(now.instant),
                    Speech::Bare(_) => {}
                }
            }
            self.drain(now, number);
        }
        self.settle(now);
        any
    }

    /// Writes what this turn has gathered.
    fn flush(&mut self, now: &Now) {
        if let Some(socket) = self.outlet.way.socket_mut() {
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
                self.lost(now, number, TransportLoss::Failed, Some(error));
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
        let wait = wait.min(Duration::from_nanos(until.saturating_sub(now.ns)));
        let echoes = self.reflector.is_some() || self.echo.is_some();
        if self.outlet.way.socket().is_none() && echoes {
            // Streams are waited for by another means than the echo's sockets.
            return wait.min(Duration::from_millis(1));
        }
        wait
    }

    /// Sleeps until a datagram comes, at most `wait`; what is shorter than a millisecond is spent awake.
    fn sleep(&self, wait: Duration) -> io::Result<()> {
        let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
        let sockets = [
            self.outlet.way.socket(),
            self.reflector.as_ref().map(Reflector::socket),
        ];
        let mut fds: Vec<_> = sockets
            .iter()
            .flatten()
            .map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN))
            .collect();
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
