//! The functions of `tsc_socket_api.h`, where they and their contracts are described.
#![expect(
    unsafe_code,
    reason = "memory of the caller, and names that the linker knows"
)]

use std::{
    ffi::{c_int, c_long, c_uint, c_void},
    net::Shutdown,
    ptr, slice, thread,
    time::Duration,
};

use libc::{sockaddr, socklen_t, ssize_t};

use crate::{
    address, boundary,
    control::limit,
    ctypes::{Count, FD_SETSIZE, FdSet, Handle, PollFd, Timeval},
    errno::{Errno, Result},
    library,
    socket::{Direction, Socket},
    wait,
};

/// Memory of the caller to read from.
///
/// # Safety
///
/// `buffer` is NULL or points to `length` readable bytes, which nobody writes meanwhile.
unsafe fn readable<'a>(buffer: *const c_void, length: usize) -> Result<&'a [u8]> {
    check(buffer, length)?;
    if length == 0 {
        return Ok(&[]);
    }
    // SAFETY: the caller vouches for it, and its length was checked.
    Ok(unsafe { slice::from_raw_parts(buffer.cast(), length) })
}

/// Memory of the caller to write to.
///
/// # Safety
///
/// `buffer` is NULL or points to `length` writable bytes, which nobody else uses meanwhile.
unsafe fn writable<'a>(buffer: *mut c_void, length: usize) -> Result<&'a mut [u8]> {
    check(buffer, length)?;
    if length == 0 {
        return Ok(&mut []);
    }
    // SAFETY: the caller vouches for it, and its length was checked. What was never written there is not read here.
    Ok(unsafe { slice::from_raw_parts_mut(buffer.cast(), length) })
}

fn check(buffer: *const c_void, length: usize) -> Result<()> {
    if length > 0 && buffer.is_null() {
        return Err(Errno::FAULT);
    }
    if isize::try_from(length).is_err() {
        return Err(Errno::INVALID);
    }
    Ok(())
}

