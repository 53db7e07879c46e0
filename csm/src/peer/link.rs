//! A peer tunnel that is up: both ends are alike from here on (spec 5, as far as it goes for what is not resumed).
//!
//! Each end asks the other by Keepalives, at the latest when it has sent and heard nothing for a while. While such a question is
//! open for longer than an answer takes, packets go over the server again; without any answer the tunnel is over.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tsc_tpl::{CmType, ControlMessage, IpPacket, MessageError, ResponseCode, Sequence, Tsid};

use super::candidate::Candidate;
use super::path::{Outbox, PathEnd, Terms};
use crate::random::Random;
use crate::server::MESSAGE_ERROR_LIMIT;
use crate::transaction::{Request, Schedule, Step};
use crate::transport::Transport;
use crate::wire;

/// Told as Keepalive_Interval: NATs forget datagrams after 30 s, and both ends send at half of it.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(30);
/// One that nobody has claimed for so long, though its request was answered, is not wanted.
const UNCONFIRMED: Duration = Duration::from_secs(10);
/// Having sent and heard nothing for so long, an end asks (spec 5); where packets came steadily it asks sooner.
const PROBE_AFTER: Duration = Duration::from_secs(5);
const LIVELY_PROBE_AFTER: Duration = Duration::from_millis(400);
/// Units that come this often on average are a call.
const LIVELY: Duration = Duration::from_millis(100);
/// An answer that takes longer than this, and than two round trips, puts the path in doubt.
const DOUBT_AFTER: Duration = Duration::from_millis(250);

/// See the module.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) at: Candidate,
    tsid: Tsid,
    next_sequence: Sequence,
    /// The request that made it, and what it was answered.
    configured: Option<(Sequence, Bytes)>,
    created: Instant,
    /// The other end has shown that it is there since the configuration.
    confirmed: bool,
    last_sent: Instant,
    last_heard: Instant,
    /// The last inner packet, either way.
    pub(super) last_packet: Instant,
    beat: Duration,
    unanswered_since: Option<Instant>,
    silence: Duration,
    /// The Keepalive that waits for a sign of life, and since when.
    asked: Option<(Request<()>, Instant)>,
    /// The last one, for how long its answer takes.
    last_asked: Option<(Sequence, Instant)>,
    round_trip: Option<Duration>,
    message_errors: u8,
}

/// What became of a unit.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// An inner packet for this client.
    Packet,
    Used,
    Dropped,
    /// The tunnel is over.
    End(PathEnd),
}

impl Link {
    /// The end that has asked for it, with the other's answer.
    pub(super) fn claimed(
        now: Instant,
        at: Candidate,
        tsid: Tsid,
        random: &mut dyn Random,
    ) -> Self {
        let half = KEEPALIVE / 2;
        Self {
            at,
            tsid,
            next_sequence: Sequence(random.u32()),
            configured: None,
            created: now,
            confirmed: true,
            last_sent: now,
            last_heard: now,
            last_packet: now,
            beat: PROBE_AFTER,
            unanswered_since: None,
            silence: half - random.up_to(half / 10),
            asked: None,
            last_asked: None,
            round_trip: None,
            message_errors: 0,
        }
    }

    /// The end that was asked, with its own answer.
    pub(super) fn granted(
        now: Instant,
        at: Candidate,
        tsid: Tsid,
        answer: (Sequence, Bytes),
        random: &mut dyn Random,
    ) -> Self {
        Self {
            configured: Some(answer),
            confirmed: false,
            ..Self::claimed(now, at, tsid, random)
        }
    }

    /// Whether packets may take this way now.
    pub(super) fn is_usable(&self, now: Instant) -> bool {
        let patience = (self.round_trip.unwrap_or_default() * 2).max(DOUBT_AFTER);
        let doubted = |(_, since): &(Request<()>, Instant)| *since + patience <= now;
        self.confirmed && !self.asked.as_ref().is_some_and(doubted)
    }

    pub(super) const fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// A packet goes out.
    pub(super) fn note_packet(&mut self, now: Instant) {
        self.last_packet = now;
        self.note_sent(now);
    }

    fn note_sent(&mut self, now: Instant) {
        self.last_sent = now;
        self.unanswered_since.get_or_insert(now);
    }

    fn heard(&mut self, now: Instant) {
        let pause = now.saturating_duration_since(self.last_heard);
        self.beat = (self.beat * 15 + pause) / 16;
        self.last_heard = now;
        self.unanswered_since = None;
        self.confirmed = true;
        self.asked = None;
    }

    fn send(&mut self, now: Instant, bytes: Bytes, out: &mut Outbox) {
        self.note_sent(now);
        out.push(self.at, bytes);
    }

    /// An inner packet: from the other end's address to ours, both of them (spec 8.1).
    pub(super) fn packet(&mut self, now: Instant, terms: &Terms, packet: &IpPacket<'_>) -> Taken {
        if packet.source() != terms.peer || packet.destination() != terms.own {
            return Taken::Dropped;
        }
        self.heard(now);
        self.last_packet = now;
        Taken::Packet
    }

