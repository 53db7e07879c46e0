//! Session descriptions (RFC 8866) and the offer/answer of one G.711 stream (RFC 3264).
//!
//! Only what a voice call needs is understood; everything else is skipped, as both RFCs ask. Streams that are not
//! wanted are refused with port 0, so video or a second audio stream in an offer does no harm.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

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

/// Why no call comes out of an offer or an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NegotiationError {
    /// No audio stream over RTP/AVP with PCMU or PCMA.
    #[error("no common codec")]
    NoCommonCodec,
    /// The chosen stream has no usable address.
    #[error("the stream has no address")]
    NoAddress,
    /// The answer does not fit the offer.
    #[error("the answer does not fit the offer")]
    Mismatch,
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

/// What both sides agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// Codec for both directions.
    pub codec: Codec,
    /// Where our RTP goes.
    pub remote_rtp: SocketAddr,
    /// Where our RTCP goes.
    pub remote_rtcp: SocketAddr,
    /// Whether the peer wants to hear us.
    pub send: bool,
    /// Whether the peer lets us hear it.
    pub receive: bool,
}

impl Description {
    /// An offer of one audio stream with these codecs, best first.
    #[must_use]
    pub fn offer(id: u64, rtp: SocketAddr, rtcp: SocketAddr, codecs: &[Codec]) -> Self {
        Self {
            id: (id, id),
            origin: rtp.ip(),
            connection: Some(rtp.ip()),
            media: vec![Self::stream(rtp, rtcp, codecs, Direction::SendRecv)],
        }
    }

    fn stream(rtp: SocketAddr, rtcp: SocketAddr, codecs: &[Codec], direction: Direction) -> Media {
        Media {
            kind: "audio".to_owned(),
            port: rtp.port(),
            protocol: "RTP/AVP".to_owned(),
            formats: codecs
                .iter()
                .map(|c| c.payload_type().to_string())
                .collect(),
            connection: None,
            rtp_maps: codecs
                .iter()
                .map(|c| RtpMap {
                    payload_type: c.payload_type(),
                    encoding: c.rtp_map().to_owned(),
                })
                .collect(),
            rtcp_port: (Some(rtcp.port()) != rtp.port().checked_add(1)).then_some(rtcp.port()),
            direction,
        }
    }

    /// Answers an offer: the first audio stream with a codec of ours, in the offerer's order of preference.
    ///
    /// # Errors
    ///
    /// Nothing in the offer is usable: refuse the call with 488.
    pub fn answer(
        offer: &Self,
        id: u64,
        rtp: SocketAddr,
        rtcp: SocketAddr,
        ours: &[Codec],
    ) -> Result<(Self, Agreed), NegotiationError> {
        let chosen = offer.media.iter().enumerate().find_map(|(at, media)| {
            let codec = media
                .formats
                .iter()
                .filter_map(|format| media.codec_of(format))
                .find(|codec| ours.contains(codec))?;
            media.is_usable().then_some((at, codec))
        });
        let (chosen, codec) = chosen.ok_or(NegotiationError::NoCommonCodec)?;
        let mut agreed = None;
        let mut media = Vec::new();
        for (at, offered) in offer.media.iter().enumerate() {
            if at == chosen {
                agreed = Some(offer.agreed(offered, codec)?);
                let direction = offered.direction.reversed();
                media.push(Self::stream(rtp, rtcp, &[codec], direction));
            } else {
                media.push(offered.refused());
            }
        }
        let answer = Self {
            id: (id, id),
            origin: rtp.ip(),
            connection: Some(rtp.ip()),
            media,
        };
        let agreed = agreed.ok_or(NegotiationError::NoCommonCodec)?;
        Ok((answer, agreed))
    }

    /// Takes the answer to an offer of [`Description::offer`].
    ///
    /// # Errors
    ///
    /// The peer refused the stream, chose what was not offered, or gave no address.
    pub fn accept(offer: &Self, answer: &Self) -> Result<Agreed, NegotiationError> {
        let ([offered], [answered]) = (offer.media.as_slice(), answer.media.as_slice()) else {
            return Err(NegotiationError::Mismatch);
        };
        if !answered.is_usable() {
            return Err(NegotiationError::NoCommonCodec);
        }
        let codec = answered
            .formats
            .iter()
            .find(|format| offered.formats.contains(format))
            .and_then(|format| answered.codec_of(format))
            .ok_or(NegotiationError::Mismatch)?;
        answer.agreed(answered, codec)
    }

