//! Where users can be reached: bindings of an address of record to contacts (RFC 3261 10.3).

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::sip::{Contacts, HeaderName, NameAddr, Request, Response, StatusCode};

/// Limits of a registrar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegistrarConfig {
    /// Shortest registration taken; shorter wishes get 423.
    pub min_expires: u32,
    /// Registration of a request that names no time.
    pub default_expires: u32,
    /// Longest registration; longer wishes are cut.
    pub max_expires: u32,
    /// Users at a time.
    pub max_users: usize,
    /// Contacts of one user. One more takes the place of the one whose registration is the oldest: a phone that
    /// restarts at a new address and never removes the old one must not lock its user out. A single request with more
    /// contacts than this gets 503.
    pub max_contacts: usize,
}

impl Default for RegistrarConfig {
    fn default() -> Self {
        Self {
            min_expires: 30,
            default_expires: 3600,
            max_expires: 3600,
            max_users: 100_000,
            max_contacts: 8,
        }
    }
}

#[derive(Clone, Debug)]
struct Binding {
    contact: NameAddr,
    expires_at: Instant,
    call_id: String,
    cseq: u32,
}

/// All bindings. Sans-IO.
#[derive(Debug, Default)]
pub struct Registrar {
    config: RegistrarConfig,
    users: BTreeMap<String, Vec<Binding>>,
}

impl Registrar {
    /// An empty registrar.
    #[must_use]
    pub const fn new(config: RegistrarConfig) -> Self {
        Self {
            config,
            users: BTreeMap::new(),
        }
    }

    /// Takes a REGISTER for a user that was authenticated, all or nothing, and answers it.
    pub fn register(&mut self, now: Instant, user: &str, request: &Request, tag: &str) -> Response {
        self.expire(now);
        let bindings = self.users.get(user).cloned().unwrap_or_default();
        let mut response = match self.change(now, bindings, request) {
            Ok(bindings) => {
                let mut response = request.response(StatusCode::OK, tag);
                response.head.contacts = Contacts::List(listed(now, &bindings));
                if bindings.is_empty() {
                    self.users.remove(user);
                } else {
                    self.users.insert(user.to_owned(), bindings);
                }
                response
            }
            Err(status) => request.response(status, tag),
        };
        if response.status == StatusCode::INTERVAL_TOO_BRIEF {
            let least = self.config.min_expires.to_string();
            response.head.push(HeaderName::MinExpires, least);
        }
        response
    }

    fn change(
        &self,
        now: Instant,
        mut bindings: Vec<Binding>,
        request: &Request,
    ) -> Result<Vec<Binding>, StatusCode> {
        let head = &request.head;
        let is_old = |b: &Binding| b.call_id == head.call_id && b.cseq >= head.cseq.number;
        let contacts = match &head.contacts {
            Contacts::All if head.expires() == Some(0) => {
                // Step 6: an old request may not remove what a newer one made.
                return match bindings.iter().any(is_old) {
                    true => Err(StatusCode::SERVER_INTERNAL_ERROR),
                    false => Ok(Vec::new()),
                };
            }
            Contacts::All => return Err(StatusCode::BAD_REQUEST),
            Contacts::List(list) => list,
        };
        if bindings.is_empty() && !contacts.is_empty() && self.users.len() >= self.config.max_users
        {
            return Err(StatusCode::SERVICE_UNAVAILABLE);
        }
        for contact in contacts {
            let wish = contact.params.value("expires").map(str::parse);
            let expires = match wish {
                // A malformed value counts as the default (20.19).
                Some(value) => value.unwrap_or(self.config.default_expires),
                None => head.expires().unwrap_or(self.config.default_expires),
            };
            if expires != 0 && expires < self.config.min_expires {
                return Err(StatusCode::INTERVAL_TOO_BRIEF);
            }
            let at = bindings.iter().position(|b| b.contact.uri == contact.uri);
            if at.and_then(|at| bindings.get(at)).is_some_and(is_old) {
                return Err(StatusCode::SERVER_INTERNAL_ERROR);
            }
            if let Some(at) = at {
                bindings.remove(at);
            }
            if expires == 0 {
                continue;
            }
            if bindings.len() >= self.config.max_contacts {
                // Each renewal moves a binding to the end, so the first is the oldest.
                let of_this_request =
                    |b: &Binding| b.call_id == head.call_id && b.cseq == head.cseq.number;
                let oldest = bindings.iter().position(|b| !of_this_request(b));
                let oldest = oldest.ok_or(StatusCode::SERVICE_UNAVAILABLE)?;
                let gone = bindings.remove(oldest);
                tracing::info!(contact = %gone.contact.uri, "oldest contact replaced");
            }
            let expires = expires.min(self.config.max_expires);
            bindings.push(Binding {
                contact: contact.clone(),
                expires_at: now + Duration::from_secs(expires.into()),
                call_id: head.call_id.clone(),
                cseq: head.cseq.number,
            });
        }
        Ok(bindings)
    }

    /// Current contacts of a user with the seconds that are left.
    #[must_use]
    pub fn lookup(&self, now: Instant, user: &str) -> Vec<NameAddr> {
        let bindings = self.users.get(user).map_or(&[][..], Vec::as_slice);
        listed(now, bindings)
    }

    /// Users with at least one binding.
    #[must_use]
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether nobody is registered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    fn expire(&mut self, now: Instant) {
        self.users.retain(|_, bindings| {
            bindings.retain(|b| b.expires_at > now);
            !bindings.is_empty()
        });
    }
}

