//! What the fuzz targets run, and the ordinary tests replay over the corpus.
//!
//! The input is a list of operations: `op u8, length u8, bytes`. The bytes of a control message may carry a
//! placeholder TSID (eight times 0xEE, or 0xDD), which is replaced by that of a living tunnel (the victim's, or the
//! fuzzer's own), so that the fuzzer gets past the first comparison.

#![allow(dead_code, reason = "each target uses its own half")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use tsc_csm::client::{
    Client, ClientConfig, Endpoint, Epoch, Event, Redundancy, Target, TransportFailure,
};
use tsc_csm::server::pool::{AddressRange, PoolConfig, PoolRange};
use tsc_csm::server::{
    self, AuthPolicy, BadUnit, BindingId, BindingInfo, Destination, Identity, InterfaceConfig,
    ListenerId, Server, ServerConfig, Verdict,
};
use tsc_csm::{Alternate, FlowKey, InnerTransport, Random, Transport};
use tsc_tpl::{
    CmType, Limits, MessageBuilder, Sequence, ServiceType, StreamDecoder, Tlv, TlvType, Tsid, Unit,
};

const PLACEHOLDER: [u8; 8] = [0xEE; 8];
const OWN_PLACEHOLDER: [u8; 8] = [0xDD; 8];
const ADDRESSES: u64 = 6;
const VICTIM_PREFIX: &str = "10.1.0.0/16";
const VICTIM_HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3));

/// Counts: as bad as a generator can be, and the same each time.
struct Counter(u64);

impl Random for Counter {
    fn fill(&mut self, buf: &mut [u8]) {
        for byte in buf {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            *byte = (self.0 >> 56) as u8;
        }
    }
}

/// Splits an input into operations.
fn operations(mut data: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (op, rest) = data.split_first()?;
        let (length, rest) = rest.split_first()?;
        let (bytes, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        data = rest;
        Some((*op, bytes))
    })
}

/// Puts a living tunnel's name where a placeholder stands.
fn with_tsid(bytes: &[u8], tsid: Tsid, own: Tsid) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if let Some(field) = bytes.get_mut(4..12) {
        if field == PLACEHOLDER {
            field.copy_from_slice(&tsid.0.to_be_bytes());
        } else if field == OWN_PLACEHOLDER {
            field.copy_from_slice(&own.0.to_be_bytes());
        }
    }
    bytes
}

fn encode(builder: &MessageBuilder<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    builder.encode(&mut bytes).expect("a valid message");
    bytes
}

/// Where the server listens.
const LOCAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)), 5060);

struct ServerWorld {
    now: Instant,
    server: Server,
    listener: ListenerId,
    /// A well-behaved client's TLS stream, which nothing that others do may harm.
    victim: BindingId,
    victim_tsid: Tsid,
    /// The fuzzer's last tunnel.
    own_tsid: Tsid,
    sequence: u32,
    next_port: u16,
}

