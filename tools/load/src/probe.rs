//! What each packet of the load carries, and the inner IPv4 and UDP headers around it.

use std::net::SocketAddrV4;

/// Bytes of the probe; the rest of a payload is zero.
pub const PROBE_LEN: usize = 32;

/// IPv4 and UDP headers of an inner packet.
pub const HEADERS_LEN: usize = 28;

/// "TSCL"
const MAGIC: [u8; 4] = [0x54, 0x53, 0x43, 0x4c];

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// From the caller.
    Request,
    /// Sent back by the callee or a reflector.
    Echo,
}

/// The probe: who sent the packet when, and when it was sent back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Which way it goes.
    pub kind: Kind,
    /// Number of the measurement it counts for.
    pub window: u16,
    /// Number of the flow (call).
    pub flow: u32,
    /// Number of the packet within the flow.
    pub sequence: u32,
    /// When it was to be sent, which is before it was sent if the generator was late.
    pub due_ns: u64,
    /// When it was sent back; 0 in a request.
    pub echoed_ns: u64,
}

impl Probe {
    /// The probe at the front of a payload; `None` if it is something else.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let (magic, rest) = payload.split_first_chunk::<4>()?;
        if *magic != MAGIC {
            return None;
        }
        let (&[kind, _], rest) = rest.split_first_chunk::<2>()?;
        let (window, rest) = rest.split_first_chunk::<2>()?;
        let (flow, rest) = rest.split_first_chunk::<4>()?;
        let (sequence, rest) = rest.split_first_chunk::<4>()?;
        let (due, rest) = rest.split_first_chunk::<8>()?;
        let (echoed, _) = rest.split_first_chunk::<8>()?;
        Some(Self {
            kind: match kind {
                1 => Kind::Request,
                2 => Kind::Echo,
                _ => return None,
            },
            window: u16::from_be_bytes(*window),
            flow: u32::from_be_bytes(*flow),
            sequence: u32::from_be_bytes(*sequence),
            due_ns: u64::from_be_bytes(*due),
            echoed_ns: u64::from_be_bytes(*echoed),
        })
    }

    /// The probe's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; PROBE_LEN] {
        let mut bytes = [0; PROBE_LEN];
        let kind = match self.kind {
            Kind::Request => 1,
            Kind::Echo => 2,
        };
        let fields: [&[u8]; 7] = [
            &MAGIC,
            &[kind, 0],
            &self.window.to_be_bytes(),
            &self.flow.to_be_bytes(),
            &self.sequence.to_be_bytes(),
            &self.due_ns.to_be_bytes(),
            &self.echoed_ns.to_be_bytes(),
        ];
        let mut room = bytes.as_mut_slice();
        for field in fields {
            let Some((to, rest)) = room.split_at_mut_checked(field.len()) else {
                break;
            };
            to.copy_from_slice(field);
            room = rest;
        }
        bytes
    }

    /// The same probe on its way back.
    #[must_use]
    pub const fn echo(&self, now_ns: u64) -> Self {
        Self {
            kind: Kind::Echo,
            echoed_ns: now_ns,
            ..*self
        }
    }

    /// Turns a request at the front of a datagram into its echo in place; `false` if it is none.
    pub fn reflect(payload: &mut [u8], now_ns: u64) -> bool {
        let Some(probe) = Self::decode(payload).filter(|probe| probe.kind == Kind::Request) else {
            return false;
        };
        if let Some(to) = payload.first_chunk_mut::<PROBE_LEN>() {
            *to = probe.echo(now_ns).encode();
        }
        true
    }
}

/// IPv4 and UDP headers for a packet of `size` bytes in all. The UDP checksum is 0, "none": nobody between the ends has to
/// look at it, so that it would only cost the generator time.
#[must_use]
pub fn headers(from: SocketAddrV4, to: SocketAddrV4, size: u16) -> [u8; HEADERS_LEN] {
    let udp_len = size.saturating_sub(20);
    let [s0, s1] = size.to_be_bytes();
    let [u0, u1] = udp_len.to_be_bytes();
    let [a0, a1, a2, a3] = from.ip().octets();
    let [b0, b1, b2, b3] = to.ip().octets();
    let [p0, p1] = from.port().to_be_bytes();
    let [q0, q1] = to.port().to_be_bytes();
    // DF, 64 hops, UDP; 0xB8 is DSCP 46 (EF), as media have.
    let mut bytes = [
        0x45, 0xb8, s0, s1, 0, 0, 0x40, 0, 64, 17, 0, 0, a0, a1, a2, a3, b0, b1, b2, b3, p0, p1,
        q0, q1, u0, u1, 0, 0,
    ];
    let sum: u32 = bytes
        .chunks_exact(2)
        .take(10)
        .filter_map(|pair| pair.first_chunk::<2>())
        .map(|pair| u32::from(u16::from_be_bytes(*pair)))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    let [.., c0, c1] = (!folded).to_be_bytes();
    if let Some(room) = bytes.get_mut(10..12) {
        room.copy_from_slice(&[c0, c1]);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tsc_tpl::{IpPacket, Limits};

    use super::*;

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            window: u16, flow: u32, sequence: u32, due_ns: u64, echoed_ns: u64, echo: bool,
        ) {
            let kind = if echo { Kind::Echo } else { Kind::Request };
            let probe = Probe { kind, window, flow, sequence, due_ns, echoed_ns };
            prop_assert_eq!(Probe::decode(&probe.encode()), Some(probe));
        }

        #[test]
        fn anything_may_come(bytes: Vec<u8>) {
            let mut bytes = bytes;
            let known = Probe::decode(&bytes).is_some_and(|probe| probe.kind == Kind::Request);
            prop_assert_eq!(Probe::reflect(&mut bytes, 7), known);
        }
    }

    #[test]
    fn echoes_are_not_reflected_again() {
        let probe = Probe {
            kind: Kind::Request,
            window: 1,
            flow: 2,
            sequence: 3,
            due_ns: 4,
            echoed_ns: 0,
        };
        let mut bytes = [probe.encode().as_slice(), &[0; 9]].concat();
        assert!(Probe::reflect(&mut bytes, 99));
        assert_eq!(Probe::decode(&bytes), Some(probe.echo(99)));
        assert!(!Probe::reflect(&mut bytes, 100));
    }

    #[test]
    fn headers_are_those_of_a_udp_packet() {
        let from = "10.64.0.1:4000".parse().unwrap();
        let to = "10.64.0.2:5000".parse().unwrap();
        let mut packet = headers(from, to, 200).to_vec();
        packet.resize(200, 0);
        let decoded = IpPacket::decode(&packet, &Limits::default()).unwrap();
        assert_eq!(decoded.ports(), Some((4000, 5000)));
        assert_eq!(decoded.payload().map(<[u8]>::len), Some(180));
        assert_eq!(decoded.dscp(), 46);
        let sum: u32 = packet[..20]
            .chunks(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "header checksum");
    }
}
