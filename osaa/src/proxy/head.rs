//! A proxy's answer, without its body (RFC 9112).

use httparse::{EMPTY_HEADER, ParserConfig, Response, Status};

use super::{Challenge, parse_challenges};

/// Longest head of an answer.
pub const MAX_HEAD: usize = 16 * 1024;

/// Most fields of a head.
const MAX_FIELDS: usize = 128;

/// Longest text of a proxy's that is passed on to people.
const MAX_TEXT: usize = 128;

/// What a proxy has answered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Head {
    /// The status code.
    pub status: u16,
    /// The reason phrase, without anything that a terminal could take for a command.
    pub reason: String,
    /// What the proxy wants to know.
    pub challenges: Vec<Challenge>,
    /// How long the body is.
    pub body: Body,
    /// Whether the proxy says that it keeps the connection.
    pub keeps: bool,
    /// Where it sends us instead, cleaned as `reason` is.
    pub location: Option<String>,
    /// Whether the body is a page for people.
    pub is_page: bool,
}

/// Where the body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// After so many bytes.
    Length(u64),
    /// Where its last chunk does.
    Chunked,
    /// Where the connection does.
    UntilClose,
}

/// Why there is no head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadError {
    /// It is not HTTP/1.
    Garbage,
    /// Longer than [`MAX_HEAD`], or more than 128 fields.
    TooLong,
}

/// Reads the head at the front of `bytes`, and returns its length too; `None` if its end is still to come.
///
/// # Errors
/// No head can come of this.
pub fn parse_head(bytes: &[u8]) -> Result<Option<(Head, usize)>, HeadError> {
    // Others than proxies are found out by their first bytes: they may be silent after those.
    let start = b"HTTP/1.";
    if bytes.iter().zip(start).any(|(a, b)| a != b) {
        return Err(HeadError::Garbage);
    }
    let window = bytes.get(..MAX_HEAD).unwrap_or(bytes);
    if !has_end(window) {
        return if bytes.len() >= MAX_HEAD {
            Err(HeadError::TooLong)
        } else {
            Ok(None)
        };
    }
    let mut fields = [EMPTY_HEADER; MAX_FIELDS];
    let mut response = Response::new(&mut fields);
    let mut config = ParserConfig::default();
    config
        .allow_spaces_after_header_name_in_responses(true)
        .allow_obsolete_multiline_headers_in_responses(true)
        .ignore_invalid_headers_in_responses(true);
    match config.parse_response(&mut response, window) {
        Ok(Status::Complete(length)) => Ok(Some((Head::new(&response), length))),
        // What looked like the end was none.
        Ok(Status::Partial) if bytes.len() < MAX_HEAD => Ok(None),
        Ok(Status::Partial) | Err(httparse::Error::TooManyHeaders) => Err(HeadError::TooLong),
        Err(_) => Err(HeadError::Garbage),
    }
}

/// Whether an empty line is in there: parsing anew for every byte that comes would be a long affair.
fn has_end(bytes: &[u8]) -> bool {
    let mut after_line = false;
    bytes.iter().any(|byte| match byte {
        b'\n' if after_line => true,
        b'\n' => {
            after_line = true;
            false
        }
        b'\r' => false,
        _ => {
            after_line = false;
            false
        }
    })
}

impl Head {
    fn new(response: &Response<'_, '_>) -> Self {
        let mut head = Self {
            status: response.code.unwrap_or_default(),
            reason: clean(response.reason.unwrap_or_default().as_bytes()),
            challenges: Vec::new(),
            body: Body::UntilClose,
            keeps: response.version == Some(1),
            location: None,
            is_page: false,
        };
        let mut length = None;
        let (mut chunked, mut coded, mut closes) = (false, false, false);
        for field in response.headers.iter() {
            let is = |name: &str| field.name.eq_ignore_ascii_case(name);
            if is("proxy-authenticate") {
                parse_challenges(field.value, &mut head.challenges);
            } else if is("content-length") {
                // Several that differ are an attack or a mess: the connection is not used again then.
                let value = std::str::from_utf8(field.value)
                    .ok()
                    .and_then(|text| text.trim().parse::<u64>().ok());
                closes |= value.is_none() || length.is_some_and(|known| Some(known) != value);
                length = value;
            } else if is("transfer-encoding") {
                coded = true;
                chunked = words(field.value)
                    .last()
                    .is_some_and(|word| word == "chunked");
            } else if is("connection") || is("proxy-connection") {
                for word in words(field.value) {
                    closes |= word == "close";
                    head.keeps |= word == "keep-alive";
                }
            } else if is("location") {
                head.location = Some(clean(field.value));
            } else if is("content-type") {
                head.is_page = field.value.to_ascii_lowercase().starts_with(b"text/");
            }
        }
        head.body = match (coded, length) {
            (true, _) if chunked => Body::Chunked,
            (true, _) | (false, None) => Body::UntilClose,
            (false, Some(length)) => Body::Length(length),
        };
        // Both at once is how requests are smuggled (RFC 9112, 6.3).
        closes |= coded && length.is_some();
        head.keeps &= !closes && head.body != Body::UntilClose;
        head
    }
}

