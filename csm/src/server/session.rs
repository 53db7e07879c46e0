//! One tunnel at the server: its state and what time asks of it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tsc_tpl::{Sequence, Tsid};

use super::common::Account;
use super::config::{Identity, TunnelTimers};
use super::event::{BindingId, SessionId, SessionState};
use super::family::Membership;
use super::offers::Offers;
use super::pool::Lease;
use super::rate::SourcePrefix;
use super::service::Services;
use crate::secret::Key32;
use crate::transaction::{Inbox, Request};

/// An unconfirmed tunnel is closed after this long (spec 5).
pub const UNCONFIRMED_TIME: Duration = Duration::from_secs(30);

/// A tunnel. Kept small, as most of them are idle: no buffer, and heap memory for the addresses only, once the
/// answer that configured it is 32 s old.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) tsid: Tsid,
    pub(crate) interface: usize,
    /// What there was to be had when it was configured.
    pub(crate) offers: Arc<Offers>,
    /// Configured on a protected transport: never resumed on a clear one (spec 5).
    pub(crate) protected: bool,
    pub(crate) identity: Option<Identity>,
    /// Where it was configured from; counted there for all its life, or limits could be moved away from.
    pub(crate) prefix: SourcePrefix,
    /// Of a companion those of its main tunnel, unless it has its own.
    pub(crate) leases: Box<[Lease]>,
    /// Of a companion: whose.
    pub(crate) main: Option<Membership>,
    /// `None` while no service is in force.
    pub(super) services: Option<Box<Services>>,
    pub(crate) inner_mtu: u16,
    pub(crate) resume_key: Key32,
    /// Counter of the last accepted proof.
    pub(crate) resume_counter: Option<u32>,
    /// Sequence of the request that made the tunnel.
    pub(crate) configured_by: Sequence,
    /// Sequence of the last accepted resume request.
    pub(crate) resumed_by: Option<Sequence>,
    /// The client's requests.
    pub(crate) inbox: Inbox,
    /// Of the server's own requests.
    pub(crate) next_sequence: Sequence,
    pub(crate) binding: Option<BindingId>,
    pub(crate) confirmed: bool,
    pub(crate) created: Instant,
    /// When the last authentic unit came. All that a data packet writes.
    pub(crate) last_activity: Instant,
    pub(crate) timers: CompactTimers,
    pub(crate) life: Life,
    /// Position in the deadline queue.
    pub(crate) armed: Option<Instant>,
    /// It has listed the peer service among those that it can do.
    pub(crate) takes_peers: bool,
}

/// [`TunnelTimers`] in a quarter of their size, in milliseconds: they are at most some minutes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CompactTimers {
    keepalive: u32,
    persistence: u32,
}

impl From<TunnelTimers> for CompactTimers {
    fn from(timers: TunnelTimers) -> Self {
        let compact = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        Self {
            keepalive: compact(timers.keepalive),
            persistence: compact(timers.persistence),
        }
    }
}

/// The states of spec 5, with what only they need.
#[derive(Debug)]
pub(crate) enum Life {
    Active,
    Persistent {
        since: Instant,
    },
    /// Boxed: rare, and larger than the rest of the state.
    Releasing(Box<Request<()>>),
}

/// What a deadline turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing yet.
    Nothing,
    /// Idle for the keepalive time.
    Idle,
    /// Idle for the persistence time.
    Expired,
    /// Not one unit since the configuration.
    Unconfirmed,
    /// The release has to be looked at.
    Release,
}

