//! One certificate and no other, known by its fingerprint: for ends that were told it by someone they trust, and have no
//! authority in common (spec 7, "Peer tunneling").

use rustls::{
    CertificateError as Refused, DistinguishedName, Error,
    client::danger::{ServerCertVerified, ServerCertVerifier},
    crypto::WebPkiSupportedAlgorithms,
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use subtle::ConstantTimeEq;

use super::{peer::fingerprint, signatures::checks_signatures};

/// Accepts the one, whatever it says of itself; handshake signatures show that the other end holds its key.
#[derive(Debug)]
pub(super) struct Pinned {
    pub(super) fingerprint: [u8; 32],
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl Pinned {
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        if bool::from(fingerprint(certificate).ct_eq(&self.fingerprint)) {
            Ok(())
        } else {
            Err(Error::InvalidCertificate(
                Refused::ApplicationVerificationFailure,
            ))
        }
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity)
            .map(|()| ServerCertVerified::assertion())
    }

    checks_signatures!(algorithms);
}

impl ClientCertVerifier for Pinned {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity)
            .map(|()| ClientCertVerified::assertion())
    }

    checks_signatures!(algorithms);
}
