//! Inner packets: where their headers end, and what may follow.

use tsc_tpl::{IpPacket, Limits};

use crate::sip;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

const UDP_HEADER: usize = 8;
const TCP_HEADER: usize = 20;
/// Type, code, checksum, and four bytes by which echoes are told; what caused an error follows, and may be anything.
const ICMP_HEADER: usize = 8;
/// Sequence, timestamp and source, by which losses and jitter are measured.
const RTP_HEADER: usize = 12;

/// Masks a packet in place and returns how much of it may be kept.
pub(crate) fn redact(packet: &mut [u8], with_sip: bool) -> usize {
    let Ok(ip) = IpPacket::decode(packet, &Limits::new(u16::MAX)) else {
        return 0;
    };
    // Headers that are cut short hide where they end.
    let Some(upper) = ip.payload() else { return 0 };
    let above = packet.len() - upper.len();
    // Of the first fragment it is not known that it has all of the header.
    if ip.is_fragment() {
        return above;
    }
    let protocol = ip.protocol();
    let header = match protocol {
        UDP => UDP_HEADER,
        // With its options.
        TCP => upper
            .get(TCP_HEADER - 8)
            .map_or(0, |offset| usize::from(offset >> 4) * 4),
        ICMP | ICMPV6 => ICMP_HEADER,
        _ => 0,
    };
    if header > upper.len() {
        return above;
    }
    let above = above + header;
    let payload = packet.get_mut(above..).unwrap_or_default();
    if !with_sip || !matches!(protocol, UDP | TCP) {
        above
    } else if sip::mask(payload) {
        packet.len()
    } else if protocol == UDP && is_rtp(payload) {
        above + RTP_HEADER
    } else {
        above
    }
}

/// Version 2, and no packet type of RTCP, which carries names.
fn is_rtp(payload: &[u8]) -> bool {
    payload.len() >= RTP_HEADER
        && payload.first().is_some_and(|first| first >> 6 == 2)
        && payload
            .get(1)
            .is_some_and(|second| !(64..=95).contains(&(second & 0x7F)))
}
