//! One direction of a path: loss, delay, jitter, duplication, reordering, rate and queue.

use std::time::{Duration, Instant};

use crate::rng::Rng;

/// What a link does to what is sent over it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkConfig {
    /// Time that every packet takes.
    pub delay: Duration,
    /// A random time below this is added to each packet's delay. Packets keep their order nevertheless.
    pub jitter: Duration,
    /// Probability that a packet is lost. On streams it costs a retransmission instead.
    pub loss: f64,
    /// How many packets in a row are lost on average, after Gilbert; 1 is that each is lost independently. Not used on
    /// streams.
    pub burst: f64,
    /// Probability that a packet arrives twice.
    pub duplicate: f64,
    /// Probability that a packet is held back, so that later ones overtake it.
    pub reorder: f64,
    /// Bytes per second; `None` is no limit.
    pub rate: Option<u64>,
    /// Bytes that wait for the rate before packets are dropped. Not used on streams.
    pub queue: u64,
    /// Nothing passes, in silence.
    pub blocked: bool,
}

impl LinkConfig {
    /// 20 ms, and nothing else.
    pub const CLEAN: Self = Self {
        delay: Duration::from_millis(20),
        jitter: Duration::ZERO,
        loss: 0.0,
        burst: 1.0,
        duplicate: 0.0,
        reorder: 0.0,
        rate: None,
        queue: 64 * 1024,
        blocked: false,
    };

    /// 20 ms and this probability of loss.
    #[must_use]
    pub const fn lossy(loss: f64) -> Self {
        Self {
            loss,
            ..Self::CLEAN
        }
    }
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self::CLEAN
    }
}

/// How long a held-back packet is late.
const REORDER_DELAY: Duration = Duration::from_millis(120);
/// What a lost segment costs a stream; doubled for each further loss of it.
const STREAM_RETRANSMISSION: Duration = Duration::from_millis(200);
/// Most losses of one segment that are modelled.
const STREAM_LOSSES: u32 = 6;

/// Which datagrams are lost: after Gilbert, in bursts.
#[derive(Clone, Debug, Default)]
pub struct Losses {
    /// The last one was, in a burst that may go on.
    in_burst: bool,
}

impl Losses {
    /// Nothing is lost yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { in_burst: false }
    }

    /// Whether the next one is: a share of `loss`, `burst` in a row on average; 1 is that each is lost independently.
    pub fn next(&mut self, rng: &mut Rng, loss: f64, burst: f64) -> bool {
        let chance = if burst <= 1.0 {
            loss
        } else if self.in_burst {
            1.0 - 1.0 / burst
        } else {
            loss / (burst * (1.0 - loss))
        };
        self.in_burst = rng.chance(chance);
        self.in_burst
    }
}

/// The state of one direction.
#[derive(Clone, Debug)]
pub struct Link {
    /// What it does; may be changed while packets are under way.
    pub config: LinkConfig,
    /// What it does to datagrams, where networks treat them otherwise than streams.
    pub datagrams: Option<LinkConfig>,
    /// The datagram after so many others is lost, whatever chance says: 0 is the next one.
    pub lose_after: Option<u32>,
    rng: Rng,
    losses: Losses,
    /// When the rate has let the last packet through.
    free_at: Option<Instant>,
    /// When the last packet in order arrives.
    last_arrival: Option<Instant>,
}

impl Link {
    /// A link that draws from `rng`.
    #[must_use]
    pub const fn new(config: LinkConfig, rng: Rng) -> Self {
        Self {
            config,
            datagrams: None,
            lose_after: None,
            rng,
            losses: Losses::new(),
            free_at: None,
            last_arrival: None,
        }
    }

    /// When a datagram of `len` bytes arrives: not at all, once, or twice.
    pub fn datagram(&mut self, now: Instant, len: usize) -> Vec<Instant> {
        let config = self.datagrams.unwrap_or(self.config);
        let LinkConfig {
            duplicate,
            queue,
            loss,
            burst,
            ..
        } = config;
        let blocked = config.blocked || self.config.blocked;
        match &mut self.lose_after {
            Some(0) => {
                self.lose_after = None;
                return Vec::new();
            }
            Some(others) => *others -= 1,
            None => {}
        }
        if blocked || self.losses.next(&mut self.rng, loss, burst) {
            return Vec::new();
        }
        let Some(sent) = self.through_rate(now, len, config.rate, Some(queue)) else {
            return Vec::new();
        };
        let copies = if self.rng.chance(duplicate) { 2 } else { 1 };
        let once = |_| self.arrival(sent, config);
        (0..copies).map(once).collect()
    }

