//! The stateless cookie of RFC 6347 section 4.2.1.

use std::net::{IpAddr, SocketAddr};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::record::ClientHello;

/// Makes and checks cookies: HMAC-SHA-256 over the peer's address and port and the ClientHello's random, so
/// that a cookie serves one client, at one address, for one handshake (and its retransmissions).
///
/// A key is valid until it was rotated out twice.
pub(super) struct CookieJar {
    current: Hmac<Sha256>,
    previous: Option<Hmac<Sha256>>,
}

impl CookieJar {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        Self {
            current: keyed(key),
            previous: None,
        }
    }

    pub(super) fn rotate(&mut self, key: &[u8; 32]) {
        self.previous = Some(std::mem::replace(&mut self.current, keyed(key)));
    }

    pub(super) fn make(&self, peer: SocketAddr, hello: &ClientHello<'_>) -> [u8; 32] {
        mac(&self.current, peer, hello)
            .finalize()
            .into_bytes()
            .into()
    }

    /// Checks the hello's own cookie, in constant time.
    pub(super) fn verify(&self, peer: SocketAddr, hello: &ClientHello<'_>) -> bool {
        std::iter::once(&self.current)
            .chain(&self.previous)
            .any(|key| mac(key, peer, hello).verify_slice(hello.cookie).is_ok())
    }
}

fn keyed(key: &[u8; 32]) -> Hmac<Sha256> {
    // HMAC fills a key up to its block of 64 bytes with zeros.
    let mut block = [0; 64];
    for (to, from) in block.iter_mut().zip(key) {
        *to = *from;
    }
    KeyInit::new(&block.into())
}

fn mac(key: &Hmac<Sha256>, peer: SocketAddr, hello: &ClientHello<'_>) -> Hmac<Sha256> {
    let mut mac = key.clone();
    mac.update(b"tscf dtls cookie 1");
    match peer.ip() {
        // Lengths differ, so the two families cannot be confused.
        IpAddr::V4(address) => mac.update(&address.octets()),
        IpAddr::V6(address) => mac.update(&address.octets()),
    }
    mac.update(&peer.port().to_be_bytes());
    mac.update(hello.random);
    mac
}

#[cfg(test)]
mod tests {
    use super::super::record::{records, tests::hello};
    use super::*;

    fn check(jar: &CookieJar, peer: SocketAddr, cookie: &[u8]) -> bool {
        let datagram = hello(cookie, &[]);
        let record = records(&datagram).next().unwrap();
        jar.verify(peer, &ClientHello::parse(&record).unwrap())
    }

    fn make(jar: &CookieJar, peer: SocketAddr) -> [u8; 32] {
        let datagram = hello(&[], &[]);
        let record = records(&datagram).next().unwrap();
        jar.make(peer, &ClientHello::parse(&record).unwrap())
    }

    #[test]
    fn a_cookie_is_good_for_its_address_only() {
        let jar = CookieJar::new(&[1; 32]);
        let peer = SocketAddr::from(([192, 0, 2, 1], 4_000));
        let cookie = make(&jar, peer);
        assert!(check(&jar, peer, &cookie));
        for other in [
            SocketAddr::from(([192, 0, 2, 1], 4_001)),
            SocketAddr::from(([192, 0, 2, 2], 4_000)),
            "[2001:db8::1]:4000".parse().unwrap(),
        ] {
            assert!(!check(&jar, other, &cookie));
        }
        assert!(!check(&jar, peer, &cookie[..31]));
        assert!(!check(&jar, peer, &[]));
        assert!(!check(&CookieJar::new(&[2; 32]), peer, &cookie));
    }
}
