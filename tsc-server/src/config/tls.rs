//! From the files a TLS profile names to what the record layers take.

use tsc_osaa::cert::{ClientAuth, CredentialError, Identity, PemSource, Roots, ServerSecurity};

use super::model::TlsProfile;

impl TlsProfile {
    /// Loads the certificate chain with its key.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or used, or a key of another certificate.
    pub fn identity(&self) -> Result<Identity, CredentialError> {
        Identity::from_pem(&self.certificate.source(), &self.private_key.source())
    }

    /// Loads the authorities of `client-ca`; `None` if the profile names none.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, or a certificate that cannot be an authority.
    pub fn client_roots(&self) -> Result<Option<Roots>, CredentialError> {
        let mut authorities = Vec::new();
        for file in &self.client_ca {
            authorities.extend(file.source().certificates()?);
        }
        if authorities.is_empty() {
            return Ok(None);
        }
        Roots::from_der(authorities).map(Some)
    }

    /// Everything a TLS or DTLS listener needs. With `mtls` clients must present a certificate of one of
    /// the profile's authorities; a profile without any is then refused.
    ///
    /// # Errors
    ///
    /// As for [`TlsProfile::identity`] and [`TlsProfile::client_roots`].
    pub fn server_security(&self, mtls: bool) -> Result<ServerSecurity, CredentialError> {
        let client_auth = if mtls {
            let roots = self.client_roots()?;
            ClientAuth::Required(roots.ok_or_else(|| CredentialError::NoCertificate {
                origin: format!("client-ca of the TLS profile {}", self.name),
            })?)
        } else {
            ClientAuth::None
        };
        ServerSecurity::new(self.identity()?, client_auth)
    }
}

impl super::PemRef {
    /// The same for the certificate loader.
    pub fn source(&self) -> PemSource {
        match self.contents() {
            Some(contents) => PemSource::Memory(contents.to_vec()),
            None => PemSource::File(self.path.clone()),
        }
    }
}
