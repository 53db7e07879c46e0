//! Hostile traffic: datagrams from addresses that change with each, as forgers send them.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::str::FromStr;
use std::time::Instant;

use rustls_pki_types::ServerName;
use tsc_csm::Transport;
use tsc_csm::client::Event;
use tsc_osaa::cert::{ClientSecurity, Trust};
use tsc_osaa::dtls::{DtlsBackendKind, DtlsClientConfig, DtlsOptions};

use crate::engine::new_client;
use crate::link::{Buffers, DatagramSocket, MAX_CLIENTS};
use crate::pacing::Schedule;

/// Forged source addresses lie above those of clients: from 127.65.0.1 on.
const FIRST_SOURCE: u32 = 64 << 16;

/// How many forged source addresses there are.
const SOURCES: u32 = 1 << 20;

/// Most datagrams of one turn.
const BURST: usize = 64;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// Random bytes.
    Garbage,
    /// DTLS ClientHellos without cookie, each with another random value.
    Hello,
    /// Configuration_Requests without cookie, of full length.
    Request,
}

impl Attack {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Garbage, Self::Hello, Self::Request];

    /// The name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Garbage => "garbage",
            Self::Hello => "hello",
            Self::Request => "request",
        }
    }

    /// One datagram, and which of its bytes differ from one to the next.
    fn model(self) -> anyhow::Result<(Vec<u8>, std::ops::Range<usize>)> {
        Ok(match self {
            Self::Garbage => (vec![0; 200], 0..200),
            // Record header 13, handshake header 12, version 2, then the random.
            Self::Hello => (client_hello()?, 27..59),
            // The sequence number.
            Self::Request => (configuration_request()?, 12..16),
        })
    }
}

impl fmt::Display for Attack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Attack {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|attack| attack.name() == name);
        known.ok_or_else(|| format!("unknown attack {name:?}: expected garbage, hello or request"))
    }
}

/// The first datagram of a DTLS client that trusts nobody in particular.
fn client_hello() -> anyhow::Result<Vec<u8>> {
    let security = ClientSecurity::new(Trust::DangerousNone, None)?;
    let backend =
        DtlsBackendKind::preferred().ok_or_else(|| anyhow::anyhow!("this build has no DTLS"))?;
    let config = DtlsClientConfig::new(backend, &security, &DtlsOptions::default())?;
    let name = ServerName::try_from("localhost")?;
    let mut session = config.connect(Instant::now(), &name)?;
    let mut hello = Vec::new();
    let made = session.poll_transmit(&mut hello);
    anyhow::ensure!(made.is_some_and(|length| length > 60), "no ClientHello");
    Ok(hello)
}

/// The first datagram of a client over UDP.
fn configuration_request() -> anyhow::Result<Vec<u8>> {
    let mut client = new_client(Transport::Udp)?;
    let now = Instant::now();
    client.start(now);
    if let Some(Event::Open { epoch, .. }) = client.poll_event() {
        client.transport_opened(now, epoch);
    }
    let request = client.poll_transmit();
    let request = request.ok_or_else(|| anyhow::anyhow!("no Configuration_Request"))?;
    Ok(request.bytes.to_vec())
}

/// What an attack came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Datagrams sent.
    pub sent: u64,
    /// Bytes of them.
    pub sent_bytes: u64,
    /// Answers received.
    pub answers: u64,
    /// Bytes of them.
    pub answer_bytes: u64,
}

/// Sends at a rate.
#[derive(Debug)]
pub struct Attacker {
    socket: DatagramSocket,
    target: SocketAddr,
    schedule: Schedule,
    datagram: Vec<u8>,
    varies: std::ops::Range<usize>,
    /// State of a small generator: forgers need no secrets.
    chance: u64,
    damage: Damage,
}

