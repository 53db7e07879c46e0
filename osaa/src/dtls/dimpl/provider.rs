//! The cryptography that the library is given: AWS-LC's, with doors for us.
//!
//! The library keeps what it derives to itself, but asks a provider for every primitive. Three of them are ours in front of
//! AWS-LC's:
//!
//! - **Cipher suites** note the keys and nonces that they are made and used with, since records are protected by
//!   [`protection`](crate::dtls::protection) after the handshake.
//! - **HMAC-SHA-256 in one piece** is what the library makes and checks cookies with, and uses for nothing else in DTLS
//!   1.2. It gives the cookie that the endpoint has made and checked.
//! - **Keys to sign with** are loaded once instead of for each handshake.
//!
//! Providers are static, so what belongs to one handshake is found by thread: [`Context::enter`] lays it out for the time of
//! one call.

use std::cell::RefCell;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dimpl::crypto::{
    Aad, Buf, Cipher, CryptoProvider, Dtls12CipherSuite, HashAlgorithm, HmacProvider, KeyProvider,
    Nonce, SignatureAlgorithm, SigningKey, SupportedDtls12CipherSuite, TmpBuf, aws_lc_rs,
};
use dimpl::{CryptoError, CryptoOperation};
use zeroize::Zeroizing;

use crate::dtls::keys::{Suite, TrafficKey, TrafficKeys};

/// What the provider is to know about one handshake, and what it gets to know.
pub(super) struct Context {
    /// The cookie that the endpoint has checked; servers only.
    cookie: Option<[u8; 32]>,
    keys: Arc<SigningKeys>,
    noted: Mutex<Vec<Noted>>,
}

/// The key of one cipher.
struct Noted {
    suite: Suite,
    key: Zeroizing<Vec<u8>>,
    /// Known from the first use.
    nonce: Option<Zeroizing<[u8; 12]>>,
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Context>>> = const { RefCell::new(None) };
}

impl Context {
    pub(super) fn new(cookie: Option<[u8; 32]>, keys: &Arc<SigningKeys>) -> Arc<Self> {
        Arc::new(Self {
            cookie,
            keys: Arc::clone(keys),
            noted: Mutex::new(Vec::new()),
        })
    }

    /// Runs `call`, into the library, with this context.
    pub(super) fn enter<R>(self: &Arc<Self>, call: impl FnOnce() -> R) -> R {
        /// Puts back what was there, also when `call` panics.
        struct Restore(Option<Arc<Context>>);
        impl Drop for Restore {
            fn drop(&mut self) {
                let before = self.0.take();
                let _ = CURRENT.try_with(|current| current.replace(before));
            }
        }
        let _restore = Restore(CURRENT.with(|current| current.replace(Some(Arc::clone(self)))));
        call()
    }

    /// The keys of both directions, once each was used: in a finished handshake.
    pub(super) fn take_keys(&self) -> Option<TrafficKeys> {
        let mut noted = self.noted().drain(..).collect::<Vec<_>>().into_iter();
        // The library makes the client's cipher first.
        let (client, server) = (noted.next()?, noted.next()?);
        if noted.next().is_some() || client.suite != server.suite {
            return None;
        }
        let key = |noted: Noted| {
            Some(TrafficKey {
                key: noted.key,
                nonce: noted.nonce?,
            })
        };
        Some(TrafficKeys {
            suite: client.suite,
            client: key(client)?,
            server: key(server)?,
        })
    }

    fn noted(&self) -> MutexGuard<'_, Vec<Noted>> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").finish_non_exhaustive()
    }
}

fn current() -> Option<Arc<Context>> {
    CURRENT.try_with(|current| current.borrow().clone()).ok()?
}

/// AWS-LC's provider with our doors.
pub(super) fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: &[
            &NotingSuite(Suite::Aes128Gcm),
            &NotingSuite(Suite::Aes256Gcm),
            &NotingSuite(Suite::Chacha20Poly1305),
        ],
        hmac_provider: &CookieHmac,
        key_provider: &LentKeys,
        ..aws_lc_rs::default_provider()
    }
}

/// One of AWS-LC's suites.
#[derive(Debug)]
struct NotingSuite(Suite);

impl NotingSuite {
    fn real(&self) -> Result<&'static dyn SupportedDtls12CipherSuite, CryptoError> {
        let id = self.suite();
        aws_lc_rs::default_provider()
            .cipher_suites
            .iter()
            .copied()
            .find(|suite| suite.suite() == id)
            .ok_or(CryptoError::UnsupportedCipherSuite(id))
    }
}

impl SupportedDtls12CipherSuite for NotingSuite {
    fn suite(&self) -> Dtls12CipherSuite {
        match self.0 {
            Suite::Aes128Gcm => Dtls12CipherSuite::ECDHE_ECDSA_AES128_GCM_SHA256,
            Suite::Aes256Gcm => Dtls12CipherSuite::ECDHE_ECDSA_AES256_GCM_SHA384,
            Suite::Chacha20Poly1305 => Dtls12CipherSuite::ECDHE_ECDSA_CHACHA20_POLY1305_SHA256,
        }
    }

    fn hash_algorithm(&self) -> HashAlgorithm {
        match self.0 {
            Suite::Aes128Gcm | Suite::Chacha20Poly1305 => HashAlgorithm::SHA256,
            Suite::Aes256Gcm => HashAlgorithm::SHA384,
        }
    }

    fn key_lengths(&self) -> (usize, usize, usize) {
        (0, self.0.algorithm().key_len(), self.0.implicit_nonce())
    }

    fn explicit_nonce_len(&self) -> usize {
        self.0.explicit_nonce()
    }

