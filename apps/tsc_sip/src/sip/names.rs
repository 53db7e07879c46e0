//! Names that the protocol knows: methods, status codes, header fields.

use std::fmt;

use super::grammar;

/// Request method. Case matters (RFC 3261 7.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Method {
    Register,
    Invite,
    Ack,
    Bye,
    Cancel,
    Options,
    /// Any other token.
    Other(String),
}

impl Method {
    /// Reads a method; `None` if the text is no token.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "REGISTER" => Self::Register,
            "INVITE" => Self::Invite,
            "ACK" => Self::Ack,
            "BYE" => Self::Bye,
            "CANCEL" => Self::Cancel,
            "OPTIONS" => Self::Options,
            other if grammar::is_token(other) => Self::Other(other.to_owned()),
            _ => return None,
        })
    }

    /// The method as it stands in a request line.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Register => "REGISTER",
            Self::Invite => "INVITE",
            Self::Ack => "ACK",
            Self::Bye => "BYE",
            Self::Cancel => "CANCEL",
            Self::Options => "OPTIONS",
            Self::Other(text) => text,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Status code of a response, 100 to 699.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StatusCode(u16);

macro_rules! status_codes {
    ($($name:ident = $value:literal, $reason:literal;)*) => {
        #[allow(missing_docs)]
        impl StatusCode {
            $(pub const $name: Self = Self($value);)*

            /// The usual reason phrase; empty for codes that this program does not use.
            #[must_use]
            pub const fn reason(self) -> &'static str {
                match self.0 {
                    $($value => $reason,)*
                    _ => "",
                }
            }
        }
    };
}

status_codes! {
    TRYING = 100, "Trying";
    RINGING = 180, "Ringing";
    OK = 200, "OK";
    BAD_REQUEST = 400, "Bad Request";
    UNAUTHORIZED = 401, "Unauthorized";
    FORBIDDEN = 403, "Forbidden";
    NOT_FOUND = 404, "Not Found";
    METHOD_NOT_ALLOWED = 405, "Method Not Allowed";
    REQUEST_TIMEOUT = 408, "Request Timeout";
    UNSUPPORTED_MEDIA_TYPE = 415, "Unsupported Media Type";
    UNSUPPORTED_URI_SCHEME = 416, "Unsupported URI Scheme";
    BAD_EXTENSION = 420, "Bad Extension";
    INTERVAL_TOO_BRIEF = 423, "Interval Too Brief";
    TEMPORARILY_UNAVAILABLE = 480, "Temporarily Unavailable";
    CALL_DOES_NOT_EXIST = 481, "Call/Transaction Does Not Exist";
    LOOP_DETECTED = 482, "Loop Detected";
    BUSY_HERE = 486, "Busy Here";
    REQUEST_TERMINATED = 487, "Request Terminated";
    NOT_ACCEPTABLE_HERE = 488, "Not Acceptable Here";
    REQUEST_PENDING = 491, "Request Pending";
    SERVER_INTERNAL_ERROR = 500, "Server Internal Error";
    SERVICE_UNAVAILABLE = 503, "Service Unavailable";
}

impl StatusCode {
    /// A code from 100 to 699.
    #[must_use]
    pub const fn new(code: u16) -> Option<Self> {
        match code {
            100..=699 => Some(Self(code)),
            _ => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn code(self) -> u16 {
        self.0
    }

    /// 1xx: more will follow.
    #[must_use]
    pub const fn is_provisional(self) -> bool {
        self.0 < 200
    }

    /// 2xx.
    #[must_use]
    pub const fn is_success(self) -> bool {
        matches!(self.0, 200..=299)
    }
}

impl fmt::Debug for StatusCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StatusCode({})", self.0)
    }
}

impl fmt::Display for StatusCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Name of a header field. Names compare without regard to case, and compact forms equal long ones.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum HeaderName {
    Accept,
    Allow,
    Authorization,
    CallId,
    Contact,
    ContentLength,
    ContentType,
    CSeq,
    Expires,
    From,
    MaxForwards,
    MinExpires,
    Reason,
    RecordRoute,
    Require,
    RetryAfter,
    Route,
    Server,
    Supported,
    To,
    Unsupported,
    UserAgent,
    Via,
    Warning,
    WwwAuthenticate,
    /// Any other token, kept in lower case.
    Other(String),
}

/// Long form, compact form (empty if there is none), name.
const HEADER_NAMES: &[(&str, &str, HeaderName)] = &[
    ("Accept", "", HeaderName::Accept),
    ("Allow", "", HeaderName::Allow),
    ("Authorization", "", HeaderName::Authorization),
    ("Call-ID", "i", HeaderName::CallId),
    ("Contact", "m", HeaderName::Contact),
    ("Content-Length", "l", HeaderName::ContentLength),
    ("Content-Type", "c", HeaderName::ContentType),
    ("CSeq", "", HeaderName::CSeq),
    ("Expires", "", HeaderName::Expires),
    ("From", "f", HeaderName::From),
    ("Max-Forwards", "", HeaderName::MaxForwards),
    ("Min-Expires", "", HeaderName::MinExpires),
    ("Reason", "", HeaderName::Reason),
    ("Record-Route", "", HeaderName::RecordRoute),
    ("Require", "", HeaderName::Require),
    ("Retry-After", "", HeaderName::RetryAfter),
    ("Route", "", HeaderName::Route),
    ("Server", "", HeaderName::Server),
    ("Supported", "k", HeaderName::Supported),
    ("To", "t", HeaderName::To),
    ("Unsupported", "", HeaderName::Unsupported),
    ("User-Agent", "", HeaderName::UserAgent),
    ("Via", "v", HeaderName::Via),
    ("Warning", "", HeaderName::Warning),
    ("WWW-Authenticate", "", HeaderName::WwwAuthenticate),
];

impl HeaderName {
    /// Reads a name in long or compact form; `None` if the text is no token.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        HEADER_NAMES
            .iter()
            .find(|(long, compact, _)| {
                long.eq_ignore_ascii_case(text)
                    || (!compact.is_empty() && compact.eq_ignore_ascii_case(text))
            })
            .map(|(_, _, name)| name.clone())
            .or_else(|| grammar::is_token(text).then(|| Self::Other(text.to_ascii_lowercase())))
    }

    /// The long form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        if let Self::Other(name) = self {
            return name;
        }
        HEADER_NAMES
            .iter()
            .find(|(_, _, name)| name == self)
            .map_or("", |(long, _, _)| long)
    }
}

impl fmt::Display for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_its_long_form() {
        for (long, compact, name) in HEADER_NAMES {
            assert_eq!(name.as_str(), *long);
            assert_eq!(HeaderName::parse(&long.to_uppercase()).as_ref(), Some(name));
            if !compact.is_empty() {
                assert_eq!(HeaderName::parse(compact).as_ref(), Some(name));
            }
        }
        assert_eq!(HeaderName::parse("X Y"), None);
        assert_eq!(HeaderName::parse(""), None);
    }

    #[test]
    fn status_codes_have_their_range() {
        assert_eq!(StatusCode::new(99), None);
        assert_eq!(StatusCode::new(700), None);
        assert_eq!(StatusCode::new(486), Some(StatusCode::BUSY_HERE));
        assert_eq!(StatusCode::BUSY_HERE.reason(), "Busy Here");
    }
}
