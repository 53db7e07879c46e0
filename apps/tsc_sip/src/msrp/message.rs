//! Chunks: what their heads say (RFC 4975 section 9), and how they are written.

use std::fmt;

use super::{MsrpUri, uri::Path};

/// Status codes (RFC 4975 section 10).
#[allow(missing_docs)]
pub mod status {
    pub const OK: u16 = 200;
    pub const BAD_REQUEST: u16 = 400;
    pub const TIMEOUT: u16 = 408;
    /// Stop sending this message.
    pub const STOP: u16 = 413;
    pub const UNSUPPORTED_MEDIA_TYPE: u16 = 415;
    pub const NO_SUCH_SESSION: u16 = 481;
    pub const UNKNOWN_METHOD: u16 = 501;
}

/// A header field that must be there is not, or has an impossible value: 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed or missing {0}")]
pub struct Malformed(pub &'static str);

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    /// A chunk of a message.
    Send,
    /// What became of a message.
    Report,
    /// Another one, in capital letters.
    Other(String),
}

impl Method {
    /// As it stands in a request.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Send => "SEND",
            Self::Report => "REPORT",
            Self::Other(text) => text,
        }
    }
}

/// First line, without the transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// A request.
    Request(Method),
    /// A response.
    Response {
        /// Its code, three digits.
        code: u16,
        /// The same for people; may be empty.
        comment: String,
    },
}

/// How a chunk ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// `$`: the message ends with it.
    End,
    /// `+`: more chunks of the message follow.
    More,
    /// `#`: the rest of the message is not sent any more.
    Abort,
}

impl Flag {
    /// Its character.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Self::End => b'$',
            Self::More => b'+',
            Self::Abort => b'#',
        }
    }

    /// Reads it.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'$' => Some(Self::End),
            b'+' => Some(Self::More),
            b'#' => Some(Self::Abort),
            _ => None,
        }
    }
}

/// `Byte-Range`: which bytes of a message, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// First byte; at least 1.
    pub start: u64,
    /// Last byte; one less than `start` if there is none, absent if not known yet.
    pub end: Option<u64>,
    /// Bytes of the whole message, if known.
    pub total: Option<u64>,
}

impl ByteRange {
    /// What a chunk without the header field has (7.1.1).
    pub const DEFAULT: Self = Self {
        start: 1,
        end: None,
        total: None,
    };

    /// Reads `start "-" (end / "*") "/" (total / "*")`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (start, rest) = text.split_once('-')?;
        let (end, total) = rest.split_once('/')?;
        let star = |text: &str| match text {
            "*" => Some(None),
            digits => number(digits).map(Some),
        };
        let range = Self {
            start: number(start).filter(|n| *n > 0)?,
            end: star(end)?,
            total: star(total)?,
        };
        let last = range.start - 1;
        let in_order = range.end.is_none_or(|end| end >= last)
            && range
                .total
                .is_none_or(|total| total >= range.end.unwrap_or(last).max(last));
        in_order.then_some(range)
    }
}

/// Digits only, and what fits into an `i64`, so that sums cannot overflow.
fn number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse::<i64>().ok().filter(|_| digits)?.try_into().ok()
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = |n: Option<u64>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
        write!(f, "{}-{}/{}", self.start, star(self.end), star(self.total))
    }
}

