//! How much of the media on a UDP port the system is to drop.
//!
//! The share follows the receive queue, which is kept half full: so the worker always finds something, and there is room for
//! keepalives and requests. It is looked at only while there is overload, or something is shed.

use std::time::{Duration, Instant};

use tsc_osaa::datagram::{DatagramSocket, Shed};

/// Time between two looks at the queue. Ours: a queue of 4 MiB fills within some 20 ms at three times the capacity of a processor.
const TICK: Duration = Duration::from_millis(10);

/// Percentage of the queue that is to be filled.
const TARGET: i64 = 50;

/// Where shedding begins.
const FULL: u32 = 60;

/// The share changes by the distance to the target, in percent, divided by this: by a tenth at most.
const SLOWNESS: i64 = 500;

/// All of the media, in parts of `Shed::keep`.
const ALL: u32 = 1 << 16;

/// Least share that is kept: a hundredth.
const LEAST: u32 = ALL / 100;

/// The share of one port.
#[derive(Debug, Default)]
pub(in crate::worker) struct Shedder {
    /// What is kept of the media, of [`ALL`]; `None` while nothing is shed.
    keep: Option<u32>,
    /// Fill of the queue when it was looked at last, in percent.
    last: u32,
    /// When the queue is looked at next.
    next: Option<Instant>,
    /// Datagrams dropped by the system, and its own counter, which wraps, when it was looked at last.
    dropped: u64,
    seen: u32,
}

/// What a port needs to know of its worker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Situation {
    /// There is more to do than can be done.
    pub(super) overloaded: bool,
    /// And packets of tunnels are most of it.
    pub(super) by_media: bool,
}

impl Shedder {
    /// When [`Self::turn`] has to come at the latest.
    pub(in crate::worker) fn due(&self) -> Option<Instant> {
        self.keep.and(self.next)
    }

    /// Datagrams that the system has dropped so far, because they came faster than they were read.
    pub(in crate::worker) fn dropped(&self, socket: &DatagramSocket) -> u64 {
        let since = socket
            .pressure()
            .map_or(0, |pressure| pressure.dropped.wrapping_sub(self.seen));
        self.dropped + u64::from(since)
    }

    /// Takes the system's count over, before it can have wrapped.
    pub(super) fn count(&mut self, socket: &DatagramSocket) {
        if let Some(pressure) = socket.pressure() {
            self.note_dropped(pressure.dropped);
        }
    }

    fn note_dropped(&mut self, counter: u32) {
        self.dropped += u64::from(counter.wrapping_sub(self.seen));
        self.seen = counter;
    }

    /// Looks at the queue if it is time, and tells the system what follows.
    pub(super) fn turn(&mut self, now: Instant, load: Situation, socket: &DatagramSocket) {
        if !load.overloaded && self.keep.is_none() {
            return;
        }
        if self.next.is_some_and(|next| now < next) {
            return;
        }
        self.next = Some(now + TICK);
        let Some(pressure) = socket.pressure() else {
            return;
        };
        self.note_dropped(pressure.dropped);
        let before = self.keep;
        self.adapt(load, pressure.percent());
        if self.keep == before {
            return;
        }
        let shed = self.keep.map(|keep| Shed {
            keep: u16::try_from(keep).unwrap_or(u16::MAX),
        });
        if let Err(error) = socket.shed(shed) {
            tracing::debug!(local = %socket.local_addr(), %error, "media cannot be shed");
            self.keep = None;
        }
    }

