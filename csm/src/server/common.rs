//! What the shards of one server have in common: addresses, granted prefixes, limits, rates.
//!
//! ```text
//!   each packet:    address table (atomic words), granted prefixes (a snapshot)       no lock
//!   each set-up,    ledger: leases, counts, rates                                     one lock, held for
//!   end, request                                                                      one of the methods below
//! ```
//!
//! A client meets one server, however many shards it has: it may not get more tunnels, requests or addresses because
//! its connections fall on several. So everything that is counted is counted here, and taken in one step.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use tsc_tpl::{Family, ResponseCode};

use super::config::{Identity, InterfaceConfig, ServerConfig, ServerConfigError};
use super::event::{OpenError, SessionId};
use super::pool::{AddressTable, Lease, PoolStats, Pools};
use super::rate::{KeyedHash, RateLimiter, SourcePrefix};
use super::routes::{Granting, RouteTable};
use crate::prefix::Prefix;

/// See the module.
#[derive(Debug)]
pub(super) struct Common {
    addresses: Arc<AddressTable>,
    /// Granted prefixes; none overlaps a pool. Replaced whole, under the lock of the ledger.
    routes: ArcSwap<RouteTable>,
    ledger: Mutex<Ledger>,
}

/// Each map has at most one entry per tunnel or pending transport.
#[derive(Debug)]
struct Ledger {
    pools: Pools,
    tunnels: usize,
    tunnels_by_prefix: BTreeMap<SourcePrefix, u32>,
    tunnels_by_identity: BTreeMap<Identity, u32>,
    tunnels_by_interface: Vec<usize>,
    pending: usize,
    pending_by_prefix: BTreeMap<SourcePrefix, u32>,
    /// By interface.
    rates: Vec<RateLimiter>,
    stateless: RateLimiter,
}

/// By what a tunnel is counted, for all of its life.
#[derive(Clone, Copy, Debug)]
pub(super) struct Account<'a> {
    pub(super) interface: usize,
    pub(super) prefix: SourcePrefix,
    pub(super) identity: Option<&'a Identity>,
}

impl Common {
    pub(super) fn new(config: &ServerConfig, pools: Pools, now: Instant, hash: &KeyedHash) -> Self {
        let limits = &config.limits;
        let rate = |interface: &InterfaceConfig| {
            let (rate, burst) = match interface.requests_per_second {
                Some(rate) => (rate, rate.saturating_mul(2)),
                None => (limits.requests_per_second, limits.request_burst),
            };
            RateLimiter::new(now, rate, burst, hash.clone())
        };
        let stateless = limits.stateless_per_second;
        Self {
            addresses: pools.table(),
            routes: ArcSwap::default(),
            ledger: Mutex::new(Ledger {
                pools,
                tunnels: 0,
                tunnels_by_prefix: BTreeMap::new(),
                tunnels_by_identity: BTreeMap::new(),
                tunnels_by_interface: vec![0; config.interfaces.len()],
                pending: 0,
                pending_by_prefix: BTreeMap::new(),
                rates: config.interfaces.iter().map(rate).collect(),
                stateless: RateLimiter::new(now, stateless, stateless, hash.clone()),
            }),
        }
    }

    pub(super) fn check_routed_prefixes(
        &self,
        interface: &InterfaceConfig,
    ) -> Result<(), ServerConfigError> {
        interface.check_routed_prefixes(&self.ledger().pools)
    }

    /// Nothing that is done under the lock panics half way, so a shard that has panicked elsewhere spoils nothing here.
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tunnel that packets to an inner address go to.
    #[inline]
    pub(super) fn route(&self, destination: IpAddr) -> Option<SessionId> {
        self.addresses
            .owner(destination)
            .or_else(|| self.routes.load().find(destination))
    }

    /// The tunnel that an inner address is assigned to, hosts behind tunnels left out.
    pub(super) fn owner(&self, address: IpAddr) -> Option<SessionId> {
        self.addresses.owner(address)
    }

