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
    /// In datagrams beside the stream.
    Ddt,
    /// Each packet over a further stream as well.
    #[serde(rename = "fan-out-1")]
    OneStream,
    /// Each packet over two further streams as well.
    #[serde(rename = "fan-out-2")]
    TwoStreams,
    /// Each packet over one of three streams: that on which least waits.
    Balanced,
}

impl Service {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 8] = [
        Self::Plain,
        Self::OneCopy,
        Self::TwoCopies,
        Self::Adaptive,
        Self::Ddt,
        Self::OneStream,
        Self::TwoStreams,
        Self::Balanced,
    ];

    /// Its name in results and on our command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::OneCopy => "1-copy",
            Self::TwoCopies => "2-copies",
            Self::Adaptive => "adaptive",
            Self::Ddt => "ddt",
            Self::OneStream => "fan-out-1",
            Self::TwoStreams => "fan-out-2",
            Self::Balanced => "balanced",
        }
    }

    /// What the caller's command line has for it.
    #[must_use]
    pub const fn options(self) -> &'static [&'static str] {
        match self {
            Self::Plain => &[],
            Self::OneCopy | Self::OneStream => &["--redundancy", "1"],
            Self::TwoCopies | Self::TwoStreams => &["--redundancy", "2"],
            Self::Adaptive => &["--redundancy", "adaptive"],
            Self::Ddt => &["--ddt"],
            Self::Balanced => &["--redundancy", "balanced"],
        }
    }

    /// Whether it is measured on this transport.
    #[must_use]
    pub const fn is_for(self, transport: Transport) -> bool {
        match self {
            Self::Plain => true,
            Self::OneCopy | Self::TwoCopies | Self::Adaptive => !transport.is_stream(),
            Self::Ddt => transport.is_stream(),
            // TLS adds some bytes to each stream, and nothing else.
            Self::OneStream | Self::TwoStreams | Self::Balanced => {
                matches!(transport, Transport::Tcp)
            }
        }
    }

    /// Streams that carry the media of a stream tunnel; none if it goes beside it.
    #[must_use]
    pub const fn streams(self) -> usize {
        match self {
            Self::Plain => 1,
            Self::OneStream => 2,
            Self::TwoStreams | Self::Balanced => 3,
            Self::Ddt | Self::OneCopy | Self::TwoCopies | Self::Adaptive => 0,
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
