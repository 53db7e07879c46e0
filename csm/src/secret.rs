//! Values that must not be printed and must not outlive their use.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// An opaque secret of any length, such as an authentication token.
///
/// Wiped on drop; `Debug` shows its length only; compared in constant time (spec 8.6).
#[derive(Clone, Default)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Takes the bytes over.
    #[must_use]
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes, for putting them on the wire or into a MAC. Do not log them.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Number of bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

/// A 32-byte key: a tunnel's resume key, or a server's cookie key.
///
/// Wiped on drop, masked in `Debug`, compared in constant time.
#[derive(Clone)]
pub struct Key32([u8; 32]);

impl Key32 {
    /// Takes the bytes over.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes. Do not log them.
    #[must_use]
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// A fresh key.
    pub(crate) fn random(random: &mut dyn crate::Random) -> Self {
        let mut bytes = [0; 32];
        random.fill(&mut bytes);
        Self(bytes)
    }
}

impl Drop for Key32 {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl PartialEq for Key32 {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Key32 {}

impl fmt::Debug for Key32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key32(..)")
    }
}

/// The right to claim a reserved tunnel (TLV 22).
///
/// Wiped on drop, masked in `Debug`, compared in constant time.
#[derive(Clone)]
pub(crate) struct Tag([u8; 16]);

impl Tag {
    pub(crate) const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes. Do not log them.
    pub(crate) const fn expose(&self) -> &[u8; 16] {
        &self.0
    }

    /// A fresh tag.
    pub(crate) fn random(random: &mut dyn crate::Random) -> Self {
        let mut bytes = [0; 16];
        random.fill(&mut bytes);
        Self(bytes)
    }

    pub(crate) fn is(&self, other: &[u8; 16]) -> bool {
        self.0.ct_eq(other).into()
    }
}

impl Drop for Tag {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tag(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_never_shows_the_bytes() {
        let secret = Secret::new(*b"hunter2");
        assert_eq!(format!("{secret:?}"), "Secret(7 bytes)");
        assert_eq!(format!("{:?}", Key32::new([0x41; 32])), "Key32(..)");
        assert_eq!(format!("{:?}", Tag::new([0x41; 16])), "Tag(..)");
    }
}
