//! Messages after RFC 4475 (SIP torture tests): what is valid is read, what is not is refused for the right reason.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use tsc_sip::{
    sdp::Description,
    sip::{
        Contacts, HeaderName, Host, Message, Method, ParseError, Request, Response, Uri, UriError,
    },
};

/// Lines to a datagram.
fn wire(text: &str) -> Vec<u8> {
    text.trim_start_matches('\n')
        .replace('\n', "\r\n")
        .into_bytes()
}

fn request(text: &str) -> Request {
    match Message::parse(&wire(text)) {
        Ok(Message::Request(request)) => request,
        other => panic!("{other:?}"),
    }
}

fn response(text: &str) -> Response {
    match Message::parse(&wire(text)) {
        Ok(Message::Response(response)) => response,
        other => panic!("{other:?}"),
    }
}

fn error(text: &str) -> ParseError {
    Message::parse(&wire(text)).unwrap_err()
}

/// A request with this start line and, instead of the usual ones, these header lines.
fn with(start: &str, lines: &[(&str, &str)]) -> String {
    let method = start.split(' ').next().unwrap();
    let mut fields = vec![
        (
            "Via",
            "SIP/2.0/UDP host1.example.com;branch=z9hG4bKx".to_owned(),
        ),
        ("Max-Forwards", "70".to_owned()),
        ("From", "<sip:caller@example.com>;tag=1".to_owned()),
        ("To", "<sip:callee@example.com>".to_owned()),
        ("Call-ID", "id@example.com".to_owned()),
        ("CSeq", format!("1 {method}")),
    ];
    for (name, value) in lines {
        match fields.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => *old = (*value).to_owned(),
            None => fields.push((name, (*value).to_owned())),
        }
    }
    let mut text = format!("{start}\n");
    for (name, value) in fields.iter().filter(|(_, value)| value != "-") {
        text += &format!("{name}: {value}\n");
    }
    text + "\n"
}

const OPTIONS: &str = "OPTIONS sip:user@example.com SIP/2.0";

