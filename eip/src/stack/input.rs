//! The way in: from the packet's first byte to a receive queue or an answer.

use std::net::SocketAddr;
use std::time::Instant;

use smoltcp::wire::{TCP_HEADER_LEN, UDP_HEADER_LEN, UdpPacket};
use tracing::trace;

use super::Stack;
use crate::addresses::is_unicast;
use crate::egress::Outgoing;
use crate::error::RecvError;
use crate::icmp::{self, Complaint, Message, Quoted};
use crate::ip::{Fragment, HOP_LIMIT, Packet, Pair, Refusal, Start, checksum, protocol, walk};
use crate::reassembly::Outcome;
use crate::tcp::{Segment, Tuple};

/// Where a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// From outside.
    Tunnel,
    /// From this stack.
    Local,
}

/// A whole datagram of an upper layer.
#[derive(Clone, Copy, Debug)]
struct Datagram<'a> {
    pair: Pair,
    traffic_class: u8,
    protocol: u8,
    payload: &'a [u8],
    /// The packet that it came in, for an ICMP error to quote, and where in it the protocol is
    /// named. `None` if it came in fragments: the first one was judged when it arrived, others
    /// must not be answered.
    packet: Option<(&'a [u8], usize)>,
}

/// What a datagram may cost its sender: nothing, or a complaint.
type Judgement = Result<(), Option<Complaint>>;

impl Stack {
    /// Packets that the stack sent to itself. Each can cause one more, an ICMP error, which causes
    /// none.
    pub(super) fn deliver_local(&mut self, now: Instant) {
        while let Some(packet) = self.egress.poll_local() {
            self.input(now, Origin::Local, &packet);
            self.egress.recycle(packet);
        }
    }

    pub(super) fn input(&mut self, now: Instant, origin: Origin, bytes: &[u8]) {
        match Packet::parse(bytes) {
            Ok(packet) => {
                if !self.is_for_us(origin, &packet.pair) {
                    return;
                }
                match packet.fragment {
                    None => self.dispatch(
                        now,
                        &Datagram {
                            pair: packet.pair,
                            traffic_class: packet.traffic_class,
                            protocol: packet.protocol,
                            payload: packet.payload,
                            packet: Some((packet.bytes, packet.protocol_at)),
                        },
                    ),
                    Some(fragment) => self.fragment(now, &packet, fragment),
                }
            }
            Err(Refusal::Malformed) => self.malformed("IP header"),
            Err(Refusal::Checksum) => self.bad_checksum("IP header"),
            Err(Refusal::Parameter(problem)) => {
                if !self.is_for_us(origin, &problem.pair) {
                    return;
                }
                self.malformed("IPv6 extension header");
                if !icmp::may_be_error_v6(bytes) {
                    let complaint = Complaint::ParameterProblem {
                        code: problem.code,
                        pointer: problem.pointer,
                    };
                    self.complain(now, &problem.pair, complaint, bytes);
                }
            }
        }
    }

    /// Whether a host may take the packet at all; counts it if not.
    fn is_for_us(&mut self, origin: Origin, pair: &Pair) -> bool {
        let ours = if self.transparent {
            // Loopback is the host that the stack's owner runs on; where connections go is the owner's to say.
            is_unicast(pair.destination()) || pair.destination().is_loopback()
        } else {
            self.addresses.contains(pair.destination())
        };
        if !ours {
            trace!(destination = %pair.destination(), "dropped: not our address");
            self.counted.drops.not_ours += 1;
            return false;
        }
        let source = pair.source();
        // From outside nobody may claim to be us.
        if !is_unicast(source) || (origin == Origin::Tunnel && self.addresses.contains(source)) {
            trace!(%source, "dropped: impossible source");
            self.counted.drops.bad_source += 1;
            return false;
        }
        true
    }

