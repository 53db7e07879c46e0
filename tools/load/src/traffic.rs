//! Flows ("calls"), what they send when, and what of it arrived.

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::measure::{Arrival, Sequences, Window};
use crate::pacing::Schedule;
use crate::probe::{HEADERS_LEN, Kind, PROBE_LEN, Probe, headers};

/// Inner UDP port of callers and callees.
const PORT: u16 = 4000;

/// Without an arrival for so long, what is under way counts as lost in a closed loop.
const GIVEN_UP_NS: u64 = 50_000_000;

/// Who sends a flow's packets back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FarEnd {
    /// Another tunnel of this generator, by its number.
    Member(u32),
    /// A UDP echo in the core.
    Reflector(SocketAddrV4),
}

/// One call: packets from a tunnel to the far end and back.
#[derive(Debug)]
struct Flow {
    caller: u32,
    far: FarEnd,
    /// Inner headers up and down; `None` on bare sessions, which carry payloads only.
    headers: Option<([u8; HEADERS_LEN], [u8; HEADERS_LEN])>,
    next: u32,
    up: Sequences,
    down: Sequences,
}

/// A probe that has arrived at a member.
#[derive(Clone, Copy, Debug)]
pub struct Arrived {
    /// Where.
    pub member: u32,
    /// What.
    pub probe: Probe,
}

/// How fast requests leave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// None.
    Stopped,
    /// By the clock alone.
    Open(Schedule),
    /// As many as keep this number under way: the server is always busy.
    Closed {
        /// Packets under way.
        in_flight: u64,
    },
}

/// A packet that is to leave.
#[derive(Debug)]
pub struct Outgoing<'a> {
    /// From which member.
    pub member: u32,
    /// The whole inner packet, or payload on a bare session.
    pub packet: &'a [u8],
}

/// All flows.
#[derive(Debug)]
pub struct Traffic {
    flows: Vec<Flow>,
    /// Whose turn it is.
    turn: usize,
    pace: Pace,
    window: Window,
    previous: Window,
    packet: Vec<u8>,
    size: u16,
    relayed: u64,
    strangers: u64,
    last_arrival_ns: u64,
    /// Requests without echo, as far as a closed loop counts them.
    under_way: u64,
    one_way: bool,
    /// Packets of a flow in a row, and how many of them have left.
    train: u32,
    in_train: u32,
}

impl Traffic {
    /// No flows yet; packets will be `size` bytes, inner headers included (at least 60).
    #[must_use]
    pub fn new(size: u16) -> Self {
        Self {
            flows: Vec::new(),
            turn: 0,
            pace: Pace::Stopped,
            window: Window::default(),
            previous: Window::default(),
            packet: Vec::new(),
            size: size.max(Self::MIN_SIZE),
            relayed: 0,
            strangers: 0,
            last_arrival_ns: 0,
            under_way: 0,
            one_way: false,
            train: 1,
            in_train: 0,
        }
    }

    /// Least size of a packet: headers and probe.
    pub const MIN_SIZE: u16 = 60;

    /// Adds a flow of a tunnel with the inner address `caller_address`; `far_address` is that of the far end.
    pub fn add_flow(
        &mut self,
        caller: u32,
        caller_address: Ipv4Addr,
        far: FarEnd,
        far_address: SocketAddrV4,
    ) {
        let here = SocketAddrV4::new(caller_address, PORT);
        let headers = (
            headers(here, far_address, self.size),
            headers(far_address, here, self.size),
        );
        self.push(caller, far, Some(headers));
    }

    /// Adds a flow of a tunnel to another tunnel.
    pub fn add_call(
        &mut self,
        caller: u32,
        caller_address: Ipv4Addr,
        callee: u32,
        callee_address: Ipv4Addr,
    ) {
        let far = SocketAddrV4::new(callee_address, PORT);
        self.add_flow(caller, caller_address, FarEnd::Member(callee), far);
    }

    /// Adds a flow of a bare session, whose relay knows where to.
    pub fn add_bare(&mut self, caller: u32, reflector: SocketAddrV4) {
        self.push(caller, FarEnd::Reflector(reflector), None);
    }

