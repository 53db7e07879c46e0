//! TCP and TLS: accepting, reading, decoding.

use std::{
    fmt::Arguments,
    task::{Context, Poll},
    time::Instant,
};

use tsc_csm::{
    Transport,
    server::{BadUnit, BindingId, BindingInfo, BindingLoss, Verdict},
};
use tsc_osaa::{
    listener::ListenerEvent,
    stream::{StreamError, StreamTransport},
};
use tsc_tpl::{StreamDecoder, Unit};

use super::{Worker, captures::Entry, identity, switch::Switch, tun::Tun, way::Way};

/// Reads of one stream in one turn before the others get theirs.
const READS_PER_STREAM: usize = 4;
/// What streams may take of one turn. All that is read waits until the turn ends, media no longer than it may wait at all: turns
/// of thousands of streams with a backlog each would be longer than that.
const PACKETS_PER_TURN: usize = 4096;
/// The same for what is no packet, or dropped: bytes, and streams.
const BYTES_PER_TURN: usize = 4 << 20;
const STREAMS_PER_TURN: usize = 1024;
/// Connections accepted in one turn.
const ACCEPTS_PER_TURN: usize = 64;

impl Worker {
    pub(super) fn accept(&mut self, cx: &mut Context<'_>, now: Instant) {
        for index in 0..self.listeners.len() {
            for turn in 0..=ACCEPTS_PER_TURN {
                let Some(listener) = self.listeners.get_mut(index) else {
                    break;
                };
                if turn == ACCEPTS_PER_TURN {
                    self.again = true;
                    break;
                }
                match listener.socket.poll_accept(cx) {
                    Poll::Ready(ListenerEvent::Ready(stream)) => {
                        self.add_stream(now, index, stream)
                    }
                    // Refusals and failures are counted and logged by the listener.
                    Poll::Ready(_) => {}
                    Poll::Pending => break,
                }
            }
        }
    }

    pub(super) fn add_stream(&mut self, now: Instant, listener: usize, stream: StreamTransport) {
        let Some(interface) = self
            .listeners
            .get(listener)
            .map(|listener| listener.interface)
        else {
            return;
        };
        let tls = stream.tls_info().is_some();
        let info = BindingInfo {
            interface,
            transport: if tls { Transport::Tls } else { Transport::Tcp },
            peer: stream.peer_addr(),
            local: stream.local_addr(),
            identity: stream.peer_identity().map(|peer| identity(peer)),
        };
        match self.core.open_binding(now, info) {
            Ok(binding) => {
                self.keep_stream(listener, interface, stream, binding);
            }
            Err(error) => {
                self.counters.not_opened += 1;
                tracing::debug!(peer = %stream.peer_addr(), %error, "connection not taken");
            }
        }
    }

    /// Gives the slot of a stream that the session core has taken.
    pub(super) fn keep_stream(
        &mut self,
        listener: usize,
        interface: usize,
        stream: StreamTransport,
        binding: BindingId,
    ) -> usize {
        let slot = self.streams.vacant();
        let decoder = StreamDecoder::expecting_request(self.limits(interface));
        self.ways.insert(binding, Way::Stream(slot));
        self.streams.insert(stream, decoder, binding, listener);
        slot
    }

    pub(super) fn read_streams(&mut self, cx: &mut Context<'_>, now: Instant) {
        self.backlog.begin_turn(now);
        let backlog = &mut self.backlog;
        self.streams
            .take_ready(cx.waker(), |token| backlog.push(token));
        backlog.adapt();
        let mut buffer = std::mem::take(&mut self.read_buffer);
        // What other workers have sent has its own bound.
        let (before, mut streams, mut bytes) = (self.forwarded, 0, 0);
        while streams < STREAMS_PER_TURN
            && bytes < BYTES_PER_TURN
            && self.forwarded - before < PACKETS_PER_TURN
            && let Some(token) = self.backlog.pop()
        {
            let slot = token.take();
            self.streams.limit_unread(slot, self.backlog.limit());
            let read = self.read_stream(cx, now, slot, &mut buffer);
            self.streams.was_read(slot, read);
            self.backlog.read(read);
            streams += 1;
            bytes += read;
        }
        // The others come first in the next turn.
        self.again |= !self.backlog.is_empty();
        self.read_buffer = buffer;
    }

