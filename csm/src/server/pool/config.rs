//! What pools are configured with, and what may be wrong with it.

use std::net::IpAddr;
use std::time::Duration;

/// Most addresses of one range. A larger IPv6 prefix is written as a range inside it.
pub const MAX_RANGE_SIZE: u32 = 1 << 24;
/// Most ranges of all pools together.
pub const MAX_RANGES: usize = 4096;

/// An inclusive range of addresses of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    /// The lowest address.
    pub first: IpAddr,
    /// The highest address, at most [`MAX_RANGE_SIZE`] - 1 above `first`.
    pub last: IpAddr,
}

/// Addresses that are handed out together with one prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolRange {
    /// The addresses.
    pub range: AddressRange,
    /// The prefix length told to clients (TLV 2 or 4). It widens no check (spec 8.1).
    pub prefix_len: u8,
}

/// One address pool, as `tscf-address-pool` describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolConfig {
    /// For logs and statistics.
    pub name: String,
    /// Where addresses come from, in this order.
    pub ranges: Vec<PoolRange>,
    /// Addresses inside the ranges that are never handed out.
    pub exclusions: Vec<AddressRange>,
    /// How long an address rests after its tunnel closed; `None` takes the server's.
    pub quarantine: Option<Duration>,
}

/// Why the pools cannot be used as configured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// First above last, or of different families.
    #[error("pool {pool}: {first} - {last} is not a range")]
    NotARange {
        /// Name of the pool.
        pool: String,
        /// As configured.
        first: IpAddr,
        /// As configured.
        last: IpAddr,
    },
    /// More than [`MAX_RANGE_SIZE`] addresses.
    #[error("pool {pool}: the range from {first} has more than {MAX_RANGE_SIZE} addresses")]
    TooLarge {
        /// Name of the pool.
        pool: String,
        /// Start of the range.
        first: IpAddr,
    },
    /// More than 32 or 128.
    #[error("pool {pool}: prefix length {prefix_len} does not exist for {first}")]
    PrefixLength {
        /// Name of the pool.
        pool: String,
        /// Start of the range.
        first: IpAddr,
        /// As configured.
        prefix_len: u8,
    },
    /// Loopback, link-local, multicast, broadcast and unspecified addresses cannot be assigned (spec 8.1).
    #[error("pool {pool}: {address} cannot be assigned to a client")]
    NotAssignable {
        /// Name of the pool.
        pool: String,
        /// The offending address.
        address: IpAddr,
    },
    /// Two ranges share an address, so one could be given to two tunnels.
    #[error("pool {pool}: the range from {first} overlaps another range")]
    Overlap {
        /// Name of the pool.
        pool: String,
        /// Start of the range that comes second.
        first: IpAddr,
    },
    /// More than [`MAX_RANGES`].
    #[error("more than {MAX_RANGES} address ranges")]
    TooManyRanges,
}