impl Attacker {
    /// Makes one that sends `per_second` datagrams from now on.
    ///
    /// # Errors
    ///
    /// The target is not on loopback, whose addresses can be had; or what the system says.
    pub fn new(
        attack: Attack,
        target: SocketAddr,
        now_ns: u64,
        per_second: u64,
    ) -> anyhow::Result<Self> {
        anyhow::ensure!(
            target.ip().is_loopback() && target.is_ipv4(),
            "source addresses can only be forged towards a server on 127.0.0.0/8"
        );
        let (datagram, varies) = attack.model()?;
        Ok(Self {
            socket: DatagramSocket::bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0))?,
            target,
            schedule: Schedule::new(now_ns, per_second, 0),
            datagram,
            varies,
            chance: now_ns | 1,
            damage: Damage::default(),
        })
    }

    /// What it came to.
    #[must_use]
    pub const fn damage(&self) -> Damage {
        self.damage
    }

    /// Sends what is due and counts answers; whether there was any.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn turn(&mut self, buffers: &mut Buffers, now_ns: u64) -> io::Result<bool> {
        let mut any = false;
        for _ in 0..BURST {
            if self.schedule.take(now_ns).is_none() {
                break;
            }
            any = true;
            let start = self.varies.start;
            for at in self.varies.clone().step_by(8) {
                let bytes = self.next().to_le_bytes();
                if let Some(room) = self.datagram.get_mut(at..) {
                    let end = self.varies.end - start;
                    let room = room.iter_mut().take((end + start - at).min(8));
                    room.zip(bytes).for_each(|(to, from)| *to = from);
                }
            }
            let number = u32::try_from(self.next() % u64::from(SOURCES)).unwrap_or_default();
            let from = FIRST_SOURCE.saturating_add(number).min(MAX_CLIENTS);
            self.socket.send(Some(from), self.target, &self.datagram);
            self.damage.sent += 1;
            self.damage.sent_bytes += self.datagram.len() as u64;
        }
        self.socket.flush();
        if self.socket.receive(buffers)? {
            any = true;
            for received in buffers.datagrams() {
                self.damage.answers += 1;
                self.damage.answer_bytes += received.bytes.len() as u64;
            }
        }
        Ok(any)
    }

    /// xorshift64*
    const fn next(&mut self) -> u64 {
        self.chance ^= self.chance >> 12;
        self.chance ^= self.chance << 25;
        self.chance ^= self.chance >> 27;
        self.chance.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

#[cfg(test)]
mod tests {
    use tsc_tpl::{CmType, Limits, Unit};

    use super::*;

    #[test]
    fn models_are_what_they_claim() {
        let (hello, varies) = Attack::Hello.model().unwrap();
        assert_eq!(
            (hello[0], hello[13]),
            (22, 1),
            "a handshake record, ClientHello"
        );
        assert!(hello.len() > varies.end);
        let (request, _) = Attack::Request.model().unwrap();
        assert!(request.len() >= 128);
        let Ok(Unit::Control(message)) = Unit::decode_datagram(&request, &Limits::default()) else {
            panic!("no control message");
        };
        assert_eq!(message.header().cm_type, CmType::CONFIGURATION_REQUEST);
    }

    #[test]
    fn datagrams_come_from_everywhere() {
        let here = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
        let server = DatagramSocket::bind(here).unwrap();
        let target = server.local_addr().unwrap();
        let mut attacker = Attacker::new(Attack::Request, target, 1_000, 1_000).unwrap();
        let mut buffers = Buffers::default();
        attacker.turn(&mut buffers, 20_000_000).unwrap();
        let damage = attacker.damage();
        assert_eq!(damage.sent, 20);
        let mut seen = std::collections::HashSet::new();
        while seen.len() < 20 {
            if server.receive(&mut buffers).unwrap() {
                seen.extend(
                    buffers
                        .datagrams()
                        .map(|one| (one.from.ip(), one.bytes.to_vec())),
                );
            }
        }
        let sources: std::collections::HashSet<_> = seen.iter().map(|(from, _)| from).collect();
        assert!(sources.len() > 15);
    }
}
