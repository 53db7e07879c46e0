//! What this end presents: a certificate chain and its key, from PEM.

use std::{fmt, fs::File, io::Read, path::PathBuf, sync::Arc};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject};
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize, Zeroizing};

use super::CredentialError;

/// Longest PEM text that is read, in bytes; the largest system bundles are a quarter of a megabyte.
pub const MAX_PEM_LEN: usize = 4 * 1024 * 1024;

/// Most certificates in a chain that this end presents.
pub const MAX_CHAIN: usize = 16;

/// PEM text in a file or in memory. `Debug` shows a path but never the text, which may be a key.
#[derive(Clone)]
pub enum PemSource {
    /// A file, read when it is needed.
    File(PathBuf),
    /// The text itself.
    Memory(Vec<u8>),
}

impl PemSource {
    /// Where the text comes from, for messages.
    pub(crate) fn origin(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Memory(_) => "the PEM text in memory".to_owned(),
        }
    }

    /// Reads the text, [`MAX_PEM_LEN`] bytes at most. The copy is wiped when dropped.
    pub(crate) fn read(&self) -> Result<Zeroizing<Vec<u8>>, CredentialError> {
        let text = match self {
            Self::Memory(text) => Zeroizing::new(text.clone()),
            Self::File(path) => {
                let fail = |source| CredentialError::Read {
                    path: path.clone(),
                    source: Arc::new(source),
                };
                let mut file = File::open(path).map_err(fail)?;
                let hint = file
                    .metadata()
                    .map_or(0, |m| usize::try_from(m.len()).unwrap_or(usize::MAX))
                    .min(MAX_PEM_LEN);
                // Room for everything at once: a growing vector would leave copies of a key behind.
                let mut text = Zeroizing::new(Vec::with_capacity(hint.saturating_add(1)));
                let limit = u64::try_from(MAX_PEM_LEN).unwrap_or(u64::MAX);
                (&mut file)
                    .take(limit.saturating_add(1))
                    .read_to_end(&mut text)
                    .map_err(fail)?;
                text
            }
        };
        if text.len() > MAX_PEM_LEN {
            return Err(CredentialError::TooLong {
                origin: self.origin(),
                limit: MAX_PEM_LEN,
            });
        }
        Ok(text)
    }

    /// All certificates in the text, in order; at least one.
    ///
    /// # Errors
    /// Reading, PEM syntax, or no certificate at all.
    pub fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, CredentialError> {
        let text = self.read()?;
        let mut found = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(&text) {
            found.push(certificate.map_err(|e| self.syntax(&e))?);
        }
        if found.is_empty() {
            return Err(CredentialError::NoCertificate {
                origin: self.origin(),
            });
        }
        Ok(found)
    }

    /// The first private key in the text: PKCS#8, SEC1 (EC) or PKCS#1 (RSA).
    #[allow(clippy::wildcard_enum_match_arm, reason = "a foreign enum that grows")]
    fn private_key(&self) -> Result<PrivateKeyDer<'static>, CredentialError> {
        let text = self.read()?;
        PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
            let is_encrypted = [
                &b"BEGIN ENCRYPTED PRIVATE KEY"[..],
                &b"Proc-Type: 4,ENCRYPTED"[..],
            ]
            .iter()
            .any(|mark| text.windows(mark.len()).any(|w| w == *mark));
            match error {
                _ if is_encrypted => CredentialError::EncryptedKey {
                    origin: self.origin(),
                },
                pem::Error::NoItemsFound => CredentialError::NoKey {
                    origin: self.origin(),
                },
                other => self.syntax(&other),
            }
        })
    }

    /// The library's own text may quote a line of the file, which may be part of a key.
    #[allow(clippy::wildcard_enum_match_arm, reason = "a foreign enum that grows")]
    fn syntax(&self, error: &pem::Error) -> CredentialError {
        let reason = match error {
            pem::Error::MissingSectionEnd { .. } => "a section has no END line",
            pem::Error::IllegalSectionStart { .. } => "a BEGIN line is damaged",
            pem::Error::Base64Decode(_) => "a section is not valid base64",
            pem::Error::SectionTooLarge => "a section is too large",
            _ => "it cannot be parsed",
        };
        CredentialError::Pem {
            origin: self.origin(),
            reason: reason.to_owned(),
        }
    }
}

