//! Many runs in one system call: `sendmmsg`, each message a run of datagrams by GSO.
//!
//! A server's packets go to many peers, so without this each costs a system call of its own. quinn-udp, which does the
//! rest, sends one run a call.

#![allow(unsafe_code, reason = "a hot path: one system call for many datagrams")]

use std::{
    io,
    mem::{size_of, zeroed},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd},
};

use libc::{c_int, c_void, cmsghdr, iovec, mmsghdr, msghdr};
use smallvec::SmallVec;
use socket2::SockAddr;

use super::{
    batch::{Run, SendBatch},
    ready::Socket,
};

/// Runs of one call.
const MESSAGES: usize = 64;

/// A list for one call. A client sends a run or two to its one server, for which it needs no memory of its own.
type List<T> = SmallVec<[T; 2]>;

/// Sends runs from the front, as many as one call takes, and returns how many: at least one. `to_peers` is false for
/// connected sockets.
///
/// # Errors
/// What the system says of the first run.
pub(super) fn send(socket: &Socket, batch: &SendBatch, to_peers: bool) -> io::Result<usize> {
    let (count, segment) = alike(batch.runs());
    let runs = batch.runs().get(..count).unwrap_or_default();
    if runs.is_empty() {
        return Ok(0);
    }
    let addresses: List<SockAddr> = runs.iter().map(|run| run.peer.into()).collect();
    let mut slices: List<iovec> = List::with_capacity(runs.len());
    let mut lengths: List<usize> = List::with_capacity(runs.len());
    for run in runs {
        let before = slices.len();
        slices.extend(batch.pieces(run).map(|piece| iovec {
            iov_base: piece.as_ptr().cast_mut().cast(),
            iov_len: piece.len(),
        }));
        lengths.push(slices.len() - before);
    }
    // Marks are seldom used, and then often differ from one run to the next: said once for all as long as they do not.
    let differ = runs
        .first()
        .is_some_and(|first| runs.iter().any(|run| run.mark != first.mark));
    let kinds = if differ { runs.len() } else { 1 };
    let mut controls: List<Control> = runs
        .iter()
        .take(kinds)
        .map(|run| Control::new(segment, run))
        .collect();
    let parts: List<(*mut c_void, usize)> = controls.iter_mut().map(Control::parts).collect();
    let mut control = parts.iter().copied().cycle();
    let mut rest = slices.as_mut_slice();
    let mut messages: List<mmsghdr> = List::with_capacity(runs.len());
    for (address, length) in addresses.iter().zip(lengths) {
        let (own, others) = rest.split_at_mut_checked(length).unwrap_or_default();
        rest = others;
        // SAFETY: for this plain C structure zero bytes are null pointers and lengths of zero.
        let mut message: mmsghdr = unsafe { zeroed() };
        if to_peers {
            message.msg_hdr.msg_name = address.as_ptr().cast_mut().cast();
            message.msg_hdr.msg_namelen = address.len();
        }
        message.msg_hdr.msg_iov = own.as_mut_ptr();
        // The types of lengths differ between C libraries.
        message.msg_hdr.msg_iovlen = own.len() as _;
        if let Some((control, control_len)) = control.next().filter(|(_, len)| *len > 0) {
            message.msg_hdr.msg_control = control;
            message.msg_hdr.msg_controllen = control_len as _;
        }
        messages.push(message);
    }
    let count = u32::try_from(messages.len()).unwrap_or(u32::MAX);
    // SAFETY: each message points to an address, slices and control data that live until the end of this function and
    // that the system only reads; the slices point into `batch`, which is borrowed. `messages` has `count` elements, of
    // which the system writes the length that was sent.
    let sent =
        unsafe { libc::sendmmsg(socket.as_fd().as_raw_fd(), messages.as_mut_ptr(), count, 0) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Sends the first datagram of the first run alone, with its mark.
///
/// # Errors
/// What the system says.
pub(super) fn send_one(socket: &Socket, run: &Run, bytes: &[u8], to_peers: bool) -> io::Result<()> {
    let address = SockAddr::from(run.peer);
    let mut slice = iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let mut control = Control::new(None, run);
    let (control, control_len) = control.parts();
    // SAFETY: for this plain C structure zero bytes are null pointers and lengths of zero.
    let mut message: msghdr = unsafe { zeroed() };
    if to_peers {
        message.msg_name = address.as_ptr().cast_mut().cast();
        message.msg_namelen = address.len();
    }
    message.msg_iov = &raw mut slice;
    message.msg_iovlen = 1;
    if control_len > 0 {
        message.msg_control = control;
        message.msg_controllen = control_len as _;
    }
    // SAFETY: the message points to an address, a slice and control data that live until the end of this function and
    // that the system only reads.
    let sent = unsafe { libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const message, 0) };
    usize::try_from(sent)
        .map(drop)
        .map_err(|_| io::Error::last_os_error())
}

/// How many of the first runs can go in one call, and the length of their segments if any has several. That length and the
/// source address are said once for all: a call ends where they change, which with media they seldom do.
fn alike(runs: &[Run]) -> (usize, Option<u16>) {
    let (mut count, mut segment, mut longest) = (0, None, 0);
    for run in runs.iter().take(MESSAGES) {
        if runs.first().is_some_and(|first| first.source != run.source) {
            break;
        }
        // What is no longer than a segment is one.
        let fits = match segment {
            Some(segment) if run.count > 1 => run.segment == segment,
            Some(segment) => run.segment <= segment,
            None if run.count > 1 => longest <= run.segment,
            None => true,
        };
        if !fits {
            break;
        }
        if run.count > 1 {
            segment = Some(run.segment);
        }
        longest = longest.max(run.segment);
        count += 1;
    }
    (
        count,
        segment.and_then(|segment| u16::try_from(segment).ok()),
    )
}

/// Room for a source address of either family, the length of segments and a mark, each with its header.
const CONTROL: usize = 104;

/// What is said beside the bytes, as cmsg(3) lays it out.
#[repr(C, align(8))]
struct Control {
    bytes: [u8; CONTROL],
    len: usize,
}

impl Control {
    fn new(segment: Option<u16>, run: &Run) -> Self {
        let mut control = Self {
            bytes: [0; CONTROL],
            len: 0,
        };
        match run.source {
            // in_pktinfo: the interface, which is left open; our address; the header's, which is not read.
            Some(IpAddr::V4(address)) => {
                let mut info = [0; 12];
                if let Some(own) = info.get_mut(4..8) {
                    own.copy_from_slice(&address.octets());
                }
                control.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            // in6_pktinfo: our address, and the interface.
            Some(IpAddr::V6(address)) => {
                let mut info = [0; 20];
                if let Some(own) = info.get_mut(..size_of::<Ipv6Addr>()) {
                    own.copy_from_slice(&address.octets());
                }
                control.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
            None => {}
        }
        if let Some(segment) = segment {
            control.push(libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
        }
        if let Some(mark) = run.mark {
            // The whole octet: with ECN at its end, which stays Not-ECT.
            let field = (c_int::from(mark.get()) << 2).to_ne_bytes();
            match run.peer {
                SocketAddr::V4(_) => control.push(libc::IPPROTO_IP, libc::IP_TOS, &field),
                SocketAddr::V6(_) => control.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &field),
            }
        }
        control
    }

    /// Appends one part: length, level and type, then the data, filled up to the alignment of a length.
    fn push(&mut self, level: c_int, kind: c_int, data: &[u8]) {
        let align = size_of::<usize>();
        let header = size_of::<cmsghdr>();
        let space = (header + data.len()).next_multiple_of(align);
        let Some(part) = self.bytes.get_mut(self.len..self.len + space) else {
            return;
        };
        let length = (header + data.len()).to_ne_bytes();
        // Level and type end the header, whatever a C library puts before them.
        let fields = [
            (0, length.as_slice()),
            (header - 8, &level.to_ne_bytes()),
            (header - 4, &kind.to_ne_bytes()),
            (header, data),
        ];
        for (at, field) in fields {
            if let Some(place) = part.get_mut(at..at + field.len()) {
                place.copy_from_slice(field);
            }
        }
        self.len += space;
    }

    fn parts(&mut self) -> (*mut c_void, usize) {
        (self.bytes.as_mut_ptr().cast(), self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(datagrams: &[(u16, usize)]) -> SendBatch {
        let mut batch = SendBatch::new(1 << 20);
        for (port, len) in datagrams {
            let peer = SocketAddr::from(([127, 0, 0, 1], *port));
            assert!(batch.push(peer, None, &vec![0; *len]));
        }
        batch
    }

    #[test]
    fn a_call_has_segments_of_one_length() {
        let of = |datagrams: &[(u16, usize)]| alike(batch(datagrams).runs());
        assert_eq!(of(&[(1, 200), (2, 300), (3, 100)]), (3, None));
        assert_eq!(of(&[(1, 200), (1, 200), (2, 100)]), (2, Some(200)));
        assert_eq!(of(&[(1, 200), (1, 200), (2, 300)]), (1, Some(200)));
        assert_eq!(of(&[(1, 100), (2, 200), (2, 200)]), (2, Some(200)));
        // The first would be cut in two.
        assert_eq!(of(&[(1, 300), (2, 200), (2, 200)]), (1, None));
        assert_eq!(of(&[(1, 200), (1, 200), (2, 90), (2, 90)]), (1, Some(200)));
        assert_eq!(of(&[]), (0, None));
    }
}