    fn fragment(&mut self, now: Instant, packet: &Packet<'_>, fragment: Fragment) {
        self.counted.fragments_in += 1;
        if fragment.offset == 0
            && let Err(complaint) = self.judge_first_fragment(packet)
        {
            // Nobody will read the datagram: do not store it, and answer now, as only the first
            // fragment can be quoted.
            self.reassembly.refuse(now, packet, fragment);
            if let Some(complaint) = complaint {
                self.complain(now, &packet.pair, complaint, packet.bytes);
            }
            return;
        }
        let mut whole = std::mem::take(&mut self.assembled);
        match self.reassembly.add(now, packet, fragment, &mut whole) {
            Outcome::Pending => {}
            Outcome::Malformed => self.malformed("fragment"),
            Outcome::Complete(first) => self.reassembled(now, packet.pair, first, &whole),
        }
        self.assembled = whole;
    }

    /// RFC 7112: a first fragment holds all headers up to the upper layer's. And who would get the
    /// datagram?
    fn judge_first_fragment(&mut self, packet: &Packet<'_>) -> Judgement {
        let (upper, payload) = match packet.pair {
            Pair::V4 { .. } => (packet.protocol, packet.payload),
            Pair::V6 { .. } => {
                let upper =
                    walk(Start::Reassembled, packet.protocol, packet.payload).map_err(|_| None)?;
                (upper.protocol, upper.payload)
            }
        };
        match upper {
            protocol::UDP => {
                let header = payload.get(..UDP_HEADER_LEN).ok_or(None)?;
                let view = UdpPacket::new_unchecked(header);
                let local = SocketAddr::new(packet.pair.destination(), view.dst_port());
                let peer = SocketAddr::new(packet.pair.source(), view.src_port());
                match self.udp.lookup(local, peer) {
                    Some(_) => Ok(()),
                    None => {
                        self.counted.drops.no_socket += 1;
                        Err(Some(Complaint::PortUnreachable))
                    }
                }
            }
            // What is in the first fragment is only known to be a segment when all are there; but
            // the header with its numbers must be in it (RFC 1858, section 3.2).
            protocol::TCP => payload.get(..TCP_HEADER_LEN).map(|_| ()).ok_or(None),
            // Of ICMP only an echo request is ever longer than a packet.
            icmp if icmp == packet.pair.icmp() => Ok(()),
            _ => {
                self.counted.drops.protocol += 1;
                Err(None)
            }
        }
    }

    fn reassembled(
        &mut self,
        now: Instant,
        pair: Pair,
        first: crate::reassembly::First,
        whole: &[u8],
    ) {
        let (protocol, payload) = match pair {
            Pair::V4 { .. } => (first.protocol, whole),
            Pair::V6 { .. } => match walk(Start::Reassembled, first.protocol, whole) {
                Ok(upper) => (upper.protocol, upper.payload),
                Err(_) => return self.malformed("IPv6 extension header"),
            },
        };
        let datagram = Datagram {
            pair,
            traffic_class: first.traffic_class,
            protocol,
            payload,
            packet: None,
        };
        self.dispatch(now, &datagram);
    }

    /// The one place where upper-layer protocols part.
    fn dispatch(&mut self, now: Instant, datagram: &Datagram<'_>) {
        let judgement = match datagram.protocol {
            protocol::TCP => {
                self.tcp_input(now, datagram);
                Ok(())
            }
            // A transparent stack is no host: who answers for others is its owner's business.
            other if self.transparent && other != datagram.pair.icmp() => {
                self.counted.drops.protocol += 1;
                Ok(())
            }
            protocol::UDP => self.udp_input(now, datagram),
            icmp if icmp == datagram.pair.icmp() => {
                self.icmp_input(now, datagram);
                Ok(())
            }
            protocol::NO_NEXT_HEADER if matches!(datagram.pair, Pair::V6 { .. }) => {
                self.counted.drops.protocol += 1;
                Ok(())
            }
            unknown => {
                trace!(protocol = unknown, "dropped: unknown protocol");
                self.counted.drops.protocol += 1;
                let at = datagram.packet.map_or(0, |(_, at)| at);
                Err(Some(Complaint::ProtocolUnreachable { at }))
            }
        };
        if let (Err(Some(complaint)), Some((packet, _))) = (judgement, datagram.packet) {
            self.complain(now, &datagram.pair, complaint, packet);
        }
    }

