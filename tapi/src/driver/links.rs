//! Open transports: what comes in, what goes out, and how they end.

use std::{
    collections::VecDeque,
    io::IoSlice,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tsc_csm::client::{BadUnit, Client, Direct, Epoch, Inbound, Target, TransportLoss};
use tsc_osaa::{
    client::{self as transport, ClientTransport, Received, TransportError},
    stream::StreamError,
    tls::TlsError,
    trace::{Capture, Direction, Interface},
};
use tsc_tpl::{IpPacket, Limits, StreamDecoder, Unit};

use super::Driver;
use crate::{
    server::Server,
    shared::{Shared, State},
};

/// Packets that a turn takes from the stack at a time.
const BATCH: usize = 64;
/// Reads of one transport in one turn: each of some bytes of a stream, or of a batch of datagrams.
const READS_PER_TURN: usize = 8;
/// How long a transport may take to end in order.
pub(super) const CLOSE_TIME: Duration = Duration::from_secs(1);
/// Control messages that wait for one transport. Beyond it they are dropped, as a network would drop them: a server
/// that asks without reading our answers must not fill our memory.
const CONTROL_BACKLOG: usize = 64;

/// A transport that is open. There are two while a tunnel moves.
pub(super) struct Link {
    pub(super) epoch: Epoch,
    pub(super) target: Target,
    pub(super) server: Server,
    pub(super) transport: ClientTransport,
    pub(super) decoder: StreamDecoder,
    /// Control messages that wait for the transport; at most [`CONTROL_BACKLOG`].
    pub(super) control: VecDeque<Bytes>,
}

impl Driver {
    /// Reads what has arrived on all transports.
    pub(super) fn receive(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let mut progress = false;
        let mut index = 0;
        let mut buffer = std::mem::take(&mut self.buffer);
        while index < self.links.len() {
            for _ in 0..READS_PER_TURN {
                let Some(link) = self.links.get_mut(index) else {
                    break;
                };
                let mut inbound = Inbox {
                    now,
                    epoch: link.epoch,
                    client: &mut self.client,
                    shared: &self.shared,
                    capture: self.capture.as_ref().map(|(_, capture)| capture),
                };
                match link.transport.poll_recv_batch(cx, &mut buffer) {
                    Poll::Pending => {
                        progress |= self.note_refusal(now, index);
                        break;
                    }
                    Poll::Ready(Ok(received)) => {
                        progress = true;
                        inbound.take(received, &mut link.decoder, self.limits);
                    }
                    Poll::Ready(Err(error)) => {
                        progress = true;
                        self.lost(now, index, &error);
                        break;
                    }
                }
            }
            index += 1;
        }
        self.buffer = buffer;
        if progress {
            self.shared.drive(|_| ());
        }
        progress
    }

    /// Gives up a transport over plain UDP to where nobody listens; true if it was one.
    fn note_refusal(&mut self, now: Instant, index: usize) -> bool {
        if !self
            .links
            .get(index)
            .is_some_and(|link| link.transport.is_refused())
        {
            return false;
        }
        let link = self.links.swap_remove(index);
        let error = transport::ConnectError::Refused {
            address: link.transport.peer_addr(),
        };
        self.attempt_failed(now, link.epoch, link.server, error);
        true
    }

    pub(super) fn lost(&mut self, now: Instant, index: usize, error: &TransportError) {
        let link = self.links.swap_remove(index);
        tracing::debug!(epoch = ?link.epoch, %error, "transport lost");
        if let TransportError::Stream(StreamError::Tls(TlsError::Alert { alert })) = error
            && self.client.can_send() != Some(link.epoch)
        {
            // With TLS 1.3 a server that refuses our certificate says so after our handshake is done.
            let error = transport::ConnectError::from_alert(*alert);
            self.attempt_failed(now, link.epoch, link.server, error);
        }
        let why = if error.is_orderly() {
            TransportLoss::ClosedByServer
        } else {
            TransportLoss::Failed
        };
        // Without effect if the attempt has failed already.
        self.client.transport_lost(now, link.epoch, why);
    }

    /// Sends what the control plane and the sockets have for the transports; true if something left.
    pub(super) fn send(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        self.take_control();
        let mut progress = false;
        let mut index = 0;
        let mut blocked = true;
        let packets_to = self.client.can_send();
        while let Some(link) = self.links.get_mut(index) {
            let capture = self.capture.as_ref().map(|(_, capture)| capture);
            let sent = link.send_control(cx, capture).and_then(|control| {
                let packets = if packets_to == Some(link.epoch) && link.control.is_empty() {
                    let outbox = Outbox {
                        now,
                        client: &mut self.client,
                        packets: &mut self.outbox,
                        sent: &mut self.sent,
                        frame: &mut self.frame,
                        direct: &mut self.peers.outbox,
                        limits: self.limits,
                        capture,
                    };
                    let outcome = outbox.send(link, &self.shared, cx)?;
                    blocked = outcome.blocked;
                    outcome.progress
                } else {
                    false
                };
                if let Poll::Ready(Err(error)) = link.transport.poll_flush(cx) {
                    return Err(error);
                }
                Ok((control, packets))
            });
            match sent {
                Ok((control, packets)) => {
                    progress |= control || packets;
                    if packets {
                        self.client.note_sent(now);
                    }
                    index += 1;
                }
                Err(error) => {
                    progress = true;
                    self.lost(now, index, &error);
                }
            }
        }
        if packets_to.is_none() && !self.peers.is_empty() {
            self.drain_for_peers(now);
            blocked = false;
        }
        let mut state = self.shared.lock();
        state.blocked = blocked;
        state.bound = packets_to.is_some();
        drop(state);
        progress
    }

    /// While the tunnel has no transport packets for peers go on; others wait, as many as a turn takes.
    fn drain_for_peers(&mut self, now: Instant) {
        let mut state = self.shared.lock();
        Outbox {
            now,
            client: &mut self.client,
            packets: &mut self.outbox,
            sent: &mut self.sent,
            frame: &mut self.frame,
            direct: &mut self.peers.outbox,
            limits: self.limits,
            capture: None,
        }
        .refill(&mut state);
    }

    /// Moves control messages to the transports they are for.
    pub(super) fn take_control(&mut self) {
        while let Some(transmit) = self.client.poll_transmit() {
            if let Some(link) = self
                .links
                .iter_mut()
                .find(|link| link.epoch == transmit.epoch && link.control.len() < CONTROL_BACKLOG)
            {
                link.control.push_back(transmit.bytes);
            }
        }
    }

    /// Ends a transport in the background, behind what is queued for it.
    pub(super) fn close(&mut self, epoch: Epoch) {
        self.take_control();
        self.openings.retain(|opening| opening.epoch != epoch);
        let Some(index) = self.links.iter().position(|link| link.epoch == epoch) else {
            return;
        };
        let Link {
            mut transport,
            control,
            ..
        } = self.links.swap_remove(index);
        if let Some((_, capture)) = &self.capture {
            for message in &control {
                capture.record(Interface::Control, Direction::Outbound, message);
            }
        }
        self.closing.spawn(async move {
            let units: Vec<IoSlice<'_>> = control.iter().map(|bytes| IoSlice::new(bytes)).collect();
            // The end of a transport is nobody's error.
            drop(tokio::time::timeout(CLOSE_TIME, transport.send(&units)).await);
            transport.close(CLOSE_TIME).await;
        });
        while self.closing.try_join_next().is_some() {}
    }
}

/// Where received units go.
struct Inbox<'a> {
    now: Instant,
    epoch: Epoch,
    client: &'a mut Client,
    shared: &'a Shared,
    capture: Option<&'a Capture>,
}

