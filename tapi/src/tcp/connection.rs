//! One connection, whatever handle an application holds it by.

use std::{
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::{
    io::{Interest, Ready},
    sync::Notify,
    task::coop::poll_proceed,
};
use tsc_eip::{TcpHandle, TcpOptions, TcpState};

use super::error;
use crate::{
    encryption::Claim,
    error::SocketError,
    shared::{Shared, State},
    wakers::{Waiters, Wakes},
};

/// Who waits at a connection.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    pub(crate) readable: Waiters,
    pub(crate) writable: Waiters,
    /// Its owner knows that it has failed.
    told: bool,
}

impl Stream {
    pub(crate) fn wake(&mut self, wakes: &mut Wakes) {
        self.readable.wake(wakes);
        self.writable.wake(wakes);
    }
}

/// The owner of a handle of the stack: gives it up when dropped.
#[derive(Debug)]
pub(super) struct Connection {
    shared: Arc<Shared>,
    handle: TcpHandle,
    local: SocketAddr,
    peer: SocketAddr,
    readable: Arc<Notify>,
    writable: Arc<Notify>,
    /// Dropping it resets the connection.
    abort: AtomicBool,
    /// Keeps the encrypted tunnel that it is in.
    claim: Option<Claim>,
}

impl Connection {
    /// Starts to connect.
    pub(super) fn start(
        shared: &Arc<Shared>,
        local: SocketAddr,
        peer: SocketAddr,
        options: TcpOptions,
        claim: Option<Claim>,
    ) -> io::Result<Self> {
        let started: io::Result<Self> = shared.with(|state| {
            state.check_up()?;
            let handle = state
                .stack
                .tcp_connect(Instant::now(), local, peer, options)
                .map_err(|error| super::connect_error(error, local, peer))?;
            Ok(Self::adopt(shared, state, handle, peer))
        });
        let mut connection = started?;
        connection.claim = claim;
        Ok(connection)
    }

    /// Takes over a handle of the stack.
    pub(super) fn adopt(
        shared: &Arc<Shared>,
        state: &mut State,
        handle: TcpHandle,
        peer: SocketAddr,
    ) -> Self {
        let stream = state.streams.entry(handle).or_default();
        Self {
            shared: Arc::clone(shared),
            handle,
            // Held, so the stack knows it.
            local: state.stack.tcp_local_addr(handle).unwrap_or(peer),
            peer,
            readable: stream.readable.many(),
            writable: stream.writable.many(),
            abort: AtomicBool::new(false),
            claim: None,
        }
    }

    /// Waits until the connection is open.
    pub(super) async fn connected(&self) -> io::Result<()> {
        loop {
            let mut news = pin!(self.writable.notified());
            news.as_mut().enable();
            {
                let mut state = self.shared.lock();
                match state.stack.tcp_send(Instant::now(), self.handle, &[]) {
                    Err(failure) => return Err(state.failed(self.handle, failure)),
                    Ok(_) if !state.is_opening(self.handle) => return Ok(()),
                    Ok(_) => state.check_up()?,
                }
            }
            news.await;
        }
    }

    pub(super) const fn local(&self) -> SocketAddr {
        self.local
    }