impl ServerWorld {
    fn new() -> Self {
        let now = Instant::now();
        let range = AddressRange {
            first: IpAddr::from([10, 0, 0, 1]),
            last: IpAddr::from([10, 0, 0, 6]),
        };
        let pool = PoolConfig {
            name: "fuzz".to_owned(),
            ranges: vec![PoolRange {
                range,
                prefix_len: 24,
            }],
            exclusions: Vec::new(),
            quarantine: None,
        };
        // Plain UDP is for strangers; connections are for gateways, whose prefixes overlap.
        let mut gateways = InterfaceConfig::new("gateways", vec![0]);
        gateways.auth = AuthPolicy::Mtls;
        gateways.services = vec![
            ServiceType::ENABLE_STG,
            ServiceType::ENABLE_REDUNDANCY,
            ServiceType::ENABLE_DDT,
        ];
        let dtls = Alternate {
            transport: Transport::Dtls,
            address: LOCAL,
        };
        gateways.endpoints = vec![dtls];
        let mut strangers = InterfaceConfig::new("fuzz", vec![0]);
        strangers.services = vec![ServiceType::ENABLE_REDUNDANCY];
        for (name, text) in [
            ("victim", VICTIM_PREFIX),
            ("fuzz", "10.1.2.0/24"),
            ("fuzz", "fd00::/64"),
        ] {
            let prefix = text.parse().expect("a prefix");
            let prefixes = gateways.routed_prefixes.entry(Identity::new(name));
            prefixes.or_default().push(prefix);
        }
        let config = ServerConfig {
            pools: vec![pool],
            interfaces: vec![strangers, gateways],
            ..ServerConfig::new()
        };
        let mut server =
            Server::new(config, now, Box::new(Counter(1))).expect("a valid configuration");
        let listener = server
            .add_listener(0, ([203, 0, 113, 1], 5060).into())
            .expect("a listener");
        let victim_peer = SocketAddr::from(([198, 51, 100, 1], 4000));
        let info = BindingInfo {
            interface: 1,
            transport: Transport::Tls,
            peer: victim_peer,
            local: LOCAL,
            identity: Some(Identity::new("victim")),
        };
        let victim = server.open_binding(now, info).expect("a stream");
        let mut world = Self {
            now,
            server,
            listener,
            victim,
            victim_tsid: Tsid(0),
            own_tsid: Tsid(0),
            sequence: 1,
            next_port: 1000,
        };
        let request = encode(
            &MessageBuilder::new(CmType::CONFIGURATION_REQUEST, Tsid::UNASSIGNED, Sequence(0))
                .tlv(Tlv::ProtocolRevision(1)),
        );
        world.unit(victim, &request);
        world.victim_tsid = world.answer(victim).expect("a tunnel");
        let request = encode(
            &MessageBuilder::new(
                CmType::CLIENT_SERVICE_REQUEST,
                world.victim_tsid,
                Sequence(1),
            )
            .tlv(Tlv::ServiceType(ServiceType::ENABLE_STG)),
        );
        world.unit(victim, &request);
        world.check_victim();
        world
    }

    fn open(&mut self, transport: Transport) -> Option<BindingId> {
        self.next_port = self.next_port.wrapping_add(1).max(1000);
        let peer = SocketAddr::from(([192, 0, 2, 1], self.next_port));
        self.server
            .open_binding(
                self.now,
                BindingInfo {
                    interface: 1,
                    transport,
                    peer,
                    local: LOCAL,
                    identity: Some(Identity::new("fuzz")),
                },
            )
            .ok()
    }

    fn unit(&mut self, binding: BindingId, bytes: &[u8]) {
        match Unit::decode_datagram(bytes, &Limits::default()) {
            Ok(unit) => {
                let verdict = self.server.handle_unit(self.now, binding, &unit);
                if let (Verdict::ForwardFrame(_, fresh), Unit::Redundancy(frame)) = (verdict, unit)
                {
                    assert!(fresh.packets(&frame).count() <= usize::from(frame.count()));
                }
            }
            Err(error) => {
                let _ = self
                    .server
                    .handle_bad_unit(self.now, binding, BadUnit::Datagram(error));
            }
        }
    }

    /// A packet for each address: whoever was granted redundancy gets it in a frame, and the victim never.
    fn forward(&mut self) {
        let victim = self.server.session_of(self.victim);
        for last in 1..=6 {
            let packet = udp([10, 0, 0, last].into());
            let Some(session) = self.server.route(IpAddr::from([10, 0, 0, last])) else {
                continue;
            };
            let mut frame = Vec::new();
            let outgoing = self.server.outgoing(self.now, session, &packet, &mut frame);
            if outgoing.is_some_and(|outgoing| outgoing.framed) {
                assert!(Some(session) != victim, "another's grant");
                let unit = Unit::decode_datagram(&frame, &Limits::WIDEST);
                assert!(matches!(unit, Ok(Unit::Redundancy(_))) && frame.len() <= 1200);
            }
        }
    }

