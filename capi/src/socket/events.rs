//! Event descriptors: what `poll`, `epoll` and their like watch in place of a socket.

use std::{
    os::fd::{AsFd as _, AsRawFd as _, RawFd},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::{sync::Notify, task::JoinHandle};

use super::{Direction, Socket, lock};
use crate::errno::{Errno, Result};

/// The descriptor of one direction, which is there once it was asked for.
#[derive(Debug, Default)]
pub(super) struct Events {
    is_watched: AtomicBool,
    watch: Mutex<Option<Watch>>,
    /// The descriptor is not raised any more: wait for the socket again.
    lowered: Notify,
}

#[derive(Debug)]
struct Watch {
    descriptor: EventFd,
    is_raised: bool,
    task: JoinHandle<()>,
}

impl Events {
    /// Corrects the descriptor after a call that may have left the socket not ready.
    pub(super) fn settle(&self, socket: &Socket, direction: Direction) {
        if !self.is_watched.load(Ordering::Acquire) {
            return;
        }
        let mut watch = lock(&self.watch);
        if let Some(watch) = watch.as_mut()
            && watch.is_raised
            && !socket.is_ready(direction)
        {
            // Nonblocking, and only read here: it holds something.
            let _ = watch.descriptor.read();
            watch.is_raised = false;
            self.lowered.notify_one();
        }
    }

    /// Raises the descriptor if the socket is ready still; what makes it not ready comes to [`Events::settle`] afterwards.
    fn raise(&self, socket: &Socket, direction: Direction) -> bool {
        let mut watch = lock(&self.watch);
        let Some(watch) = watch.as_mut() else {
            return false;
        };
        if !watch.is_raised && socket.is_ready(direction) {
            let _ = watch.descriptor.write(1);
            watch.is_raised = true;
        }
        watch.is_raised
    }

    /// Ends the watch, and waits for its task, which holds the socket.
    pub(super) fn close(&self, socket: &Socket) {
        // The task may wait for the lock.
        let watch = lock(&self.watch).take();
        if let Some(watch) = watch {
            watch.task.abort();
            // It was aborted.
            drop(socket.runtime.block_on(watch.task));
        }
    }
}

impl Socket {
    /// The descriptor that is readable as long as the socket is ready.
    pub(crate) fn descriptor(self: &Arc<Self>, direction: Direction) -> Result<RawFd> {
        let events = self.events(direction);
        let mut place = lock(&events.watch);
        if self.is_closed.load(Ordering::Acquire) {
            return Err(Errno::BAD);
        }
        if let Some(watch) = &*place {
            return Ok(watch.descriptor.as_fd().as_raw_fd());
        }
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let descriptor =
            EventFd::from_value_and_flags(0, flags).map_err(|error| Errno(error as i32))?;
        let number = descriptor.as_fd().as_raw_fd();
        let is_raised = self.is_ready(direction);
        if is_raised {
            let _ = descriptor.write(1);
        }
        let socket = Arc::clone(self);
        let task = self.runtime.spawn(async move {
            let events = socket.events(direction);
            loop {
                if events.raise(&socket, direction) {
                    events.lowered.notified().await;
                }
                if socket.ready(direction).await.is_err() {
                    return;
                }
            }
        });
        *place = Some(Watch {
            descriptor,
            is_raised,
            task,
        });
        events.is_watched.store(true, Ordering::Release);
        Ok(number)
    }
}