/// The members of a list, in lower case.
fn words(value: &[u8]) -> impl Iterator<Item = String> {
    value
        .split(|byte| *byte == b',')
        .map(|word| String::from_utf8_lossy(word.trim_ascii()).to_ascii_lowercase())
}

/// What may be shown: printable ASCII, at most 128 characters.
pub(super) fn clean(bytes: &[u8]) -> String {
    bytes
        .iter()
        .take(MAX_TEXT)
        .map(|byte| match byte {
            0x20..=0x7E => char::from(*byte),
            _ => '?',
        })
        .collect()
}

/// Finds the end of a chunked body (RFC 9112, 7.1).
#[derive(Debug, Default)]
pub struct Chunks {
    state: ChunkState,
}

#[derive(Debug, Default, Clone, Copy)]
enum ChunkState {
    /// In the size; whether there was a digit.
    #[default]
    Start,
    Size(u64),
    /// Behind the size, up to the end of the line.
    Extension(u64),
    /// So many bytes are left of the chunk.
    Data(u64),
    /// Up to the end of the line behind a chunk.
    DataEnd,
    /// In the trailer; whether the line has something in it.
    Trailer(bool),
    Done,
}

impl Chunks {
    /// Takes a part of the body and returns how much of it was body.
    ///
    /// # Errors
    /// It is not chunked.
    pub fn take(&mut self, bytes: &[u8]) -> Result<usize, HeadError> {
        for (at, byte) in bytes.iter().enumerate() {
            self.state = match (self.state, *byte) {
                (ChunkState::Done, _) => return Ok(at),
                (ChunkState::Start, byte) => {
                    ChunkState::Size(digit(byte).ok_or(HeadError::Garbage)?)
                }
                (ChunkState::Size(size), b'\n') => after_size(size),
                (ChunkState::Size(size), byte) => match digit(byte) {
                    Some(digit) => ChunkState::Size(
                        size.checked_mul(16)
                            .and_then(|size| size.checked_add(digit))
                            .ok_or(HeadError::Garbage)?,
                    ),
                    None => ChunkState::Extension(size),
                },
                (ChunkState::Extension(size), b'\n') => after_size(size),
                (ChunkState::Extension(size), _) => ChunkState::Extension(size),
                (ChunkState::Data(1), _) => ChunkState::DataEnd,
                (ChunkState::Data(left), _) => ChunkState::Data(left - 1),
                (ChunkState::DataEnd, b'\n') => ChunkState::Start,
                (ChunkState::DataEnd, b'\r') => ChunkState::DataEnd,
                (ChunkState::DataEnd, _) => return Err(HeadError::Garbage),
                (ChunkState::Trailer(false), b'\n') => ChunkState::Done,
                (ChunkState::Trailer(true), b'\n') => ChunkState::Trailer(false),
                (ChunkState::Trailer(filled), b'\r') => ChunkState::Trailer(filled),
                (ChunkState::Trailer(_), _) => ChunkState::Trailer(true),
            };
        }
        Ok(bytes.len())
    }

    /// Whether all of it was seen.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        matches!(self.state, ChunkState::Done)
    }
}

const fn after_size(size: u64) -> ChunkState {
    match size {
        0 => ChunkState::Trailer(false),
        size => ChunkState::Data(size),
    }
}