    /// From an address that may have a tunnel or not.
    fn datagram(&mut self, peer: SocketAddr, bytes: &[u8]) {
        match self.server.lookup(self.listener, peer) {
            Some(binding) => self.unit(binding, bytes),
            None => {
                let _ = self
                    .server
                    .handle_unbound(self.now, self.listener, peer, bytes);
            }
        }
    }

    fn stream(&mut self, binding: BindingId, bytes: &[u8]) {
        let mut decoder = StreamDecoder::new(Limits::default());
        let mut feed = decoder.feed(bytes);
        loop {
            let verdict = match feed.next() {
                Ok(Some(unit)) => self.server.handle_unit(self.now, binding, &unit),
                Ok(None) => return,
                Err(error) => {
                    self.server
                        .handle_bad_unit(self.now, binding, BadUnit::Framing(error))
                }
            };
            if matches!(verdict, Verdict::Close(_)) {
                return;
            }
        }
    }

    /// The TSID of the one answer that waits, if it went to `binding`.
    fn answer(&mut self, binding: BindingId) -> Option<Tsid> {
        let mut found = None;
        while let Some(transmit) = self.server.poll_transmit() {
            let Ok(Unit::Control(message)) =
                Unit::decode_datagram(&transmit.bytes, &Limits::WIDEST)
            else {
                panic!("the server sent what is no control message");
            };
            if transmit.to == Destination::Connection(binding) {
                found = Some(message.header().tsid);
            }
        }
        found
    }

    /// Drains everything; answers to a stranger may not be longer than what it sent (22 bytes for a Keepalive).
    fn drain(&mut self, received: usize) {
        let mut answers = 0;
        while let Some(transmit) = self.server.poll_transmit() {
            answers += 1;
            assert!(transmit.bytes.len() <= 1200);
            assert!(Unit::decode_datagram(&transmit.bytes, &Limits::WIDEST).is_ok());
            if matches!(transmit.to, Destination::Udp { .. }) && received < 128 {
                assert!(transmit.bytes.len() <= received.max(22), "an amplifier");
            }
        }
        assert!(
            answers <= 2 * server::TIMEOUTS_PER_TURN,
            "{answers} answers to one input"
        );
        while let Some(event) = self.server.poll_event() {
            if let server::Event::SessionUp { tsid, .. } = event {
                self.own_tsid = tsid;
            }
        }
        let stats = self.server.stats();
        assert!(stats.sessions as u64 <= ADDRESSES && stats.transmit_overflow == 0);
    }

    /// The well-behaved client still has its tunnel.
    fn check_victim(&mut self) {
        while self.server.poll_transmit().is_some() {}
        self.sequence += 1;
        let keepalive = encode(&MessageBuilder::new(
            CmType::KEEPALIVE,
            self.victim_tsid,
            Sequence(self.sequence),
        ));
        self.unit(self.victim, &keepalive);
        let answer = self.answer(self.victim);
        assert_eq!(
            answer,
            Some(self.victim_tsid),
            "the tunnel of another was harmed"
        );
        let behind = self.server.route(VICTIM_HOST);
        assert!(
            behind.is_some() && behind == self.server.session_of(self.victim),
            "the prefix of another was harmed"
        );
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        for _ in 0..64 {
            if self.server.poll_timeout().is_none_or(|at| at > self.now) {
                return;
            }
            self.server.handle_timeout(self.now);
        }
        panic!("timeouts without end");
    }
}

