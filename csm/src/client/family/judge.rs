//! Which of two tunnels carries media, where sockets leave that to this end: measured on both, with hysteresis.
//!
//! ```text
//!             the stream is bad enough          the companion is better            the stream is better
//!    Main ------------------------------> Trial ------------------------> Beside ---------------------.
//!      ^                                  |   ^                              |                        |
//!      '---- not better in 20 s, then ----'   '------------------------------+------------------------'
//!      |     rest: 30 s, doubling                                            |
//!      '---------------------------- no media for 30 s ----------------------'
//! ```
//!
//! A tunnel is better if speech is worth [`MARGIN`] more over it, and a move stands for ten seconds at least, which each further
//! move doubles. The measurements are each tunnel's own (`client/probe.rs`).

use std::time::{Duration, Instant};

use super::super::probe::{PROBE_EVERY, Rating};
use super::super::service::{Choice, Redundancy};
use super::{DDT, Family};
use crate::backoff::Backoff;
use crate::flow::FlowKey;
use crate::redundancy::MAX_COPIES;

/// What a move must gain, in points of the E-model's rating factor: about half a point of MOS.
const MARGIN: f64 = 10.0;
/// How many times as much a stream is worse with media on it than without: whatever is lost holds back all that follows.
const LADEN: f64 = 3.0;
/// How long a companion may take to turn out better. A server keeps one that no socket has for 30 s.
const TRIAL: Duration = Duration::from_secs(20);
/// How long a move stands; after the first one.
const STAYS: Backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(320));
/// After a companion that was not better.
const RESTS: Backoff = Backoff::new(Duration::from_secs(30), Duration::from_secs(600));
/// A choice that held for so long was right: what was before counts no more.
const HELD_FOR: Duration = Duration::from_secs(600);

/// Packets between two looks at the tunnels, in both directions, that are media: 12 a second.
const MEDIA: u64 = 3;
/// For how long media may pause, and is measured nevertheless.
const PAUSE: Duration = Duration::from_secs(5);
/// Media that has paused for so long is over.
const OVER: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug)]
pub(super) struct Judge {
    choice: Choice,
    /// Since when it is that.
    since: Instant,
    stays: Backoff,
    stays_until: Option<Instant>,
    rests: Backoff,
    rests_until: Option<Instant>,
    /// The last look at the traffic, and the packets that had passed then.
    looked: Instant,
    seen: u64,
    /// The last media.
    media: Option<Instant>,
}

/// What a look at the traffic has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    /// Both tunnels are to be measured.
    measures: bool,
    /// What was measured before is old.
    begins: bool,
}

/// The two tunnels.
#[derive(Clone, Copy, Debug, Default)]
struct Ratings {
    stream: Option<Rating>,
    beside: Option<Rating>,
    /// Whether there is a companion that works.
    works: bool,
}

impl Judge {
    const fn new(now: Instant, passed: u64) -> Self {
        Self {
            choice: Choice::Main,
            since: now,
            stays: STAYS,
            stays_until: None,
            rests: RESTS,
            rests_until: None,
            looked: now,
            seen: passed,
            media: None,
        }
    }

    /// When the next look is due; never while nothing passes.
    fn deadline(&self, passed: u64) -> Option<Instant> {
        let is_measuring = self.media.is_some_and(|media| self.looked < media + PAUSE);
        if is_measuring || self.seen != passed {
            return Some(self.looked + PROBE_EVERY);
        }
        let over = self.media.map(|media| media + OVER);
        match self.choice {
            Choice::Main => None,
            Choice::Trial => Some(self.since + TRIAL),
            Choice::Beside => over,
        }
    }

    /// Looks at the traffic, if that is due.
    fn look(&mut self, now: Instant, passed: u64) -> Option<Look> {
        if self.deadline(passed).is_none_or(|due| now < due) {
            return None;
        }
        let is_media = passed.wrapping_sub(self.seen) >= MEDIA;
        let lasts = |media: Option<Instant>| media.is_some_and(|media| now < media + PAUSE);
        let begins = is_media && !lasts(self.media);
        (self.looked, self.seen) = (now, passed);
        if is_media {
            self.media = Some(now);
        }
        let measures = lasts(self.media);
        Some(Look { measures, begins })
    }

