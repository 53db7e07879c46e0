//! Measurements: windows at one rate, and the search for the greatest rate.

use std::io;
use std::time::Duration;

use crate::clock::monotonic_ns;
use crate::engine::Engine;
use crate::measure::Window;
use crate::pacing::Schedule;
use crate::system::{CpuClock, Wire, WireCount};
use crate::traffic::Pace;

/// Traffic flows for so long before a measurement begins.
const WARM_UP: Duration = Duration::from_millis(200);

/// From this rate on packets are due in bursts, unless chosen otherwise ...
const BURSTS_FROM: u64 = 10_000;

/// ... of so many nanoseconds.
const BURST_NS: u64 = 200_000;

/// A load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Packets a second each way, by the clock alone.
    Rate(u64),
    /// Always so many packets under way.
    InFlight(u64),
}

/// How measurements are made.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    /// Length of one window.
    pub window: Duration,
    /// Windows at each load.
    pub windows: usize,
    /// Time between bursts in nanoseconds; 0 is evenly spaced. By default bursts only at high rates.
    pub burst_ns: Option<u64>,
    /// Share of packets that may be lost at the greatest rate.
    pub loss_limit: f64,
    /// Median round trip that the greatest rate may have.
    pub delay_limit: Duration,
    /// After such a silence what is still missing counts as lost.
    pub quiet: Duration,
    /// Where the search for the greatest rate begins, each way.
    pub search_from: u64,
    /// Steps of bisection.
    pub search_steps: usize,
}

impl Default for Method {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(1),
            windows: 5,
            burst_ns: None,
            loss_limit: 0.001,
            delay_limit: Duration::from_millis(20),
            quiet: Duration::from_millis(400),
            search_from: 20_000,
            search_steps: 3,
        }
    }
}

/// One window.
#[derive(Clone, Debug)]
pub struct Measured {
    /// What was offered.
    pub load: Load,
    /// Seconds it took.
    pub seconds: f64,
    /// What came of the packets sent in it.
    pub window: Window,
    /// Packets that were passed on in it, both ways.
    pub relayed: u64,
    /// Processor time of the system under test in it, in nanoseconds.
    pub cpu_ns: Option<u64>,
    /// Share of time that the generator was busy, 0 to 1.
    pub generator_busy: f64,
    /// What passed on the wire from before its first packet until all had arrived, with everything else that uses the same
    /// device.
    pub wire: WireCount,
    /// Packets that were passed on meanwhile.
    pub wire_relayed: u64,
}

impl Measured {
    /// Packets passed on a second.
    #[must_use]
    pub fn relayed_per_second(&self) -> f64 {
        self.relayed as f64 / self.seconds
    }

    /// Packets passed on for each second of the processor that the system under test used.
    #[must_use]
    pub fn per_cpu_second(&self) -> Option<f64> {
        let cpu = self.cpu_ns.filter(|ns| *ns > 0)?;
        Some(self.relayed as f64 * 1e9 / cpu as f64)
    }

    /// Share of time that the system under test was busy.
    #[must_use]
    pub fn server_busy(&self) -> Option<f64> {
        Some(self.cpu_ns? as f64 / 1e9 / self.seconds)
    }

    /// Whether it kept within the limits.
    #[must_use]
    pub fn is_good(&self, method: &Method) -> bool {
        let delay_us = u64::try_from(method.delay_limit.as_micros()).unwrap_or(u64::MAX);
        self.window.loss() < method.loss_limit
            && self
                .window
                .delay()
                .quantile_us(0.5)
                .is_some_and(|us| us < delay_us)
    }
}

/// Makes measurements with an engine whose clients are up.
pub struct Bench<'a> {
    /// The clients.
    pub engine: &'a mut Engine,
    /// The clock of the system under test, where it is on this host.
    pub clock: Option<CpuClock>,
    /// Counts what passes on the wire.
    pub wire: &'a Wire,
    /// How.
    pub method: Method,
    /// Is told of each window, for people who wait.
    pub progress: &'a mut dyn FnMut(&Measured),
}

