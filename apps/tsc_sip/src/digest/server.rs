//! The server's end: users, nonces that prove themselves, and the verdict on a request.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{Algorithm, Challenge, Credentials, hex};
use crate::{random::Random, secret::Secret};

/// What the server says to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The password is right: the user's name.
    Accepted(String),
    /// Ask: 401 with these challenges, strongest first.
    Challenge(Vec<Challenge>),
    /// Credentials that are wrong: 403. Does not tell whether the user exists.
    Refused,
}

/// Users and their passwords. At most [`Users::MAX`].
#[derive(Clone, Debug, Default)]
pub struct Users(BTreeMap<String, Secret>);

impl Users {
    /// Bound of the table.
    pub const MAX: usize = 100_000;

    /// Adds a user or replaces the password.
    pub fn insert(&mut self, name: impl Into<String>, password: Secret) {
        if self.0.len() < Self::MAX {
            self.0.insert(name.into(), password);
        }
    }

    /// Whether there is such a user.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Whether there is no user at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads lines of `name:password`; empty lines and such that start with `#` are skipped.
    ///
    /// # Errors
    ///
    /// The number of the first line that has no colon, no name or no password.
    pub fn parse(text: &str) -> Result<Self, usize> {
        let mut users = Self::default();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match line.split_once(':') {
                Some((name, password)) if !name.is_empty() && !password.is_empty() => {
                    users.insert(name, Secret::new(password));
                }
                _ => return Err(at + 1),
            }
        }
        Ok(users)
    }
}

/// The server's end.
pub struct Authenticator {
    realm: String,
    users: Users,
    key: Zeroizing<[u8; 32]>,
    started: Instant,
    lifetime: Duration,
    /// Nonces that were used with a right password: by issue time and text, the highest count.
    used: BTreeMap<(u64, String), u32>,
    /// Nonces issued up to here count as stale, because their entry in `used` had to go.
    floor: u64,
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator")
            .field("realm", &self.realm)
            .field("lifetime", &self.lifetime)
            .finish_non_exhaustive()
    }
}

impl Authenticator {
    /// How long a nonce is good by default.
    pub const NONCE_LIFETIME: Duration = Duration::from_secs(60);
    /// Used nonces that are remembered; beyond it the oldest goes and counts as stale.
    pub const MAX_USED: usize = 4096;

