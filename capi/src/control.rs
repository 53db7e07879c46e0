//! The functions of `tsc_control_api.h`, where they and their contracts are described.
#![expect(
    unsafe_code,
    reason = "memory of the caller, and names that the linker knows"
)]

use std::{
    cell::RefCell,
    ffi::{CStr, c_char, c_int, c_void},
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4},
    ptr,
    time::Duration,
};

use libc::{sockaddr, socklen_t};
use tsc_tapi::ErrorCode;

use crate::{
    address, boundary,
    ctypes::{
        Callback, Config, Handle, IpAddress, IpPortAddress, Ipv6Address, RequestedConfig,
        SocketInfo, TunnelParams,
    },
    errno::Errno,
    library, params,
    tunnel::Failure,
};

thread_local! {
    static LAST: RefCell<Option<Failure>> = const { RefCell::new(None) };
}

/// Notes what became of a call for `tsc_last_error`.
pub(crate) fn note(done: &Result<(), Failure>) -> ErrorCode {
    let failure = done.as_ref().err().cloned();
    let code = failure
        .as_ref()
        .map_or(ErrorCode::Ok, |failure| failure.code);
    // Not there while the thread ends: then nobody asks any more.
    let _ = LAST.try_with(|last| *last.borrow_mut() = failure);
    code
}

/// Notes a failure without a code of its own.
pub(crate) fn misused(errno: Errno, text: &str) -> Errno {
    let _ = note(&Err(Failure::new(ErrorCode::Error, text)));
    errno
}

const VERSION: &CStr =
    match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(version) => version,
        Err(_) => c"",
    };