    pub(super) const fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Reads what is there; [`io::ErrorKind::WouldBlock`] if nothing is.
    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        self.shared.with(|state| state.read(self.handle, buffer))
    }

    pub(super) fn try_write(&self, data: &[u8]) -> io::Result<usize> {
        self.shared.with(|state| state.write(self.handle, data))
    }

    pub(super) fn try_write_vectored(&self, data: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.shared
            .with(|state| state.write_vectored(self.handle, data))
    }

    pub(super) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if buffer.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.poll(cx, Interest::READABLE, |state| {
            state.read(self.handle, buffer)
        })
    }

    pub(super) fn poll_peek(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.poll(cx, Interest::READABLE, |state| {
            state.peek(self.handle, buffer)
        })
    }

    pub(super) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll(cx, Interest::WRITABLE, |state| {
            state.write_vectored(self.handle, data)
        })
    }

    /// Waits until reading (or writing) would not block.
    pub(super) fn poll_ready(
        &self,
        cx: &mut Context<'_>,
        interest: Interest,
    ) -> Poll<io::Result<()>> {
        self.poll(cx, interest, |state| {
            let ready = state.ready(self.handle, interest)?;
            if ready.is_empty() {
                Err(SocketError::WouldBlock.into())
            } else {
                Ok(())
            }
        })
    }

    /// Tries something, and registers this task if it would block.
    fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        interest: Interest,
        work: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        let coop = ready!(poll_proceed(cx));
        let (result, former) = self.shared.with(|state| {
            let result = work(state);
            if !would_block(&result) {
                return (Poll::Ready(result), None);
            }
            let stream = state.streams.get_mut(&self.handle);
            let waiters = stream.map(|stream| {
                if interest.is_readable() {
                    &mut stream.readable
                } else {
                    &mut stream.writable
                }
            });
            let former = waiters.and_then(|waiters| waiters.register(cx));
            (Poll::Pending, former)
        });
        drop(former);
        if result.is_ready() {
            coop.made_progress();
        }
        result
    }

    /// Waits until one of these is possible. Any number of tasks may wait.
    pub(super) async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        loop {
            let mut readable = pin!(self.readable.notified());
            let mut writable = pin!(self.writable.notified());
            // Registered before looking, so that nothing happens unseen in between.
            if interest.is_readable() {
                readable.as_mut().enable();
            }
            if interest.is_writable() {
                writable.as_mut().enable();
            }
            let ready = self.shared.lock().ready(self.handle, interest)?;
            if !ready.is_empty() {
                return Ok(ready);
            }
            tokio::select! {
                () = readable, if interest.is_readable() => {}
                () = writable, if interest.is_writable() => {}
            }
        }
    }

    /// Waits until there is something to peek at.
    pub(super) async fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut news = pin!(self.readable.notified());
            news.as_mut().enable();
            let peeked = self.shared.lock().peek(self.handle, buffer);
            if !would_block(&peeked) {
                return peeked;
            }
            news.await;
        }
    }

    /// Shuts down our end.
    pub(super) fn shutdown(&self) -> io::Result<()> {
        self.shared.with(|state| {
            state.check_up()?;
            match state.stack.tcp_shutdown(Instant::now(), self.handle) {
                Ok(()) => Ok(()),
                Err(failure) => Err(state.failed(self.handle, failure)),
            }
        })
    }

    /// The failure, unless its owner knows it.
    pub(super) fn take_error(&self) -> Option<io::Error> {
        let mut state = self.shared.lock();
        if state.streams.get(&self.handle).is_none_or(|it| it.told) {
            return None;
        }
        match state.stack.tcp_send(Instant::now(), self.handle, &[]) {
            Ok(_) | Err(tsc_eip::TcpError::ShutDown) => None,
            Err(failure) => Some(state.failed(self.handle, failure)),
        }
    }

    /// Whether [`Self::take_error`] has something.
    pub(super) fn has_error(&self) -> bool {
        let mut state = self.shared.lock();
        if state.streams.get(&self.handle).is_none_or(|it| it.told) {
            return false;
        }
        let sent = state.stack.tcp_send(Instant::now(), self.handle, &[]);
        !matches!(sent, Ok(_) | Err(tsc_eip::TcpError::ShutDown))
    }

    pub(super) fn options(&self) -> io::Result<TcpOptions> {
        let options = self.shared.lock().stack.tcp_options(self.handle);
        options.ok_or_else(|| SocketError::NotConnected.into())
    }

    pub(super) fn change_options(&self, change: impl FnOnce(&mut TcpOptions)) -> io::Result<()> {
        self.shared.with(|state| {
            let options = state.stack.tcp_options(self.handle);
            let mut options = options.ok_or(SocketError::NotConnected)?;
            change(&mut options);
            let now = Instant::now();
            state.stack.tcp_set_options(now, self.handle, options);
            Ok(())
        })
    }

    pub(super) fn linger(&self) -> Option<Duration> {
        self.abort.load(Ordering::Relaxed).then_some(Duration::ZERO)
    }

    pub(super) fn set_abort(&self, abort: bool) {
        self.abort.store(abort, Ordering::Relaxed);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let waiters = self.shared.with(|state| {
            let now = Instant::now();
            if self.abort.load(Ordering::Relaxed) {
                state.stack.tcp_abort(now, self.handle);
            } else {
                state.stack.tcp_close(now, self.handle);
            }
            state.streams.remove(&self.handle)
        });
        drop(waiters);
    }
}

