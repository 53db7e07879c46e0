//! Inner packets on their way between tunnels and egresses, for one turn of the worker.
//!
//! A packet is copied out of the read buffer once. That is also where its hop count goes down (spec 7), where it is
//! rewritten by policies and fragmented for a tunnel with a smaller inner MTU, and it frees the read buffer's owner
//! before any other transport is touched. ICMP errors travel back the same way.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use tsc_csm::server::SessionId;
use tsc_tpl::{IpPacket, Limits};

use super::Counters;
use crate::{
    egress::rewrite::Edits,
    icmp::{self, Complaint},
};

/// Packets beyond which a turn forwards before it reads on.
pub(super) const BATCH_PACKETS: usize = 512;

/// ICMP errors a second that one tunnel is sent, and at most at once. One that sends into the void learns of it, and
/// does not get back more than a trickle of what it sends.
pub(super) const ERRORS_PER_SECOND: u32 = 50;

/// The same towards the TUN device, for all hosts behind it.
pub(super) const CORE_ERRORS_PER_SECOND: u32 = 1000;

/// See the module. Bounded by what one read of a stream holds (64 KiB), or by [`BATCH_PACKETS`] datagrams of the largest
/// inner MTU; with the headers of fragments, and [`ERRORS_PER_SECOND`] errors a tunnel. Its memory is reused.
#[derive(Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    packets: Vec<Entry>,
    /// When each tunnel's allowance of errors is whole again, by its shard and slot. Grows to the highest slot that was
    /// ever complained to; a new owner of a slot inherits at most a second of waiting.
    allowance: Vec<Vec<Option<Instant>>>,
    /// The same for all hosts behind the TUN device.
    core_allowance: Option<Instant>,
    /// A packet that is rewritten and fragmented.
    scratch: Vec<u8>,
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Into a tunnel.
    Tunnel(SessionId),
    /// To the host's sockets.
    UserSpace {
        /// From this tunnel.
        from: SessionId,
        /// Of the interface with this index.
        interface: usize,
    },
    /// To the TUN device, from this tunnel; or from nobody, if it is what we say ourselves.
    Tun(Option<SessionId>),
    /// To a tunnel of another worker, which decides whether it gets it.
    Neighbour {
        /// The tunnel.
        to: SessionId,
        /// Who is to be told if not.
        sender: Sender,
    },
}

/// Who sent a packet that crosses to another worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    /// This tunnel.
    Tunnel(SessionId),
    /// Somebody behind the TUN device, or we ourselves.
    Core,
}

impl Sender {
    /// Where complaints go.
    pub(super) const fn target(self) -> Target {
        match self {
            Self::Tunnel(session) => Target::Tunnel(session),
            Self::Core => Target::Tun(None),
        }
    }
}

impl Target {
    /// As the sender of a packet that crosses.
    pub(super) const fn sender(self) -> Sender {
        match self {
            Self::Tunnel(session) => Sender::Tunnel(session),
            Self::UserSpace { .. } | Self::Tun(_) | Self::Neighbour { .. } => Sender::Core,
        }
    }
}

#[derive(Debug)]
struct Entry {
    to: Target,
    range: Range<usize>,
}

impl Batch {
    /// Takes a packet, which has a hop count of at least 2 if it goes further than to the host's sockets. False, and
    /// nothing taken, if it cannot be edited so.
    pub(super) fn push(&mut self, to: Target, packet: &IpPacket<'_>, edits: &Edits) -> bool {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(packet.as_bytes());
        self.take(to, start, edits)
    }

    /// As [`Self::push`], in fragments of at most `mtu` bytes.
    pub(super) fn push_fragments(
        &mut self,
        to: Target,
        packet: &IpPacket<'_>,
        edits: &Edits,
        mtu: u16,
    ) -> bool {
        // What changes is in the first fragment too, so it is changed before.
        let mut whole = std::mem::take(&mut self.scratch);
        whole.clear();
        whole.extend_from_slice(packet.as_bytes());
        let edited = edits.apply(&mut whole);
        let done = edited
            && IpPacket::decode(&whole, &Limits::WIDEST).is_ok_and(|packet| {
                icmp::fragment(&packet, mtu, |header, data| {
                    let start = self.bytes.len();
                    self.bytes.extend_from_slice(header);
                    self.bytes.extend_from_slice(data);
                    self.take(to, start, &Edits::default());
                })
            });
        self.scratch = whole;
        done
    }

    /// What was appended from `start` on is a packet for `to`.
    fn take(&mut self, to: Target, start: usize, edits: &Edits) -> bool {
        let packet = self.bytes.get_mut(start..).unwrap_or_default();
        // The host's sockets are the end of the way, and count for themselves; another worker is only half of it.
        let counts = !matches!(to, Target::UserSpace { .. } | Target::Neighbour { .. });
        let taken =
            (edits.is_empty() || edits.apply(packet)) && (!counts || decrement_hops(packet));
        if taken {
            let range = start..self.bytes.len();
            self.packets.push(Entry { to, range });
        } else {
            self.bytes.truncate(start);
        }
        taken
    }

