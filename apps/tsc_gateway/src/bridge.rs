//! Packets between the device and a tunnel.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use tokio::task::coop::consume_budget;
use tsc_tapi::{
    PacketBatch, PacketSocket, PacketStats, Prefix, Tunnel,
    tun::{TunBatch, TunQueue},
};

use crate::{
    device::{Device, dropped_by_kernel},
    icmp::{Complaint, answer},
    report::Summary,
};

/// Errors (ICMP) sent to the LAN in a second, as RFC 1812, section 4.3.2.8, wants them limited.
pub const ANSWERS_PER_SECOND: u32 = 100;

/// Why forwarding ended.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// The device is gone.
    #[error("the TUN device is gone: {0}")]
    Device(io::Error),
    /// The tunnel or its prefixes are.
    #[error(transparent)]
    Tunnel(io::Error),
}

/// The device and all memory that forwarding takes. It outlives tunnels.
#[derive(Debug)]
pub struct Bridge {
    name: String,
    mtu: u16,
    queue: TunQueue,
    from_lan: TunBatch,
    from_tunnel: PacketBatch,
    to_lan: TunBatch,
    answers: Answers,
    counters: Summary,
}

/// What is said to the LAN, and how much of it yet in this second.
#[derive(Debug, Default)]
struct Answers {
    scratch: Vec<u8>,
    second: Option<Instant>,
    sent: u32,
}

impl Answers {
    /// Puts the error about `packet` into `out`, if there is to be one.
    fn give(&mut self, packet: &[u8], complaint: Complaint, out: &mut TunBatch) {
        let now = Instant::now();
        let over = |start| now.duration_since(start) >= Duration::from_secs(1);
        if self.second.is_none_or(over) {
            self.second = Some(now);
            self.sent = 0;
        }
        self.scratch.clear();
        if self.sent < ANSWERS_PER_SECOND
            && answer(packet, complaint, &mut self.scratch)
            && out.push(&self.scratch)
        {
            self.sent += 1;
        }
    }
}

impl Bridge {
    /// Takes the device over.
    #[must_use]
    pub fn new(device: Device) -> Self {
        Self {
            name: device.name,
            mtu: device.mtu,
            queue: device.queue,
            from_lan: TunBatch::default(),
            from_tunnel: PacketBatch::new(),
            to_lan: TunBatch::default(),
            answers: Answers::default(),
            counters: Summary::default(),
        }
    }

    /// Name of the device.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Longest packet of the device.
    #[must_use]
    pub const fn mtu(&self) -> u16 {
        self.mtu
    }

    /// The counters now.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let mut summary = self.counters;
        let stats = self.queue.stats();
        summary.dropped.device_full = stats.dropped + stats.refused;
        // Zero if the device is gone, and its counters with it.
        summary.dropped.by_kernel = dropped_by_kernel(&self.name).unwrap_or_default();
        summary
    }

    /// Adds what a socket counted. Once, when nothing is forwarded through it any more.
    pub const fn account(&mut self, stats: &PacketStats) {
        let dropped = &mut self.counters.dropped;
        dropped.malformed += stats.malformed;
        dropped.wrong_source += stats.wrong_source;
        dropped.tunnel_full += stats.dropped_outbound;
        dropped.not_read += stats.dropped_inbound;
    }

    /// Forwards until the device or the tunnel fails. Safe to drop: no packet is lost that was not dropped on purpose.
    pub async fn forward(&mut self, tunnel: &Tunnel, socket: &PacketSocket) -> BridgeError {
        loop {
            // A direction that is never idle leaves others their turn.
            consume_budget().await;
            let done = tokio::select! {
                packets = self.queue.recv(&mut self.from_lan) => match packets {
                    Ok(_) => self.send(tunnel, socket),
                    Err(error) => Err(BridgeError::Device(error)),
                },
                packets = socket.recv_batch(&mut self.from_tunnel) => match packets {
                    Ok(_) => self.deliver(),
                    Err(error) => Err(BridgeError::Tunnel(error)),
                },
            };
            if let Err(error) = done {
                return error;
            }
        }
    }

    /// Drops what comes from the LAN while there is no tunnel, and says so to its hosts, until the device fails.
    pub async fn discard(&mut self) -> io::Error {
        loop {
            consume_budget().await;
            if let Err(error) = self.queue.recv(&mut self.from_lan).await {
                return error;
            }
            for packet in self.from_lan.iter() {
                self.counters.dropped.no_tunnel += 1;
                self.answers
                    .give(packet, Complaint::NoRoute, &mut self.to_lan);
            }
            if let Err(BridgeError::Device(error) | BridgeError::Tunnel(error)) = self.flush() {
                return error;
            }
        }
    }

    /// To the core.
    fn send(&mut self, tunnel: &Tunnel, socket: &PacketSocket) -> Result<(), BridgeError> {
        // It may have changed with a resume.
        let mtu = tunnel.config().inner_mtu;
        let prefixes = socket.prefixes();
        let (counters, mut bytes) = (&mut self.counters, 0);
        let passing = self.from_lan.iter().filter(|packet| {
            let verdict = judge(packet, prefixes, mtu);
            let counter = match verdict {
                Verdict::Pass => &mut bytes,
                Verdict::WrongSource => &mut counters.dropped.wrong_source,
                Verdict::WrongDestination => &mut counters.dropped.wrong_destination,
                Verdict::TooLong => {
                    let complaint = Complaint::TooBig { mtu };
                    self.answers.give(packet, complaint, &mut self.to_lan);
                    &mut counters.dropped.too_long
                }
                Verdict::Malformed => &mut counters.dropped.malformed,
            };
            let passes = verdict == Verdict::Pass;
            *counter += if passes { packet.len() as u64 } else { 1 };
            passes
        });
        let taken = socket.send_batch(passing).map_err(BridgeError::Tunnel)?;
        self.counters.to_core += taken as u64;
        self.counters.bytes_to_core += bytes;
        if self.to_lan.is_empty() {
            return Ok(());
        }
        self.flush().map(|_| ())
    }

    /// To the LAN.
    fn deliver(&mut self) -> Result<(), BridgeError> {
        let mut bytes = 0;
        for packet in self.from_tunnel.iter() {
            if !self.to_lan.push(packet) {
                self.counters.to_lan += flush(&mut self.queue, &mut self.to_lan)?;
                // An empty batch takes any packet.
                let _ = self.to_lan.push(packet);
            }
            bytes += packet.len() as u64;
        }
        self.counters.to_lan += self.flush()?;
        self.counters.bytes_to_lan += bytes;
        Ok(())
    }

    fn flush(&mut self) -> Result<u64, BridgeError> {
        flush(&mut self.queue, &mut self.to_lan)
    }
}

