//! The state that a tunnel's driver shares with the handles that applications hold.
//!
//! One mutex, never held across an await or a system call. Sockets put packets straight into the inner stack's
//! transmit queue, and the driver is woken only if it sleeps: one wake-up for a burst, no channel hop per packet.

use std::{
    collections::HashMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::Waker,
    time::{Duration, Instant},
};

use tokio::sync::{Notify, broadcast, watch};
use tsc_csm::client::DownReason;
use tsc_eip::{Event, Stack, TcpHandle, TcpListenHandle, UdpHandle};

use crate::{
    encryption::Encrypted,
    error::SocketError,
    notification::Notification,
    peers::PeerCounts,
    routed::Routed,
    services::Wishes,
    tcp::Stream,
    trace::Trace,
    tunnel::Activity,
    wakers::{Waiters, Wakes},
};

/// How long the end of a turn is waited for.
const LONGEST_TURN: Duration = Duration::from_secs(1);

/// What an application wants of the driver, besides sending packets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Release the tunnel, waiting at most so long for the server's answer.
    Release(Duration),
    /// The network has changed: check the transport at once.
    NetworkChanged,
    /// There is a network, or none.
    NetworkAvailable(bool),
    /// Nobody has a handle any more: release the tunnel in a while, if nobody has by then.
    Linger(Duration),
    /// Whether anybody looks at the application.
    Activity(Activity),
    /// Tell the end of this turn.
    Turn,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// What is captured of the tunnel.
    pub(crate) trace: Trace,
    /// Why the tunnel is over, once it is.
    pub(crate) down: watch::Sender<Option<DownReason>>,
    /// How many turns have ended that were asked for.
    turns: Mutex<u32>,
    turn_over: Condvar,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) stack: Stack,
    /// Who waits at the inner sockets. As many as the stack has sockets.
    readers: HashMap<UdpHandle, Waiters>,
    pub(crate) streams: HashMap<TcpHandle, Stream>,
    pub(crate) listeners: HashMap<TcpListenHandle, Waiters>,
    /// Packets of hosts behind this client.
    pub(crate) routed: Routed,
    /// What sockets want of the services.
    pub(crate) wishes: Wishes,
    /// Sockets that are to be encrypted.
    pub(crate) encrypted: Encrypted,
    /// What has gone without the server.
    pub(crate) peer_counts: PeerCounts,
    /// The next packet to send is one of those, if there is one.
    routed_next: bool,
    /// Bounded: at most one of each kind waits.
    commands: Vec<Command>,
    /// Something was given to the driver since it looked.
    marked: bool,
    /// The transport takes nothing, so that packets are no news to the driver: it looks after them when it does.
    pub(crate) blocked: bool,
    /// There is a transport.
    pub(crate) bound: bool,
    /// Present exactly while the driver sleeps.
    driver: Option<Waker>,
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
                readers: HashMap::new(),
                streams: HashMap::new(),
                listeners: HashMap::new(),
                routed: Routed::default(),
                wishes: Wishes::default(),
                encrypted: Encrypted::default(),
                peer_counts: PeerCounts::default(),
                routed_next: false,
                commands: Vec::new(),
                marked: false,
                blocked: false,
                bound: false,
                driver: None,
                notifications: Some(notifications),
                down: None,
            }),
            trace: Trace::default(),
            down: watch::Sender::new(None),
            turns: Mutex::new(0),
            turn_over: Condvar::new(),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic of another holder is its own problem: the state has no broken invariants between calls.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a socket's `work` on the state, then wakes those for whom it has news: the driver, if it sleeps and there
    /// is something to send or an earlier deadline, and the owners of other sockets.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let (result, wakes) = {
            let mut state = self.lock();
            let due = state.stack.poll_timeout();
            let result = work(&mut state);
            state.note_work(due);
            let mut wakes = state.news();
            if state.has_work()
                && let Some(driver) = state.driver.take()
            {
                wakes.push(driver);
            }
            (result, wakes)
        };
        wakes.wake();
        result
    }

    /// Runs the driver's `work` on the state, then wakes the owners of sockets for whom it has news.
    pub(crate) fn drive<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let (result, wakes) = {
            let mut state = self.lock();
            let result = work(&mut state);
            (result, state.news())
        };
        wakes.wake();
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

    /// Tells others from now on.
    pub(crate) fn hand_over(&self, notifications: broadcast::Sender<Notification>) {
        let mut state = self.lock();
        if state.notifications.is_some() {
            state.notifications = Some(notifications);
        }
    }

    /// Whether the tunnel has a transport.
    pub(crate) fn is_bound(&self) -> bool {
        self.lock().bound
    }

    /// Whether no socket of the tunnel is open.
    pub(crate) fn is_unused(&self) -> bool {
        let state = self.lock();
        state.readers.is_empty()
            && state.streams.is_empty()
            && state.listeners.is_empty()
            && !state.routed.is_claimed()
    }

    /// Ends the tunnel for its sockets.
    pub(crate) fn end_sockets(&self, reason: &DownReason) {
        let wakes = self.lock().end(reason);
        wakes.wake();
        self.end_turn();
    }

    /// Ends the tunnel for all who wait for it. The first reason stands.
    pub(crate) fn end(&self, reason: DownReason) {
        if self.down.borrow().is_some() {
            return;
        }
        let (wakes, notifications) = {
            let mut state = self.lock();
            (state.end(&reason), state.notifications.take())
        };
        wakes.wake();
        self.end_turn();
        if let Some(notifications) = notifications {
            // No reader is fine.
            drop(notifications.send(Notification::Down(reason.clone())));
        }
        self.down.send_replace(Some(reason));
    }

    /// Waits until the driver is done with what it had begun: whatever is on the wire by now has been recorded then, but the goodbyes of
    /// transports. Blocks, at most for [`LONGEST_TURN`], as nobody may be driving its runtime.
    pub(crate) fn turn(&self) {
        let turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *turns;
        self.command(Command::Turn);
        if self.over().is_none() {
            let is_open = |turns: &mut u32| *turns == before;
            // Late is as good as it gets.
            drop(
                self.turn_over
                    .wait_timeout_while(turns, LONGEST_TURN, is_open),
            );
        }
    }

    /// The other end of [`Self::turn`].
    pub(crate) fn end_turn(&self) {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        *turns = turns.wrapping_add(1);
        drop(turns);
        self.turn_over.notify_all();
    }

    /// Why the tunnel is over for its sockets; before [`Self::down`], which comes when all is done.
    pub(crate) fn over(&self) -> Option<DownReason> {
        self.lock().down.clone()
    }

    /// Gives the driver a command. Of one kind the last counts; of releases the first.
    pub(crate) fn command(&self, command: Command) {
        self.with(|state| {
            let same =
                |other: &Command| std::mem::discriminant(other) == std::mem::discriminant(&command);
            match state.commands.iter_mut().find(|other| same(other)) {
                Some(Command::Release(_)) => {}
                Some(other) => *other = command,
                None => state.commands.push(command),
            }
        });
    }
}

