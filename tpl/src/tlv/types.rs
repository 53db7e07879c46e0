//! Values that can be wrong: types whose constructors check what the specification says.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use core::time::Duration;

use bytes::BufMut;

use super::value::{Value, exact, plain};
use crate::cursor::Reader;
use crate::error::ValueError;
use crate::registry::{MAX_PADDING, MAX_REDUNDANCY_FACTOR, TransportCode};

/// A time in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Seconds(pub u16);

impl Seconds {
    /// The same as a [`Duration`].
    #[must_use]
    pub const fn duration(self) -> Duration {
        Duration::from_secs(self.0 as u64)
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", self.0)
    }
}

plain! {
    Seconds, 2, |array| Self(u16::from_be_bytes(array)), |value| value.0.to_be_bytes();
    PayloadType, 2, |array| { let [first, second] = array; Self(first, second) }, |value| [value.0, value.1];
}

/// Payload_Type: two numbers reserved for media compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PayloadType(pub u8, pub u8);

impl fmt::Display for PayloadType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0, self.1)
    }
}

/// Reception_Report (private use): what has become of the sequences of a redundancy group, in one direction since it was
/// enabled. Counters wrap.
///
/// ```text
/// | expected u32 | originals u32 | delivered u32 | runs u32 |
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ReceptionReport {
    /// Sequences that are settled: old enough that what has not come is lost.
    pub expected: u32,
    /// Of those, the ones whose first transmission came.
    pub originals: u32,
    /// Of those, the ones that came at all: what is missing is lost.
    pub delivered: u32,
    /// Runs of sequences whose first transmissions were lost.
    pub runs: u32,
}

impl fmt::Display for ReceptionReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} delivered, {} as originals, {} runs of losses",
            self.delivered, self.expected, self.originals, self.runs
        )
    }
}

impl ReceptionReport {
    /// As it stands on the wire.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let fields = [self.expected, self.originals, self.delivered, self.runs];
        for (place, field) in bytes.chunks_exact_mut(4).zip(fields) {
            place.copy_from_slice(&field.to_be_bytes());
        }
        bytes
    }

    /// The reverse of [`Self::to_bytes`]; `None` for another length.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(exact::<16>(bytes).ok()?);
        Some(Self {
            expected: reader.u32()?,
            originals: reader.u32()?,
            delivered: reader.u32()?,
            runs: reader.u32()?,
        })
    }
}

