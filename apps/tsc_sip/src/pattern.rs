//! Test data of any length: bytes that can be computed from where they stand.

use std::ops::Range;

use crate::random::{Random, SeededRandom};

/// Fills `bytes` with the data from `offset` on. Eight bytes repeat nowhere else, so a piece at the wrong place shows.
pub fn fill(offset: u64, bytes: &mut [u8]) {
    let mut at = offset;
    let mut rest = bytes;
    while !rest.is_empty() {
        let word = SeededRandom::new(at / 8).bits().to_le_bytes();
        let skip = usize::try_from(at % 8).unwrap_or_default();
        let word = word.get(skip..).unwrap_or_default();
        let length = word.len().min(rest.len());
        let (now, later) = rest.split_at_mut(length);
        now.copy_from_slice(word.get(..length).unwrap_or_default());
        rest = later;
        at += length as u64;
    }
}

/// Feeds all of the first `size` bytes to `take`, piece by piece.
pub fn each_piece(size: u64, take: impl FnMut(&[u8])) {
    each_piece_of(0..size, take);
}

/// The same for the bytes of a range.
pub fn each_piece_of(range: Range<u64>, mut take: impl FnMut(&[u8])) {
    let mut buffer = [0; 8192];
    let mut at = range.start;
    while at < range.end {
        let length = usize::try_from(range.end - at)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let piece = buffer.get_mut(..length).unwrap_or_default();
        fill(at, piece);
        take(piece);
        at += length as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_piece_is_that_of_the_whole() {
        let mut whole = [0; 100];
        fill(0, &mut whole);
        for (start, end) in [(0, 100), (1, 9), (7, 8), (8, 8), (13, 99)] {
            let mut piece = vec![0; end - start];
            fill(start as u64, &mut piece);
            assert_eq!(piece, whole[start..end]);
        }
        let mut pieces = Vec::new();
        each_piece(20_000, |piece| pieces.extend_from_slice(piece));
        assert_eq!(pieces[..100], whole);
        assert_eq!(pieces.len(), 20_000);
    }
}
