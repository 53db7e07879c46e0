//! Answers to the requests that make or move the tunnel.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tsc_tpl::{CmType, ControlMessage, Message, MessageError, ResponseCode, TlvType, Tsid};

use super::binding::BindingTime;
use super::config::{Endpoint, Target};
use super::event::{
    AttemptFailure, CloseReason, DownReason, DropReason, Epoch, Event, Inbound, Refusal,
};
use super::plan::{Way, same_host};
use super::probe::Probes;
use super::race::{Stage, Why};
use super::service::Services;
use super::tunnel::{Link, Tunnel, Upgrade};
use super::{Client, State, silence_on};
use crate::assignment::{Alternate, Assignment, InnerAddress};
use crate::prefix::is_assignable;
use crate::secret::Key32;
use crate::transaction::{Inbox, Schedule};
use crate::transport::Transport;
use crate::wire;

/// Most cookies asked for in one attempt: the first may cross the change of a slot or key.
const MAX_COOKIES: u8 = 3;
/// Most redirects followed in a row (spec 5).
const MAX_REDIRECTS: u8 = 4;
/// A transport that is replaced within this time was not lost by an outage.
const QUICK: Duration = Duration::from_secs(2);

impl Client {
    /// A message on the transport of the attempt under way.
    pub(super) fn attempt_control<'a>(
        &mut self,
        now: Instant,
        epoch: Epoch,
        raw: &ControlMessage<'a>,
    ) -> Inbound<'a> {
        let header = raw.header();
        let Some((way, waiting)) = self
            .attempt(epoch)
            .map(|attempt| (attempt.way, &attempt.request))
        else {
            return self.drop_unit(DropReason::StaleEpoch);
        };
        let target = way.target;
        if !waiting
            .as_ref()
            .is_some_and(|request| request.matches(header.cm_type, header.sequence))
        {
            return self.drop_unit(DropReason::Unmatched);
        }
        if header.cm_type == CmType::CONFIGURATION_RESUME_RESPONSE
            && Some(header.tsid) != self.tsid()
        {
            return self.drop_unit(DropReason::WrongTsid);
        }
        let parsed = raw.parse();
        if target.transport == Transport::Udp
            && let Some(dropped) = self.doubt(epoch, &parsed)
        {
            return dropped;
        }
        let message = match parsed {
            Ok(message) => message,
            Err(error) => {
                self.stats.message_errors += 1;
                self.reject_answer(now, epoch, raw, AttemptFailure::BadAnswer(error));
                return Inbound::Dropped(DropReason::Message(error));
            }
        };
        match message.response_code() {
            Some(ResponseCode::SUCCESS) => {
                let assignment = self.read_assignment(&message, target);
                let used = match &self.state {
                    State::Up(_) => {
                        assignment.and_then(|assignment| self.resumed(now, epoch, way, assignment))
                    }
                    State::Idle | State::Connecting(_) | State::Down => {
                        assignment.and_then(|assignment| {
                            self.configured(now, epoch, way, assignment, &message)
                        })
                    }
                };
                if let Err(reason) = used {
                    self.reject_answer(now, epoch, raw, AttemptFailure::Unusable(reason));
                }
            }
            code => self.refused(
                now,
                epoch,
                code.unwrap_or(ResponseCode::MALFORMED),
                target,
                &message,
            ),
        }
        Inbound::Consumed
    }

    /// On plain UDP anyone can send an answer who guesses its sequence, and some answers no server gives: anything but
    /// `cookie_required` to a request without a cookie (spec 8.2), and nothing malformed, nor `malformed`, to ours.
    /// The first are dropped; the second fail the attempt only if no other answer comes in its time.
    fn doubt<'a>(
        &mut self,
        epoch: Epoch,
        answer: &Result<Message<'_>, MessageError>,
    ) -> Option<Inbound<'a>> {
        let code = answer.as_ref().ok().and_then(Message::response_code);
        if code == Some(ResponseCode::COOKIE_REQUIRED) {
            return None;
        }
        let attempt = self.attempt_mut(epoch)?;
        if attempt.cookies == 0 {
            return Some(self.drop_unit(DropReason::Unexpected));
        }
        match answer {
            Err(error) if error.response_code() == ResponseCode::MALFORMED => {
                attempt.doubtful = Some(AttemptFailure::BadAnswer(*error));
                Some(self.drop_unit(DropReason::Message(*error)))
            }
            Ok(message) if code == Some(ResponseCode::MALFORMED) => {
                let refusal = Refusal::read(ResponseCode::MALFORMED, message);
                attempt.doubtful = Some(AttemptFailure::Refused(refusal));
                Some(self.drop_unit(DropReason::Unexpected))
            }
            Ok(_) | Err(_) => None,
        }
    }

    fn tsid(&self) -> Option<Tsid> {
        self.assignment().map(|assignment| assignment.tsid)
    }

    /// An answer that cannot be used fails the transaction; if it made a tunnel, that is released (spec 3.3).
    fn reject_answer(
        &mut self,
        now: Instant,
        epoch: Epoch,
        raw: &ControlMessage<'_>,
        failure: AttemptFailure,
    ) {
        let header = raw.header();
        let success = raw.raw_value(TlvType::RESPONSE_CODE)
            == Some(&ResponseCode::SUCCESS.0.to_be_bytes()[..]);
        if success
            && header.cm_type == CmType::CONFIGURATION_RESPONSE
            && header.tsid.is_assignable()
        {
            let sequence = self.next_sequence;
            self.next_sequence = sequence.next();
            // Once: the server closes an unconfirmed tunnel by itself if this is lost.
            if let Some(bytes) = wire::release_request(header.tsid, sequence, None) {
                self.transmit(epoch, bytes);
            }
        }
        self.attempt_failed(now, epoch, failure, true);
    }

    fn configured(
        &mut self,
        now: Instant,
        epoch: Epoch,
        way: Way,
        assignment: Assignment,
        message: &Message<'_>,
    ) -> Result<(), &'static str> {
        let target = way.target;
        let claim = self.claim.as_ref();
        if claim.is_some_and(|claim| !claim.fits(assignment.tsid, &assignment.addresses)) {
            return Err("another tunnel than was claimed");
        }
        let resume_key = message
            .resume_key()
            .map(|key| Key32::new(*key.expose()))
            .ok_or("no resume key")?;
        self.plan.begin(None);
        self.add_alternates(&assignment.alternates, target, false);
        self.events
            .push_back(Event::Configured(Box::new(assignment.clone())));
        let upgrade = Upgrade::new(now, self.config.upgrade);
        let mut tunnel = Box::new(Tunnel {
            assignment,
            resume_key,
            resume_counter: 0,
            protected: target.transport.is_protected(),
            services: Services::default(),
            inbox: Inbox::default(),
            requests: Vec::new(),
            last_keepalive: None,
            last_report: None,
            probes: Probes::default(),
            confirmed: false,
            link: None,
            seeker: None,
            // Never read before the first loss replaces it.
            cause: super::SuspendReason::KeepaliveFailure,
            untold: None,
            binding_time: BindingTime::default(),
            upgrade,
            release_until: None,
        });
        let silence = silence_on(target.transport, &tunnel, self.background, &mut self.random);
        tunnel.link = Some(Link::new(now, epoch, way, silence));
        let up = State::Up(tunnel);
        if let State::Connecting(seeker) = std::mem::replace(&mut self.state, up) {
            self.close_others(Some(seeker), Some(epoch));
        }
        // Ours: an unconfirmed tunnel is closed after 30 s, and the first packet may come later than that.
        self.send_keepalive(now);
        if self.background {
            self.want_server_keepalive(now, true);
        }
        Ok(())
    }

    fn resumed(
        &mut self,
        now: Instant,
        epoch: Epoch,
        way: Way,
        assignment: Assignment,
    ) -> Result<(), &'static str> {
        let target = way.target;
        let State::Up(tunnel) = &mut self.state else {
            return Err("no tunnel to resume");
        };
        if assignment.addresses != tunnel.assignment.addresses {
            return Err("a resume that changes inner addresses");
        }
        let seeker = tunnel.seeker.take();
        tunnel.untold = None;
        let is_quick = seeker
            .as_ref()
            .is_some_and(|seeker| now < seeker.began + QUICK);
        if is_quick && let Some(silence) = tunnel.forgotten_after(target.transport) {
            tunnel.binding_time.broke(silence);
        }
        if let Some(old) = tunnel.link.take() {
            // It fell silent, and a new one works at once: its binding is what was lost.
            let is_doubted = seeker
                .as_ref()
                .is_some_and(|seeker| seeker.why == Why::Doubt);
            if is_doubted && is_quick && old.target.transport == target.transport {
                tunnel.binding_time.broke(old.idle);
            }
            self.events.push_back(Event::Close {
                epoch: old.epoch,
                reason: CloseReason::Superseded,
            });
        }
        self.stats.resumes += 1;
        tunnel.last_keepalive = None;
        // The proof has shown the server that its first answer had arrived.
        tunnel.confirmed = true;
        tunnel.assignment = assignment.clone();
        let silence = silence_on(target.transport, tunnel, self.background, &mut self.random);
        let mut link = Link::new(now, epoch, way, silence);
        // Outstanding requests are repeated with their sequence (spec 5, "Epochs").
        let schedule = Schedule::request(target.transport.is_stream());
        let repeats: Vec<_> = tunnel
            .requests
            .iter_mut()
            .map(|request| request.restart(now, schedule))
            .collect();
        if !repeats.is_empty() {
            link.note_sent(now);
        }
        tunnel.link = Some(link);
        self.plan.begin(None);
        self.add_alternates(&assignment.alternates, target, false);
        self.events.push_back(Event::Resumed(Box::new(assignment)));
        self.keep_later(now, seeker, epoch);
        self.services_resumed(now);
        for bytes in repeats {
            self.stats.retransmissions += 1;
            self.transmit(epoch, bytes);
        }
        Ok(())
    }

    fn refused(
        &mut self,
        now: Instant,
        epoch: Epoch,
        code: ResponseCode,
        target: Target,
        message: &Message<'_>,
    ) {
        match code {
            ResponseCode::COOKIE_REQUIRED if target.transport == Transport::Udp => {
                return self.repeat_with_cookie(now, epoch, message);
            }
            ResponseCode::REDIRECT => return self.redirected(now, epoch, target, message),
            ResponseCode::RESUME_REJECTED if self.has_asked_last(epoch) => {
                if let State::Up(tunnel) = &self.state {
                    let cause = tunnel.cause;
                    return self.down(DownReason::ResumeRejected { cause });
                }
            }
            _ => {}
        }
        let refusal = Refusal::read(code, message);
        self.attempt_failed(now, epoch, AttemptFailure::Refused(refusal), true);
    }

    /// Whether no proof was sent after the one of this attempt: an earlier one is rejected where a later one was accepted.
    fn has_asked_last(&self, epoch: Epoch) -> bool {
        let State::Up(tunnel) = &self.state else {
            return true;
        };
        let last = tunnel.resume_counter;
        self.attempt(epoch)
            .is_some_and(|attempt| attempt.counter == last)
    }

    fn repeat_with_cookie(&mut self, now: Instant, epoch: Epoch, message: &Message<'_>) {
        let cookie = message.cookie().map(|cookie| cookie.expose());
        let attempt = self.attempt_mut(epoch);
        match (attempt, cookie) {
            (Some(attempt), Some(cookie)) if attempt.cookies < MAX_COOKIES => {
                attempt.cookies += 1;
                attempt.cookie = Some(Bytes::copy_from_slice(cookie));
                attempt.request = None;
                attempt.stage = Stage::Ready;
                self.ask_next(now);
            }
            _ => {
                let failure = AttemptFailure::Unusable("cookie after cookie");
                self.attempt_failed(now, epoch, failure, true);
            }
        }
    }

    fn redirected(&mut self, now: Instant, epoch: Epoch, target: Target, message: &Message<'_>) {
        let alternates = self.permitted(wire::alternates(message), target.transport);
        let redirects = self
            .seeker()
            .map_or(MAX_REDIRECTS, |seeker| seeker.redirects);
        if redirects >= MAX_REDIRECTS {
            return self.attempt_failed(now, epoch, AttemptFailure::TooManyRedirects, true);
        }
        if alternates.is_empty() {
            return self.attempt_failed(now, epoch, AttemptFailure::ForbiddenRedirect, true);
        }
        // What else leads to the one who sends us away is not needed.
        let attempts = self.seeker().map(|seeker| seeker.attempts.iter());
        let epochs: Vec<Epoch> = attempts
            .into_iter()
            .flatten()
            .filter(|attempt| same_host(attempt.target().endpoint, target.endpoint))
            .map(|attempt| attempt.epoch)
            .collect();
        self.tell_loss();
        for epoch in epochs {
            self.abandon_attempt(epoch);
        }
        if let Some(seeker) = self.seeker_mut() {
            seeker.redirects = redirects + 1;
            seeker.hurry(now);
        }
        self.plan.sent_away(now, target, &mut self.random);
        self.add_alternates(&alternates, target, true);
        self.look_further(now);
    }

    fn add_alternates(&mut self, alternates: &[Alternate], from: Target, first: bool) {
        let origin = from.endpoint.origin();
        let target = |alternate: &Alternate| Target {
            transport: alternate.transport,
            endpoint: Endpoint::Address {
                address: alternate.address,
                origin,
            },
        };
        // A companion stays on its kind of transport.
        let is_for =
            |alternate: &&Alternate| self.claim.is_none() || alternate.transport == from.transport;
        let targets: Vec<_> = alternates.iter().filter(is_for).map(target).collect();
        self.plan.add(&targets, first);
    }

    /// Alternates that may be followed (spec 5, "No downgrade" and "Redirect").
    fn permitted(&self, mut alternates: Vec<Alternate>, from: Transport) -> Vec<Alternate> {
        let protected = match &self.state {
            State::Up(tunnel) => tunnel.protected,
            State::Idle | State::Connecting(_) | State::Down => false,
        };
        let known = |address: SocketAddr| self.known_hosts.contains(&address.ip().to_canonical());
        alternates.retain(|alternate| {
            let downgrade =
                (from.is_protected() || protected) && !alternate.transport.is_protected();
            let trusted = from.is_protected()
                || self.config.follow_clear_redirects
                || known(alternate.address);
            !downgrade && trusted && alternate.address.port() != 0
        });
        alternates
    }

    fn read_assignment(
        &self,
        message: &Message<'_>,
        target: Target,
    ) -> Result<Assignment, &'static str> {
        let addresses: Vec<InnerAddress> = message
            .addresses()
            .map(|assigned| InnerAddress {
                address: assigned.addr,
                prefix_len: assigned.prefix_len,
            })
            .collect();
        if addresses.iter().any(|inner| !is_assignable(inner.address)) {
            return Err("an inner address that no client can have");
        }
        if message.protocol_revision() != Some(tsc_tpl::registry::PROTOCOL_REVISION) {
            return Err("another protocol revision than was offered");
        }
        Ok(Assignment {
            tsid: message.tsid(),
            transport: target.transport,
            addresses,
            sip_servers: message.sip_servers().collect::<Vec<SocketAddr>>(),
            dns_servers: message.dns_servers().collect::<Vec<IpAddr>>(),
            nat_view: message.nat_info().next(),
            inner_mtu: message.inner_mtu().ok_or("no inner MTU")?,
            keepalive: message
                .keepalive_interval()
                .ok_or("no keepalive interval")?
                .duration(),
            persistence: message
                .persistence_time()
                .ok_or("no persistence time")?
                .duration(),
            dscp: message.dscp().map(tsc_tpl::Dscp::value),
            services: message
                .supported_services()
                .iter()
                .flat_map(tsc_tpl::ServiceList::iter)
                .collect(),
            active_services: message
                .active_services()
                .iter()
                .flat_map(tsc_tpl::ServiceList::iter)
                .collect(),
            alternates: self.permitted(wire::alternates(message), target.transport),
        })
    }
}
