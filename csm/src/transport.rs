//! The four outer transports, and what they deliver instead of units.

use std::fmt;

use tsc_tpl::{DatagramError, FramingError, TransportCode};

/// What a tunnel runs over (spec 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// A clear stream.
    Tcp,
    /// A protected stream.
    Tls,
    /// Clear datagrams.
    Udp,
    /// Protected datagrams.
    Dtls,
}

impl Transport {
    /// All four, in the order of their wire codes.
    pub const ALL: [Self; 4] = [Self::Tcp, Self::Tls, Self::Udp, Self::Dtls];

    /// TCP and TLS keep order and lose nothing; UDP and DTLS do neither.
    #[must_use]
    pub const fn is_stream(self) -> bool {
        matches!(self, Self::Tcp | Self::Tls)
    }

    /// TLS and DTLS give secrecy, integrity and replay protection; TCP and UDP give none.
    #[must_use]
    pub const fn is_protected(self) -> bool {
        matches!(self, Self::Tls | Self::Dtls)
    }

    /// `tcp`, `tls`, `udp` or `dtls`: for configurations, URLs and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Udp => "udp",
            Self::Dtls => "dtls",
        }
    }

    /// The code of this transport in TLVs 11, 12, 32 and 39 (spec 3.3).
    #[must_use]
    pub const fn code(self) -> TransportCode {
        match self {
            Self::Tcp => TransportCode::TCP,
            Self::Tls => TransportCode::TLS,
            Self::Udp => TransportCode::UDP,
            Self::Dtls => TransportCode::DTLS,
        }
    }

    /// The transport of a wire code; `None` for codes this revision does not know.
    #[must_use]
    pub fn from_code(code: TransportCode) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|transport| transport.code() == code)
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a transport delivered instead of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadUnit {
    /// A stream that cannot go on.
    #[error(transparent)]
    Framing(#[from] FramingError),
    /// A datagram that holds no unit.
    #[error(transparent)]
    Datagram(#[from] DatagramError),
}
