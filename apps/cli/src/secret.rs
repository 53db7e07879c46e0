//! Passwords: wiped when dropped, never shown.

use std::{fmt, fs, io, path::Path};

use zeroize::Zeroizing;

/// A password.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// Reads the first line of a file.
    ///
    /// # Errors
    ///
    /// What the file system says; `InvalidData` if the line is empty.
    pub fn from_file(path: &Path) -> io::Result<Self> {
        let text = Zeroizing::new(fs::read_to_string(path)?);
        match text.lines().next() {
            Some(line) if !line.is_empty() => Ok(Self::new(line)),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the first line is empty",
            )),
        }
    }

    /// The text, for the one who computes with it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}
