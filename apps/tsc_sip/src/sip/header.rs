//! Values of the header fields that are parsed into types.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use nom::{
    Parser,
    bytes::complete::{tag_no_case, take_till, take_while1},
    character::complete::{char, digit1},
    combinator::{opt, recognize},
    multi::many0,
    sequence::{delimited, terminated},
};

use super::{
    Host, Method, SipUri, Transport, Uri,
    grammar::{self, Parsed, fail, lws, lws1, quoted, sep, token},
    uri::DEFAULT_PORT,
};

/// Parameters in order. Names are kept in lower case and stand once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params(Vec<(String, Option<String>)>);

impl Params {
    pub(super) const fn from_pairs(pairs: Vec<(String, Option<String>)>) -> Self {
        Self(pairs)
    }

    /// Whether the parameter is there, with or without a value. `name` is in lower case.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(n, _)| n == name)
    }

    /// The value of a parameter. `name` is in lower case.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(n, _)| n == name)?;
        value.as_deref()
    }

    /// Adds a parameter or replaces its value. `name` is a token in lower case.
    pub fn set(&mut self, name: &str, value: Option<String>) {
        match self.0.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// The parameters in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.0.iter().map(|(n, v)| (n.as_str(), v.as_deref()))
    }
}

/// Parameters of a header value: values that are no token are quoted.
impl fmt::Display for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.0 {
            write!(f, ";{name}")?;
            let Some(value) = value else { continue };
            let plain = |c: char| c.is_ascii_alphanumeric() || "-.!%*_+`'~[]:".contains(c);
            if !value.is_empty() && value.chars().all(plain) {
                write!(f, "={value}")?;
            } else {
                write!(f, "={}", Quoted(value))?;
            }
        }
        Ok(())
    }
}

/// Writes a quoted string with its escapes.
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for c in self.0.chars() {
            if matches!(c, '"' | '\\') {
                f.write_str("\\")?;
            }
            fmt::Write::write_char(f, c)?;
        }
        f.write_str("\"")
    }
}

/// One hop in the way of a message (RFC 3261 20.42, RFC 3581).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Via {
    /// Transport token, such as `UDP`.
    pub transport: String,
    /// Where the sender says that it is.
    pub host: Host,
    /// Port, if named.
    pub port: Option<u16>,
    /// `branch`, `received`, `rport` and others.
    pub params: Params,
}

impl Via {
    /// A Via over UDP that asks for `rport`.
    #[must_use]
    pub fn udp(sent_by: SocketAddr, branch: &str) -> Self {
        Self::new(Transport::Udp, sent_by, branch)
    }

    /// A Via that asks for `rport`. Over TCP it asks with `alias` (RFC 5923) that our connection is used for requests to
    /// us, too.
    #[must_use]
    pub fn new(transport: Transport, sent_by: SocketAddr, branch: &str) -> Self {
        let mut params = Params::default();
        params.set("branch", Some(branch.to_owned()));
        params.set("rport", None);
        if transport == Transport::Tcp {
            params.set("alias", None);
        }
        Self {
            transport: transport.name().to_owned(),
            host: sent_by.ip().into(),
            port: Some(sent_by.port()),
            params,
        }
    }

    /// The branch; empty if there is none.
    #[must_use]
    pub fn branch(&self) -> &str {
        self.params.value("branch").unwrap_or_default()
    }

    /// Notes where the request really came from (RFC 3261 18.2.1, RFC 3581 4).
    pub fn note_source(&mut self, source: SocketAddr) {
        let asks_rport = self.params.has("rport");
        if asks_rport {
            self.params.set("rport", Some(source.port().to_string()));
        }
        if asks_rport || self.host.ip() != Some(source.ip()) {
            self.params.set("received", Some(source.ip().to_string()));
        }
    }

    /// Where the response goes (RFC 3261 18.2.2 over UDP, RFC 3581 4). `None` if the host is a name.
    #[must_use]
    pub fn response_address(&self) -> Option<SocketAddr> {
        let received = self.params.value("received");
        let ip = match received.map(|ip| ip.trim_matches(['[', ']']).parse::<IpAddr>()) {
            Some(Ok(ip)) => ip,
            _ => self.host.ip()?,
        };
        let rport = self.params.value("rport").and_then(|p| p.parse().ok());
        let port = rport.or(self.port).unwrap_or(DEFAULT_PORT);
        Some(SocketAddr::new(ip, port))
    }

