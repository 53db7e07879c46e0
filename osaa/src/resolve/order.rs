//! In which order candidates are tried. Pure functions.

use std::{cmp::Reverse, collections::VecDeque, fmt, net::IpAddr};

/// Which address families are used, and which comes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Families {
    /// Both, IPv6 first.
    #[default]
    Ipv6First,
    /// Both, IPv4 first.
    Ipv4First,
    /// Only IPv6.
    Ipv6Only,
    /// Only IPv4.
    Ipv4Only,
}

impl Families {
    /// Whether the address is of a family that is used.
    #[must_use]
    pub const fn allow(self, ip: IpAddr) -> bool {
        match self {
            Self::Ipv6First | Self::Ipv4First => true,
            Self::Ipv6Only => ip.is_ipv6(),
            Self::Ipv4Only => ip.is_ipv4(),
        }
    }

    const fn starts_with_ipv6(self) -> bool {
        matches!(self, Self::Ipv6First | Self::Ipv6Only)
    }
}

impl fmt::Display for Families {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv6First => "IPv6 or IPv4",
            Self::Ipv4First => "IPv4 or IPv6",
            Self::Ipv6Only => "IPv6",
            Self::Ipv4Only => "IPv4",
        })
    }
}

/// The families in turn, each in the order given, which is the system's (RFC 6724); duplicates and unusable families left
/// out, at most `most` in all (RFC 8305, section 4, with a first address family count of 1).
#[must_use]
pub fn interleave(
    addresses: impl IntoIterator<Item = IpAddr>,
    families: Families,
    most: usize,
) -> Vec<IpAddr> {
    let (mut first, mut second) = (VecDeque::new(), VecDeque::new());
    for ip in addresses {
        let own = if ip.is_ipv6() == families.starts_with_ipv6() {
            &mut first
        } else {
            &mut second
        };
        if families.allow(ip) && own.len() < most && !own.contains(&ip) {
            own.push_back(ip);
        }
    }
    let mut order = Vec::with_capacity((first.len() + second.len()).min(most));
    while order.len() < most {
        let Some(ip) = first.pop_front().or_else(|| second.pop_front()) else {
            break;
        };
        order.push(ip);
        if !second.is_empty() {
            std::mem::swap(&mut first, &mut second);
        }
    }
    order
}

/// An SRV record (RFC 2782).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SrvRecord {
    /// Lower ones are tried first.
    pub priority: u16,
    /// Share of the load among those of equal priority.
    pub weight: u16,
    /// The port.
    pub port: u16,
    /// The host, without a final dot; empty is `.`, "not offered here".
    pub target: String,
}

