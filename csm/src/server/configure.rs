//! Making tunnels: the checks of a Configuration_Request, in order, and what a success gives.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tsc_tpl::registry::{MIN_INNER_MTU_IPV4, MIN_INNER_MTU_IPV6, PROTOCOL_REVISION};
use tsc_tpl::{
    CmType, ControlMessage, Family, Header, Message, MessageError, ResponseCode, Sequence,
    ServiceType, TlvType, Tsid,
};

use super::Server;
use super::arena::Key;
use super::binding::{Attachment, Binding};
use super::common::Account;
use super::config::{AuthPolicy, Identity, RedirectPolicy};
use super::event::{BindingId, CloseReason, Destination, Event, ListenerId, SessionId, Shard};
use super::family::Membership;
use super::offers::Offers;
use super::pool::Lease;
use super::rate::SourcePrefix;
use super::session::{Life, Session};
use crate::secret::Key32;
use crate::transaction::Inbox;
use crate::transport::Transport;
use crate::wire::{self, Grant, RefusalDetails};

/// How often a TSID is drawn. With 54 random bits a second draw is a rarity, a sixteenth a broken generator.
const TSID_DRAWS: u32 = 16;

/// What a tunnel is made of.
#[derive(Debug)]
pub(super) struct Founding {
    pub(super) tsid: Tsid,
    /// The name that it is to have, of [`Server::next_owner`].
    pub(super) owner: SessionId,
    pub(super) sequence: Sequence,
    pub(super) identity: Option<Identity>,
    pub(super) prefix: SourcePrefix,
    pub(super) leases: Box<[Lease]>,
    pub(super) inner_mtu: u16,
    /// The client lets others ask for peer tunnels.
    pub(super) takes_peers: bool,
    pub(super) offers: Arc<Offers>,
    /// Of a companion.
    pub(super) main: Option<Membership>,
}

/// Where a request that may make or move a tunnel came from.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub(super) interface: usize,
    pub(super) transport: Transport,
    pub(super) peer: SocketAddr,
    pub(super) route: Route,
    /// Who the transport says the client is.
    pub(super) identity: Option<Identity>,
}

/// What will carry the tunnel.
#[derive(Clone, Copy, Debug)]
pub(super) enum Route {
    /// A stream or DTLS association that waits for its tunnel.
    Connection(BindingId),
    /// An address on a plain UDP socket, proved by a cookie; perhaps one that carries another tunnel so far.
    Udp(ListenerId),
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The tunnel is bound to this.
    Accepted(BindingId),
    /// The client was told why not.
    Refused,
    /// The client was told what is wrong with its message.
    Malformed(MessageError),
    /// Too many have to be told: nobody was.
    Ignored,
    /// The tunnel lives in this shard, which has to answer.
    Elsewhere(Shard),
}

impl Origin {
    pub(super) fn destination(&self) -> Destination {
        match self.route {
            Route::Connection(binding) => Destination::Connection(binding),
            Route::Udp(listener) => Destination::Udp {
                listener,
                peer: self.peer,
            },
        }
    }

    fn prefix(&self) -> SourcePrefix {
        SourcePrefix::of(self.peer.ip())
    }
}

impl Server {
    /// Answers a Configuration_Request and, if it can be granted, makes the tunnel.
    pub(super) fn configure(
        &mut self,
        now: Instant,
        origin: &Origin,
        raw: &ControlMessage<'_>,
    ) -> Outcome {
        let made = match raw.raw_value(TlvType::TUNNEL_SESSION_ID) {
            Some(_) => self.claim(now, origin, raw),
            None => self.try_configure(now, origin, raw),
        };
        match made {
            Ok((session, binding)) => {
                self.stats.configured += 1;
                self.answer_configured(now, session, binding, raw.header().sequence);
                Outcome::Accepted(binding)
            }
            Err(denied) => self.deny(now, origin, raw, denied),
        }
    }

