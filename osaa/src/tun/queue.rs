//! One queue of a device.

use std::{
    fs::File,
    future::poll_fn,
    io::{self, IoSlice, IoSliceMut, Read, Write},
    task::{Context, Poll},
};

use tokio::io::unix::AsyncFd;

use super::{
    batch::TunBatch,
    coalesce::{self, Run},
    driver,
    offload::{GSO_NONE, HEADER, Split, VirtioHeader, finish_checksum},
};

/// Longest packet that the kernel hands over, whole or to be split: IPv6's header and 65,535 bytes.
const LONGEST: usize = 40 + 65_535;

/// What a queue has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TunStats {
    /// Packets read, after splitting.
    pub received: u64,
    /// System calls that read something.
    pub reads: u64,
    /// Packets from the kernel that made no sense, or were longer than a batch: dropped.
    pub malformed: u64,
    /// Packets that the kernel took.
    pub sent: u64,
    /// System calls that wrote something.
    pub writes: u64,
    /// Packets dropped because the kernel had no room, or the interface was down.
    pub dropped: u64,
    /// Packets that the kernel did not take for IP packets: dropped.
    pub refused: u64,
}

/// One queue of a TUN device; belongs to one task. The runtime that polls it first is the one it stays with.
#[derive(Debug)]
pub struct TunQueue {
    file: Registration,
    /// Whether packets have a [`VirtioHeader`].
    offload: bool,
    /// Whether the kernel takes joined UDP packets.
    joins_udp: bool,
    mtu: usize,
    /// Packets longer than the MTU; the one that is being split stands here until it is done.
    long: Box<[u8]>,
    split: Option<Split>,
    stats: TunStats,
}

/// The reactor is only known within a runtime, the device is made outside.
#[derive(Debug)]
enum Registration {
    Idle(File),
    Active(AsyncFd<File>),
    /// Registration failed.
    Lost,
}