    /// Returns how many bytes there were.
    fn read_stream(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        slot: usize,
        buffer: &mut [u8],
    ) -> usize {
        // It may have been listed because its socket takes output again.
        self.streams.flush_one(slot);
        let mut bytes = 0;
        for _ in 0..READS_PER_STREAM {
            let Some((binding, read)) = self.streams.poll_recv(slot, buffer) else {
                return bytes;
            };
            match read {
                Poll::Pending => {
                    self.streams.watch(slot, now);
                    return bytes;
                }
                Poll::Ready(Ok(len)) => {
                    bytes += len;
                    let open =
                        self.decode(now, slot, binding, buffer.get(..len).unwrap_or_default());
                    self.forward(cx, now);
                    if !open {
                        return bytes;
                    }
                }
                Poll::Ready(Err(error)) => {
                    self.stream_lost(now, slot, binding, &error);
                    return bytes;
                }
            }
        }
        if let Some(stream) = self.streams.get_mut(slot) {
            stream.mark();
        }
        bytes
    }

    /// Hands the units of `bytes` in; false when the stream is closed.
    pub(super) fn decode(
        &mut self,
        now: Instant,
        slot: usize,
        binding: BindingId,
        bytes: &[u8],
    ) -> bool {
        let Some(stream) = self.streams.get_mut(slot) else {
            return false;
        };
        let interface = self
            .listeners
            .get(stream.listener)
            .map_or(0, |listener| listener.interface);
        let mut feed = stream.decoder.feed(bytes);
        let verdict = loop {
            let unit = match feed.next() {
                Ok(Some(unit)) => unit,
                Ok(None) => return true,
                Err(error) => {
                    break self
                        .core
                        .handle_bad_unit(now, binding, BadUnit::Framing(error));
                }
            };
            let entry = Entry { interface, binding };
            let before = self.captures.unit(&self.core, entry, &unit);
            let verdict = self.core.handle_unit(now, binding, &unit);
            if let Some(before) = before {
                self.captures
                    .control(&self.core, entry, before, &unit, verdict);
            }
            match verdict {
                verdict @ (Verdict::Forward(from) | Verdict::ForwardFrame(from, _)) => {
                    let mut switch = Switch {
                        core: &self.core,
                        router: &mut self.router,
                        batch: &mut self.batch,
                        counters: &mut self.counters,
                        tun_mtu: self.tun.as_ref().map(Tun::mtu),
                    };
                    match (&unit, verdict) {
                        (Unit::Redundancy(frame), Verdict::ForwardFrame(_, fresh)) => {
                            for packet in fresh.packets(frame) {
                                self.captures.packet(&self.core, interface, from, &packet);
                                switch.tunnel_packet(now, interface, from, &packet);
                            }
                        }
                        (Unit::Ip(packet), _) => switch.tunnel_packet(now, interface, from, packet),
                        _ => {}
                    }
                }
                Verdict::Consumed | Verdict::Dropped(_) => {}
                close @ Verdict::Close(_) => break close,
                Verdict::Elsewhere(shard) => {
                    let mut bytes = unit_bytes(&unit).to_vec();
                    bytes.extend_from_slice(feed.remaining());
                    self.move_stream(shard, slot, binding, bytes);
                    return false;
                }
            }
        };
        // The event that goes with it closes the stream, behind the answers that are still queued.
        self.stream_ended(now, slot, format_args!("{verdict:?}"));
        false
    }

    /// A line about a stream that ended against the rules.
    fn stream_ended(&mut self, now: Instant, slot: usize, reason: Arguments<'_>) {
        let peer = self.streams.peer(slot).map(tracing::field::display);
        match self.log.transport_refused(now) {
            Some(missed) => tracing::info!(event = "stream-ended", peer, %reason, missed),
            None => tracing::debug!(event = "stream-ended", peer, %reason),
        }
    }

    pub(super) fn stream_lost(
        &mut self,
        now: Instant,
        slot: usize,
        binding: BindingId,
        error: &StreamError,
    ) {
        let why = if matches!(error, StreamError::Closed) {
            BindingLoss::ClosedByClient
        } else {
            BindingLoss::Failed
        };
        let stream = self.streams.get(slot);
        if stream.is_some_and(|stream| stream.decoder.partial().is_some()) {
            self.stream_ended(now, slot, format_args!("{error}, inside a unit"));
        } else {
            let peer = self.streams.peer(slot).map(tracing::field::display);
            tracing::debug!(event = "stream-ended", peer, reason = %error);
        }
        self.core.binding_lost(now, binding, why);
        self.ways.remove(binding);
        self.streams.close(slot);
    }
}

/// The unit as it was received.
const fn unit_bytes<'a>(unit: &Unit<'a>) -> &'a [u8] {
    match unit {
        Unit::Control(message) => message.as_bytes(),
        // Only requests are for another worker.
        Unit::Ip(_) | Unit::Redundancy(_) | Unit::Reserved(_) => &[],
    }
}
