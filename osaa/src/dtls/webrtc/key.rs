//! Our certificates and keys in the library's form.

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use rustls_pki_types::PrivateKeyDer;
use webrtc_dtls::crypto::{Certificate, CryptoPrivateKey, CryptoPrivateKeyKind};

use crate::cert::Identity;
use crate::dtls::{DtlsBackendKind, DtlsConfigError};

pub(super) fn certificate(identity: &Identity) -> Result<Certificate, DtlsConfigError> {
    let pkcs8 = match identity.key() {
        PrivateKeyDer::Pkcs8(key) => key.secret_pkcs8_der().to_vec(),
        PrivateKeyDer::Sec1(key) => p256_to_pkcs8(key.secret_sec1_der()).ok_or_else(unsupported)?,
        PrivateKeyDer::Pkcs1(_) | _ => return Err(unsupported()),
    };
    Ok(Certificate {
        certificate: identity.chain().to_vec(),
        private_key: CryptoPrivateKey {
            kind: load(&pkcs8).ok_or_else(unsupported)?,
            serialized_der: pkcs8,
        },
    })
}

fn load(pkcs8: &[u8]) -> Option<CryptoPrivateKeyKind> {
    let ecdsa =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8, &SystemRandom::new())
            .map(CryptoPrivateKeyKind::Ecdsa256);
    let ed25519 =
        || Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8).map(CryptoPrivateKeyKind::Ed25519);
    ecdsa.or_else(|_| ed25519()).ok()
}

/// Wraps an EC key of RFC 5915 as one of RFC 5208, naming the curve P-256. A key of another curve does not load
/// afterwards.
fn p256_to_pkcs8(sec1: &[u8]) -> Option<Vec<u8>> {
    /// Version 0; algorithm id-ecPublicKey (1.2.840.10045.2.1) with prime256v1 (1.2.840.10045.3.1.7).
    const VERSION_AND_ALGORITHM: [u8; 24] = [
        0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01, 0x06,
        0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07,
    ];
    const SEQUENCE: u8 = 0x30;
    const OCTET_STRING: u8 = 0x04;

    let mut body = VERSION_AND_ALGORITHM.to_vec();
    body.extend(der(OCTET_STRING, sec1)?);
    der(SEQUENCE, &body)
}

/// One DER element with a length of two bytes at most; lengths must be minimal.
fn der(tag: u8, value: &[u8]) -> Option<Vec<u8>> {
    let mut out = vec![tag];
    match u8::try_from(value.len()) {
        Ok(length @ ..=0x7F) => out.push(length),
        Ok(length) => out.extend([0x81, length]),
        Err(_) => {
            out.push(0x82);
            out.extend(u16::try_from(value.len()).ok()?.to_be_bytes());
        }
    }
    out.extend_from_slice(value);
    Some(out)
}

fn unsupported() -> DtlsConfigError {
    DtlsConfigError::UnsupportedKey {
        backend: DtlsBackendKind::WebRtc,
        reason: "it must be ECDSA P-256 or Ed25519",
    }
}
