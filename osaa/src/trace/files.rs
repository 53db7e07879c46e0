//! The file that is written now, and those before it.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    time::Instant,
};

use pcap_file::{
    DataLink, PcapError,
    pcapng::{
        PcapNgBlock, PcapNgWriter,
        blocks::{
            enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption},
            interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption},
            unknown::UnknownBlock,
        },
    },
};
use zeroize::Zeroizing;

use super::{
    CaptureOptions, Direction, Interface, Packet, Ring, openings::Openings, outer, secrets::Live,
};

/// What an enhanced packet block adds to its packet: fixed fields, flags, padding, both lengths.
const BLOCK_OVERHEAD: u64 = 12 + 20 + 12 + 3;

/// Type of a decryption-secrets block, and of secrets in the format of NSS key logs, which DTLS has in common with TLS.
const SECRETS_BLOCK: u32 = 0x0A;
const TLS_KEY_LOG: u32 = 0x544C_534B;

/// What a decryption-secrets block adds to its secrets: fixed fields, padding, both lengths.
const SECRETS_OVERHEAD: u64 = 12 + 8 + 3;

/// A file that grows up to its limit; with a ring, then gives its name to the next.
pub(super) struct Files {
    path: PathBuf,
    options: CaptureOptions,
    file: PcapNgWriter<BufWriter<File>>,
    /// Bytes that it may still grow by.
    left: u64,
    /// When its first packet was written.
    begun: Option<Instant>,
    /// Files of this ring before this one, as far as they are still there.
    former: u16,
    openings: Openings,
}

impl Files {
    /// Begins the file. With a ring, one that is there is kept as the first of those before.
    pub(super) fn create(path: &Path, options: CaptureOptions) -> io::Result<Self> {
        if options.fresh {
            let numbers = options.ring.as_ref().map_or(0, Ring::before);
            let mut names = (1..=numbers).map(|number| numbered(path, number));
            if let Some(former) = names.find(|name| name.symlink_metadata().is_ok()) {
                return Err(taken(&former));
            }
        } else if let Some(ring) = &options.ring
            && path.metadata().is_ok_and(|found| found.is_file())
        {
            shift(path, ring.before(), Last::Replaced)?;
        }
        Ok(Self {
            path: path.to_owned(),
            file: begin(path, &options)?,
            left: options.limit,
            begun: None,
            former: 0,
            openings: Openings::default(),
            options,
        })
    }

    /// Writes a packet; false if there is no room for it. A file that it begins gets the secrets of connections that live, and their
    /// handshakes where those are of use.
    pub(super) fn write(&mut self, packet: Packet, live: Option<&Live>) -> io::Result<bool> {
        let (packet, original) = self.finish(packet);
        let cost = cost(&packet);
        if self.is_over(cost, live.is_some()) {
            self.next(live)?;
        }
        if cost > self.left {
            return Ok(false);
        }
        self.begun.get_or_insert_with(Instant::now);
        if live.is_some() && self.options.ring.is_some() && packet.interface == Interface::Outer {
            self.openings.note(&packet);
        }
        self.put(packet, original)?;
        Ok(true)
    }

    /// A packet as it is to be written, and how long it was.
    fn finish(&self, mut packet: Packet) -> (Packet, usize) {
        let original = packet.bytes.len();
        if packet.interface == Interface::Outer {
            outer::seal(&mut packet.bytes);
        }
        if let Some(redact) = self.options.redact {
            let mut bytes = packet.bytes.into_vec();
            redact(packet.interface, &mut bytes);
            packet.bytes = bytes.into();
        }
        (packet, original)
    }

    fn put(&mut self, packet: Packet, original: usize) -> io::Result<()> {
        self.left = self.left.saturating_sub(cost(&packet));
        let block = EnhancedPacketBlock {
            interface_id: match packet.interface {
                Interface::Inner => 0,
                Interface::Control => 1,
                Interface::Outer => 2,
            },
            timestamp: packet.at,
            original_len: u32::try_from(original).unwrap_or(u32::MAX),
            data: packet.bytes.into_vec().into(),
            // epb_flags, bits 0 and 1.
            options: vec![EnhancedPacketOption::Flags(match packet.direction {
                Direction::Inbound => 1,
                Direction::Outbound => 2,
            })],
        };
        self.file.write_pcapng_block(block).map_err(io_error)?;
        Ok(())
    }

    /// Writes secrets, if there is room for them. They begin no file: there they would come too early for those who read the one before.
    pub(super) fn write_secrets(&mut self, lines: &[u8]) -> io::Result<()> {
        let Ok(len) = u32::try_from(lines.len()) else {
            return Ok(());
        };
        let cost = u64::from(len) + SECRETS_OVERHEAD;
        if lines.is_empty() || cost > self.left {
            return Ok(());
        }
        self.left -= cost;
        // The crate writes in the byte order of the machine.
        let mut body = Zeroizing::new(Vec::with_capacity(lines.len() + 8));
        body.extend_from_slice(&TLS_KEY_LOG.to_ne_bytes());
        body.extend_from_slice(&len.to_ne_bytes());
        body.extend_from_slice(lines);
        let block = UnknownBlock::new(SECRETS_BLOCK, 0, &body);
        self.file.write_pcapng_block(block).map_err(io_error)?;
        Ok(())
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.file.get_mut().flush()
    }

