//! Whole packets from the fragments that tunnels send (RFC 791, section 3.2; RFC 8200, section 4.5).
//!
//! A flow cannot be told from a fragment alone, so packets are put together first. Fragments that overlap or contradict
//! each other spoil their packet for good (RFC 5722), exact duplicates are ignored. A tunnel that begins too many packets
//! loses its own oldest one, never another's.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tsc_tpl::{IpPacket, IpVersion};

use super::UserSpaceCounters;
use super::packet::{HEADER_V4, HEADER_V6, u16_of};
use crate::icmp::checksum;

/// Packets that one tunnel may have begun.
pub(super) const PER_TUNNEL: usize = 16;

/// Bytes that all tunnels together may have in incomplete packets. Beyond, no more are begun, and those that would grow
/// are given up.
pub(super) const TOTAL_BYTES: usize = 8 * 1024 * 1024;

/// Fragments of one packet: enough for 64 KiB at an inner MTU of 576, and a bound on what tiny ones cost.
const MAX_FRAGMENTS: usize = 128;

/// What a packet costs besides its bytes, for the bound in total.
const ENTRY_COST: usize = 256;

/// Time to complete a packet (RFC 1122, section 3.3.2, and RFC 8200: 60 s; real fragments are milliseconds apart).
const TIMEOUT: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Fragments {
    partial: BTreeMap<Key, Partial>,
    /// By age, which is also the order of deadlines.
    order: BTreeMap<u64, Key>,
    next_age: u64,
    held: usize,
    /// The packet that was completed last.
    whole: Vec<u8>,
}

/// IPv4 counts the protocol in, IPv6 does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    tunnel: usize,
    identification: u32,
    protocol: Option<u8>,
    source: IpAddr,
    destination: IpAddr,
}

#[derive(Debug)]
struct Partial {
    age: u64,
    deadline: Instant,
    /// Overlapping or contradictory: the rest is dropped until the deadline.
    spoilt: bool,
    /// In order of arrival.
    data: Vec<u8>,
    /// In order of offset, without overlaps.
    pieces: Vec<Piece>,
    /// Length, once the last fragment is known.
    total: Option<usize>,
    /// Protocol and hop count of the first fragment.
    first: (u8, u8),
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    start: usize,
    len: usize,
    /// Position in `data`.
    at: usize,
}

/// What a fragment says of itself.
#[derive(Clone, Copy, Debug)]
struct Part {
    identification: u32,
    offset: usize,
    more: bool,
}

enum Effect {
    Stored,
    Duplicate,
    Spoilt,
}

impl Fragments {
    /// Takes a fragment; gives the packet that it completes, with a plain header.
    pub(super) fn add(
        &mut self,
        now: Instant,
        tunnel: usize,
        packet: &IpPacket<'_>,
        counters: &mut UserSpaceCounters,
    ) -> Option<&[u8]> {
        let (Some(part), Some(data)) = (part(packet), packet.payload()) else {
            counters.malformed += 1;
            return None;
        };
        let header = match packet.version() {
            IpVersion::V4 => HEADER_V4,
            IpVersion::V6 => HEADER_V6,
        };
        let end = part.offset + data.len();
        if data.is_empty()
            || part.more && !data.len().is_multiple_of(8)
            || header + end > usize::from(u16::MAX)
        {
            counters.malformed += 1;
            return None;
        }
        let key = Key {
            tunnel,
            identification: part.identification,
            protocol: match packet.version() {
                IpVersion::V4 => Some(packet.protocol()),
                IpVersion::V6 => None,
            },
            source: packet.source(),
            destination: packet.destination(),
        };
        if !self.partial.contains_key(&key) && !self.begin(now, key, counters) {
            return None;
        }
        let full = self.held + data.len() > TOTAL_BYTES;
        let partial = self.partial.get_mut(&key).filter(|found| !found.spoilt)?;
        match partial.judge(part, data) {
            Effect::Duplicate => return None,
            Effect::Spoilt => {
                counters.fragments_refused += 1;
                partial.spoilt = true;
                self.held -= partial.data.len();
                partial.data = Vec::new();
                partial.pieces = Vec::new();
                return None;
            }
            Effect::Stored if full => {
                counters.fragments_full += 1;
                self.remove(&key);
                return None;
            }
            Effect::Stored => {}
        }
        if part.offset == 0 {
            partial.first = (packet.protocol(), packet.hop_limit());
        }
        partial.store(part, data);
        self.held += data.len();
        if partial.total != Some(partial.data.len()) {
            return None;
        }
        partial.write(&key, &mut self.whole);
        self.remove(&key);
        counters.reassembled += 1;
        Some(&self.whole)
    }

