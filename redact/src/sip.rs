//! SIP with identities masked: each byte of what is taken away becomes an `x`, lines and lengths stay.
//!
//! Only what is known to be harmless stays: methods, status, Via, Call-ID, CSeq and their like; hosts and ports of URIs; tags and
//! a few more parameters; of SDP the lines and attributes that describe media. A message must begin with the packet; the rest of one that
//! came in several is not recognised, and is cut off as anything else.

/// Header fields (with their compact forms) that name nobody.
const PLAIN: &[&str] = &[
    "accept",
    "accept-encoding",
    "accept-language",
    "allow",
    "allow-events",
    "call-id",
    "content-encoding",
    "content-length",
    "content-type",
    "cseq",
    "date",
    "event",
    "expires",
    "max-forwards",
    "mime-version",
    "min-expires",
    "min-se",
    "proxy-require",
    "rack",
    "require",
    "retry-after",
    "rseq",
    "session-expires",
    "supported",
    "timestamp",
    "unsupported",
    "via",
    "c",
    "e",
    "i",
    "k",
    "l",
    "o",
    "u",
    "v",
    "x",
];

/// Header fields that hold addresses.
const ADDRESSES: &[&str] = &[
    "contact",
    "from",
    "p-asserted-identity",
    "p-preferred-identity",
    "path",
    "record-route",
    "refer-to",
    "referred-by",
    "remote-party-id",
    "reply-to",
    "route",
    "service-route",
    "to",
    "b",
    "f",
    "m",
    "r",
    "t",
];

/// Parameters of URIs and addresses whose values name nobody.
const PARAMETERS: &[&str] = &[
    "branch",
    "expires",
    "lr",
    "ob",
    "q",
    "received",
    "reg-id",
    "rport",
    "tag",
    "transport",
    "ttl",
    "user",
];

/// Attributes of SDP that describe media.
const ATTRIBUTES: &[&str] = &[
    "candidate",
    "fmtp",
    "group",
    "inactive",
    "maxptime",
    "mid",
    "ptime",
    "recvonly",
    "rtcp",
    "rtcp-mux",
    "rtpmap",
    "sendonly",
    "sendrecv",
];

/// Lines of SDP that describe media.
const MEDIA: &[u8] = b"vtmcbrz";

/// Masks a message in place; false, and nothing touched, if this is none.
pub(crate) fn mask(message: &mut [u8]) -> bool {
    // By the rule for all lines: what ends a line for a lenient reader is no part of the first.
    let (start, rest) = message.split_at_mut(line_len(message));
    if !start_line(start) {
        return false;
    }
    let (mut rest, mut is_sdp) = (rest, false);
    loop {
        let len = header_len(rest);
        let (header, after) = rest.split_at_mut(len);
        if header.is_empty() {
            return true;
        }
        if header.trim_ascii().is_empty() {
            rest = after;
            break;
        }
        is_sdp |= mask_header(header);
        rest = after;
    }
    if is_sdp {
        while !rest.is_empty() {
            let (line, after) = rest.split_at_mut(line_len(rest));
            mask_sdp(line);
            rest = after;
        }
    } else {
        blank(rest);
    }
    true
}

/// `METHOD uri SIP/2.0` or `SIP/2.0 code reason`; masks the former's URI and the latter's reason, which is free text.
fn start_line(line: &mut [u8]) -> bool {
    if let Some((b"SIP/2.0 ", status)) = line
        .split_at_mut_checked(8)
        .map(|(name, status)| (&*name, status))
    {
        let Some((code, reason)) = status.split_first_chunk_mut::<3>() else {
            return false;
        };
        let is_whole = reason.ends_with(b"\r\n") && matches!(reason.first(), Some(b' ' | b'\r'));
        if !code.iter().all(u8::is_ascii_digit) || !is_whole {
            return false;
        }
        blank(reason);
        return true;
    }
    if !line.ends_with(b" SIP/2.0\r\n") {
        return false;
    }
    let method = line
        .iter()
        .take_while(|byte| byte.is_ascii_uppercase())
        .count();
    if method == 0 || line.get(method) != Some(&b' ') {
        return false;
    }
    let end = line.len() - b" SIP/2.0\r\n".len();
    match line.get_mut(method + 1..end) {
        Some(uri) => mask_uri(uri),
        None => return false,
    }
    true
}

