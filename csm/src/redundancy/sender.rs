//! The sender's end: packets with the copies of those before.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tsc_tpl::registry::{MAX_DATAGRAM_MESSAGE, MAX_REDUNDANCY_ENTRIES};
use tsc_tpl::{IpPacket, Limits, RedundancyEntry, RedundancyFrame, Sequence};

/// A frame is at most so long: what any path takes (spec 3.3 for messages).
const MAX_FRAME: usize = MAX_DATAGRAM_MESSAGE;

/// Bytes for packets that wait to be repeated, for one group.
const MAX_HISTORY: usize = 12 * 1024;

/// A copy that is older than this serves nobody; and then its memory is given back.
const HISTORY_TIME: Duration = Duration::from_secs(1);

/// The sending end of one group.
#[derive(Debug)]
pub(crate) struct Sender {
    next: Sequence,
    /// Newest last; fewer than a frame holds.
    history: VecDeque<Kept>,
    /// Of a packet that need not be repeated any more, for the next one.
    spare: Option<Vec<u8>>,
    /// A frame is at most so long.
    longest: usize,
    /// Room of the history's buffers.
    held: usize,
    last: Option<Instant>,
}

#[derive(Debug)]
struct Kept {
    sequence: Sequence,
    /// Frames that it is still to be in.
    left: u8,
    packet: Vec<u8>,
}

impl Default for Sender {
    /// For a group that begins: its first sequence is 1 (spec 6).
    fn default() -> Self {
        Self {
            next: Sequence(1),
            history: VecDeque::new(),
            spare: None,
            longest: MAX_FRAME,
            held: 0,
            last: None,
        }
    }
}

impl Sender {
    /// For streams, where frames hold one packet, as long as it may be.
    pub(crate) fn of_streams() -> Self {
        Self {
            longest: usize::MAX,
            ..Self::default()
        }
    }

    /// Bytes that packets which are kept take.
    pub(crate) const fn held(&self) -> usize {
        self.held
    }

    /// When what is kept can be forgotten.
    pub(crate) fn expires(&self) -> Option<Instant> {
        let is_empty = self.history.is_empty() && self.spare.is_none();
        self.last
            .filter(|_| !is_empty)
            .map(|last| last + HISTORY_TIME)
    }

    /// Forgets what is kept, if nothing was sent for long enough.
    pub(crate) fn expire(&mut self, now: Instant) {
        if self.expires().is_some_and(|at| at <= now) {
            self.history = VecDeque::new();
            self.spare = None;
            self.held = 0;
        }
    }

    /// Writes the frame of a packet that is to be repeated `copies` times to `out`, which is empty. False, and nothing
    /// done, if it does not fit a frame. `room` is how many bytes may be kept beside those that are.
    pub(crate) fn frame(
        &mut self,
        now: Instant,
        packet: &IpPacket<'_>,
        copies: u8,
        room: usize,
        out: &mut Vec<u8>,
    ) -> bool {
        self.expire(now);
        let newest = RedundancyEntry {
            sequence: self.next,
            packet: *packet,
        };
        let mut len = RedundancyFrame::encoded_len(&[newest]);
        if len > self.longest {
            return false;
        }
        let mut entries = [newest; MAX_REDUNDANCY_ENTRIES];
        let mut count = 1;
        for kept in self.history.iter().rev() {
            let Ok(packet) = IpPacket::decode(&kept.packet, &Limits::WIDEST) else {
                continue;
            };
            let entry = RedundancyEntry {
                sequence: kept.sequence,
                packet,
            };
            let Some(place) = entries.get_mut(count) else {
                break;
            };
            if len + entry.encoded_len() > self.longest {
                break;
            }
            len += entry.encoded_len();
            *place = entry;
            count += 1;
        }
        let entries = entries.get(..count).unwrap_or_default();
        if RedundancyFrame::encode_datagram(entries, &Limits::WIDEST, out).is_err() {
            return false;
        }
        self.next = self.next.next();
        self.last = Some(now);
        self.repeated();
        if copies > 0 {
            self.keep(newest.sequence, packet, copies, room);
        }
        true
    }

    /// All that is kept was in a frame once more, or did not fit.
    fn repeated(&mut self) {
        for kept in &mut self.history {
            kept.left -= 1;
        }
        // Those of sockets with a smaller factor go before older ones.
        while let Some(done) = self.history.iter().position(|kept| kept.left == 0) {
            let Some(kept) = self.history.remove(done) else {
                return;
            };
            self.held -= kept.packet.capacity();
            self.spare = Some(kept.packet);
        }
    }

