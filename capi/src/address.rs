//! Socket addresses of C, and texts of C.
#![expect(unsafe_code, reason = "memory of the caller")]

use std::{
    ffi::{CStr, c_char},
    mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    ptr,
};

use libc::{sa_family_t, sockaddr, sockaddr_in, sockaddr_in6, sockaddr_storage, socklen_t};

use crate::{
    ctypes::{IpPortAddress, Name},
    errno::{Errno, Result},
};

/// Reads an address of the caller.
///
/// # Safety
///
/// `address` is NULL or points to `length` readable bytes.
pub(crate) unsafe fn read(address: *const sockaddr, length: socklen_t) -> Result<SocketAddr> {
    let length = usize::try_from(length).map_err(|_| Errno::INVALID)?;
    if address.is_null() {
        return Err(Errno::FAULT);
    }
    if length < mem::offset_of!(sockaddr, sa_data) {
        return Err(Errno::INVALID);
    }
    // SAFETY: the caller vouches for that many bytes, of which there are enough for the family.
    let family = unsafe { ptr::addr_of!((*address).sa_family).read_unaligned() };
    match i32::from(family) {
        libc::AF_INET if length >= size_of::<sockaddr_in>() => {
            // SAFETY: there are enough bytes, as just checked, and any bytes are one of these.
            let v4: sockaddr_in = unsafe { address.cast::<sockaddr_in>().read_unaligned() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Ok(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 if length >= size_of::<sockaddr_in6>() => {
            // SAFETY: as above.
            let v6: sockaddr_in6 = unsafe { address.cast::<sockaddr_in6>().read_unaligned() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Ok(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, 0).into())
        }
        libc::AF_INET | libc::AF_INET6 => Err(Errno::INVALID),
        _ => Err(Errno(libc::EAFNOSUPPORT)),
    }
}

/// Writes an address for the caller, cut to its room; nothing if it does not ask.
///
/// # Safety
///
/// `length` is NULL or points to a writable number, and `address` is NULL or to so many writable bytes.
pub(crate) unsafe fn write(
    from: SocketAddr,
    address: *mut sockaddr,
    length: *mut socklen_t,
) -> Result<()> {
    if address.is_null() {
        return Ok(());
    }
    if length.is_null() {
        return Err(Errno::FAULT);
    }
    // SAFETY: the caller vouches for the number.
    let room = unsafe { length.read_unaligned() };
    let (storage, full) = to_storage(from);
    let copied = usize::try_from(room.min(full)).map_err(|_| Errno::INVALID)?;
    // SAFETY: the caller vouches for the room, and the storage is longer than any address.
    unsafe {
        ptr::copy_nonoverlapping(ptr::addr_of!(storage).cast::<u8>(), address.cast(), copied);
        length.write_unaligned(full);
    }
    Ok(())
}

/// Family `AF_UNSPEC`, all zero.
pub(crate) const fn no_storage() -> sockaddr_storage {
    // SAFETY: it is integers only, for which zero is a value.
    unsafe { mem::zeroed() }
}

/// An address with the bytes that it takes.
pub(crate) fn to_storage(address: SocketAddr) -> (sockaddr_storage, socklen_t) {
    let mut storage = no_storage();
    let length = match address {
        SocketAddr::V4(v4) => {
            let address = sockaddr_in {
                sin_family: family(libc::AF_INET),
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from(*v4.ip()).to_be(),
                },
                sin_zero: [0; 8],
            };
            // SAFETY: a storage is long enough and aligned for each kind of address.
            unsafe {
                ptr::addr_of_mut!(storage)
                    .cast::<sockaddr_in>()
                    .write(address)
            };
            size_of::<sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            let address = sockaddr_in6 {
                sin6_family: family(libc::AF_INET6),
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr {
                    s6_addr: v6.ip().octets(),
                },
                sin6_scope_id: 0,
            };
            // SAFETY: as above.
            unsafe {
                ptr::addr_of_mut!(storage)
                    .cast::<sockaddr_in6>()
                    .write(address)
            };
            size_of::<sockaddr_in6>()
        }
    };
    (
        storage,
        socklen_t::try_from(length).unwrap_or(socklen_t::MAX),
    )
}

fn family(family: i32) -> sa_family_t {
    sa_family_t::try_from(family).unwrap_or_default()
}

/// An IPv4 address as the control API has it; zero for another.
pub(crate) fn to_ip_port(address: SocketAddr) -> IpPortAddress {
    match address.ip() {
        IpAddr::V4(ip) => IpPortAddress {
            address: u32::from(ip),
            port: address.port(),
        },
        IpAddr::V6(_) => IpPortAddress::default(),
    }
}

/// The text in a member of a structure: up to its zero, which it must have; `None` if it is empty.
pub(crate) fn text(name: &Name) -> Result<Option<String>> {
    // SAFETY: `c_char` and `u8` are alike in memory.
    let bytes: &[u8] = unsafe { &*ptr::from_ref(name).cast::<[u8; size_of::<Name>()]>() };
    let text = CStr::from_bytes_until_nul(bytes).map_err(|_| Errno::INVALID)?;
    let text = text.to_str().map_err(|_| Errno::INVALID)?;
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// Writes a text with its zero, all of it or nothing.
///
/// # Safety
///
/// `buffer` is NULL or points to `length` writable bytes.
pub(crate) unsafe fn write_text(
    text: &str,
    buffer: *mut c_char,
    length: usize,
) -> Result<*mut c_char> {
    if buffer.is_null() {
        return Err(Errno::INVALID);
    }
    if text.len() >= length {
        return Err(Errno(libc::ENOSPC));
    }
    // SAFETY: the caller vouches for the room, in which text and zero have place.
    unsafe {
        ptr::copy_nonoverlapping(text.as_ptr(), buffer.cast(), text.len());
        buffer.add(text.len()).write(0);
    }
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_way_to_c_and_back() {
        for text in ["10.1.2.3:5060", "[fd00::1]:80"] {
            let address: SocketAddr = text.parse().unwrap();
            let (storage, length) = to_storage(address);
            let pointer = ptr::addr_of!(storage).cast::<sockaddr>();
            // SAFETY: it is that long.
            let (whole, cut) = unsafe { (read(pointer, length), read(pointer, length - 1)) };
            assert_eq!((whole, cut), (Ok(address), Err(Errno::INVALID)));
        }
    }

    #[test]
    fn what_does_not_fit_is_cut_and_the_whole_length_told() {
        let mut room = [0xAA_u8; 28];
        let mut length: socklen_t = 4;
        let address = "10.1.2.3:5060".parse().unwrap();
        // SAFETY: it is longer than told.
        unsafe { write(address, room.as_mut_ptr().cast(), &raw mut length) }.unwrap();
        assert_eq!((length, &room[2..5]), (16, &[0x13, 0xC4, 0xAA][..]));
    }
}