impl State {
    /// The error of all sockets once the tunnel is over.
    pub(crate) fn check_up(&self) -> Result<(), SocketError> {
        match &self.down {
            None => Ok(()),
            Some(reason) => Err(SocketError::TunnelDown(reason.clone())),
        }
    }

    /// Says that there is something for the driver.
    pub(crate) const fn mark(&mut self) {
        self.marked = true;
    }

    /// Finds out whether a socket's call, before which `due` was the stack's deadline, left the driver something to do.
    fn note_work(&mut self, due: Option<Instant>) {
        let earlier = match (self.stack.poll_timeout(), due) {
            (Some(now), Some(before)) => now < before,
            (Some(_), None) => true,
            (None, _) => false,
        };
        let packets = self.stack.wants_transmit() || self.routed.wants_transmit();
        self.marked |= earlier || (packets && !self.blocked);
    }

    const fn has_work(&self) -> bool {
        self.marked || !self.commands.is_empty() || !self.wishes.is_empty()
    }

    /// Takes what the application wants; the driver looks after packets in the same turn.
    pub(crate) fn take_commands(&mut self) -> Vec<Command> {
        self.marked = false;
        self.driver = None;
        std::mem::take(&mut self.commands)
    }

    /// Puts the driver to sleep, unless there is work for it.
    pub(crate) fn sleep(&mut self, waker: &Waker) -> bool {
        if self.has_work() {
            return false;
        }
        self.driver = Some(waker.clone());
        true
    }