/// Declares a newtype over an integer with a greatest value.
macro_rules! bounded {
    ($($(#[$meta:meta])* $name:ident($int:ident) <= $max:expr, $rule:literal;)*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name($int);

        impl $name {
            /// The greatest value allowed.
            pub const MAX: Self = Self($max);

            /// Checks the value.
            ///
            /// # Errors
            ///
            /// [`ValueError::Content`] beyond [`MAX`](Self::MAX).
            pub const fn new(value: $int) -> Result<Self, ValueError> {
                if value <= $max { Ok(Self(value)) } else { Err(ValueError::Content($rule)) }
            }

            /// The number.
            #[must_use]
            pub const fn value(self) -> $int {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl<'a> Value<'a> for $name {
            fn decode(bytes: &'a [u8]) -> Result<Self, ValueError> {
                Self::new(<$int>::decode(bytes)?)
            }
            fn encoded_len(&self) -> usize {
                self.0.encoded_len()
            }
            fn encode(&self, out: &mut impl BufMut) {
                self.0.encode(out);
            }
            fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    )*};
}

bounded! {
    /// Length of an IPv6 prefix, 0-128.
    Ipv6PrefixLength(u8) <= 128, "prefix length above 128";
    /// Number of extra copies or companions. Senders use 0, 1 and 2; receivers accept up to 8.
    RedundancyFactor(u8) <= MAX_REDUNDANCY_FACTOR, "redundancy factor above 8";
    /// Differentiated services code point, 0-63.
    Dscp(u8) <= 63, "DSCP above 63";
}

/// An IPv4 netmask: ones, then zeros.
///
/// Ours: a mask with holes is refused, since it is no prefix and nothing here could act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ipv4Netmask(u8);

impl Ipv4Netmask {
    /// The mask of a prefix of this length, 0-32.
    ///
    /// # Errors
    ///
    /// [`ValueError::Content`] above 32.
    pub const fn new(prefix_len: u8) -> Result<Self, ValueError> {
        if prefix_len <= 32 {
            Ok(Self(prefix_len))
        } else {
            Err(ValueError::Content("prefix length above 32"))
        }
    }

    /// The prefix length, 0-32.
    #[must_use]
    pub const fn prefix_len(self) -> u8 {
        self.0
    }

    /// The mask as an address, such as 255.255.255.0.
    #[must_use]
    pub fn mask(self) -> Ipv4Addr {
        let host_bits = 32 - u32::from(self.0);
        Ipv4Addr::from_bits(u32::MAX.checked_shl(host_bits).unwrap_or(0))
    }
}

impl fmt::Display for Ipv4Netmask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.mask().fmt(f)
    }
}

impl<'a> Value<'a> for Ipv4Netmask {
    fn decode(bytes: &'a [u8]) -> Result<Self, ValueError> {
        let ones = u32::from_be_bytes(*exact(bytes)?).leading_ones();
        let mask = u8::try_from(ones)
            .map(Self)
            .map_err(|_| ValueError::Content("impossible netmask"))?;
        if mask.mask().octets() == *bytes {
            Ok(mask)
        } else {
            Err(ValueError::Content("netmask has holes"))
        }
    }

    fn encoded_len(&self) -> usize {
        4
    }

    fn encode(&self, out: &mut impl BufMut) {
        out.put_slice(&self.mask().octets());
    }

    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A routed prefix: address and prefix length. Host bits are kept as sent; whoever grants it masks them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RoutedPrefix<A> {
    addr: A,
    len: u8,
}

impl<A: Copy> RoutedPrefix<A> {
    /// Address of the prefix.
    #[must_use]
    pub const fn addr(&self) -> A {
        self.addr
    }

    /// Its length in bits.
    #[must_use]
    pub const fn prefix_len(&self) -> u8 {
        self.len
    }
}

impl<A: fmt::Display> fmt::Display for RoutedPrefix<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

/// Flow or candidate: a transport and two endpoints (Connection_Info). Zero means any.
///
/// Its flags byte is sent 0. Ours: another value is refused, since it may change the meaning of what
/// can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionInfo<A> {
    /// In a flow key the inner transport (1 TCP, 3 UDP), in a peer candidate the outer one.
    pub transport: TransportCode,
    /// Source address and port.
    pub source: A,
    /// Destination address and port.
    pub destination: A,
}

impl<A: fmt::Display> fmt::Display for ConnectionInfo<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} > {}",
            self.transport, self.source, self.destination
        )
    }
}

/// Both families of a type that holds addresses.
macro_rules! of_family {
    ($addr:ty, $addr_len:literal, $max:literal, $rule:literal, $socket:ty, $socket_len:literal) => {
        impl RoutedPrefix<$addr> {
            /// A prefix.
            ///
            /// # Errors
            ///
            /// [`ValueError::Content`] if the length is beyond the address's bits.
            pub const fn new(addr: $addr, len: u8) -> Result<Self, ValueError> {
                if len <= $max {
                    Ok(Self { addr, len })
                } else {
                    Err(ValueError::Content($rule))
                }
            }
        }

        impl<'a> Value<'a> for RoutedPrefix<$addr> {
            fn decode(bytes: &'a [u8]) -> Result<Self, ValueError> {
                let [addr @ .., len] = *exact::<{ $addr_len + 1 }>(bytes)?;
                Self::new(addr.into(), len)
            }
            fn encoded_len(&self) -> usize {
                $addr_len + 1
            }
            fn encode(&self, out: &mut impl BufMut) {
                self.addr.encode(out);
                out.put_u8(self.len);
            }
            fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl<'a> Value<'a> for ConnectionInfo<$socket> {
            fn decode(bytes: &'a [u8]) -> Result<Self, ValueError> {
                let [transport, flags, endpoints @ ..] = exact::<{ 2 + 2 * $socket_len }>(bytes)?;
                if *flags != 0 {
                    return Err(ValueError::Content("unknown flags"));
                }
                let (source, destination) = endpoints.as_slice().split_at($socket_len);
                Ok(Self {
                    transport: TransportCode(*transport),
                    source: Value::decode(source)?,
                    destination: Value::decode(destination)?,
                })
            }
            fn encoded_len(&self) -> usize {
                2 + 2 * $socket_len
            }
            fn encode(&self, out: &mut impl BufMut) {
                out.put_slice(&[self.transport.0, 0]);
                self.source.encode(out);
                self.destination.encode(out);
            }
            fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

of_family!(Ipv4Addr, 4, 32, "prefix length above 32", SocketAddrV4, 6);
of_family!(
    Ipv6Addr,
    16,
    128,
    "prefix length above 128",
    SocketAddrV6,
    18
);

/// An address family as TLVs name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// 4.
    Ipv4,
    /// 6.
    Ipv6,
}

impl Family {
    const fn decode(byte: u8) -> Result<Self, ValueError> {
        match byte {
            4 => Ok(Self::Ipv4),
            6 => Ok(Self::Ipv6),
            _ => Err(ValueError::Content("family is neither 4 nor 6")),
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::Ipv4 => 4,
            Self::Ipv6 => 6,
        }
    }
}

impl From<IpAddr> for Family {
    fn from(addr: IpAddr) -> Self {
        if addr.is_ipv4() {
            Self::Ipv4
        } else {
            Self::Ipv6
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IPv{}", self.code())
    }
}

/// A wish for inner addresses of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AddressRequest {
    /// The family.
    pub family: Family,
    /// How many.
    pub count: u8,
}

impl fmt::Display for AddressRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {}", self.count, self.family)
    }
}

impl<'a> Value<'a> for AddressRequest {
    fn decode(bytes: &'a [u8]) -> Result<Self, ValueError> {
        let [family, count] = *exact(bytes)?;
        Ok(Self {
            family: Family::decode(family)?,
            count,
        })
    }

    fn encoded_len(&self) -> usize {
        2
    }

    fn encode(&self, out: &mut impl BufMut) {
        out.put_slice(&[self.family.code(), self.count]);
    }

    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where a server listens: Alternate_Server and Companion_Endpoint.
///
/// ```text
/// | transport | family 4 or 6 | port, 2 bytes | address, 4 or 16 bytes
/// ```
///
/// An unknown transport is kept: a client skips such an alternate. Flow label and scope of an IPv6
/// address are not carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServerEndpoint {
    /// Transport to use.
    pub transport: TransportCode,
    /// Address and port.
    pub addr: SocketAddr,
}

impl fmt::Display for ServerEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.transport, self.addr)
    }
}

