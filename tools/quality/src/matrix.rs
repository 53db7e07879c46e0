//! Which calls are made over which networks.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::service::{Service, Transport};

/// What carries the media of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Column {
    /// The tunnel's outer transport.
    pub transport: Transport,
    /// What the caller asks of its tunnel.
    pub service: Service,
}

impl Column {
    /// A transport with a service.
    #[must_use]
    pub const fn new(transport: Transport, service: Service) -> Self {
        Self { transport, service }
    }

    /// All that there are, in the order of tables.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for transport in Transport::ALL {
            let services = Service::ALL
                .into_iter()
                .filter(|service| service.is_for(transport));
            all.extend(services.map(|service| Self::new(transport, service)));
        }
        all
    }

    /// Whether its media goes in datagrams, each of which is lost or not.
    #[must_use]
    pub fn is_datagrams(self) -> bool {
        !self.transport.is_stream() || self.service == Service::Ddt
    }

    /// Copies of each packet in the datagrams that follow, if they are always as many; `None` on streams.
    #[must_use]
    pub const fn copies(self) -> Option<i32> {
        match self.service {
            Service::Plain if self.transport.is_stream() => None,
            Service::Plain | Service::Ddt => Some(0),
            Service::OneCopy => Some(1),
            Service::TwoCopies => Some(2),
            Service::Adaptive | Service::OneStream | Service::TwoStreams | Service::Balanced => {
                None
            }
        }
    }

    /// Whether it is measured with other delays than [`DELAY`] too.
    fn is_on_delay_axis(self) -> bool {
        // TLS and DTLS add no round trip to media: TCP and UDP stand for them. And the most of a service for less of it.
        match self.service {
            Service::Plain
            | Service::TwoCopies
            | Service::Adaptive
            | Service::Ddt
            | Service::TwoStreams => matches!(self.transport, Transport::Tcp | Transport::Udp),
            Service::OneCopy | Service::OneStream | Service::Balanced => false,
        }
    }

    /// Whether those who wait long hear it too.
    fn is_for(self, listener: Listener) -> bool {
        // Beside TLS they would hear what they hear beside TCP.
        listener == Listener::Fixed || self != Self::new(Transport::Tls, Service::Ddt)
    }
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.transport, self.service)
    }
}

/// What the network does to packets, in each direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Network {
    /// Of so many hundredths of all packets nothing is heard again.
    pub loss_percent: u32,
    /// So many of them in a row, on average; 1 is that each is lost independently.
    pub burst: u32,
    /// From one end to the other, in milliseconds.
    pub delay_ms: u64,
}

impl Network {
    /// Share of packets that are lost.
    #[must_use]
    pub fn loss(self) -> f64 {
        f64::from(self.loss_percent) / 100.0
    }

    /// From one end to the other.
    #[must_use]
    pub const fn delay(self) -> Duration {
        Duration::from_millis(self.delay_ms)
    }

    /// The share of packets that is lost together with its `copies` copies, in the datagrams that follow.
    #[must_use]
    pub fn residual(self, copies: i32) -> f64 {
        if self.burst <= 1 {
            self.loss().powi(copies + 1)
        } else {
            // A burst of mean length b goes on with 1 - 1/b.
            self.loss() * (1.0 - 1.0 / f64::from(self.burst)).powi(copies)
        }
    }

    /// The seed of its losses: the same for all columns, so that they meet the same network.
    #[must_use]
    pub fn seed(self, base: u64) -> u64 {
        let number =
            u64::from(self.loss_percent) << 32 | u64::from(self.burst) << 16 | self.delay_ms;
        base.wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .wrapping_add(number)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            loss_percent,
            burst,
            delay_ms,
        } = self;
        write!(f, "loss{loss_percent:02}-burst{burst}-{delay_ms}ms")
    }
}

/// How long those who listen wait for packets that come late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Listener {
    /// 60 ms, as much as a conversation does not notice.
    Fixed,
    /// 60 to 200 ms, as the network makes it necessary.
    Waiting,
}

impl Listener {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Fixed, Self::Waiting];

    /// Its name in results and on our command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::Waiting => "waiting",
        }
    }

    /// The value of `--playout-delay`.
    #[must_use]
    pub const fn playout_delay(self) -> &'static str {
        match self {
            Self::Fixed => "60",
            Self::Waiting => "adaptive",
        }
    }
}