impl Bench<'_> {
    fn pace(&self, load: Load) -> Pace {
        match load {
            Load::Rate(rate) => {
                let auto = if rate >= BURSTS_FROM { BURST_NS } else { 0 };
                let burst_ns = self.method.burst_ns.unwrap_or(auto);
                Pace::Open(Schedule::new(monotonic_ns(), rate, burst_ns))
            }
            Load::InFlight(in_flight) => Pace::Closed { in_flight },
        }
    }

    fn run_for(&mut self, time: Duration) -> io::Result<()> {
        let until = monotonic_ns() + nanos(time);
        while monotonic_ns() < until {
            self.engine.turn(None)?;
        }
        Ok(())
    }

    /// One window.
    ///
    /// # Errors
    ///
    /// What the system says, or the process under test has ended.
    pub fn window(&mut self, load: Load) -> io::Result<Measured> {
        let wire = self.wire.count()?;
        let all = self.engine.traffic.relayed();
        self.engine.traffic.begin_window();
        let pace = self.pace(load);
        self.engine.traffic.set_pace(pace);
        self.run_for(WARM_UP)?;
        self.engine.traffic.begin_window();
        let (begun, idle) = (monotonic_ns(), self.engine.idle_ns());
        let relayed = self.engine.traffic.relayed();
        let cpu = self.clock.map(CpuClock::ns).transpose()?;
        self.run_for(self.method.window)?;
        let after = self.clock.map(CpuClock::ns).transpose()?;
        let elapsed_ns = monotonic_ns() - begun;
        let idle_ns = self.engine.idle_ns() - idle;
        let relayed = self.engine.traffic.relayed() - relayed;
        self.engine.traffic.set_pace(Pace::Stopped);
        self.drain()?;
        let passed = self.wire.count()?;
        let measured = Measured {
            load,
            seconds: elapsed_ns as f64 / 1e9,
            window: self.engine.traffic.window().clone(),
            relayed,
            cpu_ns: cpu.zip(after).map(|(before, after)| after - before),
            generator_busy: 1.0 - (idle_ns as f64 / elapsed_ns as f64).min(1.0),
            wire: WireCount {
                packets: passed.packets.saturating_sub(wire.packets),
                bytes: passed.bytes.saturating_sub(wire.bytes),
            },
            wire_relayed: self.engine.traffic.relayed() - all,
        };
        (self.progress)(&measured);
        Ok(measured)
    }

    /// Waits for what is under way, until all is there or nothing comes any more.
    fn drain(&mut self) -> io::Result<()> {
        let mut heard = (self.engine.traffic.relayed(), monotonic_ns());
        while self.engine.traffic.window().lost() > 0
            && monotonic_ns() - heard.1 < nanos(self.method.quiet)
        {
            self.engine.turn(None)?;
            let relayed = self.engine.traffic.relayed();
            if relayed != heard.0 {
                heard = (relayed, monotonic_ns());
            }
        }
        Ok(())
    }

    /// All windows at one load.
    ///
    /// # Errors
    ///
    /// As [`Self::window`].
    pub fn windows(&mut self, load: Load) -> io::Result<Vec<Measured>> {
        (0..self.method.windows)
            .map(|_| self.window(load))
            .collect()
    }

    /// The greatest rate each way that keeps within the limits: growing by half until one does not, then by bisection. `None`
    /// if even the first rates fail.
    ///
    /// # Errors
    ///
    /// As [`Self::window`].
    pub fn greatest(&mut self) -> io::Result<Option<u64>> {
        let mut search = Search::new(self.method.search_from, self.method.search_steps);
        while let Some(rate) = search.next() {
            // A single pause of the host is not the server's limit.
            let is_good = self.window(Load::Rate(rate))?.is_good(&self.method)
                || self.window(Load::Rate(rate))?.is_good(&self.method);
            search.note(is_good);
        }
        Ok(search.found())
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Searches the greatest good rate.
#[derive(Clone, Copy, Debug)]
struct Search {
    good: Option<u64>,
    bad: Option<u64>,
    try_next: u64,
    steps: usize,
}

impl Search {
    const fn new(from: u64, steps: usize) -> Self {
        Self {
            good: None,
            bad: None,
            try_next: from,
            steps,
        }
    }

    /// The rate to be tried; `None` when it is over.
    const fn next(&self) -> Option<u64> {
        let is_over = match (self.good, self.bad) {
            (Some(_), Some(_)) => self.steps == 0,
            _ => self.try_next < 100 || self.try_next > 100_000_000,
        };
        if is_over { None } else { Some(self.try_next) }
    }

    fn note(&mut self, is_good: bool) {
        if self.good.is_some() && self.bad.is_some() {
            self.steps = self.steps.saturating_sub(1);
        }
        if is_good {
            self.good = Some(self.try_next);
        } else {
            self.bad = Some(self.try_next);
        }
        self.try_next = match (self.good, self.bad) {
            (Some(good), Some(bad)) => good.midpoint(bad),
            (Some(good), None) => good + good / 2,
            (None, _) => self.try_next / 2,
        };
    }

    const fn found(&self) -> Option<u64> {
        self.good
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(limit: u64) -> (Option<u64>, usize) {
        let mut search = Search::new(20_000, 3);
        let mut tries = 0;
        while let Some(rate) = search.next() {
            tries += 1;
            search.note(rate <= limit);
        }
        (search.found(), tries)
    }

    #[test]
    fn the_search_comes_close_from_below() {
        for limit in [300, 5_000, 20_000, 111_111, 217_000, 3_000_000] {
            let (found, tries) = search(limit);
            let found = found.unwrap();
            assert!(found <= limit, "{found} for {limit}");
            assert!(found * 16 >= limit * 14, "{found} for {limit}");
            assert!(tries < 25);
        }
    }

    #[test]
    fn the_search_ends_in_any_case() {
        assert_eq!(search(0).0, None);
        assert!(search(u64::MAX).0.is_some());
    }
}
