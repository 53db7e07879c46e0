//! Where to try next: the targets, their ways, their rests after failures, and what servers added (spec 5).

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tsc_tpl::ResponseCode;

use super::config::{Endpoint, RetryPolicy, Target};
use super::event::{AttemptFailure, TransportFailure};
use crate::random::Random;

/// Most targets that servers can add by redirects and alternates; the oldest give way.
pub const MAX_GIVEN_TARGETS: usize = 16;
/// Most addresses of one target that are tried.
pub const MAX_ADDRESSES: usize = 8;

/// The least time between two lookups of a target that is silent.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// The least rest of a target that sent us elsewhere: time enough to try there.
const SENT_AWAY: Duration = Duration::from_secs(2);

/// The targets in order of preference.
#[derive(Debug)]
pub(super) struct Plan {
    entries: Vec<Entry>,
    retry: RetryPolicy,
    /// Configured targets are looked up.
    lookup: bool,
}

#[derive(Debug)]
struct Entry {
    target: Target,
    /// Its place in the application's list; behind it what servers named.
    order: usize,
    /// Named by a server rather than by the application.
    given: bool,
    failures: u32,
    rest: Rest,
    lookup: Lookup,
    /// When it was asked for last.
    looked_up: Option<Instant>,
    /// Where the target is: addresses, or `None` where its owner knows; at most [`MAX_ADDRESSES`].
    ways: Vec<Option<SocketAddr>>,
    /// How many of them were begun in this round.
    begun: usize,
    /// Whether all that was heard in this round, or else in the last one, is that nobody listens.
    refused: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lookup {
    Wanted,
    Asked,
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    None,
    /// Our own wait; a network change ends it.
    Backoff(Instant),
    /// The server's wish.
    Told(Instant),
    /// Trying again is pointless on this network.
    Barred,
    /// Trying again is pointless.
    Out,
}

/// One way to a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) target: Target,
    /// `None`: the owner knows where.
    pub(super) address: Option<SocketAddr>,
}

impl Way {
    /// How much two ways have in common that may be why both are silent.
    fn likeness(&self, other: &Self) -> u8 {
        let is_v4 = |way: &Self| way.address.map(|address| address.is_ipv4());
        let kind = self.target.transport.is_stream() == other.target.transport.is_stream();
        u8::from(kind) + u8::from(is_v4(self) == is_v4(other))
    }
}

/// Which targets a search may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Filter {
    /// TLS and DTLS only.
    pub(super) protected: bool,
    /// UDP and DTLS only.
    pub(super) datagrams: bool,
}

impl Filter {
    fn admits(self, target: Target) -> bool {
        let transport = target.transport;
        (transport.is_protected() || !self.protected) && !(transport.is_stream() && self.datagrams)
    }
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pick {
    Now(Way),
    At(Instant),
    /// All that may be tried now is under way, or being looked up.
    Wait,
    /// There is something on another network only.
    Barred,
    Nothing,
}

impl Entry {
    fn new(target: Target, order: usize, given: bool, lookup: bool) -> Self {
        let (lookup, ways) = match target.endpoint {
            Endpoint::Configured(_) if lookup => (Lookup::Wanted, Vec::new()),
            Endpoint::Configured(_) => (Lookup::Done, vec![None]),
            Endpoint::Address { address, .. } => (Lookup::Done, vec![Some(address)]),
        };
        Self {
            target,
            order,
            given,
            failures: 0,
            rest: Rest::None,
            lookup,
            looked_up: None,
            ways,
            begun: 0,
            refused: None,
        }
    }

    /// Ready to be tried from the beginning.
    fn renew(&mut self) {
        self.failures = 0;
        self.begun = 0;
        self.refused = None;
        if let Rest::Backoff(_) = self.rest {
            self.rest = Rest::None;
        }
    }

    fn until(&self, now: Instant) -> Option<Instant> {
        match self.rest {
            Rest::None => Some(now),
            Rest::Backoff(until) | Rest::Told(until) => Some(until),
            Rest::Barred | Rest::Out => None,
        }
    }