impl Inbox<'_> {
    /// Hands in what one call has received, under one lock: some of a stream, or a batch of datagrams.
    fn take(&mut self, received: Received<'_>, decoder: &mut StreamDecoder, limits: Limits) {
        let mut state = self.shared.lock();
        state.stack.set_round_trip(self.client.round_trip());
        match received {
            Received::Bytes(bytes) => {
                let mut feed = decoder.feed(bytes);
                loop {
                    match feed.next() {
                        Ok(Some(unit)) => self.unit(&mut state, unit),
                        Ok(None) => break,
                        Err(error) => {
                            self.bad(BadUnit::Framing(error));
                            break;
                        }
                    }
                }
            }
            Received::Units(mut units) => {
                while let Some(bytes) = units.take_next() {
                    match Unit::decode_datagram(bytes, &limits) {
                        Ok(unit) => self.unit(&mut state, unit),
                        Err(error) => self.bad(BadUnit::Datagram(error)),
                    }
                }
            }
        }
    }

    fn unit(&mut self, state: &mut State, unit: Unit<'_>) {
        trace(self.capture, &unit, Direction::Inbound);
        match self.client.handle_unit(self.now, self.epoch, unit) {
            Inbound::Deliver(packet) => state.stack.handle_packet(self.now, packet.as_bytes()),
            Inbound::DeliverFrame(frame, fresh) => {
                for packet in fresh.packets(&frame) {
                    trace(self.capture, &Unit::Ip(packet), Direction::Inbound);
                    state.stack.handle_packet(self.now, packet.as_bytes());
                }
            }
            Inbound::Routed(packet) => state.routed.receive(self.now, packet.as_bytes()),
            Inbound::Consumed | Inbound::Dropped(_) => {}
        }
    }

    fn bad(&mut self, bad: BadUnit) {
        self.client.handle_bad_unit(self.now, self.epoch, bad);
    }
}