impl<'a> Value<'a> for ServerEndpoint {
    fn decode(bytes: &'a [u8]) -> Result<Self, ValueError> {
        let short = ValueError::Length(bytes.len());
        let mut reader = Reader::new(bytes);
        let transport = TransportCode(reader.u8().ok_or(short)?);
        let family = Family::decode(reader.u8().ok_or(short)?)?;
        let port = reader.u16().ok_or(short)?;
        let address = reader.rest();
        let ip = match family {
            Family::Ipv4 => address
                .try_into()
                .map(|octets: [u8; 4]| IpAddr::from(octets)),
            Family::Ipv6 => address
                .try_into()
                .map(|octets: [u8; 16]| IpAddr::from(octets)),
        };
        let ip = ip.map_err(|_| short)?;
        Ok(Self {
            transport,
            addr: SocketAddr::new(ip, port),
        })
    }

    fn encoded_len(&self) -> usize {
        match self.addr {
            SocketAddr::V4(_) => 8,
            SocketAddr::V6(_) => 20,
        }
    }

    fn encode(&self, out: &mut impl BufMut) {
        out.put_slice(&[self.transport.0, Family::from(self.addr.ip()).code()]);
        out.put_u16(self.addr.port());
        match self.addr.ip() {
            IpAddr::V4(ip) => out.put_slice(&ip.octets()),
            IpAddr::V6(ip) => out.put_slice(&ip.octets()),
        }
    }

    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A run of zeros: its length, 0-9000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Padding(u16);

impl Padding {
    /// Padding of this many bytes.
    ///
    /// # Errors
    ///
    /// [`ValueError::Length`] above 9000.
    pub fn new(len: usize) -> Result<Self, ValueError> {
        match u16::try_from(len) {
            Ok(short) if len <= MAX_PADDING => Ok(Self(short)),
            Ok(_) | Err(_) => Err(ValueError::Length(len)),
        }
    }

    /// Padding of this many bytes, or as many as are allowed.
    #[must_use]
    pub fn saturating(len: usize) -> Self {
        Self(u16::try_from(len.min(MAX_PADDING)).unwrap_or(u16::MAX))
    }

    /// Length in bytes, without the TLV's header.
    #[must_use]
    pub fn len(self) -> usize {
        usize::from(self.0)
    }

    /// Whether there are no zeros at all, which is allowed.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Padding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0)
    }
}

impl<'a> Value<'a> for Padding {
    fn decode(bytes: &'a [u8]) -> Result<Self, ValueError> {
        let padding = Self::new(bytes.len())?;
        if bytes.iter().all(|&byte| byte == 0) {
            Ok(padding)
        } else {
            Err(ValueError::Content("padding is not zero"))
        }
    }

    fn encoded_len(&self) -> usize {
        self.len()
    }

    fn encode(&self, out: &mut impl BufMut) {
        out.put_bytes(0, self.len());
    }

    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
