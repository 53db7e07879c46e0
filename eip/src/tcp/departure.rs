//! A connection's next segment.

use std::time::Instant;

use super::budget::Budget;
use super::connection::Connection;
use super::receiver::Receiver;
use super::segment::Reply;
use super::sender::Plan;
use crate::egress::Egress;

impl Connection {
    /// Whether [`depart`](Self::depart) has something.
    pub(super) fn wants_departure(&self, now: Instant, budget: &Budget) -> bool {
        self.plan().is_some() || self.must_say(now, budget)
    }

    fn plan(&self) -> Option<Plan> {
        self.sender.plan(self.open, self.options.nodelay)
    }

    /// Whether something is to be said though there is nothing to send.
    fn must_say(&self, now: Instant, budget: &Budget) -> bool {
        let offer = self.offer(budget);
        self.open
            && self
                .receiver
                .as_ref()
                .is_some_and(|receiver| receiver.ack_due(now) || receiver.news_of_window(offer))
    }

    /// The next segment, no longer than the path carries.
    pub(super) fn depart(
        &mut self,
        now: Instant,
        budget: &Budget,
        egress: &mut Egress,
    ) -> Option<Vec<u8>> {
        let mtu = egress.path_mtu(now, self.tuple.remote.ip());
        let path = self.payload_of(mtu);
        self.sender.follow_path(path);
        // What the peer has to send again is told in a segment of its own, before any data.
        let reports = self.peer.sacks && self.receiver.as_ref().is_some_and(Receiver::has_report);
        let plan = self.plan().filter(|_| !(self.open && reports));
        if plan.is_none() && !self.must_say(now, budget) {
            return None;
        }
        let offer = self.offer(budget);
        let mut reply = Reply::default();
        if plan == Some(Plan::Syn) {
            self.fill_syn(&mut reply, path);
        } else if let Some(receiver) = &mut self.receiver {
            receiver.open_window(offer);
            if plan.is_none() && self.peer.sacks {
                reply.blocks = receiver.blocks();
            }
            let (ack, window) = receiver.tell();
            reply.ack = Some(ack);
            reply.window = window;
        }
        let Some(plan) = plan else {
            reply.seq = self.sender.next();
            return Some(reply.write(&self.tuple, egress));
        };
        let (at, len, last) = self.sender.place(plan);
        reply.seq = at;
        reply.fin = self.sender.has_end(plan);
        reply.push = last && len > 0;
        let packet = reply.write_with(&self.tuple, egress, len, |packet| {
            self.sender.append(at, len, packet);
        });
        self.sender.sent(now, plan, self.open);
        Some(packet)
    }

    fn fill_syn(&self, reply: &mut Reply, path: u32) {
        reply.syn = true;
        reply.ack = self.receiver.as_ref().map(Receiver::next);
        reply.window = self.windows.first;
        reply.mss = Some(u16::try_from(path).unwrap_or(u16::MAX));
        // An answer offers what was offered (RFC 7323, section 1.3; RFC 2018, section 2).
        let answers = reply.ack.is_some();
        reply.window_scale = (!answers || self.peer_scales).then_some(self.windows.shift);
        reply.sack = !answers || self.peer.sacks;
    }

    /// The segment that ends the connection at once, if the peer knows of it.
    pub(super) fn reset(&self) -> Option<Reply> {
        let receiver = self.receiver.as_ref()?;
        Some(Reply {
            rst: true,
            seq: self.sender.next(),
            ack: Some(receiver.next()),
            ..Reply::default()
        })
    }

    /// The path carries less than was sent.
    pub(super) fn path_shrank(&mut self, now: Instant, mtu: u16) {
        let path = self.payload_of(mtu);
        self.sender.path_shrank(now, path);
    }

    /// The answer to a SYN was sent before the connection was made.
    pub(super) fn has_answered(&mut self) {
        self.sender.has_sent_syn();
    }

    /// Bytes that were written.
    pub(super) fn write(&mut self, now: Instant, data: &[u8], budget: &Budget) -> usize {
        let (data, _) = data.split_at(data.len().min(self.room(budget)));
        if !data.is_empty() {
            self.sender.push(now, data);
        }
        data.len()
    }
}
