//! Packets on the streams of the baseline: two bytes of length before each.

/// Cuts a stream into packets.
#[derive(Debug, Default)]
pub struct Framed(Vec<u8>);

impl Framed {
    /// Takes what was read, and hands whole packets to `sink`.
    pub fn feed(&mut self, bytes: &[u8], mut sink: impl FnMut(&[u8])) {
        if self.0.is_empty() {
            let rest = cut(bytes, &mut sink);
            self.0.extend_from_slice(rest);
        } else {
            self.0.extend_from_slice(bytes);
            let rest = cut(&self.0, &mut sink).len();
            self.0.drain(..self.0.len() - rest);
        }
    }
}

/// Hands on whole packets; what is left.
fn cut<'a>(mut bytes: &'a [u8], sink: &mut impl FnMut(&[u8])) -> &'a [u8] {
    while let Some((length, rest)) = bytes.split_first_chunk::<2>()
        && let Some((packet, rest)) = rest.split_at_checked(u16::from_be_bytes(*length).into())
    {
        sink(packet);
        bytes = rest;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn cuts_do_not_matter(
            packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..20),
            piece in 1usize..60,
        ) {
            let mut stream = Vec::new();
            for packet in &packets {
                stream.extend_from_slice(&u16::try_from(packet.len()).unwrap().to_be_bytes());
                stream.extend_from_slice(packet);
            }
            let mut framed = Framed::default();
            let mut got = Vec::new();
            for piece in stream.chunks(piece) {
                framed.feed(piece, |packet| got.push(packet.to_vec()));
            }
            prop_assert_eq!(got, packets);
            prop_assert!(framed.0.is_empty());
        }
    }
}
