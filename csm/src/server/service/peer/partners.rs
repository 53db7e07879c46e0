//! Who has been brought together with whom, so that each can be told of the other's end.

use std::net::IpAddr;
use std::time::Instant;

use tsc_tpl::{CmType, Message, ResponseCode};

use super::super::super::Server;
use super::super::super::arena::Key;
use super::super::super::event::{Event, SessionId};
use super::super::super::session::{Life, Session};
use super::super::{Answer, Served};
use super::MAX_PARTNERS;
use super::relay::{Relayed, What};
use crate::service::ServiceGrant;
use crate::transaction::{Request, Schedule};
use crate::wire;

/// Another tunnel, and the inner addresses of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Partner {
    pub(super) session: SessionId,
    /// Of this tunnel.
    pub(super) own: IpAddr,
    /// Of the other.
    pub(super) peer: IpAddr,
}

impl Partner {
    pub(super) const fn grant(self) -> ServiceGrant {
        ServiceGrant::Peer {
            own: self.own,
            peer: self.peer,
        }
    }
}

impl Server {
    pub(super) fn add_partner(&mut self, key: Key, partner: Partner) {
        let session = self.session_id(key);
        let Some(peers) = self.sessions.get_mut(key).and_then(Session::peers) else {
            return;
        };
        // Not to be told of the end of what begins anew.
        peers.ends.retain(|ended| *ended != partner);
        peers.telling.take_if(|(_, ended)| *ended == partner);
        if peers.partners.contains(&partner) || peers.partners.len() >= MAX_PARTNERS {
            return;
        }
        peers.partners.push(partner);
        let grant = partner.grant();
        self.events
            .push_back(Event::ServiceGranted { session, grant });
    }

    /// A client does not want a peer tunnel any more, or has lost it. Not to have it is no error.
    pub(in super::super) fn disable_peer(
        &mut self,
        now: Instant,
        key: Key,
        request: &Message<'_>,
    ) -> Served {
        let mut named = request.flows();
        let (Some(flow), None) = (named.next(), named.next()) else {
            return Err(ResponseCode::MALFORMED);
        };
        let (own, peer) = (flow.source.ip(), flow.destination.ip());
        let session = self
            .sessions
            .get_mut(key)
            .ok_or(ResponseCode::SERVICE_UNAVAILABLE)?;
        if !session.leases.iter().any(|lease| lease.address == own) {
            return Err(ResponseCode::NOT_AUTHORIZED);
        }
        let Some(peers) = session.peers() else {
            return Ok(Answer::default());
        };
        let is_meant = |partner: &mut Partner| partner.own == own && partner.peer == peer;
        let ended: Vec<Partner> = peers.partners.extract_if(.., is_meant).collect();
        let id = self.session_id(key);
        for partner in ended {
            let grant = partner.grant();
            self.events
                .push_back(Event::ServiceEnded { session: id, grant });
            self.relay_end(now, id, partner);
        }
        Ok(Answer::default())
    }

    pub(super) fn relay_end(&mut self, now: Instant, from: SessionId, partner: Partner) {
        let what = What::End {
            own: partner.peer,
            peer: partner.own,
        };
        let to = partner.session;
        self.relay(now, Relayed { to, from, what });
    }

    /// The other end has gone, or wants no peer tunnel any more: this client is told, so that it need not find out.
    pub(super) fn partner_ended(&mut self, now: Instant, key: Key, ended: Partner) {
        let session = self.session_id(key);
        let Some(peers) = self.sessions.get_mut(key).and_then(Session::peers) else {
            return;
        };
        let is_meant = |partner: &mut Partner| {
            partner.session == ended.session
                && (ended.own.is_unspecified()
                    || (partner.own == ended.own && partner.peer == ended.peer))
        };
        let gone: Vec<Partner> = peers.partners.extract_if(.., is_meant).collect();
        for partner in gone {
            if peers.ends.len() < MAX_PARTNERS {
                peers.ends.push_back(partner);
            }
            let grant = partner.grant();
            self.events
                .push_back(Event::ServiceEnded { session, grant });
        }
        self.tell_end(now, key);
    }

    /// Service_Request 20, one at a time.
    pub(super) fn tell_end(&mut self, now: Instant, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let (tsid, sequence) = (session.tsid, session.next_sequence);
        let is_released = matches!(session.life, Life::Releasing(_));
        let binding = session.binding;
        let Some(peers) = session.peers().filter(|peers| peers.telling.is_none()) else {
            return;
        };
        let Some(partner) = peers.ends.pop_front() else {
            return self.arm_session(key);
        };
        let is_stream = binding
            .and_then(|binding| self.bindings.get(binding.key()))
            .is_some_and(|binding| binding.transport.is_stream());
        let bytes = wire::peer_ended(tsid, sequence, partner.own, partner.peer);
        let Some(bytes) = bytes.filter(|_| !is_released) else {
            return;
        };
        let answer = CmType::SERVICE_RESPONSE;
        let schedule = Schedule::request(is_stream);
        let request = Request::sent(now, (), sequence, answer, bytes.clone(), schedule);
        peers.telling = Some((request, partner));
        session.next_sequence = sequence.next();
        if let Some(binding) = binding {
            self.transmit_over(binding, bytes);
        }
        self.arm_session(key);
    }

    /// Tells `to` that all it has with `from` is over: the addresses are for it to know.
    pub(super) fn relay_ends(&mut self, now: Instant, from: SessionId, to: SessionId) {
        let any = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
        let what = What::End {
            own: any,
            peer: any,
        };
        self.relay(now, Relayed { to, from, what });
    }
}
