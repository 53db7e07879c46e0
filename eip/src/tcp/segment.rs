//! Segments: bytes to the fields that we judge by, and those few that we write ourselves.

use std::net::SocketAddr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    IpAddress, IpProtocol, IpRepr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber, TcpTimestampRepr,
};

use super::seq::{Seq, length};
use crate::egress::Egress;
use crate::ip::{HOP_LIMIT, Pair, v4, v6};

/// What names a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Tuple {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
}

/// A received segment whose checksum has been verified.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment<'a> {
    pub(crate) tuple: Tuple,
    pair: Pair,
    repr: TcpRepr<'a>,
    /// Header and payload.
    bytes: &'a [u8],
}

impl<'a> Segment<'a> {
    /// `None` if it makes no sense.
    pub(crate) fn parse(pair: Pair, bytes: &'a [u8]) -> Option<Self> {
        let view = TcpPacket::new_checked(bytes).ok()?;
        // The addresses only matter for the checksum.
        let (source, destination) = (IpAddress::from(pair.source()), pair.destination().into());
        let ignored = ChecksumCapabilities::ignored();
        let repr = TcpRepr::parse(&view, &source, &destination, &ignored).ok()?;
        Some(Self {
            tuple: Tuple {
                local: SocketAddr::new(pair.destination(), repr.dst_port),
                remote: SocketAddr::new(pair.source(), repr.src_port),
            },
            pair,
            repr,
            bytes,
        })
    }

    pub(super) const fn seq(&self) -> Seq {
        from_smoltcp(self.repr.seq_number)
    }

    pub(super) fn ack(&self) -> Option<Seq> {
        self.repr.ack_number.map(from_smoltcp)
    }

    pub(super) fn is_syn(&self) -> bool {
        self.repr.control == TcpControl::Syn
    }

    pub(super) fn is_fin(&self) -> bool {
        self.repr.control == TcpControl::Fin
    }

    pub(super) fn is_rst(&self) -> bool {
        self.repr.control == TcpControl::Rst
    }

    /// Asks for a connection.
    pub(super) fn is_request(&self) -> bool {
        self.is_syn() && self.repr.ack_number.is_none()
    }

    /// The window field as it stands, before scaling.
    pub(super) const fn window(&self) -> u16 {
        self.repr.window_len
    }

    pub(super) const fn window_scale(&self) -> Option<u8> {
        self.repr.window_scale
    }

    pub(super) const fn mss(&self) -> Option<u16> {
        self.repr.max_seg_size
    }

    pub(super) const fn blocks(&self) -> [Option<(u32, u32)>; 3] {
        self.repr.sack_ranges
    }

    pub(super) const fn payload(&self) -> &'a [u8] {
        self.repr.payload
    }

    pub(super) const fn permits_sack(&self) -> bool {
        self.repr.sack_permitted
    }

    pub(super) fn payload_len(&self) -> u32 {
        length(self.repr.payload.len())
    }

    /// Sequence numbers that the segment takes.
    pub(super) fn len(&self) -> u32 {
        self.payload_len() + u32::from(self.is_syn() || self.is_fin())
    }

    /// The packet without payload, to be kept: a SYN with data is acknowledged without them, and
    /// the peer sends them again.
    pub(super) fn to_kept_packet(self) -> Vec<u8> {
        let header_len = self.bytes.len().saturating_sub(self.repr.payload.len());
        let header = self.bytes.get(..header_len).unwrap_or(self.bytes);
        let mut packet = Vec::with_capacity(v6::HEADER_LEN + header.len());
        self.write_head(header.len(), &mut packet);
        packet.extend_from_slice(header);
        packet
    }

    fn write_head(&self, payload_len: usize, into: &mut Vec<u8>) {
        let payload_len = u16::try_from(payload_len).unwrap_or(u16::MAX);
        let protocol = crate::ip::protocol::TCP;
        match self.pair {
            Pair::V4 {
                source,
                destination,
            } => into.extend_from_slice(
                &v4::Header {
                    source,
                    destination,
                    traffic_class: 0,
                    hop_limit: HOP_LIMIT,
                    protocol,
                    dont_fragment: true,
                    identification: 0,
                    offset: 0,
                    more: false,
                    payload_len,
                }
                .to_bytes(),
            ),
            Pair::V6 {
                source,
                destination,
            } => into.extend_from_slice(
                &v6::Header {
                    source,
                    destination,
                    traffic_class: 0,
                    hop_limit: HOP_LIMIT,
                    protocol,
                    payload_len,
                }
                .to_bytes(),
            ),
        }
    }
}