    fn tcp_input(&mut self, now: Instant, datagram: &Datagram<'_>) {
        let Some(segment) = Segment::parse(datagram.pair, datagram.payload) else {
            return self.malformed("TCP header");
        };
        if !checksum::verify(&datagram.pair, protocol::TCP, datagram.payload) {
            return self.bad_checksum("TCP");
        }
        let known = self
            .tcp
            .input(now, &segment, self.transparent, &mut self.egress);
        if !known {
            trace!(tuple = ?segment.tuple, "dropped: no connection");
            self.counted.drops.no_socket += 1;
        }
    }

    fn udp_input(&mut self, now: Instant, datagram: &Datagram<'_>) -> Judgement {
        let Ok(view) = UdpPacket::new_checked(datagram.payload) else {
            self.malformed("UDP header");
            return Ok(());
        };
        if view.dst_port() == 0 {
            self.malformed("UDP port 0");
            return Ok(());
        }
        let is_v6 = matches!(datagram.pair, Pair::V6 { .. });
        // RFC 768: zero is "no checksum" over IPv4. RFC 8200, section 8.1: it is refused over IPv6.
        let covered = datagram
            .payload
            .get(..usize::from(view.len()))
            .unwrap_or(&[]);
        let valid = match view.checksum() {
            0 => !is_v6,
            _ => checksum::verify(&datagram.pair, protocol::UDP, covered),
        };
        if !valid {
            self.bad_checksum("UDP");
            return Ok(());
        }
        let local = SocketAddr::new(datagram.pair.destination(), view.dst_port());
        let from = SocketAddr::new(datagram.pair.source(), view.src_port());
        let Some(handle) = self.udp.lookup(local, from) else {
            trace!(%local, %from, "dropped: no socket");
            self.counted.drops.no_socket += 1;
            return Err(Some(Complaint::PortUnreachable));
        };
        let (taken, dropped) = self.udp.deliver(
            now,
            handle,
            &datagram.pair,
            from,
            datagram.traffic_class,
            view.payload(),
        );
        self.counted.drops.receive_full += dropped;
        self.counted.datagrams_in += u64::from(taken);
        Ok(())
    }

    fn icmp_input(&mut self, now: Instant, datagram: &Datagram<'_>) {
        if !checksum::verify(&datagram.pair, datagram.protocol, datagram.payload) {
            return self.bad_checksum("ICMP");
        }
        match icmp::parse(&datagram.pair, datagram.payload) {
            None => self.malformed("ICMP header"),
            Some(Message::EchoRequest { .. }) if self.transparent => self.count_icmp(false),
            Some(Message::EchoRequest { identifier, data }) => {
                self.echo(now, datagram, identifier, data)
            }
            Some(Message::Failure { error, quote }) => {
                let known = self
                    .quoted(&datagram.pair, quote)
                    .is_some_and(|quoted| self.failure(&quoted, error));
                self.count_icmp(known);
            }
            Some(Message::TooBig { mtu, quote }) => {
                let known = self.too_big(now, &datagram.pair, mtu, quote);
                self.count_icmp(known);
            }
            Some(Message::Other) => self.count_icmp(false),
        }
    }

    fn count_icmp(&mut self, known: bool) {
        if known {
            self.counted.icmp_errors_in += 1;
        } else {
            self.counted.drops.icmp_ignored += 1;
        }
    }

    /// The quoted datagram, if it is of the error's IP version and one of our sockets may have sent
    /// it from the address that the error came to. Anybody can forge more than that; what a
    /// forger gains is bounded.
    fn quoted(&self, pair: &Pair, quote: &[u8]) -> Option<Quoted> {
        let quoted = Quoted::parse(quote)?;
        (quoted.local.ip() == pair.destination()).then_some(quoted)
    }