    pub(crate) fn add_reader(&mut self, socket: UdpHandle) -> Arc<Notify> {
        self.readers.entry(socket).or_default().many()
    }

    pub(crate) fn remove_socket(&mut self, socket: UdpHandle) {
        self.readers.remove(&socket);
        self.stack.udp_close(socket);
    }

    /// The next packet for the network: of the inner sockets and of a gateway's hosts in turn.
    pub(crate) fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.routed_next = !self.routed_next;
        if self.routed_next
            && let Some(packet) = self.routed.poll_transmit()
        {
            return Some(packet);
        }
        let own = self.stack.poll_transmit();
        own.or_else(|| self.routed.poll_transmit())
    }

    /// Takes back the buffer of a packet that was sent.
    pub(crate) fn recycle(&mut self, buffer: Vec<u8>) {
        if let Some(buffer) = self.routed.recycle(buffer) {
            self.stack.recycle(buffer);
        }
    }

    /// Whether connections that nobody holds any more still deliver what was written. Peers that have everything and do
    /// not end their half are not waited for.
    pub(crate) fn is_delivering(&self) -> bool {
        self.stack.stats().gauges.tcp_delivering > 0
    }

    /// Those for whom the stack, or a gateway's queue, has news.
    fn news(&mut self) -> Wakes {
        let mut wakes = Wakes::default();
        while let Some(event) = self.stack.poll_event() {
            match event {
                Event::UdpReadable(socket) => {
                    if let Some(reader) = self.readers.get_mut(&socket) {
                        reader.wake(&mut wakes);
                    }
                }
                Event::MediaQuality(socket) => self.tell_quality(socket),
                Event::TcpAcceptable(listener) => {
                    if let Some(listener) = self.listeners.get_mut(&listener) {
                        listener.wake(&mut wakes);
                    }
                }
                Event::TcpConnected(stream) | Event::TcpWritable(stream) => {
                    if let Some(stream) = self.streams.get_mut(&stream) {
                        stream.writable.wake(&mut wakes);
                    }
                }
                Event::TcpReadable(stream) => {
                    if let Some(stream) = self.streams.get_mut(&stream) {
                        stream.readable.wake(&mut wakes);
                    }
                }
                Event::TcpFailed(stream, _) => {
                    if let Some(stream) = self.streams.get_mut(&stream) {
                        stream.wake(&mut wakes);
                    }
                }
                // A client's stack is not transparent.
                Event::TcpIncoming(_) | _ => {}
            }
        }
        self.routed.news(&mut wakes);
        wakes
    }

    fn tell_quality(&self, socket: UdpHandle) {
        let quality = self.stack.udp_media_quality(socket);
        let local = self.stack.udp_local_addr(socket);
        if let (Some(notifications), Some(quality), Some(socket)) =
            (&self.notifications, quality, local)
        {
            // No reader is fine.
            drop(notifications.send(Notification::MediaQuality { socket, quality }));
        }
    }

    fn end(&mut self, reason: &DownReason) -> Wakes {
        let mut wakes = Wakes::default();
        if self.down.is_some() {
            return wakes;
        }
        self.down = Some(reason.clone());
        for reader in self.readers.values_mut() {
            reader.wake(&mut wakes);
        }
        for stream in self.streams.values_mut() {
            stream.wake(&mut wakes);
        }
        for listener in self.listeners.values_mut() {
            listener.wake(&mut wakes);
        }
        self.routed.end(&mut wakes);
        self.end_encrypted();
        wakes
    }
}