/// The order in which targets are tried: by priority, then at random by weight (RFC 2782). `draw` gives a number from 0
/// to its argument, both included, each as often. Records that lead nowhere (target `.`, port 0) are left out.
#[must_use]
pub fn order_srv(mut records: Vec<SrvRecord>, draw: &mut dyn FnMut(u32) -> u32) -> Vec<SrvRecord> {
    records.retain(|record| !record.target.is_empty() && record.port != 0);
    // Stable, so that the draw alone decides. Within a priority those without weight come first, as the RFC has it; taken
    // from the end below.
    records.sort_by_key(|record| (Reverse(record.priority), Reverse(record.weight == 0)));
    let mut order = Vec::with_capacity(records.len());
    while let Some(priority) = records.last().map(|record| record.priority) {
        let start = records.partition_point(|record| record.priority > priority);
        let mut group = records.split_off(start);
        // Without weight first.
        group.sort_by_key(|record| record.weight != 0);
        while !group.is_empty() {
            let total: u32 = group.iter().map(|record| u32::from(record.weight)).sum();
            let drawn = draw(total).min(total);
            let mut sum = 0;
            let chosen = group.iter().position(|record| {
                sum += u32::from(record.weight);
                sum >= drawn
            });
            order.push(group.remove(chosen.unwrap_or(0)));
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn srv(priority: u16, weight: u16, target: &str) -> SrvRecord {
        SrvRecord {
            priority,
            weight,
            port: 4567,
            target: target.to_owned(),
        }
    }

    fn targets(records: &[SrvRecord]) -> Vec<&str> {
        records.iter().map(|record| &*record.target).collect()
    }

    #[test]
    fn families_take_turns() {
        let found = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "192.0.2.3"];
        let six = ["2001:db8::1", "192.0.2.1", "192.0.2.2", "192.0.2.3"];
        assert_eq!(interleave(ips(&found), Families::Ipv6First, 8), ips(&six));
        let four = ["192.0.2.1", "2001:db8::1", "192.0.2.2", "192.0.2.3"];
        assert_eq!(interleave(ips(&found), Families::Ipv4First, 8), ips(&four));
        assert_eq!(
            interleave(ips(&found), Families::Ipv6Only, 8),
            ips(&["2001:db8::1"])
        );
        assert_eq!(
            interleave(ips(&found), Families::Ipv4Only, 2),
            ips(&["192.0.2.1", "192.0.2.2"])
        );
    }

    #[test]
    fn lower_priorities_come_first_and_weights_decide_within() {
        let records = vec![
            srv(20, 5, "late"),
            srv(10, 60, "big"),
            srv(10, 20, "small"),
            srv(10, 0, "idle"),
        ];
        // Zero is the only draw that takes one without weight before others.
        let order = order_srv(records.clone(), &mut |_| 0);
        assert_eq!(targets(&order), ["idle", "big", "small", "late"]);
        let order = order_srv(records.clone(), &mut |_| 1);
        assert_eq!(targets(&order), ["big", "small", "idle", "late"]);
        let order = order_srv(records, &mut |most| most);
        assert_eq!(targets(&order), ["small", "big", "idle", "late"]);
    }

    #[test]
    fn weights_are_shares() {
        let mut first = 0;
        for number in 0..=80 {
            let records = vec![srv(1, 60, "big"), srv(1, 20, "small")];
            let mut draws = [number, 0].into_iter();
            let order = order_srv(records, &mut |most| draws.next().unwrap().min(most));
            first += usize::from(targets(&order)[0] == "big");
        }
        assert_eq!(first, 61);
    }

    #[test]
    fn records_that_lead_nowhere_are_left_out() {
        let mut closed = srv(1, 1, "closed");
        closed.port = 0;
        let order = order_srv(vec![srv(0, 0, ""), closed, srv(1, 1, "open")], &mut |_| 0);
        assert_eq!(targets(&order), ["open"]);
    }

    proptest! {
        #[test]
        fn interleaving_loses_only_duplicates_and_what_is_too_much(
            numbers in prop::collection::vec((any::<bool>(), 0u8..20), 0..40),
            most in 0usize..20,
        ) {
            let found: Vec<IpAddr> = numbers
                .into_iter()
                .map(|(six, low)| if six {
                    IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(low)])
                } else {
                    IpAddr::from([192, 0, 2, low])
                })
                .collect();
            let order = interleave(found.clone(), Families::Ipv6First, most);
            let unique: HashSet<_> = found.iter().copied().collect();
            let kept: HashSet<_> = order.iter().copied().collect();
            prop_assert_eq!(kept.len(), order.len());
            prop_assert!(kept.is_subset(&unique));
            prop_assert!(order.len() == unique.len().min(most) || order.len() == most);
            // As long as both are left, no family comes twice in a row.
            let sixes = unique.iter().filter(|ip| ip.is_ipv6()).count();
            let both = (2 * sixes.min(unique.len() - sixes)).min(order.len());
            for pair in order[..both].windows(2) {
                prop_assert_ne!(pair[0].is_ipv6(), pair[1].is_ipv6());
            }
        }

        #[test]
        fn every_target_comes_once_by_priority(
            numbers in prop::collection::vec((0u16..4, 0u16..9), 0..12),
            mut seed: u32,
        ) {
            let records: Vec<_> = numbers
                .iter()
                .enumerate()
                .map(|(index, (priority, weight))| srv(*priority, *weight, &index.to_string()))
                .collect();
            let order = order_srv(records.clone(), &mut |most| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                seed % (most + 1)
            });
            prop_assert_eq!(order.len(), records.len());
            prop_assert!(records.iter().all(|record| order.contains(record)));
            prop_assert!(order.is_sorted_by_key(|record| record.priority));
        }
    }
}
