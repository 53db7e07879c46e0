//! One client asks for another: checked, forwarded, answered.

use std::net::IpAddr;
use std::time::Instant;

use tsc_tpl::{CmType, ControlMessage, Header, Message, MessageError, ResponseCode, Sequence};

use super::super::super::Server;
use super::super::super::arena::Key;
use super::super::super::event::{BindingId, SessionId, Verdict};
use super::super::super::session::Life;
use super::partners::Partner;
use super::relay::{Relayed, What};
use super::{ENABLE, MAX_ASKED, MAX_FORWARDED, MAX_PARTNERS, PATIENCE};
use crate::peer::{self, Candidate, Granted, Invitation, Reach};
use crate::transaction::{Request, Schedule};

/// A request of this tunnel's client.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) header: Header,
    pub(super) until: Instant,
    pub(super) partner: Partner,
}

/// A request of another client, at this one.
#[derive(Debug)]
pub(super) struct Forwarded {
    pub(super) request: Request<()>,
    pub(super) until: Instant,
    pub(super) ticket: Sequence,
    pub(super) partner: Partner,
    pub(super) asker: Seen,
}

/// What the server sees of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    outer: IpAddr,
    /// Its tunnel is: then the peer tunnel has to be (spec 5, "No downgrade").
    protected: bool,
}

impl Server {
    /// A client asks for a peer tunnel: forwarded, and answered when the other has answered.
    pub(in super::super) fn ask_peer(
        &mut self,
        now: Instant,
        key: Key,
        request: &Message<'_>,
    ) -> Result<(), ResponseCode> {
        self.stats.peer_requests += 1;
        let id = self.session_id(key);
        let invitation = Invitation::read(request).ok_or(ResponseCode::MALFORMED)?;
        let asker = self.seen(key).ok_or(ResponseCode::PEER_UNAVAILABLE)?;
        let (own, peer) = (invitation.own.ip(), invitation.peer.ip());
        let to = self.common.owner(peer);
        let session = self
            .sessions
            .get_mut(key)
            .ok_or(ResponseCode::PEER_UNAVAILABLE)?;
        if !session.leases.iter().any(|lease| lease.address == own) {
            return Err(ResponseCode::NOT_AUTHORIZED);
        }
        let peers = session.services.get_or_insert_default().peers();
        if !peers.asks.take(now) || peers.asked.len() >= MAX_ASKED {
            return Err(ResponseCode::BUSY);
        }
        if peers.partners.len() >= MAX_PARTNERS {
            return Err(ResponseCode::NO_RESOURCES);
        }
        let to = to
            .filter(|to| *to != id && own.is_ipv4() == peer.is_ipv4())
            .ok_or(ResponseCode::PEER_UNAVAILABLE)?;
        let ticket = request.header().sequence;
        peers.asked.push(Asked {
            header: request.header(),
            until: now + PATIENCE,
            partner: Partner {
                session: to,
                own,
                peer,
            },
        });
        self.relay(
            now,
            Relayed {
                to,
                from: id,
                what: What::Ask {
                    ticket,
                    invitation: Box::new(invitation),
                    asker,
                },
            },
        );
        self.arm_session(key);
        Ok(())
    }

    /// How the server sees a client; `None` while it has no transport.
    fn seen(&self, key: Key) -> Option<Seen> {
        let session = self.sessions.get(key)?;
        let binding = self.bindings.get(session.binding?.key())?;
        Some(Seen {
            outer: binding.peer.ip().to_canonical(),
            protected: session.protected,
        })
    }

    /// Asks this tunnel's client whether it wants the other.
    pub(super) fn forward_ask(
        &mut self,
        now: Instant,
        key: Key,
        from: SessionId,
        ticket: Sequence,
        mut invitation: Invitation,
        asker: Seen,
    ) -> Result<(), ResponseCode> {
        let unavailable = ResponseCode::PEER_UNAVAILABLE;
        let seen = self.seen(key).ok_or(unavailable)?;
        let session = self.sessions.get_mut(key).ok_or(unavailable)?;
        let may = session.offers.has(ENABLE);
        let is_there = matches!(session.life, Life::Active | Life::Persistent { .. });
        if !may || !is_there || !session.confirmed || !session.takes_peers {
            return Err(unavailable);
        }
        let found = invitation.candidates.len();
        invitation
            .candidates
            .retain(|candidate| passes(candidate, asker.outer, seen.outer));
        let struck = found - invitation.candidates.len();
        self.stats.peer_struck += u64::try_from(struck).unwrap_or_default();
        if invitation.candidates.is_empty() {
            return Err(unavailable);
        }
        let (tsid, sequence) = (session.tsid, session.next_sequence);
        let binding = session.binding.ok_or(unavailable)?;
        let is_stream = self
            .bindings
            .get(binding.key())
            .ok_or(unavailable)?
            .transport
            .is_stream();
        let partner = Partner {
            session: from,
            own: invitation.peer.ip(),
            peer: invitation.own.ip(),
        };
        let peers = session.services.get_or_insert_default().peers();
        if !peers.is_asked.take(now) || peers.forwarded.len() >= MAX_FORWARDED {
            return Err(ResponseCode::BUSY);
        }
        if peers.partners.len() >= MAX_PARTNERS {
            return Err(unavailable);
        }
        let bytes = peer::ask(tsid, sequence, &invitation).ok_or(unavailable)?;
        let answer = CmType::CLIENT_SERVICE_RESPONSE;
        let schedule = Schedule::request(is_stream);
        peers.forwarded.push(Forwarded {
            request: Request::sent(now, (), sequence, answer, bytes.clone(), schedule),
            until: now + PATIENCE,
            ticket,
            partner,
            asker,
        });
        session.next_sequence = sequence.next();
        self.transmit_over(binding, bytes);
        self.arm_session(key);
        Ok(())
    }