    fn agreed(&self, media: &Media, codec: Codec) -> Result<Agreed, NegotiationError> {
        let ip = media
            .connection
            .or(self.connection)
            .filter(|ip| !ip.is_unspecified() && !ip.is_multicast())
            .ok_or(NegotiationError::NoAddress)?;
        let rtcp_port = media
            .rtcp_port
            .or_else(|| media.port.checked_add(1))
            .ok_or(NegotiationError::NoAddress)?;
        Ok(Agreed {
            codec,
            remote_rtp: SocketAddr::new(ip, media.port),
            remote_rtcp: SocketAddr::new(ip, rtcp_port),
            send: matches!(media.direction, Direction::SendRecv | Direction::RecvOnly),
            receive: matches!(media.direction, Direction::SendRecv | Direction::SendOnly),
        })
    }

    /// Reads a description.
    ///
    /// # Errors
    ///
    /// Which rule failed.
    pub fn parse(bytes: &[u8]) -> Result<Self, SdpError> {
        if bytes.len() > limits::BYTES {
            return Err(SdpError::TooLarge);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| SdpError::NotText)?;
        // Lines end with CRLF; a lone LF should be accepted (RFC 8866 5).
        let mut lines = text.lines().filter(|line| !line.is_empty());
        if lines.next() != Some("v=0") {
            return Err(SdpError::Line);
        }
        let mut session = Self {
            id: (0, 0),
            origin: UNKNOWN,
            connection: None,
            media: Vec::new(),
        };
        let mut has_origin = false;
        let mut direction = Direction::default();
        for (at, line) in lines.enumerate() {
            if at >= limits::LINES {
                return Err(SdpError::TooLarge);
            }
            let (kind, value) = line.split_once('=').ok_or(SdpError::Line)?;
            match (kind, session.media.last_mut()) {
                ("o", None) => {
                    (session.id, session.origin) = origin(value)?;
                    has_origin = true;
                }
                ("c", None) => session.connection = Some(connection(value)?),
                ("c", Some(media)) => media.connection = Some(connection(value)?),
                ("m", _) => {
                    if session.media.len() == limits::MEDIA {
                        return Err(SdpError::TooLarge);
                    }
                    session.media.push(media_line(value, direction)?);
                }
                ("a", None) => set_direction(&mut direction, value),
                ("a", Some(media)) => attribute(media, value)?,
                (other, _) if other.len() == 1 => {}
                _ => return Err(SdpError::Line),
            }
        }
        if has_origin {
            Ok(session)
        } else {
            Err(SdpError::Origin)
        }
    }
}

/// Stands for an origin that is no address literal.
const UNKNOWN: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

fn address(net: &str, kind: &str, text: &str) -> Option<IpAddr> {
    // Multicast addresses carry a TTL after a slash; it does not interest us.
    let text = text.split('/').next()?;
    match (net, kind) {
        ("IN", "IP4") => text.parse().ok().map(IpAddr::V4),
        ("IN", "IP6") => text.parse().ok().map(IpAddr::V6),
        _ => None,
    }
}

fn origin(value: &str) -> Result<((u64, u64), IpAddr), SdpError> {
    let fields: Vec<&str> = value.split(' ').collect();
    let [_, id, version, net, kind, ip] = fields[..] else {
        return Err(SdpError::Origin);
    };
    // Numbers may be longer than we can hold; they only have to be numbers.
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let (Some(id), Some(version)) = (number(id), number(version)) else {
        return Err(SdpError::Origin);
    };
    // A host name is legal here and says nothing that we need.
    let ip = address(net, kind, ip).unwrap_or(UNKNOWN);
    Ok(((id, version), ip))
}

fn connection(value: &str) -> Result<IpAddr, SdpError> {
    let fields: Vec<&str> = value.split(' ').collect();
    let [net, kind, ip] = fields[..] else {
        return Err(SdpError::Connection);
    };
    address(net, kind, ip).ok_or(SdpError::Connection)
}

