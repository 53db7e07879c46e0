//! Offer and answer of one message stream: MSRP over TCP (RFC 4975 section 8), and files (RFC 5547).

use std::fmt::Write;

use super::{Description, Direction, Media, NegotiationError};
use crate::msrp::{MsrpUri, parse_path};

/// The protocol of MSRP over TCP in the clear.
pub(super) const PROTOCOL: &str = "TCP/MSRP";
/// Attributes of a message stream that are kept.
pub(super) const ATTRIBUTES: &[&str] = &[
    "accept-types",
    "accept-wrapped-types",
    "file-disposition",
    "file-selector",
    "file-transfer-id",
    "max-size",
    "path",
    "setup",
];
/// The port of the side that does not listen: it opens the connection (RFC 4145 4.1).
const DISCARD: u16 = 9;

/// What the RFCs call a hash of a file: SHA-1, the only one that RFC 5547 has. It shows accidents, and is no proof.
pub type FileHash = [u8; 20];

/// A file that is offered (RFC 5547 section 6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileOffer {
    /// Its name, without a path.
    pub name: String,
    /// Media type.
    pub content_type: String,
    /// Bytes.
    pub size: u64,
    /// Its hash.
    pub hash: Option<FileHash>,
}

/// One side of a message stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageMedia {
    /// How its messages are sent to: the next hop first.
    pub path: Vec<MsrpUri>,
    /// Media types that it takes.
    pub accept_types: Vec<String>,
    /// Bytes of the longest message that it takes, if it says so.
    pub max_size: Option<u64>,
    /// The file, if it is about one.
    pub file: Option<FileOffer>,
    /// Names the transfer of the file (RFC 5547 section 6).
    pub transfer_id: Option<String>,
    /// Which way messages go, seen from this side.
    pub direction: Direction,
}

impl MessageMedia {
    /// A chat: plain text, both ways.
    #[must_use]
    pub fn chat(local: MsrpUri) -> Self {
        Self {
            path: vec![local],
            accept_types: vec!["text/plain".to_owned()],
            max_size: None,
            file: None,
            transfer_id: None,
            direction: Direction::SendRecv,
        }
    }

    /// A file that we send.
    #[must_use]
    pub fn file(local: MsrpUri, file: FileOffer, transfer_id: String) -> Self {
        Self {
            file: Some(file),
            transfer_id: Some(transfer_id),
            direction: Direction::SendOnly,
            accept_types: vec!["*".to_owned()],
            ..Self::chat(local)
        }
    }

    /// The stream in a description. The offerer opens the connection: it is `active`, and its port says nothing.
    fn media(&self, setup: &str) -> Media {
        let ours = self.path.last().and_then(|uri| uri.port);
        let mut attributes = vec![
            ("setup".to_owned(), setup.to_owned()),
            ("accept-types".to_owned(), self.accept_types.join(" ")),
            ("path".to_owned(), paths(&self.path)),
        ];
        if let Some(size) = self.max_size {
            attributes.push(("max-size".to_owned(), size.to_string()));
        }
        if let Some(file) = &self.file {
            attributes.push(("file-selector".to_owned(), file.selector()));
            attributes.push(("file-disposition".to_owned(), "attachment".to_owned()));
        }
        if let Some(id) = &self.transfer_id {
            attributes.push(("file-transfer-id".to_owned(), id.clone()));
        }
        Media {
            kind: "message".to_owned(),
            port: ours.unwrap_or(DISCARD),
            protocol: PROTOCOL.to_owned(),
            formats: vec!["*".to_owned()],
            connection: None,
            rtp_maps: Vec::new(),
            rtcp_port: None,
            direction: self.direction,
            attributes,
        }
    }
}

fn paths(path: &[MsrpUri]) -> String {
    let uris: Vec<String> = path.iter().map(MsrpUri::to_string).collect();
    uris.join(" ")
}

impl FileOffer {
    fn selector(&self) -> String {
        let mut text = format!(
            "name:\"{}\" type:{} size:{}",
            escape(&self.name),
            self.content_type,
            self.size
        );
        if let Some(hash) = &self.hash {
            let bytes: Vec<String> = hash.iter().map(|byte| format!("{byte:02X}")).collect();
            // Writing to a String cannot fail.
            let _ = write!(text, " hash:sha-1:{}", bytes.join(":"));
        }
        text
    }