impl fmt::Debug for PemSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Memory(text) => write!(f, "Memory({} bytes)", text.len()),
        }
    }
}

impl From<PathBuf> for PemSource {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

impl From<&str> for PemSource {
    /// The text itself, not a file name.
    fn from(text: &str) -> Self {
        Self::Memory(text.as_bytes().to_vec())
    }
}

/// A certificate chain, end entity first, and its private key. Checked to belong together.
///
/// Cheap to clone. `Debug` shows the certificate's fingerprint and nothing of the key; the key's memory is wiped when
/// the last clone is dropped.
#[derive(Clone)]
pub struct Identity {
    inner: Arc<Inner>,
}

struct Inner {
    chain: Vec<CertificateDer<'static>>,
    key: Key,
    certified: Arc<rustls::sign::CertifiedKey>,
}

/// Wiped on drop.
struct Key(PrivateKeyDer<'static>);

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl Identity {
    /// Tells one identity from another: a hash of its chain.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let each = self.inner.chain.iter().map(Sha256::digest);
        each.fold(Sha256::new(), |hash, certificate| {
            hash.chain_update(certificate)
        })
        .finalize()
        .into()
    }

    /// A new key, and a certificate of its own that says nothing about who has it: for ends that know each other's fingerprints.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn self_signed() -> Result<Self, CredentialError> {
        let fail = |error: rcgen::Error| CredentialError::UnusableKey(error.to_string());
        let key = rcgen::KeyPair::generate().map_err(fail)?;
        // Some libraries want a name to be there, and what it is tells which program this is.
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).map_err(fail)?;
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        let name = rcgen::DnType::CommonName;
        parameters.distinguished_name.push(name, "peer");
        let certificate = parameters.self_signed(&key).map_err(fail)?;
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        Self::new(vec![certificate.der().clone()], key)
    }

    /// Loads a chain and a key; both may be in one source.
    ///
    /// # Errors
    /// What is missing, damaged, or does not fit together.
    pub fn from_pem(chain: &PemSource, key: &PemSource) -> Result<Self, CredentialError> {
        let certificates = chain.certificates()?;
        if certificates.len() > MAX_CHAIN {
            return Err(CredentialError::ChainTooLong {
                origin: chain.origin(),
                limit: MAX_CHAIN,
            });
        }
        Self::new(certificates, key.private_key()?)
    }

    /// Joins a chain (end entity first) and its key, both DER.
    ///
    /// # Errors
    /// An empty chain, an unusable key, or a key of another certificate.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, CredentialError> {
        let key = Key(key);
        let origin = || "the chain".to_owned();
        if chain.is_empty() {
            return Err(CredentialError::NoCertificate { origin: origin() });
        }
        if chain.len() > MAX_CHAIN {
            return Err(CredentialError::ChainTooLong {
                origin: origin(),
                limit: MAX_CHAIN,
            });
        }
        let signer = rustls::crypto::ring::sign::any_supported_type(&key.0)
            .map_err(|e| CredentialError::UnusableKey(e.to_string()))?;
        let certified = rustls::sign::CertifiedKey::new(chain.clone(), signer);
        match certified.keys_match() {
            Ok(()) => {}
            Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) => {
                return Err(CredentialError::KeyMismatch);
            }
            Err(error) => return Err(CredentialError::UnusableCertificate(error.to_string())),
        }
        Ok(Self {
            inner: Arc::new(Inner {
                chain,
                key,
                certified: Arc::new(certified),
            }),
        })
    }

    /// The chain, end entity first; never empty.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.inner.chain
    }

    /// The private key. Handle with care: do not copy, print or store it.
    #[must_use]
    pub fn key(&self) -> &PrivateKeyDer<'static> {
        &self.inner.key.0
    }

    /// Chain and key in rustls' form.
    pub(crate) fn certified(&self) -> &Arc<rustls::sign::CertifiedKey> {
        &self.inner.certified
    }

    /// SHA-256 of the end entity certificate (spec 3.3, TLV 37).
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        self.chain()
            .first()
            .map_or([0; 32], |der| super::peer::fingerprint(der))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("fingerprint", &super::peer::hex(&self.fingerprint()))
            .field("chain", &self.inner.chain.len())
            .field("key", &"<secret>")
            .finish()
    }
}