/// A segment of our own making.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reply {
    pub(super) syn: bool,
    pub(super) rst: bool,
    pub(super) fin: bool,
    pub(super) push: bool,
    pub(super) seq: Seq,
    pub(super) ack: Option<Seq>,
    pub(super) window: u16,
    /// Options of a SYN.
    pub(super) mss: Option<u16>,
    pub(super) window_scale: Option<u8>,
    pub(super) sack: bool,
    /// Data beyond the acknowledgement.
    pub(super) blocks: [Option<(u32, u32)>; 3],
}

impl Reply {
    /// The answer to a segment for which there is no connection (RFC 9293, section 3.10.7.1).
    pub(super) fn reset(segment: &Segment<'_>) -> Self {
        match segment.ack() {
            Some(ack) => Self {
                rst: true,
                seq: ack,
                ..Self::default()
            },
            None => Self {
                rst: true,
                ack: Some(segment.seq().plus(segment.len())),
                ..Self::default()
            },
        }
    }

    pub(super) fn write(&self, tuple: &Tuple, egress: &mut Egress) -> Vec<u8> {
        self.write_with(tuple, egress, 0, |_| {})
    }

    /// With `len` bytes of payload, which `append` appends.
    pub(super) fn write_with(
        &self,
        tuple: &Tuple,
        egress: &mut Egress,
        len: usize,
        append: impl FnOnce(&mut Vec<u8>),
    ) -> Vec<u8> {
        let control = match (self.syn, self.rst, self.fin) {
            (true, _, _) => TcpControl::Syn,
            (_, true, _) => TcpControl::Rst,
            (_, _, true) => TcpControl::Fin,
            (false, false, false) if self.push => TcpControl::Psh,
            (false, false, false) => TcpControl::None,
        };
        let repr = TcpRepr {
            src_port: tuple.local.port(),
            dst_port: tuple.remote.port(),
            control,
            seq_number: to_smoltcp(self.seq),
            ack_number: self.ack.map(to_smoltcp),
            window_len: self.window,
            window_scale: self.window_scale,
            max_seg_size: self.mss,
            sack_permitted: self.sack,
            sack_ranges: self.blocks,
            timestamp: None::<TcpTimestampRepr>,
            payload: &[],
        };
        let (source, destination) = (tuple.local.ip().into(), tuple.remote.ip().into());
        let ip = IpRepr::new(
            source,
            destination,
            IpProtocol::Tcp,
            repr.buffer_len() + len,
            HOP_LIMIT,
        );
        let mut packet = egress.buffer(ip.buffer_len());
        packet.resize(ip.header_len() + repr.buffer_len(), 0);
        append(&mut packet);
        ip.emit(packet.as_mut_slice(), &ChecksumCapabilities::default());
        if let Some(segment) = packet.get_mut(ip.header_len()..) {
            let mut view = TcpPacket::new_unchecked(segment);
            repr.emit(
                &mut view,
                &source,
                &destination,
                &ChecksumCapabilities::ignored(),
            );
            view.fill_checksum(&source, &destination);
        }
        packet
    }
}

/// smoltcp keeps the same 32 bits signed.
pub(super) const fn from_smoltcp(number: TcpSeqNumber) -> Seq {
    Seq(number.0.cast_unsigned())
}

pub(super) const fn to_smoltcp(number: Seq) -> TcpSeqNumber {
    TcpSeqNumber(number.0.cast_signed())
}
