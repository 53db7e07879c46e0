//! The driver behind /dev/net/tun (linux/if_tun.h). The only unsafe code of TUN devices.
#![allow(unsafe_code)]

use std::{
    ffi::{c_int, c_uint},
    fs::{File, OpenOptions},
    io,
    os::fd::AsFd,
};

use rustix::ioctl::{Getter, IntegerSetter, Opcode, Setter, Updater, ioctl, opcode};
use tokio::io::{Interest, unix::AsyncFd};

/// Space for the name of an interface, its final zero included (IFNAMSIZ).
pub(super) const NAME_SPACE: usize = 16;

const TUNSETIFF: Opcode = opcode::write::<c_int>(b'T', 202);
const TUNSETOFFLOAD: Opcode = opcode::write::<c_uint>(b'T', 208);
const TUNGETIFF: Opcode = opcode::read::<c_uint>(b'T', 210);
const TUNSETVNETHDRSZ: Opcode = opcode::write::<c_int>(b'T', 216);

pub(super) const IFF_TUN: u16 = 0x0001;
pub(super) const IFF_MULTI_QUEUE: u16 = 0x0100;
pub(super) const IFF_NO_PI: u16 = 0x1000;
pub(super) const IFF_VNET_HDR: u16 = 0x4000;
/// The interface must not exist.
pub(super) const IFF_TUN_EXCL: u16 = 0x8000;

const TUN_F_CSUM: usize = 0x01;
const TUN_F_TSO4: usize = 0x02;
const TUN_F_TSO6: usize = 0x04;
const TUN_F_USO4: usize = 0x20;
const TUN_F_USO6: usize = 0x40;

/// `struct ifreq` as far as the driver uses it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; NAME_SPACE],
    flags: u16,
    /// The kernel copies the whole structure: 40 bytes, 32 on 32-bit systems.
    rest: [u8; 22],
}

impl InterfaceRequest {
    fn name(&self) -> String {
        let name = self.name.split(|byte| *byte == 0).next();
        String::from_utf8_lossy(name.unwrap_or_default()).into_owned()
    }
}

/// A descriptor that is no queue yet.
pub(super) fn open() -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
}

/// Makes `file` a queue of the interface `name`, which may hold one `%d`; the interface is made if there is none.
/// Returns its name.
pub(super) fn attach(file: &File, name: &str, flags: u16) -> io::Result<String> {
    let mut request = InterfaceRequest {
        name: [0; NAME_SPACE],
        flags,
        rest: [0; 22],
    };
    // The zip leaves the last byte zero.
    let space = request.name.iter_mut().take(NAME_SPACE - 1);
    for (to, from) in space.zip(name.bytes()) {
        *to = from;
    }
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, which the type has the layout of.
    let update = unsafe { Updater::<TUNSETIFF, InterfaceRequest>::new(&mut request) };
    // SAFETY: as above; the structure outlives the call.
    unsafe { ioctl(file, update) }?;
    Ok(request.name())
}

/// Name and flags of the interface that the descriptor is a queue of.
pub(super) fn attachment(fd: impl AsFd) -> io::Result<(String, u16)> {
    // SAFETY: TUNGETIFF writes one `struct ifreq`; descriptors of other kinds answer ENOTTY.
    let request = unsafe { ioctl(fd, Getter::<TUNGETIFF, InterfaceRequest>::new()) }?;
    Ok((request.name(), request.flags))
}

/// Lets the kernel hand over TCP packets above the MTU with unfinished checksums, and UDP ones if it can (Linux
/// 6.2), which is returned.
pub(super) fn allow_offload(file: &File) -> io::Result<bool> {
    const TCP: usize = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
    set_offload(file, TCP)?;
    Ok(set_offload(file, TCP | TUN_F_USO4 | TUN_F_USO6).is_ok())
}

fn set_offload(file: &File, offload: usize) -> io::Result<()> {
    // SAFETY: the argument of TUNSETOFFLOAD is the mask itself; unknown bits are refused.
    Ok(unsafe { ioctl(file, IntegerSetter::<TUNSETOFFLOAD>::new_usize(offload)) }?)
}

/// Sets the length of the header in front of each packet (IFF_VNET_HDR).
pub(super) fn set_header_length(fd: impl AsFd, length: c_int) -> io::Result<()> {
    // SAFETY: TUNSETVNETHDRSZ reads one int.
    Ok(unsafe { ioctl(fd, Setter::<TUNSETVNETHDRSZ, c_int>::new(length)) }?)
}

/// Registers a queue with the reactor of the runtime that the caller is in; panics outside of one.
pub(super) fn register(file: File) -> io::Result<AsyncFd<File>> {
    // Writers never wait. Errors are reported without being asked for.
    let interest = Interest::READABLE;
    // SAFETY: a `File` owns its descriptor, which stays the same and open until it is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(file, interest) }?)
}
