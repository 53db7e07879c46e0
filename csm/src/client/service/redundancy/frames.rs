//! The data path: packets into frames, frames into packets, and what is lost of both.

use std::time::{Duration, Instant};

use tsc_tpl::{IpPacket, Limits, ReceptionReport, RedundancyFrame};

use super::super::super::event::{DropReason, Epoch, Fresh, Inbound};
use super::super::super::tunnel::Tunnel;
use super::super::super::{Client, State};
use super::{Flow, Redundancy, RedundancyStatus, Sockets};
use crate::assignment::InnerAddress;
use crate::flow::FlowKey;
use crate::redundancy::{Adaptive, Arrival, MAX_COPIES, Sender, Window};

/// Between two looks at the other end's figures while media passes.
const REPORT_EVERY: Duration = Duration::from_millis(500);

/// The frames of the tunnel: one sequence for each direction.
#[derive(Debug)]
pub(super) struct Group {
    /// Of a stream and further ones: a frame holds one packet.
    is_stream: bool,
    sender: Sender,
    window: Window,
    /// For the server's direction, and for this end's.
    down: Adaptive,
    up: Adaptive,
    uplink: Option<ReceptionReport>,
    /// The server grants no more than this.
    most: u8,
    /// When to ask for the other end's figures next.
    report_at: Option<Instant>,
    /// Nothing is granted any more; until when frames of before are taken.
    pub(super) until: Option<Instant>,
}

impl Group {
    pub(super) fn new(is_stream: bool) -> Box<Self> {
        Box::new(Self {
            is_stream,
            sender: if is_stream {
                Sender::of_streams()
            } else {
                Sender::default()
            },
            window: if is_stream {
                Window::of_streams()
            } else {
                Window::default()
            },
            down: Adaptive::default(),
            up: Adaptive::default(),
            uplink: None,
            most: MAX_COPIES,
            report_at: None,
            until: None,
        })
    }

    pub(super) const fn is_stream(&self) -> bool {
        self.is_stream
    }

    /// The server grants so many copies of those that were asked for.
    pub(super) fn limit(&mut self, granted: u8, asked: u8) {
        if granted < asked {
            self.most = self.most.min(granted);
        }
    }

    /// Copies that the network needs from the server.
    pub(super) fn downlink_copies(&self, most: u8) -> u8 {
        self.down.factor().min(self.most).min(most)
    }

    /// Copies of a packet that this end sends. A server that does not tell what it lost is believed to lose as much.
    pub(super) fn copies(&self, flow: &Flow) -> u8 {
        let Some(granted) = flow.granted() else {
            return 0;
        };
        match flow.wish {
            Redundancy::Off | Redundancy::Copies(_) | Redundancy::Balanced(_) => granted,
            Redundancy::Adaptive { most } => {
                let told = if self.up.is_told() {
                    &self.up
                } else {
                    &self.down
                };
                told.factor().min(most).min(self.most)
            }
        }
    }

    pub(super) const fn downlink(&self) -> ReceptionReport {
        self.window.reception()
    }

    pub(super) const fn uplink(&self) -> Option<ReceptionReport> {
        self.uplink
    }
}

impl Sockets {
    /// When there is something to do.
    pub(in super::super) fn deadline(&self) -> Option<Instant> {
        let group = self.group.as_ref();
        let group = group.map(|group| [group.report_at, group.until, group.sender.expires()]);
        let group = group.into_iter().flatten().flatten();
        group.chain(self.streams.deadline()).min()
    }

    /// Media passes: figures are wanted soon, if any socket goes by them.
    fn note_media(&mut self, now: Instant) {
        let adapts = |flow: &Flow| matches!(flow.wish, Redundancy::Adaptive { most: 1.. });
        if let Some(group) = &mut self.group
            && group.report_at.is_none()
            && self.flows.iter().any(adapts)
        {
            group.report_at = Some(now + REPORT_EVERY);
        }
    }

    fn frame(
        &mut self,
        now: Instant,
        own: &[InnerAddress],
        packet: &[u8],
        out: &mut Vec<u8>,
    ) -> bool {
        let Some(group) = &mut self.group else {
            return false;
        };
        let Ok(packet) = IpPacket::decode(packet, &Limits::WIDEST) else {
            return false;
        };
        // Hosts behind this client have no sockets of its own.
        let source = packet.source();
        let key =
            FlowKey::of_source(&packet).filter(|_| own.iter().any(|inner| inner.address == source));
        let Some(flow) = self
            .flows
            .iter_mut()
            .find(|flow| Some(flow.key) == key && flow.granted().is_some())
        else {
            return false;
        };
        let copies = group.copies(flow);
        let repeats = if group.is_stream { 0 } else { copies };
        let framed = group.sender.frame(now, &packet, repeats, usize::MAX, out);
        if framed {
            flow.status.sent += 1;
            flow.status.copies += u64::from(copies);
            self.note_media(now);
        }
        framed
    }
}

impl RedundancyStatus {
    const fn count(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Original => self.received += 1,
            Arrival::Recovered => {
                self.received += 1;
                self.recovered += 1;
            }
            Arrival::Duplicate => self.duplicates += 1,
            Arrival::Outdated => {}
        }
    }
}