impl Link {
    fn send_control(
        &mut self,
        cx: &mut Context<'_>,
        capture: Option<&Capture>,
    ) -> Result<bool, TransportError> {
        let mut progress = false;
        while !self.control.is_empty() {
            let units: Vec<IoSlice<'_>> = self
                .control
                .iter()
                .map(|bytes| IoSlice::new(bytes))
                .collect();
            let Poll::Ready(taken) = self.transport.poll_send_batch(cx, &units) else {
                break;
            };
            let taken = taken?;
            for bytes in self.control.drain(..taken) {
                progress = true;
                if let Some(capture) = capture {
                    capture.record(Interface::Control, Direction::Outbound, &bytes);
                }
            }
        }
        Ok(progress)
    }
}

/// What became of a turn's packets.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    progress: bool,
    /// The transport takes no more for now, and wakes the driver when it does.
    blocked: bool,
}

/// Inner packets on their way to the transport.
struct Outbox<'a> {
    now: Instant,
    client: &'a mut Client,
    packets: &'a mut VecDeque<Vec<u8>>,
    sent: &'a mut Vec<Vec<u8>>,
    frame: &'a mut Vec<u8>,
    /// Those that do not go over the server; at most [`BATCH`].
    direct: &'a mut Vec<(Direct, Vec<u8>)>,
    limits: Limits,
    capture: Option<&'a Capture>,
}

impl Outbox<'_> {
    /// Sends inner packets until there are none or the transport takes no more.
    fn send(
        mut self,
        link: &mut Link,
        shared: &Shared,
        cx: &mut Context<'_>,
    ) -> Result<Sent, TransportError> {
        let mut outcome = Sent::default();
        loop {
            // Packets from one of the tunnel's own sockets to another make news on the way.
            let more = shared.drive(|state| {
                for buffer in self.sent.drain(..) {
                    state.recycle(buffer);
                }
                self.refill(state);
                state.stack.wants_transmit()
            });
            if self.packets.is_empty() {
                outcome.progress |= more;
                return Ok(outcome);
            }
            let mut units = [IoSlice::new(&[]); BATCH];
            for (unit, packet) in units.iter_mut().zip(self.packets.iter()) {
                *unit = IoSlice::new(packet);
            }
            let units = units.get(..self.packets.len()).unwrap_or_default();
            let Poll::Ready(taken) = link.transport.poll_send_batch(cx, units) else {
                outcome.blocked = true;
                return Ok(outcome);
            };
            let taken = taken?;
            outcome.progress |= taken > 0;
            if let Some(capture) = self.capture {
                for packet in self.packets.iter().take(taken) {
                    record(capture, packet);
                }
            }
            self.sent.extend(self.packets.drain(..taken));
        }
    }

    /// Takes packets from the inner sockets and from a gateway's hosts, into frames where sockets want that. One that was
    /// made before a resume lowered the inner MTU does not go out: on a stream it would end the transport (spec 2).
    fn refill(&mut self, state: &mut State) {
        while self.packets.len() < BATCH
            && self.direct.len() < BATCH
            && let Some(mut packet) = state.poll_transmit()
        {
            if packet.len() > usize::from(self.limits.inner_mtu) {
                state.recycle(packet);
                continue;
            }
            if let Some(direct) = self.client.direct(self.now, &packet) {
                self.direct.push((direct, packet));
                continue;
            }
            self.frame.clear();
            if self.client.frame(self.now, &packet, self.frame) {
                std::mem::swap(&mut packet, self.frame);
            }
            self.packets.push_back(packet);
        }
    }
}

