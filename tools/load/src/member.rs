//! One client: a tunnel with its state machine, or a bare session of the baseline.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::Instant;

use tsc_csm::client::{BadUnit, Client, Epoch, Inbound};
use tsc_osaa::dtls::DtlsSession;
use tsc_tpl::{Limits, StreamDecoder, Unit};

use crate::link::{Framed, StreamLink};
use crate::peer::TurnClient;
use crate::probe::{HEADERS_LEN, Probe};
use crate::traffic::Arrived;

/// Where a client stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Not begun.
    Waiting,
    /// Begun at this time (nanoseconds).
    Opening(u64),
    /// Packets can be sent.
    Up,
    /// Over.
    Down,
}

/// What a client sends over.
#[derive(Debug, Default)]
pub(crate) enum Link {
    /// Nothing yet, or nothing any more.
    #[default]
    Closed,
    /// Plain datagrams; over a socket of its own where not all share one.
    Datagram(Option<UdpSocket>),
    /// DTLS; likewise.
    Dtls(Box<dyn DtlsSession>, Option<UdpSocket>),
    /// TCP or TLS.
    Stream(Box<StreamLink>),
}

/// What a client speaks.
#[derive(Debug)]
pub(crate) enum Speech {
    /// Payloads only: the baseline. On streams with two bytes of length.
    Bare(Framed),
    /// A tunnel.
    Tunnel(Box<Client>, StreamDecoder),
    /// TURN.
    Turn(Box<TurnClient>),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) phase: Phase,
    pub(crate) speech: Speech,
    pub(crate) link: Link,
    /// Which attempt at a transport the link is.
    pub(crate) epoch: Epoch,
    /// Inner address.
    pub(crate) address: Option<Ipv4Addr>,
    /// When its timer is set for, in nanoseconds.
    pub(crate) armed_ns: Option<u64>,
    /// Stands in the list of those with something to be flushed.
    pub(crate) is_dirty: bool,
}

impl Member {
    pub(crate) fn bare() -> Self {
        Self::new(Speech::Bare(Framed::default()))
    }

    pub(crate) fn tunnel(client: Client) -> Self {
        let decoder = StreamDecoder::new(Limits::WIDEST);
        Self::new(Speech::Tunnel(Box::new(client), decoder))
    }

    pub(crate) fn turn(client: TurnClient) -> Self {
        Self::new(Speech::Turn(Box::new(client)))
    }

    const fn new(speech: Speech) -> Self {
        Self {
            phase: Phase::Waiting,
            speech,
            link: Link::Closed,
            epoch: Epoch(0),
            address: None,
            armed_ns: None,
            is_dirty: false,
        }
    }

    pub(crate) fn client(&mut self) -> Option<&mut Client> {
        match &mut self.speech {
            Speech::Tunnel(client, _) => Some(client),
            Speech::Bare(_) | Speech::Turn(_) => None,
        }
    }

    /// Forgets half a unit of an earlier stream.
    pub(crate) fn reset_decoder(&mut self) {
        match &mut self.speech {
            Speech::Tunnel(_, decoder) => *decoder = StreamDecoder::new(Limits::WIDEST),
            Speech::Bare(framed) => *framed = Framed::default(),
            Speech::Turn(turn) => turn.reset(),
        }
    }

    /// Takes the inner addresses that the tunnel was given; the first IPv4 one is used.
    pub(crate) fn take_address(&mut self) {
        let address = self.client().and_then(|client| {
            let addresses = &client.assignment()?.addresses;
            addresses.iter().find_map(|inner| match inner.address {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            })
        });
        self.address = address;
    }

    /// When its machines want to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let machine = match &self.speech {
            Speech::Tunnel(client, _) => client.poll_timeout(),
            Speech::Turn(turn) => turn.poll_timeout(),
            Speech::Bare(_) => None,
        };
        let session = match &self.link {
            Link::Dtls(session, _) => session.poll_timeout(),
            Link::Closed | Link::Datagram(_) | Link::Stream(_) => None,
        };
        match (machine, session) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }
}

/// What became of received bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// The state machine may have something to say.
    pub(crate) control: bool,
    /// Packets that were none of ours.
    pub(crate) strangers: u64,
}

impl Speech {
    /// Takes one datagram's contents.
    pub(crate) fn datagram(
        &mut self,
        now: Instant,
        member: u32,
        epoch: Epoch,
        bytes: &[u8],
        arrived: &mut Vec<Arrived>,
    ) -> Taken {
        let mut taken = Taken::default();
        match self {
            Self::Bare(_) => taken.payload(member, bytes, arrived),
            Self::Turn(turn) => {
                taken.control = turn.take(now, bytes, |payload| {
                    take_payload(member, payload, arrived, &mut taken.strangers);
                });
            }
            Self::Tunnel(client, _) => match Unit::decode_datagram(bytes, &Limits::WIDEST) {
                Ok(unit) => taken.unit(client, now, member, epoch, unit, arrived),
                Err(error) => {
                    client.handle_bad_unit(now, epoch, BadUnit::Datagram(error));
                    taken.control = true;
                }
            },
        }
        taken
    }

    /// Takes a piece of a stream.
    pub(crate) fn stream(
        &mut self,
        now: Instant,
        member: u32,
        epoch: Epoch,
        bytes: &[u8],
        arrived: &mut Vec<Arrived>,
    ) -> Taken {
        let mut taken = Taken::default();
        match self {
            Self::Bare(framed) => {
                framed.feed(bytes, |payload| taken.payload(member, payload, arrived));
            }
            Self::Turn(turn) => {
                taken.control = turn.feed(now, bytes, |payload| {
                    take_payload(member, payload, arrived, &mut taken.strangers);
                });
            }
            Self::Tunnel(client, decoder) => {
                let mut feed = decoder.feed(bytes);
                loop {
                    match feed.next() {
                        Ok(Some(unit)) => taken.unit(client, now, member, epoch, unit, arrived),
                        Ok(None) => break,
                        Err(error) => {
                            client.handle_bad_unit(now, epoch, BadUnit::Framing(error));
                            taken.control = true;
                            break;
                        }
                    }
                }
            }
        }
        taken
    }
}

impl Taken {
    fn unit(
        &mut self,
        client: &mut Client,
        now: Instant,
        member: u32,
        epoch: Epoch,
        unit: Unit<'_>,
        arrived: &mut Vec<Arrived>,
    ) {
        match client.handle_unit(now, epoch, unit) {
            Inbound::Deliver(packet) | Inbound::Routed(packet) => {
                let payload = packet.as_bytes().get(HEADERS_LEN..).unwrap_or_default();
                self.payload(member, payload, arrived);
            }
            // It asks for no frames.
            Inbound::DeliverFrame(..) | Inbound::Consumed | Inbound::Dropped(_) => {
                self.control = true;
            }
        }
    }

    fn payload(&mut self, member: u32, payload: &[u8], arrived: &mut Vec<Arrived>) {
        take_payload(member, payload, arrived, &mut self.strangers);
    }
}

fn take_payload(member: u32, payload: &[u8], arrived: &mut Vec<Arrived>, strangers: &mut u64) {
    match Probe::decode(payload) {
        Some(probe) => arrived.push(Arrived { member, probe }),
        None => *strangers += 1,
    }
}