    /// An authenticator for the users of a realm.
    pub fn new(
        now: Instant,
        realm: impl Into<String>,
        users: Users,
        lifetime: Duration,
        random: &mut dyn Random,
    ) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        for part in key.chunks_exact_mut(8) {
            part.copy_from_slice(&random.bits().to_be_bytes());
        }
        Self {
            realm: realm.into(),
            users,
            key,
            started: now,
            lifetime,
            used: BTreeMap::new(),
            floor: 0,
        }
    }

    /// Judges a request by its Authorization header field, if it has one for this realm.
    /// `uri` is the Request-URI.
    pub fn judge<'a>(
        &mut self,
        now: Instant,
        (method, uri): (&str, &str),
        authorization: impl Iterator<Item = &'a str>,
        random: &mut dyn Random,
    ) -> Verdict {
        let credentials = authorization
            .filter_map(Credentials::parse)
            .find(|c| c.realm == self.realm);
        let Some(credentials) = credentials else {
            return self.challenge(now, false, random);
        };
        // Constant work for unknown users: the proof is computed against a password that nobody has.
        let nobody = Secret::new("");
        let known = self.users.0.get(&credentials.username);
        let right = credentials.verify(known.unwrap_or(&nobody), method) && known.is_some();
        let Some(issued) = self.issue_time(&credentials.nonce) else {
            // Not our nonce, perhaps of a run before this one: ask again rather than refuse.
            return self.challenge(now, right, random);
        };
        if !right || credentials.uri != uri {
            return Verdict::Refused;
        }
        let too_old = self.age(now).saturating_sub(issued) > millis(self.lifetime);
        let Some((_, count)) = credentials.qop else {
            // We always offer qop; without a count nothing would stop a replay.
            return Verdict::Refused;
        };
        let key = (issued, credentials.nonce);
        let replayed = self.used.get(&key).is_some_and(|used| count <= *used);
        if too_old || replayed || issued < self.floor {
            return self.challenge(now, true, random);
        }
        self.used.insert(key, count);
        self.forget(now);
        Verdict::Accepted(credentials.username)
    }

    fn forget(&mut self, now: Instant) {
        let oldest_good = self.age(now).saturating_sub(millis(self.lifetime));
        while let Some(entry) = self.used.first_entry()
            && entry.key().0 < oldest_good
        {
            entry.remove();
        }
        if self.used.len() > Self::MAX_USED
            && let Some(((issued, _), _)) = self.used.pop_first()
        {
            self.floor = self.floor.max(issued + 1);
        }
    }

    fn challenge(&self, now: Instant, stale: bool, random: &mut dyn Random) -> Verdict {
        let nonce = self.nonce(self.age(now), random.bits());
        let one = |algorithm| Challenge {
            realm: self.realm.clone(),
            nonce: nonce.clone(),
            opaque: None,
            algorithm,
            qop_auth: true,
            stale,
        };
        Verdict::Challenge(vec![one(Algorithm::Sha256), one(Algorithm::Md5)])
    }

    fn age(&self, now: Instant) -> u64 {
        millis(now.saturating_duration_since(self.started))
    }

    /// Issue time, salt, keyed hash over both.
    fn nonce(&self, issued: u64, salt: u64) -> String {
        let text = format!("{issued:016x}{salt:016x}");
        // A key of any length is good for HMAC, so this cannot fail.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(self.key.as_slice()) else {
            return text;
        };
        mac.update(text.as_bytes());
        let tag = hex(&mac.finalize().into_bytes());
        format!("{text}{}", tag.get(..32).unwrap_or_default())
    }

    /// When a nonce was issued, if it is ours.
    fn issue_time(&self, nonce: &str) -> Option<u64> {
        let issued = u64::from_str_radix(nonce.get(..16)?, 16).ok()?;
        let salt = u64::from_str_radix(nonce.get(16..32)?, 16).ok()?;
        let genuine: bool = self
            .nonce(issued, salt)
            .as_bytes()
            .ct_eq(nonce.as_bytes())
            .into();
        genuine.then_some(issued)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SeededRandom;

    struct World {
        server: Authenticator,
        random: SeededRandom,
        now: Instant,
    }

    impl World {
        fn new() -> Self {
            let now = Instant::now();
            let mut random = SeededRandom::new(7);
            let users = Users::parse("# ours\n\nalice:wonder\n").unwrap();
            let lifetime = Authenticator::NONCE_LIFETIME;
            let server = Authenticator::new(now, "home", users, lifetime, &mut random);
            Self {
                server,
                random,
                now,
            }
        }

        fn judge(&mut self, authorization: Option<&str>) -> Verdict {
            let values = authorization.into_iter();
            let request = ("REGISTER", "sip:home");
            self.server
                .judge(self.now, request, values, &mut self.random)
        }

        fn challenge(&mut self) -> Challenge {
            match self.judge(None) {
                Verdict::Challenge(list) => list.into_iter().next().unwrap(),
                other @ (Verdict::Accepted(_) | Verdict::Refused) => panic!("{other:?}"),
            }
        }
    }

    fn answer(challenge: &Challenge, user: &str, password: &str, count: u32) -> String {
        let secret = Secret::new(password);
        let request = ("REGISTER", "sip:home");
        Credentials::answer(challenge, (user, &secret), request, "c", count).to_string()
    }

    fn is_stale(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Challenge(list) if list.iter().all(|c| c.stale))
    }

    #[test]
    fn the_right_password_is_accepted_and_a_replay_is_not() {
        let mut world = World::new();
        let challenge = world.challenge();
        assert_eq!(challenge.algorithm, Algorithm::Sha256, "strongest first");
        let first = answer(&challenge, "alice", "wonder", 1);
        let accepted = Verdict::Accepted("alice".into());
        assert_eq!(world.judge(Some(&first)), accepted);
        assert!(is_stale(&world.judge(Some(&first))));
        let second = answer(&challenge, "alice", "wonder", 2);
        assert_eq!(world.judge(Some(&second)), accepted);
    }

    #[test]
    fn wrong_credentials_are_refused_alike() {
        let mut world = World::new();
        let challenge = world.challenge();
        for (user, password) in [("alice", "wrong"), ("bob", "wonder"), ("bob", "")] {
            let wrong = answer(&challenge, user, password, 1);
            assert_eq!(world.judge(Some(&wrong)), Verdict::Refused);
        }
        let no_qop = Challenge {
            qop_auth: false,
            ..challenge
        };
        let wrong = answer(&no_qop, "alice", "wonder", 1);
        assert_eq!(world.judge(Some(&wrong)), Verdict::Refused);
    }

    #[test]
    fn an_old_nonce_is_stale_and_a_foreign_one_is_asked_again() {
        let mut world = World::new();
        let challenge = world.challenge();
        let good = answer(&challenge, "alice", "wonder", 1);
        world.now += Authenticator::NONCE_LIFETIME + Duration::from_millis(1);
        assert!(is_stale(&world.judge(Some(&good))));
        let foreign = Challenge {
            nonce: "0".repeat(64),
            ..challenge
        };
        let wrong = answer(&foreign, "alice", "wrong", 1);
        let Verdict::Challenge(list) = world.judge(Some(&wrong)) else {
            panic!("not challenged");
        };
        assert!(!list[0].stale);
    }

    #[test]
    fn the_table_of_used_nonces_is_bounded() {
        let mut world = World::new();
        let oldest = world.challenge();
        let first = answer(&oldest, "alice", "wonder", 1);
        assert!(matches!(world.judge(Some(&first)), Verdict::Accepted(_)));
        for _ in 0..Authenticator::MAX_USED {
            world.now += Duration::from_millis(1);
            let challenge = world.challenge();
            let good = answer(&challenge, "alice", "wonder", 1);
            assert!(matches!(world.judge(Some(&good)), Verdict::Accepted(_)));
        }
        assert_eq!(world.server.used.len(), Authenticator::MAX_USED);
        assert!(
            is_stale(&world.judge(Some(&first))),
            "no replay by overflow"
        );
    }

    #[test]
    fn user_lists_say_which_line_is_wrong() {
        assert_eq!(Users::parse("a:b\nc").unwrap_err(), 2);
        assert_eq!(Users::parse(":b").unwrap_err(), 1);
        assert!(Users::parse("").unwrap().is_empty());
        assert!(!format!("{:?}", Users::parse("a:hidden")).contains("hidden"));
    }
}
