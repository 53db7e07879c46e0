//! A server, and tunnels to it over TCP without a client library, so that any packet can be sent.
// Each test file uses its own part of this.
#![allow(dead_code, unreachable_pub)]

#[cfg(target_os = "linux")]
pub mod namespace;
pub mod packet;

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use tsc_server::{
    Report, Server, Transport,
    config::{Config, Overrides},
};
use tsc_tpl::{CmType, Limits, MessageBuilder, Sequence, StreamDecoder, Tlv, Tsid, Unit, registry};

/// Nothing here takes longer unless it hangs.
pub const LIMIT: Duration = Duration::from_secs(30);

/// An interface on TCP with the pool `clients`, whose tables are still to be written.
pub const HEAD: &str = r#"
[[tscf-interface]]
realm-id = "access"
local-address-pools = ["clients"]
authentication = "none"

[tscf-interface.limits]
requests-per-prefix = 10000

[[tscf-interface.tscf-port]]
address = "127.0.0.1"
port = 0
transport-protocol = "tcp"
"#;

pub fn start(text: &str) -> Server {
    Server::start(&config(text)).unwrap()
}

fn config(text: &str) -> Config {
    let config = Config::parse_with(text, "test", &Overrides::default());
    config.unwrap_or_else(|errors| panic!("{errors}\nin\n{text}"))
}

/// Offers new tunnels the services of this configuration.
pub fn change_offers(server: &Server, text: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    assert!(runtime.block_on(server.change_offers(config(text))));
}

/// Figures of now.
pub fn report(server: &Server) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(server.report()).unwrap()
}

/// Figures as soon as `ready` says so: what one worker has done may not be done on another yet.
pub fn report_when(server: &Server, ready: impl Fn(&Report) -> bool) -> Report {
    let end = Instant::now() + LIMIT;
    loop {
        let report = report(server);
        if ready(&report) {
            return report;
        }
        assert!(Instant::now() < end, "{:?}", report.counters);
    }
}

/// One tunnel.
pub struct Tunnel {
    stream: TcpStream,
    decoder: StreamDecoder,
    /// Packets that were read and not asked for yet.
    packets: std::collections::VecDeque<Vec<u8>>,
    /// Kinds of the messages that came.
    pub messages: Vec<CmType>,
    pub v4: Option<IpAddr>,
    pub v6: Option<IpAddr>,
}

impl Tunnel {
    pub fn open(server: &Server) -> Self {
        Self::connect(server.address(Transport::Tcp).unwrap())
    }

    /// To a server that may be a program of its own.
    pub fn connect(server: SocketAddr) -> Self {
        let stream = TcpStream::connect(server).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut tunnel = Self {
            stream,
            decoder: StreamDecoder::new(Limits::WIDEST),
            packets: std::collections::VecDeque::new(),
            messages: Vec::new(),
            v4: None,
            v6: None,
        };
        let mut request = Vec::new();
        MessageBuilder::new(CmType::CONFIGURATION_REQUEST, Tsid::UNASSIGNED, Sequence(1))
            .tlv(Tlv::ProtocolRevision(registry::PROTOCOL_REVISION))
            .encode(&mut request)
            .unwrap();
        tunnel.stream.write_all(&request).unwrap();
        while tunnel.v4.is_none() && tunnel.v6.is_none() {
            tunnel.read();
        }
        tunnel
    }

    /// Reads once; false at the end of the stream.
    fn read(&mut self) -> bool {
        let mut buffer = vec![0; 65_536];
        let len = self.stream.read(&mut buffer).expect("in time");
        let mut feed = self.decoder.feed(&buffer[..len]);
        while let Some(unit) = feed.next().unwrap() {
            match unit {
                Unit::Ip(packet) => self.packets.push_back(packet.as_bytes().to_vec()),
                Unit::Control(message) => {
                    self.messages.push(message.header().cm_type);
                    let message = message.parse().unwrap();
                    for address in message.addresses() {
                        match address.addr {
                            IpAddr::V4(_) => self.v4 = Some(address.addr),
                            IpAddr::V6(_) => self.v6 = Some(address.addr),
                        }
                    }
                }
                Unit::Redundancy(_) | Unit::Reserved(_) => {}
            }
        }
        len > 0
    }

    /// This tunnel's end with a port.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.v4.or(self.v6).unwrap(), port)
    }

    pub fn send(&mut self, packet: &[u8]) {
        self.stream.write_all(packet).unwrap();
    }

    /// Waits for a message of this kind.
    pub fn wait_for(&mut self, wanted: CmType) {
        while !self.messages.contains(&wanted) {
            assert!(self.read(), "closed");
        }
    }

    /// The next packet.
    pub fn receive(&mut self) -> Vec<u8> {
        loop {
            if let Some(packet) = self.packets.pop_front() {
                return packet;
            }
            assert!(self.read(), "closed");
        }
    }

    /// All packets up to `mark` that another end has sent last.
    pub fn receive_until(&mut self, mark: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            let packet = self.receive();
            if mark(&packet) {
                return all;
            }
            all.push(packet);
        }
    }
}
