//! Where to try next: the targets, their rests after failures, and what servers added (spec 5).

use std::net::IpAddr;
use std::time::Instant;

use tsc_tpl::ResponseCode;

use super::config::{Endpoint, RetryPolicy, Target};
use super::event::{AttemptFailure, TransportFailure};
use crate::random::Random;

/// Most targets that servers can add by redirects and alternates; the oldest give way.
pub const MAX_GIVEN_TARGETS: usize = 16;

/// The targets in order of preference.
#[derive(Debug)]
pub(super) struct Plan {
    entries: Vec<Entry>,
    retry: RetryPolicy,
}

#[derive(Debug)]
struct Entry {
    target: Target,
    /// Named by a server rather than by the application.
    given: bool,
    failures: u32,
    /// The last attempt of this search met nobody who listens.
    refused: bool,
    rest: Rest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    None,
    /// Our own wait; a network change ends it.
    Backoff(Instant),
    /// The server's wish.
    Told(Instant),
    /// Trying again is pointless.
    Out,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pick {
    Now(Target),
    At(Instant),
    Nothing,
}

impl Plan {
    pub(super) fn new(targets: &[Target], retry: RetryPolicy) -> Self {
        let entry = |target: &Target| Entry {
            target: *target,
            given: false,
            failures: 0,
            refused: false,
            rest: Rest::None,
        };
        Self {
            entries: targets.iter().map(entry).collect(),
            retry,
        }
    }

    /// Of the targets that may be tried now the first of those with the fewest failures, so that all are tried
    /// before one is tried again; or when one may be.
    pub(super) fn pick(&self, now: Instant, protected_only: bool) -> Pick {
        let mut ready: Option<&Entry> = None;
        let mut earliest: Option<Instant> = None;
        for entry in &self.entries {
            if protected_only && !entry.target.transport.is_protected() {
                continue;
            }
            let until = match entry.rest {
                Rest::None => now,
                Rest::Backoff(until) | Rest::Told(until) => until,
                Rest::Out => continue,
            };
            if until > now {
                earliest = Some(earliest.map_or(until, |earliest| earliest.min(until)));
            } else if ready.is_none_or(|ready| entry.failures < ready.failures) {
                ready = Some(entry);
            }
        }
        match (ready, earliest) {
            (Some(entry), _) => Pick::Now(entry.target),
            (None, Some(until)) => Pick::At(until),
            (None, None) => Pick::Nothing,
        }
    }

    /// Whether nobody listens at any target that may be tried again.
    pub(super) fn is_refused(&self) -> bool {
        self.entries
            .iter()
            .all(|entry| entry.refused || entry.rest == Rest::Out)
    }

    /// Begins a new search: what rested by our own choice is rested, and the target that worked last comes first.
    pub(super) fn begin(&mut self, first: Option<Target>) {
        for entry in &mut self.entries {
            entry.failures = 0;
            entry.refused = false;
            if let Rest::Backoff(_) = entry.rest {
                entry.rest = Rest::None;
            }
        }
        let place =
            first.and_then(|first| self.entries.iter().position(|entry| entry.target == first));
        if let Some(before) = place.and_then(|place| self.entries.get_mut(..=place)) {
            before.rotate_right(1);
        }
    }

    /// Waits of our own are over: the network is another.
    pub(super) fn end_backoff(&mut self) {
        for entry in &mut self.entries {
            if let Rest::Backoff(_) = entry.rest {
                entry.rest = Rest::None;
                entry.failures = 0;
                entry.refused = false;
            }
        }
    }

    /// Puts a target to rest for what happened to it.
    pub(super) fn failed(
        &mut self,
        now: Instant,
        target: Target,
        failure: &AttemptFailure,
        random: &mut dyn Random,
    ) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.target == target) {
            entry.refused = *failure == AttemptFailure::Transport(TransportFailure::Refused);
        }
        match failure {
            AttemptFailure::Transport(failure) if failure.is_final() => self.set(target, Rest::Out),
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
                            && entry.rest != Rest::Out
                        {
                            entry.rest = Rest::Told(until);
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
                _ => self.back_off(now, target, random),
            },
            AttemptFailure::Transport(_)
            | AttemptFailure::Lost
            | AttemptFailure::NoAnswer
            | AttemptFailure::BadAnswer(_)
            | AttemptFailure::Unusable(_)
            | AttemptFailure::Framing(_)
            | AttemptFailure::TooManyRedirects
            | AttemptFailure::ForbiddenRedirect => self.back_off(now, target, random),
        }
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
                        entry.rest = Rest::None;
                        entry.failures = 0;
                        entry.refused = false;
                    }
                    entry
                }
                Some(_) => continue,
                None => Entry {
                    target: *target,
                    given: true,
                    failures: 0,
                    refused: false,
                    rest: Rest::None,
                },
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

    /// 1 s doubling to 60 s, with full jitter.
    fn back_off(&mut self, now: Instant, target: Target, random: &mut dyn Random) {
        let RetryPolicy { first, longest } = self.retry;
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.target == target) {
            let factor = 1u32.checked_shl(entry.failures).unwrap_or(u32::MAX);
            let limit = first.saturating_mul(factor).min(longest);
            entry.failures = (entry.failures + 1).min(31);
            entry.rest = Rest::Backoff(now + random.up_to(limit));
        }
    }

    fn set(&mut self, target: Target, rest: Rest) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.target == target) {
            entry.rest = rest;
        }
    }
}