    pub(super) fn control(
        &mut self,
        now: Instant,
        message: &ControlMessage<'_>,
        out: &mut Outbox,
    ) -> Taken {
        let header = message.header();
        if header.cm_type == CmType::CONFIGURATION_REQUEST {
            return self.repeated(now, header.sequence, out);
        }
        if header.tsid != self.tsid {
            // Spec 4, "Wrong TSID".
            let is_late = header.tsid == Tsid::UNASSIGNED;
            return if self.at.transport == Transport::Udp || is_late {
                Taken::Dropped
            } else {
                Taken::End(PathEnd::Protocol)
            };
        }
        // A late copy says nothing about whether anything of ours has arrived since.
        if header.cm_type == CmType::CONFIGURATION_RESPONSE {
            return Taken::Dropped;
        }
        let parsed = match message.parse() {
            Ok(parsed) => parsed,
            Err(error) => {
                if let Some(bytes) = wire::refuse_message(&header, &error) {
                    self.send(now, bytes, out);
                }
                return self.message_error(&error);
            }
        };
        self.heard(now);
        match header.cm_type {
            CmType::KEEPALIVE => {
                let seen = Some(self.at.address);
                if let Some(bytes) = wire::keepalive_response(&header, seen, None) {
                    self.send(now, bytes, out);
                    // Whoever asks hears this; it is nothing that waits for an answer.
                    self.unanswered_since = None;
                }
                Taken::Used
            }
            CmType::KEEPALIVE_RESPONSE => {
                if let Some((_, asked_at)) = self
                    .last_asked
                    .take_if(|(sequence, _)| *sequence == header.sequence)
                {
                    let sample = now.saturating_duration_since(asked_at);
                    self.round_trip = Some(
                        self.round_trip
                            .map_or(sample, |smoothed| (smoothed * 7 + sample) / 8),
                    );
                }
                Taken::Used
            }
            CmType::CONFIGURATION_RELEASE_REQUEST => {
                if let Some(bytes) = wire::success(&header) {
                    self.send(now, bytes, out);
                }
                Taken::End(PathEnd::Released)
            }
            // There are no services inside.
            CmType::CLIENT_SERVICE_REQUEST | CmType::SERVICE_REQUEST => {
                let code = ResponseCode::SERVICE_UNAVAILABLE;
                if let Some(bytes) = wire::service_refusal(&parsed, code, None) {
                    self.send(now, bytes, out);
                }
                Taken::Used
            }
            _ => Taken::Dropped,
        }
    }

    /// The request that made the tunnel again: its answer was lost.
    fn repeated(&mut self, now: Instant, sequence: Sequence, out: &mut Outbox) -> Taken {
        let answer = self.configured.as_ref();
        match answer.filter(|(made_by, _)| *made_by == sequence) {
            Some((_, bytes)) => {
                let bytes = bytes.clone();
                self.send(now, bytes, out);
                Taken::Used
            }
            None => Taken::Dropped,
        }
    }

    /// The 8th ends it, as on any transport (spec 2); what a newer client may say in good faith does not count.
    fn message_error(&mut self, error: &MessageError) -> Taken {
        if error.response_code() == ResponseCode::MALFORMED {
            self.message_errors = self.message_errors.saturating_add(1);
        }
        if self.message_errors >= MESSAGE_ERROR_LIMIT {
            Taken::End(PathEnd::Protocol)
        } else {
            Taken::Dropped
        }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        let unconfirmed = (!self.confirmed).then(|| self.created + UNCONFIRMED);
        let asked = match &self.asked {
            Some((request, _)) => Some(request.due()),
            None => Some(self.keepalive_due()),
        };
        unconfirmed.into_iter().chain(asked).min()
    }

    fn keepalive_due(&self) -> Instant {
        // The other end waits for a sign of life before it sends anything (spec 5, "Unconfirmed"); and both want to know from the start
        // how long an answer takes.
        if self.confirmed && self.last_asked.is_none() && self.round_trip.is_none() {
            return self.created;
        }
        let patience = if self.beat < LIVELY {
            LIVELY_PROBE_AFTER
        } else {
            PROBE_AFTER
        };
        let regular = self.last_sent + self.silence;
        let probe = self.unanswered_since.map(|since| since + patience);
        probe.map_or(regular, |probe| probe.min(regular))
    }

    /// Does what is due; why the tunnel is over, if it is.
    pub(super) fn timeout(&mut self, now: Instant, out: &mut Outbox) -> Option<PathEnd> {
        if !self.confirmed && self.created + UNCONFIRMED <= now {
            return Some(PathEnd::NotClaimed);
        }
        if let Some((request, _)) = &mut self.asked {
            match request.poll(now) {
                Step::Wait => {}
                Step::Retransmit(bytes) => self.send(now, bytes, out),
                Step::Failed => return Some(PathEnd::Silent),
            }
            return None;
        }
        if self.keepalive_due() <= now {
            self.probe(now, out);
        }
        None
    }

    /// Asks whether the other end is still there.
    pub(super) fn probe(&mut self, now: Instant, out: &mut Outbox) {
        if self.asked.is_some() {
            return;
        }
        let sequence = self.next_sequence;
        let Some(bytes) = wire::keepalive(self.tsid, sequence) else {
            return;
        };
        self.next_sequence = sequence.next();
        let answer = CmType::KEEPALIVE_RESPONSE;
        let schedule = Schedule::keepalive(self.at.transport.is_stream());
        let request = Request::sent(now, (), sequence, answer, bytes.clone(), schedule);
        self.asked = Some((request, now));
        self.last_asked = Some((sequence, now));
        self.send(now, bytes, out);
    }

    /// Says goodbye, once: if it is lost, the server tells the other end, or silence does.
    pub(super) fn release(&self, out: &mut Outbox) {
        if let Some(bytes) = wire::release_request(self.tsid, self.next_sequence, None) {
            out.push(self.at, bytes);
        }
    }
}

/// Whether an assignment gives this inner address and no other.
pub(super) fn gives_only(
    mut given: impl Iterator<Item = tsc_tpl::AssignedAddress>,
    own: IpAddr,
) -> bool {
    let whole = if own.is_ipv4() { 32 } else { 128 };
    let first = given.next();
    let fits = first.is_some_and(|given| given.addr == own && given.prefix_len == whole);
    fits && given.next().is_none()
}
