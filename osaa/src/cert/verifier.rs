//! The verifier that verifies nothing about the chain, for [`Trust::DangerousNone`](super::Trust).

use rustls::{
    Error,
    client::danger::{ServerCertVerified, ServerCertVerifier},
    crypto::WebPkiSupportedAlgorithms,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::signatures::checks_signatures;

/// Accepts any chain. Handshake signatures are still checked, so the peer does hold the key of the
/// certificate it shows; who it is remains open.
#[derive(Debug)]
pub(super) struct AcceptAnyServer(pub(super) WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AcceptAnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    checks_signatures!(0);
}
