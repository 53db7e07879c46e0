//! Ports of the host for UDP mappings.

use std::hash::Hasher;
use std::io;
use std::ops::RangeInclusive;

use siphasher::sip::SipHasher13;

/// Free ports that are tried for one mapping: other programs may have some of the range.
const TRIES: usize = 16;

/// Sockets that are opened for one mapping in search of a port of the right parity, where the system chooses.
const PARITY_TRIES: usize = 4;

/// Why a mapping got no port.
#[derive(Debug)]
pub(super) enum PortError {
    /// All are in use, by us or by others.
    Exhausted,
    /// The host gives no socket.
    Host(io::Error),
}

/// The ports of one family. With a range, the client's own port is tried first, then any of the same parity (RTP and
/// RTCP, RFC 4787, section 4.2.2), then any. Without one the system chooses, from what it knows to be free for the
/// purpose, and a few times for the parity's sake.
#[derive(Debug)]
pub(super) struct Ports {
    pool: Option<Pool>,
    random: Random,
}

/// Which ports of a range are free: constant work for each, however many are taken.
#[derive(Debug)]
struct Pool {
    first: u16,
    /// Even ones and odd ones, in no order.
    free: [Vec<u16>; 2],
    /// Where a port of the range is in its list, by its distance from `first`.
    place: Vec<Option<usize>>,
}

impl Ports {
    pub(super) fn new(range: Option<&RangeInclusive<u16>>, seed: u64) -> Self {
        Self {
            pool: range.map(Pool::new),
            random: Random::new(seed),
        }
    }

    /// Opens a socket by `bind`, which is given a port, 0 for any, and returns the one it got.
    pub(super) fn open<T>(
        &mut self,
        wanted: u16,
        mut bind: impl FnMut(u16) -> io::Result<(T, u16)>,
    ) -> Result<(T, u16), PortError> {
        let Some(pool) = &mut self.pool else {
            return by_system(wanted, bind);
        };
        for attempt in 0..TRIES {
            let first = (attempt == 0).then_some(wanted);
            let Some(port) = first
                .filter(|port| pool.is_free(*port))
                .or_else(|| pool.pick(wanted, &mut self.random))
            else {
                return Err(PortError::Exhausted);
            };
            match bind(port) {
                Ok(bound) => {
                    pool.take(port);
                    return Ok(bound);
                }
                // Another program's, or one that only the privileged may use.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied
                    ) => {}
                Err(error) => return Err(PortError::Host(error)),
            }
        }
        Err(PortError::Exhausted)
    }

    /// Gives a port back.
    pub(super) fn release(&mut self, port: u16) {
        if let Some(pool) = &mut self.pool {
            pool.give(port);
        }
    }
}

/// A port that the system chooses.
fn by_system<T>(
    wanted: u16,
    mut bind: impl FnMut(u16) -> io::Result<(T, u16)>,
) -> Result<(T, u16), PortError> {
    let mut last = None;
    for _ in 0..PARITY_TRIES {
        match bind(0) {
            Ok((socket, port)) => {
                let fits = port % 2 == wanted % 2;
                // The one before is closed only now, or the system might offer its port again.
                last = Some((socket, port));
                if fits {
                    break;
                }
            }
            // One of the wrong parity is better than none.
            Err(error) if last.is_none() => {
                return Err(if error.kind() == io::ErrorKind::AddrInUse {
                    PortError::Exhausted
                } else {
                    PortError::Host(error)
                });
            }
            Err(_) => break,
        }
    }
    last.ok_or(PortError::Exhausted)
}

impl Pool {
    fn new(range: &RangeInclusive<u16>) -> Self {
        let mut pool = Self {
            first: *range.start(),
            free: [Vec::new(), Vec::new()],
            place: vec![None; range.len()],
        };
        for port in range.clone() {
            pool.give(port);
        }
        pool
    }

    fn place(&mut self, port: u16) -> Option<&mut Option<usize>> {
        self.place
            .get_mut(usize::from(port.checked_sub(self.first)?))
    }

    fn list(&mut self, port: u16) -> &mut Vec<u16> {
        let [even, odd] = &mut self.free;
        if port.is_multiple_of(2) { even } else { odd }
    }

    fn is_free(&mut self, port: u16) -> bool {
        self.place(port).is_some_and(|place| place.is_some())
    }

