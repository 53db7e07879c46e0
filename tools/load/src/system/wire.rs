//! Bytes on the wire, as the system counts them on a network device.

use std::fs;
use std::io;

/// What a device has passed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WireCount {
    /// IP packets.
    pub packets: u64,
    /// Their bytes, IP headers included.
    pub bytes: u64,
}

/// Bytes of a TCP segment that only acknowledges, without options.
const BARE_SEGMENT: f64 = 40.0;

/// What a tunnel adds to each packet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Added {
    /// Bytes, without those of further packets.
    pub bytes: f64,
    /// Further packets, which count 40 bytes: acknowledgements of TCP, and a few keepalives.
    pub packets: f64,
}

/// A device that a relayed packet passes: how often as part of the tunnel under test, and how often bare.
#[derive(Clone, Debug)]
pub struct Wire {
    /// Where the counters are.
    file: String,
    device: String,
    /// Bytes before the IP header that are counted with each packet.
    link_header: u64,
    /// Whether what is received counts, besides what is sent: on loopback both are the same packets.
    is_two_way: bool,
    legs: u32,
    bare: u32,
}

impl Wire {
    /// The loopback device of this process: each relayed packet passes it so many times in its tunnel, and so many
    /// times as a bare UDP packet.
    #[must_use]
    pub fn loopback(legs: u32, bare: u32) -> Self {
        Self {
            file: "/proc/thread-self/net/dev".to_owned(),
            device: "lo".to_owned(),
            link_header: 0,
            is_two_way: false,
            legs,
            bare,
        }
    }

    /// An Ethernet device that only the tunnel under test uses, where the process `pid` is.
    #[must_use]
    pub fn cable(pid: u32, device: &str) -> Self {
        Self {
            file: format!("/proc/{pid}/net/dev"),
            device: device.to_owned(),
            link_header: 14,
            is_two_way: true,
            legs: 1,
            bare: 0,
        }
    }

    /// What has passed so far.
    ///
    /// # Errors
    ///
    /// The counters cannot be read.
    pub fn count(&self) -> io::Result<WireCount> {
        let text = fs::read_to_string(&self.file)?;
        let counters = parse(&text, &self.device).ok_or(io::ErrorKind::InvalidData)?;
        let [received, sent] = counters;
        let packets = sent.packets + if self.is_two_way { received.packets } else { 0 };
        let bytes = sent.bytes + if self.is_two_way { received.bytes } else { 0 };
        Ok(WireCount {
            packets,
            bytes: bytes.saturating_sub(packets * self.link_header),
        })
    }

    /// What a tunnel adds to an inner packet of `size` bytes each time it is on the wire, if `relayed` of them made the device
    /// count `passed`.
    #[must_use]
    pub fn added(&self, passed: WireCount, relayed: u64, size: u16) -> Option<Added> {
        let relayed = Some(relayed).filter(|relayed| *relayed > 0)?;
        let crossings = u64::from(self.legs + self.bare) * relayed;
        let more = passed.packets.saturating_sub(crossings) as f64;
        let bare = f64::from(self.bare) * f64::from(size) * relayed as f64;
        let tunnelled = f64::from(self.legs) * relayed as f64;
        Some(Added {
            bytes: (passed.bytes as f64 - bare - more * BARE_SEGMENT) / tunnelled - f64::from(size),
            packets: more / tunnelled,
        })
    }
}

/// What a device has received and sent, out of `/proc/net/dev`.
fn parse(text: &str, device: &str) -> Option<[WireCount; 2]> {
    let line = text
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(device)?.strip_prefix(':'))?;
    let numbers: Vec<u64> = line
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let count = |at: usize| {
        Some(WireCount {
            bytes: *numbers.get(at)?,
            packets: *numbers.get(at + 1)?,
        })
    };
    Some([count(0)?, count(8)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 1000      10    0    0    0     0          0         0     2000      20    0    0    0     0       0          0
   lo2: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16
";

    #[test]
    fn counters_are_found() {
        let [received, sent] = parse(TEXT, "lo").unwrap();
        assert_eq!((received.bytes, received.packets), (1000, 10));
        assert_eq!((sent.bytes, sent.packets), (2000, 20));
        assert_eq!(parse(TEXT, "l"), None);
        assert!(Wire::loopback(1, 1).count().is_ok());
    }

    #[test]
    fn a_tunnel_adds_what_is_not_the_packet() {
        let passed = WireCount {
            packets: 20,
            bytes: 10 * (200 + 204),
        };
        let added = |bytes, packets| Some(Added { bytes, packets });
        assert_eq!(Wire::loopback(1, 1).added(passed, 10, 200), added(4.0, 0.0));
        let passed = WireCount {
            packets: 20 + 5,
            bytes: 20 * 240 + 5 * 40,
        };
        assert_eq!(
            Wire::loopback(2, 0).added(passed, 10, 200),
            added(40.0, 0.25)
        );
        assert_eq!(Wire::loopback(2, 0).added(passed, 0, 200), None);
    }
}
