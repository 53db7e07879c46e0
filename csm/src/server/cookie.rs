//! The stateless cookie of plain UDP (spec 8.2).
//!
//! ```text
//! | key id u8 | slot u32 | MAC 16 |      MAC = HMAC-SHA-256(key, label | slot | listener | peer), cut to 16
//! ```
//!
//! *Attack*: a stranger sends requests from forged addresses, so that the server spends memory on tunnels that
//! nobody asked for, or sends answers to a victim. *Mechanism*: before the address is proved by repeating a
//! cookie that only its owner can have received, nothing is kept and the answer is never longer than the
//! request. *Limit*: someone who can read traffic towards the forged address can still pass.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hmac::Mac;
use subtle::ConstantTimeEq;

use crate::resume::keyed;
use crate::secret::Key32;

/// Length of one slot (spec 8.2); cookies of the current and the previous slot are valid.
pub const SLOT: Duration = Duration::from_secs(32);
/// Length of a cookie's value.
pub const COOKIE_LEN: usize = 21;

const LABEL: &[u8] = b"tscf cookie 1";

/// The key of one listening address, shared by all workers and nodes that serve it (spec 8.2).
#[derive(Clone, Debug)]
pub struct CookieKey {
    /// Names the key, so that an operator can change it: see [`CookieConfig::previous`].
    pub id: u8,
    /// The key itself, from the operating system's generator.
    pub key: Key32,
}

/// How cookies are made. Only nodes that share an address need to set it.
#[derive(Clone, Debug)]
pub struct CookieConfig {
    /// Makes and checks cookies.
    pub current: CookieKey,
    /// Only checks them: the key before the last change.
    pub previous: Option<CookieKey>,
    /// The wall clock's seconds since 1970 at the `now` given to `Server::new`; all nodes count slots from 1970.
    pub unix_seconds: u64,
}

/// Makes and checks cookies; holds no state per client.
#[derive(Debug)]
pub(crate) struct CookieJar {
    config: CookieConfig,
    start: Instant,
}

impl CookieJar {
    pub(crate) fn new(config: CookieConfig, now: Instant) -> Self {
        Self { config, start: now }
    }

    /// The cookie for `peer` on `listener` in the slot of `now`.
    pub(crate) fn make(
        &self,
        now: Instant,
        listener: SocketAddr,
        peer: SocketAddr,
    ) -> [u8; COOKIE_LEN] {
        let slot = self.slot(now);
        let mut cookie = [0; COOKIE_LEN];
        let (head, mac) = cookie.split_at_mut(5);
        let (id, number) = head.split_at_mut(1);
        id.copy_from_slice(&[self.config.current.id]);
        number.copy_from_slice(&slot.to_be_bytes());
        mac.copy_from_slice(&tag(&self.config.current.key, slot, listener, peer));
        cookie
    }

    /// Whether `cookie` was made for this pair of addresses in this slot or the one before.
    pub(crate) fn verify(
        &self,
        now: Instant,
        listener: SocketAddr,
        peer: SocketAddr,
        cookie: &[u8],
    ) -> bool {
        let Ok(cookie) = <[u8; COOKIE_LEN]>::try_from(cookie) else {
            return false;
        };
        let [id, s0, s1, s2, s3, mac @ ..] = cookie;
        let slot = u32::from_be_bytes([s0, s1, s2, s3]);
        if self.slot(now).wrapping_sub(slot) > 1 {
            return false;
        }
        let keys = [Some(&self.config.current), self.config.previous.as_ref()];
        let Some(key) = keys.into_iter().flatten().find(|key| key.id == id) else {
            return false;
        };
        tag(&key.key, slot, listener, peer).ct_eq(&mac).into()
    }

    fn slot(&self, now: Instant) -> u32 {
        let seconds =
            now.saturating_duration_since(self.start).as_secs() + self.config.unix_seconds;
        // Only the difference of two slots matters, so wrapping after 4,000 years is fine.
        u32::try_from((seconds / SLOT.as_secs()) & u64::from(u32::MAX)).unwrap_or_default()
    }
}

fn tag(key: &Key32, slot: u32, listener: SocketAddr, peer: SocketAddr) -> [u8; 16] {
    let mut mac = keyed(key);
    mac.update(LABEL);
    mac.update(&slot.to_be_bytes());
    for address in [listener, peer] {
        match address.ip() {
            IpAddr::V4(ip) => {
                mac.update(&[4]);
                mac.update(&ip.octets());
            }
            IpAddr::V6(ip) => {
                mac.update(&[6]);
                mac.update(&ip.octets());
            }
        }
        mac.update(&address.port().to_be_bytes());
    }
    let full: [u8; 32] = mac.finalize().into_bytes().into();
    let mut cut = [0; 16];
    for (to, from) in cut.iter_mut().zip(full) {
        *to = from;
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jar(now: Instant) -> CookieJar {
        let current = CookieKey {
            id: 2,
            key: Key32::new([2; 32]),
        };
        CookieJar::new(
            CookieConfig {
                current,
                previous: None,
                unix_seconds: 1_000_000,
            },
            now,
        )
    }

    const LISTENER: SocketAddr =
        SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), 5061);
    const PEER: SocketAddr =
        SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 9)), 40000);

    #[test]
    fn lives_for_its_slot_and_the_next() {
        let now = Instant::now();
        let jar = jar(now);
        let cookie = jar.make(now, LISTENER, PEER);
        assert!(jar.verify(now, LISTENER, PEER, &cookie));
        assert!(jar.verify(now + SLOT, LISTENER, PEER, &cookie));
        assert!(!jar.verify(now + 2 * SLOT, LISTENER, PEER, &cookie));
    }

    #[test]
    fn belongs_to_one_pair_of_addresses() {
        let now = Instant::now();
        let jar = jar(now);
        let cookie = jar.make(now, LISTENER, PEER);
        let other_port = SocketAddr::new(PEER.ip(), PEER.port() + 1);
        assert!(!jar.verify(now, LISTENER, other_port, &cookie));
        assert!(!jar.verify(now, PEER, LISTENER, &cookie));
        for bit in 0..COOKIE_LEN * 8 {
            let mut forged = cookie;
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(!jar.verify(now, LISTENER, PEER, &forged), "bit {bit}");
        }
        assert!(!jar.verify(now, LISTENER, PEER, &[]));
    }

    #[test]
    fn a_changed_key_leaves_old_cookies_valid_for_their_time() {
        let now = Instant::now();
        let old = jar(now);
        let cookie = old.make(now, LISTENER, PEER);
        let config = CookieConfig {
            current: CookieKey {
                id: 3,
                key: Key32::new([3; 32]),
            },
            previous: Some(old.config.current.clone()),
            unix_seconds: 1_000_000,
        };
        assert!(CookieJar::new(config, now).verify(now, LISTENER, PEER, &cookie));
    }
}
