//! The invariants that every world is held to, whatever its links do.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tsc_csm::server::{Event, SessionId, Verdict};
use tsc_csm::{Prefix, ServiceGrant};
use tsc_tpl::{CmType, ControlMessage, Limits, Sequence, ServiceType, TlvType, Tsid, Unit};

/// Answers that are compared; the oldest are forgotten.
const REMEMBERED_ANSWERS: usize = 4096;

/// Watches one server. Panics, naming the seed, as soon as an invariant is broken.
#[derive(Debug)]
pub struct Watch {
    seed: u64,
    quarantine: Duration,
    held: BTreeMap<IpAddr, SessionId>,
    resting: BTreeMap<IpAddr, Instant>,
    owners: BTreeMap<SessionId, Vec<IpAddr>>,
    /// Whose they are.
    companions: BTreeMap<SessionId, SessionId>,
    /// Prefixes behind tunnels.
    routed: BTreeMap<Prefix, SessionId>,
    tsids: BTreeSet<Tsid>,
    answers: BTreeMap<AnswerKey, (Instant, Bytes)>,
    order: VecDeque<AnswerKey>,
}

/// Names an answer: who asked, what, and in which transaction.
type AnswerKey = (Tsid, u8, u32);

impl Watch {
    /// A watch over a server with this quarantine.
    #[must_use]
    pub const fn new(seed: u64, quarantine: Duration) -> Self {
        Self {
            seed,
            quarantine,
            held: BTreeMap::new(),
            resting: BTreeMap::new(),
            owners: BTreeMap::new(),
            companions: BTreeMap::new(),
            routed: BTreeMap::new(),
            tsids: BTreeSet::new(),
            answers: BTreeMap::new(),
            order: VecDeque::new(),
        }
    }

    /// An event of the server.
    ///
    /// # Panics
    ///
    /// If an address is given to two tunnels at once or before its quarantine is over, a TSID a second time, or a
    /// prefix while it overlaps another or after its tunnel's end.
    pub fn event(&mut self, now: Instant, event: &Event) {
        let seed = self.seed;
        match event {
            Event::SessionUp {
                session,
                tsid,
                addresses,
                ..
            } => {
                assert!(
                    tsid.is_assignable(),
                    "seed {seed}: {tsid} must not be assigned"
                );
                assert!(
                    self.tsids.insert(*tsid),
                    "seed {seed}: {tsid} was assigned twice"
                );
                assert!(
                    !addresses.is_empty(),
                    "seed {seed}: a tunnel without an address"
                );
                for address in addresses {
                    let other = self.held.insert(*address, *session);
                    assert_eq!(
                        other, None,
                        "seed {seed}: {address} was given to two tunnels"
                    );
                    let rested = self
                        .resting
                        .remove(address)
                        .is_none_or(|until| until <= now);
                    assert!(
                        rested,
                        "seed {seed}: {address} was given out during its quarantine"
                    );
                }
                self.owners.insert(*session, addresses.clone());
            }
            Event::CompanionUp {
                session, companion, ..
            } => {
                assert!(
                    self.owners.contains_key(session),
                    "seed {seed}: a companion of no tunnel"
                );
                let other = self.companions.insert(*companion, *session);
                assert_eq!(other, None, "seed {seed}: {companion:?} began twice");
            }
            Event::CompanionDown {
                session,
                companion,
                tsid,
                ..
            } => {
                // One that was not confirmed may be reserved again.
                self.tsids.remove(tsid);
                let main = self.companions.remove(companion);
                assert_eq!(
                    main,
                    Some(*session),
                    "seed {seed}: {companion:?} was not its"
                );
            }
            Event::SessionDown { session, .. } => {
                assert!(
                    !self.companions.values().any(|main| main == session),
                    "seed {seed}: {session:?} is over and has a companion"
                );
                let addresses = self.owners.remove(session);
                assert!(
                    addresses.is_some(),
                    "seed {seed}: {session:?} ended twice or never began"
                );
                for address in addresses.into_iter().flatten() {
                    self.held.remove(&address);
                    self.resting.insert(address, now + self.quarantine);
                }
                assert!(
                    !self.routed.values().any(|holder| holder == session),
                    "seed {seed}: {session:?} is over and has prefixes behind it"
                );
            }
            Event::ServiceGranted { session, grant } => self.granted(*session, grant),
            Event::ServiceEnded { session, grant } => {
                for prefix in prefixes(grant) {
                    let holder = self.routed.remove(prefix);
                    assert_eq!(
                        holder,
                        Some(*session),
                        "seed {seed}: {prefix} was not behind it"
                    );
                }
            }
            _ => {}
        }
    }