    /// Makes room for a packet and an entry for it.
    fn begin(&mut self, now: Instant, key: Key, counters: &mut UserSpaceCounters) -> bool {
        let begun = self.of(key.tunnel).count();
        let oldest = self
            .of(key.tunnel)
            .min_by_key(|(_, partial)| partial.age)
            .map(|(key, _)| *key);
        if let Some(oldest) = oldest.filter(|_| begun >= PER_TUNNEL) {
            counters.fragments_full += 1;
            self.remove(&oldest);
        }
        if self.held + ENTRY_COST > TOTAL_BYTES {
            counters.fragments_full += 1;
            return false;
        }
        let age = self.next_age;
        self.next_age += 1;
        self.held += ENTRY_COST;
        self.order.insert(age, key);
        self.partial.insert(
            key,
            Partial {
                age,
                deadline: now + TIMEOUT,
                spoilt: false,
                data: Vec::new(),
                pieces: Vec::new(),
                total: None,
                first: (0, 0),
            },
        );
        true
    }

    /// What a tunnel has begun.
    fn of(&self, tunnel: usize) -> impl Iterator<Item = (&Key, &Partial)> {
        let lowest = Key {
            tunnel,
            identification: 0,
            protocol: None,
            source: IpAddr::from([0; 4]),
            destination: IpAddr::from([0; 4]),
        };
        self.partial
            .range(lowest..)
            .take_while(move |(key, _)| key.tunnel == tunnel)
    }

    fn remove(&mut self, key: &Key) {
        if let Some(partial) = self.partial.remove(key) {
            self.order.remove(&partial.age);
            self.held -= ENTRY_COST + partial.data.len();
        }
    }

    /// Forgets what the tunnel has begun.
    pub(super) fn end(&mut self, tunnel: usize) {
        let begun: Vec<Key> = self.of(tunnel).map(|(key, _)| *key).collect();
        for key in begun {
            self.remove(&key);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let (_, key) = self.order.first_key_value()?;
        Some(self.partial.get(key)?.deadline)
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, counters: &mut UserSpaceCounters) {
        while self.poll_timeout().is_some_and(|due| due <= now) {
            let Some((_, key)) = self.order.first_key_value() else {
                return;
            };
            let key = *key;
            if self.partial.get(&key).is_some_and(|found| !found.spoilt) {
                counters.fragments_timed_out += 1;
            }
            self.remove(&key);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.partial.len()
    }

    pub(super) const fn held(&self) -> usize {
        self.held
    }
}

impl Partial {
    fn judge(&self, part: Part, data: &[u8]) -> Effect {
        let (start, end) = (part.offset, part.offset + data.len());
        let position = self.position(start);
        let after = self.pieces.get(position);
        if let Some(same) = after.filter(|piece| piece.start == start && piece.len == data.len()) {
            let held = self.data.get(same.at..same.at + same.len);
            return if held == Some(data) && (self.total == Some(end)) != part.more {
                Effect::Duplicate
            } else {
                Effect::Spoilt
            };
        }
        let before = position
            .checked_sub(1)
            .and_then(|index| self.pieces.get(index));
        let overlaps = before.is_some_and(|piece| piece.start + piece.len > start)
            || after.is_some_and(|piece| piece.start < end);
        let last = self.pieces.last().map_or(0, |last| last.start + last.len);
        let wrong_end = match self.total {
            Some(total) => end > total || !part.more,
            None => !part.more && last > end,
        };
        if overlaps || wrong_end || self.pieces.len() >= MAX_FRAGMENTS {
            Effect::Spoilt
        } else {
            Effect::Stored
        }
    }

    fn store(&mut self, part: Part, data: &[u8]) {
        let piece = Piece {
            start: part.offset,
            len: data.len(),
            at: self.data.len(),
        };
        if !part.more {
            self.total = Some(part.offset + data.len());
        }
        self.data.extend_from_slice(data);
        self.pieces.insert(self.position(piece.start), piece);
    }

    fn position(&self, start: usize) -> usize {
        self.pieces.partition_point(|piece| piece.start < start)
    }

    /// As pieces do not overlap, a packet with all its bytes is complete.
    fn write(&self, key: &Key, whole: &mut Vec<u8>) {
        let (protocol, hops) = self.first;
        whole.clear();
        match (key.source, key.destination) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let [l1, l2] = u16_of(HEADER_V4 + self.data.len());
                let mut header = [0; HEADER_V4];
                header[..10].copy_from_slice(&[0x45, 0, l1, l2, 0, 0, 0, 0, hops, protocol]);
                header[12..16].copy_from_slice(&from.octets());
                header[16..].copy_from_slice(&to.octets());
                let sum = checksum(&[&header]);
                header[10..12].copy_from_slice(&sum);
                whole.extend_from_slice(&header);
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let [l1, l2] = u16_of(self.data.len());
                whole.extend_from_slice(&[0x60, 0, 0, 0, l1, l2, protocol, hops]);
                whole.extend_from_slice(&from.octets());
                whole.extend_from_slice(&to.octets());
            }
            // One packet has one family.
            _ => return,
        }
        for piece in &self.pieces {
            let data = self.data.get(piece.at..piece.at + piece.len);
            whole.extend_from_slice(data.unwrap_or_default());
        }
    }
}