    /// One more transport without a tunnel.
    pub(super) fn open_pending(
        &self,
        now: Instant,
        config: &ServerConfig,
        interface: usize,
        prefix: SourcePrefix,
    ) -> Result<(), OpenError> {
        let mut ledger = self.ledger();
        let of_prefix = ledger.pending_by_prefix.get(&prefix).copied();
        let limits = &config.limits;
        if ledger.pending >= limits.pending
            || of_prefix.unwrap_or_default() >= limits.pending_per_prefix
        {
            return Err(OpenError::TooManyPending);
        }
        if !ledger.within_rate(now, interface, prefix) {
            return Err(OpenError::RateLimited);
        }
        ledger.count_pending(prefix);
        Ok(())
    }

    /// As [`Self::open_pending`], for one that another shard had open: it was admitted there.
    pub(super) fn moved_pending(&self, prefix: SourcePrefix) {
        self.ledger().count_pending(prefix);
    }

    /// One less.
    pub(super) fn no_longer_pending(&self, prefix: SourcePrefix) {
        let mut ledger = self.ledger();
        ledger.pending = ledger.pending.saturating_sub(1);
        decrement(&mut ledger.pending_by_prefix, &prefix);
    }

    /// Whether a source prefix may have another request or transport looked at on this interface.
    pub(super) fn within_rate(&self, now: Instant, interface: usize, prefix: SourcePrefix) -> bool {
        self.ledger().within_rate(now, interface, prefix)
    }

    /// One allowance for all strangers: their addresses prove nothing, so counting by them would protect nobody.
    pub(super) fn stateless_allowed(&self, now: Instant) -> bool {
        let everyone = SourcePrefix::of(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        self.ledger().stateless.admit(now, everyone)
    }

    /// Counts a tunnel and leases addresses for `owner`, which is to be: what was wished for as far as there is. Takes
    /// everything or nothing.
    pub(super) fn take(
        &self,
        now: Instant,
        config: &ServerConfig,
        account: Account<'_>,
        wishes: &[(Family, u8)],
        owner: SessionId,
    ) -> Result<Vec<Lease>, ResponseCode> {
        let interface = config
            .interfaces
            .get(account.interface)
            .ok_or(ResponseCode::NO_RESOURCES)?;
        let mut ledger = self.ledger();
        if ledger.is_full(config, interface, account) {
            return Err(ResponseCode::NO_RESOURCES);
        }
        let leases = ledger.lease(now, interface, wishes, owner);
        if leases.is_empty() {
            return Err(ResponseCode::NO_ADDRESS);
        }
        ledger.count(account);
        Ok(leases)
    }

    /// Leases addresses for a tunnel that was counted when it was reserved: at least one of what was wished for.
    pub(super) fn lease(
        &self,
        now: Instant,
        config: &ServerConfig,
        interface: usize,
        wishes: &[(Family, u8)],
        owner: SessionId,
    ) -> Result<Vec<Lease>, ResponseCode> {
        let interface = config
            .interfaces
            .get(interface)
            .ok_or(ResponseCode::NO_RESOURCES)?;
        let leases = self.ledger().lease(now, interface, wishes, owner);
        if leases.is_empty() {
            return Err(ResponseCode::NO_ADDRESS);
        }
        Ok(leases)
    }

    /// Counts a tunnel that is reserved and needs no addresses yet.
    pub(super) fn count_reserved(
        &self,
        config: &ServerConfig,
        account: Account<'_>,
    ) -> Result<(), ResponseCode> {
        let interface = config
            .interfaces
            .get(account.interface)
            .ok_or(ResponseCode::NO_RESOURCES)?;
        let mut ledger = self.ledger();
        if ledger.is_full(config, interface, account) {
            return Err(ResponseCode::NO_RESOURCES);
        }
        ledger.count(account);
        Ok(())
    }

    /// The tunnel is over: its addresses rest.
    pub(super) fn give_back(&self, now: Instant, account: Account<'_>, leases: &[Lease]) {
        let mut ledger = self.ledger();
        for lease in leases {
            ledger.pools.release(now, lease.address);
        }
        ledger.tunnels = ledger.tunnels.saturating_sub(1);
        decrement(&mut ledger.tunnels_by_prefix, &account.prefix);
        if let Some(identity) = account.identity {
            decrement(&mut ledger.tunnels_by_identity, identity);
        }
        if let Some(count) = ledger.tunnels_by_interface.get_mut(account.interface) {
            *count = count.saturating_sub(1);
        }
    }

    /// Gives each prefix to `owner`, unless it overlaps a grant.
    pub(super) fn grant(&self, prefixes: Vec<Prefix>, owner: SessionId) -> Vec<(Prefix, Granting)> {
        self.change_routes(|routes| {
            let grant = |prefix| (prefix, routes.grant(prefix, owner));
            prefixes.into_iter().map(grant).collect()
        })
    }

    /// Takes prefixes back; harmless for those that are not `owner`'s.
    pub(super) fn take_back(&self, prefixes: &[Prefix], owner: SessionId) {
        self.change_routes(|routes| {
            for prefix in prefixes {
                routes.take_back(*prefix, owner);
            }
        });
    }

    fn change_routes<T>(&self, change: impl FnOnce(&mut RouteTable) -> T) -> T {
        let _one_at_a_time = self.ledger();
        let mut routes = RouteTable::clone(&self.routes.load());
        let result = change(&mut routes);
        self.routes.store(Arc::new(routes));
        result
    }

    /// Tunnels of all shards.
    pub(super) fn tunnels(&self) -> usize {
        self.ledger().tunnels
    }

    /// How full the pools are.
    pub(super) fn pool_stats(&self) -> Vec<PoolStats> {
        self.ledger().pools.stats()
    }
}

impl Ledger {
    fn within_rate(&mut self, now: Instant, interface: usize, prefix: SourcePrefix) -> bool {
        self.rates
            .get_mut(interface)
            .is_some_and(|rate| rate.admit(now, prefix))
    }

