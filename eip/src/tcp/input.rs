//! Segments from the network.

use std::time::Instant;

use tracing::trace;

use super::Tcp;
use super::arrival::Outcome;
use super::listener::Step;
use super::segment::{Reply, Segment, Tuple};
use super::seq::Seq;
use super::table::Holder;
use super::timers::Due;
use super::types::TcpState;
use super::wait::Echo;
use crate::egress::Egress;
use crate::error::TcpError;
use crate::slots::Key;

impl Tcp {
    /// Takes a segment. Returns whether it concerned somebody.
    pub(crate) fn input(
        &mut self,
        now: Instant,
        segment: &Segment<'_>,
        transparent: bool,
        egress: &mut Egress,
    ) -> bool {
        self.counters.segments_in += 1;
        let anew = match self.table.get(&segment.tuple) {
            Some(Holder::Connection(key)) => {
                self.deliver(now, key, segment, egress);
                false
            }
            Some(Holder::HalfOpen(listener, key)) => {
                self.half_open_input(now, listener, key, segment, egress)
            }
            Some(Holder::Incoming(key)) => self.incoming_input(key, segment),
            Some(Holder::TimeWait(key)) => self.wait_input(now, key, segment, egress),
            None => true,
        };
        !anew || self.stranger(now, segment, transparent, egress)
    }

    /// A segment for which there is no connection.
    fn stranger(
        &mut self,
        now: Instant,
        segment: &Segment<'_>,
        transparent: bool,
        egress: &mut Egress,
    ) -> bool {
        if segment.is_rst() {
            return false;
        }
        if segment.is_request() {
            if let Some(listener) = self.listening.lookup(segment.tuple.local) {
                self.request(now, listener, segment, egress);
                return true;
            }
            if transparent {
                self.arrive(now, segment);
                return true;
            }
        }
        self.refuse(now, segment, egress);
        false
    }

    pub(super) fn refuse(&mut self, now: Instant, segment: &Segment<'_>, egress: &mut Egress) {
        if segment.is_rst() || !self.resets.allow(now) {
            return;
        }
        self.counters.resets_out += 1;
        self.send(&segment.tuple, &Reply::reset(segment), egress);
    }

    /// A segment for a connection.
    pub(super) fn deliver(
        &mut self,
        now: Instant,
        key: Key,
        segment: &Segment<'_>,
        egress: &mut Egress,
    ) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let mtu = egress.path_mtu(now, connection.tuple.remote.ip());
        let path = connection.payload_of(mtu);
        match connection.arrive(now, segment, &self.budget, path) {
            Outcome::Heard => {
                connection.heard = now;
                self.settle(now, key, true, egress);
            }
            Outcome::Answered => {
                self.counters.unacceptable += 1;
                self.settle(now, key, false, egress);
            }
            Outcome::Dropped => self.counters.unacceptable += 1,
            Outcome::Challenge => {
                self.counters.unacceptable += 1;
                let tuple = connection.tuple;
                if let Some(challenge) = connection.challenge(now) {
                    self.counters.challenges += 1;
                    self.send(&tuple, &challenge, egress);
                }
            }
            Outcome::Refused => self.refuse(now, segment, egress),
            Outcome::Reset => self.was_reset(key),
        }
    }

    fn was_reset(&mut self, key: Key) {
        self.counters.resets_in += 1;
        let announced = self
            .connections
            .get(key)
            .is_some_and(|connection| connection.announced);
        let error = if announced {
            TcpError::Reset
        } else {
            TcpError::Refused
        };
        self.fail(key, error);
    }

    /// Returns whether the segment is to be looked at anew.
    fn half_open_input(
        &mut self,
        now: Instant,
        listener: Key,
        key: Key,
        segment: &Segment<'_>,
        egress: &mut Egress,
    ) -> bool {
        let Some(half_open) = self
            .listeners
            .get_mut(listener)
            .and_then(|listener| listener.half_open.get_mut(key))
        else {
            return false;
        };
        match half_open.step(now, segment) {
            Step::Open => self.complete(now, listener, key, segment, egress),
            Step::Answer => self.answer(listener, key, now, egress),
            Step::Restart => {
                self.forget_half_open(listener, key);
                return true;
            }
            Step::Remove => self.forget_half_open(listener, key),
            Step::Reset => self.refuse(now, segment, egress),
            Step::Ignore => {}
        }
        false
    }

    /// Returns whether the segment is to be looked at anew.
    fn incoming_input(&mut self, key: Key, segment: &Segment<'_>) -> bool {
        let Some(incoming) = self.incoming.get(key) else {
            return false;
        };
        let first = incoming.sequence;
        let gives_up = segment.is_rst() && segment.seq().since(first) <= 1;
        let restarts = segment.is_request() && segment.seq() != first;
        if gives_up || restarts {
            self.forget_incoming(key);
        }
        restarts
    }

    /// Returns whether the segment is to be looked at anew.
    fn wait_input(
        &mut self,
        now: Instant,
        key: Key,
        segment: &Segment<'_>,
        egress: &mut Egress,
    ) -> bool {
        let Some(wait) = self.waits.get_mut(key) else {
            return false;
        };
        match wait.hear(segment) {
            Echo::Ignore => false,
            Echo::Repeat { restart } => {
                if restart {
                    self.timers.disarm(wait.armed, Due::TimeWait(key));
                    wait.armed = now + self.limits.time_wait;
                    self.timers.arm(wait.armed, Due::TimeWait(key));
                }
                let (tuple, last) = (wait.tuple, wait.last);
                self.send(&tuple, &last, egress);
                false
            }
            echo @ (Echo::Successor | Echo::End) => {
                self.timers.disarm(wait.armed, Due::TimeWait(key));
                self.waits.remove(key);
                self.table.remove(&segment.tuple);
                echo == Echo::Successor
            }
        }
    }

    /// The connection that may have sent a segment quoted in an ICMP message.
    pub(crate) fn quoted(&self, tuple: &Tuple, sequence: u32) -> Option<Key> {
        let Some(Holder::Connection(key)) = self.table.get(tuple) else {
            return None;
        };
        self.connections
            .get(key)?
            .may_have_sent(Seq(sequence))
            .then_some(key)
    }

    /// Takes an ICMP error about a segment of `key`'s. Only an attempt to open ends by it: what is
    /// open has heard from its peer, and anybody on the way can forge the rest (RFC 5927, section
    /// 5; RFC 1122, section 4.2.3.9).
    pub(crate) fn icmp_error(&mut self, key: Key, error: TcpError) {
        let opening = self
            .connections
            .get(key)
            .is_some_and(|connection| connection.state() == TcpState::SynSent);
        if opening {
            trace!(%error, "attempt to open ended by ICMP");
            self.fail(key, error);
        }
    }

    /// A router has said that the path of `key`'s segments carries less than they are long: those that are on their
    /// way are lost, and sent again at once.
    pub(crate) fn path_shrank(&mut self, now: Instant, key: Key, egress: &mut Egress) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let mtu = egress.path_mtu(now, connection.tuple.remote.ip());
        connection.path_shrank(now, mtu);
        self.settle(now, key, false, egress);
    }
}
