//! Redundancy over streams: further ones that the family claims (spec 7).
//!
//! A grant is in force at once: frames go over the main tunnel, and over each companion as soon as that works. One that is lost
//! resumes alone; one that is over is asked for again after a rest.

use std::time::Instant;

use tsc_tpl::{Message, RedundancyMethod};

use super::super::super::{Client, State};
use super::{Flow, method};
use crate::backoff::Backoff;
use crate::companion::{CompanionRole, Offer};
use crate::flow::FlowKey;
use crate::redundancy::MAX_COPIES;

/// The further streams of one tunnel.
#[derive(Debug)]
pub(super) struct Streams {
    /// Companions that the family has not seen yet; at most [`MAX_COPIES`].
    offers: Vec<Offer>,
    /// When to ask for those that are missing.
    renew_at: Option<Instant>,
    rest: Backoff,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            offers: Vec::new(),
            renew_at: None,
            rest: Backoff::NETWORK,
        }
    }
}

impl Streams {
    /// The server offers companions to be claimed.
    pub(super) fn offered(&mut self, answer: &Message<'_>) {
        // Which of the streams it will be is for the family to say.
        let offers = Offer::read(answer, CompanionRole::Redundancy(0));
        self.offers = offers.take(usize::from(MAX_COPIES)).collect();
        // They are taken from the end.
        self.offers.reverse();
    }

    pub(super) const fn deadline(&self) -> Option<Instant> {
        self.renew_at
    }
}

impl Client {
    /// A further stream to be claimed.
    pub(in super::super::super) fn take_stream_offer(&mut self) -> Option<Offer> {
        match &mut self.state {
            State::Up(tunnel) => tunnel.services.redundancy.streams.offers.pop(),
            State::Idle | State::Connecting(_) | State::Down => None,
        }
    }

    /// How many further streams there are to be.
    pub(in super::super::super) fn wanted_streams(&self) -> u8 {
        let State::Up(tunnel) = &self.state else {
            return 0;
        };
        let sockets = &tunnel.services.redundancy;
        if !sockets
            .group
            .as_ref()
            .is_some_and(|group| group.is_stream())
        {
            return 0;
        }
        let wanted = sockets.flows.iter().filter(|flow| flow.is_wanted());
        wanted.filter_map(Flow::granted).max().unwrap_or(0)
    }

    /// One of them works: the next that is lost is asked for soon.
    pub(in super::super::super) fn stream_works(&mut self) {
        if let State::Up(tunnel) = &mut self.state {
            tunnel.services.redundancy.streams.rest.reset();
        }
    }

    /// One of them is over, or could not be had.
    pub(in super::super::super) fn stream_over(&mut self, now: Instant) {
        if let State::Up(tunnel) = &mut self.state {
            let streams = &mut tunnel.services.redundancy.streams;
            if streams.renew_at.is_none() {
                streams.renew_at = Some(now + streams.rest.next());
            }
        }
    }

    /// Asks for the streams that are missing when it is time.
    pub(super) fn renew_streams(&mut self, now: Instant) {
        let State::Up(tunnel) = &mut self.state else {
            return;
        };
        let sockets = &mut tunnel.services.redundancy;
        let is_due = sockets.streams.renew_at.take_if(|at| *at <= now).is_some();
        if is_due {
            // The one with most of them has them all.
            let wanted = sockets.flows.iter().filter(|flow| flow.is_wanted());
            let most = wanted.max_by_key(|flow| flow.granted());
            let most = most.map(|flow| flow.key);
            sockets.flows.renew(|flow| Some(flow.key) == most);
            self.settle_redundancy(now);
        }
    }

    /// Over how many further streams the packets of a socket go, and whether each over all of them; `None` if that is not in force.
    #[inline]
    pub(in super::super::super) fn streams_of(&self, key: FlowKey) -> Option<(u8, bool)> {
        let State::Up(tunnel) = &self.state else {
            return None;
        };
        let sockets = &tunnel.services.redundancy;
        let _of_streams = sockets.group.as_ref().filter(|group| group.is_stream())?;
        let flow = sockets.flows.find(key)?;
        let is_each = method(true, flow.wish) == RedundancyMethod::FAN_OUT;
        Some((flow.granted()?, is_each))
    }
}