fn same_host(one: Endpoint, other: Endpoint) -> bool {
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
        let address = std::net::SocketAddr::from(([192, 0, 2, 1], port));
        Target {
            transport: Transport::Tls,
            endpoint: Endpoint::Address { address, origin: 0 },
        }
    }

    fn plan() -> Plan {
        Plan::new(&[TLS, UDP, OTHER], RetryPolicy::default())
    }

    #[test]
    fn failures_go_down_the_list_and_then_wait() {
        let (mut plan, now, random) = (plan(), Instant::now(), &mut Seeded(3));
        for expected in [TLS, UDP, OTHER] {
            assert_eq!(plan.pick(now, false), Pick::Now(expected));
            plan.failed(now, expected, &AttemptFailure::NoAnswer, random);
        }
        let Pick::At(at) = plan.pick(now, false) else {
            panic!("all have failed")
        };
        assert!(at > now && at < now + Duration::from_secs(1));
        assert!(matches!(plan.pick(at, false), Pick::Now(_)));
        plan.end_backoff();
        assert_eq!(plan.pick(now, false), Pick::Now(TLS));
    }

    #[test]
    fn waits_double_up_to_their_limit() {
        let (now, random) = (Instant::now(), &mut Seeded(3));
        let mut plan = Plan::new(&[TLS], RetryPolicy::default());
        let mut longest = Duration::ZERO;
        for n in 0..40 {
            plan.failed(now, TLS, &AttemptFailure::NoAnswer, random);
            let Pick::At(at) = plan.pick(now, false) else {
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
        plan.failed(now, TLS, &refused, random);
        plan.failed(now, UDP, &AttemptFailure::NoAnswer, random);
        let certificate = AttemptFailure::Transport(TransportFailure::ClientCertificate);
        plan.failed(now, OTHER, &certificate, random);
        assert!(!plan.is_refused(), "one is only silent");
        plan.failed(now, UDP, &refused, random);
        assert!(plan.is_refused());
        plan.failed(now, TLS, &AttemptFailure::Lost, random);
        assert!(!plan.is_refused(), "one is back");
        plan.failed(now, TLS, &refused, random);
        plan.end_backoff();
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
        plan.failed(now, TLS, &busy, random);
        assert_eq!(plan.pick(now, false), Pick::Now(OTHER));
        plan.failed(
            now,
            OTHER,
            &AttemptFailure::Transport(TransportFailure::Certificate),
            random,
        );
        plan.end_backoff();
        let Pick::At(at) = plan.pick(now, false) else {
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
        plan.failed(now, given(1), &busy, random);
        plan.add(&[given(1)], true);
        assert_eq!(plan.pick(now, false), Pick::Now(TLS));
        assert_eq!(
            plan.pick(now + Duration::from_secs(15), false),
            Pick::Now(given(1))
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
                assert_eq!(plan.pick(now, false), Pick::Now(expected));
                plan.failed(now, expected, &busy, random);
            }
            assert!(matches!(plan.pick(now, false), Pick::At(at) if at > now));
        }
    }

    #[test]
    fn protected_tunnels_never_pick_clear_targets() {
        let mut plan = Plan::new(&[UDP], RetryPolicy::default());
        assert_eq!(plan.pick(Instant::now(), true), Pick::Nothing);
        plan.add(&[given(1)], false);
        assert_eq!(plan.pick(Instant::now(), true), Pick::Now(given(1)));
    }

    #[test]
    fn servers_can_add_a_bounded_number() {
        let mut plan = plan();
        for port in 0..100 {
            plan.add(&[given(port)], true);
        }
        assert_eq!(plan.entries.len(), 3 + MAX_GIVEN_TARGETS);
        assert_eq!(plan.pick(Instant::now(), false), Pick::Now(given(99)));
        plan.begin(Some(UDP));
        assert_eq!(plan.pick(Instant::now(), false), Pick::Now(UDP));
    }
}
