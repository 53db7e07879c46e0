//! The way out: datagrams become packets of at most the path MTU on a bounded queue.

mod identification;
mod path_mtu;
mod pool;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Instant;

use identification::Identification;
pub(crate) use path_mtu::PathMtus;
use pool::Pool;

use crate::config::StackConfig;
use crate::ip::{Pair, checksum, protocol, v4, v6};

/// Largest IP payload that the length fields can express: IPv4's counts the header.
const MAX_PAYLOAD_V4: usize = 65_535 - v4::HEADER_LEN;
const MAX_PAYLOAD_V6: usize = 65_535;

/// A message of the upper layer and how it is to travel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outgoing<'a> {
    pub(crate) pair: Pair,
    pub(crate) protocol: u8,
    pub(crate) traffic_class: u8,
    pub(crate) hop_limit: u8,
    pub(crate) dont_fragment: bool,
    /// The upper layer's header, which for UDP and ICMP is 8 bytes; its checksum field is zero.
    pub(crate) head: [u8; 8],
    /// Where the checksum belongs in `head`.
    pub(crate) checksum_at: usize,
    pub(crate) body: &'a [u8],
}

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// Through the tunnel.
    Tunnel,
    /// To the stack itself, in one piece.
    Local,
}

/// The message does not fit; `max` is the largest body that does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLong {
    pub(crate) max: usize,
}

/// What egress counts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) packets: u64,
    pub(crate) local: u64,
    pub(crate) fragmented: u64,
    pub(crate) dropped: u64,
}

/// Buffers, queues and path MTUs.
#[derive(Debug)]
pub(crate) struct Egress {
    mtu: u16,
    pool: Pool,
    /// Each with the time at which it was queued.
    queue: VecDeque<(Instant, Vec<u8>)>,
    queue_limit: usize,
    /// Packets of the stack to itself. Each is taken out before control returns to the caller, and
    /// causes at most one other (an ICMP error about it), so this never holds more than one.
    local: VecDeque<Vec<u8>>,
    identification: Identification,
    pub(crate) paths: PathMtus,
    pub(crate) counters: Counters,
}

impl Egress {
    pub(crate) fn new(config: &StackConfig, seed: u64) -> Self {
        Self {
            mtu: config.mtu,
            pool: Pool::new(config.pool_buffers),
            queue: VecDeque::new(),
            queue_limit: config.transmit_packets,
            local: VecDeque::new(),
            identification: Identification::new(seed),
            paths: PathMtus::new(config.path_mtus),
            counters: Counters::default(),
        }
    }

    pub(crate) const fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Packets already queued keep their size.
    pub(crate) const fn set_mtu(&mut self, mtu: u16) {
        self.mtu = mtu;
    }