    /// Returns whether the failure concerns a socket.
    fn failure(&mut self, quoted: &Quoted, error: RecvError) -> bool {
        match quoted.sequence {
            None => self.udp.deliver_error(quoted.local, quoted.peer, error),
            Some(sequence) => {
                let key = self.tcp.quoted(&tuple_of(quoted), sequence);
                if let Some(key) = key {
                    self.tcp.icmp_error(key, error.into());
                }
                key.is_some()
            }
        }
    }

    fn too_big(&mut self, now: Instant, pair: &Pair, mtu: u32, quote: &[u8]) -> bool {
        let Some(quoted) = self.quoted(pair, quote) else {
            return false;
        };
        // A packet that fits cannot have been too big.
        let plausible = usize::try_from(mtu).is_ok_and(|mtu| mtu < quoted.packet_len);
        let (known, connection) = match quoted.sequence {
            None => (self.udp.lookup(quoted.local, quoted.peer).is_some(), None),
            Some(sequence) => {
                let key = self.tcp.quoted(&tuple_of(&quoted), sequence);
                (key.is_some(), key)
            }
        };
        if !plausible || !known {
            return false;
        }
        let tunnel_mtu = self.egress.mtu();
        if self
            .egress
            .paths
            .report(now, quoted.peer.ip(), mtu, tunnel_mtu)
        {
            self.counted.path_mtu_updates += 1;
        }
        if let Some(key) = connection {
            self.tcp.path_shrank(now, key, &mut self.egress);
        }
        true
    }

    fn echo(&mut self, now: Instant, request: &Datagram<'_>, identifier: [u8; 4], data: &[u8]) {
        if !self.echoes.allow(now) {
            self.counted.drops.icmp_rate_limited += 1;
            return;
        }
        let head = icmp::echo_head(&request.pair, identifier);
        self.send_icmp(now, &request.pair, head, data);
        self.counted.echo_replies += 1;
    }

    /// Answers `packet` with an ICMP error. The caller knows that it is a first or only fragment to
    /// and from a unicast address and carries no ICMP error (RFC 1122, section 3.2.2; RFC 4443,
    /// section 2.4 e).
    fn complain(&mut self, now: Instant, pair: &Pair, complaint: Complaint, packet: &[u8]) {
        let Some(head) = icmp::error_head(pair, complaint) else {
            return;
        };
        if !self.errors.allow(now) {
            self.counted.drops.icmp_rate_limited += 1;
            return;
        }
        let quotation = icmp::quotation(pair, packet, self.egress.mtu());
        self.send_icmp(now, pair, head, quotation);
        self.counted.icmp_errors_out += 1;
    }

    /// Sends an ICMP message back along `pair`.
    fn send_icmp(&mut self, now: Instant, pair: &Pair, head: [u8; 8], body: &[u8]) {
        let answer = pair.reversed();
        let message = Outgoing {
            pair: answer,
            protocol: answer.icmp(),
            traffic_class: 0,
            hop_limit: HOP_LIMIT,
            dont_fragment: false,
            head,
            checksum_at: icmp::CHECKSUM_AT,
            body,
        };
        let route = self.route(answer.destination());
        // Not longer than what was received, so it always fits the length fields.
        if self.egress.send(now, route, &message).is_err() {
            trace!("ICMP answer too long");
        }
    }

    fn malformed(&mut self, what: &'static str) {
        trace!(what, "dropped: malformed");
        self.counted.drops.malformed += 1;
    }

    fn bad_checksum(&mut self, what: &'static str) {
        trace!(what, "dropped: checksum");
        self.counted.drops.checksum += 1;
    }
}

fn tuple_of(quoted: &Quoted) -> Tuple {
    Tuple {
        local: quoted.local,
        remote: quoted.peer,
    }
}
