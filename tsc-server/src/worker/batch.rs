//! Inner packets on their way from one tunnel to another, for one turn of the worker.
//!
//! A packet is copied out of the read buffer once. That is also where its hop count goes down (spec 7), and it
//! frees the read buffer's owner before any other transport is touched.

use std::ops::Range;

use tsc_csm::server::SessionId;
use tsc_tpl::IpPacket;

/// Packets beyond which a turn forwards before it reads on.
pub(super) const BATCH_PACKETS: usize = 512;

/// See the module. Bounded by [`BATCH_PACKETS`] packets of the largest inner MTU; its memory is reused.
#[derive(Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    packets: Vec<(SessionId, Range<usize>)>,
}

impl Batch {
    /// Takes a packet for the tunnel `to`. False when its hop count was used up: then it is not taken.
    pub(super) fn push(&mut self, to: SessionId, packet: &IpPacket<'_>) -> bool {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(packet.as_bytes());
        let alive = self.bytes.get_mut(start..).is_some_and(decrement_hops);
        if alive {
            self.packets.push((to, start..self.bytes.len()));
        } else {
            self.bytes.truncate(start);
        }
        alive
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    pub(super) const fn is_full(&self) -> bool {
        self.packets.len() >= BATCH_PACKETS
    }

    /// The packets in order of arrival.
    pub(super) fn iter(&self) -> impl Iterator<Item = (SessionId, &[u8])> {
        self.packets
            .iter()
            .filter_map(|(to, range)| Some((*to, self.bytes.get(range.clone())?)))
    }

    /// Forgets the packets and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.packets.clear();
    }
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
