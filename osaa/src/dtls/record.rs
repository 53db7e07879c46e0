//! The little of the DTLS wire format that is needed in front of the libraries: record headers, the
//! ClientHello, HelloVerifyRequest and plaintext alerts (RFC 6347 sections 4.1 to 4.3).
//!
//! ```text
//! record     type 1 | version 2 | epoch 2 | sequence 6 | length 2 | fragment
//! handshake  type 1 | length 3 | message_seq 2 | fragment_offset 3 | fragment_length 3 | body
//! ```

use crate::cert::ALPN;

use super::Alert;

/// Content types, RFC 5246 section 6.2.1.
pub(super) const CHANGE_CIPHER_SPEC: u8 = 20;
pub(super) const ALERT: u8 = 21;
pub(super) const HANDSHAKE: u8 = 22;
pub(super) const APPLICATION_DATA: u8 = 23;

/// Handshake types, RFC 6347 section 4.3.2.
pub(super) const CLIENT_HELLO: u8 = 1;
pub(super) const HELLO_VERIFY_REQUEST: u8 = 3;
#[cfg(feature = "dtls-dimpl")]
pub(super) const CERTIFICATE: u8 = 11;
const CERTIFICATE_REQUEST: u8 = 13;

/// Bytes of a record's header.
pub(super) const RECORD_HEADER: usize = 13;

/// DTLS 1.0 on the wire. A HelloVerifyRequest carries it whatever is negotiated (RFC 6347 section 4.2.1).
const DTLS_1_0: u16 = 0xFEFF;
const DTLS_1_2: u16 = 0xFEFD;

const EXTENSION_ALPN: u16 = 16;
/// RFC 5077 section 3.2.
const EXTENSION_SESSION_TICKET: u16 = 35;

/// One record of a datagram; the fragment is ciphertext unless the epoch is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) content_type: u8,
    pub(super) epoch: u16,
    /// 48 bits.
    pub(super) sequence: u64,
    pub(super) fragment: &'a [u8],
    /// Header and fragment.
    pub(super) bytes: &'a [u8],
}

/// The records of a datagram, in order; ends at the first byte that is no whole record of a version we know.
pub(super) fn records(datagram: &[u8]) -> impl Iterator<Item = Record<'_>> {
    let mut rest = Reader(datagram);
    std::iter::from_fn(move || rest.record())
}

/// The fields of a ClientHello that are looked at before a library sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClientHello<'a> {
    /// Record sequence number, which the answer repeats.
    pub(super) record_sequence: u64,
    /// 0 for the first, 1 for the one that repeats a cookie.
    pub(super) message_sequence: u16,
    pub(super) random: &'a [u8; 32],
    pub(super) has_session_id: bool,
    /// Empty in the first ClientHello.
    pub(super) cookie: &'a [u8],
    extensions: Extensions<'a>,
}

/// What a ClientHello says about the application protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AlpnOffer {
    Absent,
    Tscf,
    Other,
}

/// Whether the datagram starts with a record that carries the start of a ClientHello. Nothing else is
/// checked.
pub(super) fn is_client_hello(record: &Record<'_>) -> bool {
    record.content_type == HANDSHAKE
        && record.epoch == 0
        && record.fragment.first() == Some(&CLIENT_HELLO)
}

impl<'a> ClientHello<'a> {
    /// Parses a ClientHello that is complete in one record. `None` when it is malformed, fragmented, or of a
    /// version below DTLS 1.2: in front of a stateless cookie fragments cannot be collected.
    pub(super) fn parse(record: &Record<'a>) -> Option<Self> {
        let mut message = Reader(record.fragment);
        if message.u8()? != CLIENT_HELLO {
            return None;
        }
        let length = message.u24()?;
        let message_sequence = message.u16()?;
        let offset = message.u24()?;
        let fragment_length = message.u24()?;
        if offset != 0 || fragment_length != length {
            return None;
        }
        let mut body = Reader(message.take(length)?);
        if !message.0.is_empty() || body.u16()? != DTLS_1_2 {
            return None;
        }
        let random = body.array()?;
        let session_id = body.prefixed8()?;
        let cookie = body.prefixed8()?;
        let suites = body.prefixed16()?;
        let compressions = body.prefixed8()?;
        if session_id.len() > 32
            || suites.is_empty()
            || !suites.len().is_multiple_of(2)
            || compressions.is_empty()
        {
            return None;
        }
        let extensions = if body.0.is_empty() {
            Extensions::default()
        } else {
            let extensions = Reader(body.prefixed16()?);
            if !body.0.is_empty() {
                return None;
            }
            Extensions::parse(extensions)?
        };
        Some(Self {
            record_sequence: record.sequence,
            message_sequence,
            random,
            has_session_id: !session_id.is_empty(),
            cookie,
            extensions,
        })
    }

