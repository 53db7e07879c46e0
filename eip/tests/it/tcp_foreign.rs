//! TCP with another implementation: smoltcp's, in simulated time, over paths that lose and reorder.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant as SmolInstant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};
use tsc_eip::{Stack, TcpHandle, TcpOptions, TcpState};

use crate::net::{Chance, pattern};
use crate::support::*;

/// Packets on their way, each with the time of its arrival.
type Way = VecDeque<(Instant, Vec<u8>)>;

#[derive(Default)]
struct Wire {
    input: VecDeque<Vec<u8>>,
    output: Vec<Vec<u8>>,
}

impl Device for Wire {
    type RxToken<'t> = Packet;
    type TxToken<'t> = Room<'t>;

    fn receive(&mut self, _: SmolInstant) -> Option<(Packet, Room<'_>)> {
        let packet = self.input.pop_front()?;
        Some((Packet(packet), Room(&mut self.output)))
    }

    fn transmit(&mut self, _: SmolInstant) -> Option<Room<'_>> {
        Some(Room(&mut self.output))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = 1400;
        capabilities
    }
}

struct Packet(Vec<u8>);

impl RxToken for Packet {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct Room<'a>(&'a mut Vec<Vec<u8>>);

impl TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push(packet);
        result
    }
}

/// Our stack, [`alice`], and the other at [`B4`].
struct Meeting {
    start: Instant,
    now: Instant,
    ours: Stack,
    interface: Interface,
    sockets: SocketSet<'static>,
    theirs: SocketHandle,
    wire: Wire,
    ways: [Way; 2],
    chance: Chance,
    loss_per_mille: u64,
}

impl Meeting {
    fn new(seed: u64, loss_per_mille: u64, buffer: usize) -> Self {
        let start = Instant::now();
        let mut wire = Wire::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut wire, SmolInstant::from_millis(1000));
        interface.update_ip_addrs(|addresses| {
            addresses
                .push(IpCidr::new(IpAddress::from(B4), 24))
                .unwrap();
        });
        let room = || SocketBuffer::new(vec![0; buffer]);
        let mut sockets = SocketSet::new(Vec::new());
        let theirs = sockets.add(Socket::new(room(), room()));
        Self {
            start,
            now: start,
            ours: alice(),
            interface,
            sockets,
            theirs,
            wire,
            ways: [Way::new(), Way::new()],
            chance: Chance(seed),
            loss_per_mille,
        }
    }

    fn time(&self) -> SmolInstant {
        let since = (self.now - self.start).as_micros();
        SmolInstant::from_micros(1_000_000 + since as i64)
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.theirs)
    }

    fn post(&mut self, way: usize, packet: Vec<u8>) {
        if !self.chance.hits(self.loss_per_mille) {
            // Now and then one overtakes another.
            let late = self.chance.below(50).saturating_sub(45);
            let at = self.now + Duration::from_millis(10 + late);
            self.ways[way].push_back((at, packet));
        }
    }

    /// A millisecond passes.
    fn step(&mut self) {
        self.now += Duration::from_millis(1);
        let (now, time) = (self.now, self.time());
        for way in 0..2 {
            let (arrived, still) = std::mem::take(&mut self.ways[way])
                .into_iter()
                .partition::<Way, _>(|(at, _)| *at <= now);
            self.ways[way] = still;
            for (_, packet) in arrived {
                match way {
                    0 => self.wire.input.push_back(packet),
                    _ => self.ours.handle_packet(now, &packet),
                }
            }
        }
        self.ours.handle_timeout(now);
        self.interface.poll(time, &mut self.wire, &mut self.sockets);
        for packet in std::mem::take(&mut self.wire.output) {
            self.post(1, packet);
        }
        for packet in transmits(&mut self.ours) {
            self.post(0, packet);
        }
        events(&mut self.ours);
    }

    /// Both send everything, read everything, and shut down.
    fn exchange(&mut self, handle: TcpHandle, data: &[Vec<u8>; 2]) {
        let (mut sent, mut got) = ([0, 0], [Vec::new(), Vec::new()]);
        let mut ended = false;
        let mut buffer = vec![0; 100_000];
        for _ in 0..600_000 {
            let now = self.now;
            sent[0] += self
                .ours
                .tcp_send(now, handle, &data[0][sent[0]..])
                .unwrap_or(0);
            if sent[0] == data[0].len() {
                let _again = self.ours.tcp_shutdown(now, handle);
            }
            match self.ours.tcp_recv(now, handle, &mut buffer) {
                Ok(Some(0)) => ended = true,
                Ok(Some(count)) => got[1].extend_from_slice(&buffer[..count]),
                Ok(None) => {}
                Err(error) => panic!("{error}"),
            }
            let socket = self.socket();
            if socket.can_send() {
                sent[1] += socket.send_slice(&data[1][sent[1]..]).unwrap();
            }
            if socket.can_recv() {
                let count = socket.recv_slice(&mut buffer).unwrap();
                got[0].extend_from_slice(&buffer[..count]);
            }
            if sent[1] == data[1].len() && socket.may_send() {
                socket.close();
            }
            let over = matches!(socket.state(), State::TimeWait | State::Closed);
            if over && ended && self.ours.tcp_state(handle) == Some(TcpState::Closed) {
                break;
            }
            self.step();
        }
        assert!(
            got == *data,
            "{:?} of {:?}",
            [got[0].len(), got[1].len()],
            sent
        );
        assert_eq!(self.ours.tcp_state(handle), Some(TcpState::Closed));
    }
}

#[test]
fn smoltcp_and_we_understand_each_other() {
    for (seed, loss, buffer) in [
        (1, 0, 65_535),
        (2, 20, 20_000),
        (3, 20, 200_000),
        (4, 50, 3000),
    ] {
        for we_open in [true, false] {
            let mut meeting = Meeting::new(seed, loss, buffer);
            let now = meeting.now;
            let handle = if we_open {
                meeting.socket().listen(80).unwrap();
                let any = addr("0.0.0.0:0");
                let to = addr("10.0.0.2:80");
                meeting
                    .ours
                    .tcp_connect(now, any, to, TcpOptions::default())
                    .unwrap()
            } else {
                let listener = meeting.ours.tcp_listen(addr("10.0.0.1:80"), 1).unwrap();
                let context = meeting.interface.context();
                meeting
                    .sockets
                    .get_mut::<Socket<'_>>(meeting.theirs)
                    .connect(context, (IpAddress::from(A4), 80), 5000)
                    .unwrap();
                loop {
                    if let Some((handle, _)) = meeting.ours.tcp_accept(listener) {
                        break handle;
                    }
                    meeting.step();
                }
            };
            let data = [pattern(150_000, seed), pattern(120_000, !seed)];
            meeting.exchange(handle, &data);
        }
    }
}