/// Arbitrary datagrams, streams and steps of time at a server with a living tunnel.
pub fn server(data: &[u8]) {
    let mut world = ServerWorld::new();
    let mut own: Option<BindingId> = None;
    for (op, bytes) in operations(data) {
        let message = with_tsid(bytes, world.victim_tsid, world.own_tsid);
        match op % 8 {
            // Time, at most two minutes at once: the victim speaks after each operation.
            0 => world.pass(Duration::from_millis(
                u64::from(bytes.first().copied().unwrap_or(1)) * 470,
            )),
            // A stranger's datagram; a bound one, if the fuzzer has got that far.
            1 | 2 => {
                let peer = SocketAddr::from(([192, 0, 2, 9], 7000 + u16::from(op / 8)));
                world.datagram(peer, &message);
                world.drain(message.len());
            }
            // A stranger's datagram with a valid cookie at its end, which only the address's owner can have.
            3 => {
                let peer = SocketAddr::from(([192, 0, 2, 9], 7000 + u16::from(op / 8)));
                let cookie = world.cookie(peer);
                let mut message = message;
                if let (Some(count), Some(cookie)) = (message.get_mut(3), cookie) {
                    *count = count.wrapping_add(1);
                    message.extend(TlvType::COOKIE.0.to_be_bytes());
                    message.extend(
                        u16::try_from(cookie.len())
                            .unwrap_or_default()
                            .to_be_bytes(),
                    );
                    message.extend(cookie);
                }
                world.datagram(peer, &message);
            }
            // A new stream or association, and what it says first.
            4 => {
                own = world.open(if op >= 128 {
                    Transport::Dtls
                } else {
                    Transport::Tcp
                });
                if let Some(binding) = own {
                    world.stream(binding, &message);
                }
            }
            // More on the last one.
            5 | 6 => {
                if let Some(binding) = own {
                    if op >= 128 {
                        world.unit(binding, &message)
                    } else {
                        world.stream(binding, &message)
                    }
                }
            }
            _ => {
                if let Some(binding) = own.take() {
                    world
                        .server
                        .binding_lost(world.now, binding, server::BindingLoss::Failed);
                }
            }
        }
        world.drain(usize::MAX);
        world.forward();
        world.check_victim();
    }
}

/// An empty UDP packet from port 9 to port 9.
fn udp(destination: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 200];
    packet.extend(destination.octets());
    packet.extend([0, 9, 0, 9, 0, 8, 0, 0]);
    packet
}

impl ServerWorld {
    /// Asks for a cookie as the owner of `peer`.
    fn cookie(&mut self, peer: SocketAddr) -> Option<Vec<u8>> {
        let request = encode(
            &MessageBuilder::new(CmType::CONFIGURATION_REQUEST, Tsid::UNASSIGNED, Sequence(0))
                .tlv(Tlv::ProtocolRevision(1))
                .pad_to(128),
        );
        self.drain(usize::MAX);
        let _ = self
            .server
            .handle_unbound(self.now, self.listener, peer, &request);
        let transmit = self.server.poll_transmit()?;
        match Unit::decode_datagram(&transmit.bytes, &Limits::WIDEST) {
            Ok(Unit::Control(answer)) => answer.raw_value(TlvType::COOKIE).map(<[u8]>::to_vec),
            _ => None,
        }
    }
}

