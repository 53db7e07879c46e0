//! Which units go first.

/// What a unit is to a send queue. Classes are sent in this order; within a class, and so within a flow, nothing
/// overtakes.
///
/// A unit's class is told by the unit alone ([`Self::of`]), so both ends agree without being told. `docs/queues.md` has
/// the reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UnitClass {
    /// Control messages of the tunnel, and whatever is no IP packet. Never dropped, refused when there are too many.
    Control,
    /// SIP, DNS and what is marked as signalling. Not dropped for its age, refused when there is too much.
    Signalling,
    /// Media: worthless when it is late. The oldest is dropped.
    RealTime,
    /// All else, above all TCP, which adapts its rate to losses.
    Bulk,
}

const UDP: u8 = 17;
const TCP: u8 = 6;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// SIP without and with TLS (RFC 3261 18.1.1), DNS.
const SIGNALLING_PORTS: [u16; 3] = [5060, 5061, 53];

impl UnitClass {
    /// By the inner code point (RFC 2474, RFC 4594) if it says what the packet is, otherwise by protocol and port. A
    /// few byte comparisons; no checksum and no length is looked at.
    #[must_use]
    pub fn of(unit: &[u8]) -> Self {
        match unit {
            [
                version @ 0x45..=0x4F,
                tos,
                _,
                _,
                _,
                _,
                flags,
                offset,
                _,
                protocol,
                ..,
            ] if unit.len() >= 20 => {
                let header = usize::from(version & 0x0F) * 4;
                let is_whole = flags & 0x3F == 0 && *offset == 0;
                Self::marked(tos >> 2)
                    .unwrap_or_else(|| Self::carried(*protocol, unit.get(header..), is_whole))
            }
            [high @ 0x60..=0x6F, low, _, _, _, _, next, ..] if unit.len() >= 40 => {
                let dscp = (high & 0x0F) << 2 | low >> 6;
                Self::marked(dscp).unwrap_or_else(|| Self::carried(*next, unit.get(40..), true))
            }
            _ => Self::Control,
        }
    }

    /// What a code point says; `None` for best effort, and for those that say nothing about delay.
    const fn marked(dscp: u8) -> Option<Self> {
        match dscp {
            // CS3, CS5 (signalling in practice and in RFC 4594), CS6 and CS7 (routing).
            24 | 40 | 48 | 56 => Some(Self::Signalling),
            // CS4, AF4x, VOICE-ADMIT, EF.
            32 | 34 | 36 | 38 | 44 | 46 => Some(Self::RealTime),
            // CS1 and LE: less than best effort.
            8 | 1 => Some(Self::Bulk),
            _ => None,
        }
    }

    /// Of a packet without a mark.
    fn carried(protocol: u8, payload: Option<&[u8]>, is_whole: bool) -> Self {
        let ports = match payload {
            Some([a, b, c, d, ..]) if is_whole => {
                Some([u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])])
            }
            _ => None,
        };
        let signals =
            || ports.is_some_and(|ports| ports.iter().any(|port| SIGNALLING_PORTS.contains(port)));
        match protocol {
            UDP | TCP if signals() => Self::Signalling,
            // Fragments have no ports, and media is not fragmented.
            UDP if is_whole => Self::RealTime,
            ICMP | ICMPV6 => Self::RealTime,
            _ => Self::Bulk,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(tos: u8, protocol: u8, ports: [u16; 2], fragment: u16) -> Vec<u8> {
        let mut packet = vec![0; 28];
        packet[0] = 0x45;
        packet[1] = tos;
        packet[6..8].copy_from_slice(&fragment.to_be_bytes());
        packet[9] = protocol;
        packet[20..22].copy_from_slice(&ports[0].to_be_bytes());
        packet[22..24].copy_from_slice(&ports[1].to_be_bytes());
        packet
    }

    fn v6(dscp: u8, next: u8, ports: [u16; 2]) -> Vec<u8> {
        let mut packet = vec![0; 48];
        packet[0] = 0x60 | dscp >> 2;
        packet[1] = dscp << 6;
        packet[6] = next;
        packet[40..42].copy_from_slice(&ports[0].to_be_bytes());
        packet[42..44].copy_from_slice(&ports[1].to_be_bytes());
        packet
    }

    #[test]
    fn what_is_no_packet_is_control() {
        for unit in [
            &b""[..],
            &[0x10, 1, 0, 0],
            &[0x1C; 30],
            &[0x45; 19],
            &[0x60; 39],
        ] {
            assert_eq!(UnitClass::of(unit), UnitClass::Control, "{unit:x?}");
        }
    }

    #[test]
    fn marks_come_before_protocols() {
        for (dscp, class) in [
            (46, UnitClass::RealTime),
            (34, UnitClass::RealTime),
            (40, UnitClass::Signalling),
            (24, UnitClass::Signalling),
            (8, UnitClass::Bulk),
        ] {
            for protocol in [TCP, UDP, 50] {
                let ports = [40_000, 5060];
                assert_eq!(UnitClass::of(&v4(dscp << 2, protocol, ports, 0)), class);
                assert_eq!(UnitClass::of(&v6(dscp, protocol, ports)), class);
            }
        }
    }

    #[test]
    fn without_marks_protocols_and_ports_decide() {
        // Best effort, with ECN bits, and a mark that says nothing about delay (AF11).
        for tos in [0, 3, 10 << 2] {
            for (protocol, ports, class) in [
                (UDP, [4000, 5004], UnitClass::RealTime),
                (UDP, [4000, 5060], UnitClass::Signalling),
                (TCP, [5061, 4000], UnitClass::Signalling),
                (UDP, [53, 4000], UnitClass::Signalling),
                (TCP, [4000, 80], UnitClass::Bulk),
                (50, [4000, 5060], UnitClass::Bulk),
            ] {
                assert_eq!(UnitClass::of(&v4(tos, protocol, ports, 0)), class);
                assert_eq!(UnitClass::of(&v6(tos >> 2, protocol, ports)), class);
            }
        }
        // "Don't fragment" is no fragment; the first and a later one are.
        assert_eq!(
            UnitClass::of(&v4(0, UDP, [1, 2], 0x4000)),
            UnitClass::RealTime
        );
        assert_eq!(
            UnitClass::of(&v4(0, UDP, [1, 5060], 0x2000)),
            UnitClass::Bulk
        );
        assert_eq!(
            UnitClass::of(&v4(0, UDP, [1, 5060], 0x00B9)),
            UnitClass::Bulk
        );
        // A header that is longer than the packet has no ports.
        let mut cut = v4(0, TCP, [1, 5060], 0);
        cut[0] = 0x4F;
        assert_eq!(UnitClass::of(&cut), UnitClass::Bulk);
    }
}