#[unsafe(no_mangle)]
pub(crate) extern "C" fn tsc_version() -> *const c_char {
    VERSION.as_ptr()
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn tsc_error_code_to_str(code: c_int) -> *const c_char {
    match code {
        0 => c"tsc_error_code_ok",
        1 => c"tsc_error_code_error",
        2 => c"tsc_error_code_not_logged",
        3 => c"tsc_error_code_cannot_connect",
        4 => c"tsc_error_code_cannot_configure",
        5 => c"tsc_error_code_keepalive_failure",
        6 => c"tsc_error_code_service_failure",
        7 => c"tsc_error_code_cannot_recv_data",
        8 => c"tsc_error_code_no_data",
        9 => c"tsc_error_code_cannot_send_data",
        10 => c"tsc_error_code_authenticate",
        11 => c"tsc_error_code_cannot_release",
        12 => c"tsc_error_code_queue_overflow",
        _ => c"no tsc_error_code",
    }
    .as_ptr()
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn tsc_ip_address_to_str(
    address: *const IpAddress,
    buffer: *mut c_char,
    length: usize,
) -> *mut c_char {
    boundary::call(ptr::null_mut(), || {
        // SAFETY: the caller vouches for it, if it is not NULL.
        let address = unsafe { address.as_ref() }.ok_or(Errno::INVALID)?;
        let text = Ipv4Addr::from(address.address).to_string();
        // SAFETY: the caller vouches for the room.
        unsafe { address::write_text(&text, buffer, length) }
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn tsc_ip_port_address_to_str(
    address: *const IpPortAddress,
    buffer: *mut c_char,
    length: usize,
) -> *mut c_char {
    boundary::call(ptr::null_mut(), || {
        // SAFETY: the caller vouches for it, if it is not NULL.
        let address = unsafe { address.as_ref() }.ok_or(Errno::INVALID)?;
        let text = SocketAddrV4::new(address.address.into(), address.port).to_string();
        // SAFETY: the caller vouches for the room.
        unsafe { address::write_text(&text, buffer, length) }
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn tsc_ipv6_address_to_str(
    address: *const Ipv6Address,
    buffer: *mut c_char,
    length: usize,
) -> *mut c_char {
    boundary::call(ptr::null_mut(), || {
        // SAFETY: the caller vouches for it, if it is not NULL.
        let address = unsafe { address.as_ref() }.ok_or(Errno::INVALID)?;
        let text = Ipv6Addr::from(address.address).to_string();
        // SAFETY: the caller vouches for the room.
        unsafe { address::write_text(&text, buffer, length) }
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn tsc_sockaddr_to_str(
    address: *const sockaddr,
    address_length: socklen_t,
    buffer: *mut c_char,
    length: usize,
) -> *mut c_char {
    boundary::call(ptr::null_mut(), || {
        if address.is_null() {
            return Err(Errno::INVALID);
        }
        // SAFETY: the caller vouches for it.
        let text = unsafe { address::read(address, address_length) }?.to_string();
        // SAFETY: the caller vouches for the room.
        unsafe { address::write_text(&text, buffer, length) }
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn tsc_ctrl_init() -> c_int {
    boundary::code(|| library::start().map(|()| ErrorCode::Ok))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn tsc_ctrl_term() -> c_int {
    boundary::code(|| library::end().map(|()| ErrorCode::Ok))
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn tsc_ctrl_new_tunnel(
    params: *const TunnelParams,
    requested: *const RequestedConfig,
) -> Handle {
    boundary::call(ptr::null_mut(), || {
        // SAFETY: the caller vouches for both, if they are not NULL. They hold integers only, so that nothing in them is invalid.
        let (params, requested) = unsafe { (params.as_ref(), requested.as_ref()) };
        let params = params.ok_or_else(|| misused(Errno::INVALID, "params is NULL"))?;
        let failed = |failure: Failure| {
            let errno = Errno::of_tunnel(failure.code);
            let _ = note(&Err(failure));
            errno
        };
        let builder = params::builder(params, requested).map_err(failed)?;
        let library = library::enter_or_init()
            .map_err(|errno| misused(errno, "the library's threads cannot be made"))?;
        let tunnel = library
            .open_tunnel(builder)
            .map_err(|errno| misused(errno, "too many tunnels, or no thread for another"))?;
        let handle = library::handle_of(tunnel.id());
        if params.nonblocking == 0
            && let Err(failure) = tunnel.wait(None)
        {
            if library.take_tunnel(handle).is_ok() {
                let _ = library.delete(&tunnel);
            }
            return Err(failed(failure));
        }
        let _ = note(&Ok(()));
        Ok(handle)
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn tsc_new_tunnel(
    params: *const TunnelParams,
    requested: *const RequestedConfig,
) -> Handle {
    // SAFETY: what the caller vouches for is the same.
    unsafe { tsc_ctrl_new_tunnel(params, requested) }
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn tsc_last_error(text: *mut c_char, length: usize) -> c_int {
    boundary::code(|| {
        let last = LAST.with(|last| last.borrow().clone());
        let (code, said) = last.map_or((ErrorCode::Ok, String::new()), |last| {
            (last.code, last.text)
        });
        if !text.is_null() && length > 0 {
            let mut end = said.len().min(length - 1);
            while !said.is_char_boundary(end) {
                end -= 1;
            }
            let said = said.get(..end).unwrap_or_default();
            // SAFETY: the caller vouches for the room.
            unsafe { address::write_text(said, text, length) }?;
        }
        Ok(code)
    })
}

/// A time of which negative is for ever.
pub(crate) fn limit(milliseconds: c_int) -> Option<Duration> {
    u64::try_from(milliseconds).ok().map(Duration::from_millis)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn tsc_wait_tunnel(handle: Handle, milliseconds: c_int) -> c_int {
    boundary::code(|| {
        let gone = |errno| misused(errno, "no such tunnel");
        let library = library::enter_existing().map_err(gone)?;
        let tunnel = library.tunnel(handle).map_err(gone)?;
        Ok(note(&tunnel.wait(limit(milliseconds))))
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn tsc_delete_tunnel(handle: Handle) -> c_int {
    boundary::code(|| {
        let gone = |errno| misused(errno, "no such tunnel");
        let library = library::enter_existing().map_err(gone)?;
        let tunnel = library.take_tunnel(handle).map_err(gone)?;
        Ok(note(&library.delete(&tunnel)))
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn tsc_get_config(handle: Handle, config: *mut Config) -> c_int {
    boundary::code(|| {
        if config.is_null() {
            return Err(Errno::FAULT);
        }
        match library::enter_existing()?.tunnel(handle)?.config() {
            Ok(from) => {
                // SAFETY: the caller vouches for the room.
                unsafe { config.write(params::config(&from)) };
                Ok(ErrorCode::Ok)
            }
            Err(failure) => Ok(failure.code),
        }
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn tsc_get_tunnel_socket_info(
    handle: Handle,
    info: *mut SocketInfo,
) -> c_int {
    boundary::code(|| {
        if info.is_null() {
            return Err(Errno::FAULT);
        }
        match library::enter_existing()?.tunnel(handle)?.config() {
            Ok(from) => {
                // SAFETY: the caller vouches for the room.
                unsafe { info.write(params::socket_info(&from)) };
                Ok(ErrorCode::Ok)
            }
            Err(failure) => Ok(failure.code),
        }
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn tsc_get_tunnel(socket: c_int) -> Handle {
    boundary::call(ptr::null_mut(), || {
        let library = library::enter_existing()?;
        let handle = library::handle_of(library.socket(socket)?.tunnel_id());
        library.tunnel(handle).map_err(|_| Errno::NET_DOWN)?;
        Ok(handle)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn tsc_network_changed(handle: Handle) -> c_int {
    boundary::code(|| {
        let tunnel = library::enter_existing()?.tunnel(handle)?;
        if tunnel.with(tsc_tapi::Tunnel::network_changed).is_ok() {
            return Ok(ErrorCode::Ok);
        }
        Ok(tunnel
            .config()
            .err()
            .map_or(ErrorCode::Ok, |failure| failure.code))
    })
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn tsc_notification_enable(
    handle: Handle,
    kind: c_int,
    callback: Callback,
    opaque: *mut c_void,
) -> Handle {
    boundary::call(ptr::null_mut(), || {
        library::enter_existing()?.enable(handle, kind, callback, opaque)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn tsc_notification_disable(notification: Handle) -> c_int {
    boundary::code(|| {
        // Without the library, too: while it ends, callbacks still run.
        library::disable(notification).map(|()| ErrorCode::Ok)
    })
}