fn listed(now: Instant, bindings: &[Binding]) -> Vec<NameAddr> {
    bindings
        .iter()
        .filter(|b| b.expires_at > now)
        .map(|b| {
            let mut contact = b.contact.clone();
            // Rounded up, so that a binding that still lives never shows 0.
            let left = b.expires_at.duration_since(now).as_millis().div_ceil(1000);
            contact.params.set("expires", Some(left.to_string()));
            contact
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::{Method, SipUri};

    fn uri(text: &str) -> SipUri {
        text.parse().unwrap()
    }

    fn register(cseq: u32, contacts: &[&str], expires: Option<u32>) -> Request {
        let alice = NameAddr::new(uri("sip:alice@home"));
        let from = alice.clone().with_tag("f");
        let mut request =
            Request::new(Method::Register, uri("sip:home"), from, alice, "call", cseq);
        request.head.contacts = match contacts {
            ["*"] => Contacts::All,
            list => Contacts::List(list.iter().map(|c| NameAddr::new(uri(c))).collect()),
        };
        if let Some(expires) = expires {
            request.head.push(HeaderName::Expires, expires.to_string());
        }
        request
    }

    #[test]
    fn bindings_live_until_they_expire() {
        let mut registrar = Registrar::default();
        let mut now = Instant::now();
        let request = register(1, &["sip:alice@192.0.2.1", "sip:alice@192.0.2.2"], Some(60));
        let response = registrar.register(now, "alice", &request, "t");
        assert_eq!(response.status, StatusCode::OK);
        assert_eq!(response.head.contacts.list().len(), 2);
        now += Duration::from_millis(59_500);
        let left = registrar.lookup(now, "alice");
        assert_eq!(left[0].params.value("expires"), Some("1"));
        now += Duration::from_millis(500);
        assert!(registrar.lookup(now, "alice").is_empty());
        // A query changes nothing and shows that all is gone.
        let response = registrar.register(now, "alice", &register(2, &[], None), "t");
        assert!(response.head.contacts.list().is_empty());
        assert!(registrar.is_empty());
    }

    #[test]
    fn one_or_all_bindings_can_be_removed() {
        let mut registrar = Registrar::default();
        let now = Instant::now();
        let both = register(1, &["sip:alice@192.0.2.1", "sip:alice@192.0.2.2"], None);
        registrar.register(now, "alice", &both, "t");
        let one = register(2, &["sip:alice@192.0.2.1"], Some(0));
        registrar.register(now, "alice", &one, "t");
        assert_eq!(registrar.lookup(now, "alice").len(), 1);
        let star = register(3, &["*"], None);
        let response = registrar.register(now, "alice", &star, "t");
        assert_eq!(
            response.status,
            StatusCode::BAD_REQUEST,
            "* needs Expires: 0"
        );
        let response = registrar.register(now, "alice", &register(3, &["*"], Some(0)), "t");
        assert_eq!(response.status, StatusCode::OK);
        assert!(registrar.is_empty());
    }

    #[test]
    fn one_contact_too_many_replaces_the_oldest() {
        let config = RegistrarConfig {
            max_contacts: 2,
            ..RegistrarConfig::default()
        };
        let mut registrar = Registrar::new(config);
        let now = Instant::now();
        let contact = |n: u32| format!("sip:alice@192.0.2.{n}");
        // The first is renewed after the second was made, so the second is the oldest.
        for (cseq, n) in [(1, 1), (2, 2), (3, 1), (4, 3)] {
            let request = register(cseq, &[&contact(n)], None);
            let response = registrar.register(now, "alice", &request, "t");
            assert_eq!(response.status, StatusCode::OK, "contact {n}");
        }
        let left = registrar.lookup(now, "alice");
        let left: Vec<String> = left.iter().map(|c| c.uri.to_string()).collect();
        assert_eq!(left, [contact(1), contact(3)]);
        // A request that does not fit as a whole changes nothing.
        let three = [contact(4), contact(5), contact(6)];
        let three = register(5, &[&three[0], &three[1], &three[2]], None);
        let response = registrar.register(now, "alice", &three, "t");
        assert_eq!(response.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(registrar.lookup(now, "alice").len(), 2);
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_and_changes_nothing() {
        let config = RegistrarConfig {
            max_users: 1,
            max_contacts: 1,
            ..RegistrarConfig::default()
        };
        let mut registrar = Registrar::new(config);
        let now = Instant::now();
        let mut ask = |user, request: &Request| registrar.register(now, user, request, "t");
        let brief = ask("alice", &register(1, &["sip:alice@192.0.2.1"], Some(1)));
        assert_eq!(brief.status, StatusCode::INTERVAL_TOO_BRIEF);
        assert_eq!(brief.head.header(&HeaderName::MinExpires), Some("30"));
        let two = register(2, &["sip:alice@192.0.2.1", "sip:alice@192.0.2.2"], None);
        assert_eq!(ask("alice", &two).status, StatusCode::SERVICE_UNAVAILABLE);
        let good = register(3, &["sip:alice@192.0.2.1"], Some(999_999));
        let response = ask("alice", &good);
        let contact = response.head.contacts.first().unwrap();
        assert_eq!(contact.params.value("expires"), Some("3600"), "cut");
        // The same CSeq again is an old request.
        assert_eq!(
            ask("alice", &good).status,
            StatusCode::SERVER_INTERNAL_ERROR
        );
        let other = register(1, &["sip:bob@192.0.2.3"], None);
        assert_eq!(ask("bob", &other).status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(registrar.len(), 1);
    }
}
