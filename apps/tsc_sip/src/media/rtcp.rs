//! Compound RTCP packets (RFC 3550 section 6): SR or RR, SDES with the CNAME, BYE.

use rtcp_types::{
    Bye, Compound, Packet, ReceiverReport, ReportBlock, ReportBlockBuilder, RtcpPacketWriter,
    RtcpPacketWriterExt, Sdes, SdesChunk, SdesItem, SenderReport,
};

/// Why bytes are no RTCP that this program uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RtcpError {
    /// Broken framing, version or padding.
    #[error("malformed RTCP")]
    Malformed,
    /// A compound packet starts with a sender or receiver report (6.1).
    #[error("the compound packet does not start with a report")]
    NoReport,
    /// A CNAME too long to be written.
    #[error("the report cannot be written")]
    Unwritable,
}

/// What a sender says about its stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SenderInfo {
    /// Wall clock, NTP format.
    pub ntp: u64,
    /// The same moment on the RTP clock.
    pub rtp_timestamp: u32,
    /// Packets sent, modulo 2^32.
    pub packets: u32,
    /// Payload bytes sent, modulo 2^32.
    pub octets: u32,
}

/// What a receiver says about one source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceptionReport {
    /// The source.
    pub ssrc: u32,
    /// Lost since the last report, in 1/256.
    pub fraction_lost: u8,
    /// Lost since the beginning; negative with duplicates. 24 bits on the wire.
    pub cumulative_lost: i32,
    /// Extended highest sequence number.
    pub highest: u32,
    /// Jitter in units of the RTP clock.
    pub jitter: u32,
    /// Middle 32 bits of the NTP time of the last sender report; 0 if there was none.
    pub last_sr: u32,
    /// Time since then in 1/65536 s.
    pub delay_since_last_sr: u32,
}

/// One compound packet, as far as a call of two needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RtcpReport {
    /// Who sends it.
    pub ssrc: u32,
    /// Present in a sender report.
    pub sender: Option<SenderInfo>,
    /// Reception reports; at most 31.
    pub reception: Vec<ReceptionReport>,
    /// CNAME of the sender.
    pub cname: Option<String>,
    /// Whether the sender leaves.
    pub bye: bool,
}

impl RtcpReport {
    /// The bytes for the wire.
    ///
    /// # Errors
    ///
    /// [`RtcpError::Unwritable`]: a CNAME of more than 255 bytes, or more than 31 reception reports.
    pub fn encode(&self) -> Result<Vec<u8>, RtcpError> {
        let blocks = self.reception.iter().map(ReceptionReport::block);
        let mut compound = Compound::builder();
        compound = match &self.sender {
            Some(info) => {
                let report = SenderReport::builder(self.ssrc)
                    .ntp_timestamp(info.ntp)
                    .rtp_timestamp(info.rtp_timestamp)
                    .packet_count(info.packets)
                    .octet_count(info.octets);
                compound.add_packet(blocks.fold(report, |r, block| r.add_report_block(block)))
            }
            None => {
                let report = ReceiverReport::builder(self.ssrc);
                compound.add_packet(blocks.fold(report, |r, block| r.add_report_block(block)))
            }
        };
        if let Some(cname) = &self.cname {
            let item = SdesItem::builder(SdesItem::CNAME, cname);
            let chunk = SdesChunk::builder(self.ssrc).add_item(item);
            compound = compound.add_packet(Sdes::builder().add_chunk(chunk));
        }
        if self.bye {
            compound = compound.add_packet(Bye::builder().add_source(self.ssrc));
        }
        let size = compound
            .calculate_size()
            .map_err(|_| RtcpError::Unwritable)?;
        let mut bytes = vec![0; size];
        compound
            .write_into(&mut bytes)
            .map_err(|_| RtcpError::Unwritable)?;
        Ok(bytes)
    }

