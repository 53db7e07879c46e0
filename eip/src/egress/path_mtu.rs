//! Path MTUs learnt from ICMP (RFC 1191, RFC 8201).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::config::MIN_MTU;

/// How long a lowered path MTU is believed (RFC 1191, section 6.3; RFC 8201, section 4: about ten
/// minutes).
const LIFETIME: Duration = Duration::from_secs(600);

/// Smallest path MTU believed for IPv6 (RFC 8201, section 4: smaller ones are discarded).
const MIN_PATH_MTU_V6: u32 = 1280;

/// At most `limit` destinations with a path MTU below the tunnel's.
#[derive(Debug)]
pub(crate) struct PathMtus {
    lowered: BTreeMap<IpAddr, Lowered>,
    limit: usize,
}

#[derive(Debug)]
struct Lowered {
    mtu: u16,
    until: Instant,
}

impl PathMtus {
    pub(crate) const fn new(limit: usize) -> Self {
        Self {
            lowered: BTreeMap::new(),
            limit,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.lowered.len()
    }

    /// The path MTU to `destination`, at most `mtu`.
    pub(crate) fn lookup(&mut self, now: Instant, destination: IpAddr, mtu: u16) -> u16 {
        // The common case: nothing was ever reported.
        if self.lowered.is_empty() {
            return mtu;
        }
        match self.lowered.get(&destination) {
            Some(lowered) if now < lowered.until => lowered.mtu.min(mtu),
            Some(_) => {
                self.lowered.remove(&destination);
                mtu
            }
            None => mtu,
        }
    }

    /// Takes a report that only packets of `reported` bytes pass; `mtu` is the tunnel's. Returns
    /// whether it changed anything.
    ///
    /// A report can only lower the value, and not below what each path must carry: 1280 for IPv6,
    /// and for IPv4 [`MIN_MTU`], since fragments of that size may be cut further on the way.
    pub(crate) fn report(
        &mut self,
        now: Instant,
        destination: IpAddr,
        reported: u32,
        mtu: u16,
    ) -> bool {
        if self.limit == 0 || (destination.is_ipv6() && reported < MIN_PATH_MTU_V6) {
            return false;
        }
        let reported = u16::try_from(reported).unwrap_or(u16::MAX).max(MIN_MTU);
        if reported >= self.lookup(now, destination, mtu) {
            return false;
        }
        if self.lowered.len() >= self.limit && !self.lowered.contains_key(&destination) {
            let first_to_expire = self.lowered.iter().min_by_key(|(_, lowered)| lowered.until);
            if let Some(address) = first_to_expire.map(|(address, _)| *address) {
                self.lowered.remove(&address);
            }
        }
        self.lowered.insert(
            destination,
            Lowered {
                mtu: reported,
                until: now + LIFETIME,
            },
        );
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn reports_only_lower_and_expire() {
        let now = Instant::now();
        let mut paths = PathMtus::new(4);
        assert!(paths.report(now, v4(1), 1000, 1400));
        assert!(!paths.report(now, v4(1), 1200, 1400), "raised");
        assert!(!paths.report(now, v4(2), 1500, 1400), "above the tunnel's");
        assert_eq!(paths.lookup(now, v4(1), 1400), 1000);
        assert_eq!(paths.lookup(now, v4(2), 1400), 1400);
        assert_eq!(paths.lookup(now + LIFETIME, v4(1), 1400), 1400);
        assert_eq!(paths.len(), 0);
    }

    #[test]
    fn hostile_values_have_a_floor() {
        let now = Instant::now();
        let v6 = "2001:db8::1".parse().unwrap();
        let mut paths = PathMtus::new(4);
        assert!(paths.report(now, v4(1), 0, 1400));
        assert_eq!(paths.lookup(now, v4(1), 1400), MIN_MTU);
        assert!(!paths.report(now, v6, 1279, 1400));
        assert!(paths.report(now, v6, 1280, 1400));
    }

    #[test]
    fn a_full_table_forgets_the_first_to_expire() {
        let now = Instant::now();
        let mut paths = PathMtus::new(2);
        for last in 1..=3 {
            assert!(paths.report(now + Duration::from_secs(last.into()), v4(last), 1000, 1400));
        }
        assert_eq!(paths.len(), 2);
        let later = now + Duration::from_secs(4);
        assert_eq!(paths.lookup(later, v4(1), 1400), 1400);
        assert_eq!(paths.lookup(later, v4(3), 1400), 1000);
    }
}
