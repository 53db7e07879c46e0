//! From the arguments to the report: hex, a stream of hex, or a capture.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, bail};
use tsc_tpl::{
    DatagramError, FirstByte, IpPacket, Limits, StreamDecoder, StunError, StunMessage, Unit,
};

use crate::capture::{Capture, Packet, Side};
use crate::cli::Arguments;
use crate::hex;
use crate::outer::{self, Link, Outer};
use crate::report::{Origin, OuterOrigin, Report};
use crate::tcp::{Event, Streams};

/// Longest text that is read as hex.
const MAX_TEXT: u64 = 64 << 20;

/// Reads what the arguments name and reports what it holds.
pub(crate) fn run(arguments: &Arguments, report: &mut Report<impl Write>) -> anyhow::Result<()> {
    let limits = arguments.limits();
    match &arguments.pcap {
        Some(path) if path == Path::new("-") => capture(io::stdin().lock(), arguments, report),
        Some(path) => {
            let file =
                File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
            capture(BufReader::new(file), arguments, report)
                .with_context(|| format!("in {}", path.display()))
        }
        None => {
            let datagrams = hex::datagrams(&text(&arguments.hex)?)?;
            if datagrams.is_empty() {
                bail!("no bytes were given");
            }
            if arguments.stream {
                stream(&datagrams.concat(), limits, report)
            } else {
                datagrams
                    .iter()
                    .try_for_each(|bytes| datagram(&Origin::default(), bytes, &limits, report))
            }
        }
    }
}

/// The hex itself: from the command line, with standard input in place of each `-`.
fn text(arguments: &[String]) -> anyhow::Result<String> {
    let mut text = String::new();
    for argument in arguments {
        if argument == "-" {
            let before = text.len();
            io::stdin()
                .lock()
                .take(MAX_TEXT)
                .read_to_string(&mut text)
                .context("cannot read standard input")?;
            if u64::try_from(text.len() - before).is_ok_and(|len| len == MAX_TEXT) {
                bail!("more than {MAX_TEXT} bytes of hex");
            }
        } else {
            text.push_str(argument);
        }
        text.push('\n');
    }
    Ok(text)
}

fn datagram(
    origin: &Origin,
    bytes: &[u8],
    limits: &Limits,
    report: &mut Report<impl Write>,
) -> anyhow::Result<()> {
    match Unit::decode_datagram(bytes, limits) {
        Ok(unit) => report.unit(origin, &unit)?,
        Err(error) => match bytes.first().map(|first| FirstByte::classify(*first)) {
            Some(FirstByte::Dtls) => report.opaque(origin, bytes.len(), "dtls")?,
            Some(FirstByte::Stun) => stun(origin, bytes, report)?,
            _ => report.error(origin, bytes.len(), &error.to_string())?,
        },
    }
    Ok(())
}

fn stun(origin: &Origin, bytes: &[u8], report: &mut Report<impl Write>) -> anyhow::Result<()> {
    match StunMessage::decode(bytes) {
        Ok(message) => report.stun(origin, bytes.len(), &message)?,
        // Others use it for more than the tunnel does.
        Err(StunError::Type(_) | StunError::Attribute(_)) => {
            report.opaque(origin, bytes.len(), "stun")?;
        }
        Err(error) => report.error(origin, bytes.len(), &error.to_string())?,
    }
    Ok(())
}

fn stream(bytes: &[u8], limits: Limits, report: &mut Report<impl Write>) -> anyhow::Result<()> {
    let mut decoder = StreamDecoder::new(limits);
    let mut offset = 0;
    let mut feed = decoder.feed(bytes);
    let end = loop {
        let origin = Origin {
            offset: Some(offset),
            ..Origin::default()
        };
        match feed.next() {
            Ok(Some(unit)) => {
                report.unit(&origin, &unit)?;
                offset += u64::try_from(unit.as_bytes().len())?;
            }
            Ok(None) => break decoder.finish(),
            Err(error) => break Err(error),
        }
    };
    if let Err(error) = end {
        let origin = Origin {
            offset: Some(offset),
            ..Origin::default()
        };
        let left = bytes.len().saturating_sub(usize::try_from(offset)?);
        report.error(&origin, left, &error.to_string())?;
    }
    Ok(())
}

fn capture(
    reader: impl Read,
    arguments: &Arguments,
    report: &mut Report<impl Write>,
) -> anyhow::Result<()> {
    let mut capture = Capture::open(reader)?;
    let mut outside = Outside {
        limits: arguments.limits(),
        ports: &arguments.ports,
        streams: None,
        frame: 0,
    };
    while let Some(packet) = capture.next()? {
        outside.frame += 1;
        outside.packet(&packet, report)?;
    }
    outside.finish(report)
}

/// A capture as it is worked through.
struct Outside<'a> {
    limits: Limits,
    ports: &'a [u16],
    streams: Option<Streams>,
    frame: u64,
}