    /// Reads a compound packet. Reports of further sources and unknown packet types in it are skipped.
    ///
    /// # Errors
    ///
    /// See [`RtcpError`]; the packet is to be dropped and counted.
    pub fn parse(bytes: &[u8]) -> Result<Self, RtcpError> {
        let mut report = None;
        for packet in Compound::parse(bytes).map_err(|_| RtcpError::Malformed)? {
            let packet = packet.map_err(|_| RtcpError::Malformed)?;
            match (&mut report, packet) {
                (None, Packet::Sr(sr)) => {
                    report = Some(Self {
                        ssrc: sr.ssrc(),
                        sender: Some(SenderInfo {
                            ntp: sr.ntp_timestamp(),
                            rtp_timestamp: sr.rtp_timestamp(),
                            packets: sr.packet_count(),
                            octets: sr.octet_count(),
                        }),
                        reception: sr
                            .report_blocks()
                            .map(|b| ReceptionReport::of(&b))
                            .collect(),
                        ..Self::default()
                    });
                }
                (None, Packet::Rr(rr)) => {
                    report = Some(Self {
                        ssrc: rr.ssrc(),
                        reception: rr
                            .report_blocks()
                            .map(|b| ReceptionReport::of(&b))
                            .collect(),
                        ..Self::default()
                    });
                }
                (None, _) => return Err(RtcpError::NoReport),
                (Some(report), Packet::Sdes(sdes)) => {
                    let chunk = sdes.chunks().find(|chunk| chunk.ssrc() == report.ssrc);
                    let item = chunk.and_then(|c| c.items().find(|i| i.type_() == SdesItem::CNAME));
                    report.cname = item.map(|i| String::from_utf8_lossy(i.value()).into_owned());
                }
                (Some(report), Packet::Bye(bye)) => {
                    report.bye |= bye.ssrcs().any(|ssrc| ssrc == report.ssrc);
                }
                (Some(_), _) => {}
            }
        }
        report.ok_or(RtcpError::NoReport)
    }
}

impl ReceptionReport {
    fn block(&self) -> ReportBlockBuilder {
        // 24 bits, signed (A.3).
        let lost = self.cumulative_lost.clamp(-0x80_0000, 0x7f_ffff);
        ReportBlock::builder(self.ssrc)
            .fraction_lost(self.fraction_lost)
            .cumulative_lost(lost.cast_unsigned() & 0xff_ffff)
            .extended_sequence_number(self.highest)
            .interarrival_jitter(self.jitter)
            .last_sender_report_timestamp(self.last_sr)
            .delay_since_last_sender_report_timestamp(self.delay_since_last_sr)
    }

    fn of(block: &ReportBlock<'_>) -> Self {
        Self {
            ssrc: block.ssrc(),
            fraction_lost: block.fraction_lost(),
            // Shifted up and back to extend the sign.
            cumulative_lost: (block.cumulative_lost() << 8).cast_signed() >> 8,
            highest: block.extended_sequence_number(),
            jitter: block.interarrival_jitter(),
            last_sr: block.last_sender_report_timestamp(),
            delay_since_last_sr: block.delay_since_last_sender_report_timestamp(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> RtcpReport {
        RtcpReport {
            ssrc: 0x0102_0304,
            sender: Some(SenderInfo {
                ntp: 0x1122_3344_5566_7788,
                rtp_timestamp: 7,
                packets: 8,
                octets: 9,
            }),
            reception: vec![ReceptionReport {
                ssrc: 5,
                fraction_lost: 255,
                cumulative_lost: -3,
                highest: 6,
                jitter: 7,
                last_sr: 8,
                delay_since_last_sr: 9,
            }],
            cname: Some("alice@192.0.2.1".into()),
            bye: true,
        }
    }

    #[test]
    fn compounds_round_trip() {
        let mut report = full();
        assert_eq!(
            RtcpReport::parse(&report.encode().unwrap()),
            Ok(report.clone())
        );
        report.sender = None;
        report.reception.clear();
        report.bye = false;
        assert_eq!(RtcpReport::parse(&report.encode().unwrap()), Ok(report));
    }

    #[test]
    fn what_is_no_compound_is_refused() {
        let bytes = full().encode().unwrap();
        for cut in 0..bytes.len() {
            // Cut between two packets, the rest still is a compound packet.
            let _ = RtcpReport::parse(&bytes[..cut]);
        }
        assert_eq!(RtcpReport::parse(&[]), Err(RtcpError::Malformed));
        let sdes_first = &bytes[52..];
        assert_eq!(RtcpReport::parse(sdes_first), Err(RtcpError::NoReport));
        let mut report = full();
        report.cname = Some("x".repeat(256));
        assert_eq!(report.encode(), Err(RtcpError::Unwritable));
    }
}
