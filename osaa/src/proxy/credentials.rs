//! Who this is, for proxies that want to know.

use std::{
    fmt,
    fs::File,
    future::Future,
    io::{self, Read},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
};

use zeroize::Zeroizing;

use super::AuthScheme;

/// Longest file with credentials.
const MAX_FILE: usize = 4096;

/// A user's name and password. The password is wiped when it is dropped, and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    user: String,
    password: Zeroizing<String>,
    domain: Option<String>,
}

impl Credentials {
    /// A user and a password. For NTLM and Kerberos the name may be `DOMAIN\user` or `user@REALM`, or the domain be
    /// given [apart](Self::with_domain).
    #[must_use]
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self {
            user: user.into(),
            password: Zeroizing::new(password.into()),
            domain: None,
        }
    }

    /// The NTLM domain or Kerberos realm. Basic and Digest do not send it.
    #[must_use]
    pub fn with_domain(mut self, domain: impl Into<String>) -> Self {
        self.domain = Some(domain.into());
        self
    }

    /// `user:password` on the first line of a file. The name ends at the first colon.
    ///
    /// # Errors
    /// It cannot be read, has no colon, is longer than 4 KiB, or (on Unix) anybody may read it.
    pub fn from_file(path: &Path) -> Result<Self, CredentialsError> {
        let fail = |source| CredentialsError::File {
            path: path.to_owned(),
            source,
        };
        let mut file = File::open(path).map_err(fail)?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = file.metadata().map_err(fail)?.permissions().mode();
            if mode & 0o007 != 0 {
                return Err(CredentialsError::Open {
                    path: path.to_owned(),
                });
            }
        }
        // Reserved at once, so that no copy is left behind by growing.
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE + 1));
        let limit = u64::try_from(MAX_FILE).unwrap_or(u64::MAX);
        file.by_ref()
            .take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(fail)?;
        let syntax = || CredentialsError::Syntax {
            path: path.to_owned(),
        };
        if bytes.len() > MAX_FILE {
            return Err(syntax());
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| syntax())?;
        let line = text.lines().next().unwrap_or_default();
        let (user, password) = line.split_once(':').ok_or_else(syntax)?;
        Ok(Self::new(user, password))
    }

    /// The name as it was given.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The domain, if it was given apart.
    #[must_use]
    pub fn domain(&self) -> Option<&str> {
        self.domain.as_deref()
    }

    /// The password. Do not log it.
    #[must_use]
    pub fn expose_password(&self) -> &str {
        &self.password
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .field("domain", &self.domain)
            .finish_non_exhaustive()
    }
}

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's report.
        #[source]
        source: io::Error,
    },
    /// Users other than its owner and group have access to the file.
    #[error("{}: anybody may read or change this file; take that right away (chmod o=)", path.display())]
    Open {
        /// The file.
        path: PathBuf,
    },
    /// The file has no line `user:password`.
    #[error("{}: the first line must be user:password", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
    },
}

/// What a [`CredentialSource`] is asked.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CredentialRequest {
    /// The proxy, as `scheme://host:port`.
    pub proxy: String,
    /// How the credentials are about to be presented.
    pub scheme: AuthScheme,
    /// What the proxy calls the place that it protects. Text of the proxy's: anything may be in there.
    pub realm: Option<String>,
    /// The proxy refused what this source gave before.
    pub refused: bool,
}

type Answer = Pin<Box<dyn Future<Output = Option<Credentials>> + Send>>;
type Callback = dyn Fn(CredentialRequest) -> Answer + Send + Sync;

/// Where credentials come from. Cheap to clone.
#[derive(Clone)]
pub struct CredentialSource(Kind);

#[derive(Clone)]
enum Kind {
    Value(Arc<Credentials>),
    File(Arc<Path>),
    Callback(Arc<Callback>),
}

impl CredentialSource {
    /// From a file as [`Credentials::from_file`] reads it, anew for each connection: it may be changed meanwhile.
    #[must_use]
    pub fn file(path: impl AsRef<Path>) -> Self {
        Self(Kind::File(path.as_ref().into()))
    }

    /// From a function that knows them or not, and does not wait: a window that asks people is for
    /// [`Self::callback_async`]. It is asked once for each connection, and again when the proxy refused what it gave,
    /// at most three times in all.
    #[must_use]
    pub fn callback(
        callback: impl Fn(CredentialRequest) -> Option<Credentials> + Send + Sync + 'static,
    ) -> Self {
        Self::callback_async(move |request| std::future::ready(callback(request)))
    }

    /// As [`Self::callback`], from a function that may take time; it counts against the connection's time limit.
    #[must_use]
    pub fn callback_async<F>(
        callback: impl Fn(CredentialRequest) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Option<Credentials>> + Send + 'static,
    {
        Self(Kind::Callback(Arc::new(move |request| {
            Box::pin(callback(request))
        })))
    }

    /// The credentials; `None` if there are none, or no others than those that were refused.
    pub(super) async fn get(
        &self,
        request: CredentialRequest,
    ) -> Result<Option<Arc<Credentials>>, CredentialsError> {
        match &self.0 {
            Kind::Value(_) | Kind::File(_) if request.refused => Ok(None),
            Kind::Value(value) => Ok(Some(Arc::clone(value))),
            Kind::File(path) => {
                let path = Arc::clone(path);
                let read = tokio::task::spawn_blocking(move || Credentials::from_file(&path));
                match read.await {
                    Ok(read) => read.map(|credentials| Some(Arc::new(credentials))),
                    // The runtime shuts down.
                    Err(_) => Ok(None),
                }
            }
            Kind::Callback(callback) => Ok(callback(request).await.map(Arc::new)),
        }
    }
}

impl From<Credentials> for CredentialSource {
    fn from(credentials: Credentials) -> Self {
        Self(Kind::Value(Arc::new(credentials)))
    }
}

impl fmt::Debug for CredentialSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Value(value) => value.fmt(f),
            Kind::File(path) => write!(f, "File({})", path.display()),
            Kind::Callback(_) => f.write_str("Callback"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[cfg(unix)]
    fn file(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("credentials");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (directory, path)
    }

    #[cfg(unix)]
    #[test]
    fn the_first_line_of_a_file_counts() {
        let (_directory, path) = file("alice:se:cret\nelse", 0o640);
        let credentials = Credentials::from_file(&path).unwrap();
        assert_eq!(credentials, Credentials::new("alice", "se:cret"));
    }

    #[cfg(unix)]
    #[test]
    fn files_for_everybody_are_refused() {
        let (_directory, path) = file("alice:secret", 0o644);
        let error = Credentials::from_file(&path).unwrap_err();
        assert!(matches!(error, CredentialsError::Open { .. }), "{error}");
        let (_directory, path) = file("alice", 0o600);
        let error = Credentials::from_file(&path).unwrap_err();
        assert!(matches!(error, CredentialsError::Syntax { .. }), "{error}");
    }

    #[test]
    fn passwords_are_not_shown() {
        let credentials = Credentials::new("alice", "secret");
        let source = CredentialSource::from(credentials.clone());
        let shown = format!("{credentials:?} {source:?}");
        assert!(
            shown.contains("alice") && !shown.contains("secret"),
            "{shown}"
        );
    }
}