impl Session {
    /// By what it is counted.
    pub(super) const fn account(&self) -> Account<'_> {
        Account {
            interface: self.interface,
            prefix: self.prefix,
            identity: self.identity.as_ref(),
        }
    }

    /// The tunnel that sends what comes over this one: itself, or the main tunnel of a companion with the same addresses.
    #[inline]
    pub(crate) fn sender(&self) -> SessionId {
        if self.has_own_addresses() {
            self.id
        } else {
            self.main_id().unwrap_or(self.id)
        }
    }

    /// The main tunnel of a companion.
    pub(super) fn main_id(&self) -> Option<SessionId> {
        let main = self.main?.main;
        Some(SessionId::new(self.id.shard(), main))
    }

    /// Whether packets are routed to it, and not to its main tunnel.
    #[inline]
    pub(super) fn has_own_addresses(&self) -> bool {
        self.main.is_none_or(|of| !of.role.shares_addresses())
    }

    /// Whether a companion can be sent over: it is confirmed, active, and has a transport.
    pub(crate) const fn carries(&self) -> bool {
        self.confirmed && self.binding.is_some() && matches!(self.life, Life::Active)
    }

    /// Those of the interface that its transport came to.
    pub(crate) fn timers(&self) -> TunnelTimers {
        TunnelTimers {
            keepalive: Duration::from_millis(self.timers.keepalive.into()),
            persistence: Duration::from_millis(self.timers.persistence.into()),
        }
    }

    pub(crate) const fn state(&self) -> SessionState {
        match self.life {
            Life::Active => SessionState::Active,
            Life::Persistent { .. } => SessionState::Persistent,
            Life::Releasing(_) => SessionState::Releasing,
        }
    }

    /// Spec 8.1: exactly an assigned address, or one that a service gives. One comparison for nearly all tunnels.
    #[inline]
    pub(crate) fn owns(&self, source: IpAddr) -> bool {
        self.leases.iter().any(|lease| lease.address == source)
            || self
                .services
                .as_ref()
                .is_some_and(|services| services.owns(source))
    }

    /// When this tunnel has to be looked at, if nothing happens before.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let life = match &self.life {
            Life::Active => after(self.last_activity, self.timers().keepalive),
            Life::Persistent { since } => after(*since, self.timers().persistence),
            Life::Releasing(request) => Some(request.due()),
        };
        // A release runs by its own clock; this one would be over and never be acted on.
        let waits = !self.confirmed && !matches!(self.life, Life::Releasing(_));
        let unconfirmed = waits.then(|| self.created + UNCONFIRMED_TIME);
        let is_bound = self.binding.is_some() && !matches!(self.life, Life::Releasing(_));
        let services = self.services.as_ref();
        let services = services.and_then(|services| services.deadline(is_bound));
        [life, unconfirmed, services, self.inbox.next_expiry()]
            .into_iter()
            .flatten()
            .min()
    }

    /// What is due at `now`.
    pub(crate) fn due(&self, now: Instant) -> Due {
        let passed = |deadline: Option<Instant>| deadline.is_some_and(|at| at <= now);
        match &self.life {
            Life::Releasing(_) => Due::Release,
            Life::Active | Life::Persistent { .. }
                if !self.confirmed && self.created + UNCONFIRMED_TIME <= now =>
            {
                Due::Unconfirmed
            }
            Life::Active if passed(after(self.last_activity, self.timers().keepalive)) => Due::Idle,
            Life::Persistent { since } if passed(after(*since, self.timers().persistence)) => {
                Due::Expired
            }
            Life::Active | Life::Persistent { .. } => Due::Nothing,
        }
    }
}

/// Zero is never (spec 5).
fn after(start: Instant, time: Duration) -> Option<Instant> {
    (!time.is_zero()).then(|| start + time)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The target of the architecture: an idle UDP session under 1 KiB, binding and tables included.
    #[test]
    fn an_idle_session_is_small() {
        let session = size_of::<Session>();
        let binding = size_of::<super::super::binding::Binding>();
        // One lease on the heap, an entry each in the TSID directory, the address table, the pool's slots and
        // the deadline queue; trees and maps counted as twice their entries.
        let tables = size_of::<Lease>() + 2 * (8 + 4) + 2 * 48 + 8 + 2 * 32;
        let total = session + binding + tables;
        assert!(
            total < 1024,
            "session {session} + binding {binding} + tables {tables} = {total}"
        );
    }
}
