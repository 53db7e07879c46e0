//! What holds of anything that is redacted.

use tsc_redact::Redaction;

/// The first byte says whether it is a packet or a control message.
pub fn redact(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else {
        return;
    };
    for redaction in Redaction::ALL {
        let take = |bytes: &mut Vec<u8>| {
            if kind % 2 == 0 {
                redaction.packet(bytes);
            } else {
                redaction.control(bytes);
            }
        };
        let mut left = bytes.to_vec();
        take(&mut left);
        // It is shortened and masked, and nothing else.
        assert!(left.len() <= bytes.len());
        for (left, before) in left.iter().zip(bytes) {
            assert!(left == before || matches!(left, b'x' | 0));
        }
        if redaction == Redaction::None {
            assert_eq!(left, bytes);
        }
        // A message keeps its shape; a packet that was cut is none.
        if kind % 2 == 1 {
            let mut again = left.clone();
            take(&mut again);
            assert_eq!(again, left);
        }
    }
}