    /// Whether a packet of now belongs into the next file. An empty one is never over: its successor would have no more room.
    fn is_over(&self, cost: u64, has_secrets: bool) -> bool {
        let (Some(ring), Some(begun)) = (&self.options.ring, self.begun) else {
            return false;
        };
        // Not by the time of packets, which may be set back.
        let is_old = ring.period.is_some_and(|period| begun.elapsed() >= period);
        // What fits no file at all shall not push out those there are.
        let room = self.options.limit / if has_secrets { 2 } else { 1 };
        is_old || (cost > self.left && cost <= room)
    }

    fn next(&mut self, live: Option<&Live>) -> io::Result<()> {
        let Some(ring) = &self.options.ring else {
            return Ok(());
        };
        self.file.get_mut().flush()?;
        if self.options.fresh && self.former < ring.before() {
            shift(&self.path, self.former + 1, Last::New)?;
            self.former += 1;
        } else {
            shift(&self.path, ring.before(), Last::Replaced)?;
        }
        self.file = begin(&self.path, &self.options)?;
        self.left = self.options.limit;
        self.begun = None;
        let Some(live) = live else { return Ok(()) };
        // A quarter of the file each: half of it is for what comes.
        let quarter = self.options.limit / 4;
        self.write_secrets(&live.lines(quarter))?;
        let mut room = quarter;
        for packet in self.openings.of(live) {
            let (packet, original) = self.finish(packet);
            let Some(rest) = room.checked_sub(cost(&packet)) else {
                break;
            };
            room = rest;
            self.put(packet, original)?;
        }
        Ok(())
    }
}

fn taken(path: &Path) -> io::Error {
    let found = format!("{} is there already", path.display());
    io::Error::new(io::ErrorKind::AlreadyExists, found)
}

fn cost(packet: &Packet) -> u64 {
    u64::try_from(packet.bytes.len()).unwrap_or(u64::MAX) + BLOCK_OVERHEAD
}

/// What is at the last number before files move up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    /// The oldest file, or nothing.
    Replaced,
    /// Nothing of ours: what somebody else has put there stays.
    New,
}

/// Each file gets the next number, up to `last`.
fn shift(path: &Path, last: u16, is: Last) -> io::Result<()> {
    for number in (1..=last).rev() {
        let (from, to) = (numbered(path, number - 1), numbered(path, number));
        let moved = if number == last && is == Last::New {
            // Unlike a rename this replaces nothing.
            fs::hard_link(&from, &to).and_then(|()| fs::remove_file(&from))
        } else {
            fs::rename(&from, &to)
        };
        match moved {
            // There are not as many yet, or somebody has taken one away.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(taken(&to)),
            other => other?,
        }
    }
    Ok(())
}

/// The file that was written so many before this one: `trace.pcapng.1`.
fn numbered(path: &Path, number: u16) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let mut name = OsString::from(path);
    name.push(format!(".{number}"));
    name.into()
}

/// Creates or empties a file, for its owner only, and begins it; a fresh one is created only.
fn begin(path: &Path, capture: &CaptureOptions) -> io::Result<PcapNgWriter<BufWriter<File>>> {
    let mut options = OpenOptions::new();
    options.write(true);
    if capture.fresh {
        // Follows no link either.
        options.create_new(true);
    } else {
        options.create(true).truncate(true);
    }
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path)?;
    #[cfg(unix)]
    if file.metadata()?.is_file() {
        // One from before may be everybody's.
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    }
    start_file(file, capture.outer).map_err(io_error)
}

/// Section header and the interfaces, in the order of their numbers.
fn start_file(file: File, outer: bool) -> Result<PcapNgWriter<BufWriter<File>>, PcapError> {
    let mut writer = PcapNgWriter::new(BufWriter::new(file))?;
    let interfaces = [
        ("inner", "inner IP packets", DataLink::RAW),
        (
            "control",
            "TSCF control messages and data frames",
            DataLink::USER0,
        ),
        (
            "outer",
            "outer packets, made up around what sockets read and wrote",
            DataLink::RAW,
        ),
    ];
    let count = if outer { 3 } else { 2 };
    for (name, description, linktype) in interfaces.into_iter().take(count) {
        let block = InterfaceDescriptionBlock {
            linktype,
            snaplen: 0,
            options: vec![
                InterfaceDescriptionOption::IfName(name.into()),
                InterfaceDescriptionOption::IfDescription(description.into()),
                // Nanoseconds: what the crate writes whatever this says.
                InterfaceDescriptionOption::IfTsResol(9),
            ],
        };
        writer.write_block(&block.into_block())?;
    }
    Ok(writer)
}

fn io_error(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        other @ (PcapError::IncompleteBuffer
        | PcapError::InvalidField(_)
        | PcapError::Utf8Error(_)
        | PcapError::FromUtf8Error(_)
        | PcapError::InvalidInterfaceId(_)) => io::Error::other(other.to_string()),
    }
}