    pub(super) fn alpn(&self) -> AlpnOffer {
        self.extensions.alpn.unwrap_or(AlpnOffer::Absent)
    }

    /// Of an earlier session that the client would resume; opaque. Empty without one.
    #[cfg(any(test, feature = "dtls-openssl"))]
    pub(super) fn ticket(&self) -> &'a [u8] {
        self.extensions.ticket.unwrap_or_default()
    }
}

/// The extensions of a ClientHello that are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Extensions<'a> {
    alpn: Option<AlpnOffer>,
    ticket: Option<&'a [u8]>,
}

impl<'a> Extensions<'a> {
    /// Walks the extensions: all must be well formed, and none of ours there twice.
    fn parse(mut extensions: Reader<'a>) -> Option<Self> {
        let mut found = Self::default();
        while !extensions.0.is_empty() {
            let kind = extensions.u16()?;
            let value = extensions.prefixed16()?;
            let is_repeated = match kind {
                EXTENSION_ALPN => found.alpn.replace(alpn_offer(Reader(value))?).is_some(),
                EXTENSION_SESSION_TICKET => found.ticket.replace(value).is_some(),
                _ => false,
            };
            if is_repeated {
                return None;
            }
        }
        Some(found)
    }
}

/// Reads the list of application protocols, RFC 7301 section 3.1.
fn alpn_offer(mut value: Reader<'_>) -> Option<AlpnOffer> {
    let mut names = Reader(value.prefixed16()?);
    if !value.0.is_empty() {
        return None;
    }
    let mut offer = AlpnOffer::Other;
    while !names.0.is_empty() {
        if names.prefixed8()? == ALPN {
            offer = AlpnOffer::Tscf;
        }
    }
    Some(offer)
}

/// The HelloVerifyRequest that answers a ClientHello: 28 bytes and the cookie, always shorter than what it
/// answers. It needs no state: sequence numbers repeat the client's or are 0.
pub(super) fn hello_verify_request(hello: &ClientHello<'_>, cookie: &[u8; 32]) -> Vec<u8> {
    const BODY: u8 = 3 + 32;
    const HANDSHAKE_LENGTH: u8 = 12 + BODY;
    let mut out = Vec::with_capacity(RECORD_HEADER + usize::from(HANDSHAKE_LENGTH));
    record_header(&mut out, HANDSHAKE, hello.record_sequence, HANDSHAKE_LENGTH);
    // type, length, message_seq, fragment_offset, fragment_length
    out.extend_from_slice(&[HELLO_VERIFY_REQUEST, 0, 0, BODY, 0, 0, 0, 0, 0, 0, 0, BODY]);
    out.extend_from_slice(&DTLS_1_0.to_be_bytes());
    out.push(32);
    out.extend_from_slice(cookie);
    out
}

/// The cookie of a HelloVerifyRequest.
#[cfg(feature = "dtls-webrtc")]
pub(super) fn cookie_of_verify_request<'a>(record: &Record<'a>) -> Option<&'a [u8]> {
    let mut message = Reader(record.fragment);
    if record.content_type != HANDSHAKE
        || record.epoch != 0
        || message.u8()? != HELLO_VERIFY_REQUEST
    {
        return None;
    }
    // The rest of the fragment's header, and the version.
    message.take(11 + 2)?;
    message.prefixed8()
}

/// A fatal alert in the clear that refuses a ClientHello without any state.
pub(super) fn plain_alert(hello: &ClientHello<'_>, alert: Alert) -> Vec<u8> {
    const FATAL: u8 = 2;
    let mut out = Vec::with_capacity(RECORD_HEADER + 2);
    record_header(&mut out, ALERT, hello.record_sequence, 2);
    out.extend_from_slice(&[FATAL, alert.0]);
    out
}

/// A fatal alert in the clear, in the middle of a handshake. `sequence` is the record's number.
#[cfg(feature = "dtls-dimpl")]
pub(super) fn fatal_alert(sequence: u64, alert: Alert) -> [u8; RECORD_HEADER + 2] {
    let [major, minor] = DTLS_1_2.to_be_bytes();
    let [_, _, a, b, c, d, e, f] = sequence.to_be_bytes();
    [
        ALERT, major, minor, 0, 0, a, b, c, d, e, f, 0, 2, 2, alert.0,
    ]
}

