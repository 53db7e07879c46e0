//! Plain UDP from addresses that carry no tunnel (spec 8.2).
//!
//! *Attack*: anyone can send anything from any address. *Mechanism*: only requests of at least 128 bytes and
//! Keepalives are looked at; a request without a valid cookie gets one and nothing else, and the answer is never
//! longer than what came; nothing is kept. *Limit*: answers go out at most `stateless_per_second` times.

use std::net::SocketAddr;
use std::time::Instant;

use tsc_tpl::registry::MIN_UNAUTHENTICATED_REQUEST;
use tsc_tpl::{
    CmType, ControlMessage, FirstByte, Limits as UnitLimits, ResponseCode, TlvType, Unit,
};

use super::configure::{Origin, Outcome, Route};
use super::event::{BindingId, Destination, DropReason, ListenerId, Unbound};
use super::{Listener, Server};
use crate::transport::Transport;
use crate::wire::{self, RefusalDetails};

impl Server {
    /// Feeds a datagram from an address for which [`lookup`](Self::lookup) finds no binding.
    ///
    /// Nothing is kept unless the datagram is a request with a valid cookie.
    pub fn handle_unbound(
        &mut self,
        now: Instant,
        listener: ListenerId,
        peer: SocketAddr,
        datagram: &[u8],
    ) -> Unbound {
        let Some(socket) = self.listeners.get(listener.index()).copied() else {
            return self.ignore(DropReason::Stranger);
        };
        if is_stun(datagram) {
            return match self.answer_stun(now, socket.interface, peer, datagram) {
                Some(bytes) => {
                    self.transmit(Destination::Udp { listener, peer }, bytes);
                    Unbound::Answered
                }
                None => Unbound::Dropped(DropReason::Stranger),
            };
        }
        let message = match Unit::decode_datagram(datagram, &UnitLimits::default()) {
            Ok(Unit::Control(message)) => message,
            Ok(Unit::Ip(_) | Unit::Redundancy(_) | Unit::Reserved(_)) => {
                return self.ignore(DropReason::Stranger);
            }
            Err(error) => {
                self.stats.bad_units += 1;
                return Unbound::Dropped(DropReason::Datagram(error));
            }
        };
        match message.header().cm_type {
            CmType::KEEPALIVE => self.answer_unknown_tunnel(now, listener, peer, &message),
            CmType::CONFIGURATION_REQUEST | CmType::CONFIGURATION_RESUME_REQUEST => {
                self.stranger_request(now, listener, socket, peer, &message)
            }
            _ => self.ignore(DropReason::Stranger),
        }
    }

    /// A request on plain UDP that wants to bind a tunnel to `peer`.
    pub(super) fn stranger_request(
        &mut self,
        now: Instant,
        listener: ListenerId,
        socket: Listener,
        peer: SocketAddr,
        message: &ControlMessage<'_>,
    ) -> Unbound {
        if message.as_bytes().len() < MIN_UNAUTHENTICATED_REQUEST {
            return self.ignore(DropReason::Stranger);
        }
        if !self.has_valid_cookie(now, socket, peer, message) {
            return self.require_cookie(now, listener, socket, peer, message);
        }
        let origin = Origin {
            interface: socket.interface,
            transport: Transport::Udp,
            peer,
            route: Route::Udp(listener),
            identity: None,
        };
        let outcome = if message.header().cm_type == CmType::CONFIGURATION_REQUEST {
            self.configure(now, &origin, message)
        } else {
            self.resume(now, &origin, message)
        };
        match outcome {
            Outcome::Accepted(binding) => Unbound::Bound(binding),
            Outcome::Refused | Outcome::Malformed(_) => Unbound::Answered,
            Outcome::Ignored => self.ignore(DropReason::RateLimited),
            Outcome::Elsewhere(shard) => Unbound::Elsewhere(shard),
        }
    }

    pub(super) fn has_valid_cookie(
        &self,
        now: Instant,
        socket: Listener,
        peer: SocketAddr,
        message: &ControlMessage<'_>,
    ) -> bool {
        let cookie = message.raw_value(TlvType::COOKIE);
        cookie.is_some_and(|cookie| self.jar.verify(now, socket.local, peer, cookie))
    }

    fn require_cookie(
        &mut self,
        now: Instant,
        listener: ListenerId,
        socket: Listener,
        peer: SocketAddr,
        message: &ControlMessage<'_>,
    ) -> Unbound {
        if !self.stateless_allowed(now) {
            return self.ignore(DropReason::RateLimited);
        }
        let cookie = self.jar.make(now, socket.local, peer);
        let details = RefusalDetails {
            cookie: Some(&cookie),
            ..RefusalDetails::default()
        };
        let answer = wire::refusal(&message.header(), ResponseCode::COOKIE_REQUIRED, &details);
        let Some(bytes) = answer.filter(|answer| answer.len() <= message.as_bytes().len()) else {
            return self.ignore(DropReason::Stranger);
        };
        self.stats.cookies += 1;
        self.transmit(Destination::Udp { listener, peer }, bytes);
        Unbound::Answered
    }

    fn answer_unknown_tunnel(
        &mut self,
        now: Instant,
        listener: ListenerId,
        peer: SocketAddr,
        message: &ControlMessage<'_>,
    ) -> Unbound {
        if !self.stateless_allowed(now) {
            return self.ignore(DropReason::RateLimited);
        }
        let answer = wire::refusal(
            &message.header(),
            ResponseCode::UNKNOWN_TUNNEL,
            &RefusalDetails::default(),
        );
        let Some(bytes) = answer else {
            return self.ignore(DropReason::Stranger);
        };
        self.stats.unknown_tunnel += 1;
        self.transmit(Destination::Udp { listener, peer }, bytes);
        Unbound::Answered
    }

    pub(super) fn stateless_allowed(&mut self, now: Instant) -> bool {
        let allowed = self.common.stateless_allowed(now);
        if !allowed {
            self.stats.rate_limited += 1;
        }
        allowed
    }

    fn ignore(&mut self, reason: DropReason) -> Unbound {
        self.stats.strangers += 1;
        Unbound::Dropped(reason)
    }

    /// The socket behind a plain UDP binding.
    pub(super) fn socket_of(&self, id: BindingId) -> Option<(ListenerId, Listener, SocketAddr)> {
        let binding = self.bindings.get(id.key())?;
        let listener = binding.listener?;
        Some((
            listener,
            self.listeners.get(listener.index()).copied()?,
            binding.peer,
        ))
    }
}

fn is_stun(datagram: &[u8]) -> bool {
    let first = datagram.first().copied();
    first.is_some_and(|first| FirstByte::classify(first) == FirstByte::Stun)
}