    fn push(
        &mut self,
        caller: u32,
        far: FarEnd,
        headers: Option<([u8; HEADERS_LEN], [u8; HEADERS_LEN])>,
    ) {
        self.flows.push(Flow {
            caller,
            far,
            headers,
            next: 0,
            up: Sequences::default(),
            down: Sequences::default(),
        });
    }

    /// How many flows there are.
    #[must_use]
    pub const fn flows(&self) -> usize {
        self.flows.len()
    }

    /// Lets the far ends keep what they receive, from the next window on.
    pub const fn set_one_way(&mut self, one_way: bool) {
        self.one_way = one_way;
    }

    /// Lets so many packets of a flow leave one after the other before it is the next one's turn.
    pub const fn set_train(&mut self, packets: u32) {
        self.train = packets;
    }

    /// Sets the pace from now on.
    pub const fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
    }

    /// Begins a new measurement. What was sent in the one before still counts for that; older ones are forgotten.
    pub fn begin_window(&mut self) {
        let next = Window::new(self.window.number.wrapping_add(1), self.one_way);
        self.previous = std::mem::replace(&mut self.window, next);
    }

    /// The measurement that runs.
    #[must_use]
    pub const fn window(&self) -> &Window {
        &self.window
    }

    /// The measurement before.
    #[must_use]
    pub const fn previous(&self) -> &Window {
        &self.previous
    }

    /// Packets that the system under test has passed on so far: requests and echoes that arrived.
    #[must_use]
    pub const fn relayed(&self) -> u64 {
        self.relayed
    }

    /// Packets that were none of ours, or at the wrong place.
    #[must_use]
    pub const fn strangers(&self) -> u64 {
        self.strangers
    }

    /// When the next packet is due in an open loop; `None` if that is never.
    #[must_use]
    pub fn due_ns(&self) -> Option<u64> {
        match &self.pace {
            Pace::Open(schedule) => Some(schedule.due_ns()),
            Pace::Stopped | Pace::Closed { .. } => None,
        }
    }

    /// The next request if it is time for one.
    pub fn next_request(&mut self, now_ns: u64) -> Option<Outgoing<'_>> {
        let due_ns = match &mut self.pace {
            Pace::Stopped => return None,
            Pace::Open(schedule) => schedule.take(now_ns)?,
            Pace::Closed { in_flight } => {
                if now_ns.saturating_sub(self.last_arrival_ns) > GIVEN_UP_NS {
                    self.last_arrival_ns = now_ns;
                    self.under_way = 0;
                }
                if self.under_way >= *in_flight {
                    return None;
                }
                now_ns
            }
        };
        if self.turn >= self.flows.len() {
            self.turn = 0;
        }
        let number = self.turn;
        let flow = self.flows.get_mut(number)?;
        self.in_train += 1;
        if self.in_train >= self.train {
            self.in_train = 0;
            self.turn += 1;
        }
        let probe = Probe {
            kind: Kind::Request,
            window: self.window.number,
            flow: u32::try_from(number).unwrap_or(u32::MAX),
            sequence: flow.next,
            due_ns,
            echoed_ns: 0,
        };
        flow.next = flow.next.wrapping_add(1);
        self.window.sent += 1;
        self.under_way += 1;
        self.window.late.record_ns(now_ns.saturating_sub(due_ns));
        let headers = flow.headers.as_ref().map(|(up, _)| up);
        fill(&mut self.packet, self.size, headers, &probe);
        Some(Outgoing {
            member: flow.caller,
            packet: &self.packet,
        })
    }

    /// Notes that the last request could not be sent.
    pub const fn note_unsent(&mut self) {
        self.window.unsent += 1;
    }

    /// Counts a request that arrived at a reflector within this process.
    pub fn note_request(&mut self, now_ns: u64, probe: &Probe) {
        self.last_arrival_ns = now_ns;
        self.relayed += 1;
        let window = match probe.window {
            number if number == self.window.number => &mut self.window,
            number if number == self.previous.number => &mut self.previous,
            _ => return,
        };
        let Some(flow) = self.flows.get_mut(probe.flow as usize) else {
            self.strangers += 1;
            return;
        };
        if window.note(flow.up.note(probe.sequence)) {
            window.requests += 1;
            window.up.record_ns(now_ns.saturating_sub(probe.due_ns));
        }
    }

    /// Counts what arrived at a member; the echo that is to be sent back from there, if any.
    pub fn note_arrival(&mut self, now_ns: u64, arrived: &Arrived) -> Option<Outgoing<'_>> {
        let probe = &arrived.probe;
        let Some(flow) = self.flows.get_mut(probe.flow as usize) else {
            self.strangers += 1;
            return None;
        };
        match probe.kind {
            Kind::Request => {
                if flow.far != FarEnd::Member(arrived.member) {
                    self.strangers += 1;
                    return None;
                }
                self.note_request(now_ns, probe);
                if self.one_way {
                    self.under_way = self.under_way.saturating_sub(1);
                    return None;
                }
                let flow = self.flows.get(probe.flow as usize)?;
                let headers = flow.headers.as_ref().map(|(_, down)| down);
                fill(&mut self.packet, self.size, headers, &probe.echo(now_ns));
                Some(Outgoing {
                    member: arrived.member,
                    packet: &self.packet,
                })
            }
            Kind::Echo => {
                if flow.caller != arrived.member {
                    self.strangers += 1;
                    return None;
                }
                self.relayed += 1;
                self.last_arrival_ns = now_ns;
                self.under_way = self.under_way.saturating_sub(1);
                let window = match probe.window {
                    number if number == self.window.number => &mut self.window,
                    number if number == self.previous.number => &mut self.previous,
                    _ => return None,
                };
                let arrival: Arrival = flow.down.note(probe.sequence);
                if window.note(arrival) {
                    window.echoes += 1;
                    let ns = now_ns.saturating_sub(probe.due_ns);
                    window.round_trip.record_ns(ns);
                    window
                        .down
                        .record_ns(now_ns.saturating_sub(probe.echoed_ns));
                }
                None
            }
        }
    }
}