/// Up to the end of a line, however it ends: CR LF, or one of them, as lenient readers take it.
fn line_len(rest: &[u8]) -> usize {
    match rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')) {
        Some(end)
            if rest
                .get(end..)
                .is_some_and(|rest| rest.starts_with(b"\r\n")) =>
        {
            end + 2
        }
        Some(end) => end + 1,
        None => rest.len(),
    }
}

/// Up to the end of a header field, lines that begin with a blank included.
fn header_len(rest: &[u8]) -> usize {
    let mut end = line_len(rest);
    let is_empty = rest
        .get(..end)
        .is_none_or(|line| line.trim_ascii().is_empty());
    while !is_empty && matches!(rest.get(end), Some(b' ' | b'\t')) {
        end += line_len(rest.get(end..).unwrap_or_default());
    }
    end
}

/// Masks a header field; whether it says that the body is SDP.
fn mask_header(header: &mut [u8]) -> bool {
    // A colon further on is not that of a name.
    let is_name = |name: &[u8]| name.trim_ascii_end().iter().all(is_token);
    let colon = header.iter().position(|byte| *byte == b':');
    let Some(colon) = colon.filter(|colon| header.get(..*colon).is_some_and(is_name)) else {
        blank(header);
        return false;
    };
    let (name, value) = header.split_at_mut(colon + 1);
    let name = lower(name.get(..colon).unwrap_or_default());
    if PLAIN.contains(&name.as_str()) {
        // Folded lines are rare there, and may be what is left of another field.
        let first = line_len(value);
        blank(value.get_mut(first..).unwrap_or_default());
        let is_type = matches!(name.as_str(), "content-type" | "c");
        return is_type && lower(value).starts_with("application/sdp");
    }
    if ADDRESSES.contains(&name.as_str()) {
        mask_addresses(value);
    } else {
        blank(value);
    }
    false
}

/// A list of addresses: `"name" <uri>;parameters` or `uri;parameters`.
fn mask_addresses(value: &mut [u8]) {
    let end = value.trim_ascii_end().len();
    let mut rest = value.get_mut(..end).unwrap_or_default();
    while !rest.is_empty() {
        let len = outside_quotes(rest, b',').unwrap_or(rest.len());
        let (address, after) = rest.split_at_mut(len);
        mask_address(address);
        rest = after.get_mut(1..).unwrap_or_default();
    }
}

fn mask_address(address: &mut [u8]) {
    let blanks = address.len() - address.trim_ascii_start().len();
    let address = address.get_mut(blanks..).unwrap_or_default();
    let opened = outside_quotes(address, b'<');
    let closed = opened.and_then(|open| {
        let inside = address.get(open..).unwrap_or_default();
        Some(open + inside.iter().position(|byte| *byte == b'>')?)
    });
    match (opened, closed) {
        (Some(open), Some(close)) => {
            if let Some(name) = address.get_mut(..open) {
                blank(name);
            }
            if let Some(uri) = address.get_mut(open + 1..close) {
                mask_uri(uri);
            }
            if let Some(parameters) = address.get_mut(close + 1..) {
                mask_parameters(parameters);
            }
        }
        // Opened, and cut short.
        (Some(_), None) => blank(address),
        (None, _) if address == b"*" => {}
        (None, _) => mask_uri(address),
    }
}

