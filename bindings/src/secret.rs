//! What must not be printed: objects rather than records, since all languages print the members of records.

use std::{fmt, sync::Arc};

use tsc_tapi::PemSource;
use zeroize::Zeroizing;

use crate::error::{Result, TscError};

/// A password or a token. It is wiped when it goes, and never shown. What the application's language keeps of it is its own.
#[derive(uniffi::Object)]
pub struct Secret(Zeroizing<Vec<u8>>);

#[uniffi::export]
impl Secret {
    /// Of bytes.
    #[uniffi::constructor]
    pub fn new(value: Vec<u8>) -> Arc<Self> {
        Arc::new(Self(Zeroizing::new(value)))
    }

    /// Of a text, in UTF-8.
    #[uniffi::constructor]
    pub fn of_text(text: String) -> Arc<Self> {
        Self::new(text.into_bytes())
    }
}

impl Secret {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn text(&self, what: &str) -> Result<&str> {
        std::str::from_utf8(&self.0)
            .map_err(|_| TscError::Credentials(format!("{what} is not UTF-8")))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").finish_non_exhaustive()
    }
}

/// A certificate of the client's own with its private key, for servers that ask for one. The key is never shown.
#[derive(Debug, uniffi::Object)]
pub struct Identity(tsc_tapi::Identity);

#[uniffi::export]
impl Identity {
    /// Of PEM texts: the certificate with its intermediates, and the private key, which may stand in one text.
    #[uniffi::constructor]
    pub fn of_pem(certificates: Vec<u8>, private_key: Vec<u8>) -> Result<Arc<Self>> {
        Self::of(
            &PemSource::Memory(certificates),
            &PemSource::Memory(private_key),
        )
    }

    /// Of PEM files.
    #[uniffi::constructor]
    pub fn of_files(certificates: String, private_key: String) -> Result<Arc<Self>> {
        Self::of(
            &PemSource::File(certificates.into()),
            &PemSource::File(private_key.into()),
        )
    }
}

impl Identity {
    fn of(certificates: &PemSource, private_key: &PemSource) -> Result<Arc<Self>> {
        let identity = tsc_tapi::Identity::from_pem(certificates, private_key);
        let identity = identity.map_err(|error| TscError::Credentials(error.to_string()))?;
        Ok(Arc::new(Self(identity)))
    }

    pub(crate) fn inner(&self) -> tsc_tapi::Identity {
        self.0.clone()
    }
}