    pub(super) fn parse(input: &str) -> Parsed<'_, Self> {
        let (rest, _) = tag_no_case("SIP").parse(input)?;
        let (rest, _) = sep('/').parse(rest)?;
        let (rest, version) = token(rest)?;
        if version != "2.0" {
            return fail(input);
        }
        let (rest, _) = sep('/').parse(rest)?;
        let (rest, transport) = token(rest)?;
        let (rest, _) = lws1(rest)?;
        let (rest, sent_by) = take_till(|c| c == ';' || c == ',').parse(rest)?;
        let Ok((host, port)) = Host::parse_with_port(sent_by.trim()) else {
            return fail(input);
        };
        let (rest, params) = grammar::params(rest)?;
        let via = Self {
            transport: transport.to_ascii_uppercase(),
            host,
            port,
            params: Params(params),
        };
        Ok((rest, via))
    }

    /// Reads all values of one header line; `None` if malformed.
    pub(super) fn parse_list(value: &str) -> Option<Vec<Self>> {
        grammar::whole(value, |i| grammar::comma_list(i, Self::parse))
    }
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SIP/2.0/{} {}", self.transport, self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        self.params.fmt(f)
    }
}

/// A URI with an optional display name and header parameters: From, To, Contact, Route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameAddr {
    /// Display name without quotes; empty if there is none.
    pub display: String,
    /// The URI.
    pub uri: Uri,
    /// `tag`, `expires`, `q` and others.
    pub params: Params,
}

impl NameAddr {
    /// An address without a name and without parameters.
    #[must_use]
    pub fn new(uri: impl Into<Uri>) -> Self {
        Self {
            display: String::new(),
            uri: uri.into(),
            params: Params::default(),
        }
    }

    /// The same with a tag.
    #[must_use]
    pub fn with_tag(mut self, tag: &str) -> Self {
        self.params.set("tag", Some(tag.to_owned()));
        self
    }

    /// The tag, if there is one.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.params.value("tag")
    }

    /// The SIP URI, if it is one.
    #[must_use]
    pub const fn sip(&self) -> Option<&SipUri> {
        self.uri.sip()
    }

    pub(super) fn parse(input: &str) -> Parsed<'_, Self> {
        let bracketed = |i| delimited(char('<'), take_till(|c| c == '>'), char('>')).parse(i);
        let (rest, display) = if input.starts_with('"') {
            terminated(quoted, lws).parse(input)?
        } else if let Ok((rest, text)) = recognize(many0(terminated(token, lws))).parse(input)
            && rest.starts_with('<')
        {
            (rest, text.trim_end().to_owned())
        } else {
            (input, String::new())
        };
        let (rest, uri): (&str, &str) = if rest.starts_with('<') {
            bracketed(rest)?
        } else if rest.len() == input.len() {
            // Without brackets, everything after the first semicolon belongs to the header field, and the
            // URI may hold neither comma nor question mark (RFC 3261 20.10).
            take_while1(|c: char| !" \t;,?<>\"".contains(c)).parse(rest)?
        } else {
            return fail(input);
        };
        let Ok(uri) = uri.parse() else {
            return fail(input);
        };
        let (rest, params) = grammar::params(rest)?;
        let params = Params(params);
        Ok((
            rest,
            Self {
                display,
                uri,
                params,
            },
        ))
    }

    /// Reads exactly one value; `None` if malformed.
    pub(super) fn parse_one(value: &str) -> Option<Self> {
        grammar::whole(value, Self::parse)
    }

    /// Reads all values of one header line; `None` if malformed.
    pub(super) fn parse_list(value: &str) -> Option<Vec<Self>> {
        grammar::whole(value, |i| grammar::comma_list(i, Self::parse))
    }
}

impl fmt::Display for NameAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.display.is_empty() {
            write!(f, "{} ", Quoted(&self.display))?;
        }
        write!(f, "<{}>{}", self.uri, self.params)
    }
}

/// Sequence number and method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CSeq {
    /// Below 2^31 (RFC 3261 8.1.1.5).
    pub number: u32,
    /// Method of the request.
    pub method: Method,
}

impl CSeq {
    pub(super) fn parse(value: &str) -> Option<Self> {
        let parser = |i| (digit1, lws1, token).parse(i);
        let (number, _, method) = grammar::whole(value, parser)?;
        Some(Self {
            number: number.parse().ok().filter(|n| *n < 1 << 31)?,
            method: Method::parse(method)?,
        })
    }
}

impl fmt::Display for CSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.number, self.method)
    }
}

/// Value of the Contact header fields of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contacts {
    /// Addresses; none if there was no Contact.
    List(Vec<NameAddr>),
    /// `*`: all bindings, in a REGISTER that removes them.
    All,
}

impl Default for Contacts {
    fn default() -> Self {
        Self::List(Vec::new())
    }
}

impl Contacts {
    /// The addresses; empty for `*`.
    #[must_use]
    pub fn list(&self) -> &[NameAddr] {
        match self {
            Self::List(list) => list,
            Self::All => &[],
        }
    }

    /// The only or first address.
    #[must_use]
    pub fn first(&self) -> Option<&NameAddr> {
        self.list().first()
    }
}

/// `n` with optional white space, decimal, nothing else.
pub(super) fn number(value: &str) -> Option<u32> {
    let digits = grammar::whole(value, recognize((digit1, opt(lws))))?;
    digits.trim_end().parse().ok()
}