fn media_line(value: &str, direction: Direction) -> Result<Media, SdpError> {
    let mut fields = value.split(' ').filter(|f| !f.is_empty());
    let mut next = || fields.next().ok_or(SdpError::Media);
    let (kind, port, protocol) = (next()?, next()?, next()?);
    // "port/count": several ports for one stream; the first is what a single stream uses.
    let port = port.split('/').next().unwrap_or_default();
    let formats: Vec<String> = fields.map(str::to_owned).collect();
    if formats.is_empty() || formats.len() > limits::FORMATS {
        return Err(SdpError::Media);
    }
    Ok(Media {
        kind: kind.to_owned(),
        port: port.parse().map_err(|_| SdpError::Media)?,
        protocol: protocol.to_owned(),
        formats,
        connection: None,
        rtp_maps: Vec::new(),
        rtcp_port: None,
        direction,
    })
}

fn set_direction(direction: &mut Direction, value: &str) {
    if let Some((found, _)) = Direction::ALL.iter().find(|(_, name)| *name == value) {
        *direction = *found;
    }
}

fn attribute(media: &mut Media, value: &str) -> Result<(), SdpError> {
    match value.split_once(':') {
        Some(("rtpmap", map)) => {
            let (payload_type, encoding) = map
                .trim_start()
                .split_once(' ')
                .ok_or(SdpError::Attribute)?;
            let payload_type = payload_type.parse().map_err(|_| SdpError::Attribute)?;
            // As many as formats: what is beyond cannot mean anything.
            if media.rtp_maps.len() < limits::FORMATS {
                media.rtp_maps.push(RtpMap {
                    payload_type,
                    encoding: encoding.trim().to_owned(),
                });
            }
        }
        Some(("rtcp", port)) => {
            let port = port.split(' ').next().unwrap_or_default();
            media.rtcp_port = Some(port.parse().map_err(|_| SdpError::Attribute)?);
        }
        _ => set_direction(&mut media.direction, value),
    }
    Ok(())
}

const fn family(ip: IpAddr) -> &'static str {
    match ip {
        IpAddr::V4(_) => "IP4",
        IpAddr::V6(_) => "IP6",
    }
}

/// The body for the wire.
impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, version) = self.id;
        let origin = self.origin;
        write!(
            f,
            "v=0\r\no=- {id} {version} IN {} {origin}\r\ns=-\r\n",
            family(origin)
        )?;
        if let Some(ip) = self.connection {
            write!(f, "c=IN {} {ip}\r\n", family(ip))?;
        }
        f.write_str("t=0 0\r\n")?;
        for media in &self.media {
            let Media {
                kind,
                port,
                protocol,
                ..
            } = media;
            write!(
                f,
                "m={kind} {port} {protocol} {}\r\n",
                media.formats.join(" ")
            )?;
            if let Some(ip) = media.connection {
                write!(f, "c=IN {} {ip}\r\n", family(ip))?;
            }
            for map in &media.rtp_maps {
                write!(f, "a=rtpmap:{} {}\r\n", map.payload_type, map.encoding)?;
            }
            if let Some(port) = media.rtcp_port {
                write!(f, "a=rtcp:{port}\r\n")?;
            }
            if *port != 0 {
                write!(f, "a=ptime:{}\r\n", PACKET_TIME.as_millis())?;
            }
            let (_, name) = Direction::ALL
                .iter()
                .find(|(direction, _)| *direction == media.direction)
                .unwrap_or(&Direction::ALL[0]);
            write!(f, "a={name}\r\n")?;
        }
        Ok(())
    }
}

