//! What is wrong with a configuration: where, which key, why, and how to put it right.

use std::fmt;

/// Everything found wrong, in the order of the file. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// Sorts by place and drops repetitions.
    pub(crate) fn new(mut errors: Vec<ConfigError>) -> Self {
        errors.sort_by(|a, b| a.place.cmp(&b.place));
        errors.dedup();
        Self(errors)
    }

    /// The errors.
    pub fn iter(&self) -> std::slice::Iter<'_, ConfigError> {
        self.0.iter()
    }

    /// Whether only certificates, keys or token files are wrong, not the configuration itself.
    pub fn only_credentials(&self) -> bool {
        self.iter()
            .all(|error| matches!(error.kind, ConfigErrorKind::Credential { .. }))
    }
}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

impl<'a> IntoIterator for &'a ConfigErrors {
    type Item = &'a ConfigError;
    type IntoIter = std::slice::Iter<'a, ConfigError>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Two lines an error: what and where, then the fix.
impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("error: {place}: {}{kind}\n  help: {help}", Prefix(key))]
pub struct ConfigError {
    /// Where it was found.
    pub place: Place,
    /// The key, such as `tscf-interface[0].inner-mtu`; empty for the file as a whole.
    pub key: String,
    /// What is wrong.
    pub kind: ConfigErrorKind,
    /// What to do.
    pub help: String,
}

struct Prefix<'a>(&'a str);

impl fmt::Display for Prefix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            Ok(())
        } else {
            write!(f, "{}: ", self.0)
        }
    }
}

/// Where an error was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Place {
    /// A file as a whole.
    File(String),
    /// In a file.
    Text {
        /// The file.
        file: String,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
    },
    /// In an environment variable or a command-line flag, by name.
    Override(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(name) | Self::Override(name) => f.write_str(name),
            Self::Text { file, line, column } => write!(f, "{file}:{line}:{column}"),
        }
    }
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigErrorKind {
    /// The file cannot be read.
    #[error("cannot be read: {reason}")]
    Unreadable {
        /// The system's words.
        reason: String,
    },
    /// The file is not TOML.
    #[error("{reason}")]
    Syntax {
        /// The parser's words.
        reason: String,
    },
    /// No such key.
    #[error("unknown key")]
    UnknownKey,
    /// The value is of another type.
    #[error("must be {expected}, not {found}")]
    WrongType {
        /// What is wanted.
        expected: &'static str,
        /// What is there.
        found: &'static str,
    },
    /// A number lies outside its range.
    #[error("{value} is outside {allowed}")]
    OutOfRange {
        /// The number.
        value: String,
        /// The range.
        allowed: String,
    },
    /// A text does not say what it should.
    #[error("\"{value}\" {reason}")]
    Invalid {
        /// The text.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A word that is not one of those allowed.
    #[error("\"{value}\" is none of {allowed}")]
    UnknownWord {
        /// The word.
        value: String,
        /// Those allowed.
        allowed: String,
    },
    /// A key or table that must be there is not.
    #[error("{what} is missing")]
    Missing {
        /// What.
        what: String,
    },
    /// Something is there twice.
    #[error("{what} appears twice")]
    Duplicate {
        /// What.
        what: String,
    },
    /// A name refers to nothing.
    #[error("there is no {what} \"{name}\"")]
    UnknownName {
        /// The kind of thing.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// Two settings do not go together.
    #[error("{reason}")]
    Conflict {
        /// Which, and why.
        reason: String,
    },
    /// A certificate, key or token file cannot be used.
    #[error("{reason}")]
    Credential {
        /// Why. Never contains the file's contents.
        reason: String,
    },
}

/// A value as shown in an error: shortened, on one line.
pub(crate) fn shown(value: &str) -> String {
    const MAX: usize = 60;
    let mut text: String = value
        .chars()
        .take(MAX)
        .flat_map(char::escape_debug)
        .collect();
    if value.chars().nth(MAX).is_some() {
        text.push('…');
    }
    text
}
