//! Which tunnel a granted prefix is behind.
//!
//! Grants never overlap each other or a pool (spec 7, "STG"), so at most one prefix matches an address: the longest
//! match is the only one, and it is found by one search in an ordered table. The table holds at most one entry for
//! each prefix of the configuration, which is bounded there
//! ([`MAX_ROUTED_IDENTITIES`](super::MAX_ROUTED_IDENTITIES) times
//! [`MAX_ROUTED_PREFIXES`](crate::MAX_ROUTED_PREFIXES) for each interface).

use std::collections::BTreeMap;
use std::net::IpAddr;

use tsc_tpl::Family;

use super::event::SessionId;
use crate::prefix::{Prefix, sort_key};

/// Granted prefixes, by family and lowest address.
#[derive(Clone, Debug, Default)]
pub(super) struct RouteTable {
    entries: BTreeMap<(Family, u128), (Prefix, SessionId)>,
}

/// Outcome of [`RouteTable::grant`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Granting {
    /// It was free.
    New,
    /// The same tunnel has exactly this prefix already.
    Held,
    /// It overlaps another grant.
    Taken,
}

impl RouteTable {
    /// Gives the prefix to `owner`, unless it overlaps a grant.
    pub(super) fn grant(&mut self, prefix: Prefix, owner: SessionId) -> Granting {
        let (family, first, last) = prefix.span();
        // Entries are disjoint, so the one that begins last before the prefix ends reaches furthest.
        let below = self.entries.range(..=(family, last)).next_back();
        if let Some((_, (other, holder))) = below
            && other.overlaps(&prefix)
        {
            return if *other == prefix && *holder == owner {
                Granting::Held
            } else {
                Granting::Taken
            };
        }
        self.entries.insert((family, first), (prefix, owner));
        Granting::New
    }

    /// Takes a prefix back from `owner`; harmless if it is not that tunnel's.
    pub(super) fn take_back(&mut self, prefix: Prefix, owner: SessionId) {
        let (family, first, _) = prefix.span();
        if self.entries.get(&(family, first)) == Some(&(prefix, owner)) {
            self.entries.remove(&(family, first));
        }
    }

    /// The tunnel that a host's address is behind.
    #[inline]
    pub(super) fn find(&self, address: IpAddr) -> Option<SessionId> {
        let (_, (prefix, owner)) = self.entries.range(..=sort_key(address)).next_back()?;
        prefix.has_host(address).then_some(*owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn families_do_not_mix_and_owners_are_kept_apart() {
        let mut table = RouteTable::default();
        let (a, b) = (SessionId::new(0, (1, 1)), SessionId::new(1, (1, 1)));
        assert_eq!(table.grant(prefix("10.1.0.0/16"), a), Granting::New);
        assert_eq!(table.grant(prefix("10.1.0.0/16"), a), Granting::Held);
        assert_eq!(table.grant(prefix("10.1.0.0/16"), b), Granting::Taken);
        assert_eq!(table.grant(prefix("10.1.2.0/24"), a), Granting::Taken);
        assert_eq!(table.grant(prefix("10.0.0.0/8"), b), Granting::Taken);
        assert_eq!(table.grant(prefix("fd00::/16"), b), Granting::New);
        assert_eq!(table.find("10.1.255.1".parse().unwrap()), Some(a));
        assert_eq!(table.find("10.1.255.255".parse().unwrap()), None);
        assert_eq!(table.find("10.2.0.1".parse().unwrap()), None);
        assert_eq!(table.find("fd00::1".parse().unwrap()), Some(b));
        assert_eq!(table.find("::1".parse().unwrap()), None);
        table.take_back(prefix("10.1.0.0/16"), b);
        assert_eq!(table.find("10.1.0.1".parse().unwrap()), Some(a));
        table.take_back(prefix("10.1.0.0/16"), a);
        assert_eq!(table.find("10.1.0.1".parse().unwrap()), None);
    }

    proptest! {
        /// Against a list that compares everything with everything.
        #[test]
        fn the_table_equals_a_list(
            steps in prop::collection::vec((any::<bool>(), 0u8..32, 24u8..=32, 0u32..4), 1..60),
            probe in 0u8..32,
        ) {
            let mut table = RouteTable::default();
            let mut list: Vec<(Prefix, SessionId)> = Vec::new();
            for (grant, low, len, owner) in steps {
                let prefix = Prefix::new(Ipv4Addr::new(10, 0, 0, low << 3).into(), len).unwrap();
                let owner = SessionId::new(0, (owner, 0));
                if grant {
                    let expected = match list.iter().find(|(other, _)| other.overlaps(&prefix)) {
                        None => Granting::New,
                        Some(found) if *found == (prefix, owner) => Granting::Held,
                        // A wider prefix may overlap several.
                        Some(_) => Granting::Taken,
                    };
                    prop_assert_eq!(table.grant(prefix, owner), expected);
                    if expected == Granting::New {
                        list.push((prefix, owner));
                    }
                } else {
                    table.take_back(prefix, owner);
                    list.retain(|entry| *entry != (prefix, owner));
                }
                let address = Ipv4Addr::new(10, 0, 0, (probe << 3) + 1).into();
                let found = list.iter().find(|(prefix, _)| prefix.has_host(address));
                prop_assert_eq!(table.find(address), found.map(|(_, owner)| *owner));
            }
        }
    }
}