    fn next_way(&self) -> Option<Way> {
        self.ways.get(self.begun).map(|address| Way {
            target: self.target,
            address: *address,
        })
    }
}

impl Plan {
    pub(super) fn new(targets: &[Target], retry: RetryPolicy, lookup: bool) -> Self {
        let entry = |(order, target): (usize, &Target)| Entry::new(*target, order, false, lookup);
        Self {
            entries: targets.iter().enumerate().map(entry).collect(),
            retry,
            lookup,
        }
    }

    /// Targets that are to be looked up now; their addresses come by [`Self::found`].
    pub(super) fn lookups(&mut self, now: Instant, filter: Filter) -> Vec<Target> {
        let mut wanted = Vec::new();
        for entry in &mut self.entries {
            let ready = entry.until(now).is_some_and(|until| until <= now);
            if entry.lookup == Lookup::Wanted && ready && filter.admits(entry.target) {
                entry.lookup = Lookup::Asked;
                entry.looked_up = Some(now);
                wanted.push(entry.target);
            }
        }
        wanted
    }

    /// Where a target is. Those that were known before and are still right keep their place.
    pub(super) fn found(&mut self, target: Target, ways: &[Option<SocketAddr>]) {
        let Some(entry) = self.entry(target) else {
            return;
        };
        entry.lookup = Lookup::Done;
        let begun = entry.ways.get(..entry.begun).unwrap_or_default();
        let mut kept: Vec<_> = begun
            .iter()
            .copied()
            .filter(|way| ways.contains(way))
            .collect();
        entry.begun = kept.len();
        let fresh: Vec<_> = ways
            .iter()
            .copied()
            .filter(|way| !kept.contains(way))
            .collect();
        kept.extend(fresh);
        kept.truncate(MAX_ADDRESSES);
        entry.ways = kept;
    }

    /// A target could not be looked up: true if it is known from before where it is.
    pub(super) fn not_found(&mut self, target: Target) -> bool {
        self.entry(target).is_some_and(|entry| {
            entry.lookup = if entry.ways.is_empty() {
                Lookup::Wanted
            } else {
                Lookup::Done
            };
            !entry.ways.is_empty()
        })
    }

    /// Whether it is being found out where something is.
    pub(super) fn is_looking_up(&self) -> bool {
        self.entries
            .iter()
            .any(|entry| entry.lookup == Lookup::Asked && entry.ways.is_empty())
    }

    /// The place of a target in the application's list.
    pub(super) fn order(&self, target: Target) -> usize {
        let entry = self.entries.iter().find(|entry| entry.target == target);
        entry.map_or(usize::MAX, |entry| entry.order)
    }

    /// Of the targets that may be tried now those with the fewest failures, so that all are tried before one is tried again; of
    /// these the way that has least in common with those under way, whose silence may have a cause in common; of these the
    /// first. Or when one may be tried.
    pub(super) fn pick(&self, now: Instant, filter: Filter, under_way: &[Way]) -> Pick {
        let mut best: Option<((u32, u8), Way)> = None;
        let mut earliest: Option<Instant> = None;
        let (mut waits, mut barred) = (false, false);
        for entry in self
            .entries
            .iter()
            .filter(|entry| filter.admits(entry.target))
        {
            let Some(until) = entry.until(now) else {
                barred |= entry.rest == Rest::Barred;
                continue;
            };
            if until > now {
                earliest = Some(earliest.map_or(until, |earliest| earliest.min(until)));
                continue;
            }
            let Some(way) = entry.next_way() else {
                waits = true;
                continue;
            };
            let likeness = under_way.iter().map(|other| way.likeness(other));
            let cost = (entry.failures, likeness.sum());
            if best.is_none_or(|(least, _)| cost < least) {
                best = Some((cost, way));
            }
        }
        match (best, earliest) {
            (Some((_, way)), _) => Pick::Now(way),
            (None, Some(until)) => Pick::At(until),
            (None, None) if waits => Pick::Wait,
            (None, None) if barred => Pick::Barred,
            (None, None) => Pick::Nothing,
        }
    }