    fn tag_len(&self) -> usize {
        self.0.algorithm().tag_len()
    }

    fn create_cipher(&self, key: &[u8]) -> Result<Box<dyn Cipher>, CryptoError> {
        let real = self.real()?.create_cipher(key)?;
        let Some(context) = current() else {
            return Ok(real);
        };
        let index = {
            let mut noted = context.noted();
            noted.push(Noted {
                suite: self.0,
                key: Zeroizing::new(key.to_vec()),
                nonce: None,
            });
            noted.len() - 1
        };
        Ok(Box::new(NotingCipher {
            real,
            context,
            index,
        }))
    }
}

#[derive(Debug)]
struct NotingCipher {
    real: Box<dyn Cipher>,
    context: Arc<Context>,
    index: usize,
}

impl NotingCipher {
    fn note(&self, aad: &Aad, nonce: Nonce) {
        let mut noted = self.context.noted();
        let Some(noted) = noted.get_mut(self.index) else {
            return;
        };
        let mut implicit = Zeroizing::new(nonce.0);
        match noted.suite {
            // Its first bytes; the rest is the record's.
            Suite::Aes128Gcm | Suite::Aes256Gcm => {}
            // Epoch and sequence number, with which the associated data begin, were mixed in.
            Suite::Chacha20Poly1305 => {
                for (byte, mask) in implicit.iter_mut().skip(4).zip(aad.iter().take(8)) {
                    *byte ^= mask;
                }
            }
        }
        noted.nonce = Some(implicit);
    }
}

impl Cipher for NotingCipher {
    fn encrypt(&mut self, plaintext: &mut Buf, aad: Aad, nonce: Nonce) -> Result<(), CryptoError> {
        self.note(&aad, nonce);
        self.real.encrypt(plaintext, aad, nonce)
    }

    fn decrypt(
        &mut self,
        ciphertext: &mut TmpBuf<'_>,
        aad: Aad,
        nonce: Nonce,
    ) -> Result<(), CryptoError> {
        self.real.decrypt(ciphertext, aad.clone(), nonce)?;
        // Only of what the peer has really sealed.
        self.note(&aad, nonce);
        Ok(())
    }
}

/// HMAC, but for the cookie.
#[derive(Debug)]
struct CookieHmac;

impl HmacProvider for CookieHmac {
    fn hmac_sha256(&self, key: &[u8], data: &[u8]) -> Result<[u8; 32], CryptoError> {
        match current().and_then(|context| context.cookie) {
            Some(cookie) => Ok(cookie),
            None => aws_lc_rs::default_provider()
                .hmac_provider
                .hmac_sha256(key, data),
        }
    }

    fn hmac(
        &self,
        hash: HashAlgorithm,
        key: &[u8],
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize, CryptoError> {
        aws_lc_rs::default_provider()
            .hmac_provider
            .hmac(hash, key, data, out)
    }
}

/// A private key, and loaded forms of it that wait to be used: signing wants one for itself.
pub(super) struct SigningKeys {
    der: Zeroizing<Vec<u8>>,
    spare: Mutex<Vec<Box<dyn SigningKey>>>,
}

impl SigningKeys {
    /// Loaded keys that are kept; more are made and freed when more handshakes are in progress.
    const SPARE: usize = 64;

    /// `None` when it is no key that the library can use.
    pub(super) fn new(der: &[u8]) -> Option<Arc<Self>> {
        let first = load(der).ok()?;
        Some(Arc::new(Self {
            der: Zeroizing::new(der.to_vec()),
            spare: Mutex::new(vec![first]),
        }))
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Box<dyn SigningKey>>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lend(self: &Arc<Self>) -> Result<Lent, CryptoError> {
        let spare = self.spare().pop();
        let key = match spare {
            Some(key) => key,
            None => load(&self.der)?,
        };
        Ok(Lent {
            algorithm: key.algorithm(),
            hash: key.hash_algorithm(),
            key: Some(key),
            home: Arc::clone(self),
        })
    }
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKeys").finish_non_exhaustive()
    }
}

fn load(der: &[u8]) -> Result<Box<dyn SigningKey>, CryptoError> {
    aws_lc_rs::default_provider()
        .key_provider
        .load_private_key(der)
}

/// A loaded key; goes back where it came from.
#[derive(Debug)]
struct Lent {
    key: Option<Box<dyn SigningKey>>,
    algorithm: SignatureAlgorithm,
    hash: HashAlgorithm,
    home: Arc<SigningKeys>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut spare = self.home.spare();
        if spare.len() < SigningKeys::SPARE {
            spare.extend(self.key.take());
        }
    }
}

impl SigningKey for Lent {
    fn sign(&mut self, data: &[u8], hash: HashAlgorithm, out: &mut Buf) -> Result<(), CryptoError> {
        match &mut self.key {
            Some(key) => key.sign(data, hash, out),
            None => Err(CryptoError::OperationFailed(CryptoOperation::Sign)),
        }
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.algorithm
    }

    fn hash_algorithm(&self) -> HashAlgorithm {
        self.hash
    }

    fn supported_hash_algorithms(&self) -> &[HashAlgorithm] {
        self.key
            .as_ref()
            .map(|key| key.supported_hash_algorithms())
            .unwrap_or_default()
    }
}

/// Gives the context's key, whatever the library has been told.
#[derive(Debug)]
struct LentKeys;

impl KeyProvider for LentKeys {
    fn load_private_key(&self, der: &[u8]) -> Result<Box<dyn SigningKey>, CryptoError> {
        match current() {
            Some(context) => Ok(Box::new(context.keys.lend()?)),
            None => load(der),
        }
    }
}
