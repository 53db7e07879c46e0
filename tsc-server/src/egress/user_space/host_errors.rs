//! What the host learns about datagrams that it has sent: its error queue (Linux, `ip(7)`, IP_RECVERR).
//!
//! A mapping's socket is connected to nobody, so ICMP errors are told in this way only, each with the destination and
//! the front of the datagram that it is about.

use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrLike, SockaddrStorage, recvmsg, setsockopt, sockopt,
};

use crate::icmp::Complaint;

/// Smallest MTU that is passed on: the least of each family.
const LEAST_MTU_V4: u32 = 68;
const LEAST_MTU_V6: u32 = 1280;

/// Lets the host keep errors for [`next`].
pub(super) fn enable(socket: &impl AsFd, is_v4: bool) -> std::io::Result<()> {
    if is_v4 {
        setsockopt(socket, sockopt::Ipv4RecvErr, &true)?;
    } else {
        setsockopt(socket, sockopt::Ipv6RecvErr, &true)?;
    }
    Ok(())
}

/// An error about a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HostError {
    /// Where the datagram was sent to.
    pub(super) destination: SocketAddr,
    pub(super) complaint: Complaint,
    /// How much of its payload is known.
    pub(super) len: usize,
}

/// Control data of one error, with room for the address of who reported it.
pub(super) fn control() -> Vec<u8> {
    nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6)
}

/// Takes the next error from the queue, and the front of its datagram into `payload`. `None` when there is no more;
/// errors that say nothing of use are `Some(None)`.
pub(super) fn next(
    socket: &impl AsRawFd,
    payload: &mut [u8],
    control: &mut [u8],
) -> Option<Option<HostError>> {
    let mut slices = [IoSliceMut::new(payload)];
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(control), flags);
    let message = match message {
        Ok(message) => message,
        Err(Errno::EINTR) => return Some(None),
        Err(_) => return None,
    };
    let destination = message.address.as_ref().and_then(address);
    let error = message.cmsgs().ok().and_then(|messages| {
        messages.into_iter().find_map(|message| {
            #[allow(clippy::wildcard_enum_match_arm, reason = "a foreign enum that grows")]
            match message {
                ControlMessageOwned::Ipv4RecvErr(error, _)
                | ControlMessageOwned::Ipv6RecvErr(error, _) => Some(error),
                _ => None,
            }
        })
    });
    let (Some(destination), Some(error)) = (destination, error) else {
        return Some(None);
    };
    let least = if destination.is_ipv4() {
        LEAST_MTU_V4
    } else {
        LEAST_MTU_V6
    };
    #[allow(clippy::wildcard_enum_match_arm, reason = "a foreign enum that grows")]
    let complaint = match Errno::from_raw(i32::try_from(error.ee_errno).unwrap_or_default()) {
        Errno::ECONNREFUSED => Complaint::PortUnreachable,
        Errno::EMSGSIZE => Complaint::TooBig {
            mtu: u16::try_from(error.ee_info.max(least)).unwrap_or(u16::MAX),
        },
        Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::EHOSTDOWN | Errno::ENONET => {
            Complaint::Unreachable
        }
        Errno::EACCES | Errno::EPERM => Complaint::Prohibited,
        _ => return Some(None),
    };
    Some(Some(HostError {
        destination,
        complaint,
        len: message.bytes,
    }))
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if storage.len() == 0 {
        return None;
    }
    match (storage.as_sockaddr_in(), storage.as_sockaddr_in6()) {
        (Some(v4), _) => Some(SocketAddr::from((v4.ip(), v4.port()))),
        (_, Some(v6)) => Some(SocketAddr::from((v6.ip(), v6.port()))),
        _ => None,
    }
}