/// Writes a packet: headers, probe, zeros.
fn fill(packet: &mut Vec<u8>, size: u16, headers: Option<&[u8; HEADERS_LEN]>, probe: &Probe) {
    let (headers, length) = match headers {
        Some(headers) => (headers.as_slice(), usize::from(size)),
        None => ([].as_slice(), usize::from(size) - HEADERS_LEN),
    };
    let at = headers.len();
    packet.resize(length, 0);
    if let Some(room) = packet.get_mut(..at) {
        room.copy_from_slice(headers);
    }
    if let Some(room) = packet.get_mut(at..at + PROBE_LEN) {
        room.copy_from_slice(&probe.encode());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe_of(outgoing: Option<Outgoing<'_>>) -> Option<(u32, Probe)> {
        let outgoing = outgoing?;
        let probe = Probe::decode(outgoing.packet.get(HEADERS_LEN..)?)?;
        Some((outgoing.member, probe))
    }

    #[test]
    fn the_smallest_packet_has_room_for_the_probe() {
        assert_eq!(usize::from(Traffic::MIN_SIZE), HEADERS_LEN + PROBE_LEN);
    }

    #[test]
    fn trains_come_flow_by_flow() {
        let mut traffic = two_tunnels();
        traffic.set_train(3);
        traffic.set_pace(Pace::Open(Schedule::new(0, 1_000_000_000, 0)));
        let callers: Vec<_> = (0..7)
            .filter_map(|_| probe_of(traffic.next_request(100)))
            .map(|(caller, _)| caller)
            .collect();
        assert_eq!(callers, [0, 0, 0, 1, 1, 1, 0]);
    }

    fn two_tunnels() -> Traffic {
        let mut traffic = Traffic::new(200);
        let addresses: [Ipv4Addr; 2] = [[10, 64, 0, 1].into(), [10, 64, 0, 2].into()];
        traffic.add_call(0, addresses[0], 1, addresses[1]);
        traffic.add_call(1, addresses[1], 0, addresses[0]);
        traffic.begin_window();
        traffic
    }

    /// A call in simulated time: 1 ms there, 2 ms back; one packet is lost, one comes twice.
    #[test]
    fn a_call_is_measured() {
        let mut traffic = two_tunnels();
        traffic.set_pace(Pace::Open(Schedule::new(0, 1000, 0)));
        let mut requests = Vec::new();
        while let Some(request) = probe_of(traffic.next_request(9_000_000)) {
            requests.push(request);
        }
        assert_eq!(requests.len(), 10);
        assert_eq!(requests[0].0, 0);
        assert_eq!(requests[1].0, 1, "flows take turns");
        for (number, (caller, probe)) in requests.into_iter().enumerate() {
            let at = probe.due_ns + 1_000_000;
            let arrived = Arrived {
                member: 1 - caller,
                probe,
            };
            if number == 4 {
                continue;
            }
            let copies = if number == 5 { 2 } else { 1 };
            for _ in 0..copies {
                let (member, echo) = probe_of(traffic.note_arrival(at, &arrived)).unwrap();
                assert_eq!(member, 1 - caller);
                let back = Arrived {
                    member: caller,
                    probe: echo,
                };
                assert!(traffic.note_arrival(at + 2_000_000, &back).is_none());
            }
        }
        let window = traffic.window();
        assert_eq!((window.sent, window.echoes, window.requests), (10, 9, 9));
        assert_eq!(
            (window.lost(), window.duplicates, window.reordered),
            (1, 2, 0)
        );
        assert!(window.round_trip.quantile_us(0.5).unwrap().abs_diff(3000) < 5);
        assert!(window.up.quantile_us(0.5).unwrap().abs_diff(1000) < 5);
        assert!(window.down.quantile_us(0.5).unwrap().abs_diff(2000) < 5);
        assert!(
            window.late.max_us().unwrap().abs_diff(9000) < 9,
            "sent late"
        );
        assert_eq!(traffic.relayed(), 20);
    }

    #[test]
    fn what_comes_late_counts_for_its_own_window() {
        let mut traffic = two_tunnels();
        traffic.set_pace(Pace::Open(Schedule::new(0, 1, 0)));
        let (caller, probe) = probe_of(traffic.next_request(0)).unwrap();
        traffic.begin_window();
        let back = Arrived {
            member: caller,
            probe: probe.echo(5),
        };
        assert!(traffic.note_arrival(10, &back).is_none());
        assert_eq!((traffic.previous().sent, traffic.previous().echoes), (1, 1));
        assert_eq!((traffic.window().sent, traffic.window().echoes), (0, 0));
    }

    #[test]
    fn one_way_nothing_is_sent_back() {
        let mut traffic = two_tunnels();
        traffic.set_one_way(true);
        traffic.begin_window();
        traffic.set_pace(Pace::Open(Schedule::new(0, 2, 0)));
        let (caller, probe) = probe_of(traffic.next_request(0)).unwrap();
        let arrived = Arrived {
            member: 1 - caller,
            probe,
        };
        assert!(traffic.note_arrival(5_000_000, &arrived).is_none());
        assert_eq!((traffic.window().sent, traffic.window().lost()), (1, 0));
        let delay = traffic.window().delay().quantile_us(0.5).unwrap();
        assert!(delay.abs_diff(5_000) < 9);
    }

    #[test]
    fn packets_at_the_wrong_place_are_strangers() {
        let mut traffic = two_tunnels();
        traffic.set_pace(Pace::Open(Schedule::new(0, 1, 0)));
        let (caller, probe) = probe_of(traffic.next_request(0)).unwrap();
        let wrong = [
            Arrived {
                member: caller,
                probe,
            },
            Arrived {
                member: 1 - caller,
                probe: probe.echo(1),
            },
            Arrived {
                member: 0,
                probe: Probe { flow: 99, ..probe },
            },
        ];
        for arrived in wrong {
            assert!(traffic.note_arrival(1, &arrived).is_none());
        }
        assert_eq!((traffic.strangers(), traffic.relayed()), (3, 0));
    }

    #[test]
    fn a_closed_loop_keeps_its_number_and_survives_loss() {
        let mut traffic = two_tunnels();
        traffic.set_pace(Pace::Closed { in_flight: 4 });
        let mut now = 1_000_000_000;
        traffic.last_arrival_ns = now;
        let sent = std::iter::from_fn(|| probe_of(traffic.next_request(now))).count();
        assert_eq!(sent, 4);
        now += GIVEN_UP_NS + 1;
        let again = std::iter::from_fn(|| probe_of(traffic.next_request(now))).count();
        assert_eq!(again, 4, "all were lost");
    }
}