fn digit(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(text: &str) -> Head {
        let (head, length) = parse_head(text.as_bytes()).unwrap().unwrap();
        assert_eq!(length, text.len());
        head
    }

    #[test]
    fn a_refusal_is_read() {
        let head = head(
            "HTTP/1.1 407 Proxy\tAuth\r\nContent-Length: 12\r\nProxy-Authenticate: NTLM\r\n\
             proxy-authenticate: Basic realm=x\r\nContent-Type: text/html\r\n\r\n",
        );
        assert_eq!(
            (head.status, head.body, head.keeps),
            (407, Body::Length(12), true)
        );
        assert_eq!(head.reason, "Proxy?Auth");
        assert_eq!(head.challenges.len(), 2);
        assert!(head.is_page);
    }

    #[test]
    fn connections_are_kept_by_the_rules() {
        for (text, keeps) in [
            ("HTTP/1.1 407 x\r\nContent-Length: 0\r\n\r\n", true),
            ("HTTP/1.1 407 x\r\n\r\n", false),
            ("HTTP/1.1 407\r\nTransfer-Encoding: chunked\r\n\r\n", true),
            ("HTTP/1.1 407 x\r\nTransfer-Encoding: gzip\r\n\r\n", false),
            (
                "HTTP/1.1 407 x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                false,
            ),
            (
                "HTTP/1.1 407 x\r\nContent-Length: 0\r\nProxy-Connection: a, Close\r\n\r\n",
                false,
            ),
            ("HTTP/1.0 407 x\r\nContent-Length: 0\r\n\r\n", false),
            (
                "HTTP/1.0 407 x\nContent-Length: 0\nProxy-Connection: keep-alive\n\n",
                true,
            ),
            (
                "HTTP/1.1 407 x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
                false,
            ),
            (
                "HTTP/1.1 407 x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
                false,
            ),
            ("HTTP/1.1 407 x\r\nContent-Length: -1\r\n\r\n", false),
        ] {
            assert_eq!(head(text).keeps, keeps, "{text}");
        }
    }

    #[test]
    fn what_is_no_head_is_found_out() {
        for garbage in [
            "SSH-2.0-x\r\n",
            "\r\n",
            "HTTP/2",
            "HTTP/1.1 abc\r\n\r\n",
            "HTTP/1.1 2\r\n\r\n",
        ] {
            assert_eq!(
                parse_head(garbage.as_bytes()),
                Err(HeadError::Garbage),
                "{garbage}"
            );
        }
        let long = format!("HTTP/1.1 200 x\r\nA: {}", "x".repeat(MAX_HEAD));
        assert_eq!(parse_head(long.as_bytes()), Err(HeadError::TooLong));
        let many = format!("HTTP/1.1 200 x\r\n{}\r\n", "A: b\r\n".repeat(129));
        assert_eq!(parse_head(many.as_bytes()), Err(HeadError::TooLong));
        assert_eq!(parse_head(b"HT"), Ok(None));
        assert_eq!(parse_head(b""), Ok(None));
    }

    proptest! {
        #[test]
        fn a_head_is_read_at_its_last_byte_and_not_before(
            status in 100u16..1000,
            names in prop::collection::vec("[A-Za-z-]{1,12}", 0..6),
            body in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let mut bytes = format!("HTTP/1.1 {status} reason\r\n").into_bytes();
            for name in names {
                bytes.extend(format!("{name}: 1\r\n").bytes());
            }
            bytes.extend(b"\r\n");
            let length = bytes.len();
            bytes.extend(body);
            for end in 0..length {
                prop_assert_eq!(parse_head(&bytes[..end]), Ok(None));
            }
            let (head, end) = parse_head(&bytes).unwrap().unwrap();
            prop_assert_eq!((head.status, end), (status, length));
        }

        #[test]
        fn any_bytes_are_a_head_or_not(tail in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = b"HTTP/1.1 ".to_vec();
            bytes.extend(tail);
            let _ = parse_head(&bytes);
        }

        #[test]
        fn chunks_end_where_they_end(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..5),
            sizes in prop::collection::vec(1usize..30, 1..5),
        ) {
            let mut bytes = Vec::new();
            for chunk in &chunks {
                bytes.extend(format!("{:X};x=y\r\n", chunk.len()).bytes());
                bytes.extend(chunk);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\nTrailer: x\r\n\r\n");
            let length = bytes.len();
            bytes.extend(b"HTTP/1.1");
            let mut reader = Chunks::default();
            let (mut taken, mut sizes) = (0, sizes.iter().cycle());
            while !reader.is_done() {
                let end = (taken + sizes.next().unwrap()).min(bytes.len());
                prop_assert!(end > taken);
                taken += reader.take(&bytes[taken..end]).unwrap();
            }
            prop_assert_eq!(taken, length);
        }
    }
}
