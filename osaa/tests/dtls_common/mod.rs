//! Shared by the DTLS tests: certificates, and a world of one endpoint and its clients joined by a bad network.
#![allow(dead_code, unreachable_pub, clippy::wildcard_enum_match_arm)]

pub mod pki;
pub mod udp;
pub mod world;

use tsc_osaa::dtls::DtlsBackendKind;

/// The backends at both ends of a test.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    pub client: DtlsBackendKind,
    pub server: DtlsBackendKind,
}

impl Pair {
    /// Whether either end is that backend.
    pub fn has(self, kind: DtlsBackendKind) -> bool {
        self.client == kind || self.server == kind
    }
}

/// Instantiates `async fn name(pair: Pair)` tests for every pair of backends in this build.
#[macro_export]
macro_rules! for_all_pairs {
    ($($(#[$attribute:meta])* $name:ident),* $(,)?) => {
        $crate::for_all_pairs!(@pair openssl_to_openssl, OpenSsl, OpenSsl, feature = "dtls-openssl", [$($(#[$attribute])* $name,)*]);
        $crate::for_all_pairs!(@pair openssl_to_dimpl, OpenSsl, Dimpl, all(feature = "dtls-openssl", feature = "dtls-dimpl"), [$($(#[$attribute])* $name,)*]);
        $crate::for_all_pairs!(@pair openssl_to_webrtc, OpenSsl, WebRtc, all(feature = "dtls-openssl", feature = "dtls-webrtc"), [$($(#[$attribute])* $name,)*]);
        $crate::for_all_pairs!(@pair dimpl_to_openssl, Dimpl, OpenSsl, all(feature = "dtls-dimpl", feature = "dtls-openssl"), [$($(#[$attribute])* $name,)*]);
        $crate::for_all_pairs!(@pair dimpl_to_dimpl, Dimpl, Dimpl, feature = "dtls-dimpl", [$($(#[$attribute])* $name,)*]);
        $crate::for_all_pairs!(@pair dimpl_to_webrtc, Dimpl, WebRtc, all(feature = "dtls-dimpl", feature = "dtls-webrtc"), [$($(#[$attribute])* $name,)*]);
        $crate::for_all_pairs!(@pair webrtc_to_openssl, WebRtc, OpenSsl, all(feature = "dtls-webrtc", feature = "dtls-openssl"), [$($(#[$attribute])* $name,)*]);
        $crate::for_all_pairs!(@pair webrtc_to_dimpl, WebRtc, Dimpl, all(feature = "dtls-webrtc", feature = "dtls-dimpl"), [$($(#[$attribute])* $name,)*]);
        $crate::for_all_pairs!(@pair webrtc_to_webrtc, WebRtc, WebRtc, feature = "dtls-webrtc", [$($(#[$attribute])* $name,)*]);
    };
    (@pair $module:ident, $client:ident, $server:ident, $cfg:meta, [$($(#[$attribute:meta])* $name:ident,)*]) => {
        #[cfg($cfg)]
        mod $module {
            use tsc_osaa::dtls::DtlsBackendKind;
            $(
                $(#[$attribute])*
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    let pair = $crate::dtls_common::Pair {
                        client: DtlsBackendKind::$client,
                        server: DtlsBackendKind::$server,
                    };
                    super::$name(pair).await;
                }
            )*
        }
    };
}
