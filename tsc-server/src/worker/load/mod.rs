//! More to do than can be done: it is noticed, newcomers are told, and media give way to what keeps tunnels alive.
//!
//! ```text
//!   rest of its thread -------------------+
//!   packets read -------------------------+--> csm::server: overloaded? --> "busy" for newcomers
//!                                                     |
//!   receive queues of UDP ports ----------------------+--> a share of media is dropped by the system, before the queue
//! ```
//!
//! What is not read of streams waits at the client, whose own queue drops media and keeps control messages, as far as it does not
//! wait in the system's buffers here: see [`super::backlog`].

mod rest;
mod shed;

use std::time::Instant;

use tsc_csm::server::Work;

use self::rest::RestClock;
pub(crate) use self::rest::watch_rest;
pub(super) use self::rest::{idled, slept};
pub(super) use self::shed::Shedder;
use super::Worker;

/// Whether there is too much to do, and whether that matters here.
#[derive(Debug)]
pub(super) struct Load {
    /// `busy-when-overloaded`.
    is_watched: bool,
    overloaded: bool,
    rest: RestClock,
    /// Datagrams that held a packet of a tunnel, since the start.
    carried: u64,
    share: Share,
}

impl Load {
    /// On the worker's thread.
    pub(super) fn new(is_watched: bool, now: Instant) -> Self {
        Self {
            is_watched,
            overloaded: false,
            rest: RestClock::new(now),
            carried: 0,
            share: Share::default(),
        }
    }

    /// A datagram held a packet of a tunnel.
    pub(super) const fn carried_one(&mut self) {
        self.carried += 1;
    }
}

/// Whether packets of tunnels are most of the datagrams that are read. Where they are not, strangers are the load: to drop
/// packets would only make room for more of theirs.
#[derive(Debug, Default)]
struct Share {
    received: u64,
    carried: u64,
    is_most: bool,
}

impl Share {
    /// Counts since the start.
    fn note(&mut self, received: u64, carried: u64) {
        let before = std::mem::replace(&mut self.received, received);
        let all = received.saturating_sub(before);
        let before = std::mem::replace(&mut self.carried, carried);
        self.is_most = carried.saturating_sub(before) >= all / 2;
    }
}

impl Worker {
    /// To be called at the end of each turn.
    pub(super) fn measure_load(&mut self, now: Instant) {
        if !self.load.is_watched {
            return;
        }
        if self.core.wants_work(now) {
            self.judge_load(now);
        }
        for port in &mut self.ports {
            let load = shed::Situation {
                overloaded: self.load.overloaded,
                by_media: self.load.share.is_most,
            };
            port.shedder.turn(now, load, &port.socket);
        }
    }

    /// A few times a second.
    fn judge_load(&mut self, now: Instant) {
        let work = Work {
            rested: self.load.rest.so_far(now),
            packets: self.core.stats().forwarded + self.counters.switched,
        };
        let mut received = 0;
        for port in &mut self.ports {
            port.shedder.count(&port.socket);
            received += port.socket.stats().received;
        }
        self.load.share.note(received, self.load.carried);
        let Some(overloaded) = self.core.note_work(now, work) else {
            return;
        };
        self.load.overloaded = overloaded;
        let worker = self.core.shard_number();
        if overloaded {
            tracing::warn!(
                event = "overloaded",
                worker,
                "more to do than can be done: new tunnels are refused with \"busy\", and UDP media shed"
            );
        } else {
            tracing::info!(event = "overload-over", worker);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_told_from_media_window_by_window() {
        let mut share = Share::default();
        share.note(1000, 900);
        assert!(share.is_most);
        share.note(3000, 1700);
        assert!(!share.is_most, "800 of 2000");
        share.note(4000, 2200);
        assert!(share.is_most, "500 of 1000");
        share.note(4000, 2200);
        assert!(share.is_most, "nothing at all is no flood");
    }
}
