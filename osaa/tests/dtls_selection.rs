//! Choosing a DTLS backend, with whatever this build contains.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod dtls_common;

use std::time::Duration;

use dtls_common::pki::{self, PKI};
use tsc_osaa::cert::ClientAuth;
use tsc_osaa::dtls::{DtlsBackendKind, DtlsConfigError, DtlsOptions, DtlsServerConfig};

#[test]
fn backends_are_named_and_options_checked() {
    assert_eq!("openssl".parse(), Ok(DtlsBackendKind::OpenSsl));
    assert_eq!("dimpl".parse(), Ok(DtlsBackendKind::Dimpl));
    assert_eq!("webrtc".parse(), Ok(DtlsBackendKind::WebRtc));
    assert!("OpenSSL".parse::<DtlsBackendKind>().is_err());
    let security = pki::server_security(&PKI.server, ClientAuth::None);
    for kind in DtlsBackendKind::ALL {
        assert_eq!(kind.to_string().parse(), Ok(kind));
        let good = DtlsServerConfig::new(kind, &security, &DtlsOptions::default());
        if !kind.is_available() {
            assert!(matches!(good, Err(DtlsConfigError::Unavailable(k)) if k == kind));
            continue;
        }
        assert_eq!(good.unwrap().kind(), kind);
        for bad in [
            DtlsOptions {
                mtu: 500,
                ..DtlsOptions::default()
            },
            DtlsOptions {
                first_retransmission: Duration::from_millis(1),
                ..DtlsOptions::default()
            },
        ] {
            assert!(matches!(
                DtlsServerConfig::new(kind, &security, &bad),
                Err(DtlsConfigError::Option { .. })
            ));
        }
    }
}

#[cfg(feature = "dtls-webrtc")]
#[test]
fn backend_with_tasks_says_that_it_needs_a_runtime() {
    use tsc_osaa::dtls::DtlsClientConfig;

    let kind = DtlsBackendKind::WebRtc;
    let options = DtlsOptions::default();
    let config = DtlsClientConfig::new(kind, &pki::client_security(None), &options).unwrap();
    let name = pki::SERVER_NAME.try_into().unwrap();
    assert!(matches!(
        config.connect(std::time::Instant::now(), &name),
        Err(DtlsConfigError::NoRuntime(DtlsBackendKind::WebRtc))
    ));
}
