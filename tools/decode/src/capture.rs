//! Capture files: pcap and pcapng, read packet by packet.
//!
//! Our own reader, since input from anywhere must neither panic nor grow memory: a record has at most
//! [`MAX_RECORD`] bytes, a section at most [`MAX_INTERFACES`] interfaces.

use std::io::{self, Read};
use std::time::Duration;

/// Longest packet record that is read. Capture tools write at most 256 KiB.
const MAX_RECORD: u32 = 1 << 20;
/// Most interfaces in one section of a pcapng file.
const MAX_INTERFACES: usize = 4096;

const SECTION_HEADER: u32 = 0x0A0D_0D0A;
const INTERFACE_DESCRIPTION: u32 = 1;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

/// Why a capture file cannot be read (further).
#[derive(Debug, thiserror::Error)]
pub(crate) enum CaptureError {
    #[error("neither pcap nor pcapng")]
    Format,
    #[error("the file ends inside a record")]
    Truncated,
    #[error("a record of {0} bytes is too long or too short")]
    Length(u32),
    #[error("a packet of interface {0}, which is not described")]
    Interface(u32),
    #[error("more than {MAX_INTERFACES} interfaces")]
    Interfaces,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Which way a packet went, as the capturing end saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    In,
    Out,
}

/// What the name of an interface says in our own captures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Inner,
    Outer,
}

/// One packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) link_type: u16,
    pub(crate) side: Option<Side>,
    /// Since 1970.
    pub(crate) time: Option<Duration>,
    pub(crate) direction: Option<Direction>,
    /// Whether the capture kept only its beginning.
    pub(crate) cut: bool,
    pub(crate) data: Vec<u8>,
}

/// A capture file of either kind.
pub(crate) struct Capture<R> {
    reader: R,
    big_endian: bool,
    kind: Kind,
}

enum Kind {
    Pcap { link_type: u16, nanoseconds: bool },
    PcapNg { interfaces: Vec<Interface> },
}

struct Interface {
    link_type: u16,
    side: Option<Side>,
    /// Longest part of a packet that is kept; 0 = all.
    snap_len: u32,
    /// Ticks of a timestamp in a second.
    resolution: u128,
}

impl<R: Read> Capture<R> {
    /// Reads the file's header.
    pub(crate) fn open(mut reader: R) -> Result<Self, CaptureError> {
        let magic: [u8; 4] = array(&mut reader)?;
        let (big_endian, nanoseconds) = match magic {
            [0xA1, 0xB2, 0xC3, 0xD4] => (true, false),
            [0xA1, 0xB2, 0x3C, 0x4D] => (true, true),
            [0xD4, 0xC3, 0xB2, 0xA1] => (false, false),
            [0x4D, 0x3C, 0xB2, 0xA1] => (false, true),
            _ if u32::from_be_bytes(magic) == SECTION_HEADER => {
                let kind = Kind::PcapNg {
                    interfaces: Vec::new(),
                };
                let mut capture = Self {
                    reader,
                    big_endian: true,
                    kind,
                };
                capture.section_header()?;
                return Ok(capture);
            }
            _ => return Err(CaptureError::Format),
        };
        let mut capture = Self {
            reader,
            big_endian,
            kind: Kind::Pcap {
                link_type: 0,
                nanoseconds,
            },
        };
        // Version, time zone, accuracy, longest packet; then the link type.
        array::<16>(&mut capture.reader)?;
        let link_type = low_half(capture.u32()?);
        capture.kind = Kind::Pcap {
            link_type,
            nanoseconds,
        };
        Ok(capture)
    }

    /// The next packet; `None` at the end of the file.
    pub(crate) fn next(&mut self) -> Result<Option<Packet>, CaptureError> {
        match self.kind {
            Kind::Pcap {
                link_type,
                nanoseconds,
            } => self.pcap_record(link_type, nanoseconds),
            Kind::PcapNg { .. } => loop {
                let Some(block) = self.start()? else {
                    return Ok(None);
                };
                if let Some(packet) = self.block(block)? {
                    return Ok(Some(packet));
                }
            },
        }
    }

