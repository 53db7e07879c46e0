//! Companions of a tunnel: reserved, claimed by tag, ended with it (spec 7, "Companions").
//!
//! *Attack*: somebody claims another's companion, or a client reserves without end. *Mechanism*: 128 random bits that are good
//! once, for 30 s, on the reserved kind of transport, for the same identity; one companion of each role for each tunnel, counted
//! by the limits of tunnels from its reservation on. A companion lives in the shard of its main tunnel, so that nothing here
//! crosses shards.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tsc_tpl::{ControlMessage, Family as Ip, ResponseCode, Sequence, TlvType, Tsid};

use super::Server;
use super::arena::Key;
use super::configure::{Denied, Founding, Origin};
use super::event::{BindingId, DownReason, Event, SessionId};
use super::pool::Lease;
use super::session::{Life, Session};
use crate::assignment::Alternate;
use crate::companion::CompanionRole;
use crate::secret::Tag;
use crate::transport::Transport;

/// Most companions of one tunnel, reserved ones included (spec 7).
pub const MAX_COMPANIONS: usize = 4;

/// A reservation lapses after this long (spec 7).
const RESERVED_FOR: Duration = Duration::from_secs(30);

/// A companion that was claimed and is not confirmed after this long, or has no transport and was not heard of for as long, is not
/// its client's any more: whoever asks gets another.
const CLAIMING: Duration = Duration::from_secs(10);

/// What a companion knows of its main tunnel, which lives in the same shard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Membership {
    pub(crate) main: Key,
    pub(crate) role: CompanionRole,
}

/// The companions of a main tunnel: at most one of each role.
#[derive(Debug, Default)]
pub(super) struct Family(Vec<Member>);

#[derive(Debug)]
struct Member {
    role: CompanionRole,
    tsid: Tsid,
    transport: Transport,
    state: State,
}

#[derive(Debug)]
enum State {
    Reserved { tag: Tag, until: Instant },
    Claimed(Key),
}

/// A companion that can be claimed.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) tsid: Tsid,
    pub(super) tag: Tag,
}

impl Member {
    const fn claimed(&self) -> Option<Key> {
        match self.state {
            State::Reserved { .. } => None,
            State::Claimed(key) => Some(key),
        }
    }

    /// When the reservation lapses.
    const fn until(&self) -> Option<Instant> {
        match self.state {
            State::Reserved { until, .. } => Some(until),
            State::Claimed(_) => None,
        }
    }
}

impl Family {
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn find(&mut self, role: CompanionRole) -> Option<&mut Member> {
        self.0.iter_mut().find(|member| member.role == role)
    }

    fn remove(&mut self, role: CompanionRole) -> Option<Member> {
        let place = self.0.iter().position(|member| member.role == role)?;
        Some(self.0.swap_remove(place))
    }

    /// The tunnel of this role, once it was claimed.
    pub(super) fn claimed(&self, role: CompanionRole) -> Option<Key> {
        let member = self.0.iter().find(|member| member.role == role);
        member.and_then(Member::claimed)
    }

    /// Those that were claimed.
    pub(super) fn all_claimed(&self) -> impl Iterator<Item = Key> {
        self.0.iter().filter_map(Member::claimed)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.0.iter().filter_map(Member::until).min()
    }
}

impl Server {
    fn family(&mut self, main: Key) -> Option<&mut Family> {
        let services = self.sessions.get_mut(main)?.services.as_mut()?;
        Some(&mut services.family)
    }

