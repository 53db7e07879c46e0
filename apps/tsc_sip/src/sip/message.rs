//! Messages: what every one carries is typed, the rest stays text.

use std::fmt::{self, Write};

use super::{CSeq, Contacts, HeaderName, Method, NameAddr, StatusCode, Uri, Via};

/// A header field that is kept as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Name.
    pub name: HeaderName,
    /// Value, unfolded, without white space around it.
    pub value: String,
}

/// What requests and responses have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The way so far, newest hop first; never empty in a message that was read.
    pub via: Vec<Via>,
    /// Who asks.
    pub from: NameAddr,
    /// Who is asked.
    pub to: NameAddr,
    /// Names the call.
    pub call_id: String,
    /// Orders the requests of a call.
    pub cseq: CSeq,
    /// Where the sender wants to be reached.
    pub contacts: Contacts,
    /// Hops that a request still has to take.
    pub route: Vec<NameAddr>,
    /// Hops that want to stay in the way of the dialog.
    pub record_route: Vec<NameAddr>,
    /// All other header fields in order.
    pub others: Vec<Header>,
    /// Body. Content-Length follows from it.
    pub body: Vec<u8>,
}

impl Head {
    /// Value of the first other header field of that name.
    #[must_use]
    pub fn header(&self, name: &HeaderName) -> Option<&str> {
        let found = self.others.iter().find(|h| h.name == *name)?;
        Some(&found.value)
    }

    /// Values of all other header fields of that name.
    pub fn headers<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a str> {
        self.others
            .iter()
            .filter(move |h| h.name == *name)
            .map(|h| h.value.as_str())
    }

    /// Appends another header field.
    pub fn push(&mut self, name: HeaderName, value: impl Into<String>) {
        let value = value.into();
        self.others.push(Header { name, value });
    }

    /// The Expires header field in seconds; `None` if absent or no number.
    #[must_use]
    pub fn expires(&self) -> Option<u32> {
        super::header::number(self.header(&HeaderName::Expires)?)
    }

    /// Whether the body is of this media type (parameters ignored).
    #[must_use]
    pub fn has_content_type(&self, wanted: &str) -> bool {
        self.header(&HeaderName::ContentType)
            .and_then(|value| value.split(';').next())
            .is_some_and(|value| {
                let bare: String = value.chars().filter(|c| !c.is_whitespace()).collect();
                bare.eq_ignore_ascii_case(wanted)
            })
    }

    /// Sets the body and its type.
    pub fn set_body(&mut self, content_type: &str, body: Vec<u8>) {
        self.others.retain(|h| h.name != HeaderName::ContentType);
        self.push(HeaderName::ContentType, content_type);
        self.body = body;
    }

    fn write(&self, out: &mut Writer, max_forwards: Option<u8>) {
        for via in &self.via {
            out.line("Via", via);
        }
        if let Some(hops) = max_forwards {
            out.line("Max-Forwards", &hops);
        }
        for route in &self.route {
            out.line("Route", route);
        }
        for route in &self.record_route {
            out.line("Record-Route", route);
        }
        out.line("From", &self.from);
        out.line("To", &self.to);
        out.line("Call-ID", &self.call_id);
        out.line("CSeq", &self.cseq);
        match &self.contacts {
            Contacts::All => out.line("Contact", &"*"),
            Contacts::List(list) => list.iter().for_each(|one| out.line("Contact", one)),
        }
        for Header { name, value } in &self.others {
            out.line(name.as_str(), value);
        }
        out.line("Content-Length", &self.body.len());
    }
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked. Equals the method in `head.cseq`.
    pub method: Method,
    /// Who or what is asked for it.
    pub uri: Uri,
    /// Hops that are left.
    pub max_forwards: u8,
    /// The header fields and the body.
    pub head: Head,
}

impl Request {
    /// Max-Forwards of a new request (RFC 3261 8.1.1.6).
    pub const MAX_FORWARDS: u8 = 70;

    /// A request outside of a dialog. Its Via is added by the transaction layer.
    #[must_use]
    pub fn new(
        method: Method,
        uri: impl Into<Uri>,
        from: NameAddr,
        to: NameAddr,
        call_id: &str,
        cseq: u32,
    ) -> Self {
        Self {
            uri: uri.into(),
            max_forwards: Self::MAX_FORWARDS,
            head: Head {
                via: Vec::new(),
                from,
                to,
                call_id: call_id.to_owned(),
                cseq: CSeq {
                    number: cseq,
                    method: method.clone(),
                },
                contacts: Contacts::default(),
                route: Vec::new(),
                record_route: Vec::new(),
                others: Vec::new(),
                body: Vec::new(),
            },
            method,
        }
    }

    /// A response to this request with what must be copied (RFC 3261 8.2.6.2). `to_tag` is added to the
    /// To if it has none yet; 100 gets none.
    #[must_use]
    pub fn response(&self, status: StatusCode, to_tag: &str) -> Response {
        let mut to = self.head.to.clone();
        if to.tag().is_none() && status != StatusCode::TRYING {
            to = to.with_tag(to_tag);
        }
        Response {
            status,
            reason: status.reason().to_owned(),
            head: Head {
                via: self.head.via.clone(),
                from: self.head.from.clone(),
                to,
                call_id: self.head.call_id.clone(),
                cseq: self.head.cseq.clone(),
                contacts: Contacts::default(),
                route: Vec::new(),
                record_route: self.head.record_route.clone(),
                others: Vec::new(),
                body: Vec::new(),
            },
        }
    }

    /// The bytes for the wire.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.text(format_args!("{} {} SIP/2.0", self.method, self.uri));
        self.head.write(&mut out, Some(self.max_forwards));
        out.finish(&self.head.body)
    }
}

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Result.
    pub status: StatusCode,
    /// The same for people; may be empty.
    pub reason: String,
    /// The header fields and the body.
    pub head: Head,
}

impl Response {
    /// The bytes for the wire.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.text(format_args!("SIP/2.0 {} {}", self.status, self.reason));
        self.head.write(&mut out, None);
        out.finish(&self.head.body)
    }
}

/// A request or a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A request.
    Request(Request),
    /// A response.
    Response(Response),
}

impl Message {
    /// What both kinds have in common.
    #[must_use]
    pub const fn head(&self) -> &Head {
        match self {
            Self::Request(request) => &request.head,
            Self::Response(response) => &response.head,
        }
    }

    /// The bytes for the wire.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Request(request) => request.encode(),
            Self::Response(response) => response.encode(),
        }
    }
}

/// Builds the header part. Control characters other than tabs become spaces in any text, so that no value can smuggle in
/// a line of its own.
#[derive(Default)]
struct Writer(String);

impl Writer {
    fn text(&mut self, text: fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = write!(Clean(&mut self.0), "{text}");
        self.0.push_str("\r\n");
    }

    fn line(&mut self, name: &str, value: &dyn fmt::Display) {
        self.text(format_args!("{name}: {value}"));
    }

    fn finish(mut self, body: &[u8]) -> Vec<u8> {
        self.0.push_str("\r\n");
        let mut out = self.0.into_bytes();
        out.extend_from_slice(body);
        out
    }
}

struct Clean<'a>(&'a mut String);

impl Write for Clean<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend(
            text.chars()
                .map(|c| if c.is_control() && c != '\t' { ' ' } else { c }),
        );
        Ok(())
    }
}
