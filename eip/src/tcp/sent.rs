//! Segments that smoltcp has made: what they say, and the two fields in which it errs.

use smoltcp::wire::TcpPacket;

use super::segment::{from_smoltcp, to_smoltcp};
use super::seq::{Seq, length};
use crate::ip::{v4, v6};

/// The fields of a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) start: Seq,
    /// First sequence number after the segment.
    pub(super) end: Seq,
    pub(super) ack: Option<Seq>,
    pub(super) window: u16,
    pub(super) syn: bool,
    pub(super) rst: bool,
}

impl Sent {
    /// Reads a packet without options or extension headers between IP and TCP.
    pub(super) fn parse(packet: &[u8]) -> Option<Self> {
        let view = TcpPacket::new_checked(packet.get(ip_header(packet)..)?).ok()?;
        let start = from_smoltcp(view.seq_number());
        Some(Self {
            start,
            end: start.plus(length(view.segment_len())),
            ack: view.ack().then(|| from_smoltcp(view.ack_number())),
            window: view.window_len(),
            syn: view.syn(),
            rst: view.rst(),
        })
    }

    /// Whether it takes no sequence number.
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Changes the sequence number and the window, here and in `packet`, which was parsed before.
    pub(super) fn rewrite(&mut self, packet: &mut [u8], start: Seq, window: u16) {
        if start == self.start && window == self.window {
            return;
        }
        let header = ip_header(packet);
        let Some(Ok(mut view)) = packet.get_mut(header..).map(TcpPacket::new_checked) else {
            return;
        };
        let mut checksum = Checksum(view.checksum());
        checksum.replace(high(self.start.0), high(start.0));
        checksum.replace(low(self.start.0), low(start.0));
        checksum.replace(self.window, window);
        view.set_seq_number(to_smoltcp(start));
        view.set_window_len(window);
        view.set_checksum(checksum.0);
        let len = self.end.since(self.start);
        self.start = start;
        self.end = start.plus(len);
        self.window = window;
    }
}

/// RFC 1624: a changed field changes the checksum without another look at the payload.
struct Checksum(u16);

impl Checksum {
    fn replace(&mut self, old: u16, new: u16) {
        let sum = u32::from(!self.0) + u32::from(!old) + u32::from(new);
        let folded = (sum & 0xffff) + (sum >> 16);
        self.0 = !low((folded & 0xffff) + (folded >> 16));
    }
}

const fn high(number: u32) -> u16 {
    let [a, b, _, _] = number.to_be_bytes();
    u16::from_be_bytes([a, b])
}

const fn low(number: u32) -> u16 {
    let [_, _, c, d] = number.to_be_bytes();
    u16::from_be_bytes([c, d])
}

/// Length of the IP header, which smoltcp writes without options.
fn ip_header(packet: &[u8]) -> usize {
    match packet.first().map(|first| first >> 4) {
        Some(4) => v4::HEADER_LEN,
        _ => v6::HEADER_LEN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ip::{Pair, checksum, protocol};
    use std::net::Ipv4Addr;

    #[test]
    fn a_rewritten_segment_still_adds_up() {
        let pair = Pair::V4 {
            source: Ipv4Addr::new(10, 0, 0, 1),
            destination: Ipv4Addr::new(10, 0, 0, 2),
        };
        for n in 0..2000u32 {
            let mut packet = vec![0u8; 41];
            packet[0] = 0x45;
            packet[24..28].copy_from_slice(&n.wrapping_mul(0x9e37_79b9).to_be_bytes());
            packet[32] = 0x50;
            packet[34..36].copy_from_slice(&low(n.wrapping_mul(77)).to_be_bytes());
            packet[40] = low(n).to_be_bytes()[1];
            let sum = !smoltcp::wire::checksum::combine(&[
                !0u16 ^ !smoltcp::wire::checksum::data(&packet[20..]),
                smoltcp::wire::checksum::pseudo_header_v4(
                    &Ipv4Addr::new(10, 0, 0, 1),
                    &Ipv4Addr::new(10, 0, 0, 2),
                    smoltcp::wire::IpProtocol::Tcp,
                    21,
                ),
            ]);
            packet[36..38].copy_from_slice(&sum.to_be_bytes());
            assert!(checksum::verify(&pair, protocol::TCP, &packet[20..]));
            let mut sent = Sent::parse(&packet).unwrap();
            sent.rewrite(&mut packet, Seq(n.wrapping_mul(0x1234_5677)), low(n));
            assert!(checksum::verify(&pair, protocol::TCP, &packet[20..]), "{n}");
            let again = Sent::parse(&packet).unwrap();
            assert_eq!(
                (again.start, again.end, again.window),
                (sent.start, sent.end, low(n))
            );
        }
    }
}
