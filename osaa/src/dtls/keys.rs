//! What a handshake hands over to the record protection: the negotiated suite and the keys.

use std::fmt;

use ring::aead::{AES_128_GCM, AES_256_GCM, Algorithm, CHACHA20_POLY1305};
use zeroize::Zeroizing;

/// Cipher of the records, RFC 5288 and RFC 7905. All have tags of 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Suite {
    Aes128Gcm,
    Aes256Gcm,
    Chacha20Poly1305,
}

impl Suite {
    pub(super) fn algorithm(self) -> &'static Algorithm {
        match self {
            Self::Aes128Gcm => &AES_128_GCM,
            Self::Aes256Gcm => &AES_256_GCM,
            Self::Chacha20Poly1305 => &CHACHA20_POLY1305,
        }
    }

    /// The cipher suite with ECDHE and ECDSA by its IANA name.
    #[cfg(feature = "dtls-dimpl")]
    pub(super) fn ecdsa_name(self) -> &'static str {
        match self {
            Self::Aes128Gcm => "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
            Self::Aes256Gcm => "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
            Self::Chacha20Poly1305 => "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        }
    }

    /// Bytes of the nonce that travel in each record.
    pub(super) fn explicit_nonce(self) -> usize {
        match self {
            Self::Aes128Gcm | Self::Aes256Gcm => 8,
            Self::Chacha20Poly1305 => 0,
        }
    }

    /// Bytes of the nonce that come from the key block: the rest, or all of it.
    pub(super) fn implicit_nonce(self) -> usize {
        match self {
            Self::Aes128Gcm | Self::Aes256Gcm => 4,
            Self::Chacha20Poly1305 => 12,
        }
    }
}

/// Key and nonce of one direction; wiped when dropped.
pub(super) struct TrafficKey {
    pub(super) key: Zeroizing<Vec<u8>>,
    /// The first [`Suite::implicit_nonce`] bytes count.
    pub(super) nonce: Zeroizing<[u8; 12]>,
}

/// The keys of both directions.
pub(super) struct TrafficKeys {
    pub(super) suite: Suite,
    pub(super) client: TrafficKey,
    pub(super) server: TrafficKey,
}

impl fmt::Debug for TrafficKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrafficKeys")
            .field("suite", &self.suite)
            .finish_non_exhaustive()
    }
}