/// One call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cell {
    /// What carries it.
    pub column: Column,
    /// What it goes over.
    pub network: Network,
    /// Who hears it, at both ends.
    pub listener: Listener,
}

impl Cell {
    /// Its name: that of its files.
    #[must_use]
    pub fn name(&self) -> String {
        format!(
            "{}-{}-{}",
            self.column,
            self.network,
            self.listener.as_str()
        )
    }

    /// Whether a word means it: its name, or parts of that, such as `udp`, `2-copies`, `loss05`, `150ms`, `udp-plain-loss10`.
    #[must_use]
    pub fn is_meant_by(&self, word: &str) -> bool {
        let (name, bounded) = (format!("-{}-", self.name()), format!("-{word}-"));
        name.contains(&bounded)
    }
}

/// Loss in percent.
pub const LOSSES: [u32; 6] = [0, 1, 2, 5, 10, 20];
/// Packets in a row where losses come in bursts (Gilbert-Elliott: nothing is lost outside of them, everything within).
pub const BURST: u32 = 3;
/// One way, where it is not the delay that is looked at.
pub const DELAY: u64 = 50;
/// One way, where it is.
pub const DELAYS: [u64; 4] = [20, 50, 100, 150];
/// Loss in percent where the delay is looked at.
pub const DELAY_LOSS: u32 = 5;

/// All cells: each column with each loss, independent and in bursts, at one delay; some columns at one loss with each delay. Where
/// losses are independent, for both listeners, but for one column. So it stays at half an hour.
#[must_use]
pub fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for column in Column::all() {
        let mut add = |listener, loss_percent, burst, delay_ms| {
            let network = Network {
                loss_percent,
                burst,
                delay_ms,
            };
            cells.push(Cell {
                column,
                network,
                listener,
            });
        };
        for listener in Listener::ALL.into_iter().filter(|one| column.is_for(*one)) {
            for loss in LOSSES {
                add(listener, loss, 1, DELAY);
            }
            let delays = DELAYS.into_iter().filter(|delay| *delay != DELAY);
            for delay in delays.filter(|_| column.is_on_delay_axis()) {
                add(listener, DELAY_LOSS, 1, delay);
            }
        }
        for loss in LOSSES.into_iter().filter(|loss| *loss > 0) {
            add(Listener::Fixed, loss, BURST, DELAY);
        }
    }
    cells
}

/// A few of them, which show whether all works: the smallest and the largest of what the checks ask for.
#[must_use]
pub fn quick_cells() -> Vec<Cell> {
    let mut cells = cells();
    cells.retain(|cell| {
        let Network {
            loss_percent,
            burst,
            delay_ms,
        } = cell.network;
        cell.listener == Listener::Fixed
            && burst == 1
            && delay_ms == DELAY
            && matches!(loss_percent, 0 | 5 | 10)
    });
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_and_words_choose() {
        let all = cells();
        let mut names: Vec<_> = all.iter().map(Cell::name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all.len());
        let chosen = |word: &str| all.iter().filter(|cell| cell.is_meant_by(word)).count();
        // Five columns, of which three are on the axis of delays.
        assert_eq!(chosen("tcp"), 5 * (2 * 6 + 5) + 3 * 2 * 3);
        assert_eq!(chosen("tls-ddt"), 6 + 5, "for one kind of listener");
        assert_eq!(chosen("fan-out-1"), 2 * 6 + 5);
        assert!(all.len() < 300, "it takes half an hour");
        assert_eq!(chosen("udp-2-copies-loss05-burst1-50ms"), 2);
        assert_eq!(chosen("udp-2-copies-loss05-burst1-50ms-fixed"), 1);
        assert_eq!(chosen("150ms"), 2 * (3 + 3));
        assert_eq!(chosen("loss1"), 0, "words are whole");
        assert!(quick_cells().iter().all(|cell| all.contains(cell)));
    }

    #[test]
    fn theory_is_that_of_copies_in_the_next_datagrams() {
        let network = |burst| Network {
            loss_percent: 10,
            burst,
            delay_ms: DELAY,
        };
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        close(network(1).residual(0), 0.1);
        close(network(1).residual(2), 0.001);
        close(network(3).residual(0), 0.1);
        close(network(3).residual(2), 0.1 * 4.0 / 9.0);
    }
}
