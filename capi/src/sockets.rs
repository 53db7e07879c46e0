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
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// By number less [`FIRST`].
    all: Vec<Option<Arc<Socket>>>,
    /// The library ends: a call that had come before makes no more.
    is_closing: bool,
}

impl Sockets {
    /// Gives a socket the lowest free number.
    pub(crate) fn add(&self, socket: Arc<Socket>) -> Result<c_int> {
        let mut table = self.lock();
        if table.is_closing {
            return Err(Errno::BAD);
        }
        let all = &mut table.all;
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
        self.lock().all.get(index(number)?)?.clone()
    }

    /// Frees a number.
    pub(crate) fn take(&self, number: c_int) -> Option<Arc<Socket>> {
        self.lock().all.get_mut(index(number)?)?.take()
    }

    /// The socket of a tunnel that is told of a service by the address that it is bound to, or at least by its port. A stream may have
    /// the same address as a datagram socket; the only service for it is encryption, and only if it asked for it.
    pub(crate) fn told_by(
        &self,
        tunnel: u32,
        address: SocketAddr,
        is_encryption: bool,
    ) -> Option<c_int> {
        let all: Vec<_> = self.lock().all.clone();
        let candidate = |(index, socket): (usize, Option<Arc<Socket>>)| {
            let socket = socket.filter(|socket| socket.tunnel_id() == tunnel)?;
            let (is_stream, asked) = (socket.is_stream(), socket.asks_for_encryption());
            if is_stream && !(is_encryption && asked) {
                return None;
            }
            let local = socket
                .bound()
                .filter(|local| local.port() == address.port())?;
            // The smallest is the best.
            let rank = (local != address, is_encryption && !asked, is_stream);
            Some((rank, c_int::try_from(index + FIRST).ok()?))
        };
        let all = all.into_iter().enumerate().filter_map(candidate);
        all.min().map(|(_, number)| number)
    }

    /// Closes all, and frees their numbers.
    pub(crate) fn close_all(&self) {
        let all = {
            let mut table = self.lock();
            table.is_closing = true;
            std::mem::take(&mut table.all)
        };
        for socket in all.into_iter().flatten() {
            socket.close();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn index(number: c_int) -> Option<usize> {
    usize::try_from(number).ok()?.checked_sub(FIRST)
}
