//! What this process is to its peers.

use std::sync::OnceLock;

use tsc_osaa::{cert::Identity, dtls::DtlsBackendKind};

/// What this process shows to its peers: a certificate of its own that nobody has signed, and whose fingerprint the server tells
/// them. `None` where there is no DTLS.
pub(crate) fn certificate() -> Option<&'static Identity> {
    static CERTIFICATE: OnceLock<Option<Identity>> = OnceLock::new();
    CERTIFICATE
        .get_or_init(|| {
            DtlsBackendKind::preferred()?;
            match Identity::self_signed() {
                Ok(identity) => Some(identity),
                Err(error) => {
                    tracing::warn!(%error, "no peer tunnels");
                    None
                }
            }
        })
        .as_ref()
}