    /// Which tunnel it is to be now.
    fn decide(&mut self, now: Instant, ratings: Ratings) -> Choice {
        if now >= self.since + HELD_FOR {
            (self.stays, self.rests) = (STAYS, RESTS);
        }
        let over = |until: Option<Instant>| until.is_none_or(|until| until <= now);
        let is_over = self.media.is_none_or(|media| now >= media + OVER);
        let may_move = over(self.stays_until);
        let Ratings {
            stream,
            beside,
            works,
        } = ratings;
        let could_gain = |stream: Rating| stream.best - stream.points >= MARGIN;
        let gains = |(stream, beside): (Rating, Rating)| beside.cautious - stream.points >= MARGIN;
        let gains_back = |(stream, beside): (Rating, Rating)| {
            let laden = stream.best - (stream.best - stream.points) * LADEN;
            laden - beside.points >= MARGIN
        };
        let both = stream.zip(beside).filter(|_| may_move);
        match self.choice {
            Choice::Main => {
                if may_move && over(self.rests_until) && stream.is_some_and(could_gain) {
                    self.set(now, Choice::Trial);
                }
            }
            Choice::Trial => {
                if works && both.is_some_and(gains) {
                    self.moves(now, Choice::Beside);
                } else if now >= self.since + TRIAL {
                    self.rests_until = Some(now + self.rests.next());
                    self.set(now, Choice::Main);
                }
            }
            // Nothing is moved by that, and the server need not keep what nobody uses.
            Choice::Beside if is_over => self.set(now, Choice::Main),
            // Media is on the stream already, and does not return by chance.
            Choice::Beside if !works => self.moves(now, Choice::Trial),
            Choice::Beside => {
                if both.is_some_and(gains_back) {
                    self.moves(now, Choice::Trial);
                }
            }
        }
        self.choice
    }

    fn moves(&mut self, now: Instant, choice: Choice) {
        self.set(now, choice);
        self.stays_until = Some(now + self.stays.next());
    }

    const fn set(&mut self, now: Instant, choice: Choice) {
        self.choice = choice;
        self.since = now;
    }

    /// What did not pass on one network may on another. How long moves stand does not depend on that.
    const fn network_changed(&mut self) {
        self.rests_until = None;
        self.rests.reset();
    }
}

impl Family {
    /// Begins to judge when a socket leaves the choice to this end, and ends when none does.
    pub(super) fn settle_judge(&mut self, now: Instant) {
        let is_wanted = self.main.undecided().next().is_some();
        if is_wanted == self.judge.is_some() {
            return;
        }
        self.judge = is_wanted.then(|| Box::new(Judge::new(now, self.passed)));
        self.forget_ratings();
        self.main.choose(now, Choice::Main);
    }

    fn forget_ratings(&mut self) {
        self.main.forget_probes();
        if let Some(companion) = self.companions.get_mut(DDT).and_then(Option::as_mut) {
            companion.client.forget_probes();
        }
    }

    pub(super) fn judge_deadline(&self) -> Option<Instant> {
        self.judge.as_ref()?.deadline(self.passed)
    }

    /// Measures, and decides.
    pub(super) fn judge_timeout(&mut self, now: Instant) {
        let passed = self.passed;
        let Some(judge) = &mut self.judge else {
            return;
        };
        let Some(look) = judge.look(now, passed) else {
            return;
        };
        if look.begins {
            self.forget_ratings();
        }
        let mut ratings = Ratings {
            works: self.main.has_companion(),
            ..Ratings::default()
        };
        // What was measured before a pause says nothing about now.
        if look.measures {
            (ratings.stream, ratings.beside) = self.ratings(now);
            self.main.probe(now);
            if let Some(companion) = self.companions.get_mut(DDT).and_then(Option::as_mut) {
                companion.client.probe(now);
            }
        }
        let Some(judge) = &mut self.judge else {
            return;
        };
        let before = judge.choice;
        let choice = judge.decide(now, ratings);
        if choice != before {
            tracing::debug!(?before, ?choice, ?ratings, "which tunnel carries media");
            self.main.choose(now, choice);
        }
    }

    /// What speech is worth over both.
    fn ratings(&self, now: Instant) -> (Option<Rating>, Option<Rating>) {
        let copies = self.main.undecided().map(|key| self.copies(key)).min();
        let (over_streams, beside) = copies.unwrap_or_default();
        let companion = self.ddt();
        let beside = companion.and_then(|companion| companion.client.rating(now, beside));
        (self.main.rating(now, over_streams), beside)
    }

    /// How often a socket's packets are repeated, or would be: over streams, and beside them. Only what is in force counts, as
    /// far as that can be told of the tunnel that they are not on.
    fn copies(&self, key: FlowKey) -> (u8, u8) {
        let status = self.redundancy(key);
        let granted = status.and_then(|status| status.granted).unwrap_or_default();
        let granted = granted.min(MAX_COPIES);
        let wish = self.redundancy.iter().find(|(had, ..)| *had == key);
        match wish.map(|(_, _, wish)| *wish) {
            Some(Redundancy::Copies(_)) => (granted, granted),
            Some(Redundancy::Adaptive { .. }) => (0, granted),
            // Over one of several streams each packet goes once.
            Some(Redundancy::Balanced(_) | Redundancy::Off) | None => (0, 0),
        }
    }

    pub(super) fn judge_network_changed(&mut self, now: Instant) {
        self.main.datagrams_network_changed(now);
        if let Some(judge) = &mut self.judge {
            judge.network_changed();
        }
        self.forget_ratings();
    }
}
