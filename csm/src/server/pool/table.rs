//! Who has which address, for every packet of every shard: read without a lock.

use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use tsc_tpl::Family;

use super::range::Range;
use crate::prefix::sort_key;
use crate::server::event::SessionId;

/// Words that are made at once: a page of the operating system's eight.
const CHUNK: usize = 4096;

/// One atomic word for each address of the pools: the tunnel that has it, or 0.
///
/// It is the only table on the way of a packet that several shards share. Words are written under the lock of the
/// ledger and read without one; a word says all, so no order between words matters. A reader may meet one that has just
/// changed: then the packet is one that was on its way when the tunnel came or went, and the generation in the word tells
/// the shard that gets it. Memory is taken in pieces as addresses are leased.
#[derive(Debug)]
pub(crate) struct AddressTable {
    /// Sorted by [`sort_key`] of the first address, as the ranges of the ledger.
    ranges: Box<[Words]>,
}

#[derive(Debug)]
struct Words {
    family: Family,
    first: u128,
    size: u32,
    chunks: Box<[OnceLock<Box<[AtomicU64]>>]>,
}

impl AddressTable {
    pub(super) fn new(ranges: &[Range]) -> Self {
        let words = |range: &Range| Words {
            family: range.family,
            first: range.first,
            size: range.size,
            chunks: std::iter::repeat_with(OnceLock::new)
                .take((range.size as usize).div_ceil(CHUNK))
                .collect(),
        };
        Self {
            ranges: ranges.iter().map(words).collect(),
        }
    }

    /// Range and offset of an address: a search of the few ranges.
    #[inline]
    pub(super) fn locate(&self, address: IpAddr) -> Option<(usize, u32)> {
        let (family, number) = sort_key(address);
        let above = self
            .ranges
            .partition_point(|range| (range.family, range.first) <= (family, number));
        let index = above.checked_sub(1)?;
        let range = self
            .ranges
            .get(index)
            .filter(|range| range.family == family)?;
        let offset = u32::try_from(number.checked_sub(range.first)?).ok()?;
        (offset < range.size).then_some((index, offset))
    }

    /// The tunnel that has the address.
    #[inline]
    pub(crate) fn owner(&self, address: IpAddr) -> Option<SessionId> {
        let (range, offset) = self.locate(address)?;
        self.get(range, offset)
    }

    #[inline]
    pub(super) fn get(&self, range: usize, offset: u32) -> Option<SessionId> {
        let offset = offset as usize;
        let chunk = self.ranges.get(range)?.chunks.get(offset / CHUNK)?.get()?;
        SessionId::from_word(chunk.get(offset % CHUNK)?.load(Ordering::Relaxed))
    }

    /// Only under the lock of the ledger.
    pub(super) fn set(&self, range: usize, offset: u32, owner: Option<SessionId>) {
        let offset = offset as usize;
        let chunk = self
            .ranges
            .get(range)
            .and_then(|range| range.chunks.get(offset / CHUNK))
            .map(|chunk| {
                chunk.get_or_init(|| {
                    std::iter::repeat_with(AtomicU64::default)
                        .take(CHUNK)
                        .collect()
                })
            });
        if let Some(word) = chunk.and_then(|chunk| chunk.get(offset % CHUNK)) {
            word.store(owner.map_or(0, SessionId::word), Ordering::Relaxed);
        }
    }
}
