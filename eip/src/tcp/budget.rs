//! Memory of connections: who may hold how much.

/// What each end of a connection may hold whatever others do, in bytes.
pub(super) const GUARANTEE: usize = 16 * 1024;

/// Most that each end of a connection may hold: what window scaling can express is 1 GiB.
const MAX_BUFFER: usize = 64 * 1024 * 1024;

/// One end of a connection is offered at most this part of what is to spare.
const SHARE: usize = 64;

/// This part of the total is kept for new connections.
const RESERVE: usize = 64;

/// Bytes that connections hold, sent and not acknowledged or received and not read.
///
/// What is held is charged, and no less than the guarantee of each end, so that nobody can take
/// that away. The rest is a common credit: an end is offered, as window or as room to write, a part
/// of what is left of it. Idle connections thus cost no more than their guarantee, and the last that opens is
/// offered as much as the first. As memory fills, all are offered less; windows that were told
/// before stay, and if their peers use all of them at once, what does not fit is dropped as the
/// network would: [`total`](Self::new) is never exceeded, and of its last part only the guarantees of new connections
/// are taken.
#[derive(Debug)]
pub(super) struct Budget {
    total: usize,
    charged: usize,
    each: usize,
}

/// What a connection is charged with.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Charge(usize);

impl Budget {
    pub(super) fn new(total: usize, each: usize) -> Self {
        Self {
            total,
            charged: 0,
            each: each.clamp(GUARANTEE, MAX_BUFFER),
        }
    }

    pub(super) const fn set_total(&mut self, total: usize) {
        self.total = total;
    }

    pub(super) const fn charged(&self) -> usize {
        self.charged
    }

    /// Most that an end may hold while memory is plenty.
    pub(super) const fn each(&self) -> usize {
        self.each
    }

    const fn spare(&self) -> usize {
        self.total.saturating_sub(self.charged)
    }

    /// What is to spare for more than the guarantees.
    const fn credit(&self) -> usize {
        self.spare().saturating_sub(self.total / RESERVE)
    }

    /// Whether there is room for another connection.
    pub(super) const fn fits(&self) -> bool {
        self.spare() >= 2 * GUARANTEE
    }

    /// Charges a new connection. `None` if there is no room.
    pub(super) const fn open(&mut self) -> Option<Charge> {
        if !self.fits() {
            return None;
        }
        self.charged += 2 * GUARANTEE;
        Some(Charge(2 * GUARANTEE))
    }

    /// What an end that holds `held` bytes is offered to hold.
    pub(super) fn offer(&self, held: usize) -> usize {
        (self.credit() / SHARE)
            .saturating_add(held.max(GUARANTEE))
            .min(self.each)
    }

    /// What an end that holds `held` bytes can hold at most.
    pub(super) fn most(&self, held: usize) -> usize {
        self.credit().saturating_add(held.max(GUARANTEE))
    }

    /// Charges a connection with what its ends hold now.
    pub(super) fn recharge(&mut self, charge: &mut Charge, ends: [usize; 2]) {
        let now = ends.into_iter().map(|held| held.max(GUARANTEE)).sum();
        self.charged = self.charged.saturating_sub(charge.0).saturating_add(now);
        charge.0 = now;
    }

    pub(super) fn release(&mut self, charge: Charge) {
        self.charged = self.charged.saturating_sub(charge.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_connections_take_nothing_from_the_last() {
        let mut budget = Budget::new(1 << 30, 1 << 20);
        for _ in 0..10_000 {
            assert!(budget.open().is_some());
        }
        assert_eq!(budget.offer(0), 1 << 20);
    }

    #[test]
    fn those_that_hold_much_leave_each_its_guarantee() {
        let mut budget = Budget::new(1 << 22, 1 << 20);
        let mut charges: Vec<_> = (0..100).filter_map(|_| budget.open()).collect();
        assert_eq!(charges.len(), 100);
        for charge in &mut charges {
            let offer = budget.offer(0);
            assert!((GUARANTEE..=1 << 20).contains(&offer));
            budget.recharge(charge, [budget.most(0), 0]);
            assert!(budget.charged() <= 1 << 22);
        }
        assert_eq!(budget.offer(0), GUARANTEE);
        // The last part is for those that come.
        for _ in 0..2 {
            charges.push(budget.open().unwrap());
            assert_eq!(budget.most(0), GUARANTEE);
        }
        assert!(!budget.fits());
        assert!(budget.charged() <= 1 << 22);
        for charge in charges {
            budget.release(charge);
        }
        assert_eq!(budget.charged(), 0);
    }
}
