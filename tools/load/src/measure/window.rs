//! One measurement: what was sent in it, and what became of that.

use hdrhistogram::Histogram;

use super::sequence::Arrival;

/// Longest time that is told apart, in microseconds.
const LONGEST_US: u64 = 120_000_000;

/// Times in microseconds, to three digits.
#[derive(Clone, Debug)]
pub struct Latency(Histogram<u32>);

impl Latency {
    /// Empty.
    #[must_use]
    pub fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LONGEST_US, 3);
        // The bounds are constants that the library takes; the other arm is never reached.
        Self(histogram.unwrap_or_else(|_| {
            let mut any = Histogram::<u32>::new(3).unwrap_or_else(|_| std::process::abort());
            any.auto(true);
            any
        }))
    }

    /// Notes one time in nanoseconds.
    pub fn record_ns(&mut self, ns: u64) {
        self.0.saturating_record((ns / 1000).max(1));
    }

    /// Adds all of another.
    pub fn add(&mut self, other: &Self) {
        // Both have the same bounds.
        let _same_bounds = self.0.add(&other.0);
    }

    /// The time that `quantile` (0 to 1) of all were below, in microseconds; `None` if there were none.
    #[must_use]
    pub fn quantile_us(&self, quantile: f64) -> Option<u64> {
        (!self.0.is_empty()).then(|| self.0.value_at_quantile(quantile))
    }

    /// The longest, in microseconds.
    #[must_use]
    pub fn max_us(&self) -> Option<u64> {
        (!self.0.is_empty()).then(|| self.0.max())
    }

    /// How many there were.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Whether there were none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self::new()
    }
}

/// Counters and times of one measurement. A packet counts for the window it was sent in, whenever it arrives.
#[derive(Clone, Debug, Default)]
pub struct Window {
    /// Its number, which packets carry.
    pub number: u16,
    /// Requests sent.
    pub sent: u64,
    /// Requests that could not be sent, as a socket or a queue was full. They count as sent, too.
    pub unsent: u64,
    /// Nothing is sent back: loss is what did not reach the far end.
    pub one_way: bool,
    /// Requests that arrived at the far end, each once.
    pub requests: u64,
    /// Echoes that came back, each once.
    pub echoes: u64,
    /// Packets that came again, both ways.
    pub duplicates: u64,
    /// Packets that came after a newer one of their flow, both ways.
    pub reordered: u64,
    /// From when a request was due until its echo was there.
    pub round_trip: Latency,
    /// From when a request was due until it was at the far end.
    pub up: Latency,
    /// From the far end back.
    pub down: Latency,
    /// How late requests were sent.
    pub late: Latency,
}

impl Window {
    /// An empty one.
    #[must_use]
    pub fn new(number: u16, one_way: bool) -> Self {
        Self {
            number,
            one_way,
            ..Self::default()
        }
    }

    /// Counts an arrival; `false` if it is to count for nothing else.
    pub fn note(&mut self, arrival: Arrival) -> bool {
        match arrival {
            Arrival::InOrder => true,
            // What lies so far behind is far more likely to be late than to be a copy.
            Arrival::Reordered | Arrival::TooOld => {
                self.reordered += 1;
                true
            }
            Arrival::Duplicate => {
                self.duplicates += 1;
                false
            }
        }
    }

    /// Requests whose echo has not come, or one way those that have not arrived.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        let arrived = if self.one_way {
            self.requests
        } else {
            self.echoes
        };
        self.sent.saturating_sub(arrived)
    }

    /// The times that a limit on delay is about: there and back, or one way.
    #[must_use]
    pub const fn delay(&self) -> &Latency {
        if self.one_way {
            &self.up
        } else {
            &self.round_trip
        }
    }

    /// The same as a share of those sent, 0 to 1.
    #[must_use]
    pub fn loss(&self) -> f64 {
        if self.sent == 0 {
            return 0.0;
        }
        self.lost() as f64 / self.sent as f64
    }

    /// Adds all of another.
    pub fn add(&mut self, other: &Self) {
        self.one_way |= other.one_way;
        self.sent += other.sent;
        self.unsent += other.unsent;
        self.requests += other.requests;
        self.echoes += other.echoes;
        self.duplicates += other.duplicates;
        self.reordered += other.reordered;
        self.round_trip.add(&other.round_trip);
        self.up.add(&other.up);
        self.down.add(&other.down);
        self.late.add(&other.late);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_is_what_did_not_come_back() {
        let mut window = Window::new(3, false);
        window.sent = 1000;
        for arrival in [
            Arrival::InOrder,
            Arrival::Reordered,
            Arrival::Duplicate,
            Arrival::TooOld,
        ] {
            if window.note(arrival) {
                window.echoes += 1;
            }
        }
        assert_eq!(
            (window.echoes, window.duplicates, window.reordered),
            (3, 1, 2)
        );
        assert_eq!(window.lost(), 997);
        assert!((window.loss() - 0.997).abs() < 1e-9);
        window.one_way = true;
        assert_eq!(window.lost(), 1000, "no request has arrived");
        assert!(Window::default().loss().abs() < 1e-9);
    }

    #[test]
    fn windows_add_up() {
        let (mut a, mut b) = (Window::new(1, false), Window::new(2, false));
        a.sent = 1;
        a.round_trip.record_ns(1_000_000);
        b.sent = 2;
        b.round_trip.record_ns(3_000_000);
        a.add(&b);
        assert_eq!((a.sent, a.round_trip.len()), (3, 2));
        assert!(
            a.round_trip
                .max_us()
                .is_some_and(|us| us.abs_diff(3_000) <= 3)
        );
        assert!(
            a.round_trip
                .quantile_us(0.5)
                .is_some_and(|us| us.abs_diff(1_000) <= 1)
        );
    }

    #[test]
    fn times_beyond_all_bounds_are_kept_as_the_longest() {
        let mut latency = Latency::new();
        assert_eq!(latency.quantile_us(0.5), None);
        latency.record_ns(u64::MAX);
        latency.record_ns(0);
        assert_eq!(latency.len(), 2);
        assert!(latency.max_us().is_some_and(|us| us >= LONGEST_US));
    }
}