/// `sip:user@host:port;parameters?headers`; of other schemes the scheme stays.
fn mask_uri(uri: &mut [u8]) {
    let Some(colon) = uri.iter().position(|byte| *byte == b':') else {
        blank(uri);
        return;
    };
    let (scheme, rest) = uri.split_at_mut(colon + 1);
    if !scheme
        .iter()
        .all(|byte| byte.is_ascii_alphanumeric() || *byte == b':')
    {
        blank(scheme);
    }
    if !matches!(lower(scheme).as_str(), "sip:" | "sips:") {
        blank(rest);
        return;
    }
    // The last, as users are whatever they are.
    let at = rest.iter().rposition(|byte| *byte == b'@');
    let (user, place) = rest.split_at_mut(at.unwrap_or(0));
    blank(user);
    let place = match at {
        Some(_) => place.get_mut(1..).unwrap_or_default(),
        None => place,
    };
    let headers = place
        .iter()
        .position(|byte| *byte == b'?')
        .unwrap_or(place.len());
    let (place, headers) = place.split_at_mut(headers);
    blank(headers);
    let end = place
        .iter()
        .position(|byte| *byte == b';')
        .unwrap_or(place.len());
    let (host, parameters) = place.split_at_mut(end);
    // A number without a host would stand here.
    if !host.iter().any(|byte| matches!(byte, b'.' | b'[')) || !host.iter().all(is_token) {
        blank(host);
    }
    mask_parameters(parameters);
}

/// `;name=value;name`; what comes before the first `;` should be blanks.
fn mask_parameters(parameters: &mut [u8]) {
    let first = outside_quotes(parameters, b';').unwrap_or(parameters.len());
    let (before, mut rest) = parameters.split_at_mut(first);
    blank(before);
    while !rest.is_empty() {
        let len = match outside_quotes(rest.get(1..).unwrap_or_default(), b';') {
            Some(next) => next + 1,
            None => rest.len(),
        };
        let (parameter, after) = rest.split_at_mut(len);
        let equals = parameter.iter().position(|byte| *byte == b'=');
        let (name, value) = parameter.split_at_mut(equals.map_or(len, |equals| equals + 1));
        let name = lower(name.get(1..).unwrap_or_default());
        let is_known = PARAMETERS.contains(&name.trim_end_matches('=').trim_end());
        if !is_known || !value.trim_ascii().iter().all(is_token) {
            blank(value);
            if equals.is_none() {
                blank(parameter.get_mut(1..).unwrap_or_default());
            }
        }
        rest = after;
    }
}

fn mask_sdp(line: &mut [u8]) {
    let (kind, value) = match line {
        [kind @ b'a'..=b'z', b'=', value @ ..] => (*kind, value),
        other => {
            blank(other);
            return;
        }
    };
    if MEDIA.contains(&kind) {
        return;
    }
    match kind {
        // User, session, version, network, kind of address, address.
        b'o' => {
            let fields: Vec<&[u8]> = value.split(|byte| *byte == b' ').collect();
            let is_number = |field: &&[u8]| field.iter().all(u8::is_ascii_digit);
            let known = match fields.as_slice() {
                [user, session, version, b"IN", _, _]
                    if [session, version].into_iter().all(is_number) =>
                {
                    user.len()
                }
                _ => value.len(),
            };
            blank(value.get_mut(..known).unwrap_or_default());
        }
        b'a' => {
            let end = value
                .iter()
                .position(|byte| *byte == b':')
                .unwrap_or(value.len());
            let name = lower(value.get(..end).unwrap_or_default());
            if !ATTRIBUTES.contains(&name.as_str()) {
                let is_flag = end == value.len();
                let from = if is_flag { 0 } else { end + 1 };
                blank(value.get_mut(from..).unwrap_or_default());
            }
        }
        _ => blank(value),
    }
}

/// What hosts, tags and branches are made of.
fn is_token(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b".-_~:[]".contains(byte)
}

/// What separates stays: blanks, line ends, quotes.
fn blank(bytes: &mut [u8]) {
    for byte in bytes {
        if !matches!(*byte, b' ' | b'\t' | b'\r' | b'\n' | b'"') {
            *byte = b'x';
        }
    }
}

/// The first `wanted` that is not inside quotes or angle brackets.
fn outside_quotes(bytes: &[u8], wanted: u8) -> Option<usize> {
    let (mut quoted, mut bracketed, mut escaped) = (false, false, false);
    for (at, &byte) in bytes.iter().enumerate() {
        if escaped {
            escaped = false;
        } else if quoted {
            escaped = byte == b'\\';
            quoted = byte != b'"';
        } else if byte == wanted && !bracketed {
            return Some(at);
        } else {
            quoted = byte == b'"';
            bracketed = byte == b'<' || bracketed && byte != b'>';
        }
    }
    None
}

fn lower(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.trim_ascii()).to_ascii_lowercase()
}