/// The fields of a fragment, for which `packet` was found to be one.
fn part(packet: &IpPacket<'_>) -> Option<Part> {
    let bytes = packet.as_bytes();
    let (identification, offset, more) = match packet.version() {
        IpVersion::V4 => {
            let &[_, _, _, _, i1, i2, f1, f2, ..] = bytes.first_chunk::<HEADER_V4>()?;
            let offset = u16::from_be_bytes([f1 & 0x1F, f2]);
            (
                u32::from_be_bytes([0, 0, i1, i2]),
                offset * 8,
                f1 & 0x20 != 0,
            )
        }
        IpVersion::V6 => {
            // The fragment header is right before the fragment's data.
            let at = bytes.len().checked_sub(packet.payload()?.len() + 8)?;
            let &[_, _, o1, o2, i1, i2, i3, i4] = bytes.get(at..)?.first_chunk::<8>()?;
            let offset = u16::from_be_bytes([o1, o2 & 0xF8]);
            (u32::from_be_bytes([i1, i2, i3, i4]), offset, o2 & 1 != 0)
        }
    };
    Some(Part {
        identification,
        offset: usize::from(offset),
        more,
    })
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "test patterns")]
mod tests {
    use std::net::SocketAddr;

    use proptest::prelude::*;
    use tsc_tpl::Limits;

    use super::super::packet::{Segment, Writer, datagram};
    use super::*;

    const LIMITS: Limits = Limits::new(u16::MAX);

    /// A datagram of `len` bytes in packets of at most 600.
    fn pieces(v6: bool, seed: u64, len: usize) -> Vec<Vec<u8>> {
        let (from, to): (SocketAddr, SocketAddr) = if v6 {
            (
                "[fd00::1]:7".parse().unwrap(),
                "[fd00::2]:8".parse().unwrap(),
            )
        } else {
            ("10.0.0.1:7".parse().unwrap(), "10.0.0.2:8".parse().unwrap())
        };
        let mut segment = Segment::new();
        for (at, byte) in segment.payload().iter_mut().enumerate() {
            *byte = (at % 249) as u8;
        }
        let mut packets = Vec::new();
        Writer::new(seed).datagram(from, to, &mut segment, len, 600, |packet| {
            packets.push(packet.to_vec())
        });
        packets
    }

    struct World {
        fragments: Fragments,
        counters: UserSpaceCounters,
        now: Instant,
    }

    impl World {
        fn new() -> Self {
            Self {
                fragments: Fragments::default(),
                counters: UserSpaceCounters::default(),
                now: Instant::now(),
            }
        }

        /// The length of the payload that the packet completes.
        fn add(&mut self, tunnel: usize, bytes: &[u8]) -> Option<usize> {
            let packet = IpPacket::decode(bytes, &LIMITS).unwrap();
            let whole = self
                .fragments
                .add(self.now, tunnel, &packet, &mut self.counters)?;
            let whole = IpPacket::decode(whole, &LIMITS).unwrap();
            assert!(!whole.is_fragment());
            Some(datagram(&whole).expect("its checksum").payload.len())
        }
    }

    #[test]
    fn any_order_and_duplicates() {
        for v6 in [false, true] {
            for len in [1000, 5000, 60_000] {
                let mut world = World::new();
                let mut packets = pieces(v6, 1, len);
                packets.reverse();
                let (last, rest) = packets.split_last().unwrap();
                for packet in rest {
                    assert_eq!(world.add(0, packet), None);
                    assert_eq!(world.add(0, packet), None);
                }
                assert_eq!(world.add(0, last), Some(len), "IPv6 {v6}");
                assert_eq!((world.fragments.len(), world.fragments.held()), (0, 0));
                assert_eq!(world.counters.reassembled, 1);
            }
        }
    }

    #[test]
    fn tunnels_do_not_mix() {
        let mut world = World::new();
        let packets = pieces(false, 1, 1000);
        assert_eq!(world.add(0, &packets[0]), None);
        assert_eq!(world.add(1, &packets[1]), None);
        assert_eq!(world.add(0, &packets[1]), Some(1000));
        world.fragments.end(1);
        assert_eq!(world.fragments.held(), 0);
    }