    /// Reads `file-selector`. A file that is to be sent has at least a size here; other selectors are for files that are
    /// asked for.
    fn parse(text: &str) -> Option<Self> {
        let mut file = Self {
            name: String::new(),
            content_type: "application/octet-stream".to_owned(),
            size: 0,
            hash: None,
        };
        let mut has_size = false;
        let mut rest = text.trim();
        while !rest.is_empty() {
            let (kind, value) = rest.split_once(':')?;
            let (value, after) = match value.strip_prefix('"') {
                Some(quoted) if kind == "name" => quoted.split_once('"')?,
                _ => value.split_once(' ').unwrap_or((value, "")),
            };
            match kind {
                "name" => file.name = unescape(value)?,
                "type" => file.content_type = value.to_owned(),
                "size" => {
                    file.size = value.parse().ok()?;
                    has_size = true;
                }
                "hash" => {
                    if let Some(("sha-1", digits)) = value.split_once(':') {
                        file.hash = Some(hash(digits)?);
                    }
                }
                _ => {}
            }
            rest = after.trim_start();
        }
        has_size.then_some(file)
    }
}

fn hash(digits: &str) -> Option<FileHash> {
    let byte = |text: &str| {
        let good = text.len() == 2 && text.bytes().all(|b| b.is_ascii_hexdigit());
        u8::from_str_radix(text, 16).ok().filter(|_| good)
    };
    let bytes: Option<Vec<u8>> = digits.split(':').map(byte).collect();
    bytes?.try_into().ok()
}

