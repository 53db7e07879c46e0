//! Segments that were sent and are not acknowledged, and which of them are lost.
//!
//! Losses are found by time, as RACK does (RFC 8985): a segment is lost when one that was sent later
//! has arrived, and reordering can not explain it any more. That finds lost repetitions too.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::seq::Seq;

/// Selectively acknowledged segments above which a hole is taken for a loss at once, unless the path is known to
/// reorder (RFC 5681, section 3.2; RFC 8985, section 6.2).
const DUPLICATES: usize = 3;

/// What became of a segment, as far as we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Flying,
    /// To be sent again.
    Lost,
    /// The peer has it, but not all before it.
    Held,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    start: Seq,
    end: Seq,
    at: Instant,
    fate: Fate,
    repeated: bool,
}

impl Sent {
    const fn len(&self) -> u32 {
        self.end.since(self.start)
    }

    /// Whether it was sent before the one that arrived.
    fn precedes(&self, arrived: &Arrived) -> bool {
        self.at < arrived.at || (self.at == arrived.at && self.end.is_before(arrived.end))
    }
}

/// The segment sent last of those that have arrived.
#[derive(Clone, Copy, Debug)]
struct Arrived {
    at: Instant,
    end: Seq,
    rtt: Duration,
}

/// What an acknowledgement has brought.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct News {
    /// A round trip, of a segment that was sent once.
    pub(super) rtt: Option<Duration>,
    /// Something was acknowledged, in order or selectively.
    pub(super) arrived: bool,
}

/// In order of sequence numbers, without gaps.
#[derive(Debug, Default)]
pub(super) struct Flight {
    sent: VecDeque<Sent>,
    /// Bytes of those flying.
    flying: u64,
    lost: usize,
    held: usize,
    repeated: usize,
    arrived: Option<Arrived>,
    /// The least round trip, of segments that were sent once.
    least: Option<Duration>,
    /// The path was seen to reorder.
    reorders: bool,
    /// First sequence number beyond what the peer is known to have.
    beyond: Option<Seq>,
}

impl Flight {
    /// Bytes that are believed to be on their way.
    pub(super) const fn flying(&self) -> u64 {
        self.flying
    }

    pub(super) const fn has_lost(&self) -> bool {
        self.lost > 0
    }

    /// Whether nothing is missing between those acknowledged.
    pub(super) const fn is_orderly(&self) -> bool {
        self.lost == 0 && self.held == 0
    }

    /// Segments that are not acknowledged.
    pub(super) fn segments(&self) -> usize {
        self.sent.len()
    }

    pub(super) fn is_single(&self) -> bool {
        self.sent.len() == 1
    }

    pub(super) fn last_sent(&self) -> Option<Instant> {
        self.sent.back().map(|sent| sent.at)
    }