    /// What follows from the fill of the queue, and from where it is heading: by itself the fill would say too late that too
    /// much, or too little, is kept.
    fn adapt(&mut self, load: Situation, percent: u32) {
        // Strangers fill the queue whatever is kept of the media: as if it were empty, shedding ends.
        let percent = if load.by_media { percent.min(100) } else { 0 };
        let last = std::mem::replace(&mut self.last, percent);
        let keep = match self.keep {
            Some(keep) => keep,
            None if load.overloaded && percent >= FULL => ALL,
            None => return,
        };
        let ahead = (2 * i64::from(percent) - i64::from(last)).clamp(0, 100);
        let next = i64::from(keep) * (SLOWNESS + TARGET - ahead) / SLOWNESS;
        let next = u32::try_from(next).unwrap_or(ALL).max(LEAST);
        self.keep = (next < ALL).then_some(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OVERLOAD: Situation = Situation {
        overloaded: true,
        by_media: true,
    };

    const OVER: Situation = Situation {
        overloaded: false,
        by_media: true,
    };

    /// A queue in simulated time, with room for what a worker takes out in some ticks, that is offered some times what is
    /// taken out of it; parts of a tick's capacity that were forwarded, and dropped for want of room.
    fn run(
        shedder: &mut Shedder,
        queue: &mut f64,
        room: f64,
        offered: f64,
        ticks: u32,
    ) -> (f64, f64) {
        let (mut forwarded, mut overflowed) = (0.0, 0.0);
        for _ in 0..ticks {
            let share = f64::from(shedder.keep.unwrap_or(ALL)) / f64::from(ALL);
            *queue += offered * share;
            let taken = queue.min(1.0);
            *queue -= taken;
            forwarded += taken;
            let over = (*queue - room).max(0.0);
            *queue -= over;
            overflowed += over;
            let percent = (*queue / room * 100.0).round();
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            shedder.adapt(OVERLOAD, percent as u32);
        }
        (forwarded / f64::from(ticks), overflowed / f64::from(ticks))
    }

    #[test]
    fn the_queue_keeps_room_and_the_worker_its_work() {
        for room in [1.5, 3.0, 8.0] {
            for offered in [1.2, 2.0, 3.0, 10.0] {
                let (mut shedder, mut queue) = (Shedder::default(), 0.0);
                run(&mut shedder, &mut queue, room, offered, 100);
                let (forwarded, overflowed) = run(&mut shedder, &mut queue, room, offered, 2_000);
                assert!(forwarded > 0.97, "{forwarded} at {offered}, {room}");
                assert!(overflowed < 0.01, "{overflowed} at {offered}, {room}");
            }
        }
    }

    #[test]
    fn it_ends_soon_after_the_overload() {
        let (mut shedder, mut queue) = (Shedder::default(), 0.0);
        run(&mut shedder, &mut queue, 2.0, 3.0, 1_000);
        assert!(shedder.keep.is_some());
        run(&mut shedder, &mut queue, 2.0, 0.5, 50);
        assert_eq!(shedder.keep, None);
    }

    #[test]
    fn a_full_queue_alone_sheds_nothing() {
        let mut shedder = Shedder::default();
        shedder.adapt(OVER, 100);
        assert_eq!(shedder.keep, None);
        shedder.adapt(OVERLOAD, 100);
        assert!(shedder.keep.is_some());
        for _ in 0..1000 {
            shedder.adapt(OVER, 100);
        }
        assert_eq!(shedder.keep, Some(LEAST), "it never closes the port");
    }

    #[test]
    fn what_strangers_do_costs_the_media_nothing() {
        let flood = Situation {
            overloaded: true,
            by_media: false,
        };
        let mut shedder = Shedder::default();
        shedder.adapt(flood, 100);
        assert_eq!(shedder.keep, None);
        for _ in 0..1000 {
            shedder.adapt(OVERLOAD, 100);
        }
        for _ in 0..100 {
            shedder.adapt(flood, 100);
        }
        assert_eq!(shedder.keep, None, "it ends what was begun");
    }

    #[test]
    fn drops_are_counted_over_the_wrap() {
        let mut shedder = Shedder::default();
        shedder.note_dropped(u32::MAX);
        shedder.note_dropped(4);
        assert_eq!(shedder.dropped, u64::from(u32::MAX) + 5);
    }
}