/// 3.1.1.1: folding, compact forms, odd spacing, escapes in quotes, unknown things.
#[test]
fn a_short_tortuous_invite() {
    let invite = request(
        r#"
INVITE sip:vivekg@chair-dnrc.example.com;unknownparam SIP/2.0
TO :
 sip:vivekg@chair-dnrc.example.com ;   tag    = 1918181833n
from   : "J Rosenberg \\\""       <sip:jdrosen@example.com>
  ;
  tag = 98asjd8
MaX-fOrWaRdS: 0068
Call-ID: wsinv.ndaksdj@192.0.2.1
Content-Length   : 150
cseq: 0009
  INVITE
Via  : SIP  /   2.0
 /UDP
    192.0.2.2;branch=390skdjuw
s :
NewFangledHeader:   newfangled value
 continued newfangled value
UnknownHeaderWithUnusualValue: ;;,,;;,;
Content-Type: application/sdp
Route:
 <sip:services.example.com;lr;unknownwith=value;unknown-no-value>
v:  SIP  / 2.0  / TCP     spindle.example.com   ;
  branch  =   z9hG4bK9ikj8  ,
 SIP  /    2.0   / UDP  192.168.255.111   ; branch=
 z9hG4bK30239
m:"Quoted string \"\"" <sip:jdrosen@example.com> ; newparam =
      newvalue ;
  secondparam ; q = 0.33

v=0
o=mhandley 29739 7272939 IN IP4 192.0.2.3
s=-
c=IN IP4 192.0.2.4
t=0 0
m=audio 49217 RTP/AVP 0 12
m=video 3227 RTP/AVP 31
a=rtpmap:31 LPC
"#,
    );
    let head = &invite.head;
    assert_eq!(invite.method, Method::Invite);
    assert_eq!(invite.max_forwards, 68);
    assert_eq!(head.to.tag(), Some("1918181833n"));
    assert_eq!(head.from.display, r#"J Rosenberg \""#);
    assert_eq!(head.from.tag(), Some("98asjd8"));
    assert_eq!((head.cseq.number, &head.cseq.method), (9, &Method::Invite));
    assert_eq!(head.via.len(), 3);
    assert_eq!(head.via[0].branch(), "390skdjuw");
    assert_eq!(head.via[1].transport, "TCP");
    assert_eq!(head.via[1].host, Host::Name("spindle.example.com".into()));
    assert_eq!(head.via[2].branch(), "z9hG4bK30239");
    let other = HeaderName::parse("newfangledheader").unwrap();
    assert_eq!(
        head.header(&other),
        Some("newfangled value continued newfangled value")
    );
    assert!(head.route[0].sip().unwrap().params.has("lr"));
    let contact = head.contacts.first().unwrap();
    assert_eq!(contact.display, r#"Quoted string """#);
    assert_eq!(contact.params.value("newparam"), Some("newvalue"));
    assert!(contact.params.has("secondparam"));
    assert!(head.has_content_type("application/sdp"));
    let session = Description::parse(&head.body).unwrap();
    assert_eq!(session.media.len(), 2);
    // What was read can be written and read again.
    assert_eq!(
        Message::parse(&invite.encode()),
        Ok(Message::Request(invite))
    );
}

/// 3.1.1.2: the wide range of valid characters.
#[test]
fn valid_use_of_wide_ranges_of_characters() {
    let method = "!interesting-Method0123456789_*+`.%indeed'~";
    let uri = "sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*:&it+has=1,weird!*pas$wo~d_too.(doesn't-it)@example.com";
    let start = format!("{method} {uri} SIP/2.0");
    let to = "\"BEL:\\\u{7} NUL:\\\u{0} DEL:\\\u{7f}\" <sip:a@example.com>";
    let text = with(&start, &[("CSeq", &format!("139122385 {method}"))]);
    let got = request(&text);
    assert_eq!(got.method.as_str(), method);
    assert_eq!(got.uri.to_string(), uri);
    // Ours: control characters are refused even as quoted pairs, where the RFC allows them.
    assert_eq!(error(&with(OPTIONS, &[("To", to)])), ParseError::NotText);
}

/// 3.1.1.3 to 3.1.1.5: escapes are text of the user part, and do not decide where it ends.
#[test]
fn escapes_in_uris() {
    let text = with(
        "INVITE sip:sips%3Auser%40example.com@example.net SIP/2.0",
        &[],
    );
    let uri = request(&text).uri;
    assert_eq!(uri.user_name(), "sips:user@example.com");
    assert_eq!(uri.sip().unwrap().host, Host::Name("example.net".into()));
    let text = with(
        "REGISTER sip:example.com SIP/2.0",
        &[
            ("To", "sip:null-%00-null@example.com"),
            ("Contact", "<sip:%00@host5.example.com>"),
        ],
    );
    assert_eq!(request(&text).head.to.uri.user_name(), "null-\0-null");
    // A method may hold percent signs; they escape nothing.
    let text = with("RE%47IST%45R sip:registrar.example.com SIP/2.0", &[]);
    assert_eq!(request(&text).method, Method::Other("RE%47IST%45R".into()));
}

/// 3.1.1.6: no white space between display name and bracket.
#[test]
fn no_space_before_the_bracket() {
    let got = request(&with(
        OPTIONS,
        &[("From", "caller<sip:caller@example.com>;tag=323")],
    ));
    assert_eq!(got.head.from.display, "caller");
}

/// 3.1.1.7: long values everywhere.
#[test]
fn long_values() {
    let user = "amazinglylong".repeat(20);
    let text = with(
        &format!("INVITE sip:{user}@example.net SIP/2.0"),
        &[
            ("Call-ID", &format!("{}x@example.com", "long".repeat(100))),
            (
                "To",
                &format!(
                    "\"{}\" <sip:{user}@example.com>;p={user}",
                    "I have a name ".repeat(30)
                ),
            ),
            (
                "Via",
                &(0..30)
                    .map(|n| format!("SIP/2.0/TCP sip{n}.example.com"))
                    .collect::<Vec<_>>()
                    .join(", "),
            ),
        ],
    );
    assert_eq!(request(&text).head.via.len(), 30);
}

/// 3.1.1.8: what follows the body in a datagram is dropped.
#[test]
fn an_extra_request_in_the_datagram_is_ignored() {
    let text = with(
        "REGISTER sip:example.com SIP/2.0",
        &[("Content-Length", "0")],
    );
    let got = request(&format!("{text}INVITE sip:joe@example.com SIP/2.0\n"));
    assert_eq!(got.method, Method::Register);
    assert!(got.head.body.is_empty());
}

/// 3.1.1.9: a semicolon in the user part is no parameter.
#[test]
fn semicolons_in_the_user_part() {
    let got = request(&with(
        "OPTIONS sip:user;par=u%40example.net@example.com SIP/2.0",
        &[],
    ));
    assert_eq!(got.uri.user_name(), "user;par=u@example.net");
    assert!(!got.uri.sip().unwrap().params.has("par"));
}

/// 3.1.1.10: all transports, also unknown ones.
#[test]
fn unknown_transports_are_read() {
    let got = request(&with(
        OPTIONS,
        &[(
            "Via",
            "SIP/2.0/SCTP t2.example.com;branch=z9hG4bK1, SIP/2.0/UNKNOWN t5.example.com",
        )],
    ));
    assert_eq!(got.head.via[1].transport, "UNKNOWN");
}

/// 3.1.1.11: bodies are bytes.
#[test]
fn binary_bodies() {
    let mut bytes = wire(&with(
        "MESSAGE sip:kumiko@example.org SIP/2.0",
        &[("Content-Length", "4")],
    ));
    bytes.extend([0, 0xff, b'\r', b'\n']);
    let Ok(Message::Request(got)) = Message::parse(&bytes) else {
        panic!("not read");
    };
    assert_eq!(got.head.body, [0, 0xff, b'\r', b'\n']);
}

/// 3.1.1.12 and 3.1.1.13: reason phrases of any language, or none.
#[test]
fn reason_phrases() {
    let fields = "Via: SIP/2.0/UDP 192.0.2.198;branch=z9hG4bK1\nFrom: sip:a@b;tag=1\nTo: sip:c@d;tag=2\n\
        Call-ID: 1\nCSeq: 35 INVITE\n\n";
    let got = response(&format!(
        "SIP/2.0 200 = 2**3 * 5**2 но сто девяносто девять - простое\n{fields}"
    ));
    assert!(got.reason.ends_with("простое"));
    assert_eq!(response(&format!("SIP/2.0 100 \n{fields}")).reason, "");
    assert_eq!(response(&format!("SIP/2.0 100\n{fields}")).reason, "");
    // 3.1.2.19.
    let big = format!("SIP/2.0 4294967301 better not break the receiver\n{fields}");
    assert_eq!(error(&big), ParseError::StatusCode);
}

/// 3.1.2.1: extraneous separators.
#[test]
fn empty_list_elements() {
    let via = "SIP/2.0/UDP 192.0.2.15;;,;,,";
    assert_eq!(
        error(&with(OPTIONS, &[("Via", via)])),
        ParseError::Malformed(HeaderName::Via)
    );
    let contact = "\"Joe\" <sip:joe@example.org>;;;;";
    assert_eq!(
        error(&with(OPTIONS, &[("Contact", contact)])),
        ParseError::Malformed(HeaderName::Contact)
    );
}

/// 3.1.2.2 and 3.1.2.3: Content-Length beyond the datagram, or negative.
#[test]
fn impossible_content_lengths() {
    assert_eq!(
        error(&with(OPTIONS, &[("Content-Length", "9999")])),
        ParseError::BodyTooShort
    );
    let malformed = ParseError::Malformed(HeaderName::ContentLength);
    for value in ["-999", "99999999999999999999", "1 2", ""] {
        assert_eq!(
            error(&with(OPTIONS, &[("Content-Length", value)])),
            malformed,
            "{value}"
        );
    }
}

/// 3.1.2.4 and 3.1.2.5: numbers out of range.
#[test]
fn numbers_out_of_range() {
    let malformed = |name, value| {
        assert_eq!(
            error(&with("REGISTER sip:example.com SIP/2.0", &[(name, value)])),
            ParseError::Malformed(HeaderName::parse(name).unwrap())
        );
    };
    malformed("CSeq", "36893488147419103232 REGISTER");
    malformed("CSeq", "2147483648 REGISTER");
    malformed("Max-Forwards", "300");
    // Expires is text to the reader; who wants it as a number gets none.
    let text = with(
        "REGISTER sip:example.com SIP/2.0",
        &[("Expires", "1000000000000000000000000000000000")],
    );
    assert_eq!(request(&text).head.expires(), None);
}

/// 3.1.2.6: a quote without its end.
#[test]
fn unbalanced_quotes() {
    let to = "\"Mr. J. User <sip:j.user@example.com>";
    assert_eq!(
        error(&with(OPTIONS, &[("To", to)])),
        ParseError::Malformed(HeaderName::To)
    );
}

/// 3.1.2.7 to 3.1.2.11: Request-URIs that are none.
#[test]
fn bad_request_uris() {
    for (start, wanted) in [
        (
            "INVITE <sip:user@example.com> SIP/2.0",
            ParseError::RequestUri(UriError::Scheme),
        ),
        (
            "INVITE sip:user@example.com; lr SIP/2.0",
            ParseError::RequestUri(UriError::Params),
        ),
        (
            "INVITE  sip:user@example.com SIP/2.0",
            ParseError::RequestUri(UriError::Scheme),
        ),
        (
            "INVITE sip:user@example.com  SIP/2.0",
            ParseError::RequestUri(UriError::Host),
        ),
    ] {
        let got = error(&with(start, &[("CSeq", "1 INVITE")]));
        assert!(
            got == wanted || matches!(got, ParseError::RequestUri(_)),
            "{start}: {got:?}"
        );
    }
    // 3.1.2.12, 3.1.2.13: without brackets the URI may hold neither comma nor question mark.
    let contact = [(
        "Contact",
        "sip:user@example.com?Route=%3Csip:sip.example.com%3E",
    )];
    let register = "REGISTER sip:example.com SIP/2.0";
    assert_eq!(
        error(&with(register, &contact)),
        ParseError::Malformed(HeaderName::Contact)
    );
}

/// 3.1.2.16: an unknown version, and other protocols.
#[test]
fn other_versions() {
    assert_eq!(
        error(&with("OPTIONS sip:t.watson@example.org SIP/7.0", &[])),
        ParseError::Version
    );
    assert_eq!(
        error(&with("GET / HTTP/1.1", &[("CSeq", "1 GET")])),
        ParseError::StartLine
    );
    assert_eq!(error("SIP/3.0 200 OK\n\n"), ParseError::Version);
}

/// 3.1.2.17 and 3.1.2.18: the CSeq names another method.
#[test]
fn method_mismatch() {
    assert_eq!(
        error(&with(OPTIONS, &[("CSeq", "8 INVITE")])),
        ParseError::MethodMismatch
    );
    let text = with(
        "NEWMETHOD sip:user@example.com SIP/2.0",
        &[("CSeq", "8 INVITE")],
    );
    assert_eq!(error(&text), ParseError::MethodMismatch);
}

/// 3.3.1: mandatory fields that are not there; 3.3.8, 3.3.9: fields that stand twice.
#[test]
fn missing_and_repeated_fields() {
    for name in ["Via", "From", "To", "Call-ID", "CSeq"] {
        let wanted = ParseError::Missing(HeaderName::parse(name).unwrap());
        assert_eq!(error(&with(OPTIONS, &[(name, "-")])), wanted);
    }
    for (name, value) in [
        ("f", "sip:x@y"),
        ("t", "sip:x@y"),
        ("i", "2"),
        ("CSEQ", "1 OPTIONS"),
        ("max-forwards", "1"),
    ] {
        let wanted = ParseError::Repeated(HeaderName::parse(name).unwrap());
        assert_eq!(error(&with(OPTIONS, &[(name, value)])), wanted);
    }
    let text = with(OPTIONS, &[("Content-Length", "0"), ("l", "5")]);
    assert_eq!(
        error(&text),
        ParseError::Repeated(HeaderName::ContentLength)
    );
}

/// 3.3.2, 3.3.3: URIs of other schemes are read, to be refused with 416.
#[test]
fn other_schemes_are_read() {
    let text = with(
        "OPTIONS nobodyKnowsThisScheme:totallyopaquecontent SIP/2.0",
        &[],
    );
    assert!(matches!(request(&text).uri, Uri::Other(_)));
    let text = with("OPTIONS soap.beep://192.0.2.103:3002 SIP/2.0", &[]);
    assert!(request(&text).uri.sip().is_none());
}

/// 3.3.15 and the like: `*` stands alone.
#[test]
fn star_contacts() {
    let register = "REGISTER sip:example.com SIP/2.0";
    let got = request(&with(register, &[("Contact", "*"), ("Expires", "0")]));
    assert_eq!(got.head.contacts, Contacts::All);
    for lines in [
        [("Contact", "*"), ("m", "<sip:a@b>")],
        [("Contact", "<sip:a@b>"), ("m", "*")],
    ] {
        assert_eq!(
            error(&with(register, &lines)),
            ParseError::Malformed(HeaderName::Contact)
        );
    }
}

/// Ours: the limits of the reader, and what is no text at all.
#[test]
fn limits_and_noise() {
    assert_eq!(Message::parse(&[b'x'; 20_000]), Err(ParseError::TooLong));
    assert_eq!(error("\n\n"), ParseError::Keepalive);
    assert_eq!(error("OPTIONS sip:a@b SIP/2.0\n"), ParseError::NoEnd);
    let many: String = (0..200).map(|n| format!("X-{n}: y\n")).collect();
    assert_eq!(
        error(&format!("{OPTIONS}\n{many}\n")),
        ParseError::TooManyLines
    );
    let vias = vec!["SIP/2.0/UDP a"; 65].join(",");
    assert_eq!(
        error(&with(OPTIONS, &[("Via", &vias)])),
        ParseError::Malformed(HeaderName::Via)
    );
    assert_eq!(
        error(&format!("{OPTIONS}\nno colon\n\n")),
        ParseError::HeaderLine
    );
    assert_eq!(
        error(&format!("{OPTIONS}\nbad name: x\n\n")),
        ParseError::HeaderLine
    );
    assert_eq!(
        error(&format!("{OPTIONS}\n folded: x\n\n")),
        ParseError::StartLine
    );
    assert_eq!(
        Message::parse(b"OPTIONS sip:a@b SIP/2.0\r\nX: \xff\r\n\r\n"),
        Err(ParseError::NotText)
    );
    assert_eq!(
        Message::parse(b"OPTIONS sip:a@b SIP/2.0\r\nX: \0\r\n\r\n"),
        Err(ParseError::NotText)
    );
}

/// What is written holds no line that a value smuggled in.
#[test]
fn values_cannot_smuggle_lines() {
    let mut got = request(&with(OPTIONS, &[]));
    got.head.from.display = "x\r\nEvil: 1\r\n\r\n".into();
    got.head.push(HeaderName::Reason, "a\r\nEvil: 2");
    let Ok(Message::Request(again)) = Message::parse(&got.encode()) else {
        panic!("not read");
    };
    assert_eq!(again.head.header(&HeaderName::parse("evil").unwrap()), None);
    assert!(again.head.body.is_empty());
}