    /// When a piece of a stream of `len` bytes can arrive. The caller keeps the order.
    pub fn segment(&mut self, now: Instant, len: usize) -> Instant {
        let losses = (0..STREAM_LOSSES)
            .take_while(|_| self.rng.chance(self.config.loss))
            .count();
        let penalty = (0..losses)
            .map(|n| STREAM_RETRANSMISSION * (1 << n))
            .sum::<Duration>();
        let rate = self.config.rate;
        let sent = self.through_rate(now, len, rate, None).unwrap_or(now);
        sent + penalty + self.config.delay + self.rng.up_to(self.config.jitter)
    }

    fn through_rate(
        &mut self,
        now: Instant,
        len: usize,
        rate: Option<u64>,
        queue: Option<u64>,
    ) -> Option<Instant> {
        let Some(rate) = rate.filter(|rate| *rate > 0) else {
            return Some(now);
        };
        let start = self.free_at.map_or(now, |free_at| free_at.max(now));
        let time = |bytes: u64| Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / rate);
        if queue.is_some_and(|queue| start - now > time(queue)) {
            return None;
        }
        let done = start + time(u64::try_from(len).unwrap_or(u64::MAX));
        self.free_at = Some(done);
        Some(done)
    }

    fn arrival(&mut self, sent: Instant, config: LinkConfig) -> Instant {
        let at = sent + config.delay + self.rng.up_to(config.jitter);
        if self.rng.chance(config.reorder) {
            return at + REORDER_DELAY;
        }
        let at = self.last_arrival.map_or(at, |last| at.max(last));
        self.last_arrival = Some(at);
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(config: LinkConfig, packets: u32) -> Vec<Duration> {
        let start = Instant::now();
        let mut link = Link::new(config, Rng::new(1));
        (0..packets)
            .flat_map(|n| link.datagram(start + Duration::from_millis(u64::from(n)), 1000))
            .map(|at| at - start)
            .collect()
    }

    #[test]
    fn a_clean_link_only_delays() {
        let expected: Vec<_> = (0..10).map(|n| Duration::from_millis(20 + n)).collect();
        assert_eq!(arrivals(LinkConfig::CLEAN, 10), expected);
    }

    #[test]
    fn loss_and_duplication_come_about_as_often_as_asked() {
        let lost = 1000 - arrivals(LinkConfig::lossy(0.2), 1000).len();
        assert!((150..250).contains(&lost), "{lost} of 1000 lost");
        let twice = arrivals(
            LinkConfig {
                duplicate: 0.2,
                ..LinkConfig::CLEAN
            },
            1000,
        )
        .len()
            - 1000;
        assert!((150..250).contains(&twice), "{twice} of 1000 twice");
    }

    #[test]
    fn jitter_keeps_the_order_and_reordering_does_not() {
        let jitter = LinkConfig {
            jitter: Duration::from_millis(50),
            ..LinkConfig::CLEAN
        };
        assert!(arrivals(jitter, 500).is_sorted());
        assert!(
            !arrivals(
                LinkConfig {
                    reorder: 0.1,
                    ..LinkConfig::CLEAN
                },
                500
            )
            .is_sorted()
        );
    }

    #[test]
    fn the_rate_spaces_packets_and_the_queue_bounds_the_wait() {
        let config = LinkConfig {
            rate: Some(100_000),
            queue: 5_000,
            ..LinkConfig::CLEAN
        };
        let arrivals = arrivals(config, 100);
        assert!(arrivals.len() < 30, "{} got through", arrivals.len());
        assert!(
            arrivals
                .windows(2)
                .all(|pair| pair[1] - pair[0] >= Duration::from_millis(10))
        );
    }

    #[test]
    fn a_blocked_link_is_silent() {
        assert!(
            arrivals(
                LinkConfig {
                    blocked: true,
                    ..LinkConfig::CLEAN
                },
                10
            )
            .is_empty()
        );
    }
}