    fn pcap_record(
        &mut self,
        link_type: u16,
        nanoseconds: bool,
    ) -> Result<Option<Packet>, CaptureError> {
        let Some(seconds) = self.start()? else {
            return Ok(None);
        };
        let fraction = self.u32()?;
        let kept = self.u32()?;
        let original = self.u32()?;
        let data = self.data(kept)?;
        let fraction = if nanoseconds {
            Duration::from_nanos(fraction.into())
        } else {
            Duration::from_micros(fraction.into())
        };
        let time = Some(Duration::from_secs(seconds.into()) + fraction);
        Ok(Some(Packet {
            link_type,
            side: None,
            time,
            direction: None,
            cut: original > kept,
            data,
        }))
    }

    /// Reads a pcapng block whose type was read.
    fn block(&mut self, block: u32) -> Result<Option<Packet>, CaptureError> {
        if block == SECTION_HEADER {
            self.section_header()?;
            return Ok(None);
        }
        let total = self.u32()?;
        // Type and length before the body, the length again after it.
        let body = total
            .checked_sub(12)
            .filter(|_| total.is_multiple_of(4))
            .ok_or(CaptureError::Length(total))?;
        let packet = match block {
            INTERFACE_DESCRIPTION => {
                let body = self.data(body)?;
                self.interface(&body, total)?;
                None
            }
            ENHANCED_PACKET => {
                let body = self.data(body)?;
                Some(self.enhanced_packet(&body, total)?)
            }
            SIMPLE_PACKET => {
                let body = self.data(body)?;
                Some(self.simple_packet(&body, total)?)
            }
            _ => {
                self.skip(body)?;
                None
            }
        };
        if self.u32()? == total {
            Ok(packet)
        } else {
            Err(CaptureError::Length(total))
        }
    }

    /// A section header, whose type was read: tells the byte order and forgets the interfaces before.
    fn section_header(&mut self) -> Result<(), CaptureError> {
        let length: [u8; 4] = array(&mut self.reader)?;
        self.big_endian = match array(&mut self.reader)? {
            [0x1A, 0x2B, 0x3C, 0x4D] => true,
            [0x4D, 0x3C, 0x2B, 0x1A] => false,
            _ => return Err(CaptureError::Format),
        };
        let total = self.order(length);
        let rest = total
            .checked_sub(16)
            .filter(|_| total.is_multiple_of(4))
            .ok_or(CaptureError::Length(total))?;
        self.skip(rest)?;
        if self.u32()? != total {
            return Err(CaptureError::Length(total));
        }
        self.kind = Kind::PcapNg {
            interfaces: Vec::new(),
        };
        Ok(())
    }

    fn interface(&mut self, body: &[u8], total: u32) -> Result<(), CaptureError> {
        let mut fields = Fields {
            rest: body,
            big_endian: self.big_endian,
        };
        let short = || CaptureError::Length(total);
        let link_type = fields.u16().ok_or_else(short)?;
        let _reserved = fields.u16().ok_or_else(short)?;
        let snap_len = fields.u32().ok_or_else(short)?;
        // Option 2, if_name.
        let mut names = Fields {
            rest: fields.rest,
            big_endian: self.big_endian,
        };
        let side = match names.option(2) {
            Some(b"inner") => Some(Side::Inner),
            Some(b"outer") => Some(Side::Outer),
            Some(_) | None => None,
        };
        // Option 9, if_tsresol: a power of ten, or of two with the high bit set.
        let resolution = match fields.option(9) {
            Some(&[exponent]) if exponent & 0x80 != 0 => {
                2u128.checked_pow((exponent & 0x7F).into())
            }
            Some(&[exponent]) => 10u128.checked_pow(exponent.into()),
            Some(_) | None => Some(1_000_000),
        };
        // A resolution beyond 128 bits: every timestamp is next to nothing.
        let interface = Interface {
            link_type,
            side,
            snap_len,
            resolution: resolution.unwrap_or(u128::MAX),
        };
        match &mut self.kind {
            Kind::PcapNg { interfaces } if interfaces.len() < MAX_INTERFACES => {
                interfaces.push(interface)
            }
            Kind::PcapNg { .. } | Kind::Pcap { .. } => return Err(CaptureError::Interfaces),
        }
        Ok(())
    }