/// Speech in one RTP packet.
pub const PACKET_TIME: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn offer(codecs: &[Codec]) -> Description {
        Description::offer(1, at("192.0.2.1:4000"), at("192.0.2.1:4001"), codecs)
    }

    fn answer_to(
        offer: &Description,
        ours: &[Codec],
    ) -> Result<(Description, Agreed), NegotiationError> {
        Description::answer(
            offer,
            2,
            at("[2001:db8::2]:5000"),
            at("[2001:db8::2]:5009"),
            ours,
        )
    }

    #[test]
    fn both_sides_agree() {
        let offer = offer(&[Codec::Pcma, Codec::Pcmu]);
        let parsed = Description::parse(offer.to_string().as_bytes()).unwrap();
        assert_eq!(parsed, offer);
        let (answer, callee) = answer_to(&parsed, &[Codec::Pcmu, Codec::Pcma]).unwrap();
        assert_eq!(callee.codec, Codec::Pcma, "the offerer's order counts");
        assert_eq!(callee.remote_rtp, at("192.0.2.1:4000"));
        assert_eq!(callee.remote_rtcp, at("192.0.2.1:4001"));
        let answer = Description::parse(answer.to_string().as_bytes()).unwrap();
        let caller = Description::accept(&offer, &answer).unwrap();
        assert_eq!(caller.codec, Codec::Pcma);
        assert_eq!(caller.remote_rtp, at("[2001:db8::2]:5000"));
        assert_eq!(caller.remote_rtcp, at("[2001:db8::2]:5009"), "a=rtcp");
        assert!(caller.send && caller.receive && callee.send && callee.receive);
    }

    #[test]
    fn foreign_offers_are_understood() {
        let text = "v=0\no=bob 99999999999999999999999 1 IN IP4 host.example\ns=call\n\
            c=IN IP4 192.0.2.9\nt=0 0\na=sendonly\nm=video 4002 RTP/AVP 31\n\
            m=audio 4000/2 RTP/AVP 96 101 0\na=rtpmap:96 opus/48000/2\n\
            a=rtpmap:101 telephone-event/8000\na=fmtp:101 0-16\na=rtcp-mux\na=ptime:20\n";
        let offer = Description::parse(text.as_bytes()).unwrap();
        let (answer, agreed) = answer_to(&offer, &[Codec::Pcmu]).unwrap();
        assert_eq!(agreed.codec, Codec::Pcmu);
        assert!(agreed.receive && !agreed.send);
        assert_eq!(answer.media[0].port, 0, "video is refused");
        assert_eq!(answer.media[1].direction, Direction::RecvOnly);
        assert_eq!(answer.media[1].formats, ["0"]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let only_a = offer(&[Codec::Pcma]);
        assert_eq!(
            answer_to(&only_a, &[Codec::Pcmu]).unwrap_err(),
            NegotiationError::NoCommonCodec
        );
        let (mut answer, _) = answer_to(&only_a, &[Codec::Pcma]).unwrap();
        let only_u = offer(&[Codec::Pcmu]);
        let accept = |answer: &Description| Description::accept(&only_u, answer).unwrap_err();
        assert_eq!(accept(&answer), NegotiationError::Mismatch);
        answer.media[0].port = 0;
        assert_eq!(accept(&answer), NegotiationError::NoCommonCodec);
        answer.media.clear();
        assert_eq!(accept(&answer), NegotiationError::Mismatch);
        let mut nowhere = only_a;
        nowhere.connection = None;
        let error = answer_to(&nowhere, &[Codec::Pcma]).unwrap_err();
        assert_eq!(error, NegotiationError::NoAddress);
        // A static payload type that is mapped to something else is not G.711.
        let mut remapped = offer(&[Codec::Pcmu]);
        remapped.media[0].rtp_maps[0].encoding = "L16/8000".into();
        let error = answer_to(&remapped, &[Codec::Pcmu]).unwrap_err();
        assert_eq!(error, NegotiationError::NoCommonCodec);
    }

    #[test]
    fn malformed_descriptions_say_why() {
        let start = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\n";
        for (text, error) in [
            (String::new(), SdpError::Line),
            ("v=1\r\n".into(), SdpError::Line),
            ("v=0\r\n".into(), SdpError::Origin),
            ("v=0\r\no=- x 1 IN IP4 1.2.3.4\r\n".into(), SdpError::Origin),
            (format!("{start}c=IN IP4 1.2.3\r\n"), SdpError::Connection),
            (format!("{start}m=audio x RTP/AVP 0\r\n"), SdpError::Media),
            (format!("{start}m=audio 1 RTP/AVP\r\n"), SdpError::Media),
            (
                format!("{start}m=audio 1 RTP/AVP 0\r\na=rtpmap:x\r\n"),
                SdpError::Attribute,
            ),
            (format!("{start}nonsense\r\n"), SdpError::Line),
            (
                start.to_owned() + &"a=x\r\n".repeat(257),
                SdpError::TooLarge,
            ),
            (
                start.to_owned() + &"m=audio 1 RTP/AVP 0\r\n".repeat(17),
                SdpError::TooLarge,
            ),
        ] {
            assert_eq!(Description::parse(text.as_bytes()), Err(error), "{text}");
        }
    }
}
