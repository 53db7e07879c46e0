//! Whether a worker has more to do than it can, and what newcomers are told then.
//!
//! *Problem*: a worker that never rests drops packets, keepalives among them, and each new tunnel makes that worse for all
//! there are. *Mechanism*: the owner says from time to time how long it has rested and how much it has done; a server that
//! hardly rests for two windows is overloaded, and answers Configuration_Requests with `busy` before any work is done for
//! them. Established tunnels go on: theirs are Keepalives and Resume_Requests, which are not refused. *Limit*: one request in
//! [`ADMIT_EVERY`] passes nevertheless, so that a server whose load can wait (one large download keeps a processor busy)
//! does not lock newcomers out.
//!
//! Ours: the specification leaves open when a server is `busy`.

use std::time::{Duration, Instant};

use super::Server;

/// How long the load is looked at before it is judged.
pub const WINDOW: Duration = Duration::from_millis(250);

/// Overloaded is who has rested less than this part of a window, for [`WINDOWS`] in a row ...
const BUSY_PART: u32 = 20;

/// ... until a window with at least this part of rest.
const CALM_PART: u32 = 10;

/// Windows in a row that must be without rest.
pub const WINDOWS: u8 = 2;

/// A set-up counts as work of so many packets. A server that is busy with set-ups alone serves them all: refusing would only
/// make clients come again.
const SET_UP_WORK: u64 = 8;

/// While overloaded one new tunnel is admitted in this time, by each shard.
pub const ADMIT_EVERY: Duration = Duration::from_secs(1);

/// What a worker has done and rested since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Time in which it waited for something to do.
    pub rested: Duration,
    /// Packets that it moved.
    pub packets: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct LoadMeter {
    /// When the window began, and what was done until then.
    window: Option<(Instant, Work, u64)>,
    busy_windows: u8,
    overloaded: bool,
    /// When the next newcomer is admitted all the same.
    next_admission: Option<Instant>,
}

impl LoadMeter {
    pub(super) const fn new() -> Self {
        Self {
            window: None,
            busy_windows: 0,
            overloaded: false,
            next_admission: None,
        }
    }

    /// Whether it is time to tell what was done.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.window
            .is_none_or(|(begun, ..)| now.saturating_duration_since(begun) >= WINDOW)
    }

    /// Judges a window that is over; `set_ups` are those granted since the start. Whether the judgement has changed.
    pub(super) fn note(&mut self, now: Instant, work: Work, set_ups: u64) -> bool {
        if !self.is_due(now) {
            return false;
        }
        let Some((begun, before, set_ups_before)) = self.window.replace((now, work, set_ups))
        else {
            return false;
        };
        let elapsed = now.saturating_duration_since(begun);
        let rested = work.rested.saturating_sub(before.rested);
        let packets = work.packets.saturating_sub(before.packets);
        let set_ups = set_ups.saturating_sub(set_ups_before);
        let is_media = packets >= set_ups.saturating_mul(SET_UP_WORK) && packets > 0;
        let was = self.overloaded;
        if rested < elapsed / BUSY_PART && is_media {
            self.busy_windows = self.busy_windows.saturating_add(1).min(WINDOWS);
            if self.busy_windows >= WINDOWS {
                self.overloaded = true;
            }
        } else {
            self.busy_windows = 0;
            if rested >= elapsed / CALM_PART || !is_media {
                self.overloaded = false;
            }
        }
        was != self.overloaded
    }

    pub(super) const fn is_overloaded(&self) -> bool {
        self.overloaded
    }

    /// Whether a newcomer may have a tunnel, if all else is in order.
    pub(super) fn admits(&self, now: Instant) -> bool {
        !self.overloaded || self.next_admission.is_none_or(|next| now >= next)
    }

    /// A newcomer got one.
    pub(super) fn admitted(&mut self, now: Instant) {
        if self.overloaded {
            self.next_admission = Some(now + ADMIT_EVERY);
        }
    }
}