impl Client {
    /// Writes the frame that an inner packet travels in to `frame`, which is empty. False, and nothing written, if it travels as it
    /// is.
    #[inline]
    pub fn frame(&mut self, now: Instant, packet: &[u8], frame: &mut Vec<u8>) -> bool {
        match &mut self.state {
            State::Up(tunnel) => {
                let own = &tunnel.assignment.addresses;
                let sockets = &mut tunnel.services.redundancy;
                sockets.frame(now, own, packet, frame)
            }
            State::Idle | State::Connecting(_) | State::Down => false,
        }
    }

    /// Takes a redundancy frame.
    pub(in super::super::super) fn handle_frame<'a>(
        &mut self,
        now: Instant,
        epoch: Epoch,
        frame: RedundancyFrame<'a>,
    ) -> Inbound<'a> {
        // Frames may overtake the answer to a resume as packets do.
        let State::Up(tunnel) = &mut self.state else {
            return self.drop_unit(DropReason::StaleEpoch);
        };
        if !tunnel.takes_from(epoch) {
            return self.drop_unit(DropReason::StaleEpoch);
        }
        let is_known = tunnel.services.redundancy.group.is_some();
        if !is_known || frame.count() == 0 {
            return self.unexpected_frame(now, epoch);
        }
        let inbound = self.pass_frame(now, frame);
        if matches!(inbound, Inbound::DeliverFrame(..)) {
            self.heard_over(now, epoch);
        }
        inbound
    }

    /// Takes a frame of this tunnel's group, whichever tunnel of the family it has come over.
    pub(in super::super::super) fn pass_frame<'a>(
        &mut self,
        now: Instant,
        frame: RedundancyFrame<'a>,
    ) -> Inbound<'a> {
        match self.take_frame(now, &frame) {
            Ok(fresh) => Inbound::DeliverFrame(frame, fresh),
            Err(reason) => self.drop_unit(reason),
        }
    }

    /// Whether frames are taken.
    pub(in super::super::super) fn takes_frames(&self) -> bool {
        matches!(&self.state, State::Up(tunnel) if tunnel.services.redundancy.group.is_some())
    }

    fn take_frame(
        &mut self,
        now: Instant,
        frame: &RedundancyFrame<'_>,
    ) -> Result<Fresh, DropReason> {
        let State::Up(tunnel) = &mut self.state else {
            return Err(DropReason::StaleEpoch);
        };
        let Tunnel {
            services,
            assignment,
            ..
        } = &mut **tunnel;
        let sockets = &mut services.redundancy;
        let (Some(group), Some(newest)) = (&mut sockets.group, frame.entries().next()) else {
            return Err(DropReason::UnexpectedFrame);
        };
        let own = &assignment.addresses;
        let is_own = |packet: &IpPacket<'_>| {
            let destination = packet.destination();
            own.iter().any(|inner| inner.address == destination)
        };
        // On plain UDP that is a part of what makes it authentic: nothing else moves the window.
        if !is_own(&newest.packet) {
            return Err(DropReason::Destination);
        }
        if !group.window.believes(newest.sequence) {
            return Err(DropReason::FarFrame);
        }
        let mut fresh = Fresh::default();
        let places = (0_u16..u16::from(frame.count())).rev();
        for (place, entry) in places.zip(frame.entries().rev()) {
            if !is_own(&entry.packet) {
                self.stats.wrong_destination += 1;
                continue;
            }
            let arrival = group.window.take(entry.sequence, place == 0);
            if arrival.is_new() {
                fresh.add(place);
                self.stats.delivered += 1;
            }
            let key = FlowKey::of_destination(&entry.packet);
            let mut flows = sockets.flows.iter_mut();
            if let Some(flow) = flows.find(|flow| Some(flow.key) == key) {
                flow.status.count(arrival);
            }
        }
        sockets.note_media(now);
        Ok(fresh)
    }

    /// What the answer to a Keepalive says of this end's direction.
    pub(in super::super::super) fn redundancy_reported(
        &mut self,
        now: Instant,
        report: Option<ReceptionReport>,
    ) {
        if let (State::Up(tunnel), Some(report)) = (&mut self.state, report)
            && let Some(group) = &mut tunnel.services.redundancy.group
        {
            group.uplink = Some(report);
            group.up.report(now, report);
        }
    }

    /// Does what is due.
    pub(in super::super::super) fn redundancy_timeout(&mut self, now: Instant) {
        let State::Up(tunnel) = &mut self.state else {
            return;
        };
        let sockets = &mut tunnel.services.redundancy;
        let Some(group) = &mut sockets.group else {
            return self.renew_streams(now);
        };
        group.sender.expire(now);
        let asks = group.report_at.take_if(|at| *at <= now).is_some();
        if asks {
            group.down.report(now, group.window.reception());
        }
        if group.until.is_some_and(|until| until <= now) {
            sockets.group = None;
        }
        self.renew_streams(now);
        if asks {
            self.settle_redundancy(now);
            self.ask_report();
        }
    }

    /// Asks for the server's figures by a Keepalive that is for nothing else: lost or not, it says nothing about the transport.
    fn ask_report(&mut self) {
        let sent = self.send_aside();
        if let (Some((_, sequence)), State::Up(tunnel)) = (sent, &mut self.state) {
            tunnel.last_report = Some(sequence);
            self.stats.reports += 1;
        }
    }
}
