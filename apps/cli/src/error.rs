//! Command lines that cannot be carried out.

use std::{fmt::Display, path::Path};

/// A command line that cannot be carried out: exit code 2.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UsageError {
    /// A file cannot be read, or a directory not written to.
    #[error("{option} {path}: {error}")]
    File {
        /// The option that names it.
        option: &'static str,
        /// Its path.
        path: String,
        /// Why.
        error: String,
    },
    /// An option has an impossible value.
    #[error("{option}: {error}")]
    Value {
        /// The option.
        option: &'static str,
        /// Why.
        error: String,
    },
}

impl UsageError {
    /// A file that `option` names, and what is wrong with it.
    pub fn file(option: &'static str, path: &Path, error: impl Display) -> Self {
        Self::File {
            option,
            path: path.display().to_string(),
            error: error.to_string(),
        }
    }

    /// What is wrong with the value of `option`.
    pub fn value(option: &'static str, error: impl Display) -> Self {
        Self::Value {
            option,
            error: error.to_string(),
        }
    }
}
