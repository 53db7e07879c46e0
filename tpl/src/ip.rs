//! Inner IP packets: a checked view with the fields that tunnels look at.
//!
//! Only what delimits the packet is checked (spec 2). Checksums, options and everything above are the
//! business of whoever the packet is for.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::cursor::Reader;
use crate::error::{DatagramError, UnitError};
use crate::limits::{Extent, Limits};

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;

/// Most IPv6 extension headers that are walked to find the upper layer: work per packet stays bounded.
const MAX_EXTENSION_HEADERS: usize = 8;

const HOP_BY_HOP: u8 = 0;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;

/// IP version of an inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// One whole inner IP packet, borrowed.
///
/// ```text
/// IPv4  |4|IHL| TOS | total length |   length = total length, header at least 20 bytes
/// IPv6  |6| ...     | 2 bytes | payload length |   length = 40 + payload length
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct IpPacket<'a> {
    bytes: &'a [u8],
    header: IpHeader<'a>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum IpHeader<'a> {
    V4(&'a [u8; IPV4_HEADER]),
    V6(&'a [u8; IPV6_HEADER]),
}

impl<'a> IpPacket<'a> {
    /// Views `bytes` as exactly one packet.
    ///
    /// # Errors
    ///
    /// What section 2 calls an error: no IP packet, impossible lengths, longer than the inner MTU, cut
    /// short, or with bytes behind it.
    pub fn decode(bytes: &'a [u8], limits: &Limits) -> Result<Self, DatagramError> {
        if bytes.is_empty() {
            return Err(DatagramError::Empty);
        }
        match Self::measure(bytes, limits)? {
            Extent::AtLeast(needed) => Err(DatagramError::Truncated {
                needed,
                len: bytes.len(),
            }),
            Extent::Complete(len) if len < bytes.len() => {
                Err(DatagramError::Trailing(bytes.len() - len))
            }
            Extent::Complete(_) => Self::framed(bytes).map_err(DatagramError::Unit),
        }
    }

    /// How long the packet at the front of `bytes` (not empty) is.
    pub(crate) fn measure(bytes: &[u8], limits: &Limits) -> Result<Extent, UnitError> {
        let mut reader = Reader::new(bytes);
        let Some(first) = reader.u8() else {
            return Ok(Extent::AtLeast(1));
        };
        let len = match first >> 4 {
            4 => {
                let words = first & 0x0F;
                if words < 5 {
                    return Err(UnitError::Ipv4HeaderLength(words));
                }
                let header = u16::from(words) * 4;
                let Some(total) = reader.u8().and_then(|_tos| reader.u16()) else {
                    return Ok(Extent::AtLeast(usize::from(header)));
                };
                if total < header {
                    return Err(UnitError::Ipv4TotalLength { total, header });
                }
                usize::from(total)
            }
            6 => {
                let Some(payload) = reader.take(3).and_then(|_class_and_label| reader.u16()) else {
                    return Ok(Extent::AtLeast(IPV6_HEADER));
                };
                IPV6_HEADER + usize::from(payload)
            }
            _ => return Err(UnitError::FirstByte(first)),
        };
        limits.check(len)?;
        Ok(Extent::of(len, bytes.len()))
    }

    /// Views `bytes`, whose length [`measure`](Self::measure) gave.
    pub(crate) fn framed(bytes: &'a [u8]) -> Result<Self, UnitError> {
        let first = bytes.first().copied().unwrap_or_default();
        let header = match first >> 4 {
            4 => bytes.first_chunk().map(IpHeader::V4),
            6 => bytes.first_chunk().map(IpHeader::V6),
            _ => None,
        };
        let header = header.ok_or(UnitError::FirstByte(first))?;
        Ok(Self { bytes, header })
    }

    /// The whole packet.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Its length in bytes; never 0.
    #[must_use]
    #[expect(
        clippy::len_without_is_empty,
        reason = "a packet has at least a header"
    )]
    pub const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// IP version.
    #[must_use]
    pub const fn version(&self) -> IpVersion {
        match self.header {
            IpHeader::V4(_) => IpVersion::V4,
            IpHeader::V6(_) => IpVersion::V6,
        }
    }

    /// Source address.
    #[must_use]
    pub fn source(&self) -> IpAddr {
        match self.header {
            IpHeader::V4(&[_, _, _, _, _, _, _, _, _, _, _, _, a, b, c, d, ..]) => {
                Ipv4Addr::new(a, b, c, d).into()
            }
            IpHeader::V6(header) => ipv6_address(header, 8),
        }
    }

    /// Destination address.
    #[must_use]
    pub fn destination(&self) -> IpAddr {
        match self.header {
            IpHeader::V4(&[.., a, b, c, d]) => Ipv4Addr::new(a, b, c, d).into(),
            IpHeader::V6(header) => ipv6_address(header, 24),
        }
    }

    /// Differentiated services code point, 0-63.
    #[must_use]
    pub const fn dscp(&self) -> u8 {
        match self.header {
            IpHeader::V4(&[_, tos, ..]) => tos >> 2,
            IpHeader::V6(&[first, second, ..]) => ((first << 4) | (second >> 4)) >> 2,
        }
    }

    /// TTL or Hop Limit.
    #[must_use]
    pub const fn hop_limit(&self) -> u8 {
        match self.header {
            IpHeader::V4(&[_, _, _, _, _, _, _, _, ttl, ..]) => ttl,
            IpHeader::V6(&[_, _, _, _, _, _, _, limit, ..]) => limit,
        }
    }

    /// The upper layer's protocol number: behind IPv6 extension headers as far as they can be walked,
    /// else the number of the header that stops the walk.
    #[must_use]
    pub fn protocol(&self) -> u8 {
        self.upper_layer().protocol
    }

    /// Whether this is a fragment of a larger packet, first ones included. An IPv6 "atomic fragment"
    /// (RFC 6946) is whole and hence not one.
    #[must_use]
    pub fn is_fragment(&self) -> bool {
        self.upper_layer().fragment
    }

    /// Source and destination port of a TCP or UDP packet; `None` for other protocols and all fragments
    /// (only the first would have ports, and a flow must not be told from some of its fragments).
    #[must_use]
    pub fn ports(&self) -> Option<(u16, u16)> {
        let upper = self.upper_layer();
        if upper.fragment || !matches!(upper.protocol, TCP | UDP) {
            return None;
        }
        let mut reader = Reader::new(upper.payload?);
        Some((reader.u16()?, reader.u16()?))
    }

    /// What follows the IP header and its options or extension headers; `None` if those are cut short.
    /// For a fragment, the fragment's data.
    #[must_use]
    pub fn payload(&self) -> Option<&'a [u8]> {
        self.upper_layer().payload
    }

    fn upper_layer(&self) -> UpperLayer<'a> {
        match self.header {
            IpHeader::V4(&[first, _, _, _, _, _, flags, offset, _, protocol, ..]) => UpperLayer {
                protocol,
                // More Fragments, or a fragment offset.
                fragment: flags & 0x3F != 0 || offset != 0,
                payload: self.bytes.get(usize::from(first & 0x0F) * 4..),
            },
            IpHeader::V6(&[_, _, _, _, _, _, next, ..]) => {
                let payload = self.bytes.get(IPV6_HEADER..).unwrap_or_default();
                UpperLayer::behind_extensions(next, payload)
            }
        }
    }
}

