//! The reader: bytes of one datagram to a [`Message`].

use std::str;

use super::{
    CSeq, Contacts, Head, Header, HeaderName, Message, Method, NameAddr, Request, Response,
    StatusCode, Uri, UriError, Via, header, limits,
};

/// Why a datagram is no SIP message. Names the rule that failed and carries no text of the peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// Nothing but line ends: a keepalive (RFC 5626 3.5.1), not a mistake.
    #[error("keepalive")]
    Keepalive,
    /// More bytes than [`limits::MESSAGE`].
    #[error("the message is longer than {} bytes", limits::MESSAGE)]
    TooLong,
    /// No empty line ends the header part.
    #[error("the header part does not end")]
    NoEnd,
    /// The header part is no UTF-8, or holds control characters.
    #[error("the header part is not text")]
    NotText,
    /// More lines than [`limits::HEADER_LINES`].
    #[error("more than {} header lines", limits::HEADER_LINES)]
    TooManyLines,
    /// The first line is neither a request line nor a status line.
    #[error("malformed first line")]
    StartLine,
    /// A version other than SIP/2.0.
    #[error("the version is not SIP/2.0")]
    Version,
    /// The Request-URI is malformed.
    #[error("malformed Request-URI: {0}")]
    RequestUri(UriError),
    /// A status code outside 100 to 699.
    #[error("impossible status code")]
    StatusCode,
    /// A line without a colon or with an impossible name.
    #[error("malformed header line")]
    HeaderLine,
    /// A header field that must be there is not.
    #[error("no {0}")]
    Missing(HeaderName),
    /// A header field that may stand once stands twice.
    #[error("more than one {0}")]
    Repeated(HeaderName),
    /// The value of a header field is malformed, or a list is longer than [`limits::LIST`].
    #[error("malformed {0}")]
    Malformed(HeaderName),
    /// The method of the CSeq is not that of the request.
    #[error("CSeq names another method")]
    MethodMismatch,
    /// Content-Length is more than there is.
    #[error("the body is shorter than Content-Length")]
    BodyTooShort,
}

impl Message {
    /// Reads the message of one datagram. Bytes after Content-Length are dropped (RFC 3261 18.3).
    ///
    /// # Errors
    ///
    /// The reason to drop the datagram. Nothing else follows from it.
    pub fn parse(datagram: &[u8]) -> Result<Self, ParseError> {
        if datagram.len() > limits::MESSAGE {
            return Err(ParseError::TooLong);
        }
        // Line ends before the start line are ignored (RFC 3261 7.5).
        let start = datagram
            .iter()
            .position(|b| !matches!(b, b'\r' | b'\n'))
            .ok_or(ParseError::Keepalive)?;
        let datagram = datagram.get(start..).unwrap_or_default();
        let end = find(datagram, b"\r\n\r\n").ok_or(ParseError::NoEnd)?;
        let (text, rest) = datagram.split_at(end);
        let body = rest.get(4..).unwrap_or_default();
        let text = str::from_utf8(text).map_err(|_| ParseError::NotText)?;
        let mut lines = unfold(text)?.into_iter();
        let start_line = lines.next().ok_or(ParseError::StartLine)?;
        let fields = Fields::read(lines)?;
        if let Some(status_line) = start_line.strip_prefix("SIP/") {
            response(status_line, fields, body)
        } else {
            request(&start_line, fields, body)
        }
    }
}

fn request(line: &str, fields: Fields, body: &[u8]) -> Result<Message, ParseError> {
    // Exactly one space between the three parts (RFC 3261 7.1).
    let (method, rest) = line.split_once(' ').ok_or(ParseError::StartLine)?;
    let (uri, version) = rest.rsplit_once(' ').ok_or(ParseError::StartLine)?;
    let method = Method::parse(method).ok_or(ParseError::StartLine)?;
    check_version(version)?;
    let uri: Uri = uri.parse().map_err(ParseError::RequestUri)?;
    // Mandatory since RFC 3261, but RFC 2543 peers do not send it.
    let max_forwards = match &fields.max_forwards {
        Some(value) => header::number(value)
            .and_then(|n| u8::try_from(n).ok())
            .ok_or(ParseError::Malformed(HeaderName::MaxForwards))?,
        None => Request::MAX_FORWARDS,
    };
    let head = fields.head(body)?;
    if head.cseq.method != method {
        return Err(ParseError::MethodMismatch);
    }
    Ok(Message::Request(Request {
        method,
        uri,
        max_forwards,
        head,
    }))
}

fn response(line: &str, fields: Fields, body: &[u8]) -> Result<Message, ParseError> {
    let (version, rest) = line.split_once(' ').ok_or(ParseError::StartLine)?;
    if version != "2.0" {
        return Err(ParseError::Version);
    }
    // The space after the code must stand even without a reason phrase; nobody is hurt if it does not.
    let (code, reason) = rest.split_once(' ').unwrap_or((rest, ""));
    if code.len() != 3 || !code.bytes().all(|b| b.is_ascii_digit()) {
        return Err(ParseError::StatusCode);
    }
    let status = code
        .parse()
        .ok()
        .and_then(StatusCode::new)
        .ok_or(ParseError::StatusCode)?;
    Ok(Message::Response(Response {
        status,
        reason: reason.to_owned(),
        head: fields.head(body)?,
    }))
}