    fn count_pending(&mut self, prefix: SourcePrefix) {
        self.pending += 1;
        *self.pending_by_prefix.entry(prefix).or_default() += 1;
    }

    fn is_full(
        &self,
        config: &ServerConfig,
        interface: &InterfaceConfig,
        account: Account<'_>,
    ) -> bool {
        let limits = &config.limits;
        let of_prefix = self.tunnels_by_prefix.get(&account.prefix).copied();
        let of_identity = account
            .identity
            .and_then(|identity| self.tunnels_by_identity.get(identity))
            .copied();
        let of_interface = self.tunnels_by_interface.get(account.interface).copied();
        let per_prefix = interface
            .tunnels_per_prefix
            .unwrap_or(limits.tunnels_per_prefix);
        let per_identity = interface
            .tunnels_per_identity
            .unwrap_or(limits.tunnels_per_identity);
        self.tunnels >= limits.tunnels
            || of_interface.unwrap_or_default() >= interface.max_tunnels
            || of_prefix.unwrap_or_default() >= per_prefix
            || of_identity.unwrap_or_default() >= per_identity
    }

    fn lease(
        &mut self,
        now: Instant,
        interface: &InterfaceConfig,
        wishes: &[(Family, u8)],
        owner: SessionId,
    ) -> Vec<Lease> {
        let mut leases = Vec::new();
        for (family, count) in wishes {
            for _ in 0..*count {
                if leases.len() >= usize::from(interface.max_addresses) {
                    return leases;
                }
                let lease = interface
                    .pools
                    .iter()
                    .find_map(|pool| self.pools.lease(now, *pool, *family, owner));
                let Some(lease) = lease else {
                    break;
                };
                leases.push(lease);
            }
        }
        leases
    }

    fn count(&mut self, account: Account<'_>) {
        self.tunnels += 1;
        *self.tunnels_by_prefix.entry(account.prefix).or_default() += 1;
        if let Some(identity) = account.identity {
            *self
                .tunnels_by_identity
                .entry(identity.clone())
                .or_default() += 1;
        }
        if let Some(count) = self.tunnels_by_interface.get_mut(account.interface) {
            *count += 1;
        }
    }
}

/// Counts one less; an entry at zero goes.
fn decrement<K: Ord>(counts: &mut BTreeMap<K, u32>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(key);
        }
    }
}
