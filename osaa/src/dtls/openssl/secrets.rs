//! The keys of a finished handshake, derived from its master secret as RFC 5246 sections 5 and 6.3 say.

use openssl::ssl::SslRef;
use ring::hmac;
use zeroize::Zeroizing;

use crate::dtls::keys::{Suite, TrafficKey, TrafficKeys};

/// Bytes of a master secret, RFC 5246 section 8.1.
const MASTER_SECRET: usize = 48;
const RANDOM: usize = 32;

/// `None` without a finished handshake, or for a cipher suite that [`context`](super::context) does not allow.
pub(super) fn traffic_keys(ssl: &SslRef) -> Option<TrafficKeys> {
    let (suite, hash) = suite(ssl.current_cipher()?.standard_name()?)?;
    let mut master = Zeroizing::new([0; MASTER_SECRET]);
    if ssl.session()?.master_key(master.as_mut_slice()) != MASTER_SECRET {
        return None;
    }
    let mut seed = [0; 2 * RANDOM];
    let (server, client) = seed.split_at_mut(RANDOM);
    if ssl.server_random(server) != RANDOM || ssl.client_random(client) != RANDOM {
        return None;
    }
    Some(expand(suite, hash, master.as_slice(), &seed))
}

/// The cipher of a cipher suite, by its IANA name, and the hash of its pseudo-random function.
fn suite(name: &str) -> Option<(Suite, hmac::Algorithm)> {
    let (_, parameters) = name.split_once("_WITH_")?;
    match parameters {
        "AES_128_GCM_SHA256" => Some((Suite::Aes128Gcm, hmac::HMAC_SHA256)),
        "AES_256_GCM_SHA384" => Some((Suite::Aes256Gcm, hmac::HMAC_SHA384)),
        "CHACHA20_POLY1305_SHA256" => Some((Suite::Chacha20Poly1305, hmac::HMAC_SHA256)),
        _ => None,
    }
}

/// The key block of AEAD suites: keys of client and server, then their nonces.
fn expand(suite: Suite, hash: hmac::Algorithm, master: &[u8], seed: &[u8]) -> TrafficKeys {
    let (key, nonce) = (suite.algorithm().key_len(), suite.implicit_nonce());
    let block = pseudo_random(hash, master, b"key expansion", seed, 2 * (key + nonce));
    let part = |start: usize, length: usize| block.get(start..start + length).unwrap_or_default();
    let traffic = |index: usize| {
        let mut first = Zeroizing::new([0; 12]);
        let from = part(2 * key + index * nonce, nonce);
        for (to, from) in first.iter_mut().zip(from) {
            *to = *from;
        }
        TrafficKey {
            key: Zeroizing::new(part(index * key, key).to_vec()),
            nonce: first,
        }
    };
    TrafficKeys {
        suite,
        client: traffic(0),
        server: traffic(1),
    }
}

/// `PRF(secret, label, seed)`, RFC 5246 section 5.
fn pseudo_random(
    hash: hmac::Algorithm,
    secret: &[u8],
    label: &[u8],
    seed: &[u8],
    length: usize,
) -> Zeroizing<Vec<u8>> {
    let key = hmac::Key::new(hash, secret);
    let mac = |parts: &[&[u8]]| {
        let mut context = hmac::Context::with_key(&key);
        for part in parts {
            context.update(part);
        }
        context.sign()
    };
    // Never grows, so that no copy of a part is left behind.
    let mut out = Zeroizing::new(Vec::with_capacity(
        length + hash.digest_algorithm().output_len(),
    ));
    let mut a = mac(&[label, seed]);
    while out.len() < length {
        out.extend_from_slice(mac(&[a.as_ref(), label, seed]).as_ref());
        a = mac(&[a.as_ref()]);
    }
    out.truncate(length);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len() / 2)
            .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
            .collect()
    }

    /// The vector for SHA-256 that the TLS working group has published
    /// (<https://mailarchive.ietf.org/arch/msg/tls/fzVCzk-z3FShgGJ6DOXqM1ydxms/>).
    #[test]
    fn the_pseudo_random_function_gives_the_published_vector() {
        let out = pseudo_random(
            hmac::HMAC_SHA256,
            &hex("9bbe436ba940f017b17652849a71db35"),
            b"test label",
            &hex("a0ba9f936cda311827a6f796ffd5198c"),
            100,
        );
        let expected = "e3f229ba727be17b8d122620557cd453c2aab21d07c3d495329b52d4e61edb5a\
                        6b301791e90d35c9c9a46b4e14baf9af0fa022f7077def17abfd3797c0564bab\
                        4fbc91666e9def9b97fce34f796789baa48082d122ee42c5a72e5a5110fff701\
                        87347b66";
        assert_eq!(*out, hex(expected));
    }

    #[test]
    fn keys_are_cut_from_the_block_in_order() {
        let keys = expand(Suite::Aes128Gcm, hmac::HMAC_SHA256, &[1; 48], &[2; 64]);
        let block = pseudo_random(hmac::HMAC_SHA256, &[1; 48], b"key expansion", &[2; 64], 40);
        assert_eq!(*keys.client.key, block[..16]);
        assert_eq!(*keys.server.key, block[16..32]);
        assert_eq!(keys.client.nonce[..4], block[32..36]);
        assert_eq!(keys.server.nonce[..4], block[36..40]);
    }

    #[test]
    fn only_our_suites_have_keys() {
        assert!(suite("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384").is_some());
        for other in [
            "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
            "TLS_AES_128_GCM_SHA256",
            "",
        ] {
            assert!(suite(other).is_none(), "{other}");
        }
    }
}
