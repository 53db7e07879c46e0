//! A segment arrives at a connection (RFC 9293, section 3.10.7, with RFC 5961's care).

use std::time::Instant;

use super::budget::Budget;
use super::connection::Connection;
use super::segment::Segment;
use super::sender::Heard;
use super::seq::Seq;
use super::types::TcpState;

/// Acknowledgements older than this many bytes are nobody's (RFC 5961, section 5.2: the largest window; a window is
/// no larger than this).
const MAX_OLD_ACK: u32 = 1 << 30;

/// What has come of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The peer was heard.
    Heard,
    /// It does not fit, and the peer is told where we are.
    Answered,
    Dropped,
    /// It does not fit: say where we are, but not often.
    Challenge,
    /// It belongs to another connection: the peer gets a reset.
    Refused,
    /// The peer has ended the connection.
    Reset,
}

impl Connection {
    /// Takes a segment; `path` is the payload that the path carries.
    pub(super) fn arrive(
        &mut self,
        now: Instant,
        segment: &Segment<'_>,
        budget: &Budget,
        path: u32,
    ) -> Outcome {
        let Some(receiver) = &self.receiver else {
            return self.arrive_first(now, segment, path);
        };
        let expected = receiver.next();
        if segment.is_rst() {
            // RFC 5961, section 3.2: only the exact number ends a connection.
            let (seq, limit) = (segment.seq(), receiver.limit());
            return if seq == expected {
                Outcome::Reset
            } else if seq.is_after(expected) && seq.is_before(limit) {
                Outcome::Challenge
            } else {
                Outcome::Dropped
            };
        }
        let opening = self.state() == TcpState::SynReceived;
        if segment.is_syn() {
            return match segment.ack() {
                // The peer opened at the same time.
                Some(ack)
                    if opening
                        && ack == self.sender.next()
                        && segment.seq().plus(1) == expected =>
                {
                    self.opens(now, segment, ack);
                    Outcome::Heard
                }
                // Our answer was lost; it will be repeated.
                None if opening => Outcome::Dropped,
                // RFC 5961, section 4: a peer that has restarted learns where we are.
                _ => Outcome::Challenge,
            };
        }
        let Some(ack) = segment.ack() else {
            return Outcome::Dropped;
        };
        if !receiver.accepts(segment.seq(), segment.len()) {
            if segment.len() == 0 {
                return Outcome::Challenge;
            }
            // A peer that repeats what we have, or asks for a window, must hear of it each time.
            if let Some(receiver) = &mut self.receiver {
                receiver.repeated(segment.seq(), segment.payload_len());
            }
            return Outcome::Answered;
        }
        if opening {
            if ack != self.sender.next() {
                return Outcome::Refused;
            }
            self.opens(now, segment, ack);
        } else {
            let (first, next) = (self.sender.unacknowledged(), self.sender.next());
            if ack.is_after(next) || (ack.is_before(first) && first.since(ack) > MAX_OLD_ACK) {
                return Outcome::Challenge;
            }
            if !ack.is_before(first) {
                self.sender.hear(now, &heard(segment, ack));
            }
        }
        self.take(now, segment, budget);
        Outcome::Heard
    }

    /// The first segment that answers our SYN.
    fn arrive_first(&mut self, now: Instant, segment: &Segment<'_>, path: u32) -> Outcome {
        let ack = segment.ack();
        match ack {
            Some(ack) if ack != self.sender.next() || ack == self.sender.initial() => {
                return if segment.is_rst() {
                    Outcome::Dropped
                } else {
                    Outcome::Refused
                };
            }
            Some(_) if segment.is_rst() => return Outcome::Reset,
            Some(_) | None => {}
        }
        if !segment.is_syn() {
            return Outcome::Dropped;
        }
        self.learn_syn(segment, path);
        match ack {
            Some(ack) => {
                self.opens(now, segment, ack);
                if let Some(receiver) = &mut self.receiver {
                    receiver.ack_soon();
                }
            }
            // Both have asked: the SYN goes again, as an answer.
            None => self.sender.repeat_syn(),
        }
        Outcome::Heard
    }

    fn opens(&mut self, now: Instant, segment: &Segment<'_>, ack: Seq) {
        self.opened(now);
        self.sender.hear(now, &heard(segment, ack));
    }

    fn take(&mut self, now: Instant, segment: &Segment<'_>, budget: &Budget) {
        let most = budget.most(self.held()[0]);
        if let Some(receiver) = &mut self.receiver {
            if segment.len() > 0 {
                receiver.take(
                    now,
                    segment.seq(),
                    segment.payload(),
                    segment.is_fin(),
                    most,
                );
            }
            let offer = budget.offer(receiver.held());
            receiver.open_window(offer);
        }
    }
}

fn heard(segment: &Segment<'_>, ack: Seq) -> Heard {
    Heard {
        seq: segment.seq(),
        ack,
        window: segment.window(),
        syn: segment.is_syn(),
        empty: segment.len() == 0,
        blocks: segment.blocks(),
    }
}
