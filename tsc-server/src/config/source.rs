//! Where a configuration comes from besides its file: environment, flags, files held in memory.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Largest configuration or PEM file read, in bytes.
pub const MAX_FILE: u64 = 1 << 20;

/// Prefix of the environment variables that set keys of `[tscf-config]`.
pub const ENVIRONMENT_PREFIX: &str = "TSC_";

/// Environment variables, taken once so that loading a configuration reads no global state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The variables of this process. Those that are not Unicode are kept with replacement
    /// characters, and refused where they are used.
    pub fn from_process() -> Self {
        std::env::vars_os()
            .map(|(name, value)| {
                let text = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
                (text(name), text(value))
            })
            .collect()
    }

    /// The value of a variable that is set and not empty.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// All variables whose name begins with `prefix`, by name.
    pub(crate) fn with_prefix<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0
            .iter()
            .filter(move |(name, value)| name.starts_with(prefix) && !value.is_empty())
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        Self(
            variables
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }
}

/// What stands above file and environment: command-line flags, and files that exist only in memory.
#[derive(Clone, Default)]
pub struct Overrides {
    pub(crate) keys: Vec<KeyOverride>,
    pub(crate) files: BTreeMap<PathBuf, Arc<[u8]>>,
}

impl Overrides {
    /// Sets a key of `[tscf-config]`, as `flag` of the command line does.
    pub fn set(&mut self, key: &str, value: impl Into<String>, flag: &str) {
        self.keys.push(KeyOverride {
            key: key.to_owned(),
            value: value.into(),
            origin: flag.to_owned(),
        });
    }

    /// Uses `contents` wherever the configuration names the file `path`, without touching the disk:
    /// certificates, keys and token files for programs that embed the server.
    #[must_use]
    pub fn with_file(mut self, path: impl Into<PathBuf>, contents: impl Into<Vec<u8>>) -> Self {
        self.files.insert(path.into(), contents.into().into());
        self
    }
}

/// Names the files only: their contents may be keys.
impl fmt::Debug for Overrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Overrides")
            .field("keys", &self.keys)
            .field("files", &self.files.keys())
            .finish()
    }
}

/// One key set from outside the file.
#[derive(Clone, Debug)]
pub(crate) struct KeyOverride {
    pub(crate) key: String,
    pub(crate) value: String,
    /// The flag or variable, for error messages.
    pub(crate) origin: String,
}

/// A PEM file that the configuration names.
#[derive(Clone, PartialEq, Eq)]
pub struct PemRef {
    /// Its path; for one held in memory, the name it was given.
    pub path: PathBuf,
    memory: Option<Arc<[u8]>>,
}

impl PemRef {
    /// A file on disk.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            memory: None,
        }
    }

    /// What it holds, if that is in memory.
    pub fn contents(&self) -> Option<&[u8]> {
        self.memory.as_deref()
    }

    /// Contents held in memory, under a name.
    pub fn memory(name: impl Into<PathBuf>, contents: impl Into<Arc<[u8]>>) -> Self {
        Self {
            path: name.into(),
            memory: Some(contents.into()),
        }
    }
}

/// Shows the path, never the contents.
impl fmt::Debug for PemRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.memory.is_some() {
            "memory"
        } else {
            "file"
        };
        write!(f, "PemRef({place} {:?})", self.path)
    }
}

/// Reads a text file of at most `limit` bytes.
pub(crate) fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    use io::Read as _;
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    let read = file
        .take(limit.saturating_add(1))
        .read_to_string(&mut text)?;
    if u64::try_from(read).is_ok_and(|read| read <= limit) {
        Ok(text)
    } else {
        Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("larger than {limit} bytes"),
        ))
    }
}
