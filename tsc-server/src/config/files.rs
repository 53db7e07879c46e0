//! Finds the files that a configuration names.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::ConfigErrorKind;
use super::source::{Environment, Overrides, PemRef, read_text};
use super::tokens::{MAX_TOKEN_FILE, TokenTable};
use super::value::Value;

/// Prefix of paths that name a systemd credential (`LoadCredential=`).
const CREDENTIAL: &str = "credential:";
/// Longest path of a socket that all systems take, in bytes.
const MAX_SOCKET_PATH: usize = 103;
/// Where systemd puts them.
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// Where named files are looked for.
pub(super) struct Files<'a> {
    /// Directory of the configuration file; relative paths start there.
    pub(super) base: Option<&'a Path>,
    pub(super) environment: &'a Environment,
    pub(super) overrides: &'a Overrides,
}

impl Files<'_> {
    /// The path of a file that the server writes or reads.
    pub(super) fn path(&self, value: &Value<'_>) -> Option<PathBuf> {
        let path = value.path()?;
        let Some(name) = path.to_str().and_then(|path| path.strip_prefix(CREDENTIAL)) else {
            return Some(match self.base {
                Some(base) => base.join(path),
                None => path,
            });
        };
        let Some(directory) = self.environment.value(CREDENTIALS_DIRECTORY) else {
            let reason =
                format!("names a systemd credential, but ${CREDENTIALS_DIRECTORY} is not set");
            value.fail(
                ConfigErrorKind::Credential { reason },
                format!("start the server by a unit with LoadCredential={name}:…, or write a path"),
            );
            return None;
        };
        Some(Path::new(directory).join(name))
    }

    /// The path of a socket.
    pub(super) fn socket(&self, value: &Value<'_>) -> Option<PathBuf> {
        let path = self.path(value)?;
        if path.as_os_str().len() > MAX_SOCKET_PATH {
            let reason = format!("is longer than {MAX_SOCKET_PATH} bytes, with its directory");
            let text = path.to_string_lossy();
            value.invalid(
                &text,
                &reason,
                "write a shorter path, below /run for example",
            );
            return None;
        }
        Some(path)
    }

    /// A PEM file; what it holds is checked later.
    pub(super) fn pem(&self, value: &Value<'_>) -> Option<PemRef> {
        if let Some((name, contents)) = self.in_memory(value) {
            return Some(PemRef::memory(name, contents));
        }
        self.path(value).map(PemRef::file)
    }

    /// A token file, read.
    pub(super) fn tokens(&self, value: &Value<'_>) -> Option<(PathBuf, TokenTable)> {
        let (path, text) = match self.in_memory(value) {
            Some((name, contents)) => {
                let text = std::str::from_utf8(&contents).map(str::to_owned);
                (name, text.map_err(|error| error.to_string()))
            }
            None => {
                let path = self.path(value)?;
                let text = read_text(&path, MAX_TOKEN_FILE).map_err(|error| error.to_string());
                (path, text)
            }
        };
        let fail =
            |reason: String, help: &str| value.fail(ConfigErrorKind::Credential { reason }, help);
        let table = match text {
            Ok(text) => TokenTable::parse(&text),
            Err(reason) => {
                fail(
                    format!("{} cannot be read: {reason}", path.display()),
                    "check the path, and that the server's user may read it",
                );
                return None;
            }
        };
        match table {
            Ok(table) if table.is_empty() => {
                fail(
                    format!("{} holds no token", path.display()),
                    "add a line IDENTITY:SHA256 for each client",
                );
                None
            }
            Ok(table) => Some((path, table)),
            Err(errors) => {
                for error in errors {
                    fail(
                        format!("{}: {error}", path.display()),
                        "write IDENTITY:SHA256, with the hash from: printf %s TOKEN | sha256sum",
                    );
                }
                None
            }
        }
    }

    fn in_memory(&self, value: &Value<'_>) -> Option<(PathBuf, Arc<[u8]>)> {
        let name = value.path_quietly()?;
        let contents = self.overrides.files.get(&name)?;
        Some((name, Arc::clone(contents)))
    }
}
