//! Values that borrow: secrets, fingerprints, texts, lists, and what is not known.

use core::fmt;

use bytes::BufMut;
use subtle::ConstantTimeEq;

use super::value::{Value, exact};
use crate::error::ValueError;
use crate::registry::{
    AUTH_TOKEN_LEN, COOKIE_LEN, MAX_CONTROL_MESSAGE, MAX_TEXT, ServiceType, TlvType,
};

/// Declares a borrowed secret: shown only by its length, compared in constant time (spec 8.6).
macro_rules! secret {
    ($($(#[$meta:meta])* $name:ident([u8; $len:literal]);)*) => {$(
        $(#[$meta])*
        ///
        /// `Debug` and `Display` hide it; `==` takes the same time for any two values.
        #[derive(Clone, Copy)]
        pub struct $name<'a>(&'a [u8; $len]);

        impl<'a> $name<'a> {
            /// Its length in bytes.
            pub const LEN: usize = $len;

            /// Borrows the secret's bytes.
            #[must_use]
            pub const fn new(bytes: &'a [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The bytes. Copy them only into memory that is wiped.
            #[must_use]
            pub const fn expose(&self) -> &'a [u8; $len] {
                self.0
            }
        }

        hidden!($name);

        impl<'a> Value<'a> for $name<'a> {
            fn decode(bytes: &'a [u8]) -> Result<Self, ValueError> {
                exact(bytes).map(Self)
            }
            fn encoded_len(&self) -> usize {
                $len
            }
            fn encode(&self, out: &mut impl BufMut) {
                out.put_slice(self.0);
            }
            fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
    ($($(#[$meta:meta])* $name:ident([u8] in $range:expr);)*) => {$(
        $(#[$meta])*
        ///
        /// `Debug` and `Display` hide it; `==` takes the same time for any two values of one length.
        #[derive(Clone, Copy)]
        pub struct $name<'a>(&'a [u8]);

        impl<'a> $name<'a> {
            /// Checks the length.
            ///
            /// # Errors
            ///
            /// [`ValueError::Length`].
            pub fn new(bytes: &'a [u8]) -> Result<Self, ValueError> {
                if $range.contains(&bytes.len()) { Ok(Self(bytes)) } else { Err(ValueError::Length(bytes.len())) }
            }

            /// The bytes. Copy them only into memory that is wiped.
            #[must_use]
            pub const fn expose(&self) -> &'a [u8] {
                self.0
            }
        }

        hidden!($name);

        impl<'a> Value<'a> for $name<'a> {
            fn decode(bytes: &'a [u8]) -> Result<Self, ValueError> {
                Self::new(bytes)
            }
            fn encoded_len(&self) -> usize {
                self.0.len()
            }
            fn encode(&self, out: &mut impl BufMut) {
                out.put_slice(self.0);
            }
            fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}

macro_rules! hidden {
    ($name:ident) => {
        impl PartialEq for $name<'_> {
            fn eq(&self, other: &Self) -> bool {
                let (one, other): (&[u8], &[u8]) = (self.0, other.0);
                one.ct_eq(other).into()
            }
        }

        impl Eq for $name<'_> {}

        impl fmt::Debug for $name<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl fmt::Display for $name<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "<{} bytes hidden>", self.0.len())
            }
        }
    };
}

secret! {
    /// The right to claim a reserved tunnel.
    TunnelTag([u8; 16]);
    /// The key of a tunnel's resume proofs, valid for the tunnel's life.
    ResumeKey([u8; 32]);
}

secret! {
    /// What a server gave to an address to prove it can receive there: 8-64 bytes, opaque to the client.
    Cookie([u8] in COOKIE_LEN);
    /// What identifies a client to the server's operator: 1-2048 bytes, opaque (at most 900 on DTLS).
    AuthToken([u8] in AUTH_TOKEN_LEN);
}

/// Proof of a resume: counter and MAC (spec 5). Shown without the MAC, compared in constant time.
#[derive(Clone, Copy)]
pub struct ResumeProof<'a> {
    /// Raised with each attempt.
    pub counter: u32,
    /// HMAC-SHA-256 over label, TSID, counter and cookie.
    pub mac: &'a [u8; 32],
}

impl PartialEq for ResumeProof<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.counter == other.counter && bool::from(self.mac.as_slice().ct_eq(other.mac.as_slice()))
    }
}

impl Eq for ResumeProof<'_> {}

impl fmt::Debug for ResumeProof<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ResumeProof({self})")
    }
}

impl fmt::Display for ResumeProof<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "counter {} <32 bytes hidden>", self.counter)
    }
}

impl<'a> Value<'a> for ResumeProof<'a> {
    fn decode(bytes: &'a [u8]) -> Result<Self, ValueError> {
        let wrong = ValueError::Length(bytes.len());
        let (counter, mac) = bytes.split_first_chunk::<4>().ok_or(wrong)?;
        Ok(Self {
            counter: u32::from_be_bytes(*counter),
            mac: mac.try_into().map_err(|_| wrong)?,
        })
    }

    fn encoded_len(&self) -> usize {
        36
    }

    fn encode(&self, out: &mut impl BufMut) {
        out.put_u32(self.counter);
        out.put_slice(self.mac);
    }

    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// SHA-256 of a certificate's DER form. Public.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CertificateFingerprint<'a>(pub &'a [u8; 32]);

impl fmt::Debug for CertificateFingerprint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificateFingerprint({self})")
    }
}