    /// Tells `sender`, a tunnel or whoever is behind the TUN device, what became of its packet, if that may be said and
    /// was not said too often.
    pub(super) fn complain(
        &mut self,
        now: Instant,
        sender: Target,
        packet: &IpPacket<'_>,
        complaint: Complaint,
        counters: &mut Counters,
    ) {
        let start = self.bytes.len();
        if !icmp::error(packet, complaint, &mut self.bytes) {
            return;
        }
        let allowed = match sender {
            Target::Tunnel(session) => self.allow(now, session),
            Target::Tun(_) => within(&mut self.core_allowance, now, CORE_ERRORS_PER_SECOND),
            Target::UserSpace { .. } | Target::Neighbour { .. } => false,
        };
        if allowed {
            counters.icmp_errors += 1;
            let range = start..self.bytes.len();
            self.packets.push(Entry { to: sender, range });
        } else {
            counters.icmp_limited += 1;
            self.bytes.truncate(start);
        }
    }

    fn allow(&mut self, now: Instant, session: SessionId) -> bool {
        let (shard, index) = (usize::from(session.shard()), session.index());
        if shard >= self.allowance.len() {
            self.allowance.resize_with(shard + 1, Vec::new);
        }
        let Some(tunnels) = self.allowance.get_mut(shard) else {
            return false;
        };
        if index >= tunnels.len() {
            tunnels.resize(index + 1, None);
        }
        let slot = tunnels.get_mut(index);
        slot.is_some_and(|slot| within(slot, now, ERRORS_PER_SECOND))
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    pub(super) const fn len(&self) -> usize {
        self.packets.len()
    }

    pub(super) const fn is_full(&self) -> bool {
        self.packets.len() >= BATCH_PACKETS
    }

    /// The packets in order of arrival.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Target, &[u8])> {
        self.packets
            .iter()
            .filter_map(|entry| Some((entry.to, self.bytes.get(entry.range.clone())?)))
    }

    /// Forgets the packets and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.packets.clear();
    }
}

/// The generic cell rate algorithm, a second deep: whether one more may be said.
fn within(slot: &mut Option<Instant>, now: Instant, per_second: u32) -> bool {
    let depth = Duration::from_secs(1);
    let whole_at = slot.map_or(now, |at| at.max(now)) + depth / per_second;
    let allowed = whole_at.saturating_duration_since(now) <= depth;
    if allowed {
        *slot = Some(whole_at);
    }
    allowed
}

/// Takes one off TTL or Hop Limit; false if nothing would be left, as for a router (RFC 1812 5.3.1, RFC 8200 3).
fn decrement_hops(packet: &mut [u8]) -> bool {
    match packet {
        [0x40..=0x4F, _, _, _, _, _, _, _, ttl, _, high, low, ..] => {
            if *ttl <= 1 {
                return false;
            }
            *ttl -= 1;
            // RFC 1624: the TTL is the high byte of its 16-bit word, so the checksum grows by 0x0100.
            let (sum, carry) = u16::from_be_bytes([*high, *low]).overflowing_add(0x0100);
            [*high, *low] = (sum + u16::from(carry)).to_be_bytes();
            true
        }
        [0x60..=0x6F, _, _, _, _, _, _, hops, ..] => {
            if *hops <= 1 {
                return false;
            }
            *hops -= 1;
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(header: &[u8]) -> u16 {
        let mut sum: u32 = header
            .chunks(2)
            .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])))
            .sum();
        while sum > 0xFFFF {
            sum = (sum & 0xFFFF) + (sum >> 16);
        }
        !u16::try_from(sum).unwrap()
    }

    #[test]
    fn the_checksum_follows_the_ttl() {
        for ttl in 2..=255 {
            for id in [0_u16, 1, 0x00FF, 0xFFFF, 0x7EFF] {
                let [a, b] = id.to_be_bytes();
                let mut header = [
                    0x45, 0, 0, 20, a, b, 0, 0, ttl, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
                ];
                let check = sum(&header).to_be_bytes();
                header[10..12].copy_from_slice(&check);
                assert!(decrement_hops(&mut header));
                assert_eq!(header[8], ttl - 1);
                assert_eq!(sum(&header), 0, "ttl {ttl} id {id:#x}");
            }
        }
    }

    #[test]
    fn the_last_hop_ends_here() {
        let mut v4 = [
            0x45, 0, 0, 20, 0, 0, 0, 0, 1, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ];
        assert!(!decrement_hops(&mut v4));
        let mut v6 = [0; 40];
        v6[0] = 0x60;
        v6[7] = 1;
        assert!(!decrement_hops(&mut v6));
        v6[7] = 64;
        assert!(decrement_hops(&mut v6));
        assert_eq!(v6[7], 63);
    }
}