/// The ClientHello as it was before it carried a cookie: the first of its handshake, in one record.
#[cfg(feature = "dtls-dimpl")]
pub(super) fn without_cookie(record: &Record<'_>) -> Option<Vec<u8>> {
    let mut message = Reader(record.fragment);
    let &[kind, ..] = message.array::<12>()?;
    let before = message.take(2 + 32)?;
    let session_id = message.prefixed8()?;
    message.prefixed8()?;
    let mut body = before.to_vec();
    body.push(u8::try_from(session_id.len()).ok()?);
    body.extend_from_slice(session_id);
    // No cookie.
    body.push(0);
    body.extend_from_slice(message.0);
    let [_, a, b, c] = u32::try_from(body.len()).ok()?.to_be_bytes();
    let mut out = record.bytes.get(..3)?.to_vec();
    // Epoch and sequence number, and that of the message, are 0; the fragment is all of it.
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&u16::try_from(12 + body.len()).ok()?.to_be_bytes());
    out.extend_from_slice(&[kind, a, b, c, 0, 0, 0, 0, 0, a, b, c]);
    out.extend_from_slice(&body);
    Some(out)
}

fn record_header(out: &mut Vec<u8>, content_type: u8, sequence: u64, length: u8) {
    out.push(content_type);
    out.extend_from_slice(&DTLS_1_0.to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    let [_, _, sequence @ ..] = sequence.to_be_bytes();
    out.extend_from_slice(&sequence);
    out.extend_from_slice(&[0, length]);
}

/// Whether a datagram from a server holds a CertificateRequest in the clear: as long as version 1.3 is not spoken, the
/// server's flight is. Anyone can forge it, so it is for explanations only.
pub(crate) fn asks_for_certificate(datagram: &[u8]) -> bool {
    records(datagram)
        .filter(|record| record.content_type == HANDSHAKE && record.epoch == 0)
        .any(|record| {
            let mut rest = Reader(record.fragment);
            while let Some(kind) = rest.u8() {
                if kind == CERTIFICATE_REQUEST {
                    return true;
                }
                // Length of the message, its number, where the fragment begins; then the fragment.
                let body = rest.take(3 + 2 + 3).and_then(|_| rest.u24());
                if body.and_then(|length| rest.take(length)).is_none() {
                    break;
                }
            }
            false
        })
}

/// A handshake fragment.
#[cfg(feature = "_dtls")]
pub(super) struct Fragment<'a> {
    pub(super) kind: u8,
    /// Length of the whole message.
    pub(super) total: usize,
    pub(super) message_sequence: u16,
    pub(super) offset: usize,
    pub(super) body: &'a [u8],
}

/// The handshake fragments of a record in the clear. An error is a fragment that is cut short.
#[cfg(feature = "_dtls")]
pub(super) fn fragments<'a>(
    record: &Record<'a>,
) -> impl Iterator<Item = Result<Fragment<'a>, CutShort>> + use<'a> {
    let mut rest = Reader(record.fragment);
    std::iter::from_fn(move || {
        (!rest.0.is_empty()).then(|| {
            let header = rest.fragment().ok_or(CutShort);
            if header.is_err() {
                rest = Reader(&[]);
            }
            header
        })
    })
}

/// A handshake fragment is longer than its record.
#[cfg(feature = "_dtls")]
pub(super) struct CutShort;

