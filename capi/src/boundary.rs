//! What stands between our code and the caller's: a panic ends here, and an error becomes `errno`.

use std::{
    ffi::c_int,
    panic::{AssertUnwindSafe, catch_unwind},
};

use tsc_tapi::ErrorCode;

use crate::errno::{Errno, Result};

/// Runs the body of a function; `failed` is what it returns when that fails or panics (`EIO`). Locks are taken whatever became
/// of their last holder, so that nothing else is lost.
pub(crate) fn call<T>(failed: T, body: impl FnOnce() -> Result<T>) -> T {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => value,
        Ok(Err(errno)) => {
            errno.set();
            failed
        }
        Err(panic) => {
            // What it says was printed by the panic hook; dropping it might panic anew.
            std::mem::forget(panic);
            Errno(libc::EIO).set();
            failed
        }
    }
}

/// As [`call`], for functions that return 0 or -1.
pub(crate) fn status(body: impl FnOnce() -> Result<()>) -> c_int {
    call(-1, || body().map(|()| 0))
}

/// As [`call`], for functions that return a `tsc_error_code`.
pub(crate) fn code(body: impl FnOnce() -> Result<ErrorCode>) -> c_int {
    let code = call(ErrorCode::Error, body);
    c_int::from(code.value())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_and_goes_no_further() {
        std::panic::set_hook(Box::new(|_| {}));
        let panicked = status(|| panic!("on purpose"));
        drop(std::panic::take_hook());
        assert_eq!((panicked, errno::errno().0), (-1, libc::EIO));
        assert_eq!(status(|| Err(Errno::BAD)), -1);
        assert_eq!(errno::errno().0, libc::EBADF);
        assert_eq!(code(|| Ok(ErrorCode::NotLogged)), 2);
    }
}