fn size(length: usize) -> ssize_t {
    ssize_t::try_from(length).unwrap_or(ssize_t::MAX)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn tsc_socket(
    handle: Handle,
    family: c_int,
    kind: c_int,
    protocol: c_int,
) -> c_int {
    boundary::call(-1, || {
        let library = library::enter_existing()?;
        let tunnel = library.tunnel(handle)?;
        let socket = Socket::new(&tunnel, family, kind, protocol)?;
        library.sockets.add(socket.into())
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn tsc_bind(
    socket: c_int,
    address: *const sockaddr,
    address_length: socklen_t,
) -> c_int {
    boundary::status(|| {
        let socket = library::enter_existing()?.socket(socket)?;
        // SAFETY: the caller vouches for it.
        let address = unsafe { address::read(address, address_length) }?;
        socket.bind(address)
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn tsc_connect(
    socket: c_int,
    address: *const sockaddr,
    address_length: socklen_t,
) -> c_int {
    boundary::status(|| {
        let library = library::enter_existing()?;
        let socket = library.socket(socket)?;
        // SAFETY: the caller vouches for it.
        let address = unsafe { address::read(address, address_length) }?;
        socket.connect(address)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn tsc_listen(socket: c_int, backlog: c_int) -> c_int {
    boundary::status(|| library::enter_existing()?.socket(socket)?.listen(backlog))
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn tsc_accept(
    socket: c_int,
    address: *mut sockaddr,
    address_length: *mut socklen_t,
) -> c_int {
    boundary::call(-1, || {
        let library = library::enter_existing()?;
        let socket = library.socket(socket)?;
        if !address.is_null() && address_length.is_null() {
            return Err(Errno::FAULT);
        }
        let (number, peer) = socket.accept(|accepted| library.sockets.add(accepted))?;
        // SAFETY: the caller vouches for both.
        unsafe { address::write(peer, address, address_length) }?;
        Ok(number)
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn tsc_send(
    socket: c_int,
    buffer: *const c_void,
    length: usize,
    flags: c_int,
) -> ssize_t {
    // SAFETY: what the caller vouches for is the same.
    unsafe { tsc_sendto(socket, buffer, length, flags, ptr::null(), 0) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn tsc_sendto(
    socket: c_int,
    buffer: *const c_void,
    length: usize,
    flags: c_int,
    address: *const sockaddr,
    address_length: socklen_t,
) -> ssize_t {
    boundary::call(-1, || {
        let library = library::enter_existing()?;
        let socket = library.socket(socket)?;
        // SAFETY: the caller vouches for it.
        let data = unsafe { readable(buffer, length) }?;
        let to = if address.is_null() || socket.is_stream() {
            None
        } else {
            // SAFETY: the caller vouches for it.
            Some(unsafe { address::read(address, address_length) }?)
        };
        socket.send(data, flags, to).map(size)
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn tsc_recv(
    socket: c_int,
    buffer: *mut c_void,
    length: usize,
    flags: c_int,
) -> ssize_t {
    // SAFETY: what the caller vouches for is the same.
    unsafe {
        tsc_recvfrom(
            socket,
            buffer,
            length,
            flags,
            ptr::null_mut(),
            ptr::null_mut(),
        )
    }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn tsc_recvfrom(
    socket: c_int,
    buffer: *mut c_void,
    length: usize,
    flags: c_int,
    address: *mut sockaddr,
    address_length: *mut socklen_t,
) -> ssize_t {
    boundary::call(-1, || {
        let library = library::enter_existing()?;
        let socket = library.socket(socket)?;
        if !address.is_null() && address_length.is_null() {
            return Err(Errno::FAULT);
        }
        // SAFETY: the caller vouches for it.
        let buffer = unsafe { writable(buffer, length) }?;
        let (received, from) = socket.receive(buffer, flags)?;
        match from {
            // SAFETY: the caller vouches for both.
            Some(from) => unsafe { address::write(from, address, address_length) }?,
            // Of a stream there is none to tell.
            None if !address.is_null() => {
                // SAFETY: the caller vouches for it, and it is not NULL.
                unsafe { address_length.write_unaligned(0) };
            }
            None => {}
        }
        Ok(size(received))
    })
}

/// As `getsockname` wants it: nothing is optional.
///
/// # Safety
///
/// As [`address::write`].
unsafe fn name(
    address: *mut sockaddr,
    length: *mut socklen_t,
    of: impl FnOnce() -> Result<std::net::SocketAddr>,
) -> Result<()> {
    if address.is_null() || length.is_null() {
        return Err(Errno::FAULT);
    }
    // SAFETY: what the caller vouches for is the same.
    unsafe { address::write(of()?, address, length) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn tsc_getsockname(
    socket: c_int,
    address: *mut sockaddr,
    address_length: *mut socklen_t,
) -> c_int {
    boundary::status(|| {
        let socket = library::enter_existing()?.socket(socket)?;
        // SAFETY: the caller vouches for both.
        unsafe { name(address, address_length, || socket.local_address()) }
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn tsc_getpeername(
    socket: c_int,
    address: *mut sockaddr,
    address_length: *mut socklen_t,
) -> c_int {
    boundary::status(|| {
        let socket = library::enter_existing()?.socket(socket)?;
        // SAFETY: the caller vouches for both.
        unsafe { name(address, address_length, || socket.peer_address()) }
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn tsc_shutdown(socket: c_int, how: c_int) -> c_int {
    boundary::status(|| {
        let socket = library::enter_existing()?.socket(socket)?;
        socket.shutdown(match how {
            libc::SHUT_RD => Shutdown::Read,
            libc::SHUT_WR => Shutdown::Write,
            libc::SHUT_RDWR => Shutdown::Both,
            _ => return Err(Errno::INVALID),
        })
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn tsc_close(socket: c_int) -> c_int {
    boundary::status(|| {
        let library = library::enter_existing()?;
        library.sockets.take(socket).ok_or(Errno::BAD)?.close();
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn tsc_fcntl(socket: c_int, command: c_int, argument: c_long) -> c_int {
    boundary::call(-1, || {
        let socket = library::enter_existing()?.socket(socket)?;
        match command {
            libc::F_GETFL if socket.is_nonblocking() => Ok(libc::O_RDWR | libc::O_NONBLOCK),
            libc::F_GETFL => Ok(libc::O_RDWR),
            libc::F_SETFL => {
                socket.set_nonblocking(argument & c_long::from(libc::O_NONBLOCK) != 0);
                Ok(0)
            }
            _ => Err(Errno::INVALID),
        }
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn tsc_setsockopt(
    socket: c_int,
    level: c_int,
    option: c_int,
    value: *const c_void,
    length: socklen_t,
) -> c_int {
    boundary::status(|| {
        let socket = library::enter_existing()?.socket(socket)?;
        let length = usize::try_from(length).map_err(|_| Errno::INVALID)?;
        if value.is_null() {
            return Err(Errno::FAULT);
        }
        // SAFETY: the caller vouches for it.
        let value = unsafe { readable(value, length) }?;
        socket.set_option(level, option, value)
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn tsc_getsockopt(
    socket: c_int,
    level: c_int,
    option: c_int,
    value: *mut c_void,
    length: *mut socklen_t,
) -> c_int {
    boundary::status(|| {
        let socket = library::enter_existing()?.socket(socket)?;
        if value.is_null() || length.is_null() {
            return Err(Errno::FAULT);
        }
        let told = socket.option(level, option)?;
        // SAFETY: the caller vouches for it.
        let room = usize::try_from(unsafe { length.read() }).map_err(|_| Errno::INVALID)?;
        let told = told.get(..room).unwrap_or(&told);
        let written = socklen_t::try_from(told.len()).map_err(|_| Errno::INVALID)?;
        // SAFETY: the caller vouches for the room, within which it is.
        unsafe {
            ptr::copy_nonoverlapping(told.as_ptr(), value.cast(), told.len());
            length.write(written);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn tsc_select(
    count: c_int,
    readers: *mut FdSet,
    writers: *mut FdSet,
    exceptions: *mut FdSet,
    timeout: *const Timeval,
) -> c_int {
    boundary::call(-1, || {
        let count = usize::try_from(count).map_err(|_| Errno::INVALID)?;
        if count > FD_SETSIZE {
            return Err(Errno::INVALID);
        }
        // SAFETY: the caller vouches for all of them that are not NULL; they are copied at once, so that they may be the same.
        let (sets, timeout) = unsafe {
            let sets = [readers, writers, exceptions].map(|set| set.as_ref().copied());
            (sets, timeout.as_ref().copied())
        };
        let limit = timeout
            .map(|time| wait::duration(time.tv_sec, time.tv_usec))
            .transpose()?;
        let asked = sets.each_ref().map(Option::as_ref);
        let (total, found) = if wait::is_empty(count, asked) {
            wait::pass(limit);
            (0, [FdSet::EMPTY; 2])
        } else {
            let library = library::enter_existing()?;
            wait::select(&library, count, asked, limit)?
        };
        let [readable, writable] = found;
        let results = [
            (readers, readable),
            (writers, writable),
            (exceptions, FdSet::EMPTY),
        ];
        for (set, found) in results {
            if !set.is_null() {
                // SAFETY: the caller vouches for it.
                unsafe { set.write(found) };
            }
        }
        Ok(total)
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn tsc_poll(
    sockets: *mut PollFd,
    count: Count,
    milliseconds: c_int,
) -> c_int {
    boundary::call(-1, || {
        let count = usize::try_from(count).map_err(|_| Errno::INVALID)?;
        if count > FD_SETSIZE {
            return Err(Errno::INVALID);
        }
        if count > 0 && sockets.is_null() {
            return Err(Errno::FAULT);
        }
        let entries: &mut [PollFd] = if count == 0 {
            &mut []
        } else {
            // SAFETY: the caller vouches for so many, and it is not NULL.
            unsafe { slice::from_raw_parts_mut(sockets, count) }
        };
        if entries.iter().all(|entry| entry.fd < 0) {
            for entry in entries {
                entry.revents = 0;
            }
            wait::pass(limit(milliseconds));
            return Ok(0);
        }
        match library::enter_existing() {
            Ok(library) => Ok(wait::poll(&library, entries, limit(milliseconds))),
            // Without a library none of them is a socket.
            Err(_) => Ok(wait::none(entries)),
        }
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn tsc_sleep(milliseconds: c_uint) {
    thread::sleep(Duration::from_millis(milliseconds.into()));
}

fn descriptor(socket: c_int, direction: Direction) -> c_int {
    boundary::call(-1, || {
        library::enter_existing()?
            .socket(socket)?
            .descriptor(direction)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn tsc_get_pollfd(socket: c_int) -> c_int {
    descriptor(socket, Direction::Read)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn tsc_get_write_pollfd(socket: c_int) -> c_int {
    descriptor(socket, Direction::Write)
}
