//! How each value stands on the wire: one implementation per Rust type.

use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};

use bytes::BufMut;

use crate::error::ValueError;
use crate::ids::Tsid;
use crate::registry::{RedundancyMethod, ResponseCode, ServiceType, TlvType};

/// A TLV's value. A value that exists can be encoded, and what was encoded decodes to the same value.
pub(crate) trait Value<'a>: Sized {
    fn decode(bytes: &'a [u8]) -> Result<Self, ValueError>;
    fn encoded_len(&self) -> usize;
    /// Appends `encoded_len` bytes; the caller has made sure of the room.
    fn encode(&self, out: &mut impl BufMut);
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;
}

/// The value as an array, if it has exactly that length.
pub(crate) fn exact<const N: usize>(bytes: &[u8]) -> Result<&[u8; N], ValueError> {
    bytes
        .try_into()
        .map_err(|_| ValueError::Length(bytes.len()))
}

/// Fixed-length values that any bytes of that length make: array in, array out.
macro_rules! plain {
    ($($ty:ty, $len:literal, |$array:ident| $decode:expr, |$value:ident| $encode:expr;)*) => {$(
        impl<'a> Value<'a> for $ty {
            fn decode(bytes: &'a [u8]) -> Result<Self, ValueError> {
                let $array = *exact::<$len>(bytes)?;
                Ok($decode)
            }
            fn encoded_len(&self) -> usize {
                $len
            }
            fn encode(&self, out: &mut impl BufMut) {
                let $value = self;
                let array: [u8; $len] = $encode;
                out.put_slice(&array);
            }
            fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}
pub(crate) use plain;

plain! {
    u8, 1, |array| Self::from_be_bytes(array), |value| value.to_be_bytes();
    u16, 2, |array| Self::from_be_bytes(array), |value| value.to_be_bytes();
    u32, 4, |array| Self::from_be_bytes(array), |value| value.to_be_bytes();
    Tsid, 8, |array| Self(u64::from_be_bytes(array)), |value| value.0.to_be_bytes();
    ServiceType, 2, |array| Self(u16::from_be_bytes(array)), |value| value.0.to_be_bytes();
    ResponseCode, 2, |array| Self(u16::from_be_bytes(array)), |value| value.0.to_be_bytes();
    TlvType, 2, |array| Self(u16::from_be_bytes(array)), |value| value.0.to_be_bytes();
    RedundancyMethod, 1, |array| Self(u8::from_be_bytes(array)), |value| value.0.to_be_bytes();
    Ipv4Addr, 4, |array| Self::from(array), |value| value.octets();
    Ipv6Addr, 16, |array| Self::from(array), |value| value.octets();
    SocketAddrV4, 6,
        |array| { let [a, b, c, d, high, low] = array;
                  Self::new(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low])) },
        |value| { let [a, b, c, d] = value.ip().octets(); let [high, low] = value.port().to_be_bytes();
                  [a, b, c, d, high, low] };
    SocketAddrV6, 18,
        |array| { let [ip @ .., high, low] = array;
                  Self::new(Ipv6Addr::from(ip), u16::from_be_bytes([high, low]), 0, 0) },
        |value| { let mut array = [0; 18];
                  let (ip, port) = array.split_at_mut(16);
                  ip.copy_from_slice(&value.ip().octets());
                  port.copy_from_slice(&value.port().to_be_bytes());
                  array };
}

/// Peer_Service_Response: whether the peer is available.
impl<'a> Value<'a> for bool {
    fn decode(bytes: &'a [u8]) -> Result<Self, ValueError> {
        match *exact::<1>(bytes)? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(ValueError::Content("neither 0 nor 1")),
        }
    }

    fn encoded_len(&self) -> usize {
        1
    }

    fn encode(&self, out: &mut impl BufMut) {
        out.put_u8(u8::from(*self));
    }

    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self { "available" } else { "unavailable" })
    }
}