    /// A response of a client to something that peer tunnels had us ask; `None` if it is to something else.
    pub(in super::super::super) fn peer_response(
        &mut self,
        now: Instant,
        id: BindingId,
        key: Key,
        message: &ControlMessage<'_>,
    ) -> Option<Verdict> {
        let header = message.header();
        let peers = self.sessions.get_mut(key)?.peers()?;
        let told = peers
            .telling
            .take_if(|(request, _)| request.matches(header.cm_type, header.sequence));
        if told.is_some() {
            self.tell_end(now, key);
            return Some(Verdict::Consumed);
        }
        let place = peers
            .forwarded
            .iter()
            .position(|forwarded| forwarded.request.matches(header.cm_type, header.sequence))?;
        let forwarded = peers.forwarded.swap_remove(place);
        let parsed = message.parse();
        let answer = self.judge(key, &forwarded, &parsed);
        let own = self.session_id(key);
        let partner = forwarded.partner;
        if answer.is_ok() {
            self.add_partner(key, partner);
        }
        self.reply(now, own, partner.session, forwarded.ticket, answer);
        self.arm_session(key);
        Some(match parsed {
            Ok(_) => Verdict::Consumed,
            Err(error) => self.message_error(now, id, error),
        })
    }

    /// What the one who has asked is told of an answer.
    fn judge(
        &mut self,
        key: Key,
        forwarded: &Forwarded,
        answer: &Result<Message<'_>, MessageError>,
    ) -> Result<Box<Granted>, ResponseCode> {
        let unavailable = ResponseCode::PEER_UNAVAILABLE;
        let answer = answer.as_ref().map_err(|_| unavailable)?;
        match answer.response_code() {
            Some(ResponseCode::SUCCESS) => {}
            // Its own request, to the same peer, stands (spec 7.5).
            Some(ResponseCode::BUSY) => return Err(ResponseCode::BUSY),
            _ => return Err(unavailable),
        }
        let is_peer = answer.service_type() == Some(ENABLE);
        let mut granted = Granted::read(answer)
            .filter(|_| is_peer)
            .ok_or(unavailable)?;
        let seen = self.seen(key).ok_or(unavailable)?;
        let must_be_protected = seen.protected || forwarded.asker.protected;
        let found = granted.candidates.len();
        granted.candidates.retain(|candidate| {
            passes(candidate, seen.outer, forwarded.asker.outer)
                && (candidate.transport.is_protected() || !must_be_protected)
        });
        let struck = found - granted.candidates.len();
        self.stats.peer_struck += u64::try_from(struck).unwrap_or_default();
        if granted.candidates.is_empty() {
            return Err(unavailable);
        }
        Ok(Box::new(granted))
    }

    /// Gives the client that has asked its answer; `None` if it does not wait for one any more.
    pub(super) fn take_answer(
        &mut self,
        now: Instant,
        key: Key,
        ticket: Sequence,
        answer: Result<Box<Granted>, ResponseCode>,
    ) -> Option<()> {
        let peers = self.sessions.get_mut(key)?.peers()?;
        let place = peers
            .asked
            .iter()
            .position(|asked| asked.header.sequence == ticket)?;
        let asked = peers.asked.swap_remove(place);
        let bytes = match &answer {
            Ok(granted) => {
                self.stats.peer_granted += 1;
                self.add_partner(key, asked.partner);
                peer::answer(&asked.header, granted)
            }
            Err(code) => self.peer_refusal(&asked.header, *code),
        };
        self.answer_ask(now, key, &asked.header, bytes);
        Some(())
    }

    pub(in super::super) fn peer_refusal(
        &mut self,
        request: &Header,
        code: ResponseCode,
    ) -> Option<bytes::Bytes> {
        self.stats.peer_refused += 1;
        let is_busy = matches!(code, ResponseCode::BUSY | ResponseCode::NO_RESOURCES);
        let retry_after = is_busy.then_some(self.config.limits.retry_after);
        peer::refusal(request, code, retry_after)
    }

    pub(super) fn answer_ask(
        &mut self,
        now: Instant,
        key: Key,
        request: &Header,
        bytes: Option<bytes::Bytes>,
    ) {
        let answer = request.cm_type.response();
        if let Some(((session, bytes), answer)) = self.sessions.get_mut(key).zip(bytes).zip(answer)
        {
            session
                .inbox
                .remember(now, request.sequence, answer, &bytes);
            if let Some(binding) = session.binding {
                self.transmit_over(binding, bytes);
            }
        }
        self.arm_session(key);
    }
}

/// Whether a client that is seen at `outer` may be found at a candidate by one that is seen at `other`.
fn passes(candidate: &Candidate, outer: IpAddr, other: IpAddr) -> bool {
    let address = candidate.address.ip();
    candidate.address.port() != 0
        && match Reach::of(address) {
            Reach::Nobody => false,
            Reach::Private => address == outer || outer == other,
            Reach::Public => address == outer,
        }
}