    /// A way was begun.
    pub(super) fn begun(&mut self, way: Way) {
        if let Some(entry) = self.entry(way.target) {
            if entry.begun == 0 {
                entry.refused = None;
            }
            entry.begun += 1;
        }
    }

    /// The last attempt at a target was given up without a verdict: its ways are to be tried again.
    pub(super) fn abandoned(&mut self, target: Target) {
        if let Some(entry) = self.entry(target) {
            entry.begun = 0;
        }
    }

    /// A way has been silent for long: the target may be elsewhere by now.
    pub(super) fn is_silent(&mut self, now: Instant, target: Target) {
        if let Some(entry) = self.entry(target)
            && entry.looked_up.is_some_and(|at| at + LOOK_AGAIN <= now)
            && entry.lookup == Lookup::Done
        {
            entry.lookup = Lookup::Wanted;
        }
    }

    /// Whether nobody listens at any target that may be tried again.
    pub(super) fn is_refused(&self) -> bool {
        self.entries.iter().all(|entry| {
            (entry.refused == Some(true) && entry.begun == 0)
                || matches!(entry.rest, Rest::Barred | Rest::Out)
        })
    }

    /// Whether a server asked to leave this target alone, or it is not to be tried again.
    pub(super) fn is_told_to_wait(&self, target: Target) -> bool {
        self.entries.iter().any(|entry| {
            entry.target == target && matches!(entry.rest, Rest::Told(_) | Rest::Barred | Rest::Out)
        })
    }

    /// Begins a new search: what rested by our own choice is rested, and the target that worked last comes first.
    pub(super) fn begin(&mut self, first: Option<Target>) {
        self.entries.iter_mut().for_each(Entry::renew);
        let place =
            first.and_then(|first| self.entries.iter().position(|entry| entry.target == first));
        if let Some(before) = place.and_then(|place| self.entries.get_mut(..=place)) {
            before.rotate_right(1);
        }
    }

    /// Waits of our own are over, and what the old network said counts no more: the network is another. `under_way` is left alone.
    pub(super) fn end_backoff(&mut self, under_way: &[Way]) {
        for entry in &mut self.entries {
            if entry.rest == Rest::Barred {
                entry.rest = Rest::None;
            }
            if !under_way.iter().any(|way| way.target == entry.target) {
                entry.renew();
            }
        }
    }

    /// Puts a target to rest for what happened to it, once no other way to it is left or `under_way`. Our own waits are up to
    /// `longest`.
    pub(super) fn failed(
        &mut self,
        now: Instant,
        target: Target,
        failure: &AttemptFailure,
        trial: Trial,
        random: &mut dyn Random,
    ) {
        if let Some(entry) = self.entry(target) {
            let is_refusal = *failure == AttemptFailure::Transport(TransportFailure::Refused);
            entry.refused = Some(is_refusal && entry.refused.unwrap_or(true));
        }
        match failure {
            AttemptFailure::Transport(TransportFailure::Unsupported) => self.set(target, Rest::Out),
            AttemptFailure::Transport(failure) if failure.is_final() => {
                self.set(target, Rest::Barred);
            }
            // Zero is no wait that could be doubled: it must not make a busy server busier.
            AttemptFailure::Refused(refusal) => match (
                refusal.code,
                refusal.retry_after.filter(|time| !time.is_zero()),
            ) {
                // The host is busy, not the transport: its other targets wait too.
                (ResponseCode::BUSY | ResponseCode::NO_RESOURCES, Some(time)) => {
                    let until = now + time + random.up_to(time / 2);
                    for entry in &mut self.entries {
                        if same_host(entry.target.endpoint, target.endpoint)
                            && !matches!(entry.rest, Rest::Barred | Rest::Out)
                        {
                            entry.rest = Rest::Told(until);
                            entry.begun = 0;
                        }
                    }
                }
                (
                    ResponseCode::MALFORMED
                    | ResponseCode::UNSUPPORTED_VERSION
                    | ResponseCode::UNSUPPORTED_TLV
                    | ResponseCode::NOT_AUTHORIZED,
                    _,
                ) => self.set(target, Rest::Out),
                // What a server says holds for all its addresses.
                _ => self.back_off(now, target, trial.longest, random),
            },
            AttemptFailure::TooManyRedirects | AttemptFailure::ForbiddenRedirect => {
                self.back_off(now, target, trial.longest, random);
            }
            AttemptFailure::Transport(_)
            | AttemptFailure::Lost
            | AttemptFailure::NoAnswer
            | AttemptFailure::BadAnswer(_)
            | AttemptFailure::Unusable(_)
            | AttemptFailure::Framing(_) => {
                let untried = self
                    .entry(target)
                    .is_some_and(|entry| entry.rest == Rest::None && entry.next_way().is_some());
                if !untried && !trial.others_under_way {
                    self.back_off(now, target, trial.longest, random);
                }
            }
        }
    }

