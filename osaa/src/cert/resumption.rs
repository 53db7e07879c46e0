//! What is kept to resume DTLS sessions: a client's sessions, the keys of a server's tickets. For TLS rustls keeps its own in
//! the same places and by the same rules.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls_pki_types::ServerName;
use zeroize::Zeroizing;

use super::PeerIdentity;
use super::security::SESSIONS;
use crate::random::OsRandom;

/// Longest time from the full handshake to a resumption, for clients and for servers; that of TLS.
pub(crate) const LIFETIME: Duration = Duration::from_secs(12 * 3_600);

/// New tickets are sealed under a key for so long, and then no more: half of the time in which tickets are taken.
const ROTATION: Duration = Duration::from_secs(6 * 3_600);

/// Most bytes that a session may have, with the server's certificates. A server with more is asked for them each time.
const LONGEST: usize = 16 * 1_024;

/// A session that a client may resume.
pub(crate) struct Session {
    /// As the library that has made it writes it. Holds the master secret.
    pub(crate) secret: Zeroizing<Vec<u8>>,
    /// Who the server was, verified.
    pub(crate) peer: PeerIdentity,
    /// When the full handshake was made.
    pub(crate) made: Instant,
}

impl Session {
    fn len(&self) -> usize {
        let chain = self.peer.chain().iter().map(|one| one.len());
        self.secret.len() + chain.sum::<usize>()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// A client's sessions, one for each server by name: those with as many servers as rustls remembers.
///
/// It belongs to one [`ClientSecurity`](super::ClientSecurity), so what was verified with other settings is never in it.
#[derive(Default)]
pub(crate) struct SessionMemory(Mutex<VecDeque<(ServerName<'static>, Arc<Session>)>>);

impl SessionMemory {
    /// The session with that server, if it may still be resumed.
    pub(crate) fn get(&self, now: Instant, name: &ServerName<'_>) -> Option<Arc<Session>> {
        let mut sessions = lock(&self.0);
        sessions.retain(|(_, session)| now.saturating_duration_since(session.made) < LIFETIME);
        let (_, session) = sessions.iter().find(|(of, _)| of == name)?;
        Some(Arc::clone(session))
    }

    /// Takes the place of the session with the same server, and of the oldest one where there is no room.
    pub(crate) fn put(&self, name: ServerName<'static>, session: Session) {
        if session.len() > LONGEST {
            return;
        }
        let mut sessions = lock(&self.0);
        sessions.retain(|(of, _)| *of != name);
        if sessions.len() >= SESSIONS {
            sessions.pop_front();
        }
        sessions.push_back((name, Arc::new(session)));
    }

    /// Forgets a session, unless another has taken its place.
    pub(crate) fn forget(&self, session: &Arc<Session>) {
        lock(&self.0).retain(|(_, other)| !Arc::ptr_eq(other, session));
    }
}

/// A key of session tickets, in the parts that OpenSSL uses. Wiped when dropped.
pub(crate) struct TicketKey {
    /// In clear at the front of each ticket.
    pub(crate) name: [u8; 16],
    /// For HMAC-SHA-256, then for AES-256.
    pub(crate) secret: Zeroizing<[u8; 64]>,
    made: Instant,
}

impl TicketKey {
    fn random(now: Instant) -> Self {
        let mut key = Self {
            name: [0; 16],
            secret: Zeroizing::new([0; 64]),
            made: now,
        };
        OsRandom.fill(&mut key.name);
        OsRandom.fill(key.secret.as_mut_slice());
        key
    }

    fn is_younger(&self, now: Instant, age: Duration) -> bool {
        now.saturating_duration_since(self.made) < age
    }
}

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKey").finish_non_exhaustive()
    }
}

/// The keys of a server's tickets, for all its workers and ports: drawn at random, never stored, and replaced as rustls replaces
/// its own.
pub(crate) struct TicketKeys(Mutex<Keys>);

struct Keys {
    current: Arc<TicketKey>,
    /// Seals no new tickets, but still opens its own.
    previous: Option<Arc<TicketKey>>,
}

impl TicketKeys {
    pub(crate) fn new(now: Instant) -> Self {
        Self(Mutex::new(Keys {
            current: Arc::new(TicketKey::random(now)),
            previous: None,
        }))
    }

    /// The key for a handshake in which the client brings `ticket` (empty: none): the one that has sealed it if that is still
    /// valid, else the current one.
    pub(crate) fn serving(&self, now: Instant, ticket: &[u8]) -> Arc<TicketKey> {
        let mut keys = lock(&self.0);
        if !keys.current.is_younger(now, ROTATION) {
            let new = Arc::new(TicketKey::random(now));
            keys.previous = Some(std::mem::replace(&mut keys.current, new));
        }
        keys.previous = keys
            .previous
            .take()
            .filter(|key| key.is_younger(now, LIFETIME));
        let sealed_by = |key: &&Arc<TicketKey>| ticket.starts_with(&key.name);
        let previous = keys.previous.as_ref().filter(sealed_by);
        Arc::clone(previous.unwrap_or(&keys.current))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::CertificateDer;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn name(number: usize) -> ServerName<'static> {
        ServerName::try_from(format!("server{number}.test")).unwrap()
    }

    fn session(made: Instant, secret: usize, certificate: usize) -> Session {
        let chain = [CertificateDer::from(vec![0; certificate])];
        Session {
            secret: Zeroizing::new(vec![7; secret]),
            peer: PeerIdentity::from_chain(&chain).unwrap(),
            made,
        }
    }

    #[test]
    fn as_many_sessions_as_rustls_remembers_the_newest_of_each_server() {
        let (memory, now) = (SessionMemory::default(), Instant::now());
        for number in 0..=SESSIONS {
            memory.put(name(number), session(now, 100, 0));
        }
        assert!(memory.get(now, &name(0)).is_none(), "the oldest");
        memory.put(name(1), session(now, 200, 0));
        assert_eq!(memory.get(now, &name(1)).unwrap().secret.len(), 200);
        for number in 2..=SESSIONS {
            assert!(memory.get(now, &name(number)).is_some(), "{number}");
        }
    }

    #[test]
    fn a_session_lives_for_half_a_day() {
        let (memory, now) = (SessionMemory::default(), Instant::now());
        memory.put(name(1), session(now, 100, 0));
        let second = Duration::from_secs(1);
        assert!(memory.get(now + LIFETIME - second, &name(1)).is_some());
        assert!(memory.get(now + LIFETIME, &name(1)).is_none());
    }

    #[test]
    fn what_is_forgotten_is_that_session_only() {
        let (memory, now) = (SessionMemory::default(), Instant::now());
        memory.put(name(1), session(now, 100, 0));
        let old = memory.get(now, &name(1)).unwrap();
        memory.put(name(1), session(now, 100, 0));
        memory.forget(&old);
        let new = memory.get(now, &name(1)).unwrap();
        memory.forget(&new);
        assert!(memory.get(now, &name(1)).is_none());
    }

    #[test]
    fn a_server_that_says_a_lot_is_not_remembered() {
        let (memory, now) = (SessionMemory::default(), Instant::now());
        memory.put(name(1), session(now, LONGEST / 2, LONGEST / 2));
        assert!(memory.get(now, &name(1)).is_some());
        memory.put(name(2), session(now, LONGEST / 2, LONGEST / 2 + 1));
        assert!(memory.get(now, &name(2)).is_none());
    }

    #[test]
    fn what_is_shown_of_a_session_and_of_a_key_are_no_secrets() {
        let now = Instant::now();
        let shown = format!("{:?}", session(now, 3, 0));
        assert!(!shown.contains("7, 7"), "{shown}");
        assert_eq!(format!("{:?}", TicketKey::random(now)), "TicketKey { .. }");
    }

    #[test]
    fn keys_seal_for_six_hours_and_open_for_twelve() {
        let now = Instant::now();
        let keys = TicketKeys::new(now);
        let first = keys.serving(now, b"");
        let ticket = [&first.name[..], b"sealed"].concat();
        assert!(Arc::ptr_eq(&first, &keys.serving(now + 5 * HOUR, b"")));
        let second = keys.serving(now + 6 * HOUR, b"");
        assert_ne!(first.name, second.name);
        assert_ne!(first.secret, second.secret);
        assert_eq!(keys.serving(now + 11 * HOUR, &ticket).name, first.name);
        assert_eq!(keys.serving(now + 11 * HOUR, b"").name, second.name);
        let late = keys.serving(now + 12 * HOUR, &ticket);
        assert_ne!(late.name, first.name);
        // Nobody has come for a day: neither of the two is left.
        let tomorrow = keys.serving(now + 36 * HOUR, &ticket).name;
        assert!(![first.name, second.name, late.name].contains(&tomorrow));
    }

    #[test]
    fn a_ticket_of_nobody_is_served_under_the_current_key() {
        let now = Instant::now();
        let keys = TicketKeys::new(now);
        let name = keys.serving(now, b"").name;
        for ticket in [&[][..], &[1; 5], &[2; 300], &name[..15]] {
            assert_eq!(keys.serving(now, ticket).name, name);
        }
    }
}