    fn enhanced_packet(&self, body: &[u8], total: u32) -> Result<Packet, CaptureError> {
        let mut fields = Fields {
            rest: body,
            big_endian: self.big_endian,
        };
        let mut field = || fields.u32().ok_or(CaptureError::Length(total));
        let (id, high, low, kept, original) = (field()?, field()?, field()?, field()?, field()?);
        let interface = self.described(id)?;
        let data = fields
            .padded(kept)
            .ok_or(CaptureError::Length(total))?
            .to_vec();
        let ticks = u128::from(u64::from(high) << 32 | u64::from(low));
        let seconds = u64::try_from(ticks / interface.resolution).unwrap_or(u64::MAX);
        // Less than a second, hence less than 2^30; ticks have 64 bits, so the product has at most 94.
        let nanos = (ticks % interface.resolution) * 1_000_000_000 / interface.resolution;
        let nanos = u32::try_from(nanos).unwrap_or_default();
        // Option 2, epb_flags: bits 0 and 1 are the direction.
        let flags = fields
            .option(2)
            .and_then(|flags| flags.try_into().ok())
            .map(|flags| self.order(flags));
        let direction = match flags.map(|flags| flags & 3) {
            Some(1) => Some(Direction::In),
            Some(2) => Some(Direction::Out),
            Some(_) | None => None,
        };
        Ok(Packet {
            link_type: interface.link_type,
            side: interface.side,
            time: Some(Duration::new(seconds, nanos)),
            direction,
            cut: original > kept,
            data,
        })
    }

    fn simple_packet(&self, body: &[u8], total: u32) -> Result<Packet, CaptureError> {
        let mut fields = Fields {
            rest: body,
            big_endian: self.big_endian,
        };
        let original = fields.u32().ok_or(CaptureError::Length(total))?;
        let interface = self.described(0)?;
        let kept = if interface.snap_len == 0 {
            original
        } else {
            original.min(interface.snap_len)
        };
        let data = fields
            .padded(kept)
            .ok_or(CaptureError::Length(total))?
            .to_vec();
        let link_type = interface.link_type;
        Ok(Packet {
            link_type,
            side: interface.side,
            time: None,
            direction: None,
            cut: original > kept,
            data,
        })
    }

    fn described(&self, id: u32) -> Result<&Interface, CaptureError> {
        let Kind::PcapNg { interfaces } = &self.kind else {
            return Err(CaptureError::Format);
        };
        let index = usize::try_from(id).unwrap_or(usize::MAX);
        interfaces.get(index).ok_or(CaptureError::Interface(id))
    }

    /// The first four bytes of a record; `None` if the file ends before them.
    fn start(&mut self) -> Result<Option<u32>, CaptureError> {
        let mut bytes = [0; 4];
        let mut have = 0;
        while let Some(rest) = bytes.get_mut(have..).filter(|rest| !rest.is_empty()) {
            match self.reader.read(rest) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => return Err(CaptureError::Truncated),
                Ok(read) => have += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some(self.order(bytes)))
    }

    fn data(&mut self, len: u32) -> Result<Vec<u8>, CaptureError> {
        if len > MAX_RECORD {
            return Err(CaptureError::Length(len));
        }
        let mut data = Vec::new();
        let read = self
            .reader
            .by_ref()
            .take(len.into())
            .read_to_end(&mut data)?;
        if u32::try_from(read) == Ok(len) {
            Ok(data)
        } else {
            Err(CaptureError::Truncated)
        }
    }

    fn skip(&mut self, len: u32) -> Result<(), CaptureError> {
        let skipped = io::copy(&mut self.reader.by_ref().take(len.into()), &mut io::sink())?;
        if skipped == u64::from(len) {
            Ok(())
        } else {
            Err(CaptureError::Truncated)
        }
    }

    fn u32(&mut self) -> Result<u32, CaptureError> {
        let bytes = array(&mut self.reader)?;
        Ok(self.order(bytes))
    }

    const fn order(&self, bytes: [u8; 4]) -> u32 {
        if self.big_endian {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
        }
    }
}

/// Fields of a block's body.
struct Fields<'a> {
    rest: &'a [u8],
    big_endian: bool,
}

impl<'a> Fields<'a> {
    fn u16(&mut self) -> Option<u16> {
        let (bytes, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(if self.big_endian {
            u16::from_be_bytes(*bytes)
        } else {
            u16::from_le_bytes(*bytes)
        })
    }

    fn u32(&mut self) -> Option<u32> {
        let (bytes, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(if self.big_endian {
            u32::from_be_bytes(*bytes)
        } else {
            u32::from_le_bytes(*bytes)
        })
    }

    /// `len` bytes, and those that fill the last group of four.
    fn padded(&mut self, len: u32) -> Option<&'a [u8]> {
        let len = usize::try_from(len).ok()?;
        let (data, _) = self.rest.split_at_checked(len)?;
        self.rest = self.rest.get(len.checked_next_multiple_of(4)?..)?;
        Some(data)
    }

    /// The value of the first option with this code, if the options that follow here hold one.
    fn option(&mut self, wanted: u16) -> Option<&'a [u8]> {
        loop {
            let code = self.u16()?;
            let len = self.u16()?;
            let value = self.padded(len.into())?;
            if code == wanted {
                return Some(value);
            }
            // The end of the options.
            if code == 0 {
                return None;
            }
        }
    }
}