    /// A target that sent us elsewhere is asked again after the others only.
    pub(super) fn sent_away(&mut self, now: Instant, target: Target, random: &mut dyn Random) {
        self.back_off(now, target, None, random);
        let rest = Rest::Backoff(now + SENT_AWAY + random.up_to(SENT_AWAY));
        self.set(target, rest);
    }

    /// Adds targets named by a server: before all others if it sent us there, else behind them.
    pub(super) fn add(&mut self, targets: &[Target], first: bool) {
        for target in targets.iter().rev() {
            let known = self
                .entries
                .iter()
                .position(|entry| entry.target == *target);
            let entry = match known {
                // Sent there now, it is to be tried now, unless that is pointless or it asked to be left alone.
                Some(place) if first => {
                    let mut entry = self.entries.remove(place);
                    if let Rest::None | Rest::Backoff(_) = entry.rest {
                        entry.renew();
                    }
                    entry
                }
                Some(_) => continue,
                None => Entry::new(*target, usize::MAX, true, self.lookup),
            };
            self.make_room(first);
            if first {
                self.entries.insert(0, entry);
            } else {
                self.entries.push(entry);
            }
        }
    }

    /// Keeps the number of given targets below its bound; new ones at the front push out those at the back.
    fn make_room(&mut self, first: bool) {
        if self.entries.iter().filter(|entry| entry.given).count() < MAX_GIVEN_TARGETS {
            return;
        }
        let place = if first {
            self.entries.iter().rposition(|entry| entry.given)
        } else {
            self.entries.iter().position(|entry| entry.given)
        };
        if let Some(place) = place {
            self.entries.remove(place);
        }
    }

    /// 1 s doubling to 60 s, with full jitter; then the target is looked up anew.
    fn back_off(
        &mut self,
        now: Instant,
        target: Target,
        longest: Option<Duration>,
        random: &mut dyn Random,
    ) {
        let RetryPolicy {
            first,
            longest: most,
        } = self.retry;
        let most = longest.unwrap_or(most).min(most);
        let lookup = self.lookup;
        if let Some(entry) = self.entry(target) {
            let factor = 1u32.checked_shl(entry.failures).unwrap_or(u32::MAX);
            let limit = first.saturating_mul(factor).min(most);
            // What fails at once must not be tried again at once while it is urgent.
            let least = if longest.is_some() {
                limit / 2
            } else {
                Duration::ZERO
            };
            entry.failures = (entry.failures + 1).min(31);
            entry.rest = Rest::Backoff(now + least + random.up_to(limit - least));
            entry.begun = 0;
            let is_old = entry.looked_up.is_none_or(|at| at + LOOK_AGAIN <= now);
            let is_unknown = entry.ways.is_empty();
            if lookup
                && (is_old || is_unknown)
                && matches!(target.endpoint, Endpoint::Configured(_))
            {
                entry.lookup = Lookup::Wanted;
            }
        }
    }

    fn set(&mut self, target: Target, rest: Rest) {
        if let Some(entry) = self.entry(target) {
            entry.rest = rest;
        }
    }

