//! What the `openssl` crate does not bind, or not safely: `DTLSv1_listen`, the DTLS timers, taking over the verification
//! of certificates, tickets, sessions to resume. The only unsafe code of the DTLS layer.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_long, c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use foreign_types::ForeignTypeRef;
use openssl::error::ErrorStack;
use openssl::ssl::{SslContextBuilder, SslRef, SslSession};
use openssl::stack::StackRef;
use openssl::x509::{X509, X509StoreContext, X509StoreContextRef};
use openssl_sys::{SSL, SSL_CTX, X509_STORE_CTX, X509_V_OK, stack_st_X509};
use zeroize::Zeroizing;

use crate::cert::resumption::TicketKey;

// <openssl/ssl.h>; stable since OpenSSL 1.0.1.
const DTLS_CTRL_GET_TIMEOUT: c_int = 73;
const DTLS_CTRL_HANDLE_TIMEOUT: c_int = 74;
const SSL_CTRL_SET_TLSEXT_TICKET_KEYS: c_int = 59;
const SSL_CB_LOOP: c_int = 1;

/// A key of tickets as that control takes it, since OpenSSL 1.1.0: name, key of the HMAC, key of the cipher.
const TICKET_KEYS: c_long = 16 + 32 + 32;

/// Opaque, <openssl/bio.h>.
#[allow(non_camel_case_types, reason = "the name in C")]
enum BIO_ADDR {}

type VerifyCallback = unsafe extern "C" fn(*mut X509_STORE_CTX, *mut c_void) -> c_int;
type InfoCallback = unsafe extern "C" fn(*const SSL, c_int, c_int);
type TimerCallback = unsafe extern "C" fn(*mut SSL, c_uint) -> c_uint;

// libssl and libcrypto are linked by openssl-sys; all of these exist since OpenSSL 1.1.1.
unsafe extern "C" {
    fn DTLSv1_listen(ssl: *mut SSL, client: *mut BIO_ADDR) -> c_int;
    fn DTLS_set_timer_cb(ssl: *mut SSL, callback: TimerCallback);
    fn BIO_ADDR_new() -> *mut BIO_ADDR;
    fn BIO_ADDR_free(address: *mut BIO_ADDR);
    fn SSL_CTX_set_cert_verify_callback(
        ctx: *mut SSL_CTX,
        callback: VerifyCallback,
        argument: *mut c_void,
    );
    fn X509_STORE_CTX_get0_untrusted(ctx: *const X509_STORE_CTX) -> *mut stack_st_X509;
    fn SSL_set_info_callback(ssl: *mut SSL, callback: InfoCallback);
    fn SSL_CTX_set_timeout(ctx: *mut SSL_CTX, seconds: c_long) -> c_long;
}

/// Makes the context's server seal and open tickets with this key, instead of one that OpenSSL has drawn.
pub(super) fn set_ticket_key(
    ctx: &mut SslContextBuilder,
    key: &TicketKey,
) -> Result<(), ErrorStack> {
    let mut bytes = Zeroizing::new([0_u8; 16 + 32 + 32]);
    let parts = key.name.iter().chain(key.secret.iter());
    for (to, from) in bytes.iter_mut().zip(parts) {
        *to = *from;
    }
    // SAFETY: the context is valid. The control checks the length that it is given against its own, reads that many bytes, which
    // are there, and copies them; it writes nothing through the pointer and does not keep it.
    let result = unsafe {
        openssl_sys::SSL_CTX_ctrl(
            ctx.as_ptr(),
            SSL_CTRL_SET_TLSEXT_TICKET_KEYS,
            TICKET_KEYS,
            bytes.as_mut_ptr().cast(),
        )
    };
    (result == 1).then_some(()).ok_or_else(ErrorStack::get)
}

/// How long the context's sessions may be resumed, from the full handshake on.
pub(super) fn set_session_lifetime(ctx: &mut SslContextBuilder, lifetime: Duration) {
    let seconds = c_long::try_from(lifetime.as_secs()).unwrap_or(c_long::MAX);
    // SAFETY: the context is valid, and the call sets a number in it.
    unsafe { SSL_CTX_set_timeout(ctx.as_ptr(), seconds) };
}

/// Makes a client offer a session that an earlier handshake has written, to the same server under the same rules for its
/// certificate: with a session it shows none.
pub(super) fn offer(ssl: &mut SslRef, written: &[u8]) -> Result<(), ErrorStack> {
    let session = SslSession::from_der(written)?;
    // SAFETY: a session object has links for the cache of one SSL_CTX, so it must not be used with two (SSL_set_session(3)); that
    // is also what the crate demands. This one was made two lines above and belongs to no context yet; it is given to this SSL
    // only, which takes a reference of its own. Sessions that are remembered are remembered as bytes. What OpenSSL still reads of it
    // after it has given it up is kept valid by the handshake (`HeldSessions`).
    unsafe { ssl.set_session(&session) }
}

/// Reads the next datagram from the session's stream as a ClientHello whose cookie the context's callback accepts.
/// True when the handshake may go on, with the same hello, in `SSL_accept`.
pub(super) fn listen(ssl: &SslRef) -> bool {
    // SAFETY: BIO_ADDR_new has no preconditions; null is checked below.
    let address = unsafe { BIO_ADDR_new() };
    if address.is_null() {
        return false;
    }
    // SAFETY: both pointers are valid for the call, and nobody else uses the SSL meanwhile: the session that
    // owns it is borrowed by the caller. The address is only written to.
    let result = unsafe { DTLSv1_listen(ssl.as_ptr(), address) };
    // SAFETY: made above, not freed yet, and DTLSv1_listen does not keep it.
    unsafe { BIO_ADDR_free(address) };
    result == 1
}

