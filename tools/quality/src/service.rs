//! What the caller asks of its tunnel.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Outer transports, by their names on command lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "their names")]
pub enum Transport {
    Tcp,
    Tls,
    Udp,
    Dtls,
}

impl Transport {
    /// All four.
    pub const ALL: [Self; 4] = [Self::Tcp, Self::Tls, Self::Udp, Self::Dtls];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Udp => "udp",
            Self::Dtls => "dtls",
        }
    }

    /// Whether what is lost is sent again, and all that follows waits for it.
    #[must_use]
    pub const fn is_stream(self) -> bool {
        matches!(self, Self::Tcp | Self::Tls)
    }
}

/// A service, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Service {
    /// Media as it is.
    Plain,
    /// Each packet once more in the next datagram.
    OneCopy,
    /// Each packet once more in each of the next two datagrams.
    TwoCopies,
    /// As many copies as the losses make necessary.
    Adaptive,
}

impl Service {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 4] = [Self::Plain, Self::OneCopy, Self::TwoCopies, Self::Adaptive];

    /// Its name in results and on our command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::OneCopy => "1-copy",
            Self::TwoCopies => "2-copies",
            Self::Adaptive => "adaptive",
        }
    }

    /// What the caller's command line has for it.
    #[must_use]
    pub const fn options(self) -> &'static [&'static str] {
        match self {
            Self::Plain => &[],
            Self::OneCopy => &["--redundancy", "1"],
            Self::TwoCopies => &["--redundancy", "2"],
            Self::Adaptive => &["--redundancy", "adaptive"],
        }
    }

    /// Whether there is such a thing on this transport.
    #[must_use]
    pub const fn is_for(self, transport: Transport) -> bool {
        match self {
            Self::Plain => true,
            Self::OneCopy | Self::TwoCopies | Self::Adaptive => !transport.is_stream(),
        }
    }

    /// Copies of each packet, if that is what it is and they are always as many.
    #[must_use]
    pub const fn copies(self) -> Option<i32> {
        match self {
            Self::Plain => Some(0),
            Self::OneCopy => Some(1),
            Self::TwoCopies => Some(2),
            Self::Adaptive => None,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