/// What an IP packet carries.
struct UpperLayer<'a> {
    protocol: u8,
    fragment: bool,
    payload: Option<&'a [u8]>,
}

impl<'a> UpperLayer<'a> {
    fn behind_extensions(mut next: u8, payload: &'a [u8]) -> Self {
        let mut reader = Reader::new(payload);
        for _ in 0..MAX_EXTENSION_HEADERS {
            let protocol = next;
            let walked = match protocol {
                HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | MOBILITY | HIP | SHIM6 => {
                    skip(&mut reader, |units| 8 + units * 8)
                }
                AUTHENTICATION => skip(&mut reader, |units| 8 + units * 4),
                FRAGMENT => match reader.array::<8>() {
                    Some(&[following, _, high, low, ..]) => {
                        if high != 0 || low & !0x06 != 0 {
                            return Self {
                                protocol: following,
                                fragment: true,
                                payload: Some(reader.rest()),
                            };
                        }
                        Some(following)
                    }
                    None => None,
                },
                _ => {
                    return Self {
                        protocol,
                        fragment: false,
                        payload: Some(reader.rest()),
                    };
                }
            };
            match walked {
                Some(following) => next = following,
                None => {
                    return Self {
                        protocol,
                        fragment: false,
                        payload: None,
                    };
                }
            }
        }
        Self {
            protocol: next,
            fragment: false,
            payload: None,
        }
    }
}

/// Steps over an extension header whose second byte gives its length; returns what follows it.
fn skip(reader: &mut Reader<'_>, len: impl FnOnce(usize) -> usize) -> Option<u8> {
    let mut ahead = *reader;
    let next = ahead.u8()?;
    let units = ahead.u8()?;
    reader.take(len(usize::from(units)))?;
    Some(next)
}

fn ipv6_address(header: &[u8; IPV6_HEADER], at: usize) -> IpAddr {
    let octets = header.get(at..).and_then(|rest| rest.first_chunk::<16>());
    // Both offsets lie inside the header.
    Ipv6Addr::from(octets.copied().unwrap_or_default()).into()
}

impl fmt::Debug for IpPacket<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IpPacket({self})")
    }
}

/// Addresses, ports, protocol and length; never the payload.
impl fmt::Display for IpPacket<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.version() {
            IpVersion::V4 => "IPv4 ",
            IpVersion::V6 => "IPv6 ",
        })?;
        match self.ports() {
            Some((from, to)) => {
                let source = core::net::SocketAddr::new(self.source(), from);
                let destination = core::net::SocketAddr::new(self.destination(), to);
                write!(f, "{source} > {destination}")?;
            }
            None => write!(f, "{} > {}", self.source(), self.destination())?,
        }
        match self.protocol() {
            1 => f.write_str(" ICMP")?,
            TCP => f.write_str(" TCP")?,
            UDP => f.write_str(" UDP")?,
            58 => f.write_str(" ICMPv6")?,
            other => write!(f, " protocol {other}")?,
        }
        if self.is_fragment() {
            f.write_str(" fragment")?;
        }
        write!(f, " {} bytes", self.len())
    }
}