    /// Tells the client why its request for a tunnel is not granted.
    pub(super) fn deny(
        &mut self,
        now: Instant,
        origin: &Origin,
        raw: &ControlMessage<'_>,
        denied: Denied,
    ) -> Outcome {
        match denied {
            Denied::Message(error) => {
                self.stats.message_errors += 1;
                self.refuse_message(origin, raw, &error);
                Outcome::Malformed(error)
            }
            Denied::Code(code) => {
                self.refuse(origin, &raw.header(), code);
                Outcome::Refused
            }
            Denied::RateLimited | Denied::Busy => self.refuse_flood(now, origin, &raw.header()),
            Denied::Elsewhere(shard) => Outcome::Elsewhere(shard),
        }
    }

    /// What every request for a tunnel must pass: the limits, the rules of its message, a common revision.
    pub(super) fn admit_request<'a>(
        &mut self,
        now: Instant,
        origin: &Origin,
        raw: &ControlMessage<'a>,
    ) -> Result<Message<'a>, Denied> {
        self.admit(now, origin)?;
        let message = raw.parse()?;
        if message.protocol_revision() < Some(PROTOCOL_REVISION) {
            return Err(Denied::Code(ResponseCode::UNSUPPORTED_VERSION));
        }
        Ok(message)
    }

    fn try_configure(
        &mut self,
        now: Instant,
        origin: &Origin,
        raw: &ControlMessage<'_>,
    ) -> Result<(Key, BindingId), Denied> {
        let message = self.admit_request(now, origin, raw)?;
        self.admit_newcomer(now, origin)?;
        let identity = self.authenticate(origin, &message)?;
        // A tag by itself is for a peer's tunnel, not for ours (spec 7).
        if message.tunnel_tag().is_some() {
            return Err(Denied::Code(ResponseCode::NOT_AUTHORIZED));
        }
        let interface = self
            .config
            .interfaces
            .get(origin.interface)
            .ok_or(ResponseCode::NO_RESOURCES)?;
        let redirect = interface.redirect;
        if redirect == RedirectPolicy::Always {
            return Err(Denied::Code(ResponseCode::REDIRECT));
        }
        let granted = self.grant(now, origin, &message, identity);
        if granted.is_ok() {
            self.load.admitted(now);
        }
        granted.map_err(|code| match redirect {
            RedirectPolicy::WhenFull => Denied::Code(ResponseCode::REDIRECT),
            RedirectPolicy::Never | RedirectPolicy::Always => Denied::Code(code),
        })
    }

    /// Overload and stops: said before any work is done.
    fn admit(&mut self, now: Instant, origin: &Origin) -> Result<(), Denied> {
        if self.stop.is_some() {
            return Err(Denied::Code(ResponseCode::BUSY));
        }
        if !self
            .common
            .within_rate(now, origin.interface, origin.prefix())
        {
            self.stats.rate_limited += 1;
            return Err(Denied::RateLimited);
        }
        Ok(())
    }

    /// While there is more to do than can be done, or the server is being drained, those who have no tunnel yet are sent away.
    fn admit_newcomer(&mut self, now: Instant, origin: &Origin) -> Result<(), Denied> {
        let overloaded = !self.load.admits(now);
        let Some(redirect) = self.turns_away(origin.interface, overloaded) else {
            return Ok(());
        };
        self.stats.turned_away += 1;
        Err(match redirect {
            RedirectPolicy::WhenFull | RedirectPolicy::Always => {
                Denied::Code(ResponseCode::REDIRECT)
            }
            RedirectPolicy::Never => Denied::Busy,
        })
    }

    /// `busy` for a request beyond its source's rate, or when there is too much to do. It must not become a flood of its
    /// own: no event tells of it, and on plain UDP it counts as an answer to a stranger.
    fn refuse_flood(&mut self, now: Instant, origin: &Origin, header: &Header) -> Outcome {
        self.stats.refused += 1;
        if matches!(origin.route, Route::Udp(_)) && !self.stateless_allowed(now) {
            return Outcome::Ignored;
        }
        let details = RefusalDetails {
            retry_after: Some(self.config.limits.retry_after),
            ..RefusalDetails::default()
        };
        if let Some(bytes) = wire::refusal(header, ResponseCode::BUSY, &details) {
            self.transmit(origin.destination(), bytes);
        }
        Outcome::Refused
    }

    /// Who the client is, by the interface's policy (spec 8.4).
    pub(super) fn authenticate(
        &self,
        origin: &Origin,
        message: &Message<'_>,
    ) -> Result<Option<Identity>, Denied> {
        let interface = self
            .config
            .interfaces
            .get(origin.interface)
            .ok_or(ResponseCode::NOT_AUTHORIZED)?;
        let identity = match &interface.auth {
            AuthPolicy::None => return Ok(None),
            AuthPolicy::Mtls => origin.identity.clone(),
            AuthPolicy::Token(verifier) => {
                let usable = origin.transport.is_protected() || interface.token_in_clear;
                message
                    .auth_token()
                    .filter(|_| usable)
                    .and_then(|token| verifier.verify(token.expose()))
            }
        };
        identity
            .map(Some)
            .ok_or(Denied::Code(ResponseCode::NOT_AUTHORIZED))
    }

    /// Takes what the tunnel needs, or nothing.
    fn grant(
        &mut self,
        now: Instant,
        origin: &Origin,
        message: &Message<'_>,
        identity: Option<Identity>,
    ) -> Result<(Key, BindingId), ResponseCode> {
        let tsid = self.draw_tsid().ok_or(ResponseCode::NO_RESOURCES)?;
        let owner = self.next_owner()?;
        let interface = self
            .config
            .interfaces
            .get(origin.interface)
            .ok_or(ResponseCode::NO_RESOURCES)?;
        let prefix = origin.prefix();
        let account = Account {
            interface: origin.interface,
            prefix,
            identity: identity.as_ref(),
        };
        let wishes = wishes(message);
        let leases = self
            .common
            .take(now, &self.config, account, &wishes, owner)?;
        let v6 = leases.iter().any(|lease| lease.address.is_ipv6());
        let wish = message.inner_mtu().unwrap_or(interface.inner_mtu);
        let inner_mtu = wish
            .max(if v6 {
                MIN_INNER_MTU_IPV6
            } else {
                MIN_INNER_MTU_IPV4
            })
            .min(interface.inner_mtu);
        let takes_peers = message.supported_services().is_some_and(|listed| {
            listed
                .iter()
                .any(|service| service == ServiceType::ENABLE_PEER)
        });
        let offers = self.offers.get(origin.interface);
        let offers = offers.ok_or(ResponseCode::NO_RESOURCES)?.current();
        self.found(
            now,
            origin,
            Founding {
                takes_peers,
                offers,
                tsid,
                owner,
                sequence: message.header().sequence,
                identity,
                prefix,
                leases: leases.into(),
                inner_mtu,
                main: None,
            },
        )
    }

    /// Makes a tunnel of what was taken for it, and binds it to where its request came from.
    pub(super) fn found(
        &mut self,
        now: Instant,
        origin: &Origin,
        founding: Founding,
    ) -> Result<(Key, BindingId), ResponseCode> {
        let interface = self
            .config
            .interfaces
            .get(origin.interface)
            .ok_or(ResponseCode::NO_RESOURCES)?;
        let timers = interface.timers(origin.transport.is_stream());
        let Founding {
            tsid,
            owner,
            sequence,
            identity,
            prefix,
            leases,
            inner_mtu,
            takes_peers,
            offers,
            main,
        } = founding;
        let mut inbox = Inbox::default();
        inbox.see(sequence);
        let resume_key = Key32::random(&mut self.random);
        let next_sequence = Sequence(self.random.u32());
        let make = |_| Session {
            id: owner,
            tsid,
            interface: origin.interface,
            offers,
            protected: origin.transport.is_protected(),
            identity,
            prefix,
            leases,
            main,
            services: None,
            inner_mtu,
            resume_key,
            resume_counter: None,
            configured_by: sequence,
            resumed_by: None,
            inbox,
            next_sequence,
            binding: None,
            confirmed: false,
            created: now,
            last_activity: now,
            timers: timers.into(),
            life: Life::Active,
            armed: None,
            takes_peers,
        };
        let key = self
            .sessions
            .insert_with(make)
            .ok_or(ResponseCode::NO_RESOURCES)?;
        self.directory.insert(tsid, key);
        let Some(binding) = self.attach(now, origin, key) else {
            self.close_session(now, key, super::DownReason::Unconfirmed);
            return Err(ResponseCode::NO_RESOURCES);
        };
        Ok((key, binding))
    }

    /// The name of the tunnel that is made next.
    pub(super) fn next_owner(&self) -> Result<SessionId, ResponseCode> {
        let key = self.sessions.vacant_key();
        key.filter(|(index, _)| *index < SessionId::MOST)
            .map(|key| self.session_id(key))
            .ok_or(ResponseCode::NO_RESOURCES)
    }

    /// A TSID that is free, and whose home is this shard.
    pub(super) fn draw_tsid(&mut self) -> Option<Tsid> {
        (0..TSID_DRAWS * u32::from(self.shards)).find_map(|_| {
            let tsid = Tsid::assign(self.config.element_id, self.random.u64())?;
            let taken = self.directory.contains_key(&tsid) || self.reserved.contains_key(&tsid);
            (self.home(tsid) == self.shard && !taken).then_some(tsid)
        })
    }

    /// The shard where a tunnel of this name lives, if it does.
    pub(super) const fn home(&self, tsid: Tsid) -> Shard {
        // Low bits: the generator is sound, and the element id is high. A remainder fits where its divisor does.
        let [.., home] = (tsid.0 % self.shards as u64).to_be_bytes();
        home
    }

    /// Binds a tunnel to where its request came from. What it was bound to before is closed, and a tunnel that
    /// the address carried before is left without a transport.
    pub(super) fn attach(&mut self, now: Instant, origin: &Origin, key: Key) -> Option<BindingId> {
        if let Some(old) = self.sessions.get_mut(key)?.binding.take() {
            self.remove_binding(old);
            self.events.push_back(Event::CloseBinding {
                binding: old,
                reason: CloseReason::Superseded,
            });
        }
        let id = match origin.route {
            Route::Connection(id) => {
                let binding = self.bindings.get_mut(id.key())?;
                let before = std::mem::replace(&mut binding.attachment, Attachment::Session(key));
                if let Attachment::Pending { mut armed, .. } = before {
                    self.deadlines
                        .arm(super::Waiting::Binding(id.key()), &mut armed, None);
                    self.no_longer_pending(origin.prefix());
                }
                id
            }
            Route::Udp(listener) => {
                if let Some(old) = self.lookup(listener, origin.peer) {
                    let _ = self.close_binding(now, old, CloseReason::AddressReused);
                }
                let local = self.listeners.get(listener.index())?.local;
                let make = |_| Binding {
                    interface: origin.interface,
                    transport: origin.transport,
                    peer: origin.peer,
                    local,
                    listener: Some(listener),
                    identity: None,
                    message_errors: 0,
                    attachment: Attachment::Session(key),
                };
                let id = BindingId::from_key(self.bindings.insert_with(make)?);
                self.addresses.insert((listener, origin.peer), id);
                id
            }
        };
        let timers = self
            .config
            .interfaces
            .get(origin.interface)?
            .timers(origin.transport.is_stream());
        let session = self.sessions.get_mut(key)?;
        session.binding = Some(id);
        session.timers = timers.into();
        session.last_activity = now;
        self.restart_keepalive(now, key);
        self.peers_rebound(now, key, origin.transport.is_stream());
        Some(id)
    }

    /// The Configuration_Response, remembered for repeats of its request.
    fn answer_configured(
        &mut self,
        now: Instant,
        key: Key,
        binding: BindingId,
        sequence: Sequence,
    ) {
        let answer = CmType::CONFIGURATION_RESPONSE;
        let Some(bytes) = self.describe(key, binding, answer, sequence) else {
            return;
        };
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        session.inbox.remember(now, sequence, answer, &bytes);
        tracing::debug!(tsid = %session.tsid, main = ?session.main, "tunnel configured");
        if session.has_own_addresses() {
            self.events.push_back(Event::SessionUp {
                session: session.id,
                binding,
                tsid: session.tsid,
                addresses: session.leases.iter().map(|lease| lease.address).collect(),
                identity: session.identity.clone(),
            });
        }
        if let (Some(membership), Some(main)) = (session.main, session.main_id()) {
            self.events.push_back(Event::CompanionUp {
                session: main,
                companion: session.id,
                role: membership.role,
                binding,
                tsid: session.tsid,
            });
        }
        self.transmit_over(binding, bytes);
        self.arm_session(key);
    }

    /// A successful response: all that the client is to know about its tunnel.
    pub(super) fn describe(
        &self,
        key: Key,
        binding: BindingId,
        answer: CmType,
        sequence: Sequence,
    ) -> Option<Bytes> {
        let session = self.sessions.get(key)?;
        let binding = self.bindings.get(binding.key())?;
        let interface = self.config.interfaces.get(session.interface)?;
        let configured = answer == CmType::CONFIGURATION_RESPONSE;
        let active = session.services.as_ref();
        let active = active.map_or_else(Vec::new, |services| services.active());
        wire::grant(&Grant {
            answer,
            tsid: session.tsid,
            sequence,
            leases: &session.leases,
            timers: session.timers(),
            resume_key: configured.then_some(&session.resume_key),
            active_services: (!configured).then_some(&active),
            inner_mtu: session.inner_mtu,
            interface,
            offers: &session.offers,
            peer: binding.peer,
        })
    }

    /// Refuses a request that could be read.
    fn refuse(&mut self, origin: &Origin, header: &Header, code: ResponseCode) {
        self.stats.refused += 1;
        let retry_after = matches!(code, ResponseCode::BUSY | ResponseCode::NO_RESOURCES)
            .then_some(self.config.limits.retry_after);
        let alternates = match (code, self.config.interfaces.get(origin.interface)) {
            (ResponseCode::REDIRECT, Some(interface)) => interface.alternates.as_slice(),
            _ => &[],
        };
        let details = RefusalDetails {
            retry_after,
            alternates,
            ..RefusalDetails::default()
        };
        let bytes = wire::refusal(header, code, &details);
        self.send_refusal(origin, header.sequence, code, bytes);
    }

    /// Refuses a request that breaks a rule.
    fn refuse_message(&mut self, origin: &Origin, raw: &ControlMessage<'_>, error: &MessageError) {
        let bytes = wire::refuse_message(&raw.header(), error);
        self.send_refusal(origin, raw.header().sequence, error.response_code(), bytes);
    }

    fn send_refusal(
        &mut self,
        origin: &Origin,
        sequence: Sequence,
        code: ResponseCode,
        bytes: Option<Bytes>,
    ) {
        let Some(bytes) = bytes else {
            return;
        };
        // Streams repeat nothing, and plain UDP keeps nothing for those who have no tunnel.
        if let Route::Connection(id) = origin.route
            && !origin.transport.is_stream()
            && let Some(binding) = self.bindings.get_mut(id.key())
            && let Attachment::Pending { refused, .. } = &mut binding.attachment
        {
            *refused = Some(Box::new((sequence, bytes.clone())));
        }
        self.events.push_back(Event::Refused {
            peer: origin.peer,
            code,
        });
        self.transmit(origin.destination(), bytes);
    }
}

/// What was wished for; without a wish one address of each family that the interface has.
fn wishes(message: &Message<'_>) -> Vec<(Family, u8)> {
    let wishes = wire::address_wishes(message);
    if wishes.is_empty() {
        return vec![(Family::Ipv4, 1), (Family::Ipv6, 1)];
    }
    wishes
}

/// Why a request is not granted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Denied {
    Message(MessageError),
    Code(ResponseCode),
    /// Beyond the rate of its source.
    RateLimited,
    /// Overload, or the server is being drained.
    Busy,
    /// That is for this shard to say.
    Elsewhere(Shard),
}

impl From<MessageError> for Denied {
    fn from(error: MessageError) -> Self {
        Self::Message(error)
    }
}

impl From<ResponseCode> for Denied {
    fn from(code: ResponseCode) -> Self {
        Self::Code(code)
    }
}