    /// Where a companion is opened, and over what, for a tunnel over `main` that came to `local`; `None` if nobody listens for it, or
    /// there is none beside such a tunnel. The client need not be told of where it is by default.
    pub(super) fn companion_endpoint(
        &self,
        role: CompanionRole,
        interface: usize,
        local: SocketAddr,
        main: Transport,
    ) -> Option<(Transport, Option<SocketAddr>)> {
        let transport = role.transport(main)?;
        let default_port = role.default_port(local.port());
        let endpoints = &self.config.interfaces.get(interface)?.endpoints;
        let local_ip = local.ip().to_canonical();
        // A wildcard of IPv6 takes IPv4 too, unless the operator has split them: then there is one of IPv4.
        let is_here = |listens: &Alternate| {
            let ip = listens.address.ip();
            ip == local_ip || (ip.is_unspecified() && (ip.is_ipv6() || local_ip.is_ipv4()))
        };
        let mut found = endpoints
            .iter()
            .filter(|listens| listens.transport == transport)
            .peekable();
        found.peek()?;
        let mut elsewhere = None;
        for listens in found {
            let address = listens.address;
            if is_here(listens) && Some(address.port()) == default_port {
                return Some((transport, None));
            }
            let address = if is_here(listens) {
                SocketAddr::new(local_ip, address.port())
            } else if address.ip().is_unspecified() {
                continue;
            } else {
                address
            };
            elsewhere.get_or_insert(address);
        }
        Some((transport, Some(elsewhere?)))
    }

    /// Reserves a companion, or finds the one there is: with the right to claim it, unless it is in use.
    pub(super) fn reserve(
        &mut self,
        now: Instant,
        main: Key,
        role: CompanionRole,
        transport: Transport,
    ) -> Result<Option<Offer>, ResponseCode> {
        self.lapse(now, main);
        let claimed = match self.family(main).and_then(|family| family.find(role)) {
            Some(Member {
                tsid,
                state: State::Reserved { tag, .. },
                transport: reserved,
                ..
            }) if *reserved == transport => {
                return Ok(Some(Offer {
                    tsid: *tsid,
                    tag: tag.clone(),
                }));
            }
            Some(member) => member.claimed(),
            None => None,
        };
        if let Some(key) = claimed {
            let reason = self.sessions.get(key).map(|found| unused(now, found));
            match reason {
                Some(None) => return Ok(None),
                Some(Some(reason)) => self.close_session(now, key, reason),
                None => {}
            }
        }
        self.drop_member(now, main, role);
        let tsid = self.draw_tsid().ok_or(ResponseCode::NO_RESOURCES)?;
        let session = self
            .sessions
            .get_mut(main)
            .ok_or(ResponseCode::SERVICE_UNAVAILABLE)?;
        self.common
            .count_reserved(&self.config, session.account())?;
        let tag = Tag::random(&mut self.random);
        self.reserved.insert(tsid, main);
        let family = &mut session.services.get_or_insert_default().family;
        family.0.push(Member {
            role,
            tsid,
            transport,
            state: State::Reserved {
                tag: tag.clone(),
                until: now + RESERVED_FOR,
            },
        });
        Ok(Some(Offer { tsid, tag }))
    }

