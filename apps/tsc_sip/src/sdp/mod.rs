//! Session descriptions (RFC 8866) and the offer/answer (RFC 3264) of one G.711 stream or one message stream.
//!
//! Only what these need is understood; everything else is skipped, as both RFCs ask. Streams that are not
//! wanted are refused with port 0, so video or a second audio stream in an offer does no harm.

mod message;
mod negotiate;
mod text;

use std::{net::IpAddr, time::Duration};

pub use message::{FileHash, FileOffer, MessageMedia};
pub use negotiate::{Agreed, NegotiationError};

use crate::media::Codec;

/// Limits of the reader. Ours.
pub mod limits {
    /// Bytes of a description.
    pub const BYTES: usize = 8192;
    /// Lines.
    pub const LINES: usize = 256;
    /// Streams.
    pub const MEDIA: usize = 16;
    /// Formats of one stream.
    pub const FORMATS: usize = 64;
}

/// Media type of a body that holds a description.
pub const CONTENT_TYPE: &str = "application/sdp";

/// Why a text is no description that this program can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SdpError {
    /// Larger than [`limits`] allow.
    #[error("the description is too large")]
    TooLarge,
    /// No UTF-8.
    #[error("the description is not text")]
    NotText,
    /// A line is not `x=value`, or the description does not start with `v=0`.
    #[error("malformed line in the description")]
    Line,
    /// Malformed `o=`.
    #[error("malformed origin")]
    Origin,
    /// Malformed `c=`.
    #[error("malformed connection address")]
    Connection,
    /// Malformed `m=`.
    #[error("malformed media line")]
    Media,
    /// Malformed `a=rtpmap` or `a=rtcp`.
    #[error("malformed attribute")]
    Attribute,
}

/// Which way media flows, seen from the writer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// Both ways.
    #[default]
    SendRecv,
    /// Only from the writer.
    SendOnly,
    /// Only to the writer.
    RecvOnly,
    /// Neither.
    Inactive,
}

impl Direction {
    const ALL: [(Self, &'static str); 4] = [
        (Self::SendRecv, "sendrecv"),
        (Self::SendOnly, "sendonly"),
        (Self::RecvOnly, "recvonly"),
        (Self::Inactive, "inactive"),
    ];

    const fn reversed(self) -> Self {
        match self {
            Self::SendOnly => Self::RecvOnly,
            Self::RecvOnly => Self::SendOnly,
            Self::SendRecv | Self::Inactive => self,
        }
    }
}

/// `a=rtpmap`: what a payload type means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RtpMap {
    /// Payload type.
    pub payload_type: u8,
    /// `name/clock[/channels]`.
    pub encoding: String,
}

/// One stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Media {
    /// `audio`, `video`, ...
    pub kind: String,
    /// RTP port; 0 refuses the stream.
    pub port: u16,
    /// `RTP/AVP`, ...
    pub protocol: String,
    /// Formats as written; payload types if the protocol is RTP.
    pub formats: Vec<String>,
    /// Address of this stream, if it has its own.
    pub connection: Option<IpAddr>,
    /// What its payload types mean.
    pub rtp_maps: Vec<RtpMap>,
    /// RTCP port, if it is not the RTP port plus one (RFC 3605).
    pub rtcp_port: Option<u16>,
    /// Direction.
    pub direction: Direction,
    /// Attributes of a message stream, with their values, in order; empty for other streams.
    pub attributes: Vec<(String, String)>,
}

impl Media {
    fn codec_of(&self, format: &str) -> Option<Codec> {
        let payload_type: u8 = format.parse().ok()?;
        let map = self
            .rtp_maps
            .iter()
            .find(|map| map.payload_type == payload_type);
        let Some(map) = map else {
            return Codec::from_payload_type(payload_type);
        };
        let name = map.encoding.strip_suffix("/1").unwrap_or(&map.encoding);
        // A static type that is mapped to something else, or G.711 under a dynamic one, is not used.
        Codec::from_payload_type(payload_type).filter(|c| c.rtp_map().eq_ignore_ascii_case(name))
    }

    fn is_usable(&self) -> bool {
        self.kind == "audio" && self.protocol == "RTP/AVP" && self.port != 0
    }

    fn refused(&self) -> Self {
        Self {
            port: 0,
            formats: self.formats.iter().take(1).cloned().collect(),
            connection: None,
            rtp_maps: Vec::new(),
            rtcp_port: None,
            attributes: Vec::new(),
            ..self.clone()
        }
    }
}

/// A session description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Session id and version of `o=`.
    pub id: (u64, u64),
    /// Address in `o=`.
    pub origin: IpAddr,
    /// Address for streams that have none of their own.
    pub connection: Option<IpAddr>,
    /// The streams in order.
    pub media: Vec<Media>,
}

/// Speech in one RTP packet.
pub const PACKET_TIME: Duration = Duration::from_millis(20);
