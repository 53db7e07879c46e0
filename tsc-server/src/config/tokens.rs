//! The token file: who may open tunnels with which Auth_Token, as hashes.

use std::collections::BTreeMap;
use std::fmt;

use sha2::{Digest, Sha256};

/// Largest token file read, in bytes.
pub const MAX_TOKEN_FILE: u64 = 16 << 20;
/// Longest identity, in bytes; it appears in logs.
pub const MAX_IDENTITY: usize = 128;

/// Identities by the SHA-256 of their token.
///
/// The file holds one `IDENTITY:HEX` a line, `HEX` being the SHA-256 of the token's bytes; blank lines and
/// lines that begin with `#` count for nothing. An identity may have several tokens (to change them),
/// a token only one identity. The hash is neither salted nor slow, so tokens must be random and long
/// (128 bits or more), not passwords.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TokenTable {
    // Split so that a look-up by the head needs no comparison in constant time of all entries: the head
    // is a hash's, and says nothing that helps to find a random token.
    by_head: BTreeMap<[u8; 8], Vec<([u8; 24], String)>>,
    len: usize,
}

impl TokenTable {
    /// Reads the text of a token file.
    ///
    /// # Errors
    ///
    /// Every line that is wrong, by number.
    pub fn parse(text: &str) -> Result<Self, Vec<TokenError>> {
        let mut table = Self::default();
        let mut errors = Vec::new();
        for (line, entry) in (1..).zip(text.lines()) {
            let entry = entry.trim();
            if entry.is_empty() || entry.starts_with('#') {
                continue;
            }
            if let Err(kind) = table.add(entry) {
                errors.push(TokenError { line, kind });
            }
        }
        if errors.is_empty() {
            Ok(table)
        } else {
            Err(errors)
        }
    }

    fn add(&mut self, entry: &str) -> Result<(), TokenErrorKind> {
        // The hash has no colon, an identity may.
        let (identity, hash) = entry.rsplit_once(':').ok_or(TokenErrorKind::Form)?;
        let identity = identity.trim();
        if identity.is_empty()
            || identity.len() > MAX_IDENTITY
            || identity.chars().any(char::is_control)
        {
            return Err(TokenErrorKind::Identity);
        }
        let (head, tail) = split(parse_hash(hash.trim()).ok_or(TokenErrorKind::Hash)?);
        let entries = self.by_head.entry(head).or_default();
        if entries.iter().any(|(known, _)| *known == tail) {
            return Err(TokenErrorKind::Duplicate);
        }
        entries.push((tail, identity.to_owned()));
        self.len += 1;
        Ok(())
    }

    /// Whose token this is.
    pub fn identity(&self, token: &[u8]) -> Option<&str> {
        let (head, tail) = split(Sha256::digest(token).into());
        let mut found = None;
        for (known, identity) in self.by_head.get(&head)? {
            // No early exit, within an entry or between them.
            let difference = known.iter().zip(&tail).fold(0, |sum, (a, b)| sum | (a ^ b));
            if std::hint::black_box(difference) == 0 {
                found = Some(identity.as_str());
            }
        }
        found
    }

    /// How many tokens it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Shows the number of tokens only.
impl fmt::Debug for TokenTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenTable({} tokens)", self.len)
    }
}

fn parse_hash(hex: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if hex.len() != 64 {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        *byte = pair.iter().try_fold(0, |value, digit| {
            let digit = char::from(*digit).to_digit(16)?;
            u8::try_from(digit).ok().map(|digit| value << 4 | digit)
        })?;
    }
    Some(hash)
}

fn split(hash: [u8; 32]) -> ([u8; 8], [u8; 24]) {
    let (mut head, mut tail) = ([0; 8], [0; 24]);
    for (to, from) in head.iter_mut().chain(&mut tail).zip(hash) {
        *to = from;
    }
    (head, tail)
}

/// A line of a token file that is wrong. Never holds the line: it may be a token written by mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} {kind}")]
pub struct TokenError {
    /// Line number, from 1.
    pub line: usize,
    /// What is wrong.
    pub kind: TokenErrorKind,
}

/// What is wrong with a line of a token file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenErrorKind {
    /// No colon.
    #[error("is not of the form IDENTITY:SHA256")]
    Form,
    /// Empty, too long, or with control characters.
    #[error("has an identity that is empty, over {MAX_IDENTITY} bytes or not printable")]
    Identity,
    /// The hash is not 64 hexadecimal digits.
    #[error("has a hash that is not 64 hexadecimal digits")]
    Hash,
    /// An earlier line has the same hash.
    #[error("repeats the token of an earlier line")]
    Duplicate,
}

#[cfg(test)]
mod tests {
    use super::*;

    // SHA-256 of "abc" (FIPS 180-2, B.1).
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_token_names_its_identity() {
        let table =
            TokenTable::parse(&format!("# staff\n\nsip:alice@example.org:{ABC}\n")).unwrap();
        assert_eq!(table.identity(b"abc"), Some("sip:alice@example.org"));
        assert_eq!(table.identity(b"abd"), None);
        assert_eq!(table.len(), 1);
        assert_eq!(format!("{table:?}"), "TokenTable(1 tokens)");
    }

    #[test]
    fn one_bit_of_difference_anywhere_is_no_match() {
        for digit in 0..64 {
            let mut hash = ABC.to_owned();
            let flipped = if &hash[digit..=digit] == "0" {
                "1"
            } else {
                "0"
            };
            hash.replace_range(digit..=digit, flipped);
            let table = TokenTable::parse(&format!("a:{hash}")).unwrap();
            assert_eq!(table.identity(b"abc"), None, "digit {digit}");
        }
    }

    #[test]
    fn every_wrong_line_is_reported_without_its_text() {
        let text = format!(
            "secret\nb:{ABC}\nc:{ABC}\n:{ABC}\nd:12\ne:{}\n",
            "g".repeat(64)
        );
        let errors = TokenTable::parse(&text).unwrap_err();
        let kinds: Vec<_> = errors.iter().map(|e| (e.line, e.kind)).collect();
        assert_eq!(
            kinds,
            [
                (1, TokenErrorKind::Form),
                (3, TokenErrorKind::Duplicate),
                (4, TokenErrorKind::Identity),
                (5, TokenErrorKind::Hash),
                (6, TokenErrorKind::Hash),
            ]
        );
        assert!(errors.iter().all(|e| !e.to_string().contains("secret")));
    }
}