    /// Makes the companion that a Configuration_Request claims.
    pub(super) fn claim(
        &mut self,
        now: Instant,
        origin: &Origin,
        raw: &ControlMessage<'_>,
    ) -> Result<(Key, BindingId), Denied> {
        // Where it lives is told by its name, before anything is counted there or looked at.
        let name = raw.raw_value(TlvType::TUNNEL_SESSION_ID);
        let name = name.and_then(|value| <[u8; 8]>::try_from(value).ok());
        if let Some(name) = name {
            let home = self.home(Tsid(u64::from_be_bytes(name)));
            if home != self.shard {
                return Err(Denied::Elsewhere(home));
            }
        }
        let message = self.admit_request(now, origin, raw)?;
        let owner = self.next_owner()?;
        let claimed = message.companions().next();
        let (tsid, tag) = claimed.ok_or(ResponseCode::NOT_AUTHORIZED)?;
        // As with resumes: whatever is wrong, the same answer after the same work (spec 8.5).
        let identity = self.authenticate(origin, &message);
        let main = self.reserved.get(&tsid).copied();
        let session = main.and_then(|main| self.sessions.get(main));
        let member = session.and_then(|session| {
            let family = &session.services.as_ref()?.family;
            family.0.iter().find(|member| member.tsid == tsid)
        });
        let decoy = Tag::new([0; 16]);
        let (reserved, until) = match member.map(|member| &member.state) {
            Some(State::Reserved { tag, until }) => (tag, *until),
            Some(State::Claimed(_)) | None => (&decoy, now),
        };
        let is_right = reserved.is(tag.expose());
        let founding = session.zip(member).and_then(|(session, member)| {
            let allowed = now < until
                && member.transport == origin.transport
                && session.interface == origin.interface
                && identity
                    .as_ref()
                    .is_ok_and(|identity| *identity == session.identity)
                && !matches!(session.life, Life::Releasing(_));
            let sequence = raw.header().sequence;
            allowed.then(|| companion_of(session, member, owner, sequence))
        });
        let (Some(main), Some(mut founding)) = (main, founding.filter(|_| is_right)) else {
            return Err(Denied::Code(ResponseCode::NOT_AUTHORIZED));
        };
        let role = founding.main.map(|membership| membership.role);
        if role.is_some_and(|role| !role.shares_addresses()) {
            // Without any it stays reserved.
            let interface = origin.interface;
            founding.leases = self.lease_others(now, interface, &founding.leases, owner)?;
        }
        // Before the tunnel is bound, so that its end finds everything as it must be.
        self.reserved.remove(&tsid);
        if let Some(member) = role.and_then(|role| self.family(main)?.find(role)) {
            member.state = State::Claimed(owner.key());
        }
        Ok(self.found(now, origin, founding)?)
    }

    /// Addresses of the same families as those of the main tunnel.
    fn lease_others(
        &self,
        now: Instant,
        interface: usize,
        main: &[Lease],
        owner: SessionId,
    ) -> Result<Box<[Lease]>, ResponseCode> {
        let has = |is: fn(&IpAddr) -> bool| main.iter().any(|lease| is(&lease.address));
        let wishes: Vec<_> = [
            (Ip::Ipv4, has(IpAddr::is_ipv4)),
            (Ip::Ipv6, has(IpAddr::is_ipv6)),
        ]
        .into_iter()
        .filter_map(|(family, has)| has.then_some((family, 1)))
        .collect();
        let leases = self
            .common
            .lease(now, &self.config, interface, &wishes, owner)?;
        Ok(leases.into())
    }

    /// A companion is over: what its main tunnel had of it is over too.
    pub(super) fn companion_closed(
        &mut self,
        now: Instant,
        companion: &Session,
        membership: Membership,
        reason: DownReason,
    ) {
        let leases = if companion.has_own_addresses() {
            &companion.leases[..]
        } else {
            &[]
        };
        self.common.give_back(now, companion.account(), leases);
        let Membership { main, role } = membership;
        self.events.push_back(Event::CompanionDown {
            session: SessionId::new(companion.id.shard(), main),
            companion: companion.id,
            role,
            tsid: companion.tsid,
            reason,
        });
        let is_its_own = self.family(main).and_then(|family| family.find(role));
        if is_its_own.is_some_and(|member| member.claimed() == Some(companion.id.key())) {
            if let Some(family) = self.family(main) {
                family.remove(role);
            }
            self.role_ended(main, role);
            self.drop_empty_services(main);
        }
    }

    /// An unconfirmed companion that has lost its transport is reserved again, with a new tag (spec 7).
    pub(super) fn reserve_again(&mut self, now: Instant, companion: Key) {
        let Some(found) = self.sessions.get(companion) else {
            return;
        };
        let (membership, tsid) = (found.main, found.tsid);
        let until = now + RESERVED_FOR;
        let tag = Tag::random(&mut self.random);
        let member = membership.and_then(|Membership { main, role }| {
            let account = self.sessions.get(main)?.account();
            self.common.count_reserved(&self.config, account).ok()?;
            self.family(main)?.find(role)
        });
        if let (Some(member), Some(membership)) = (member, membership) {
            member.state = State::Reserved { tag, until };
            self.reserved.insert(tsid, membership.main);
            self.arm_session(membership.main);
        }
    }

