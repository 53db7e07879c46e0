//! Open transports: what comes in, what goes out, and how they end.

use std::{
    collections::VecDeque,
    io::IoSlice,
    net::IpAddr,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tsc_csm::client::{
    BadUnit, ENCRYPTED_TUNNEL, Epoch, Family, Inbound, MAX_TUNNELS, Spread, Target, TransportLoss,
};
use tsc_osaa::{
    client::{self as transport, ClientTransport, Received, TransportError},
    stream::StreamError,
    tls::TlsError,
    trace::{Direction, Interface, Tap},
};
use tsc_tpl::{IpPacket, Limits, StreamDecoder, Unit};

use super::Driver;
use crate::{
    server::Server,
    shared::{Shared, State},
};

/// Packets that a turn takes from the stack at a time.
pub(super) const BATCH: usize = 64;
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
                    tap: &self.tap,
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
        let mut progress = self.send_each(cx, now, |driver, cx, link| {
            link.send_control(cx, &driver.tap)
        });
        // Full queues of transports that take nothing end it.
        loop {
            let more = self.refill(now);
            if self.outboxes.iter().all(VecDeque::is_empty) {
                // Packets from one of the tunnel's own sockets to another make news on the way.
                progress |= more;
                break;
            }
            let sent = self.send_each(cx, now, |driver, cx, link| {
                driver.send_packets(cx, now, link)
            });
            progress |= sent;
            if !sent {
                break;
            }
        }
        self.send_each(cx, now, |_, cx, link| match link.transport.poll_flush(cx) {
            Poll::Ready(Err(error)) => Err(error),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(false),
        });
        let [main, ..] = &self.outboxes;
        let is_bound = self.client.can_send().is_some();
        let mut state = self.shared.lock();
        // Without a transport packets are no news, but for those that have another way.
        let has_other_ways = self.client.has_other_ways() || !self.peers.is_empty();
        state.blocked = !has_other_ways && (!main.is_empty() || !is_bound);
        state.bound = is_bound;
        drop(state);
        progress
    }

    /// Lets every transport do something; those that fail are lost. True if anything came of it.
    fn send_each(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        mut send: impl FnMut(&mut Self, &mut Context<'_>, &mut Link) -> Result<bool, TransportError>,
    ) -> bool {
        let mut progress = false;
        let mut links = std::mem::take(&mut self.links);
        let mut failed = Vec::new();
        for (index, link) in links.iter_mut().enumerate() {
            match send(self, cx, link) {
                Ok(sent) => progress |= sent,
                Err(error) => failed.push((index, error)),
            }
        }
        self.links = links;
        for (index, error) in failed.into_iter().rev() {
            progress = true;
            self.lost(now, index, &error);
        }
        progress
    }

    /// Takes packets from the inner sockets and from a gateway's hosts to the queues of the tunnels that carry them, into frames
    /// where sockets want that; true if there are more.
    fn refill(&mut self, now: Instant) -> bool {
        let Self {
            client,
            shared,
            outboxes,
            sent,
            frame,
            limits,
            peers,
            ..
        } = self;
        let has_peers = !peers.is_empty();
        let direct = &mut peers.outbox;
        let is_bound = client.can_send().is_some();
        return_to_main(client, outboxes);
        shared.drive(|state| {
            for buffer in sent.drain(..) {
                state.recycle(buffer);
            }
            let mut has_room = true;
            // What a socket has sent after a wish is treated as wished: the driver takes wishes in its next turn.
            while state.wishes.is_empty() {
                let [main, ..] = &*outboxes;
                // Without a transport packets for peers go on; others wait, as many as the queue takes.
                has_room = (is_bound || has_peers) && main.len() < BATCH && direct.len() < BATCH;
                let encrypted = outboxes.get(ENCRYPTED_TUNNEL);
                let encrypted_has_room = encrypted.is_none_or(|waiting| waiting.len() < BATCH);
                let packet = next_packet(state, *limits, |state| {
                    match (has_room, encrypted_has_room) {
                        (true, true) => state.poll_transmit(),
                        (true, false) => state.take_transmit_of_main(client),
                        // A stream that stalls does not stop what has another way.
                        (false, _) if client.has_other_ways() => {
                            state.take_transmit_beside(client, encrypted_has_room)
                        }
                        (false, _) => None,
                    }
                });
                let Some(mut packet) = packet else { break };
                if let Some(way) = client.direct(now, &packet) {
                    state.peer_counts.note_sent(&packet);
                    direct.push((way, packet));
                    continue;
                }
                frame.clear();
                let Some(outgoing) = client.outgoing(now, &packet, frame) else {
                    let [main, ..] = &mut *outboxes;
                    main.push_back(packet);
                    continue;
                };
                if outgoing.framed {
                    std::mem::swap(&mut packet, frame);
                }
                let tunnels = outgoing.epochs().map(Epoch::tunnel);
                match outgoing.spread {
                    Spread::All => queue_on_all(outboxes, tunnels, packet),
                    Spread::One => {
                        let waiting = |tunnel: &usize| outboxes.get(*tunnel).map(VecDeque::len);
                        let shortest = tunnels.min_by_key(waiting);
                        queue_on_all(outboxes, shortest.into_iter(), packet);
                    }
                }
            }
            // What waits for room is no news.
            has_room && state.stack.wants_transmit()
        })
    }

    /// Sends the packets of the tunnel that this transport carries.
    fn send_packets(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        link: &mut Link,
    ) -> Result<bool, TransportError> {
        let tunnel = link.epoch.tunnel();
        if self.client.transport(tunnel) != Some(link.epoch) || !link.control.is_empty() {
            return Ok(false);
        }
        let Some(packets) = self.outboxes.get_mut(tunnel) else {
            return Ok(false);
        };
        if packets.is_empty() {
            return Ok(false);
        }
        let mut units = [IoSlice::new(&[]); BATCH];
        for (unit, packet) in units.iter_mut().zip(packets.iter()) {
            *unit = IoSlice::new(packet);
        }
        let units = units.get(..packets.len()).unwrap_or_default();
        let Poll::Ready(taken) = link.transport.poll_send_batch(cx, units) else {
            return Ok(false);
        };
        let taken = taken?;
        for packet in packets.iter().take(taken) {
            record(&self.tap, packet);
        }
        self.sent.extend(packets.drain(..taken));
        if taken > 0 {
            self.client.note_sent(now, link.epoch);
        }
        Ok(taken > 0)
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
        for message in &control {
            self.tap
                .record(Interface::Control, Direction::Outbound, message);
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
    client: &'a mut Family,
    shared: &'a Shared,
    tap: &'a Tap,
}

impl Inbox<'_> {
    /// Hands in what one call has received, under one lock: some of a stream, or a batch of datagrams.
    fn take(&mut self, received: Received<'_>, decoder: &mut StreamDecoder, limits: Limits) {
        let mut state = self.shared.lock();
        let round_trip = self.client.round_trip(self.epoch);
        state.stack.set_round_trip(round_trip);
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
        trace(self.tap, &unit, Direction::Inbound);
        match self.client.handle_unit(self.now, self.epoch, unit) {
            Inbound::Deliver(packet) => state.stack.handle_packet(self.now, packet.as_bytes()),
            Inbound::DeliverFrame(frame, fresh) => {
                for packet in fresh.packets(&frame) {
                    trace(self.tap, &Unit::Ip(packet), Direction::Inbound);
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
    fn send_control(&mut self, cx: &mut Context<'_>, tap: &Tap) -> Result<bool, TransportError> {
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
                tap.record(Interface::Control, Direction::Outbound, &bytes);
            }
        }
        Ok(progress)
    }
}

impl State {
    /// The next packet that is not for the encrypted companion, which takes none for now.
    fn take_transmit_of_main(&mut self, client: &Family) -> Option<Vec<u8>> {
        let packet = self.routed.poll_transmit().or_else(|| {
            self.stack
                .take_transmit(|packet| !client.is_of_companion(packet))
        });
        packet.or_else(|| {
            let encrypted = self.encrypted.addresses();
            let own = self.stack.addresses().iter();
            let main: Vec<IpAddr> = own
                .filter(|own| !encrypted.contains(own))
                .copied()
                .collect();
            self.stack.take_transmit_from(&main)
        })
    }

    /// The next packet that the main tunnel, which takes none for now, does not carry alone; of the encrypted companion's only `if_room`.
    fn take_transmit_beside(&mut self, client: &Family, if_room: bool) -> Option<Vec<u8>> {
        let beside = |packet: &[u8]| {
            client.is_beside(packet) && (if_room || !client.is_of_companion(packet))
        };
        let packet = self.stack.take_transmit(beside);
        packet.or_else(|| {
            let encrypted = Some(self.encrypted.addresses()).filter(|_| if_room)?;
            self.stack.take_transmit_from(encrypted)
        })
    }
}

/// Puts a packet on the queues of tunnels. Where one is full it is not sent: as if the network had lost it.
fn queue_on_all(
    outboxes: &mut [VecDeque<Vec<u8>>; MAX_TUNNELS],
    tunnels: impl Iterator<Item = usize>,
    packet: Vec<u8>,
) {
    let mut tunnels = tunnels.peekable();
    let mut packet = Some(packet);
    while let Some(tunnel) = tunnels.next() {
        let copy = if tunnels.peek().is_some() {
            packet.clone()
        } else {
            packet.take()
        };
        if let Some(outbox) = outboxes
            .get_mut(tunnel)
            .filter(|outbox| outbox.len() < BATCH)
        {
            outbox.extend(copy);
        }
    }
}

/// The next packet that fits. One that was made before a resume lowered the inner MTU does not go out: on a stream it would end the
/// transport (spec 2).
fn next_packet(
    state: &mut State,
    limits: Limits,
    mut take: impl FnMut(&mut State) -> Option<Vec<u8>>,
) -> Option<Vec<u8>> {
    loop {
        let packet = take(state)?;
        if packet.len() <= usize::from(limits.inner_mtu) {
            return Some(packet);
        }
        state.recycle(packet);
    }
}

/// What waits for a datagram companion that has no transport any more is the main tunnel's, as it is; what finds no room there is lost.
/// Of what waits for a further stream the main tunnel has a copy, or it is lost as in the network: as it is nobody could tell it from that.
fn return_to_main(client: &Family, outboxes: &mut [VecDeque<Vec<u8>>; MAX_TUNNELS]) {
    let [main, companions @ ..] = outboxes;
    for (place, waiting) in companions.iter_mut().enumerate() {
        if waiting.is_empty() || client.transport(place + 1).is_some() {
            continue;
        }
        for unit in waiting.drain(..) {
            if place == 0 && main.len() < BATCH {
                let packet = framed_packet(&unit).map(|packet| packet.as_bytes().to_vec());
                main.push_back(packet.unwrap_or(unit));
            }
        }
    }
}

/// Records an inner packet that leaves; of a frame the newest, as the others have left before.
pub(super) fn record(tap: &Tap, unit: &[u8]) {
    if tap.is_on() {
        let packet = framed_packet(unit).map_or(unit, |packet| packet.as_bytes());
        tap.record(Interface::Inner, Direction::Outbound, packet);
    }
}

/// The packet that a redundancy frame was made for; `None` if this is none.
pub(super) fn framed_packet(unit: &[u8]) -> Option<IpPacket<'_>> {
    match Unit::decode_datagram(unit, &Limits::WIDEST) {
        Ok(Unit::Redundancy(frame)) => Some(frame.entries().next()?.packet),
        _ => None,
    }
}

fn trace(tap: &Tap, unit: &Unit<'_>, direction: Direction) {
    match unit {
        Unit::Ip(packet) => tap.record(Interface::Inner, direction, packet.as_bytes()),
        Unit::Control(message) => tap.record(Interface::Control, direction, message.as_bytes()),
        Unit::Redundancy(_) | Unit::Reserved(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use tsc_eip::{SendOptions, Stack, StackConfig};

    use super::*;

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
        let next = |state: &mut State| {
            next_packet(state, Limits::new(1280), State::poll_transmit).map(|packet| packet.len())
        };
        assert_eq!((next(&mut state), next(&mut state)), (Some(128), None));
    }
}