fn check_version(version: &str) -> Result<(), ParseError> {
    if version.eq_ignore_ascii_case("SIP/2.0") {
        Ok(())
    } else if version
        .get(..4)
        .is_some_and(|v| v.eq_ignore_ascii_case("SIP/"))
    {
        Err(ParseError::Version)
    } else {
        Err(ParseError::StartLine)
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

/// Splits into lines; a line that starts with white space continues the one before (RFC 3261 7.3.1).
fn unfold(text: &str) -> Result<Vec<String>, ParseError> {
    let mut lines: Vec<String> = Vec::new();
    for line in text.split("\r\n") {
        if line.chars().any(|c| c.is_control() && c != '\t') {
            return Err(ParseError::NotText);
        }
        if line.starts_with([' ', '\t']) {
            // The start line cannot be folded, and nothing can continue before it.
            if lines.len() < 2 {
                return Err(ParseError::StartLine);
            }
            if let Some(last) = lines.last_mut() {
                last.truncate(last.trim_end().len());
                last.push(' ');
                last.push_str(line.trim_start());
            }
        } else if lines.len() > limits::HEADER_LINES {
            return Err(ParseError::TooManyLines);
        } else {
            lines.push(line.to_owned());
        }
    }
    Ok(lines)
}

/// Header fields as they are gathered, before it is known that all mandatory ones are there.
#[derive(Default)]
struct Fields {
    via: Vec<Via>,
    from: Option<NameAddr>,
    to: Option<NameAddr>,
    call_id: Option<String>,
    cseq: Option<CSeq>,
    max_forwards: Option<String>,
    content_length: Option<u32>,
    contacts: Option<Contacts>,
    route: Vec<NameAddr>,
    record_route: Vec<NameAddr>,
    others: Vec<Header>,
}

impl Fields {
    fn read(lines: impl Iterator<Item = String>) -> Result<Self, ParseError> {
        let mut fields = Self::default();
        for line in lines {
            let (name, value) = line.split_once(':').ok_or(ParseError::HeaderLine)?;
            let name = HeaderName::parse(name.trim_end()).ok_or(ParseError::HeaderLine)?;
            fields.take(name, value.trim())?;
        }
        Ok(fields)
    }

    fn take(&mut self, name: HeaderName, value: &str) -> Result<(), ParseError> {
        let bad = || ParseError::Malformed(name.clone());
        #[allow(clippy::wildcard_enum_match_arm)]
        // every other name is kept as text, also future ones
        match name {
            HeaderName::Via => append(&mut self.via, Via::parse_list(value), bad),
            HeaderName::Route => append(&mut self.route, NameAddr::parse_list(value), bad),
            HeaderName::RecordRoute => {
                append(&mut self.record_route, NameAddr::parse_list(value), bad)
            }
            HeaderName::Contact => self.take_contact(value),
            HeaderName::From => once(&mut self.from, name, NameAddr::parse_one(value)),
            HeaderName::To => once(&mut self.to, name, NameAddr::parse_one(value)),
            HeaderName::CSeq => once(&mut self.cseq, name, CSeq::parse(value)),
            HeaderName::CallId => {
                let good = !value.is_empty() && !value.contains([' ', '\t']);
                once(&mut self.call_id, name, good.then(|| value.to_owned()))
            }
            HeaderName::MaxForwards => once(&mut self.max_forwards, name, Some(value.to_owned())),
            HeaderName::ContentLength => {
                once(&mut self.content_length, name, header::number(value))
            }
            _ => {
                let value = value.to_owned();
                self.others.push(Header { name, value });
                Ok(())
            }
        }
    }

    fn take_contact(&mut self, value: &str) -> Result<(), ParseError> {
        let bad = || ParseError::Malformed(HeaderName::Contact);
        match (&mut self.contacts, value) {
            (slot @ None, "*") => *slot = Some(Contacts::All),
            // `*` stands alone (RFC 3261 10.3 step 6).
            (Some(_), "*") | (Some(Contacts::All), _) => return Err(bad()),
            (slot @ None, _) => {
                let list = NameAddr::parse_list(value).ok_or_else(bad)?;
                *slot = Some(Contacts::List(list));
            }
            (Some(Contacts::List(list)), _) => append(list, NameAddr::parse_list(value), bad)?,
        }
        Ok(())
    }

    fn head(self, body: &[u8]) -> Result<Head, ParseError> {
        if self.via.is_empty() {
            return Err(ParseError::Missing(HeaderName::Via));
        }
        let body = match self.content_length {
            Some(length) => usize::try_from(length)
                .ok()
                .and_then(|length| body.get(..length))
                .ok_or(ParseError::BodyTooShort)?,
            None => body,
        };
        Ok(Head {
            via: self.via,
            from: self.from.ok_or(ParseError::Missing(HeaderName::From))?,
            to: self.to.ok_or(ParseError::Missing(HeaderName::To))?,
            call_id: self
                .call_id
                .ok_or(ParseError::Missing(HeaderName::CallId))?,
            cseq: self.cseq.ok_or(ParseError::Missing(HeaderName::CSeq))?,
            contacts: self.contacts.unwrap_or_default(),
            route: self.route,
            record_route: self.record_route,
            others: self.others,
            body: body.to_vec(),
        })
    }
}

fn once<T>(slot: &mut Option<T>, name: HeaderName, value: Option<T>) -> Result<(), ParseError> {
    if slot.is_some() {
        return Err(ParseError::Repeated(name));
    }
    *slot = Some(value.ok_or(ParseError::Malformed(name))?);
    Ok(())
}

fn append<T>(
    list: &mut Vec<T>,
    more: Option<Vec<T>>,
    bad: impl Fn() -> ParseError,
) -> Result<(), ParseError> {
    let more = more.ok_or_else(&bad)?;
    if list.len() + more.len() > limits::LIST {
        return Err(bad());
    }
    list.extend(more);
    Ok(())
}