/// Cursor whose every read may fail.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (head, tail) = self.0.split_first_chunk()?;
        self.0 = tail;
        Some(head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(|&[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().copied().map(u16::from_be_bytes)
    }

    fn u24(&mut self) -> Option<usize> {
        let &[a, b, c] = self.array()?;
        Some(usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c))
    }

    fn prefixed8(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(usize::from(length))
    }

    fn prefixed16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }

    #[cfg(feature = "dtls-dimpl")]
    pub(super) fn prefixed24(&mut self) -> Option<&'a [u8]> {
        let length = self.u24()?;
        self.take(length)
    }

    /// Reads a handshake fragment.
    #[cfg(feature = "_dtls")]
    fn fragment(&mut self) -> Option<Fragment<'a>> {
        let kind = self.u8()?;
        let total = self.u24()?;
        let message_sequence = self.u16()?;
        let offset = self.u24()?;
        let length = self.u24()?;
        Some(Fragment {
            kind,
            total,
            message_sequence,
            offset,
            body: self.take(length)?,
        })
    }

    fn record(&mut self) -> Option<Record<'a>> {
        let start = self.0;
        let content_type = self.u8()?;
        let version = self.u16()?;
        let epoch = self.u16()?;
        let &[a, b, c, d, e, f] = self.array()?;
        let fragment = self.prefixed16()?;
        if !matches!(content_type, CHANGE_CIPHER_SPEC..=APPLICATION_DATA)
            || !matches!(version, DTLS_1_0 | DTLS_1_2)
        {
            return None;
        }
        Some(Record {
            content_type,
            epoch,
            sequence: u64::from_be_bytes([0, 0, a, b, c, d, e, f]),
            fragment,
            bytes: start.get(..RECORD_HEADER + fragment.len())?,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A ClientHello in one record, built by hand: RFC 5246 section 7.4.1.2 with the cookie of RFC 6347.
    pub(in crate::dtls) fn hello(cookie: &[u8], extensions: &[u8]) -> Vec<u8> {
        resuming_hello(&[], cookie, extensions)
    }

    fn resuming_hello(session_id: &[u8], cookie: &[u8], extensions: &[u8]) -> Vec<u8> {
        let mut body = vec![0xFE, 0xFD];
        body.extend([0x55; 32]);
        body.push(u8::try_from(session_id.len()).unwrap());
        body.extend(session_id);
        body.push(u8::try_from(cookie.len()).unwrap());
        body.extend(cookie);
        body.extend([0, 2, 0xC0, 0x2B, 1, 0]);
        if !extensions.is_empty() {
            body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
            body.extend(extensions);
        }
        let length = u16::try_from(body.len()).unwrap();
        let [high, low] = length.to_be_bytes();
        let sequence = u8::from(!cookie.is_empty());
        let mut out = vec![22, 0xFE, 0xFF, 0, 0, 0, 0, 0, 0, 0, sequence];
        out.extend((length + 12).to_be_bytes());
        out.extend([1, 0, high, low, 0, sequence, 0, 0, 0, 0, high, low]);
        out.extend(body);
        out
    }

    /// An extension: its type, and its value behind its length.
    fn extension(kind: u8, value: &[u8]) -> Vec<u8> {
        let mut out = vec![0, kind];
        out.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
        out.extend(value);
        out
    }

    fn parse(datagram: &[u8]) -> Option<ClientHello<'_>> {
        let record = records(datagram).next()?;
        is_client_hello(&record).then(|| ClientHello::parse(&record))?
    }

    #[test]
    fn a_hello_is_parsed() {
        let datagram = hello(&[9; 20], &[]);
        let hello = parse(&datagram).unwrap();
        assert_eq!(hello.cookie, [9; 20]);
        assert_eq!(hello.random, &[0x55; 32]);
        assert_eq!((hello.record_sequence, hello.message_sequence), (1, 1));
        assert!(!hello.has_session_id);
        assert_eq!(hello.alpn(), AlpnOffer::Absent);
        assert_eq!(hello.ticket(), [0; 0]);
    }

    #[test]
    fn a_ticket_of_any_length_is_found_beside_a_session_id() {
        let tscf = extension(16, &[0, 5, 4, b't', b's', b'c', b'f']);
        for length in [0, 1, 160, 4_000, 60_000] {
            let ticket = vec![7; length];
            let extensions = [extension(35, &ticket), tscf.clone()].concat();
            for session_id in [&[][..], &[1], &[1; 32]] {
                let datagram = resuming_hello(session_id, &[9; 32], &extensions);
                let hello = parse(&datagram).unwrap();
                assert_eq!(hello.ticket(), ticket);
                assert_eq!(hello.has_session_id, !session_id.is_empty());
                assert_eq!(
                    (hello.cookie, hello.alpn()),
                    (&[9; 32][..], AlpnOffer::Tscf)
                );
            }
        }
        // Longer than a session id may be; two tickets; one that is cut.
        assert_eq!(parse(&resuming_hello(&[1; 33], &[], &[])), None);
        let ticket = extension(35, &[7; 9]);
        assert_eq!(parse(&hello(&[], &[&ticket[..], &ticket].concat())), None);
        assert_eq!(parse(&hello(&[], &ticket[..12])), None);
    }

    proptest::proptest! {
        /// Whatever comes, what is found lies within the datagram, and a whole hello is found as it was made.
        #[test]
        fn hellos_are_found_whole_or_not_at_all(
            session_id in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..=32),
            cookie in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..=255),
            ticket in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..600),
            change in proptest::option::of((proptest::prelude::any::<usize>(), 1..=255_u8)),
            cut in proptest::option::of(proptest::prelude::any::<usize>()),
        ) {
            let mut datagram = resuming_hello(&session_id, &cookie, &extension(35, &ticket));
            let whole = parse(&datagram).unwrap();
            proptest::prop_assert_eq!((whole.cookie, whole.ticket()), (&cookie[..], &ticket[..]));
            if let Some((at, change)) = change {
                let at = at % datagram.len();
                datagram[at] ^= change;
            }
            let whole = datagram.len();
            datagram.truncate(cut.map_or(whole, |cut| cut % whole));
            if let Some(found) = parse(&datagram) {
                let bounds = datagram.as_ptr_range();
                for part in [found.cookie, found.ticket(), found.random] {
                    let part = part.as_ptr_range();
                    // An absent ticket is nowhere.
                    proptest::prop_assert!(
                        part.is_empty() || bounds.start <= part.start && part.end <= bounds.end
                    );
                }
            }
            if cut.is_some() {
                proptest::prop_assert_eq!(parse(&datagram), None);
            }
        }
    }

    #[test]
    fn alpn_is_found_among_other_extensions() {
        let other = [0, 23, 0, 0];
        let tscf = [0, 16, 0, 10, 0, 8, 2, b'h', b'2', 4, b't', b's', b'c', b'f'];
        let h2 = [0, 16, 0, 5, 0, 3, 2, b'h', b'2'];
        for (extensions, expected) in [
            (other.to_vec(), AlpnOffer::Absent),
            ([&other[..], &tscf].concat(), AlpnOffer::Tscf),
            ([&h2[..], &other].concat(), AlpnOffer::Other),
        ] {
            assert_eq!(parse(&hello(&[], &extensions)).unwrap().alpn(), expected);
        }
        // Twice the same extension, and lists that do not add up.
        for bad in [
            [&h2[..], &tscf].concat(),
            vec![0, 16, 0, 5, 0, 3, 9, b'h', b'2'],
            vec![0, 16, 0, 9, 0, 3, 2, b'h', b'2'],
            vec![0, 16, 0],
        ] {
            assert_eq!(parse(&hello(&[], &bad)), None);
        }
    }

    #[test]
    fn no_cut_hello_is_taken() {
        let datagram = hello(&[1; 32], &[0, 23, 0, 0]);
        assert!(parse(&datagram).is_some());
        for length in 0..datagram.len() {
            assert_eq!(parse(&datagram[..length]), None, "{length}");
        }
        // Fragmented: half of the message, well formed as a record.
        let mut fragment = datagram.clone();
        fragment[24] -= 10;
        fragment[12] -= 10;
        fragment.truncate(datagram.len() - 10);
        assert_eq!(parse(&fragment), None);
    }

    #[cfg(feature = "dtls-dimpl")]
    #[test]
    fn a_cookie_is_taken_out() {
        let extensions = [0, 23, 0, 0];
        let with = hello(&[9; 32], &extensions);
        let record = records(&with).next().unwrap();
        assert_eq!(without_cookie(&record), Some(hello(&[], &extensions)));
        let clear = fatal_alert(7, Alert::UNKNOWN_CA);
        let alert = records(&clear).next().unwrap();
        assert_eq!((alert.sequence, alert.fragment), (7, &[2, 48][..]));
    }

    #[test]
    fn a_verify_request_answers_without_state() {
        let datagram = hello(&[], &[]);
        let hello = parse(&datagram).unwrap();
        let answer = hello_verify_request(&hello, &[7; 32]);
        assert!(answer.len() < datagram.len());
        let expected = [
            &[22, 0xFE, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0, 47][..],
            &[3, 0, 0, 35, 0, 0, 0, 0, 0, 0, 0, 35, 0xFE, 0xFF, 32],
            &[7; 32],
        ]
        .concat();
        assert_eq!(answer, expected);
    }

    #[test]
    fn records_end_at_the_first_that_is_none() {
        let one = hello(&[], &[]);
        let two = [
            &one[..],
            &[23, 0xFE, 0xFD, 0, 1, 0, 0, 0, 0, 0, 5, 0, 2, 8, 9],
        ]
        .concat();
        let found: Vec<_> = records(&two).collect();
        assert_eq!(found.len(), 2);
        assert_eq!((found[1].epoch, found[1].sequence), (1, 5));
        assert_eq!(found[1].fragment, [8, 9]);
        assert_eq!([found[0].bytes, found[1].bytes].concat(), two);
        let rest = [&two[..], b"rest"].concat();
        assert_eq!(records(&rest).count(), 2);
        assert_eq!(records(b"\x10\x01not a record at all").count(), 0);
        assert_eq!(records(&[]).count(), 0);
    }
}
