//! What is written down: log lines.

use std::{
    fmt::Arguments,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tsc_csm::{
    Transport,
    server::{Event, Identity, SessionId},
};
use tsc_tpl::Tsid;

/// Lines at `info` or above that strangers can cause, in a minute; the rest is counted, and written at `debug`.
const LOGGED_PER_MINUTE: u32 = 20;

/// One line for each event that an operator wants to find again; packets never get here. Tunnels are named by their
/// TSID, which clients and captures show too.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Names of the interfaces.
    interfaces: Vec<String>,
    /// By the tunnel's slot: as large as the most tunnels there ever were at a time.
    names: Vec<Option<(SessionId, Tsid)>>,
    refused: Allowance,
    services: Allowance,
    ports: Allowance,
    transports: Allowance,
    datagrams: Allowance,
}

/// The transport of a tunnel, as lines tell of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outer {
    /// The client's outer address.
    pub(super) peer: SocketAddr,
    /// Index of the interface it came in on.
    pub(super) interface: usize,
    pub(super) transport: Transport,
}

impl Log {
    pub(super) fn new(interfaces: impl Iterator<Item = String>) -> Self {
        Self {
            interfaces: interfaces.collect(),
            ..Self::default()
        }
    }

    /// `outer`: of the binding that the event names.
    pub(super) fn event(&mut self, now: Instant, event: &Event, outer: Option<Outer>) {
        let interface = outer.and_then(|outer| self.interfaces.get(outer.interface).cloned());
        let peer = outer.map(|outer| tracing::field::display(outer.peer));
        let transport = outer.map(|outer| tracing::field::display(outer.transport));
        match event {
            Event::SessionUp {
                session,
                tsid,
                addresses,
                identity,
                ..
            } => {
                self.name(*session, *tsid);
                let identity = identity.as_ref().map(Identity::as_str);
                tracing::info!(
                    event = "tunnel-up",
                    %tsid,
                    interface,
                    transport,
                    peer,
                    ?addresses,
                    identity
                );
            }
            Event::CompanionUp {
                session,
                companion,
                role,
                tsid,
                ..
            } => {
                self.name(*companion, *tsid);
                let main = self.tsid(*session);
                tracing::info!(
                    event = "companion-up",
                    %tsid,
                    %role,
                    tunnel = main.map(tracing::field::display),
                    interface,
                    transport,
                    peer
                );
            }
            Event::CompanionDown {
                companion,
                role,
                tsid,
                reason,
                ..
            } => {
                if let Some(slot) = self.names.get_mut(companion.index()) {
                    *slot = None;
                }
                tracing::info!(event = "companion-down", %tsid, %role, ?reason);
            }
            Event::Bound { session, .. } => {
                let tsid = self.tsid(*session);
                tracing::info!(
                    event = "tunnel-resumed",
                    tsid = tsid.map(tracing::field::display),
                    interface,
                    transport,
                    peer
                );
            }
            Event::StateChanged { session, state } => {
                let tsid = self.tsid(*session);
                tracing::info!(
                    event = "tunnel-state",
                    tsid = tsid.map(tracing::field::display),
                    ?state
                );
            }
            Event::SessionDown {
                session,
                tsid,
                reason,
            } => {
                if let Some(slot) = self.names.get_mut(session.index()) {
                    *slot = None;
                }
                tracing::info!(event = "tunnel-down", %tsid, ?reason);
            }
            Event::Refused { peer, code } => match self.refused.take(now) {
                Some(missed) => tracing::info!(event = "tunnel-refused", %peer, %code, missed),
                None => tracing::debug!(event = "tunnel-refused", %peer, %code),
            },
            // Written with the peer's address by who closes it.
            Event::CloseBinding { .. } => {}
            Event::ServiceGranted { session, grant } => {
                let tsid = self.tsid(*session);
                let tsid = tsid.map(tracing::field::display);
                // Clients may ask and give back as often as they like.
                match self.services.take(now) {
                    Some(missed) => {
                        tracing::info!(event = "service-granted", tsid, %grant, missed);
                    }
                    None => tracing::debug!(event = "service-granted", tsid, %grant),
                }
            }
            Event::ServiceEnded { session, grant } => {
                let tsid = self.tsid(*session);
                let tsid = tsid.map(tracing::field::display);
                match self.services.take(now) {
                    Some(missed) => {
                        tracing::info!(event = "service-ended", tsid, %grant, missed);
                    }
                    None => tracing::debug!(event = "service-ended", tsid, %grant),
                }
            }
            // Between workers; and what is new has no line yet.
            Event::Relay(_) | _ => {}
        }
    }

    /// Whether a line about a failing port may be written, and how many were not.
    pub(super) fn port_failed(&mut self, now: Instant) -> Option<u64> {
        self.ports.take(now)
    }

    /// Whether a handshake that failed, or a stream that broke the protocol, may be written, and how many were not.
    pub(super) fn transport_refused(&mut self, now: Instant) -> Option<u64> {
        self.transports.take(now)
    }

    /// A datagram of a stranger that went nowhere.
    pub(super) fn datagram_dropped(
        &mut self,
        now: Instant,
        peer: SocketAddr,
        reason: Arguments<'_>,
    ) {
        match self.datagrams.take(now) {
            Some(missed) => tracing::info!(event = "datagram-dropped", %peer, %reason, missed),
            None => tracing::debug!(event = "datagram-dropped", %peer, %reason),
        }
    }

    /// The tunnels there are, companions included.
    pub(super) fn sessions(&self) -> impl Iterator<Item = SessionId> {
        let named = self.names.iter().flatten();
        named.map(|(session, _)| *session)
    }

    fn name(&mut self, session: SessionId, tsid: Tsid) {
        let index = session.index();
        if index >= self.names.len() {
            self.names.resize(index + 1, None);
        }
        if let Some(slot) = self.names.get_mut(index) {
            *slot = Some((session, tsid));
        }
    }

    fn tsid(&self, session: SessionId) -> Option<Tsid> {
        let (owner, tsid) = (*self.names.get(session.index())?)?;
        (owner == session).then_some(tsid)
    }
}

/// Lines that may be written in the current minute.
#[derive(Debug, Default)]
struct Allowance {
    minute: Option<Instant>,
    written: u32,
    missed: u64,
}

impl Allowance {
    /// `Some(n)` if a line may be written; `n` were not in the minute before.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let mut missed = 0;
        let same = |start: Instant| now.saturating_duration_since(start) < Duration::from_secs(60);
        if !self.minute.is_some_and(same) {
            missed = self.missed;
            *self = Self {
                minute: Some(now),
                ..Self::default()
            };
        }
        if self.written == LOGGED_PER_MINUTE {
            self.missed += 1;
            return None;
        }
        self.written += 1;
        Some(missed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_written_in_part_and_counted() {
        let start = Instant::now();
        let mut lines = Allowance::default();
        let written = (0..100).filter(|_| lines.take(start).is_some()).count();
        assert_eq!(written, 20);
        let later = start + Duration::from_secs(60);
        assert_eq!(lines.take(later), Some(80));
        assert_eq!(lines.take(later), Some(0));
    }
}