/// `%` escapes for what a quoted name must not hold.
fn escape(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        if c.is_control() || matches!(c, '"' | '%') {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                // Writing to a String cannot fail.
                let _ = write!(out, "%{byte:02X}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

fn unescape(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            out.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
        out.push(u8::from_str_radix(digits, 16).ok()?);
        rest = tail.get(2..)?;
    }
    String::from_utf8(out).ok()
}

impl Description {
    /// An offer of one message stream.
    #[must_use]
    pub fn message_offer(id: u64, local: &MessageMedia, origin: std::net::IpAddr) -> Self {
        Self {
            id: (id, id),
            origin,
            connection: Some(origin),
            media: vec![local.media("active")],
        }
    }

    /// Whether the first stream that is not refused is one of messages.
    #[must_use]
    pub fn is_about_messages(&self) -> bool {
        let mut wanted = self.media.iter().filter(|media| media.port != 0);
        wanted.next().is_some_and(|media| media.kind == "message")
    }

    /// The first message stream that can be used.
    ///
    /// # Errors
    ///
    /// There is none, its path or file cannot be read, or the other side does not want to open the connection.
    pub fn message_stream(&self) -> Result<MessageMedia, NegotiationError> {
        self.messages("passive").map(|(_, media)| media)
    }

    /// As [`message_stream`](Self::message_stream), unless the stream's `setup` is the one that does not fit; and where it
    /// stands.
    fn messages(&self, unfit: &str) -> Result<(usize, MessageMedia), NegotiationError> {
        let usable = |m: &Media| m.kind == "message" && m.protocol == PROTOCOL && m.port != 0;
        let (at, media) = self
            .media
            .iter()
            .enumerate()
            .find(|(_, media)| usable(media))
            .ok_or(NegotiationError::NoMessages)?;
        let attribute = |name: &str| {
            let mut found = media.attributes.iter();
            found.find(|(n, _)| n == name).map(|(_, v)| v.as_str())
        };
        if attribute("setup") == Some(unfit) {
            return Err(NegotiationError::NoMessages);
        }
        let path = attribute("path").ok_or(NegotiationError::NoAddress)?;
        let path = parse_path(path).map_err(|_| NegotiationError::NoAddress)?;
        let file = match attribute("file-selector") {
            Some(text) => Some(FileOffer::parse(text).ok_or(NegotiationError::NoMessages)?),
            None => None,
        };
        let types = attribute("accept-types").unwrap_or("*");
        Ok((
            at,
            MessageMedia {
                path,
                accept_types: types.split(' ').map(str::to_owned).collect(),
                max_size: attribute("max-size").and_then(|size| size.parse().ok()),
                file,
                transfer_id: attribute("file-transfer-id").map(str::to_owned),
                direction: media.direction,
            },
        ))
    }

    /// Answers an offer: takes its first message stream, at our URI, and refuses all others.
    ///
    /// # Errors
    ///
    /// As [`message_stream`](Self::message_stream).
    pub fn message_answer(
        offer: &Self,
        id: u64,
        local: &MsrpUri,
        origin: std::net::IpAddr,
    ) -> Result<Self, NegotiationError> {
        let (chosen, offered) = offer.messages("passive")?;
        let ours = MessageMedia {
            path: vec![local.clone()],
            direction: offered.direction.reversed(),
            max_size: None,
            ..offered
        };
        let media = offer.media.iter().enumerate();
        let media = media.map(|(at, offered)| match at == chosen {
            true => ours.media("passive"),
            false => offered.refused(),
        });
        Ok(Self {
            id: (id, id),
            origin,
            connection: Some(origin),
            media: media.collect(),
        })
    }

    /// Takes the answer to an offer of [`message_offer`](Self::message_offer).
    ///
    /// # Errors
    ///
    /// The other side refused the stream, does not listen, or gave no path.
    pub fn message_accept(answer: &Self) -> Result<MessageMedia, NegotiationError> {
        answer.messages("active").map(|(_, media)| media)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> MsrpUri {
        text.parse().unwrap()
    }

    fn through_text(session: &Description) -> Description {
        let again = Description::parse(session.to_string().as_bytes()).unwrap();
        assert_eq!(again, *session);
        again
    }

    #[test]
    fn both_sides_agree_on_a_file() {
        let file = FileOffer {
            name: "My \"cool\" 100 % pic\u{e4}.jpg".into(),
            content_type: "image/jpeg".into(),
            size: 4092,
            hash: Some(*b"01234567890123456789"),
        };
        let ours = MessageMedia::file(
            uri("msrp://192.0.2.1:9/alice;tcp"),
            file.clone(),
            "id-1".into(),
        );
        let ip = "192.0.2.1".parse().unwrap();
        let offer = through_text(&Description::message_offer(1, &ours, ip));
        assert!(offer.is_about_messages());
        let offered = offer.message_stream().unwrap();
        assert_eq!(offered, ours);

        let local = uri("msrp://192.0.2.2:2855/bob;tcp");
        let answer = Description::message_answer(&offer, 2, &local, ip).unwrap();
        let answer = through_text(&answer);
        assert_eq!(answer.media[0].port, 2855);
        let theirs = Description::message_accept(&answer).unwrap();
        assert_eq!(theirs.path, [local]);
        assert_eq!(theirs.direction, Direction::RecvOnly);
        assert_eq!(theirs.file, Some(file));
        assert_eq!(theirs.transfer_id.as_deref(), Some("id-1"));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let ip = "192.0.2.1".parse().unwrap();
        let chat = MessageMedia::chat(uri("msrp://192.0.2.1:9/a;tcp"));
        let offer = Description::message_offer(1, &chat, ip);
        let spoil = |how: fn(&mut Media)| {
            let mut spoilt = offer.clone();
            how(&mut spoilt.media[0]);
            Description::message_answer(&spoilt, 2, &chat.path[0], ip).unwrap_err()
        };
        let no = NegotiationError::NoMessages;
        assert_eq!(spoil(|m| m.port = 0), no);
        assert_eq!(spoil(|m| m.protocol = "TCP/TLS/MSRP".into()), no);
        assert_eq!(spoil(|m| m.attributes[0].1 = "passive".into()), no);
        assert_eq!(
            spoil(|m| m.attributes.push(("file-selector".into(), "size:x".into()))),
            no
        );
        assert_eq!(
            spoil(|m| m.attributes.retain(|(name, _)| name != "path")),
            NegotiationError::NoAddress
        );
        assert_eq!(
            Description::message_accept(&offer).unwrap_err(),
            no,
            "one of both has to listen"
        );
    }

    #[test]
    fn selectors_of_others_are_read() {
        let text = "hash:md5:00 type:text/plain;charset=\"utf-8\" hash:sha-1:\
            72:24:5F:E8:65:3D:DA:F3:71:36:2F:86:D4:71:91:3E:E4:A2:CE:2E size:32349 name:\"a b\"";
        let file = FileOffer::parse(text).unwrap();
        assert_eq!((file.name.as_str(), file.size), ("a b", 32349));
        assert_eq!(file.hash.unwrap()[0], 0x72);
        for text in [
            "",
            "name:\"x\"",
            "size:-1",
            "size:1 name:\"x",
            "size:1 name:\"%4\"",
            "size:1 hash:sha-1:00",
        ] {
            assert_eq!(FileOffer::parse(text), None, "{text}");
        }
    }
}