fn array<const N: usize>(reader: &mut impl Read) -> Result<[u8; N], CaptureError> {
    let mut bytes = [0; N];
    match reader.read_exact(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(CaptureError::Truncated),
        Err(error) => Err(error.into()),
    }
}

/// The link type proper; the upper half tells about frame check sequences.
fn low_half(value: u32) -> u16 {
    let [_, _, high, low] = value.to_be_bytes();
    u16::from_be_bytes([high, low])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(file: &[u8]) -> Result<Vec<Packet>, CaptureError> {
        let mut capture = Capture::open(file)?;
        let mut packets = Vec::new();
        while let Some(packet) = capture.next()? {
            packets.push(packet);
        }
        Ok(packets)
    }

    /// A little of everything, in little-endian pcapng.
    fn pcapng() -> Vec<u8> {
        let block = |ty: u32, body: &[u8]| {
            let total = u32::try_from(body.len() + 12).expect("short").to_le_bytes();
            [&ty.to_le_bytes()[..], &total, body, &total].concat()
        };
        let header = [
            0x4D, 0x3C, 0x2B, 0x1A, 1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255,
        ];
        // USER0, no snap length, if_tsresol 9, end of options.
        let interface = [147, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0];
        let mut packet = vec![
            0, 0, 0, 0, 0, 0, 0, 0, 1, 202, 154, 59, 5, 0, 0, 0, 6, 0, 0, 0,
        ];
        packet.extend([1, 2, 3, 4, 5, 0, 0, 0]);
        packet.extend([2, 0, 4, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        let simple = [3, 0, 0, 0, 7, 8, 9, 0];
        [
            block(SECTION_HEADER, &header),
            block(1, &interface),
            block(0xBAD, &[0; 8]),
            block(6, &packet),
            block(3, &simple),
        ]
        .concat()
    }

    #[test]
    fn pcapng_with_options_and_unknown_blocks() {
        let packets = drain(&pcapng()).expect("a good file");
        let expected = Packet {
            link_type: 147,
            side: None,
            time: Some(Duration::new(1, 1)),
            direction: Some(Direction::Out),
            cut: true,
            data: vec![1, 2, 3, 4, 5],
        };
        assert_eq!(packets.first(), Some(&expected));
        assert_eq!(
            packets
                .get(1)
                .map(|packet| (packet.data.as_slice(), packet.time)),
            Some((&[7, 8, 9][..], None))
        );
        assert_eq!(packets.len(), 2);
    }

    #[test]
    fn pcap_in_either_byte_order() {
        for big in [false, true] {
            let word = |value: u32| {
                if big {
                    value.to_be_bytes()
                } else {
                    value.to_le_bytes()
                }
            };
            let words = [0xA1B2_C3D4, 0, 0, 0, 65535, 101, 10, 500_000, 2, 2].map(word);
            let file = [words.as_flattened(), &[0xAA, 0xBB]].concat();
            let packets = drain(&file).expect("a good file");
            let time = Some(Duration::from_millis(10_500));
            let data = vec![0xAA, 0xBB];
            assert_eq!(
                packets,
                [Packet {
                    link_type: 101,
                    side: None,
                    time,
                    direction: None,
                    cut: false,
                    data
                }]
            );
        }
    }

    #[test]
    fn any_cut_or_damage_is_an_error_or_a_shorter_file() {
        let file = pcapng();
        for len in 0..file.len() {
            let result = drain(file.get(..len).expect("inside"));
            assert!(
                matches!(result, Ok(_) | Err(CaptureError::Truncated)),
                "{len}: {result:?}"
            );
        }
        for at in 0..file.len() {
            for value in [0, 1, 0x7F, 0xFF] {
                let mut damaged = file.clone();
                damaged[at] = value;
                // Whatever it says, it ends.
                let _ = drain(&damaged);
            }
        }
        assert!(matches!(drain(b"GIF89a--"), Err(CaptureError::Format)));
    }
}