impl Outside<'_> {
    fn packet(&mut self, packet: &Packet, report: &mut Report<impl Write>) -> anyhow::Result<()> {
        let origin = Origin {
            frame: Some(self.frame),
            time: packet.time,
            direction: packet.direction,
            ..Origin::default()
        };
        match Link::from_type(packet.link_type) {
            Some(Link::Unit) => datagram(&origin, &packet.data, &self.limits, report),
            Some(Link::Ip) if packet.side == Some(Side::Outer) && self.ports.is_empty() => {
                report.unrelated();
                Ok(())
            }
            Some(Link::Ip) if packet.side == Some(Side::Inner) || self.ports.is_empty() => {
                let whole = whole(packet, &self.limits);
                match IpPacket::decode(&whole, &self.limits) {
                    Ok(inner) => report.unit(&origin, &Unit::Ip(inner))?,
                    Err(error) => report.error(&origin, packet.data.len(), &error.to_string())?,
                }
                Ok(())
            }
            Some(Link::Ip) => self.outer(&origin, packet, &packet.data, report),
            Some(Link::Framed(_)) if self.ports.is_empty() => {
                bail!("a capture of the outside: name the server's port with --port")
            }
            Some(Link::Framed(frame)) => match frame.ip(&packet.data) {
                Some(ip) => self.outer(&origin, packet, ip, report),
                None => {
                    report.unrelated();
                    Ok(())
                }
            },
            None => bail!("link type {} is not understood", packet.link_type),
        }
    }

    fn outer(
        &mut self,
        origin: &Origin,
        packet: &Packet,
        ip: &[u8],
        report: &mut Report<impl Write>,
    ) -> anyhow::Result<()> {
        match outer::dissect(ip) {
            Outer::Udp {
                source,
                destination,
                payload,
            } if self.concerns(source, destination) => {
                let outer = OuterOrigin {
                    transport: "udp",
                    source,
                    destination,
                };
                datagram(
                    &Origin {
                        outer: Some(outer),
                        ..*origin
                    },
                    payload,
                    &self.limits,
                    report,
                )
            }
            Outer::Tcp(segment) if self.concerns(segment.source, segment.destination) => {
                let limits = self.limits;
                let streams = self.streams.get_or_insert_with(|| Streams::new(limits));
                let outer = OuterOrigin {
                    transport: "tcp",
                    source: segment.source,
                    destination: segment.destination,
                };
                let origin = Origin {
                    outer: Some(outer),
                    ..*origin
                };
                streams.segment(&segment, &mut |event| tell(&origin, event, report))
            }
            Outer::Damaged if packet.cut => Ok(report.error(
                origin,
                packet.data.len(),
                "the capture kept only a part of this packet",
            )?),
            Outer::Udp { .. } | Outer::Tcp(_) | Outer::Fragment | Outer::Other | Outer::Damaged => {
                report.unrelated();
                Ok(())
            }
        }
    }

    fn concerns(&self, source: SocketAddr, destination: SocketAddr) -> bool {
        self.ports.contains(&source.port()) || self.ports.contains(&destination.port())
    }

    fn finish(self, report: &mut Report<impl Write>) -> anyhow::Result<()> {
        let Some(streams) = self.streams else {
            return Ok(());
        };
        streams.finish(|(source, destination), event| {
            let outer = OuterOrigin {
                transport: "tcp",
                source,
                destination,
            };
            tell(
                &Origin {
                    outer: Some(outer),
                    ..Origin::default()
                },
                event,
                report,
            )
        })
    }
}

/// An inner packet, with zeros for what the capture did not keep behind its header, so that that can be shown.
fn whole<'a>(packet: &'a Packet, limits: &Limits) -> Cow<'a, [u8]> {
    let header = match packet.data.first().map(|first| first >> 4) {
        Some(6) => 40,
        Some(_) | None => 20,
    };
    match IpPacket::decode(&packet.data, limits) {
        Err(DatagramError::Truncated { needed, len }) if packet.cut && len >= header => {
            let mut data = packet.data.clone();
            data.resize(needed, 0);
            data.into()
        }
        Ok(_) | Err(_) => Cow::Borrowed(&packet.data),
    }
}

/// Reports what a TCP direction gave.
fn tell(origin: &Origin, event: Event<'_>, report: &mut Report<impl Write>) -> anyhow::Result<()> {
    let at = |offset| Origin {
        offset: Some(offset),
        ..*origin
    };
    match event {
        Event::Unit { offset, unit } => report.unit(&at(offset), &unit)?,
        Event::Broken { offset, error } => report.error(&at(offset), 0, &error.to_string())?,
        Event::Gap { offset } => report.error(&at(offset), 0, "bytes are missing from here on")?,
        Event::Tls => report.opaque(origin, 0, "tls")?,
        Event::TooMany => report.error(origin, 0, "too many connections to follow this one")?,
    }
    Ok(())
}