pub(super) fn would_block<T>(result: &io::Result<T>) -> bool {
    matches!(result, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

impl State {
    /// What is not there yet is [`SocketError::WouldBlock`], unless nothing comes any more.
    fn blocked_or_over(&self) -> io::Error {
        match self.check_up() {
            Ok(()) => SocketError::WouldBlock.into(),
            Err(over) => over.into(),
        }
    }

    /// Notes that the owner is told of a failure.
    fn failed(&mut self, handle: TcpHandle, failure: tsc_eip::TcpError) -> io::Error {
        if let Some(stream) = self.streams.get_mut(&handle) {
            stream.told = true;
        }
        error(failure).into()
    }

    fn is_opening(&self, handle: TcpHandle) -> bool {
        matches!(
            self.stack.tcp_state(handle),
            Some(TcpState::SynSent | TcpState::SynReceived)
        )
    }

    fn read(&mut self, handle: TcpHandle, buffer: &mut [u8]) -> io::Result<usize> {
        match self.stack.tcp_recv(Instant::now(), handle, buffer) {
            Ok(Some(read)) => Ok(read),
            Ok(None) => Err(self.blocked_or_over()),
            Err(failure) => Err(self.failed(handle, failure)),
        }
    }

    fn peek(&mut self, handle: TcpHandle, buffer: &mut [u8]) -> io::Result<usize> {
        match self.stack.tcp_peek(handle, buffer) {
            Ok(Some(read)) => Ok(read),
            // The stack tells of data after it was *read* empty.
            Ok(None) => self.read(handle, &mut []),
            Err(failure) => Err(self.failed(handle, failure)),
        }
    }

    fn write(&mut self, handle: TcpHandle, data: &[u8]) -> io::Result<usize> {
        self.check_up()?;
        match self.stack.tcp_send(Instant::now(), handle, data) {
            Ok(0) if !data.is_empty() => Err(SocketError::WouldBlock.into()),
            Ok(written) => Ok(written),
            // As with a kernel: the failure once, from then on that the pipe is broken.
            Err(_) if self.streams.get(&handle).is_some_and(|it| it.told) => {
                Err(SocketError::BrokenPipe.into())
            }
            Err(tsc_eip::TcpError::ShutDown) => Err(SocketError::BrokenPipe.into()),
            Err(failure) => Err(self.failed(handle, failure)),
        }
    }

    fn write_vectored(&mut self, handle: TcpHandle, data: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let mut written = 0;
        for data in data.iter().filter(|data| !data.is_empty()) {
            match self.write(handle, data) {
                Ok(taken) => {
                    written += taken;
                    if taken < data.len() {
                        break;
                    }
                }
                // What was taken is told first.
                Err(_) if written > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }

    /// What would not block. Both after a failure, which the call itself then tells.
    fn ready(&mut self, handle: TcpHandle, interest: Interest) -> io::Result<Ready> {
        let mut ready = Ready::EMPTY;
        if interest.is_readable() {
            // Reads nothing, and makes the stack tell of what comes.
            match self.stack.tcp_recv(Instant::now(), handle, &mut []) {
                Ok(Some(_)) | Err(_) => ready |= Ready::READABLE,
                Ok(None) => self.check_up()?,
            }
        }
        if interest.is_writable() {
            self.check_up()?;
            let room = self.stack.tcp_send_capacity(handle);
            // Without room it takes nothing, and makes the stack tell when there is some.
            if room.is_some_and(|room| room > 0)
                || self.stack.tcp_send(Instant::now(), handle, &[0]).is_err()
            {
                ready |= Ready::WRITABLE;
            }
        }
        Ok(ready)
    }
}