/// Everything of a chunk before its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Names the transaction, and ends the chunk.
    pub transaction: String,
    /// Request or response.
    pub start: Start,
    /// Where it goes, next hop first; never empty in a head that was read.
    pub to_path: Vec<MsrpUri>,
    /// Where it comes from, previous hop first; never empty in a head that was read.
    pub from_path: Vec<MsrpUri>,
    /// All other header fields in order.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// A request with a path and no further header fields.
    #[must_use]
    pub fn request(method: Method, transaction: String, to: &[MsrpUri], from: &MsrpUri) -> Self {
        Self {
            transaction,
            start: Start::Request(method),
            to_path: to.to_vec(),
            from_path: vec![from.clone()],
            headers: Vec::new(),
        }
    }

    /// The response to this request: it goes to the previous hop only (7.2).
    #[must_use]
    pub fn response(&self, code: u16) -> Self {
        let comment = match code {
            status::OK => "OK",
            status::BAD_REQUEST => "Bad Request",
            status::STOP => "Stop Sending",
            status::UNSUPPORTED_MEDIA_TYPE => "Unsupported Media Type",
            status::NO_SUCH_SESSION => "No Such Session",
            status::UNKNOWN_METHOD => "Unknown Method",
            _ => "",
        };
        Self {
            transaction: self.transaction.clone(),
            start: Start::Response {
                code,
                comment: comment.to_owned(),
            },
            to_path: self.from_path.iter().take(1).cloned().collect(),
            from_path: self.to_path.iter().take(1).cloned().collect(),
            headers: Vec::new(),
        }
    }

    /// Appends a header field.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Value of the first other header field of that name. Case of the name does not matter.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter();
        let (_, value) = found.find(|(n, _)| n.eq_ignore_ascii_case(name))?;
        Some(value)
    }

    /// The message that it belongs to.
    ///
    /// # Errors
    ///
    /// There is none, or it is no identifier.
    pub fn message_id(&self) -> Result<&str, Malformed> {
        let id = self.header("Message-ID").filter(|id| is_ident(id));
        id.ok_or(Malformed("Message-ID"))
    }

    /// The bytes that it holds.
    ///
    /// # Errors
    ///
    /// The header field is there and cannot be read.
    pub fn byte_range(&self) -> Result<ByteRange, Malformed> {
        match self.header("Byte-Range") {
            None => Ok(ByteRange::DEFAULT),
            Some(text) => ByteRange::parse(text).ok_or(Malformed("Byte-Range")),
        }
    }

    /// The code in `Status` of a REPORT.
    ///
    /// # Errors
    ///
    /// There is none, or it cannot be read.
    pub fn report_status(&self) -> Result<u16, Malformed> {
        let bad = Malformed("Status");
        // Namespace 000 is all that there is.
        let rest = self
            .header("Status")
            .and_then(|value| value.strip_prefix("000 "))
            .ok_or(bad)?;
        let code = rest.split(' ').next().unwrap_or_default();
        code_of(code).ok_or(bad)
    }
}

/// Three digits.
pub(super) fn code_of(text: &str) -> Option<u16> {
    let good = text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| good)
}

/// `ALPHANUM 3*31ident-char`.
pub(super) fn is_ident(text: &str) -> bool {
    let ident = |b: u8| b.is_ascii_alphanumeric() || b".-+%=".contains(&b);
    (4..=32).contains(&text.len())
        && text.bytes().all(ident)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// A whole chunk, to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The head.
    pub head: Head,
    /// The body; `None` if it has none, as every response.
    pub body: Option<Vec<u8>>,
    /// How it ends.
    pub flag: Flag,
}

impl Chunk {
    /// A chunk without a body, which is all that there is.
    #[must_use]
    pub const fn bare(head: Head) -> Self {
        Self {
            head,
            body: None,
            flag: Flag::End,
        }
    }

    /// The bytes for the wire. Control characters in header values become spaces, so that none can smuggle in a line.
    ///
    /// The body must not hold the end line (seven hyphens and the transaction); whoever makes the chunk chooses the transaction accordingly (7.1).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let head = &self.head;
        let mut text = format!("MSRP {} ", head.transaction);
        match &head.start {
            Start::Request(method) => text.push_str(method.as_str()),
            Start::Response { code, comment } => {
                text.push_str(&format!("{code:03}"));
                if !comment.is_empty() {
                    text.push(' ');
                    text.extend(comment.chars().map(clean));
                }
            }
        }
        text.push_str(&format!(
            "\r\nTo-Path: {}\r\nFrom-Path: {}\r\n",
            Path(&head.to_path),
            Path(&head.from_path)
        ));
        for (name, value) in &head.headers {
            text.push_str(name);
            text.push_str(": ");
            text.extend(value.chars().map(clean));
            text.push_str("\r\n");
        }
        let mut out = text.into_bytes();
        if let Some(body) = &self.body {
            out.extend_from_slice(b"\r\n");
            out.extend_from_slice(body);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(end_line(&head.transaction).as_bytes());
        out.extend_from_slice(&[self.flag.byte(), b'\r', b'\n']);
        out
    }
}

fn clean(c: char) -> char {
    if c.is_control() { ' ' } else { c }
}

/// What ends the chunk of a transaction, but for its flag.
#[must_use]
pub(super) fn end_line(transaction: &str) -> String {
    format!("-------{transaction}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_ranges_are_checked() {
        for text in ["1-10/10", "1-*/*", "11-20/*", "1-0/0", "5-*/9"] {
            assert_eq!(ByteRange::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "1",
            "1-2",
            "0-1/2",
            "5-3/9",
            "1-5/4",
            "9-*/4",
            "+1-2/3",
            "1--2/3",
            "a-b/c",
            "1-9223372036854775808/*",
        ] {
            assert_eq!(ByteRange::parse(text), None, "{text}");
        }
    }

    #[test]
    fn identifiers_have_their_alphabet() {
        assert!(is_ident("a786hjs2") && is_ident("0.-+%="));
        for text in ["abc", ".abcd", "ab cd", &"a".repeat(33), "abc\u{e9}"] {
            assert!(!is_ident(text), "{text}");
        }
    }
}
