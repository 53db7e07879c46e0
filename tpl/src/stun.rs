//! STUN Binding (RFC 8489): as much of it as a datagram port and a peer tunnel need (spec 2, spec 7 *Peer tunneling*).
//!
//! ```text
//! |0 0| type 14 | length 16 | magic cookie 2112A442 | transaction, 12 bytes | attributes: type 16, length 16, value, padding to 4
//! ```
//!
//! Three messages: a request, the success that tells its sender by which address it is seen, and an indication that nobody
//! answers. Neither credentials nor error responses; a request that needs more than that is no request for us, and is not
//! answered. Ours rather than a crate's, since it is read at the edge where anybody can send anything: it borrows nothing,
//! allocates only what it sends, and what it refuses is in sight.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Length of a message without attributes.
pub const STUN_HEADER_LEN: usize = 20;

/// Longest message that is read, as one that fits any path (RFC 8489, 6.1).
pub const MAX_STUN_MESSAGE: usize = 548;

/// By how much an answer may be longer than its request (spec 7).
pub const MAX_STUN_GROWTH: usize = 32;

const MAGIC: u32 = 0x2112_A442;
const REQUEST: u16 = 0x0001;
const INDICATION: u16 = 0x0011;
const SUCCESS: u16 = 0x0101;

const MAPPED_ADDRESS: u16 = 0x0001;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const FINGERPRINT: u16 = 0x8028;
const FINGERPRINT_XOR: u32 = 0x5354_554E;
/// Attributes below must be understood by whoever reads them.
const OPTIONAL: u16 = 0x8000;

/// What a request and its answer have in common; random, so that only who saw the request can answer it.
pub type StunTransaction = [u8; 12];

/// A Binding message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StunMessage {
    /// Which of the three.
    pub kind: StunKind,
    /// Names the exchange.
    pub transaction: StunTransaction,
    /// With FINGERPRINT, which tells STUN from anything else; checked when read.
    pub fingerprint: bool,
}

/// The kinds of Binding messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StunKind {
    /// Asks by which address its sender is seen.
    Request,
    /// Opens a NAT for the other end, and is not answered.
    Indication,
    /// The sender of the request is seen by this address.
    Success(SocketAddr),
}

/// Why a datagram is no Binding message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum StunError {
    /// Its lengths do not add up.
    #[error("the lengths of a STUN message do not add up")]
    Length,
    /// No magic cookie, or a wrong FINGERPRINT: something else than STUN.
    #[error("not STUN by its magic cookie or FINGERPRINT")]
    NotStun,
    /// Another method or class.
    #[error("STUN message type {0:#06x} is not Binding")]
    Type(u16),
    /// An attribute that must be understood and is not.
    #[error("STUN attribute {0:#06x} is not understood")]
    Attribute(u16),
    /// A success without an address, or with one that cannot be read.
    #[error("no usable address in a STUN success")]
    Address,
}

impl StunMessage {
    /// A message with FINGERPRINT.
    #[must_use]
    pub const fn new(kind: StunKind, transaction: StunTransaction) -> Self {
        Self {
            kind,
            transaction,
            fingerprint: true,
        }
    }

    /// The answer to a request of whoever is seen by this address; with FINGERPRINT if the request has it, so that it is
    /// never longer than the request and [`MAX_STUN_GROWTH`].
    #[must_use]
    pub const fn success(&self, seen: SocketAddr) -> Self {
        Self {
            kind: StunKind::Success(seen),
            ..*self
        }
    }

    /// Reads a datagram.
    ///
    /// # Errors
    ///
    /// It is to be dropped and counted.
    pub fn decode(datagram: &[u8]) -> Result<Self, StunError> {
        if datagram.len() > MAX_STUN_MESSAGE {
            return Err(StunError::Length);
        }
        let (header, attributes) = datagram
            .split_first_chunk::<STUN_HEADER_LEN>()
            .ok_or(StunError::Length)?;
        let [t0, t1, l0, l1, m0, m1, m2, m3, transaction @ ..] = *header;
        if u32::from_be_bytes([m0, m1, m2, m3]) != MAGIC {
            return Err(StunError::NotStun);
        }
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        if length != attributes.len() || !length.is_multiple_of(4) {
            return Err(StunError::Length);
        }
        let ty = u16::from_be_bytes([t0, t1]);
        if !matches!(ty, REQUEST | INDICATION | SUCCESS) {
            return Err(StunError::Type(ty));
        }
        let (mut seen, mut fingerprint) = (None, false);
        let mut rest = attributes;
        while let Some(([a0, a1, n0, n1], after)) = rest.split_first_chunk::<4>() {
            let attribute = u16::from_be_bytes([*a0, *a1]);
            let length = usize::from(u16::from_be_bytes([*n0, *n1]));
            let value = after.get(..length).ok_or(StunError::Length)?;
            let next = after.get(length.next_multiple_of(4)..);
            match attribute {
                XOR_MAPPED_ADDRESS if ty == SUCCESS => {
                    seen = seen.or(Some(read_address(value, &transaction)?));
                }
                // What older servers say beside it.
                MAPPED_ADDRESS if ty == SUCCESS => {}
                FINGERPRINT => {
                    // Computed over all before it, and the last attribute (RFC 8489, 14.7).
                    let covered = datagram.len() - rest.len();
                    let covered = datagram.get(..covered).unwrap_or_default();
                    let wanted = crc32(covered) ^ FINGERPRINT_XOR;
                    if value != wanted.to_be_bytes() || next.is_none_or(|next| !next.is_empty()) {
                        return Err(StunError::NotStun);
                    }
                    fingerprint = true;
                }
                _ if attribute < OPTIONAL => return Err(StunError::Attribute(attribute)),
                _ => {}
            }
            rest = next.ok_or(StunError::Length)?;
        }
        let kind = match (ty, seen) {
            (SUCCESS, Some(seen)) => StunKind::Success(seen),
            (SUCCESS, None) => return Err(StunError::Address),
            (REQUEST, _) => StunKind::Request,
            _ => StunKind::Indication,
        };
        Ok(Self {
            kind,
            transaction,
            fingerprint,
        })
    }