    pub(super) fn push(&mut self, now: Instant, start: Seq, end: Seq) {
        self.flying += u64::from(end.since(start));
        self.sent.push_back(Sent {
            start,
            end,
            at: now,
            fate: Fate::Flying,
            repeated: false,
        });
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The first segment that has to be sent again.
    pub(super) fn first_lost(&self) -> Option<(usize, Seq, Seq)> {
        if self.lost == 0 {
            return None;
        }
        let index = self.sent.iter().position(|sent| sent.fate == Fate::Lost)?;
        let sent = self.sent.get(index)?;
        Some((index, sent.start, sent.end))
    }

    /// The last segment.
    pub(super) fn last(&self) -> Option<(usize, Seq, Seq)> {
        let sent = self.sent.back()?;
        Some((self.sent.len() - 1, sent.start, sent.end))
    }

    /// A segment is sent again, but no more than `most` bytes of it: the rest becomes another.
    pub(super) fn repeat(&mut self, now: Instant, index: usize, most: u32) {
        let Some(sent) = self.sent.get(index).copied() else {
            return;
        };
        if sent.len() > most {
            let middle = sent.start.plus(most);
            let rest = Sent {
                start: middle,
                ..sent
            };
            self.sent.insert(index + 1, rest);
            self.lost += usize::from(sent.fate == Fate::Lost);
            self.held += usize::from(sent.fate == Fate::Held);
            self.repeated += usize::from(sent.repeated);
            if let Some(sent) = self.sent.get_mut(index) {
                sent.end = middle;
            }
        }
        if let Some(sent) = self.sent.get_mut(index) {
            if sent.fate != Fate::Flying {
                self.flying += u64::from(sent.len());
            }
            self.lost -= usize::from(sent.fate == Fate::Lost);
            self.held -= usize::from(sent.fate == Fate::Held);
            self.repeated += usize::from(!sent.repeated);
            sent.fate = Fate::Flying;
            sent.repeated = true;
            sent.at = now;
        }
    }

    /// Everything before `ack` has arrived.
    pub(super) fn acknowledge(&mut self, now: Instant, ack: Seq) -> News {
        let mut news = News::default();
        while let Some(sent) = self.sent.front_mut() {
            if !sent.start.is_before(ack) {
                break;
            }
            if sent.end.is_after(ack) {
                // The peer cuts as it likes.
                if sent.fate == Fate::Flying {
                    self.flying -= u64::from(ack.since(sent.start));
                }
                sent.start = ack;
                break;
            }
            let sent = *sent;
            self.sent.pop_front();
            self.repeated -= usize::from(sent.repeated);
            match sent.fate {
                Fate::Flying => self.flying -= u64::from(sent.len()),
                Fate::Lost => self.lost -= 1,
                Fate::Held => self.held -= 1,
            }
            if sent.fate != Fate::Held {
                self.has_arrived(now, &sent, &mut news);
            }
        }
        self.beyond = Some(self.beyond.map_or(ack, |beyond| beyond.max(ack)));
        news
    }

    /// The peer has what lies between `start` and `end`.
    pub(super) fn hold(&mut self, now: Instant, start: Seq, end: Seq, news: &mut News) {
        let from = self
            .sent
            .partition_point(|sent| sent.start.is_before(start));
        for index in from..self.sent.len() {
            let Some(sent) = self.sent.get_mut(index) else {
                break;
            };
            if sent.end.is_after(end) {
                break;
            }
            match sent.fate {
                Fate::Held => continue,
                Fate::Flying => self.flying -= u64::from(sent.len()),
                Fate::Lost => self.lost -= 1,
            }
            sent.fate = Fate::Held;
            self.held += 1;
            let sent = *sent;
            self.has_arrived(now, &sent, news);
        }
    }

    fn has_arrived(&mut self, now: Instant, sent: &Sent, news: &mut News) {
        news.arrived = true;
        let rtt = now.saturating_duration_since(sent.at);
        if sent.repeated {
            // It may be the first copy that has arrived (Karn).
            if self.least.is_none_or(|least| rtt < least) {
                return;
            }
        } else {
            news.rtt = Some(rtt);
            self.least = Some(self.least.map_or(rtt, |least| least.min(rtt)));
            if self.beyond.is_some_and(|beyond| sent.end.is_before(beyond)) {
                self.reorders = true;
            }
        }
        self.beyond = Some(self.beyond.map_or(sent.end, |beyond| beyond.max(sent.end)));
        let arrived = Arrived {
            at: sent.at,
            end: sent.end,
            rtt,
        };
        if self.arrived.is_none_or(|last| {
            last.at < arrived.at || (last.at == arrived.at && last.end.is_before(arrived.end))
        }) {
            self.arrived = Some(arrived);
        }
    }

    /// Finds what is lost by now. Returns whether that is anything, and when to look again.
    pub(super) fn detect(&mut self, now: Instant, recovering: bool) -> (bool, Option<Instant>) {
        let Some(arrived) = self.arrived else {
            return (false, None);
        };
        // What was sent in order and acknowledged in order leaves nothing behind.
        if self.held == 0 && self.repeated == 0 {
            return (false, None);
        }
        let sure = !self.reorders && (recovering || self.held >= DUPLICATES);
        let patience = if sure {
            Duration::ZERO
        } else {
            self.least.unwrap_or_default() / 4
        };
        let (mut any, mut next) = (false, None);
        for sent in &mut self.sent {
            if sent.fate != Fate::Flying || !sent.precedes(&arrived) {
                continue;
            }
            let deadline = sent.at + arrived.rtt + patience;
            if deadline <= now {
                sent.fate = Fate::Lost;
                self.flying -= u64::from(sent.len());
                self.lost += 1;
                any = true;
            } else {
                next = Some(next.map_or(deadline, |next: Instant| next.min(deadline)));
            }
        }
        (any, next)
    }

    /// Takes the first segment for lost. Returns whether it was flying.
    pub(super) fn lose_first(&mut self) -> bool {
        let Some(sent) = self.sent.front_mut() else {
            return false;
        };
        if sent.fate != Fate::Flying {
            return false;
        }
        sent.fate = Fate::Lost;
        self.flying -= u64::from(sent.len());
        self.lost += 1;
        true
    }

    /// Takes everything for lost that the peer is not known to have. A peer that has the first without
    /// acknowledging it has thrown away what it had (RFC 2018, section 8).
    pub(super) fn lose_all(&mut self) {
        let reneged = self
            .sent
            .front()
            .is_some_and(|sent| sent.fate == Fate::Held);
        for sent in &mut self.sent {
            if sent.fate == Fate::Flying || (reneged && sent.fate == Fate::Held) {
                self.lost += 1;
                self.held -= usize::from(sent.fate == Fate::Held);
                sent.fate = Fate::Lost;
            }
        }
        self.flying = 0;
    }

    /// A router has dropped what is longer than `most`. Returns whether that was anything.
    pub(super) fn lose_longer(&mut self, most: u32) -> bool {
        let mut any = false;
        for sent in &mut self.sent {
            if sent.fate == Fate::Flying && sent.len() > most {
                sent.fate = Fate::Lost;
                self.flying -= u64::from(sent.len());
                self.lost += 1;
                any = true;
            }
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(50);

    /// Ten segments of 100 bytes, a millisecond apart.
    fn flight(now: Instant) -> Flight {
        let mut flight = Flight::default();
        for n in 0..10 {
            let at = now + Duration::from_millis(n.into());
            flight.push(at, Seq(100 * n), Seq(100 * n + 100));
        }
        flight
    }

    #[test]
    fn acknowledgements_in_order_leave_nothing() {
        let now = Instant::now();
        let mut flight = flight(now);
        let news = flight.acknowledge(now + RTT, Seq(250));
        assert_eq!(news.rtt, Some(RTT - Duration::from_millis(1)));
        assert_eq!(flight.flying(), 750);
        assert_eq!(flight.detect(now + RTT, false), (false, None));
        flight.acknowledge(now + RTT, Seq(1000));
        assert!(flight.sent.is_empty() && flight.flying() == 0);
    }

    #[test]
    fn three_that_arrive_after_a_hole_tell_a_loss() {
        let now = Instant::now();
        let mut flight = flight(now);
        let then = now + RTT + Duration::from_millis(9);
        let mut news = News::default();
        flight.hold(then, Seq(100), Seq(300), &mut news);
        assert!(!flight.detect(then, false).0);
        flight.hold(then, Seq(100), Seq(400), &mut news);
        assert!(flight.detect(then, false).0);
        assert_eq!(flight.first_lost(), Some((0, Seq(0), Seq(100))));
        assert_eq!(flight.flying(), 600);
        flight.repeat(then, 0, 60);
        assert_eq!(flight.first_lost(), Some((1, Seq(60), Seq(100))));
        flight.repeat(then, 1, 60);
        assert!(!flight.has_lost());
        // Those that were on their way arrive, the repetition does not.
        flight.hold(then, Seq(100), Seq(1000), &mut news);
        assert_eq!(flight.detect(then, true), (false, None));
        assert_eq!(flight.flying(), 100);
        // One sent later than the repetition does.
        let later = then + Duration::from_millis(1);
        flight.push(later, Seq(1000), Seq(1100));
        flight.hold(later + RTT, Seq(1000), Seq(1100), &mut news);
        assert!(flight.detect(later + RTT, true).0);
        flight.acknowledge(later + RTT, Seq(1100));
        assert!(flight.sent.is_empty() && flight.is_orderly() && flight.flying() == 0);
    }

    #[test]
    fn a_path_that_reorders_gets_time() {
        let now = Instant::now();
        let mut flight = flight(now);
        let then = now + RTT + Duration::from_millis(9);
        let mut news = News::default();
        flight.hold(then, Seq(400), Seq(500), &mut news);
        flight.hold(then, Seq(200), Seq(300), &mut news);
        flight.hold(then, Seq(600), Seq(900), &mut news);
        let (lost, again) = flight.detect(then, false);
        assert!(!lost);
        assert!(flight.detect(again.unwrap(), false).0);
    }

    #[test]
    fn a_peer_that_forgets_gets_everything_again() {
        let now = Instant::now();
        let mut flight = flight(now);
        flight.hold(now + RTT, Seq(300), Seq(1000), &mut News::default());
        flight.lose_all();
        assert_eq!((flight.lost, flight.held, flight.flying()), (3, 7, 0));
        flight.acknowledge(now + RTT, Seq(300));
        flight.lose_all();
        assert_eq!((flight.lost, flight.held, flight.flying()), (7, 0, 0));
    }
}
