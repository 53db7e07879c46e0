//! Collects the peer's chain of certificates, which the library keeps to itself but for the first.
//!
//! It is read from the same datagrams. What a forger adds can only make verification fail: the first certificate is the
//! library's, whose key has signed the handshake, and those above it must lead to an authority we trust.

use std::collections::BTreeMap;

use rustls_pki_types::CertificateDer;

use crate::dtls::record::{CERTIFICATE, HANDSHAKE, Reader, fragments, records};

/// Longest message that is collected.
const LONGEST: usize = 64 * 1_024;
/// Fragments that are kept.
const FRAGMENTS: usize = 256;

/// The Certificate message, as far as it has come in.
#[derive(Default)]
pub(super) struct Chain {
    /// By their offset; the first that came counts.
    fragments: BTreeMap<usize, Vec<u8>>,
}

impl Chain {
    /// Looks for fragments of the message in a datagram.
    pub(super) fn look_at(&mut self, datagram: &[u8]) {
        let clear = records(datagram)
            .filter(|record| record.epoch == 0 && record.content_type == HANDSHAKE);
        for record in clear {
            for fragment in fragments(&record).map_while(Result::ok) {
                if fragment.kind == CERTIFICATE
                    && fragment.total <= LONGEST
                    && self.fragments.len() < FRAGMENTS
                {
                    self.fragments
                        .entry(fragment.offset)
                        .or_insert_with(|| fragment.body.to_vec());
                }
            }
        }
    }

    /// The chain that begins with `leaf`: what was collected, if that does, else `leaf` alone.
    pub(super) fn of(&self, leaf: &[u8]) -> Vec<CertificateDer<'static>> {
        let message = self.message();
        let collected = parse(&message).filter(|chain| chain.first() == Some(&leaf));
        collected
            .unwrap_or_else(|| vec![leaf])
            .into_iter()
            .map(|certificate| CertificateDer::from(certificate.to_vec()))
            .collect()
    }

    /// What there is from the beginning without a gap.
    fn message(&self) -> Vec<u8> {
        let mut message = Vec::new();
        for (&offset, fragment) in &self.fragments {
            let Some(known) = message.len().checked_sub(offset) else {
                break;
            };
            message.extend_from_slice(fragment.get(known..).unwrap_or_default());
        }
        message
    }
}

/// RFC 5246 section 7.4.2.
fn parse(message: &[u8]) -> Option<Vec<&[u8]>> {
    let mut message = Reader(message);
    let mut list = Reader(message.prefixed24()?);
    let mut chain = Vec::new();
    while !list.0.is_empty() {
        chain.push(list.prefixed24()?);
    }
    Some(chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One fragment of a Certificate message in a record of its own.
    fn datagram(message: &[u8], offset: usize, length: usize) -> Vec<u8> {
        let body = &message[offset..offset + length];
        let byte = |n: usize| u8::try_from(n).unwrap();
        let u24 = |n: usize| [0, 0, byte(n)];
        let mut out = vec![
            22,
            0xFE,
            0xFD,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            1,
            0,
            12 + byte(length),
            11,
        ];
        out.extend(u24(message.len()));
        out.extend([0, 2]);
        out.extend(u24(offset));
        out.extend(u24(length));
        out.extend(body);
        out
    }

    const MESSAGE: [u8; 14] = [0, 0, 11, 0, 0, 3, 1, 1, 1, 0, 0, 2, 2, 2];

    #[test]
    fn fragments_come_in_any_order_and_overlap() {
        let mut chain = Chain::default();
        for (offset, length) in [(9, 5), (0, 4), (4, 3), (6, 4), (0, 14)] {
            chain.look_at(&datagram(&MESSAGE, offset, length));
        }
        assert_eq!(chain.message(), MESSAGE);
        let expected: Vec<CertificateDer<'_>> = vec![vec![1, 1, 1].into(), vec![2, 2].into()];
        assert_eq!(chain.of(&[1, 1, 1]), expected);
    }

    #[test]
    fn what_is_not_the_peers_counts_for_nothing() {
        let mut chain = Chain::default();
        assert_eq!(chain.of(&[9]), [CertificateDer::from(vec![9])]);
        chain.look_at(&datagram(&MESSAGE, 0, 14));
        assert_eq!(chain.of(&[9]), [CertificateDer::from(vec![9])]);
        let mut cut = Chain::default();
        cut.look_at(&datagram(&MESSAGE, 0, 13));
        assert_eq!(cut.of(&[1, 1, 1]), [CertificateDer::from(vec![1, 1, 1])]);
    }
}