    /// The message as one datagram.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(STUN_HEADER_LEN + MAX_STUN_GROWTH);
        let ty = match self.kind {
            StunKind::Request => REQUEST,
            StunKind::Indication => INDICATION,
            StunKind::Success(_) => SUCCESS,
        };
        out.extend(ty.to_be_bytes());
        out.extend([0; 2]);
        out.extend(MAGIC.to_be_bytes());
        out.extend(self.transaction);
        if let StunKind::Success(seen) = self.kind {
            write_address(&mut out, seen, &self.transaction);
        }
        let attributes = out.len() - STUN_HEADER_LEN;
        set_length(&mut out, attributes + if self.fingerprint { 8 } else { 0 });
        if self.fingerprint {
            let crc = crc32(&out) ^ FINGERPRINT_XOR;
            out.extend(FINGERPRINT.to_be_bytes());
            out.extend(4_u16.to_be_bytes());
            out.extend(crc.to_be_bytes());
        }
        out
    }
}

fn set_length(message: &mut [u8], attributes: usize) {
    let length = u16::try_from(attributes).unwrap_or(u16::MAX).to_be_bytes();
    if let Some(field) = message.get_mut(2..4) {
        field.copy_from_slice(&length);
    }
}

/// The 16 bytes that addresses are hidden under, so that NATs which rewrite what looks like an address leave them alone.
fn mask(transaction: &StunTransaction) -> u128 {
    let mut mask = [0; 16];
    let (magic, rest) = mask.split_at_mut(4);
    magic.copy_from_slice(&MAGIC.to_be_bytes());
    rest.copy_from_slice(transaction);
    u128::from_be_bytes(mask)
}

/// The upper half of the magic cookie hides the port.
const PORT_MASK: u16 = 0x2112;

fn read_address(value: &[u8], transaction: &StunTransaction) -> Result<SocketAddr, StunError> {
    let ([_, family, p0, p1], address) =
        value.split_first_chunk::<4>().ok_or(StunError::Address)?;
    let port = u16::from_be_bytes([*p0, *p1]) ^ PORT_MASK;
    let address = match (*family, address.len()) {
        (1, 4) => {
            let hidden: [u8; 4] = address.try_into().map_err(|_| StunError::Address)?;
            IpAddr::V4(Ipv4Addr::from_bits(u32::from_be_bytes(hidden) ^ MAGIC))
        }
        (2, 16) => {
            let hidden: [u8; 16] = address.try_into().map_err(|_| StunError::Address)?;
            let hidden = u128::from_be_bytes(hidden);
            IpAddr::V6(Ipv6Addr::from_bits(hidden ^ mask(transaction)))
        }
        _ => return Err(StunError::Address),
    };
    // As it is written: an IPv4 address has one form.
    Ok(SocketAddr::new(address.to_canonical(), port))
}

fn write_address(out: &mut Vec<u8>, seen: SocketAddr, transaction: &StunTransaction) {
    out.extend(XOR_MAPPED_ADDRESS.to_be_bytes());
    let port = (seen.port() ^ PORT_MASK).to_be_bytes();
    // A dual-stack socket shows IPv4 clients with mapped addresses; the client knows itself by IPv4.
    match seen.ip().to_canonical() {
        IpAddr::V4(address) => {
            out.extend(8_u16.to_be_bytes());
            out.extend([0, 1]);
            out.extend(port);
            out.extend((address.to_bits() ^ MAGIC).to_be_bytes());
        }
        IpAddr::V6(address) => {
            out.extend(20_u16.to_be_bytes());
            out.extend([0, 2]);
            out.extend(port);
            out.extend((address.to_bits() ^ mask(transaction)).to_be_bytes());
        }
    }
}

/// CRC-32 of ITU V.42, bit by bit: messages are short.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let low = crc & 1;
            crc = (crc >> 1) ^ (0xEDB8_8320 & low.wrapping_neg());
        }
    }
    !crc
}

/// One line for people.
impl fmt::Display for StunMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            StunKind::Request => f.write_str("STUN Binding request"),
            StunKind::Indication => f.write_str("STUN Binding indication"),
            StunKind::Success(seen) => write!(f, "STUN Binding success, seen as {seen}"),
        }
    }
}