impl Server {
    /// Whether [`note_work`](Self::note_work) is due: once in [`LOAD_WINDOW`](super::LOAD_WINDOW).
    #[must_use]
    pub fn wants_work(&self, now: Instant) -> bool {
        self.load.is_due(now)
    }

    /// Tells what the worker has done since its start, and how long it has rested, from which follows whether there is more
    /// to do than can be done. Who never tells is never overloaded. `Some` when that has changed.
    pub fn note_work(&mut self, now: Instant, work: Work) -> Option<bool> {
        let set_ups = self.stats.configured + self.stats.resumed;
        if !self.load.note(now, work, set_ups) {
            return None;
        }
        let overloaded = self.load.is_overloaded();
        self.stats.overloads += u64::from(overloaded);
        Some(overloaded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker in simulated time.
    struct World {
        meter: LoadMeter,
        now: Instant,
        work: Work,
        set_ups: u64,
    }

    impl World {
        fn new() -> Self {
            let mut world = Self {
                meter: LoadMeter::new(),
                now: Instant::now(),
                work: Work::default(),
                set_ups: 0,
            };
            world.meter.note(world.now, world.work, 0);
            world
        }

        /// A window in which it rests for some of a hundred parts; gives whether it is overloaded after it.
        fn window(&mut self, rest_percent: u32, packets: u64, set_ups: u64) -> bool {
            self.now += WINDOW;
            self.work.rested += WINDOW * rest_percent / 100;
            self.work.packets += packets;
            self.set_ups += set_ups;
            self.meter.note(self.now, self.work, self.set_ups);
            self.meter.is_overloaded()
        }
    }

    #[test]
    fn two_windows_without_rest_are_overload_and_one_with_rest_ends_it() {
        let mut world = World::new();
        assert!(!world.window(1, 50_000, 0), "one may be a burst");
        assert!(world.window(1, 50_000, 0));
        assert!(world.window(7, 50_000, 0), "between the marks it stays");
        assert!(!world.window(10, 50_000, 0));
        assert!(!world.window(1, 50_000, 0), "counted anew");
        assert!(world.window(0, 50_000, 0));
    }

    #[test]
    fn a_busy_server_with_some_rest_is_not_overloaded() {
        let mut world = World::new();
        for _ in 0..100 {
            assert!(!world.window(6, 50_000, 0));
        }
    }

    #[test]
    fn set_ups_alone_are_all_served() {
        let mut world = World::new();
        for _ in 0..100 {
            assert!(!world.window(0, 5_000, 10_000));
            assert!(!world.window(0, 0, 0), "handshakes, say");
        }
        world.window(0, 50_000, 100);
        assert!(world.window(0, 50_000, 100), "but not at the cost of media");
    }

    #[test]
    fn a_short_look_changes_nothing() {
        let mut world = World::new();
        for _ in 0..1000 {
            world.now += WINDOW / 1000;
            world.work.packets += 100;
            world.meter.note(world.now, world.work, 0);
        }
        assert!(!world.meter.is_overloaded(), "one window by now");
    }

    #[test]
    fn one_newcomer_a_second_is_admitted() {
        let mut world = World::new();
        let admit = |meter: &mut LoadMeter, now| {
            let admits = meter.admits(now);
            if admits {
                meter.admitted(now);
            }
            admits
        };
        assert!((0..100).all(|_| admit(&mut world.meter, world.now)));
        world.window(0, 50_000, 0);
        world.window(0, 50_000, 0);
        let begun = world.now;
        let admitted = (0..400)
            .filter(|tenth| {
                let now = begun + Duration::from_millis(100) * *tenth;
                admit(&mut world.meter, now)
            })
            .count();
        assert_eq!(admitted, 40);
        let later = begun + Duration::from_secs(100);
        assert!(
            (0..100).all(|_| world.meter.admits(later)),
            "refused ones take nobody's turn"
        );
    }
}
