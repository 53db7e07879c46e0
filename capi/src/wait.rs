//! `tsc_select` and `tsc_poll`.

use std::{
    ffi::{c_int, c_long, c_short},
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::Poll,
    thread,
    time::Duration,
};

use tokio::task::unconstrained;

use crate::{
    ctypes::{FdSet, PollFd},
    errno::{Errno, Result},
    library::Library,
    socket::{Direction, Socket, now},
};

const POLL_IN: c_short = 0x01;
const POLL_OUT: c_short = 0x04;
const POLL_ERR: c_short = 0x08;
const POLL_NVAL: c_short = 0x20;

/// What one socket is waited for; without a direction, until it is closed.
struct Wait {
    socket: Arc<Socket>,
    direction: Option<Direction>,
}

/// A time as C tells it.
pub(crate) fn duration(seconds: c_long, micros: c_long) -> Result<Duration> {
    let micros = u32::try_from(micros).map_err(|_| Errno::INVALID)?;
    if micros >= 1_000_000 {
        return Err(Errno::INVALID);
    }
    let seconds = u64::try_from(seconds).map_err(|_| Errno::INVALID)?;
    Ok(Duration::new(seconds, micros * 1000))
}

/// Waits until one is ready, and tells of each whether it is: `EBADF` is a socket that was closed meanwhile.
fn any(library: &Library, waits: &[Wait], limit: Option<Duration>) -> Vec<Option<Result<()>>> {
    type Waiting<'a> = Pin<Box<dyn Future<Output = Result<()>> + 'a>>;
    let waiting = |wait: &'_ Wait| {
        let (socket, direction) = (Arc::clone(&wait.socket), wait.direction);
        let waiting: Waiting<'static> = Box::pin(async move {
            match direction {
                Some(direction) => socket.ready(direction).await,
                None => {
                    socket.gone().await;
                    Err(Errno::BAD)
                }
            }
        });
        waiting
    };
    let mut all: Vec<_> = waits.iter().map(|wait| (waiting(wait), None)).collect();
    let mut any = poll_fn(|cx| {
        let mut found = false;
        for (waiting, done) in &mut all {
            if done.is_none()
                && let Poll::Ready(ready) = waiting.as_mut().poll(cx)
            {
                *done = Some(ready);
            }
            found |= done.is_some();
        }
        if found {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    });
    if limit == Some(Duration::ZERO) {
        now(&mut any);
    } else {
        library.runtime().block_on(unconstrained(async {
            match limit {
                // What is ready is seen in `all`.
                Some(limit) => drop(tokio::time::timeout(limit, any).await),
                None => any.await,
            }
        }));
    }
    all.into_iter().map(|(_, done)| done).collect()
}

/// Waits for nothing but the time.
pub(crate) fn pass(limit: Option<Duration>) {
    match limit {
        Some(limit) => thread::sleep(limit),
        None => loop {
            thread::park();
        },
    }
}

/// The sockets of a set, below `count`.
fn members(set: Option<&FdSet>, count: usize) -> impl Iterator<Item = usize> {
    let is_in = move |number: &usize| {
        let word = set.and_then(|set| set.bits.get(number / 64));
        word.is_some_and(|word| word >> (number % 64) & 1 == 1)
    };
    (0..count).filter(is_in)
}

/// Whether the sets ask for any socket.
pub(crate) fn is_empty(count: usize, sets: [Option<&FdSet>; 3]) -> bool {
    sets.into_iter()
        .all(|set| members(set, count).next().is_none())
}

/// What of the sets is ready. There are no exceptions: who waits for them waits until one of the sockets is closed.
pub(crate) fn select(
    library: &Library,
    count: usize,
    [readers, writers, exceptions]: [Option<&FdSet>; 3],
    limit: Option<Duration>,
) -> Result<(c_int, [FdSet; 2])> {
    let mut waits = Vec::new();
    let mut numbers = Vec::new();
    for (set, direction) in [
        (readers, Some(Direction::Read)),
        (writers, Some(Direction::Write)),
        (exceptions, None),
    ] {
        for number in members(set, count) {
            let socket = c_int::try_from(number).map_err(|_| Errno::BAD)?;
            waits.push(Wait {
                socket: library.socket(socket)?,
                direction,
            });
            numbers.push((number, direction));
        }
    }
    let mut found = [FdSet::EMPTY; 2];
    let mut total = 0;
    for ((number, direction), ready) in numbers.into_iter().zip(any(library, &waits, limit)) {
        let Some(ready) = ready else {
            continue;
        };
        ready?;
        let [read, written] = &mut found;
        let set = if direction == Some(Direction::Read) {
            read
        } else {
            written
        };
        if let Some(word) = set.bits.get_mut(number / 64) {
            *word |= 1 << (number % 64);
            total += 1;
        }
    }
    Ok((total, found))
}

/// [`poll`] where there are no sockets at all.
pub(crate) fn none(sockets: &mut [PollFd]) -> c_int {
    let mut found = 0;
    for entry in sockets {
        entry.revents = if entry.fd < 0 { 0 } else { POLL_NVAL };
        found += c_int::from(entry.fd >= 0);
    }
    found
}

/// Fills in what there is of each; how many have something.
pub(crate) fn poll(library: &Library, sockets: &mut [PollFd], limit: Option<Duration>) -> c_int {
    let mut waits = Vec::new();
    let mut limit = limit;
    for entry in sockets.iter_mut() {
        entry.revents = 0;
        if entry.fd < 0 {
            continue;
        }
        let Ok(socket) = library.socket(entry.fd) else {
            entry.revents = POLL_NVAL;
            limit = Some(Duration::ZERO);
            continue;
        };
        if socket.has_failed() {
            limit = Some(Duration::ZERO);
        }
        for (event, direction) in [(POLL_IN, Direction::Read), (POLL_OUT, Direction::Write)] {
            if entry.events & event != 0 {
                waits.push(Wait {
                    socket: Arc::clone(&socket),
                    direction: Some(direction),
                });
            }
        }
        waits.push(Wait {
            socket,
            direction: None,
        });
    }
    let mut ready = any(library, &waits, limit).into_iter().zip(&waits);
    for entry in sockets.iter_mut().filter(|entry| entry.fd >= 0) {
        if entry.revents != 0 {
            continue;
        }
        let mut is_gone = false;
        // They come in the order in which they were asked for, the one without a direction last.
        for (done, wait) in ready.by_ref() {
            match (done, wait.direction) {
                (Some(Ok(())), Some(Direction::Read)) => entry.revents |= POLL_IN,
                (Some(Ok(())), Some(Direction::Write)) => entry.revents |= POLL_OUT,
                (Some(_), _) => is_gone = true,
                (None, _) => {}
            }
            if wait.direction.is_none() {
                if is_gone {
                    entry.revents = POLL_NVAL;
                } else if wait.socket.has_failed() {
                    entry.revents |= POLL_ERR;
                }
                break;
            }
        }
    }
    let found = sockets.iter().filter(|entry| entry.revents != 0).count();
    c_int::try_from(found).unwrap_or(c_int::MAX)
}