    fn granted(&mut self, session: SessionId, grant: &ServiceGrant) {
        let seed = self.seed;
        assert!(
            self.owners.contains_key(&session) || self.companions.contains_key(&session),
            "seed {seed}: {grant} for no tunnel"
        );
        for prefix in prefixes(grant) {
            let other = self.routed.keys().find(|other| other.overlaps(prefix));
            assert_eq!(other, None, "seed {seed}: {prefix} overlaps another grant");
            let address = self.held.keys().find(|address| prefix.contains(**address));
            assert_eq!(
                address, None,
                "seed {seed}: {prefix} holds a tunnel's address"
            );
            self.routed.insert(*prefix, session);
        }
    }

    /// A message that the server sends.
    ///
    /// # Panics
    ///
    /// If it is not a valid message, is too long for a datagram, or if it answers a request that was answered
    /// differently before.
    pub fn transmit(&mut self, now: Instant, bytes: &Bytes) {
        let seed = self.seed;
        let unit = Unit::decode_datagram(bytes, &Limits::WIDEST);
        let Ok(Unit::Control(message)) = unit else {
            panic!("seed {seed}: the server sent what is no control message: {unit:?}");
        };
        let header = message.header();
        assert!(
            bytes.len() <= 1200,
            "seed {seed}: {message} has {} bytes",
            bytes.len()
        );
        if header.cm_type.is_known() {
            assert!(
                message.parse().is_ok(),
                "seed {seed}: the server sent {message}"
            );
        }
        // A refusal of a stranger keeps no memory, and a later repeat may be granted; but what was granted once
        // stays so. Keepalive_Responses carry what the server sees at the time.
        let granted = message.raw_value(TlvType::RESPONSE_CODE) == Some(&[0, 0]);
        let service = matches!(
            header.cm_type,
            CmType::SERVICE_RESPONSE | CmType::CLIENT_SERVICE_RESPONSE
        );
        if header.cm_type == CmType::KEEPALIVE_RESPONSE || !(granted || service) {
            return;
        }
        let key = (header.tsid, header.cm_type.0, header.sequence.0);
        match self.answers.get(&key) {
            Some((at, before)) if now - *at <= Duration::from_secs(32) => {
                assert_eq!(
                    before, bytes,
                    "seed {seed}: two answers to one request: {message}"
                );
            }
            _ => {
                self.answers.insert(key, (now, bytes.clone()));
                self.order.push_back(key);
                if self.order.len() > REMEMBERED_ANSWERS
                    && let Some(oldest) = self.order.pop_front()
                {
                    self.answers.remove(&oldest);
                }
            }
        }
    }

    /// A request was handled: unless it was dropped, its answer must be among `sent`, once.
    ///
    /// # Panics
    ///
    /// If a request was accepted and not answered, or answered twice.
    pub fn answered(
        &self,
        request: &ControlMessage<'_>,
        verdict: Verdict,
        sent: &[(CmType, Sequence)],
    ) {
        let header = request.header();
        let Some(answer) = header.cm_type.response() else {
            return;
        };
        // What another client has to answer comes later.
        let is_brokered = request
            .parse()
            .is_ok_and(|request| request.service_type() == Some(ServiceType::ENABLE_PEER));
        if verdict == Verdict::Consumed && !is_brokered {
            let wanted = (answer, header.sequence);
            let found = sent.iter().filter(|sent| **sent == wanted).count();
            assert_eq!(
                found, 1,
                "seed {}: not one answer to {request}, but {sent:?}",
                self.seed
            );
        }
    }
}

fn prefixes(grant: &ServiceGrant) -> &[Prefix] {
    match grant {
        ServiceGrant::RoutedPrefixes(prefixes) => prefixes,
        _ => &[],
    }
}
