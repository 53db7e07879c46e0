//! The state that a tunnel's driver shares with the handles that applications hold.
//!
//! One mutex, never held across an await or a system call. Sockets put packets straight into the inner stack's
//! transmit queue, and the driver is woken only if it sleeps: one wake-up for a burst, no channel hop per packet.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
    time::{Duration, Instant},
};

use tokio::sync::{Notify, broadcast, watch};
use tsc_csm::client::DownReason;
use tsc_eip::{Stack, UdpHandle};

use crate::notification::Notification;

/// What an application wants of the driver, besides sending packets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Release the tunnel, waiting at most so long for the server's answer.
    Release(Duration),
    /// The network has changed: check the transport at once.
    NetworkChanged,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Why the tunnel is over, once it is.
    pub(crate) down: watch::Sender<Option<DownReason>>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) stack: Stack,
    /// Bounded: at most one of each kind waits.
    commands: Vec<Command>,
    /// Packets were put into the stack since the driver looked.
    marked: bool,
    /// Present exactly while the driver sleeps.
    driver: Option<Waker>,
    /// Whom to wake when a socket is readable. As many as the stack has sockets.
    readers: HashMap<UdpHandle, Arc<Notify>>,
    /// To the readers of notifications; gone with the tunnel, so that they see the end.
    notifications: Option<broadcast::Sender<Notification>>,
    /// Why the tunnel is over, for its sockets.
    pub(crate) down: Option<DownReason>,
}

impl Shared {
    pub(crate) fn new(stack: Stack, notifications: broadcast::Sender<Notification>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                stack,
                commands: Vec::new(),
                marked: false,
                driver: None,
                readers: HashMap::new(),
                notifications: Some(notifications),
                down: None,
            }),
            down: watch::Sender::new(None),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic of another holder is its own problem: the state has no broken invariants between calls.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` on the state, then wakes the driver if it sleeps and `work` gave it something to do.
    pub(crate) fn with_driver<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let (result, waker) = {
            let mut state = self.lock();
            let result = work(&mut state);
            let waker = if state.has_work() {
                state.driver.take()
            } else {
                None
            };
            (result, waker)
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        result
    }

    /// Waits until the tunnel is over.
    pub(crate) async fn closed(&self) -> DownReason {
        match self
            .down
            .subscribe()
            .wait_for(Option::is_some)
            .await
            .as_deref()
        {
            Ok(Some(reason)) => reason.clone(),
            // Not reached: the sender lives in `self`, and the predicate asks for a value.
            _ => DownReason::Released { confirmed: false },
        }
    }

    /// Tells the readers of notifications.
    pub(crate) fn notify(&self, notification: Notification) {
        if let Some(notifications) = &self.lock().notifications {
            // No reader is fine.
            drop(notifications.send(notification));
        }
    }

    /// A reader of what happens from now on; at its end already if the tunnel is over.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Notification> {
        match &self.lock().notifications {
            Some(notifications) => notifications.subscribe(),
            None => broadcast::channel(1).1,
        }
    }

    /// Ends the tunnel for its sockets.
    pub(crate) fn end_sockets(&self, reason: &DownReason) {
        self.lock().end(reason);
    }

    /// Ends the tunnel for all who wait for it. The first reason stands.
    pub(crate) fn end(&self, reason: DownReason) {
        if self.down.borrow().is_some() {
            return;
        }
        let notifications = {
            let mut state = self.lock();
            state.end(&reason);
            state.notifications.take()
        };
        if let Some(notifications) = notifications {
            // No reader is fine.
            drop(notifications.send(Notification::Down(reason.clone())));
        }
        self.down.send_replace(Some(reason));
    }

    /// Gives the driver a command, unless one of its kind waits already.
    pub(crate) fn command(&self, command: Command) {
        self.with_driver(|state| {
            let same =
                |other: &Command| std::mem::discriminant(other) == std::mem::discriminant(&command);
            if !state.commands.iter().any(same) {
                state.commands.push(command);
            }
        });
    }
}

impl State {
    /// Says that there is something to send.
    pub(crate) const fn mark(&mut self) {
        self.marked = true;
    }

    const fn has_work(&self) -> bool {
        self.marked || !self.commands.is_empty()
    }

    /// Takes what the application wants; the driver looks after packets in the same turn.
    pub(crate) fn take_commands(&mut self) -> Vec<Command> {
        self.marked = false;
        std::mem::take(&mut self.commands)
    }

    /// Puts the driver to sleep, unless there is work for it.
    pub(crate) fn sleep(&mut self, waker: &Waker) -> bool {
        if self.has_work() {
            return false;
        }
        match &mut self.driver {
            Some(armed) => armed.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        true
    }

    pub(crate) fn add_reader(&mut self, socket: UdpHandle) -> Arc<Notify> {
        Arc::clone(self.readers.entry(socket).or_default())
    }

    pub(crate) fn remove_socket(&mut self, socket: UdpHandle) {
        self.readers.remove(&socket);
        self.stack.udp_close(socket);
    }

    /// Wakes the readers of all sockets for which the stack has news.
    pub(crate) fn wake_readers(&mut self) {
        while let Some(event) = self.stack.poll_event() {
            if let tsc_eip::Event::UdpReadable(socket) = event
                && let Some(reader) = self.readers.get(&socket)
            {
                reader.notify_waiters();
            }
        }
    }

    fn end(&mut self, reason: &DownReason) {
        if self.down.is_some() {
            return;
        }
        self.down = Some(reason.clone());
        for reader in self.readers.values() {
            reader.notify_waiters();
        }
    }

    /// Lets the stack's timers run; returns the next deadline.
    pub(crate) fn stack_timeout(&mut self, now: Instant) -> Option<Instant> {
        if self.stack.poll_timeout().is_some_and(|due| due <= now) {
            self.stack.handle_timeout(now);
        }
        self.stack.poll_timeout()
    }
}
