//! The table of small integers.

use std::{
    ffi::c_int,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    ctypes::FD_SETSIZE,
    errno::{Errno, Result},
    socket::Socket,
};

/// Zero is no socket: programs take it for "none".
const FIRST: usize = 1;

/// All sockets of the process, by their numbers.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    /// By number less [`FIRST`].
    all: Mutex<Vec<Option<Arc<Socket>>>>,
}

impl Sockets {
    /// Gives a socket the lowest free number.
    pub(crate) fn add(&self, socket: Arc<Socket>) -> Result<c_int> {
        let mut all = self.lock();
        let index = all.iter().position(Option::is_none).unwrap_or(all.len());
        if index + FIRST >= FD_SETSIZE {
            return Err(Errno(libc::EMFILE));
        }
        match all.get_mut(index) {
            Some(place) => *place = Some(socket),
            None => all.push(Some(socket)),
        }
        c_int::try_from(index + FIRST).map_err(|_| Errno(libc::EMFILE))
    }

    pub(crate) fn get(&self, number: c_int) -> Option<Arc<Socket>> {
        self.lock().get(index(number)?)?.clone()
    }

    /// Frees a number.
    pub(crate) fn take(&self, number: c_int) -> Option<Arc<Socket>> {
        self.lock().get_mut(index(number)?)?.take()
    }

    /// The socket of a tunnel that is bound to an address, or at least to its port.
    pub(crate) fn bound_to(&self, tunnel: u32, address: SocketAddr) -> Option<c_int> {
        let all: Vec<_> = self.lock().clone();
        let bound = |(index, socket): (usize, Option<Arc<Socket>>)| {
            let bound = socket
                .filter(|socket| socket.tunnel_id() == tunnel)?
                .bound()?;
            Some((c_int::try_from(index + FIRST).ok()?, bound))
        };
        let bound: Vec<_> = all.into_iter().enumerate().filter_map(bound).collect();
        let whole = bound.iter().find(|(_, local)| *local == address);
        let port = || {
            bound
                .iter()
                .find(|(_, local)| local.port() == address.port())
        };
        whole.or_else(port).map(|(number, _)| *number)
    }

    /// Closes all, and frees their numbers.
    pub(crate) fn close_all(&self) {
        let all = std::mem::take(&mut *self.lock());
        for socket in all.into_iter().flatten() {
            socket.close();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Option<Arc<Socket>>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn index(number: c_int) -> Option<usize> {
    usize::try_from(number).ok()?.checked_sub(FIRST)
}