/// Hands `batch` to the kernel, and says how many packets it took.
fn flush(queue: &mut TunQueue, batch: &mut TunBatch) -> Result<u64, BridgeError> {
    let taken = queue.try_send(batch).map_err(BridgeError::Device);
    batch.clear();
    Ok(taken? as u64)
}

/// What becomes of a packet of the LAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Pass,
    /// The server would drop it.
    WrongSource,
    /// The server would send it back to us, and we to it.
    WrongDestination,
    TooLong,
    Malformed,
}

fn judge(packet: &[u8], prefixes: &[Prefix], mtu: u16) -> Verdict {
    let Some((source, destination)) = addresses(packet) else {
        return Verdict::Malformed;
    };
    if !prefixes.iter().any(|prefix| prefix.has_host(source)) {
        Verdict::WrongSource
    } else if prefixes.iter().any(|prefix| prefix.contains(destination)) {
        Verdict::WrongDestination
    } else if packet.len() > usize::from(mtu) {
        Verdict::TooLong
    } else {
        Verdict::Pass
    }
}

/// Source and destination; all else is the socket's to check.
fn addresses(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match packet.first()? >> 4 {
        4 => {
            let (source, rest) = packet.get(12..)?.split_first_chunk::<4>()?;
            let destination = rest.first_chunk::<4>()?;
            let ip = |bytes: &[u8; 4]| IpAddr::V4(Ipv4Addr::from(*bytes));
            Some((ip(source), ip(destination)))
        }
        6 => {
            let (source, rest) = packet.get(8..)?.split_first_chunk::<16>()?;
            let destination = rest.first_chunk::<16>()?;
            let ip = |bytes: &[u8; 16]| IpAddr::V6(Ipv6Addr::from(*bytes));
            Some((ip(source), ip(destination)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    fn udp(source: &str, destination: &str, length: usize) -> Vec<u8> {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let builder = match (ip(source), ip(destination)) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                PacketBuilder::ipv4(from.octets(), to.octets(), 9)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                PacketBuilder::ipv6(from.octets(), to.octets(), 9)
            }
            _ => panic!("{source} {destination}"),
        };
        let mut packet = Vec::new();
        let data = vec![0; length];
        builder.udp(1, 2).write(&mut packet, &data).unwrap();
        packet
    }

    #[test]
    fn each_packet_gets_its_verdict() {
        let prefixes: Vec<Prefix> = ["192.0.2.0/24", "2001:db8:1::/64"]
            .map(|text| text.parse().unwrap())
            .into();
        for (source, destination, length, verdict) in [
            ("192.0.2.17", "10.0.0.1", 1372, Verdict::Pass),
            ("192.0.2.17", "10.0.0.1", 1373, Verdict::TooLong),
            ("192.0.3.17", "10.0.0.1", 1, Verdict::WrongSource),
            ("192.0.2.255", "10.0.0.1", 1, Verdict::WrongSource),
            ("192.0.2.17", "192.0.2.99", 1, Verdict::WrongDestination),
            ("2001:db8:1::9", "fd00::1", 1352, Verdict::Pass),
            ("2001:db8:1::9", "fd00::1", 1353, Verdict::TooLong),
            ("fe80::1", "fd00::1", 1, Verdict::WrongSource),
            (
                "2001:db8:1::9",
                "2001:db8:1::1",
                1,
                Verdict::WrongDestination,
            ),
        ] {
            let packet = udp(source, destination, length);
            let got = judge(&packet, &prefixes, 1400);
            assert_eq!(got, verdict, "{source} {destination} {length}");
        }
        for packet in [&b""[..], b"\x45", &[0x45; 19], &[0x60; 39], &[0; 60]] {
            assert_eq!(judge(packet, &prefixes, 1400), Verdict::Malformed);
        }
    }

    #[test]
    fn answers_are_limited() {
        let (mut answers, mut out) = (Answers::default(), TunBatch::default());
        let packet = udp("192.0.2.17", "10.0.0.1", 1);
        for _ in 0..2 * ANSWERS_PER_SECOND {
            answers.give(&packet, Complaint::NoRoute, &mut out);
            // The clock does not matter here.
            answers.second = Some(Instant::now());
        }
        assert_eq!(out.len(), ANSWERS_PER_SECOND as usize);
        answers.second = Instant::now().checked_sub(Duration::from_secs(1));
        answers.give(&packet, Complaint::NoRoute, &mut out);
        assert_eq!(out.len(), ANSWERS_PER_SECOND as usize + 1);
    }
}