/// Time until the retransmission timer is due; `None` when it is not running.
pub(super) fn timeout(ssl: &SslRef) -> Option<Duration> {
    let mut left = libc::timeval {
        tv_sec: 0,
        tv_usec: 0,
    };
    // SAFETY: the SSL is valid and the control writes one timeval to the pointer, which outlives the call.
    let running = unsafe {
        openssl_sys::SSL_ctrl(
            ssl.as_ptr(),
            DTLS_CTRL_GET_TIMEOUT,
            0,
            (&raw mut left).cast(),
        )
    };
    if running != 1 {
        return None;
    }
    let seconds = u64::try_from(left.tv_sec).unwrap_or(0);
    let micros = u64::try_from(left.tv_usec).unwrap_or(0);
    Some(Duration::from_secs(seconds) + Duration::from_micros(micros))
}

/// Retransmits if the timer is due by OpenSSL's clock. False when it has given up: its error queue then says
/// why.
pub(super) fn handle_timeout(ssl: &SslRef) -> bool {
    // SAFETY: the SSL is valid and this control takes no argument.
    let result: c_long = unsafe {
        openssl_sys::SSL_ctrl(
            ssl.as_ptr(),
            DTLS_CTRL_HANDLE_TIMEOUT,
            0,
            std::ptr::null_mut(),
        )
    };
    result >= 0
}

/// Computes the next interval of the retransmission timer from the last one; zero asks for the first.
pub(super) trait Timer {
    /// Both in microseconds.
    fn next(ssl: &SslRef, last: u32) -> u32;
}

/// Makes `T` decide about the intervals of the retransmission timer.
pub(super) fn set_timer<T: Timer>(ssl: &SslRef) {
    unsafe extern "C" fn callback<T: Timer>(ssl: *mut SSL, last: c_uint) -> c_uint {
        // SAFETY: OpenSSL passes the SSL that the timer belongs to, valid for the call.
        let ssl = unsafe { SslRef::from_ptr(ssl) };
        // A panic must not cross the C frames below; one second is what RFC 6347 section 4.2.4.1 starts with.
        catch_unwind(AssertUnwindSafe(|| T::next(ssl, last))).unwrap_or(1_000_000)
    }
    // SAFETY: the SSL is valid and the callback is a function, so valid for ever.
    unsafe { DTLS_set_timer_cb(ssl.as_ptr(), callback::<T>) };
}

/// Sees the steps of a handshake.
pub(super) trait Steps {
    /// Another step begins: a message of the peer is about to be processed, or one of ours to be made.
    fn step(ssl: &SslRef);
}

/// Makes `S` see the steps of this handshake.
pub(super) fn set_steps<S: Steps>(ssl: &SslRef) {
    unsafe extern "C" fn callback<S: Steps>(ssl: *const SSL, kind: c_int, _: c_int) {
        if kind & SSL_CB_LOOP == 0 {
            return;
        }
        // SAFETY: OpenSSL passes the SSL whose handshake this is, valid for the call; `S` gets it by shared reference, and calls
        // nothing that goes on with the handshake.
        let ssl = unsafe { SslRef::from_ptr(ssl.cast_mut()) };
        // A panic must not cross the C frames below.
        drop(catch_unwind(AssertUnwindSafe(|| S::step(ssl))));
    }
    // SAFETY: the SSL is valid and the callback is a function, so valid for ever.
    unsafe { SSL_set_info_callback(ssl.as_ptr(), callback::<S>) };
}

/// Judges the chain that the peer presented, instead of OpenSSL's own verification.
pub(super) trait Verifier {
    /// `X509_V_OK` accepts; an `X509_V_ERR_*` refuses and selects the alert that is sent.
    fn verify(ssl: &SslRef, presented: &StackRef<X509>) -> c_int;
}

/// Makes `V` judge the chains of all sessions of the context.
pub(super) fn set_verifier<V: Verifier>(ctx: &mut SslContextBuilder) {
    unsafe extern "C" fn callback<V: Verifier>(ctx: *mut X509_STORE_CTX, _: *mut c_void) -> c_int {
        // SAFETY: OpenSSL passes a store context that is valid, and used by nobody else, for the call. What is
        // returned is owned by it, or null.
        let presented = unsafe { X509_STORE_CTX_get0_untrusted(ctx) };
        let result = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: as above.
            let store = unsafe { X509StoreContextRef::from_ptr(ctx) };
            let ssl = store.ex_data(X509StoreContext::ssl_idx().ok()?)?;
            if presented.is_null() {
                return None;
            }
            // SAFETY: not null, and the stack lives as long as the store context, which outlives this frame.
            let presented = unsafe { StackRef::<X509>::from_ptr(presented) };
            Some(V::verify(ssl, presented))
        }))
        .ok()
        .flatten()
        .unwrap_or(openssl_sys::X509_V_ERR_APPLICATION_VERIFICATION);
        // SAFETY: as above, and no reference to it is left.
        unsafe { openssl_sys::X509_STORE_CTX_set_error(ctx, result) };
        c_int::from(result == X509_V_OK)
    }
    // SAFETY: the context is valid, the callback is a function and takes no argument of ours.
    unsafe {
        SSL_CTX_set_cert_verify_callback(ctx.as_ptr(), callback::<V>, std::ptr::null_mut());
    }
}
