//! How long a worker's thread has waited for something to do.
//!
//! Handshakes, which are tasks beside the worker, are work. So is the time in which the host gave the processor to others:
//! packets wait as long. Linux tells of a thread how long it ran and how long it waited for a processor; the rest of the time
//! is rest. Elsewhere, and without /proc, it is the time in which the runtime parks the thread.

use std::{
    cell::Cell,
    fs::File,
    io::{Read as _, Seek as _},
    time::{Duration, Instant},
};

use tokio::runtime::Builder;

/// What Linux tells of the thread that opens it: nanoseconds run, nanoseconds waited for a processor, time slices.
const SCHEDSTAT: &str = "/proc/thread-self/schedstat";

thread_local! {
    static PARKED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static IDLED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static SINCE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Lets the thread of a runtime, a current-thread one, be watched.
pub(crate) fn watch_rest(builder: &mut Builder) -> &mut Builder {
    builder
        .on_thread_park(|| SINCE.set(Some(Instant::now())))
        .on_thread_unpark(|| {
            if let Some(since) = SINCE.take() {
                PARKED.set(PARKED.get() + since.elapsed());
            }
        })
}

/// The thread has slept on purpose, beside the runtime.
pub(in crate::worker) fn slept(time: Duration) {
    PARKED.set(PARKED.get() + time);
}

/// The thread could have slept, and looked for something to do instead.
pub(in crate::worker) fn idled(time: Duration) {
    IDLED.set(IDLED.get() + time);
}

/// The clock of the thread that makes it.
#[derive(Debug)]
pub(super) struct RestClock {
    begun: Instant,
    /// Where Linux tells, and what it told at the beginning.
    schedule: Option<(File, Duration)>,
}

impl RestClock {
    pub(super) fn new(now: Instant) -> Self {
        let schedule = File::open(SCHEDSTAT).ok().and_then(|mut file| {
            let before = not_rested(&mut file).filter(|time| !time.is_zero())?;
            Some((file, before))
        });
        Self {
            begun: now,
            schedule,
        }
    }

    /// How long the thread has rested since the clock was made. To be asked on that thread.
    pub(super) fn so_far(&mut self, now: Instant) -> Duration {
        let told = self.schedule.as_mut().and_then(|(file, before)| {
            let busy = not_rested(file)?.saturating_sub(*before);
            let elapsed = now.saturating_duration_since(self.begun);
            Some(elapsed.saturating_sub(busy))
        });
        told.unwrap_or_else(|| PARKED.get()) + IDLED.get()
    }
}

/// Time that the thread ran, or wanted to.
fn not_rested(file: &mut File) -> Option<Duration> {
    let mut text = [0; 64];
    file.rewind().ok()?;
    let len = file.read(&mut text).ok()?;
    let text = std::str::from_utf8(text.get(..len)?).ok()?;
    let mut numbers = text.split_whitespace();
    let ran: u64 = numbers.next()?.parse().ok()?;
    let waited: u64 = numbers.next()?.parse().ok()?;
    Some(Duration::from_nanos(ran.checked_add(waited)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By both ways of telling.
    #[test]
    fn waiting_is_rest_and_work_is_not() {
        let mut builder = Builder::new_current_thread();
        let runtime = watch_rest(&mut builder).enable_all().build().unwrap();
        let nap = Duration::from_millis(60);
        runtime.block_on(async {
            let begun = Instant::now();
            let by_system = RestClock::new(begun);
            let by_runtime = RestClock {
                begun,
                schedule: None,
            };
            for mut clock in [by_system, by_runtime] {
                let before = clock.so_far(Instant::now());
                tokio::time::sleep(nap).await;
                let slept = clock.so_far(Instant::now());
                assert!(slept - before >= nap / 2, "{slept:?}");
                assert!(slept <= begun.elapsed());
                let work = Instant::now();
                while work.elapsed() < nap {
                    std::hint::spin_loop();
                }
                let worked = clock.so_far(Instant::now());
                // What the system counts is brought up to date with each tick of its clock.
                assert!(
                    worked.saturating_sub(slept) < nap / 2,
                    "{slept:?} {worked:?}"
                );
            }
        });
    }

    #[test]
    fn an_empty_file_tells_nothing() {
        assert_eq!(not_rested(&mut File::open("/dev/null").unwrap()), None);
    }
}
