//! A certificate authority for one run: the demo and the tests trust it and nothing else does.

use std::{fs, io, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// A certificate with its private key, both PEM.
#[derive(Clone)]
pub struct PemIdentity {
    /// The certificate.
    pub certificate: String,
    /// The private key, PKCS #8.
    pub key: String,
}

impl PemIdentity {
    /// Writes `NAME.pem` and `NAME.key` into `dir`.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn write(&self, dir: &Path, name: &str) -> io::Result<()> {
        fs::write(dir.join(format!("{name}.pem")), &self.certificate)?;
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true);
        // Keys are their owner's business only.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut key = options.open(dir.join(format!("{name}.key")))?;
        io::Write::write_all(&mut key, self.key.as_bytes())
    }
}

/// A throw-away certificate authority (ECDSA P-256, which both DTLS backends accept).
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new one; `name` becomes its common name.
    ///
    /// # Errors
    ///
    /// When the key or the certificate cannot be made.
    pub fn new(name: &str) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self {
            certificate,
            issuer: Issuer::new(params, key),
        })
    }

    /// The authority's own certificate, PEM: what the other side trusts.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A server's identity for `localhost`, `127.0.0.1` and `::1`.
    ///
    /// # Errors
    ///
    /// When the key or the certificate cannot be made.
    pub fn server(&self) -> Result<PemIdentity, rcgen::Error> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()])?;
        params.subject_alt_names.extend([
            SanType::IpAddress([127, 0, 0, 1].into()),
            SanType::IpAddress(std::net::Ipv6Addr::LOCALHOST.into()),
        ]);
        self.issue(params, "localhost", ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A client's identity with common name `name`.
    ///
    /// # Errors
    ///
    /// When the key or the certificate cannot be made.
    pub fn client(&self, name: &str) -> Result<PemIdentity, rcgen::Error> {
        let params = CertificateParams::new(vec![format!("{name}.client.invalid")])?;
        self.issue(params, name, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn issue(
        &self,
        mut params: CertificateParams,
        name: &str,
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<PemIdentity, rcgen::Error> {
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate()?;
        Ok(PemIdentity {
            certificate: params.signed_by(&key, &self.issuer)?.pem(),
            key: key.serialize_pem(),
        })
    }
}