/// Hex digits.
impl fmt::Display for CertificateFingerprint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl<'a> Value<'a> for CertificateFingerprint<'a> {
    fn decode(bytes: &'a [u8]) -> Result<Self, ValueError> {
        exact(bytes).map(Self)
    }

    fn encoded_len(&self) -> usize {
        32
    }

    fn encode(&self, out: &mut impl BufMut) {
        out.put_slice(self.0);
    }

    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text for people: UTF-8 of at most 128 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Text<'a>(&'a str);

impl<'a> Text<'a> {
    /// Checks the length.
    ///
    /// # Errors
    ///
    /// [`ValueError::Length`] above 128 bytes.
    pub const fn new(text: &'a str) -> Result<Self, ValueError> {
        if text.len() <= MAX_TEXT {
            Ok(Self(text))
        } else {
            Err(ValueError::Length(text.len()))
        }
    }

    /// As much of `text` as fits, cut between characters.
    #[must_use]
    pub fn truncated(text: &'a str) -> Self {
        Self(
            text.get(..text.floor_char_boundary(MAX_TEXT))
                .unwrap_or_default(),
        )
    }

    /// The text as sent. A peer chose it: escape it before it is shown, as `Display` does.
    #[must_use]
    pub const fn as_str(&self) -> &'a str {
        self.0
    }
}

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Text({self})")
    }
}

/// Quoted, control characters escaped.
impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.0, f)
    }
}

impl<'a> Value<'a> for Text<'a> {
    fn decode(bytes: &'a [u8]) -> Result<Self, ValueError> {
        // The length first: it is what bounds the UTF-8 check.
        if bytes.len() > MAX_TEXT {
            return Err(ValueError::Length(bytes.len()));
        }
        core::str::from_utf8(bytes)
            .map(Self)
            .map_err(|_| ValueError::Content("text is not UTF-8"))
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn encode(&self, out: &mut impl BufMut) {
        out.put_slice(self.0.as_bytes());
    }

    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A list of service types, either as received or as a program holds it.
#[derive(Clone, Copy)]
pub struct ServiceList<'a>(Services<'a>);

#[derive(Clone, Copy)]
enum Services<'a> {
    /// An even number of bytes.
    Wire(&'a [u8]),
    Values(&'a [ServiceType]),
}

impl<'a> ServiceList<'a> {
    /// Most services in a list: what a control message has room for.
    pub const MAX: usize = MAX_CONTROL_MESSAGE / 2;

    /// Checks the length.
    ///
    /// # Errors
    ///
    /// [`ValueError::Length`] above [`MAX`](Self::MAX).
    pub const fn new(services: &'a [ServiceType]) -> Result<Self, ValueError> {
        if services.len() <= Self::MAX {
            Ok(Self(Services::Values(services)))
        } else {
            Err(ValueError::Length(services.len().saturating_mul(2)))
        }
    }

    /// The services in order.
    pub fn iter(&self) -> impl Iterator<Item = ServiceType> + use<'a> {
        let (wire, values) = match self.0 {
            Services::Wire(bytes) => (bytes, Default::default()),
            Services::Values(values) => (Default::default(), values),
        };
        let wire = wire
            .as_chunks::<2>()
            .0
            .iter()
            .map(|&pair| ServiceType(u16::from_be_bytes(pair)));
        wire.chain(values.iter().copied())
    }

    /// Number of services.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self.0 {
            Services::Wire(bytes) => bytes.len() / 2,
            Services::Values(values) => values.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether `service` is in the list.
    #[must_use]
    pub fn contains(&self, service: ServiceType) -> bool {
        self.iter().any(|listed| listed == service)
    }
}

impl PartialEq for ServiceList<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for ServiceList<'_> {}

impl fmt::Debug for ServiceList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl fmt::Display for ServiceList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (index, service) in self.iter().enumerate() {
            write!(f, "{}{service}", if index == 0 { "" } else { ", " })?;
        }
        f.write_str("]")
    }
}

impl<'a> Value<'a> for ServiceList<'a> {
    fn decode(bytes: &'a [u8]) -> Result<Self, ValueError> {
        if bytes.len().is_multiple_of(2) && bytes.len() <= Self::MAX * 2 {
            Ok(Self(Services::Wire(bytes)))
        } else {
            Err(ValueError::Length(bytes.len()))
        }
    }

    fn encoded_len(&self) -> usize {
        self.len() * 2
    }

    fn encode(&self, out: &mut impl BufMut) {
        self.iter().for_each(|service| out.put_u16(service.0));
    }

    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A TLV that this crate does not know and may ignore, private ones (0xFF00-0xFFFE) included.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct UnknownTlv<'a> {
    ty: TlvType,
    value: &'a [u8],
}

impl<'a> UnknownTlv<'a> {
    /// Makes one; `None` for a known type or one that must be understood.
    #[must_use]
    pub const fn new(ty: TlvType, value: &'a [u8]) -> Option<Self> {
        if ty.is_known() || !ty.is_ignorable() {
            None
        } else {
            Some(Self { ty, value })
        }
    }

    /// Its type.
    #[must_use]
    pub const fn ty(&self) -> TlvType {
        self.ty
    }

    /// Its value.
    #[must_use]
    pub const fn value(&self) -> &'a [u8] {
        self.value
    }
}

/// Type and length only: what is not known may be a secret.
impl fmt::Debug for UnknownTlv<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "UnknownTlv({:#x}, {} bytes)",
            self.ty.0,
            self.value.len()
        )
    }
}