    pub(crate) fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.queue.pop_front().map(|(_, packet)| packet)
    }

    /// The first packet that is `wanted`, whatever waits before it.
    pub(crate) fn take(&mut self, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let place = self.queue.iter().position(|(_, packet)| wanted(packet))?;
        self.queue.remove(place).map(|(_, packet)| packet)
    }

    /// Drops packets queued before `limit` that are `stale`.
    pub(crate) fn discard(&mut self, limit: Instant, stale: impl Fn(&[u8]) -> bool) -> usize {
        let before = self.queue.len();
        let pool = &mut self.pool;
        self.queue.retain_mut(|(queued, packet)| {
            let keep = *queued >= limit || !stale(packet);
            if !keep {
                pool.put(std::mem::take(packet));
            }
            keep
        });
        before - self.queue.len()
    }

    pub(crate) fn poll_local(&mut self) -> Option<Vec<u8>> {
        self.local.pop_front()
    }

    pub(crate) fn recycle(&mut self, buffer: Vec<u8>) {
        self.pool.put(buffer);
    }

    pub(crate) fn queued(&self) -> usize {
        self.queue.len()
    }

    pub(crate) const fn pooled(&self) -> usize {
        self.pool.len()
    }

    /// Makes packets of `message` and queues them.
    pub(crate) fn send(
        &mut self,
        now: Instant,
        route: Route,
        message: &Outgoing<'_>,
    ) -> Result<(), TooLong> {
        let head_len = message.head.len();
        let len = head_len.saturating_add(message.body.len());
        let (ip_header, max_payload) = match message.pair {
            Pair::V4 { .. } => (v4::HEADER_LEN, MAX_PAYLOAD_V4),
            Pair::V6 { .. } => (v6::HEADER_LEN, MAX_PAYLOAD_V6),
        };
        if len > max_payload {
            return Err(TooLong {
                max: max_payload.saturating_sub(head_len),
            });
        }
        let room = match route {
            // A packet to ourselves meets no link, and no receiver that fragments would protect.
            Route::Local => max_payload,
            Route::Tunnel => {
                let path = self.path_mtu(now, message.pair.destination());
                usize::from(path).saturating_sub(ip_header)
            }
        };
        let mut head = message.head;
        let sum = checksum::of_message(&message.pair, message.protocol, &head, message.body);
        if let Some(field) = head
            .get_mut(message.checksum_at..)
            .and_then(<[u8]>::first_chunk_mut)
        {
            *field = sum.to_be_bytes();
        }
        if len <= room {
            let packet = self.whole(message, &head, len);
            self.push(now, route, packet);
            Ok(())
        } else if message.dont_fragment {
            Err(TooLong {
                max: room.saturating_sub(head_len),
            })
        } else {
            self.fragments(now, message, &head, len, room);
            Ok(())
        }
    }

    fn whole(&mut self, message: &Outgoing<'_>, head: &[u8], len: usize) -> Vec<u8> {
        // RFC 6864: without DF a router may cut an IPv4 packet, so it needs an identification.
        let identification = match message.pair {
            Pair::V4 { .. } if !message.dont_fragment => self.identification.next(&message.pair),
            Pair::V4 { .. } | Pair::V6 { .. } => 0,
        };
        let piece = Piece {
            identification,
            offset: 0,
            more: false,
            len: u16::try_from(len).unwrap_or(u16::MAX),
        };
        let mut packet = self.buffer(v6::HEADER_LEN + len);
        write_header(
            message,
            piece,
            message.dont_fragment,
            message.protocol,
            &mut packet,
        );
        packet.extend_from_slice(head);
        packet.extend_from_slice(message.body);
        packet
    }

    /// Cuts a message of `len` bytes into packets with `room` bytes after the IP header (RFC 791,
    /// section 3.2; RFC 8200, section 4.5).
    fn fragments(
        &mut self,
        now: Instant,
        message: &Outgoing<'_>,
        head: &[u8],
        len: usize,
        room: usize,
    ) {
        let identification = self.identification.next(&message.pair);
        let room = match message.pair {
            Pair::V4 { .. } => room,
            Pair::V6 { .. } => room.saturating_sub(v6::FRAGMENT_HEADER_LEN),
        };
        // The MTU's lower bound makes this at least 528.
        let step = (room & !7).max(8);
        self.counters.fragmented += 1;
        let mut start = 0;
        while start < len {
            let end = len.min(start.saturating_add(step));
            let piece = Piece {
                identification,
                offset: u16::try_from(start).unwrap_or(u16::MAX),
                more: end < len,
                len: u16::try_from(end.saturating_sub(start)).unwrap_or(u16::MAX),
            };
            let mut packet = self.piece_header(message, piece);
            // The message is head and body, one after the other.
            let split = head.len();
            packet.extend_from_slice(head.get(start.min(split)..end.min(split)).unwrap_or(&[]));
            let body = start.saturating_sub(split)..end.saturating_sub(split);
            packet.extend_from_slice(message.body.get(body).unwrap_or(&[]));
            self.push(now, Route::Tunnel, packet);
            start = end;
        }
    }

    fn piece_header(&mut self, message: &Outgoing<'_>, piece: Piece) -> Vec<u8> {
        let mut packet = self.buffer(usize::from(self.mtu));
        match message.pair {
            Pair::V4 { .. } => write_header(message, piece, false, message.protocol, &mut packet),
            Pair::V6 { .. } => {
                let whole = Piece {
                    len: piece.len.saturating_add(8),
                    ..piece
                };
                write_header(message, whole, false, protocol::FRAGMENT, &mut packet);
                packet.extend_from_slice(&v6::fragment_header(
                    message.protocol,
                    piece.identification,
                    piece.offset,
                    piece.more,
                ));
            }
        }
        packet
    }

    /// The largest packet known to pass to `destination`.
    pub(crate) fn path_mtu(&mut self, now: Instant, destination: IpAddr) -> u16 {
        self.paths.lookup(now, destination, self.mtu)
    }

    /// A buffer with room for `len` bytes, and for any other packet of the tunnel when it is used
    /// again.
    pub(crate) fn buffer(&mut self, len: usize) -> Vec<u8> {
        self.pool.take(len.max(usize::from(self.mtu)))
    }

    fn push(&mut self, now: Instant, route: Route, packet: Vec<u8>) {
        match route {
            Route::Local => {
                self.counters.local += 1;
                self.local.push_back(packet);
            }
            Route::Tunnel => {
                if self.queue.len() >= self.queue_limit {
                    if let Some((_, oldest)) = self.queue.pop_front() {
                        self.pool.put(oldest);
                    }
                    self.counters.dropped += 1;
                }
                self.counters.packets += 1;
                self.queue.push_back((now, packet));
            }
        }
    }
}

/// One fragment's place. Lengths fit 16 bits because a whole message does.
#[derive(Clone, Copy, Debug)]
struct Piece {
    identification: u32,
    offset: u16,
    more: bool,
    len: u16,
}

/// The IP header of `piece`, in which `next` follows. IPv6 tells of pieces elsewhere.
fn write_header(
    message: &Outgoing<'_>,
    piece: Piece,
    dont_fragment: bool,
    next: u8,
    packet: &mut Vec<u8>,
) {
    match message.pair {
        Pair::V4 {
            source,
            destination,
        } => {
            let header = v4::Header {
                source,
                destination,
                traffic_class: message.traffic_class,
                hop_limit: message.hop_limit,
                protocol: next,
                dont_fragment,
                identification: lower_half(piece.identification),
                offset: piece.offset,
                more: piece.more,
                payload_len: piece.len,
            };
            packet.extend_from_slice(&header.to_bytes());
        }
        Pair::V6 {
            source,
            destination,
        } => {
            let header = v6::Header {
                source,
                destination,
                traffic_class: message.traffic_class,
                hop_limit: message.hop_limit,
                protocol: next,
                payload_len: piece.len,
            };
            packet.extend_from_slice(&header.to_bytes());
        }
    }
}

fn lower_half(value: u32) -> u16 {
    let [.., high, low] = value.to_be_bytes();
    u16::from_be_bytes([high, low])
}
