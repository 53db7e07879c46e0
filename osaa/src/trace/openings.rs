//! Handshakes of DTLS associations, to be repeated at the beginning of each file of a ring: a record of DTLS says its number, so that with the
//! handshake and its secrets each file can be read by itself. (TLS counts its records: who has missed some cannot read the others.)

use std::collections::VecDeque;

use super::{Packet, secrets::Live};

/// Packets of one handshake: its flights, some of them repeated.
const MAX_PACKETS: usize = 16;

/// A longer one is of no handshake that keeps to what networks carry; with it all of them together have a bound of 32 MiB.
const MAX_PACKET: usize = 2048;

/// Handshakes, of which one may fail or be anybody's.
const MAX_HANDSHAKES: usize = super::MAX_LIVE_CONNECTIONS;

/// An IP header, then that of UDP.
const UDP: u8 = 17;
const UDP_HEADER: usize = 8;

/// DTLS records (RFC 6347): type, version, epoch, number, length.
const RECORD_HEADER: usize = 13;
const CHANGE_CIPHER_SPEC: u8 = 20;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// From the beginning of a handshake message: type, length, number, fragment, and in a hello the version.
const RANDOM: usize = 14;

#[derive(Default)]
pub(super) struct Openings(VecDeque<Opening>);

struct Opening {
    /// Addresses and ports of the client and the server.
    ends: Ends,
    random: [u8; 32],
    packets: Vec<Packet>,
}

/// Of who sends and who receives: address and port.
type Ends = [([u8; 16], [u8; 2]); 2];

impl Openings {
    /// Keeps an outer packet if it belongs to a handshake.
    pub(super) fn note(&mut self, packet: &Packet) {
        let Some((ends, payload)) = udp(&packet.bytes) else {
            return;
        };
        if packet.bytes.len() > MAX_PACKET || !begins_in_clear(payload) {
            return;
        }
        let [from, to] = ends;
        if let Some(random) = client_random(payload) {
            // With a cookie the hello comes twice; without one it is another handshake.
            let is_known = |of: &Opening| of.ends == ends && of.random == random;
            if !self.0.iter().any(is_known) {
                self.0.retain(|of| of.ends != ends);
                if self.0.len() == MAX_HANDSHAKES {
                    self.0.pop_front();
                }
                self.0.push_back(Opening {
                    ends,
                    random,
                    packets: Vec::new(),
                });
            }
        }
        let of = |of: &&mut Opening| of.ends == ends || of.ends == [to, from];
        if let Some(opening) = self.0.iter_mut().find(of)
            && opening.packets.len() < MAX_PACKETS
        {
            opening.packets.push(packet.clone());
        }
    }

    /// The packets of those whose secrets are there, in the order in which they were captured; forgets the others, but for the newest, whose
    /// handshake may not be over.
    pub(super) fn of(&mut self, live: &Live) -> Vec<Packet> {
        let known = live.randoms();
        let newest = self.0.back().map(|opening| opening.random);
        self.0
            .retain(|of| known.contains(&of.random) || Some(of.random) == newest);
        let mut packets: Vec<Packet> = self
            .0
            .iter()
            .filter(|of| known.contains(&of.random))
            .flat_map(|of| of.packets.iter().cloned())
            .collect();
        packets.sort_by_key(|packet| packet.at);
        packets
    }
}

/// Who sent a datagram to whom, and its payload.
fn udp(packet: &[u8]) -> Option<(Ends, &[u8])> {
    let address = |from: usize, len: usize| {
        let mut address = [0; 16];
        for (to, from) in address.iter_mut().zip(packet.get(from..from + len)?) {
            *to = *from;
        }
        Some(address)
    };
    let (protocol, source, destination, upper) = match packet.first()? >> 4 {
        4 => (packet.get(9)?, address(12, 4)?, address(16, 4)?, 20),
        _ => (packet.get(6)?, address(8, 16)?, address(24, 16)?, 40),
    };
    if *protocol != UDP {
        return None;
    }
    let (header, payload) = packet.get(upper..)?.split_at_checked(UDP_HEADER)?;
    let [a, b, c, d, ..] = *header else {
        return None;
    };
    Some(([(source, [a, b]), (destination, [c, d])], payload))
}

/// Whether the first record is of a handshake before there are keys; what follows it may have some.
fn begins_in_clear(payload: &[u8]) -> bool {
    matches!(payload, [CHANGE_CIPHER_SPEC | HANDSHAKE, 0xFE, _, 0, 0, ..])
}

fn client_random(payload: &[u8]) -> Option<[u8; 32]> {
    let message = payload.get(RECORD_HEADER..)?;
    if *payload.first()? != HANDSHAKE || *message.first()? != CLIENT_HELLO {
        return None;
    }
    message.get(RANDOM..)?.first_chunk().copied()
}