    fn pick(&mut self, parity: u16, random: &mut Random) -> Option<u16> {
        [parity, parity ^ 1].into_iter().find_map(|parity| {
            let list = self.list(parity);
            let index = random.below(list.len())?;
            list.get(index).copied()
        })
    }

    fn take(&mut self, port: u16) {
        let Some(index) = self.place(port).and_then(Option::take) else {
            return;
        };
        let list = self.list(port);
        if index < list.len() {
            list.swap_remove(index);
        }
        // The last one has moved there.
        if let Some(moved) = list.get(index).copied()
            && let Some(place) = self.place(moved)
        {
            *place = Some(index);
        }
    }

    fn give(&mut self, port: u16) {
        let next = self.list(port).len();
        if let Some(place) = self.place(port)
            && place.is_none()
        {
            *place = Some(next);
            self.list(port).push(port);
        }
    }
}

/// A keyed hash of a counter: what one tunnel sees of it says nothing about the next ones.
#[derive(Clone, Debug)]
pub(super) struct Random {
    hash: SipHasher13,
    count: u64,
}

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            hash: SipHasher13::new_with_keys(seed, seed.rotate_left(32)),
            count: 0,
        }
    }

    pub(super) fn next(&mut self) -> u64 {
        let mut hash = self.hash;
        hash.write_u64(self.count);
        self.count = self.count.wrapping_add(1);
        hash.finish()
    }

    fn below(&mut self, bound: usize) -> Option<usize> {
        let bound = u64::try_from(bound).ok().filter(|bound| *bound != 0)?;
        usize::try_from(self.next() % bound).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn open(ports: &mut Ports, wanted: u16) -> Option<u16> {
        ports
            .open(wanted, |port| Ok(((), port)))
            .ok()
            .map(|(_, port)| port)
    }

    #[test]
    fn the_own_port_then_its_parity_then_any() {
        let mut ports = Ports::new(Some(&(20_000..=20_009)), 1);
        assert_eq!(open(&mut ports, 20_004), Some(20_004));
        for _ in 0..4 {
            assert_eq!(open(&mut ports, 20_004).map(|port| port % 2), Some(0));
        }
        for _ in 0..5 {
            assert_eq!(open(&mut ports, 20_004).map(|port| port % 2), Some(1));
        }
        assert_eq!(open(&mut ports, 20_004), None);
        ports.release(20_007);
        assert_eq!(open(&mut ports, 4), Some(20_007));
    }

    #[test]
    fn ports_of_others_are_passed_over_with_bounded_work() {
        let mut ports = Ports::new(Some(&(20_000..=29_999)), 1);
        let mut tried = 0;
        let result = ports.open(20_000, |_| {
            tried += 1;
            Err::<((), u16), _>(io::ErrorKind::AddrInUse.into())
        });
        assert!(matches!(result, Err(PortError::Exhausted)));
        assert_eq!(tried, TRIES);
        // A host without sockets is not asked again and again.
        let result = ports.open(20_000, |_| {
            Err::<((), u16), _>(io::Error::from_raw_os_error(24))
        });
        assert!(matches!(result, Err(PortError::Host(_))));
    }

    #[test]
    fn without_a_range_the_system_chooses() {
        let mut offers = [40_001_u16, 40_003, 40_006, 40_008].into_iter();
        let mut ports = Ports::new(None, 1);
        let (_, port) = ports
            .open(6, |port| {
                assert_eq!(port, 0);
                Ok(((), offers.next().unwrap()))
            })
            .unwrap();
        assert_eq!(port, 40_006);
        ports.release(port);
    }

    proptest! {
        /// No port is given twice, none is lost.
        #[test]
        fn each_port_has_one_owner(seed: u64, steps in prop::collection::vec((any::<u16>(), any::<bool>()), 0..200)) {
            let range = 30_000..=30_040_u16;
            let mut ports = Ports::new(Some(&range), seed);
            let mut held = BTreeSet::new();
            for (number, release) in steps {
                let port = 30_000 + number % 60;
                if release {
                    if held.remove(&port) {
                        ports.release(port);
                    }
                } else if let Some(got) = open(&mut ports, port) {
                    prop_assert!(range.contains(&got));
                    prop_assert!(held.insert(got));
                } else {
                    prop_assert_eq!(held.len(), range.len());
                }
            }
            let mut rest = 0;
            while open(&mut ports, 0).is_some() {
                rest += 1;
            }
            prop_assert_eq!(rest + held.len(), range.len());
        }
    }
}