    #[test]
    fn overlaps_spoil_the_packet() {
        let mut world = World::new();
        let packets = pieces(false, 1, 2000);
        assert_eq!(world.add(0, &packets[0]), None);
        let mut overlapping = packets[1].clone();
        overlapping[7] -= 1;
        assert_eq!(world.add(0, &overlapping), None);
        assert_eq!(world.counters.fragments_refused, 1);
        for packet in &packets {
            assert_eq!(world.add(0, packet), None);
        }
        world.now += TIMEOUT;
        world
            .fragments
            .handle_timeout(world.now, &mut world.counters);
        assert_eq!((world.fragments.len(), world.fragments.held()), (0, 0));
        assert_eq!(world.counters.fragments_timed_out, 0, "told once");
    }

    #[test]
    fn a_tunnel_loses_its_own_oldest() {
        let mut world = World::new();
        let other = pieces(false, 999, 1000);
        world.add(7, &other[0]);
        for seed in 0..PER_TUNNEL as u64 + 3 {
            world.add(0, &pieces(true, seed, 1000)[0]);
        }
        assert_eq!(world.fragments.len(), PER_TUNNEL + 1);
        assert_eq!(world.counters.fragments_full, 3);
        assert_eq!(world.add(0, &pieces(true, 0, 1000)[1]), None);
        assert_eq!(world.add(7, &other[1]), Some(1000));
        let due = world.fragments.poll_timeout().unwrap();
        world.fragments.handle_timeout(due, &mut world.counters);
        assert_eq!(world.fragments.held(), 0);
    }

    #[test]
    fn all_tunnels_together_stay_within_the_bound() {
        let mut world = World::new();
        let mut packets = pieces(false, 1, 60_000);
        packets.pop();
        for tunnel in 0..200 {
            for packet in &packets {
                world.add(tunnel, packet);
            }
            assert!(world.fragments.held() <= TOTAL_BYTES);
        }
        assert!(world.counters.fragments_full > 0);
        for tunnel in 0..200 {
            world.fragments.end(tunnel);
        }
        assert_eq!((world.fragments.len(), world.fragments.held()), (0, 0));
        assert_eq!(world.fragments.poll_timeout(), None);
    }

    #[test]
    fn impossible_fragments() {
        let mut world = World::new();
        let mut bytes = pieces(false, 1, 1000)[1].clone();
        // Offset 65528.
        bytes[6..8].copy_from_slice(&[0x1F, 0xFF]);
        assert_eq!(world.add(0, &bytes), None);
        assert_eq!(world.counters.malformed, 1);
        assert_eq!(world.fragments.len(), 0);
    }

    proptest! {
        /// Whatever comes, accounts are right and nothing is left after the time-out.
        #[test]
        fn any_fragments(steps in prop::collection::vec((0_usize..3, any::<bool>(), 0_u8..20, 0_u16..40, any::<bool>(), 1_usize..40), 0..200)) {
            let mut world = World::new();
            for (tunnel, v6, id, offset, more, words) in steps {
                let mut bytes = pieces(v6, 1, 1000)[0].clone();
                let at = if v6 { 48 } else { 20 };
                bytes.truncate(at + words * 8);
                if v6 {
                    let len = u16_of(bytes.len() - 40);
                    bytes[4..6].copy_from_slice(&len);
                    let [high, low] = (offset * 8).to_be_bytes();
                    bytes[42..44].copy_from_slice(&[high, low | u8::from(more)]);
                    bytes[47] = id;
                } else {
                    let len = u16_of(bytes.len());
                    bytes[2..4].copy_from_slice(&len);
                    let [high, low] = offset.to_be_bytes();
                    bytes[6..8].copy_from_slice(&[high | if more { 0x20 } else { 0 }, low]);
                    bytes[5] = id;
                }
                let packet = IpPacket::decode(&bytes, &LIMITS).unwrap();
                if packet.is_fragment() {
                    let _ = world.fragments.add(world.now, tunnel, &packet, &mut world.counters);
                }
                let held: usize = world.fragments.partial.values().map(|p| p.data.len() + ENTRY_COST).sum();
                prop_assert_eq!(held, world.fragments.held());
                prop_assert_eq!(world.fragments.order.len(), world.fragments.len());
                prop_assert!(world.fragments.of(tunnel).count() <= PER_TUNNEL);
            }
            world.now += TIMEOUT;
            world.fragments.handle_timeout(world.now, &mut world.counters);
            prop_assert_eq!(world.fragments.held(), 0);
        }
    }
}