/// Arbitrary datagrams, streams and steps of time at a client, while it connects, is bound, and resumes.
pub fn client(data: &[u8]) {
    let mut now = Instant::now();
    let (first, data) = data.split_first().unwrap_or((&0, &[]));
    let transport = Transport::ALL[usize::from(*first % 4)];
    // The other one of the same protection, too.
    let other = Transport::ALL
        .into_iter()
        .find(|other| *other != transport && other.is_protected() == transport.is_protected());
    let target = |transport| Target {
        transport,
        endpoint: Endpoint::Configured(0),
    };
    let config = ClientConfig {
        follow_clear_redirects: true,
        lookup: first & 4 != 0,
        upgrade: first & 8 != 0,
        ..ClientConfig::new([transport].into_iter().chain(other).map(target).collect())
    };
    let mut client = Client::new(config, Box::new(Counter(2))).expect("a valid configuration");
    client.start(now);
    let mut epoch = Epoch(0);
    // The last ones, of which the fuzzer picks.
    let mut epochs = vec![epoch];
    let mut sequence = Sequence(0);
    let mut down = false;
    for (op, bytes) in operations(data) {
        let tsid = client
            .assignment()
            .map_or(Tsid(0x0123_4567), |assignment| assignment.tsid);
        let mut message = with_tsid(bytes, tsid, tsid);
        // An answer to the last request, so that the fuzzer need not guess the transaction.
        if op >= 128
            && let Some(field) = message.get_mut(12..16)
        {
            field.copy_from_slice(&sequence.0.to_be_bytes());
        }
        if let [pick, ..] = bytes {
            epoch = epochs[usize::from(*pick) % epochs.len()];
        }
        match op % 11 {
            0 => now += Duration::from_millis(u64::from(bytes.first().copied().unwrap_or(1)) * 100),
            1 if op >= 128 => {
                let wish = match bytes {
                    [_, 0, ..] => Redundancy::Off,
                    [_, 1, ..] => Redundancy::Adaptive { most: 2 },
                    _ => Redundancy::Copies(2),
                };
                let key = FlowKey {
                    transport: InnerTransport::Udp,
                    port: 9,
                };
                let _ = client.set_redundancy(now, key, ([10, 0, 0, 1], 9).into(), wish);
                let mut frame = Vec::new();
                if client.frame(now, &udp([10, 0, 0, 1].into()), &mut frame) {
                    let unit = Unit::decode_datagram(&frame, &Limits::WIDEST);
                    assert!(matches!(unit, Ok(Unit::Redundancy(_))) && frame.len() <= 1200);
                }
            }
            1 => client.transport_opened(now, epoch),
            2 => client.transport_lost(now, epoch, tsc_csm::client::TransportLoss::Failed),
            3 if op < 128 => client.note_sent(now),
            3 => {
                let _ = client.request_service(now, ServiceType(27 + u16::from(op / 11 % 2)));
            }
            4 => client.transport_failed(now, epoch, TransportFailure::Unreachable),
            5 if op < 128 => client.relocate(now, None),
            5 => client.network_changed(now),
            6 if op < 128 => client.network_gone(),
            6 => client.set_background(now, bytes.len() % 2 == 0),
            7 => {
                let target = target(if op < 128 {
                    transport
                } else {
                    other.unwrap_or(transport)
                });
                let address = |last: &u8| ([192, 0, 2, *last], 4567).into();
                let addresses: Vec<_> = bytes.iter().take(12).map(address).collect();
                client.resolved(now, target, &addresses);
            }
            _ => match Unit::decode_datagram(&message, &Limits::WIDEST) {
                Ok(unit) => {
                    let _ = client.handle_unit(now, epoch, unit);
                }
                Err(error) => {
                    client.handle_bad_unit(now, epoch, BadUnit::Datagram(error));
                }
            },
        }
        let mut turns = 0;
        while client.poll_timeout().is_some_and(|at| at <= now) {
            client.handle_timeout(now);
            turns += 1;
            assert!(turns < 1000, "timeouts without end");
        }
        let mut sent = 0;
        while let Some(transmit) = client.poll_transmit() {
            sent += 1;
            let Ok(Unit::Control(message)) =
                Unit::decode_datagram(&transmit.bytes, &Limits::WIDEST)
            else {
                panic!("the client sent what is no control message");
            };
            sequence = message.header().sequence;
        }
        assert!(sent <= tsc_csm::client::MAX_QUEUED_TRANSMITS);
        while let Some(event) = client.poll_event() {
            assert!(!down, "{event:?} after the end");
            match event {
                Event::Open {
                    epoch: next,
                    target,
                    ..
                } => {
                    // No downgrade, whatever servers say.
                    assert!(target.transport.is_protected() || !transport.is_protected());
                    epochs.push(next);
                    if epochs.len() > tsc_csm::client::MAX_RACING {
                        epochs.remove(0);
                    }
                }
                Event::Down(_) => down = true,
                _ => {}
            }
        }
        assert!(!down || client.poll_timeout().is_none());
    }
}