    /// Forgets reservations whose time is over.
    pub(super) fn lapse(&mut self, now: Instant, main: Key) {
        let Some(family) = self.family(main) else {
            return;
        };
        let lapsed: Vec<CompanionRole> = family
            .0
            .iter()
            .filter(|member| member.until().is_some_and(|until| until <= now))
            .map(|member| member.role)
            .collect();
        for role in lapsed {
            self.drop_member(now, main, role);
            self.role_ended(main, role);
            self.drop_empty_services(main);
        }
    }

    /// Forgets a reservation.
    fn drop_member(&mut self, now: Instant, main: Key, role: CompanionRole) {
        let member = self.family(main).and_then(|family| family.remove(role));
        if let Some(member) = member {
            self.reserved.remove(&member.tsid);
            if let Some(session) = self.sessions.get(main) {
                self.common.give_back(now, session.account(), &[]);
            }
        }
    }

    /// Ends a companion that is not needed any more.
    pub(super) fn end_companion(&mut self, now: Instant, main: Key, role: CompanionRole) {
        let claimed = self.family(main).and_then(|family| family.claimed(role));
        match claimed {
            Some(key) => self.release(now, self.session_id(key), None),
            None => self.drop_member(now, main, role),
        }
    }

    /// The main tunnel is over: so are its companions (spec 7).
    pub(super) fn end_family(&mut self, now: Instant, main: &Session, family: Family) {
        for member in family.0 {
            match member.state {
                State::Reserved { .. } => {
                    self.reserved.remove(&member.tsid);
                    self.common.give_back(now, main.account(), &[]);
                }
                State::Claimed(key) => self.close_session(now, key, DownReason::MainClosed),
            }
        }
    }

    /// When anything of the family was heard last: a main tunnel is not closed while a companion is in use (spec 5).
    pub(super) fn family_activity(&self, main: Key) -> Option<Instant> {
        let family = &self.sessions.get(main)?.services.as_ref()?.family;
        let claimed = family.all_claimed();
        let heard = |key| self.sessions.get(key).map(|found| found.last_activity);
        claimed.filter_map(heard).max()
    }
}

/// Why a companion that was claimed may be replaced when its client asks again; `None` while it may be in use.
fn unused(now: Instant, found: &Session) -> Option<DownReason> {
    // Another socket may ask while the client is about to confirm it, or to resume it. Later its client would not ask if it had it.
    let is_unconfirmed = !found.confirmed && now >= found.created + CLAIMING;
    if is_unconfirmed || matches!(found.life, Life::Releasing(_)) {
        return Some(DownReason::Unconfirmed);
    }
    // One with addresses of its own takes them along: its client may have sockets that live by them.
    let is_lost = found.binding.is_none() && now >= found.last_activity + CLAIMING;
    (is_lost && !found.has_own_addresses()).then_some(DownReason::Replaced)
}

/// The companion of a tunnel: the same limits and identity. Its addresses are those of the main tunnel; one that is to have others gets them
/// after this.
fn companion_of(main: &Session, member: &Member, owner: SessionId, sequence: Sequence) -> Founding {
    Founding {
        tsid: member.tsid,
        owner,
        sequence,
        identity: main.identity.clone(),
        prefix: main.prefix,
        leases: main.leases.clone(),
        inner_mtu: main.inner_mtu,
        takes_peers: false,
        offers: Arc::clone(&main.offers),
        main: Some(Membership {
            main: main.id.key(),
            role: member.role,
        }),
    }
}

impl Server {
    /// The companions of a tunnel that were claimed.
    #[must_use]
    pub fn companions(&self, session: SessionId) -> Vec<(CompanionRole, SessionId)> {
        let main = self.own(session).and_then(|key| self.sessions.get(key));
        let services = main.and_then(|main| main.services.as_ref());
        let members = services.map_or(&[][..], |services| &services.family.0);
        let claimed = |member: &Member| Some((member.role, self.session_id(member.claimed()?)));
        members.iter().filter_map(claimed).collect()
    }
}
