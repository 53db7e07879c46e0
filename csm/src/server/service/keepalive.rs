//! Server keepalive: the server asks whether the client is there, and the client is silent (spec 5, spec 7).
//!
//! *Problem*: a telephone that sends a Keepalive wakes up for it. *Mechanism*: the server sends them, three at most like a
//! client's, and loses the transport when nothing authentic comes back. The deadline stands in the one queue with the
//! tunnel's others, and what has come is read from the time of its last activity: a packet costs nothing more. For the same
//! reason what else was sent puts no Keepalive off: that would be one more thing to write for each packet to the client.

use std::time::{Duration, Instant};

use tsc_tpl::{CmType, ResponseCode, Seconds, Sequence, Tlv};

use super::super::Server;
use super::super::arena::Key;
use super::super::event::{CloseReason, Event};
use super::super::session::{Life, Session};
use super::Served;
use crate::random::Random;
use crate::service::ServiceGrant;
use crate::transaction::{Request, Schedule, Step};
use crate::wire;

/// The service in force for one tunnel. While that has no transport nothing is due.
#[derive(Debug)]
pub(super) struct ServerKeepalive {
    /// When the next one begins; `None` where the interval is 0, which is never (spec 3.3).
    next: Option<Instant>,
    /// The one that waits for a sign of life.
    asked: Option<Asked>,
    /// Its answer, or that of the one before: may come after another unit has served as one.
    last: Option<Sequence>,
}

#[derive(Debug)]
struct Asked {
    request: Request<()>,
    since: Instant,
}

impl ServerKeepalive {
    fn new(now: Instant, interval: Duration, random: &mut dyn Random) -> Self {
        Self {
            next: next(now, interval, random),
            asked: None,
            last: None,
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.asked {
            Some(asked) => Some(asked.request.due()),
            None => self.next,
        }
    }

    /// What there is to be told of the service of this tunnel.
    pub(super) const fn grant(interval: Duration) -> ServiceGrant {
        ServiceGrant::ServerKeepalive(interval)
    }
}

/// Half the interval, less up to a tenth (spec 5).
fn next(now: Instant, interval: Duration, random: &mut dyn Random) -> Option<Instant> {
    let half = interval / 2;
    (!half.is_zero()).then(|| now + half - random.up_to(half / 10))
}

impl Session {
    fn server_keepalive(&mut self) -> Option<&mut ServerKeepalive> {
        self.services.as_mut()?.keepalive.as_mut()
    }
}

impl Server {
    /// Harmless when it is in force already: the answer may have been lost for longer than it is remembered.
    pub(super) fn enable_keepalive(&mut self, now: Instant, key: Key) -> Served {
        let id = self.session_id(key);
        let session = self
            .sessions
            .get_mut(key)
            .ok_or(ResponseCode::SERVICE_UNAVAILABLE)?;
        let interval = session.timers().keepalive;
        if session.server_keepalive().is_none() {
            let keepalive = ServerKeepalive::new(now, interval, &mut self.random);
            session.services.get_or_insert_default().keepalive = Some(keepalive);
            self.events.push_back(Event::ServiceGranted {
                session: id,
                grant: ServerKeepalive::grant(interval),
            });
        }
        let seconds = u16::try_from(interval.as_secs()).unwrap_or(u16::MAX);
        Ok(vec![Tlv::KeepaliveInterval(Seconds(seconds))].into())
    }

    /// Not to have it is no error, so that a client can always come to rest.
    pub(super) fn disable_keepalive(&mut self, key: Key) {
        let id = self.session_id(key);
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let interval = session.timers().keepalive;
        let Some(services) = &mut session.services else {
            return;
        };
        if services.keepalive.take().is_none() {
            return;
        }
        if services.is_empty() {
            session.services = None;
        }
        self.events.push_back(Event::ServiceEnded {
            session: id,
            grant: ServerKeepalive::grant(interval),
        });
    }

    /// The tunnel has another transport: it was heard just now, and its interval may be another.
    pub(in super::super) fn restart_keepalive(&mut self, now: Instant, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let interval = session.timers().keepalive;
        if let Some(keepalive) = session.server_keepalive() {
            *keepalive = ServerKeepalive::new(now, interval, &mut self.random);
        }
    }

    /// Whether this answers a Keepalive of ours.
    pub(in super::super) fn answers_keepalive(
        &mut self,
        key: Key,
        cm_type: CmType,
        sequence: Sequence,
    ) -> bool {
        let session = self.sessions.get_mut(key);
        let keepalive = session.and_then(Session::server_keepalive);
        cm_type == CmType::KEEPALIVE_RESPONSE
            && keepalive.is_some_and(|keepalive| keepalive.last == Some(sequence))
    }

    /// Does what is due; whether the tunnel still has its transport.
    pub(in super::super) fn keepalive_timeout(&mut self, now: Instant, key: Key) -> bool {
        let Some(session) = self.sessions.get_mut(key) else {
            return true;
        };
        if matches!(session.life, Life::Releasing(_)) {
            return true;
        }
        let Some(binding) = session.binding else {
            return true;
        };
        let (interval, heard) = (session.timers().keepalive, session.last_activity);
        let (tsid, sequence) = (session.tsid, session.next_sequence);
        let Some(keepalive) = session.server_keepalive() else {
            return true;
        };
        if let Some(asked) = &mut keepalive.asked {
            if heard > asked.since {
                keepalive.next = next(asked.since, interval, &mut self.random);
                keepalive.asked = None;
            } else {
                match asked.request.poll(now) {
                    Step::Wait => return true,
                    Step::Retransmit(bytes) => {
                        self.stats.retransmissions += 1;
                        self.transmit_over(binding, bytes);
                        return true;
                    }
                    Step::Failed => {
                        tracing::debug!(%tsid, "no answer to Keepalives");
                        let _ = self.close_binding(now, binding, CloseReason::KeepaliveFailure);
                        return false;
                    }
                }
            }
        }
        if keepalive.next.is_none_or(|next| next > now) {
            return true;
        }
        let Some(transport) = self
            .bindings
            .get(binding.key())
            .map(|found| found.transport)
        else {
            return true;
        };
        let Some(bytes) = wire::keepalive(tsid, sequence) else {
            keepalive.next = None;
            return true;
        };
        let schedule = Schedule::keepalive(transport.is_stream());
        let answer = CmType::KEEPALIVE_RESPONSE;
        let request = Request::sent(now, (), sequence, answer, bytes.clone(), schedule);
        keepalive.last = Some(sequence);
        keepalive.asked = Some(Asked {
            request,
            since: now,
        });
        session.next_sequence = sequence.next();
        self.stats.keepalives += 1;
        self.transmit_over(binding, bytes);
        true
    }
}
