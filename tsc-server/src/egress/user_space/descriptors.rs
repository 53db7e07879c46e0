//! File descriptors: a socket each for mappings and connections, and some must be left for tunnels.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Of all descriptors of the process, the part that is kept from the egress: one of so many.
const KEPT: u64 = 4;

/// How many sockets may be had where `wanted` are: raises the process's limit towards that if it may, and stays clear of
/// the rest, so that the server can still accept tunnels when the egress is full.
pub(super) fn grant(wanted: usize) -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return wanted;
    };
    let sockets = u64::try_from(wanted).unwrap_or(u64::MAX);
    let needed = sockets.saturating_add(sockets / (KEPT - 1)).max(soft);
    let raised = needed.min(hard);
    let limit = if raised > soft && setrlimit(Resource::RLIMIT_NOFILE, raised, hard).is_ok() {
        raised
    } else {
        soft
    };
    usize::try_from(limit - limit / KEPT).map_or(wanted, |most| most.min(wanted))
}

/// `part` of `wanted` when there are only `granted`.
pub(super) fn share(part: usize, wanted: usize, granted: usize) -> usize {
    if granted >= wanted || wanted == 0 {
        return part;
    }
    // Both are below 2^33.
    let share = u128::try_from(part).unwrap_or_default()
        * u128::try_from(granted).unwrap_or_default()
        / u128::try_from(wanted).unwrap_or(1);
    usize::try_from(share).unwrap_or(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_to_the_grant() {
        assert_eq!(share(16_384, 24_576, 30_000), 16_384);
        let (udp, tcp) = (share(16_384, 24_576, 768), share(8192, 24_576, 768));
        assert_eq!((udp, tcp), (512, 256));
        assert_eq!(share(0, 0, 0), 0);
    }

    #[test]
    fn a_grant_leaves_some() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let granted = grant(usize::MAX / 8);
        assert!(u64::try_from(granted).unwrap() <= hard - hard / KEPT);
        assert_eq!(grant(1), 1);
    }
}