impl TunQueue {
    /// `file` is attached to a device.
    pub(super) fn new(file: File, offload: bool, joins_udp: bool, mtu: u16) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&file, true)?;
        Ok(Self {
            file: Registration::Idle(file),
            offload,
            joins_udp,
            mtu: mtu.into(),
            long: vec![0; LONGEST].into_boxed_slice(),
            split: None,
            stats: TunStats::default(),
        })
    }

    /// The descriptor, no longer registered.
    pub(super) fn into_file(self) -> Option<File> {
        match self.file {
            Registration::Idle(file) => Some(file),
            Registration::Active(file) => Some(file.into_inner()),
            Registration::Lost => None,
        }
    }

    /// Another handle to the queue, to send by it from another task. Reading from it would take packets from this one.
    ///
    /// # Errors
    ///
    /// There are too few descriptors, or the device is gone.
    pub fn sender(&self) -> io::Result<Self> {
        let file = match &self.file {
            Registration::Idle(file) => file.try_clone()?,
            Registration::Active(file) => file.get_ref().try_clone()?,
            Registration::Lost => return Err(gone()),
        };
        Ok(Self {
            file: Registration::Idle(file),
            offload: self.offload,
            joins_udp: self.joins_udp,
            mtu: self.mtu,
            // Only reading needs it.
            long: Box::default(),
            split: None,
            stats: TunStats::default(),
        })
    }

    /// What was counted since the queue was made.
    #[must_use]
    pub const fn stats(&self) -> TunStats {
        self.stats
    }

    /// Fills `batch`, whose packets are forgotten, with what the kernel has, until it is full or there is no more;
    /// returns the number of packets, at least one. Waits for the first.
    ///
    /// # Errors
    ///
    /// The device is gone, which lasts, or the caller is not within a tokio runtime.
    ///
    /// # Panics
    ///
    /// When first polled in a runtime that was built without I/O.
    pub fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut TunBatch,
    ) -> Poll<io::Result<usize>> {
        batch.clear();
        loop {
            self.continue_split(batch);
            if self.split.is_some() || batch.is_full(self.mtu) {
                break;
            }
            let file = match self.file.register() {
                Ok(file) => file,
                Err(error) => return Poll::Ready(Err(error)),
            };
            let mut ready = match file.poll_read_ready(cx) {
                Poll::Ready(Ok(ready)) => ready,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    // The driver reports a device that went away as an error alone, which tokio shows to writers only.
                    if batch.is_empty() && file.poll_write_ready(cx).is_pending() {
                        return Poll::Pending;
                    }
                    if batch.is_empty() {
                        return Poll::Ready(Err(gone()));
                    }
                    break;
                }
            };
            let mut header = [0; HEADER];
            let header_room = if self.offload { HEADER } else { 0 };
            let room = batch.spare();
            let room_length = room.len().min(self.mtu);
            let result = ready.try_io(|file| {
                let (header_room, _) = header.split_at_mut_checked(header_room).unwrap_or_default();
                let (room, _) = room.split_at_mut_checked(room_length).unwrap_or_default();
                // A packet of ordinary length lands in the batch, of a longer one the rest lands behind the space for
                // its beginning.
                let rest = self.long.get_mut(room_length..).unwrap_or_default();
                file.get_ref().read_vectored(&mut [
                    IoSliceMut::new(header_room),
                    IoSliceMut::new(room),
                    IoSliceMut::new(rest),
                ])
            });
            match result {
                Ok(Ok(read)) => {
                    self.stats.reads += 1;
                    let header = self.offload.then(|| VirtioHeader::decode(header));
                    match read.checked_sub(header_room) {
                        Some(length) if length > 0 => {
                            if self.accept(header, length, room_length, batch).is_none() {
                                self.stats.malformed += 1;
                            }
                        }
                        _ => self.stats.malformed += 1,
                    }
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) if batch.is_empty() => return Poll::Ready(Err(error)),
                // It comes again.
                Ok(Err(_)) => break,
                // No more; the next round registers for wake-up, or returns what there is.
                Err(_would_block) if batch.is_empty() => {}
                Err(_would_block) => break,
            }
        }
        let count = batch.len();
        self.stats.received += count as u64;
        Poll::Ready(Ok(count))
    }

    /// [`poll_recv`](Self::poll_recv) as a future. Safe to drop: nothing is lost.
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Panics
    ///
    /// As there.
    pub async fn recv(&mut self, batch: &mut TunBatch) -> io::Result<usize> {
        poll_fn(|cx| self.poll_recv(cx, batch)).await
    }

    /// Hands the packets of `batch` to the kernel, without waiting: what it does not take is dropped and counted.
    /// Returns the number of packets taken. The batch keeps them; the caller forgets them.
    ///
    /// # Errors
    ///
    /// The device is gone, which lasts. Works outside of a runtime too.
    pub fn try_send(&mut self, batch: &TunBatch) -> io::Result<usize> {
        let mut packets = batch.iter();
        let mut taken = 0;
        loop {
            let run = self
                .offload
                .then(|| Run::new(packets.clone(), self.joins_udp));
            let (count, result) = if let Some(Some(run)) = run {
                (
                    run.count,
                    self.write_run(&run, packets.by_ref().take(run.count)),
                )
            } else if let Some(packet) = packets.next() {
                (1, self.write_packet(packet))
            } else {
                return Ok(taken);
            };
            let packets = count as u64;
            match result {
                // Nothing was written: an empty packet, which never reaches the driver.
                Ok(0) => self.stats.refused += packets,
                Ok(_) => {
                    self.stats.writes += 1;
                    self.stats.sent += packets;
                    taken += count;
                }
                // A packet that is none, by its first nibble or its length.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    self.stats.refused += packets;
                }
                Err(error) if error.raw_os_error() == Some(libc::EBADFD) => return Err(error),
                Err(_) => self.stats.dropped += packets,
            }
        }
    }

    fn write_packet(&self, packet: &[u8]) -> io::Result<usize> {
        let header = VirtioHeader::default().encode();
        let header = if self.offload { &header[..] } else { &[] };
        self.file
            .file()?
            .write_vectored(&[IoSlice::new(header), IoSlice::new(packet)])
    }

    fn write_run<'a>(
        &self,
        run: &Run,
        packets: impl Iterator<Item = &'a [u8]>,
    ) -> io::Result<usize> {
        let header = run.header.encode();
        let mut slices = [IoSlice::new(&[]); coalesce::MOST + 2];
        let payloads = packets.map(|packet| packet.get(run.skip..).unwrap_or_default());
        let parts = [&header[..], run.headers()].into_iter().chain(payloads);
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
        }
        let used = slices.get(..run.count + 2).unwrap_or_default();
        self.file.file()?.write_vectored(used)
    }

    /// Takes a packet of which the first `room_length` bytes are in the batch and the rest in `long`. `None` if it is of no
    /// use.
    fn accept(
        &mut self,
        header: Option<VirtioHeader>,
        length: usize,
        room_length: usize,
        batch: &mut TunBatch,
    ) -> Option<()> {
        let to_split = header.filter(|header| header.gso != GSO_NONE);
        if length <= room_length && to_split.is_none() {
            let packet = batch.spare().get_mut(..length)?;
            if let Some(header) = header {
                finish_checksum(&header, packet)?;
            }
            batch.commit(length);
            return Some(());
        }
        let begin = length.min(room_length);
        self.long
            .get_mut(..begin)?
            .copy_from_slice(batch.spare().get(..begin)?);
        let packet = self.long.get_mut(..length)?;
        if let Some(header) = to_split {
            self.split = Some(Split::new(&header, packet)?);
            return Some(());
        }
        // Longer than the MTU that we were told.
        if let Some(header) = header {
            finish_checksum(&header, packet)?;
        }
        batch.push(packet).then_some(())
    }

    /// Moves segments into the batch until it is full or there are no more.
    fn continue_split(&mut self, batch: &mut TunBatch) {
        let Some(split) = &mut self.split else {
            return;
        };
        while let Some(length) = split.next_len() {
            let Some(room) = batch.spare().get_mut(..length) else {
                // A batch holds the longest packet, so an empty one is full for nothing.
                return;
            };
            if split.write(&self.long, room).is_none() {
                self.stats.malformed += 1;
                break;
            }
            batch.commit(length);
        }
        self.split = None;
    }
}

impl Registration {
    fn register(&mut self) -> io::Result<&AsyncFd<File>> {
        if matches!(self, Self::Idle(_)) {
            if tokio::runtime::Handle::try_current().is_err() {
                return Err(io::Error::other("no tokio runtime"));
            }
            if let Self::Idle(file) = std::mem::replace(self, Self::Lost) {
                *self = Self::Active(driver::register(file)?);
            }
        }
        match self {
            Self::Active(file) => Ok(file),
            Self::Idle(_) | Self::Lost => Err(gone()),
        }
    }

    fn file(&self) -> io::Result<&File> {
        match self {
            Self::Idle(file) => Ok(file),
            Self::Active(file) => Ok(file.get_ref()),
            Self::Lost => Err(gone()),
        }
    }
}

fn gone() -> io::Error {
    io::Error::from_raw_os_error(libc::EBADFD)
}