    fn entry(&mut self, target: Target) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.target == target)
    }
}

/// What an attempt that failed was part of.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Trial {
    /// Other ways to the same target are being tried.
    pub(super) others_under_way: bool,
    /// A bound of waits of our own, if it is another than the policy's.
    pub(super) longest: Option<Duration>,
}

pub(super) fn same_host(one: Endpoint, other: Endpoint) -> bool {
    let ip = |endpoint: Endpoint| -> Option<IpAddr> {
        match endpoint {
            Endpoint::Configured(_) => None,
            Endpoint::Address { address, .. } => Some(address.ip()),
        }
    };
    match (one, other) {
        (Endpoint::Configured(one), Endpoint::Configured(other)) => one == other,
        _ => ip(one).is_some() && ip(one) == ip(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Transport;
    use crate::client::Refusal;
    use crate::random::tests::Seeded;
    use std::time::Duration;

    const TLS: Target = Target {
        transport: Transport::Tls,
        endpoint: Endpoint::Configured(0),
    };
    const UDP: Target = Target {
        transport: Transport::Udp,
        endpoint: Endpoint::Configured(0),
    };
    const OTHER: Target = Target {
        transport: Transport::Tls,
        endpoint: Endpoint::Configured(1),
    };

    fn given(port: u16) -> Target {
        let address = SocketAddr::from(([192, 0, 2, 1], port));
        Target {
            transport: Transport::Tls,
            endpoint: Endpoint::Address { address, origin: 0 },
        }
    }

    const ANY: Filter = Filter {
        protected: false,
        datagrams: false,
    };
    const PROTECTED: Filter = Filter {
        protected: true,
        datagrams: false,
    };

    fn way(target: Target) -> Way {
        let address = match target.endpoint {
            Endpoint::Address { address, .. } => Some(address),
            Endpoint::Configured(_) => None,
        };
        Way { target, address }
    }

    fn try_now(target: Target) -> Pick {
        Pick::Now(way(target))
    }

    fn fail(
        plan: &mut Plan,
        now: Instant,
        target: Target,
        failure: &AttemptFailure,
        random: &mut Seeded,
    ) {
        plan.begun(way(target));
        plan.failed(now, target, failure, Trial::default(), random);
    }

    fn plan() -> Plan {
        Plan::new(&[TLS, UDP, OTHER], RetryPolicy::default(), false)
    }

    #[test]
    fn failures_go_down_the_list_and_then_wait() {
        let (mut plan, now, random) = (plan(), Instant::now(), &mut Seeded(3));
        for expected in [TLS, UDP, OTHER] {
            assert_eq!(plan.pick(now, ANY, &[]), try_now(expected));
            fail(&mut plan, now, expected, &AttemptFailure::NoAnswer, random);
        }
        let Pick::At(at) = plan.pick(now, ANY, &[]) else {
            panic!("all have failed")
        };
        assert!(at > now && at < now + Duration::from_secs(1));
        assert!(matches!(plan.pick(at, ANY, &[]), Pick::Now(_)));
        plan.end_backoff(&[]);
        assert_eq!(plan.pick(now, ANY, &[]), try_now(TLS));
    }

    #[test]
    fn waits_double_up_to_their_limit() {
        let (now, random) = (Instant::now(), &mut Seeded(3));
        let mut plan = Plan::new(&[TLS], RetryPolicy::default(), false);
        let mut longest = Duration::ZERO;
        for n in 0..40 {
            fail(&mut plan, now, TLS, &AttemptFailure::NoAnswer, random);
            let Pick::At(at) = plan.pick(now, ANY, &[]) else {
                panic!("it has failed")
            };
            assert!(at - now < Duration::from_secs(1 << n.min(6)).min(Duration::from_secs(60)));
            longest = longest.max(at - now);
        }
        assert!(longest > Duration::from_secs(30));
    }

    #[test]
    fn all_have_refused_only_when_the_last_word_of_each_was_that() {
        let (mut plan, now, random) = (plan(), Instant::now(), &mut Seeded(3));
        let refused = AttemptFailure::Transport(TransportFailure::Refused);
        fail(&mut plan, now, TLS, &refused, random);
        fail(&mut plan, now, UDP, &AttemptFailure::NoAnswer, random);
        let certificate = AttemptFailure::Transport(TransportFailure::ClientCertificate);
        fail(&mut plan, now, OTHER, &certificate, random);
        assert!(!plan.is_refused(), "one is only silent");
        fail(&mut plan, now, UDP, &refused, random);
        assert!(plan.is_refused());
        fail(&mut plan, now, TLS, &AttemptFailure::Lost, random);
        assert!(!plan.is_refused(), "one is back");
        fail(&mut plan, now, TLS, &refused, random);
        plan.end_backoff(&[]);
        assert!(!plan.is_refused(), "the network is another");
    }

    #[test]
    fn a_busy_host_is_left_alone_on_all_transports() {
        let (mut plan, now, random) = (plan(), Instant::now(), &mut Seeded(3));
        let retry_after = Some(Duration::from_secs(10));
        let busy = AttemptFailure::Refused(Refusal {
            code: ResponseCode::BUSY,
            retry_after,
            text: None,
        });
        fail(&mut plan, now, TLS, &busy, random);
        assert_eq!(plan.pick(now, ANY, &[]), try_now(OTHER));
        fail(
            &mut plan,
            now,
            OTHER,
            &AttemptFailure::Transport(TransportFailure::Unsupported),
            random,
        );
        plan.end_backoff(&[]);
        let Pick::At(at) = plan.pick(now, ANY, &[]) else {
            panic!("the host is busy, the other is out")
        };
        assert!((10..15).contains(&(at - now).as_secs()));
    }

    #[test]
    fn a_redirect_does_not_shorten_the_wait_that_a_busy_server_asked_for() {
        let (mut plan, now, random) = (plan(), Instant::now(), &mut Seeded(3));
        plan.add(&[given(1)], true);
        let busy = AttemptFailure::Refused(Refusal {
            code: ResponseCode::BUSY,
            retry_after: Some(Duration::from_secs(10)),
            text: None,
        });
        fail(&mut plan, now, given(1), &busy, random);
        plan.add(&[given(1)], true);
        assert_eq!(plan.pick(now, ANY, &[]), try_now(TLS));
        assert_eq!(
            plan.pick(now + Duration::from_secs(15), ANY, &[]),
            try_now(given(1))
        );
    }

    #[test]
    fn a_busy_server_that_names_no_time_or_zero_is_backed_off_from() {
        for retry_after in [None, Some(Duration::ZERO)] {
            let (mut plan, now, random) = (plan(), Instant::now(), &mut Seeded(3));
            let busy = AttemptFailure::Refused(Refusal {
                code: ResponseCode::BUSY,
                retry_after,
                text: None,
            });
            for expected in [TLS, UDP, OTHER] {
                assert_eq!(plan.pick(now, ANY, &[]), try_now(expected));
                fail(&mut plan, now, expected, &busy, random);
            }
            assert!(matches!(plan.pick(now, ANY, &[]), Pick::At(at) if at > now));
        }
    }

    #[test]
    fn protected_tunnels_never_pick_clear_targets() {
        let mut plan = Plan::new(&[UDP], RetryPolicy::default(), false);
        assert_eq!(plan.pick(Instant::now(), PROTECTED, &[]), Pick::Nothing);
        plan.add(&[given(1)], false);
        assert_eq!(plan.pick(Instant::now(), PROTECTED, &[]), try_now(given(1)));
    }

    #[test]
    fn servers_can_add_a_bounded_number() {
        let mut plan = plan();
        for port in 0..100 {
            plan.add(&[given(port)], true);
        }
        assert_eq!(plan.entries.len(), 3 + MAX_GIVEN_TARGETS);
        assert_eq!(plan.pick(Instant::now(), ANY, &[]), try_now(given(99)));
        plan.begin(Some(UDP));
        assert_eq!(plan.pick(Instant::now(), ANY, &[]), try_now(UDP));
    }
}