/// Records an inner packet that leaves; of a frame the newest, as the others have left before.
pub(super) fn record(capture: &Capture, unit: &[u8]) {
    let packet = framed_packet(unit).map_or(unit, |packet| packet.as_bytes());
    capture.record(Interface::Inner, Direction::Outbound, packet);
}

/// The packet that a redundancy frame was made for; `None` if this is none.
pub(super) fn framed_packet(unit: &[u8]) -> Option<IpPacket<'_>> {
    match Unit::decode_datagram(unit, &Limits::WIDEST) {
        Ok(Unit::Redundancy(frame)) => Some(frame.entries().next()?.packet),
        _ => None,
    }
}

fn trace(capture: Option<&Capture>, unit: &Unit<'_>, direction: Direction) {
    let Some(capture) = capture else { return };
    match unit {
        Unit::Ip(packet) => capture.record(Interface::Inner, direction, packet.as_bytes()),
        Unit::Control(message) => capture.record(Interface::Control, direction, message.as_bytes()),
        Unit::Redundancy(_) | Unit::Reserved(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use tsc_eip::{SendOptions, Stack, StackConfig};

    use super::*;

    struct Zeros;

    impl tsc_csm::Random for Zeros {
        fn fill(&mut self, buf: &mut [u8]) {
            buf.fill(0);
        }
    }

    fn client() -> Client {
        let target = Target {
            transport: tsc_csm::Transport::Udp,
            endpoint: tsc_csm::client::Endpoint::Configured(0),
        };
        let config = tsc_csm::client::ClientConfig::new(vec![target]);
        Client::new(config, Box::new(Zeros)).unwrap()
    }

    #[test]
    fn packets_made_for_a_larger_inner_mtu_do_not_leave() {
        let stack = Stack::new(StackConfig::default(), 1);
        let shared = Shared::new(stack, tokio::sync::broadcast::Sender::new(1));
        let mut state = shared.lock();
        state.stack.set_mtu(1400);
        state
            .stack
            .set_addresses(&["10.0.0.1".parse().unwrap()])
            .unwrap();
        let local = "10.0.0.1:4000".parse().unwrap();
        let socket = state.stack.udp_bind(local).unwrap();
        let peer = "10.0.0.2:5000".parse().unwrap();
        for size in [1300, 100] {
            let payload = vec![0; size];
            state
                .stack
                .udp_send_to(
                    Instant::now(),
                    socket,
                    peer,
                    &payload,
                    &SendOptions::default(),
                )
                .unwrap();
        }
        let mut packets = VecDeque::new();
        let mut client = client();
        Outbox {
            now: Instant::now(),
            client: &mut client,
            packets: &mut packets,
            sent: &mut Vec::new(),
            frame: &mut Vec::new(),
            direct: &mut Vec::new(),
            limits: Limits::new(1280),
            capture: None,
        }
        .refill(&mut state);
        assert_eq!(packets.iter().map(Vec::len).collect::<Vec<_>>(), [128]);
    }
}
