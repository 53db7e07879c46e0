//! What waits in a socket that is read too slowly, and how the system sheds media before it waits there.
//!
//! When datagrams come faster than they are read the system drops whatever comes while the queue is full: Keepalives and
//! requests as often as media. A [`Shed`] makes it drop a share of the *media* instead, before the queue and without a
//! cost to the reader, so that the queue has room for the rest.

use std::io;

use super::DatagramSocket;

/// How full the receive queue of a socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pressure {
    /// Bytes that wait, with the system's bookkeeping for each datagram; some already read may still count.
    pub waiting: u32,
    /// Bytes that may wait.
    pub room: u32,
    /// Datagrams that the system has dropped since the socket was opened, because of a full queue or a [`Shed`]; wraps. Trains
    /// that came as one may count as one.
    pub dropped: u32,
}

impl Pressure {
    /// How much of the room is used, in percent.
    #[must_use]
    pub fn percent(&self) -> u32 {
        let percent = u64::from(self.waiting) * 100 / u64::from(self.room.max(1));
        u32::try_from(percent).unwrap_or(u32::MAX)
    }
}

/// Which part of the media the system drops, at random. Media are inner packets in the clear, and DTLS records of
/// application data longer than a Keepalive; all else always passes. Of datagrams that have come as one train
/// (GRO) the first speaks for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shed {
    /// Of 65,536 datagrams so many are kept.
    pub keep: u16,
}

#[cfg(any(target_os = "linux", target_os = "android"))]
impl DatagramSocket {
    /// How full the receive queue is; `None` where the system does not tell.
    #[must_use]
    pub fn pressure(&self) -> Option<Pressure> {
        linux::pressure(self.socket())
    }

    /// Lets the system shed media from now on; `None` ends it.
    ///
    /// # Errors
    /// The system cannot.
    pub fn shed(&self, shed: Option<Shed>) -> io::Result<()> {
        linux::shed(self.socket(), shed)
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
impl DatagramSocket {
    /// How full the receive queue is; `None` where the system does not tell.
    #[must_use]
    pub fn pressure(&self) -> Option<Pressure> {
        None
    }

    /// Lets the system shed media from now on; `None` ends it.
    ///
    /// # Errors
    /// The system cannot.
    pub fn shed(&self, shed: Option<Shed>) -> io::Result<()> {
        match shed {
            None => Ok(()),
            Some(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux {
    #![allow(
        unsafe_code,
        reason = "an option that neither socket2 nor nix has: SO_MEMINFO"
    )]

    use std::{
        io,
        mem::size_of_val,
        os::fd::{AsFd, AsRawFd},
    };

    use socket2::{SockFilter, SockRef};

    use super::{super::ready::Socket, Pressure, Shed};

    /// Figures of SO_MEMINFO (linux/sock_diag.h).
    const FIGURES: usize = 9;

    pub(super) fn pressure(socket: &Socket) -> Option<Pressure> {
        let mut figures = [0u32; FIGURES];
        let mut len = libc::socklen_t::try_from(size_of_val(&figures)).ok()?;
        // SAFETY: the system writes at most `len` bytes to `figures`, which is as long, and the length it wrote to `len`.
        let result = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MEMINFO,
                figures.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        let [waiting, room, .., dropped] = figures;
        (result == 0).then_some(Pressure {
            waiting,
            room,
            dropped,
        })
    }

    pub(super) fn shed(socket: &Socket, shed: Option<Shed>) -> io::Result<()> {
        let socket = SockRef::from(socket);
        match shed {
            Some(shed) => socket.attach_filter(&program(shed)),
            None => match socket.detach_filter() {
                // There was none.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
                result => result,
            },
        }
    }

    /// The filter sees a datagram from its UDP header on.
    const UDP_HEADER: u32 = 8;

    /// Longest record of application data that passes: a Keepalive takes 16 bytes, and DTLS adds at most 37 (header 13,
    /// nonce 8, tag 16). The shortest UDP packet inside takes 28.
    const SMALL: u32 = 27 + 37;

    /// First bytes of DTLS records that hold data: application_data, tls12_cid; and those of the unified header
    /// of DTLS 1.3, of which only three bits are fixed.
    const APPLICATION_DATA: u32 = 23;
    const WITH_CID: u32 = 25;

    /// First byte of redundancy frames (spec 6), which hold media.
    const REDUNDANCY: u32 = 0x1C;

    /// The program, as bpf(4) has it. `jump` counts instructions to be skipped if it holds, and if not.
    fn program(shed: Shed) -> [SockFilter; 16] {
        let statement = |code: u32, k: u32| SockFilter::new(short(code), 0, 0, k);
        let jump = |code: u32, k: u32, yes: u8, no: u8| {
            SockFilter::new(short(libc::BPF_JMP | libc::BPF_K | code), yes, no, k)
        };
        let first_byte = || statement(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, UDP_HEADER);
        let and = |mask| statement(libc::BPF_ALU | libc::BPF_K | libc::BPF_AND, mask);
        let threshold = u32::from(shed.keep) << 16;
        [
            /* 0 */ first_byte(),
            /* 1 */ jump(libc::BPF_JEQ, APPLICATION_DATA, 8, 0),
            /* 2 */ jump(libc::BPF_JEQ, WITH_CID, 7, 0),
            /* 3 */ jump(libc::BPF_JEQ, REDUNDANCY, 8, 0),
            /* 4 */ and(0xf0),
            /* 5 */ jump(libc::BPF_JEQ, 0x40, 6, 0),
            /* 6 */ jump(libc::BPF_JEQ, 0x60, 5, 0),
            /* 7 */ and(0xe0),
            /* 8 */ jump(libc::BPF_JEQ, 0x20, 1, 0),
            /* 9 */ statement(libc::BPF_RET | libc::BPF_K, u32::MAX),
            /* 10 */
            statement(libc::BPF_LD | libc::BPF_W | libc::BPF_LEN, 0),
            /* 11 */ jump(libc::BPF_JGT, SMALL + UDP_HEADER, 0, 3),
            /* 12: media */
            statement(
                libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
                u32::from_ne_bytes((libc::SKF_AD_OFF + libc::SKF_AD_RANDOM).to_ne_bytes()),
            ),
            /* 13 */ jump(libc::BPF_JGE, threshold, 0, 1),
            /* 14 */ statement(libc::BPF_RET | libc::BPF_K, 0),
            /* 15 */ statement(libc::BPF_RET | libc::BPF_K, u32::MAX),
        ]
    }

    /// Codes of instructions have 16 bits.
    fn short(code: u32) -> u16 {
        u16::try_from(code).unwrap_or_default()
    }
}
