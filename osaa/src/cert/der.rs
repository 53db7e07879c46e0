//! As much DER as it takes to name the holder of a certificate (RFC 5280): subject and alternative names.
//!
//! Chains are verified by webpki; this only reads what was verified (or what an unverified peer claims), so
//! every function returns `None` for what it does not understand, and none can fail louder.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::peer::{MAX_NAMES, SubjectName};

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
const BOOLEAN: u8 = 0x01;
const OCTET_STRING: u8 = 0x04;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;

/// 2.5.29.17, subjectAltName.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// What a certificate says about its holder.
#[derive(Default)]
pub(super) struct Holder {
    /// Relative distinguished names in the certificate's order; attributes as (short name or OID, value).
    pub(super) subject: Vec<Vec<(String, String)>>,
    /// Alternative names, in order.
    pub(super) names: Vec<SubjectName>,
}

/// Reads the holder from a certificate in DER.
pub(super) fn holder(certificate: &[u8]) -> Option<Holder> {
    let mut outer = Reader(certificate);
    let mut certificate = Reader(outer.expect(SEQUENCE)?);
    let mut tbs = Reader(certificate.expect(SEQUENCE)?);
    if tbs.peek() == Some(VERSION) {
        tbs.next()?;
    }
    // serialNumber, signature, issuer, validity
    for _ in 0..4 {
        tbs.next()?;
    }
    let mut holder = Holder {
        subject: subject(tbs.expect(SEQUENCE)?)?,
        names: Vec::new(),
    };
    // subjectPublicKeyInfo, then the optional unique identifiers, then the extensions
    tbs.next()?;
    while let Some((tag, value)) = tbs.next() {
        if tag == EXTENSIONS {
            holder.names = alternative_names(value).unwrap_or_default();
        }
    }
    Some(holder)
}

fn subject(name: &[u8]) -> Option<Vec<Vec<(String, String)>>> {
    let mut name = Reader(name);
    let mut found = Vec::new();
    while let Some((tag, set)) = name.next() {
        if tag != SET || found.len() == MAX_NAMES {
            return None;
        }
        let mut set = Reader(set);
        let mut attributes = Vec::new();
        while let Some((tag, attribute)) = set.next() {
            if tag != SEQUENCE || attributes.len() == MAX_NAMES {
                return None;
            }
            let mut attribute = Reader(attribute);
            let kind = attribute.expect(OID)?;
            let (tag, value) = attribute.next()?;
            attributes.push((attribute_name(kind), text(tag, value)));
        }
        found.push(attributes);
    }
    Some(found)
}

fn alternative_names(extensions: &[u8]) -> Option<Vec<SubjectName>> {
    let mut outer = Reader(extensions);
    let mut extensions = Reader(outer.expect(SEQUENCE)?);
    while let Some((_, extension)) = extensions.next() {
        let mut extension = Reader(extension);
        if extension.expect(OID)? != SUBJECT_ALT_NAME {
            continue;
        }
        if extension.peek() == Some(BOOLEAN) {
            extension.next()?;
        }
        let mut value = Reader(extension.expect(OCTET_STRING)?);
        let mut names = Reader(value.expect(SEQUENCE)?);
        let mut found = Vec::new();
        while let Some((tag, name)) = names.next() {
            if found.len() == MAX_NAMES {
                break;
            }
            found.extend(general_name(tag, name));
        }
        return Some(found);
    }
    None
}

