//! More to do than can be done: it is noticed, newcomers are told, and media give way to what keeps tunnels alive.
//!
//! ```text
//!   rest of its thread -------------------+
//!   packets read -------------------------+--> csm::server: overloaded? --> "busy" for newcomers
//!                                                     |
//!   receive queues of UDP ports ----------------------+--> a share of media is dropped by the system, before the queue
//! ```
//!
//! Streams need nothing of the kind: what is not read waits at the client, whose own queue drops media and keeps
//! control messages.

mod rest;
mod shed;

use std::time::Instant;

use tsc_csm::server::Work;

use self::rest::RestClock;
pub(crate) use self::rest::watch_rest;
pub(super) use self::shed::Shedder;
use super::Worker;

/// Whether there is too much to do, and whether that matters here.
#[derive(Debug)]
pub(super) struct Load {
    /// `busy-when-overloaded`.
    is_watched: bool,
    overloaded: bool,
    rest: RestClock,
}

impl Load {
    /// On the worker's thread.
    pub(super) fn new(is_watched: bool, now: Instant) -> Self {
        Self {
            is_watched,
            overloaded: false,
            rest: RestClock::new(now),
        }
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
            port.shedder.turn(now, self.load.overloaded, &port.socket);
        }
    }

    /// A few times a second.
    fn judge_load(&mut self, now: Instant) {
        let work = Work {
            rested: self.load.rest.so_far(now),
            packets: self.core.stats().forwarded + self.counters.switched,
        };
        for port in &mut self.ports {
            port.shedder.count(&port.socket);
        }
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
