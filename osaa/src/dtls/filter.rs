//! What may reach a library while a handshake is in progress.

use super::record::{
    ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, HANDSHAKE, Record, fragments, records,
};

/// Lets through what can belong to a handshake in progress and drops what anyone could throw in.
///
/// Before keys are agreed on nothing is authenticated, and all libraries give a handshake up over a malformed message
/// in the clear. So records that cannot be part of any handshake are taken out first. A forger who knows the
/// state of the handshake can still disturb it; that is so with every DTLS 1.2.
pub(super) struct Filter {
    /// Bytes let through so far.
    passed: usize,
    /// Shortest fragment under keys that the library copes with.
    shortest_sealed: usize,
}

/// What is left of a datagram.
pub(super) enum Filtered {
    /// All of it.
    All,
    /// These records.
    Some(Vec<u8>),
    /// Nothing.
    None,
}

impl Filter {
    /// Bytes of one handshake that are let through, retransmissions included: some forty times an ordinary one. It
    /// bounds what the libraries may buffer for an unfinished handshake.
    const LIMIT: usize = 256 * 1_024;

    pub(super) fn new(shortest_sealed: usize) -> Self {
        Self {
            passed: 0,
            shortest_sealed,
        }
    }

    pub(super) fn apply(&mut self, datagram: &[u8]) -> Filtered {
        if self.passed + datagram.len() > Self::LIMIT {
            return Filtered::None;
        }
        let mut kept = Vec::new();
        let mut whole = 0;
        let mut is_whole = true;
        for record in records(datagram) {
            if is_plausible(&record, self.shortest_sealed) {
                if !is_whole {
                    kept.extend_from_slice(record.bytes);
                }
                whole += record.bytes.len();
            } else if is_whole {
                is_whole = false;
                kept.extend_from_slice(datagram.get(..whole).unwrap_or_default());
            }
        }
        self.passed += whole;
        if is_whole && whole == datagram.len() {
            Filtered::All
        } else if whole == 0 {
            Filtered::None
        } else if is_whole {
            Filtered::Some(datagram.get(..whole).unwrap_or_default().to_vec())
        } else {
            Filtered::Some(kept)
        }
    }
}

/// Whether a record can be part of a first handshake.
fn is_plausible(record: &Record<'_>, shortest_sealed: usize) -> bool {
    /// Longest message: a chain of certificates.
    const LONGEST_MESSAGE: usize = 128 * 1_024;
    /// A full handshake has messages 0 to 9.
    const MESSAGES: u16 = 16;

    match (record.epoch, record.content_type) {
        (0, CHANGE_CIPHER_SPEC) => record.fragment == [1],
        (0, ALERT) => matches!(record.fragment, [1 | 2, _]),
        (0, HANDSHAKE) => {
            for header in fragments(record) {
                let Ok(header) = header else {
                    return false;
                };
                let is_known = matches!(header.kind, 1..=4 | 11..=16 | 21 | 22);
                let end = header.offset + header.body.len();
                if !is_known
                    || header.message_sequence >= MESSAGES
                    || header.total > LONGEST_MESSAGE
                    || end > header.total
                    || (header.body.is_empty() && header.total != 0)
                {
                    return false;
                }
            }
            !record.fragment.is_empty()
        }
        (0, _) => false,
        // ChangeCipherSpec under keys does not exist in a first handshake, and webrtc-dtls would obey it unopened.
        (1, ALERT | HANDSHAKE | APPLICATION_DATA) => record.fragment.len() >= shortest_sealed,
        (_, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::hello;
    use super::*;

    fn apply(datagram: &[u8]) -> Vec<u8> {
        match Filter::new(24).apply(datagram) {
            Filtered::All => datagram.to_vec(),
            Filtered::Some(rest) => rest,
            Filtered::None => Vec::new(),
        }
    }

    fn record(content_type: u8, epoch: u8, fragment: &[u8]) -> Vec<u8> {
        let length = u8::try_from(fragment.len()).unwrap();
        let mut out = vec![
            content_type,
            0xFE,
            0xFD,
            0,
            epoch,
            0,
            0,
            0,
            0,
            0,
            1,
            0,
            length,
        ];
        out.extend(fragment);
        out
    }

    #[test]
    fn what_a_handshake_is_made_of_passes() {
        let good = [
            hello(&[], &[]),
            hello(&[1; 32], &[]),
            record(CHANGE_CIPHER_SPEC, 0, &[1]),
            record(ALERT, 0, &[2, 40]),
            // ServerHelloDone, empty; a fragment in the middle of a Certificate.
            record(HANDSHAKE, 0, &[14, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0]),
            record(HANDSHAKE, 0, &[11, 0, 4, 0, 0, 2, 0, 1, 0, 0, 0, 2, 7, 7]),
            record(HANDSHAKE, 1, &[0; 40]),
            record(APPLICATION_DATA, 1, &[0; 24]),
        ];
        for datagram in &good {
            assert_eq!(apply(datagram), *datagram);
        }
        assert_eq!(apply(&good.concat()), good.concat());
    }

    #[test]
    fn what_cannot_belong_to_one_is_taken_out() {
        let bad = [
            record(APPLICATION_DATA, 0, &[1, 2, 3]),
            record(CHANGE_CIPHER_SPEC, 0, &[2]),
            record(CHANGE_CIPHER_SPEC, 1, &[0; 40]),
            record(ALERT, 0, &[3, 40]),
            record(ALERT, 0, &[2, 40, 0]),
            record(HANDSHAKE, 1, &[0; 23]),
            record(HANDSHAKE, 2, &[0; 40]),
            record(HANDSHAKE, 0, &[]),
            // Unknown type; late number; beyond its end; empty part of something; cut short.
            record(HANDSHAKE, 0, &[99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            record(HANDSHAKE, 0, &[14, 0, 0, 0, 0, 99, 0, 0, 0, 0, 0, 0]),
            record(HANDSHAKE, 0, &[11, 0, 0, 4, 0, 2, 0, 0, 3, 0, 0, 2, 7, 7]),
            record(HANDSHAKE, 0, &[11, 0, 0, 4, 0, 2, 0, 0, 0, 0, 0, 0]),
            record(HANDSHAKE, 0, &[11, 0, 0, 4, 0, 2, 0, 0, 0, 0, 0, 4, 7]),
        ];
        let good = record(CHANGE_CIPHER_SPEC, 0, &[1]);
        for datagram in &bad {
            assert_eq!(apply(datagram), [], "{datagram:?}");
            assert_eq!(
                apply(&[&good[..], datagram, &good].concat()),
                [&good[..], &good].concat()
            );
        }
        assert_eq!(apply(&[&good[..], b"rest"].concat()), good);
    }

    #[test]
    fn a_handshake_has_a_budget() {
        let mut filter = Filter::new(24);
        let datagram = record(HANDSHAKE, 1, &[0; 200]);
        let passed = (0..100_000)
            .filter(|_| matches!(filter.apply(&datagram), Filtered::All))
            .count();
        assert_eq!(passed, Filter::LIMIT / datagram.len());
    }
}