/// RFC 5280, 4.2.1.6: context tags 1 rfc822Name, 2 dNSName, 6 URI, 7 iPAddress. Others name nobody we know.
fn general_name(tag: u8, value: &[u8]) -> Option<SubjectName> {
    let ascii = || {
        value
            .iter()
            .all(u8::is_ascii_graphic)
            .then(|| String::from_utf8_lossy(value).into_owned())
    };
    match tag {
        0x81 => Some(SubjectName::Email(ascii()?)),
        0x82 => Some(SubjectName::Dns(ascii()?.to_ascii_lowercase())),
        0x86 => Some(SubjectName::Uri(ascii()?)),
        0x87 => {
            let v4 = <[u8; 4]>::try_from(value).map(|a| IpAddr::V4(Ipv4Addr::from(a)));
            let v6 = <[u8; 16]>::try_from(value).map(|a| IpAddr::V6(Ipv6Addr::from(a)));
            v4.or(v6).ok().map(SubjectName::Ip)
        }
        _ => None,
    }
}

/// The names of RFC 4514, section 3, and a few common ones; otherwise the dotted OID.
fn attribute_name(oid: &[u8]) -> String {
    match oid {
        [0x55, 0x04, 0x03] => "CN".to_owned(),
        [0x55, 0x04, 0x04] => "SN".to_owned(),
        [0x55, 0x04, 0x05] => "serialNumber".to_owned(),
        [0x55, 0x04, 0x06] => "C".to_owned(),
        [0x55, 0x04, 0x07] => "L".to_owned(),
        [0x55, 0x04, 0x08] => "ST".to_owned(),
        [0x55, 0x04, 0x09] => "STREET".to_owned(),
        [0x55, 0x04, 0x0a] => "O".to_owned(),
        [0x55, 0x04, 0x0b] => "OU".to_owned(),
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x01] => "emailAddress".to_owned(),
        [
            0x09,
            0x92,
            0x26,
            0x89,
            0x93,
            0xf2,
            0x2c,
            0x64,
            0x01,
            last @ (0x01 | 0x19),
        ] => if *last == 0x01 { "UID" } else { "DC" }.to_owned(),
        other => dotted(other),
    }
}

fn dotted(oid: &[u8]) -> String {
    let mut text = String::from("OID");
    let mut arc = 0u64;
    let mut first = true;
    for byte in oid {
        arc = (arc << 7) | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            if first {
                let root = (arc / 40).min(2);
                text.push_str(&format!(".{root}.{}", arc - root * 40));
                first = false;
            } else {
                text.push_str(&format!(".{arc}"));
            }
            arc = 0;
        }
    }
    text
}

/// A value as text: the string types as they are (RFC 5280, appendix A), anything else as `#hex` (RFC 4514, 2.4).
fn text(tag: u8, value: &[u8]) -> String {
    const UTF8: u8 = 0x0c;
    const PRINTABLE: u8 = 0x13;
    const TELETEX: u8 = 0x14;
    const IA5: u8 = 0x16;
    const BMP: u8 = 0x1e;
    let decoded = match tag {
        UTF8 | PRINTABLE | TELETEX | IA5 => String::from_utf8(value.to_vec()).ok(),
        BMP if value.len().is_multiple_of(2) => {
            let units = value
                .chunks_exact(2)
                .map(|pair| pair.iter().fold(0u16, |v, b| (v << 8) | u16::from(*b)));
            char::decode_utf16(units).collect::<Result<_, _>>().ok()
        }
        _ => None,
    };
    decoded.unwrap_or_else(|| format!("#{tag:02x}{}", super::peer::hex(value)))
}

/// A cursor over DER values (X.690): definite lengths, one-byte tags.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The next value and its tag; `None` at the end or if it is not DER.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let length = if first < 0x80 {
            usize::from(first)
        } else {
            let count = usize::from(first & 0x7f);
            // 0x80 is the indefinite form; four bytes hold any length that can be in memory here.
            if count == 0 || count > 4 {
                return None;
            }
            let (bytes, after) = rest.split_at_checked(count)?;
            rest = after;
            bytes
                .iter()
                .try_fold(0usize, |v, b| v.checked_mul(256)?.checked_add((*b).into()))?
        };
        let (value, after) = rest.split_at_checked(length)?;
        self.0 = after;
        Some((tag, value))
    }

    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next()
            .and_then(|(found, value)| (found == tag).then_some(value))
    }
}
