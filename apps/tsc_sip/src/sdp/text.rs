//! A description as text: reading (RFC 8866) and writing.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use super::{Description, Direction, Media, PACKET_TIME, RtpMap, SdpError, limits, message};

impl Description {
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
        attributes: Vec::new(),
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
        Some((name, value))
            if media.protocol == message::PROTOCOL && message::ATTRIBUTES.contains(&name) =>
        {
            media.attributes.push((name.to_owned(), value.to_owned()));
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
            for (name, value) in &media.attributes {
                write!(f, "a={name}:{value}\r\n")?;
            }
            if *port != 0 && protocol == "RTP/AVP" {
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

#[cfg(test)]
mod tests {
    use super::*;

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