    fn keep(&mut self, sequence: Sequence, packet: &IpPacket<'_>, copies: u8, room: usize) {
        let mut buffer = self.spare.take().unwrap_or_default();
        buffer.clear();
        buffer.reserve_exact(packet.len());
        let takes = buffer.capacity();
        if takes > room || self.held + takes > MAX_HISTORY {
            return;
        }
        buffer.extend_from_slice(packet.as_bytes());
        self.held += takes;
        self.history.push_back(Kept {
            sequence,
            left: copies,
            packet: buffer,
        });
    }
}

#[cfg(test)]
mod tests {
    use tsc_tpl::Unit;

    use super::*;

    fn packet(len: usize, mark: u8) -> Vec<u8> {
        let mut packet = vec![mark; len];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
        packet
    }

    /// Sequences of the frame, newest first; `None` if there is none.
    fn send(sender: &mut Sender, now: Instant, len: usize, copies: u8) -> Option<Vec<u32>> {
        let bytes = packet(len, 7);
        let ip = IpPacket::decode(&bytes, &Limits::WIDEST).unwrap();
        let mut out = Vec::new();
        let framed = sender.frame(now, &ip, copies, usize::MAX, &mut out);
        framed.then(|| match Unit::decode_datagram(&out, &Limits::WIDEST) {
            Ok(Unit::Redundancy(frame)) => {
                assert!(out.len() <= MAX_FRAME);
                frame.entries().map(|entry| entry.sequence.0).collect()
            }
            other => panic!("{other:?}"),
        })
    }

    /// The table of the SDK guide, "Enabling Redundancy".
    #[test]
    fn factor_two_repeats_the_two_packets_before() {
        let (mut sender, now) = (Sender::default(), Instant::now());
        let frames: Vec<_> = (0..5)
            .map(|_| send(&mut sender, now, 200, 2).unwrap())
            .collect();
        assert_eq!(
            frames,
            [
                vec![1],
                vec![2, 1],
                vec![3, 2, 1],
                vec![4, 3, 2],
                vec![5, 4, 3]
            ]
        );
    }

    #[test]
    fn each_packet_is_repeated_as_often_as_its_socket_wants() {
        let (mut sender, now) = (Sender::default(), Instant::now());
        let frames: Vec<_> = [2, 0, 1, 2, 0]
            .into_iter()
            .map(|copies| send(&mut sender, now, 100, copies).unwrap())
            .collect();
        assert_eq!(
            frames,
            [vec![1], vec![2, 1], vec![3, 1], vec![4, 3], vec![5, 4]]
        );
        assert_eq!(sender.held(), 100);
    }

    #[test]
    fn copies_that_do_not_fit_are_left_out_oldest_first() {
        let (mut sender, now) = (Sender::default(), Instant::now());
        assert_eq!(send(&mut sender, now, 500, 2), Some(vec![1]));
        assert_eq!(send(&mut sender, now, 400, 2), Some(vec![2, 1]));
        assert_eq!(send(&mut sender, now, 500, 2), Some(vec![3, 2]));
        // Too long for any frame: it is no part of the group.
        assert_eq!(send(&mut sender, now, 1195, 2), None);
        assert_eq!(send(&mut sender, now, 100, 2), Some(vec![4, 3, 2]));
    }

    #[test]
    fn what_is_kept_is_bounded_and_forgotten() {
        let (mut sender, now) = (Sender::default(), Instant::now());
        for _ in 0..100 {
            send(&mut sender, now, 1190, 8).unwrap();
            assert!(sender.held() <= MAX_HISTORY);
        }
        assert_eq!(sender.expires(), Some(now + HISTORY_TIME));
        sender.expire(now + HISTORY_TIME);
        assert_eq!((sender.held(), sender.expires()), (0, None));
        assert_eq!(
            send(&mut sender, now + HISTORY_TIME, 100, 2),
            Some(vec![101])
        );
    }

    #[test]
    fn without_room_packets_are_framed_and_not_kept() {
        let (mut sender, now) = (Sender::default(), Instant::now());
        let bytes = packet(100, 7);
        let ip = IpPacket::decode(&bytes, &Limits::WIDEST).unwrap();
        for _ in 0..3 {
            let mut out = Vec::new();
            assert!(sender.frame(now, &ip, 2, 99, &mut out));
            assert_eq!(out.len(), 106);
        }
        assert_eq!(sender.held(), 0);
    }
}
