//! The listener itself.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    ops::AddAssign,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use socket2::Type;
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinError, JoinSet},
    time::{Sleep, sleep},
};
use tracing::{debug, info, warn};

use super::{
    Admission, ListenerConfig, RefusalReason,
    establish::{Terms, establish},
    log::LogLimit,
};
use crate::{
    socket::{BindError, SourcePrefix, StreamOptions, bound},
    stream::StreamTransport,
};

/// Connections accepted per poll before others get their turn.
const ACCEPTS_PER_POLL: usize = 32;

/// Pause after an error of `accept` itself, such as too few descriptors: trying again at once would only spin. The
/// connections wait in the kernel's backlog.
const BACK_OFF: Duration = Duration::from_millis(100);

/// What a listener reports.
#[derive(Debug)]
#[non_exhaustive]
pub enum ListenerEvent {
    /// A connection is ready; under TLS its peer is verified. Nothing it has sent is lost.
    Ready(StreamTransport),
    /// A connection was refused; it is closed already.
    Refused(Refusal),
    /// The operating system could not accept; the listener tries again in a moment.
    AcceptFailed(io::Error),
}

/// A connection that did not become a transport.
#[derive(Debug)]
pub struct Refusal {
    /// Who it was.
    pub peer: SocketAddr,
    /// Why.
    pub reason: RefusalReason,
}

/// Counters since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListenerStats {
    /// Connections accepted from the kernel.
    pub accepted: u64,
    /// Ready without TLS.
    pub plain: u64,
    /// Ready with TLS.
    pub tls: u64,
    /// Refused by the admission hook.
    pub not_admitted: u64,
    /// Refused by the cap per source.
    pub source_limit: u64,
    /// Evicted by the cap on all.
    pub evicted: u64,
    /// Not ready in time.
    pub timeout: u64,
    /// Closed before the first byte.
    pub silent: u64,
    /// Unknown first byte, or a kind that is not enabled.
    pub wrong_protocol: u64,
    /// TLS handshakes that failed.
    pub tls_failed: u64,
    /// Connections that failed, or internal failures.
    pub failed: u64,
    /// Errors of `accept` itself.
    pub accept_errors: u64,
}

impl AddAssign for ListenerStats {
    /// The counters of several listeners in one.
    fn add_assign(&mut self, other: Self) {
        let Self {
            accepted,
            plain,
            tls,
            not_admitted,
            source_limit,
            evicted,
            timeout,
            silent,
            wrong_protocol,
            tls_failed,
            failed,
            accept_errors,
        } = other;
        self.accepted += accepted;
        self.plain += plain;
        self.tls += tls;
        self.not_admitted += not_admitted;
        self.source_limit += source_limit;
        self.evicted += evicted;
        self.timeout += timeout;
        self.silent += silent;
        self.wrong_protocol += wrong_protocol;
        self.tls_failed += tls_failed;
        self.failed += failed;
        self.accept_errors += accept_errors;
    }
}

/// A TCP port. See the module.
pub struct StreamListener {
    socket: TcpListener,
    local: SocketAddr,
    terms: Terms,
    admission: Option<Admission>,
    max_handshakes: usize,
    max_per_source: usize,
    /// Connections that are not ready; at most `max_handshakes`.
    tasks: JoinSet<(u64, Result<StreamTransport, RefusalReason>)>,
    /// The same by order of arrival.
    pending: BTreeMap<u64, Pending>,
    next: u64,
    /// Counts of `pending`, zeros left out.
    sources: BTreeMap<SourcePrefix, usize>,
    /// Refusals not yet reported; each accepted connection adds two at most before they are drained.
    events: VecDeque<ListenerEvent>,
    back_off: Option<Pin<Box<Sleep>>>,
    stats: ListenerStats,
    log: LogLimit,
}

struct Pending {
    task: AbortHandle,
    peer: SocketAddr,
}

impl StreamListener {
    /// Opens the port. Must be called, and the listener polled, within a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// The address cannot be used, or nothing is enabled.
    pub fn bind(address: SocketAddr, config: ListenerConfig) -> Result<Self, BindError> {
        if !config.plain && config.tls.is_none() {
            return Err(BindError::NothingEnabled { address });
        }
        let fail = |error| BindError::new(address, error);
        let socket = bound(Type::STREAM, address, config.sharing).map_err(fail)?;
        socket.listen(i32::from(config.backlog)).map_err(fail)?;
        let socket = TcpListener::from_std(socket.into()).map_err(fail)?;
        Ok(Self {
            local: socket.local_addr().map_err(fail)?,
            socket,
            terms: Terms {
                plain: config.plain,
                tls: config.tls,
                deadline: config.handshake_timeout,
                stream: StreamOptions {
                    accepted: true,
                    ..config.stream
                },
            },
            admission: config.admission,
            max_handshakes: config.max_handshakes.max(1),
            max_per_source: config.max_handshakes_per_source.max(1),
            tasks: JoinSet::new(),
            pending: BTreeMap::new(),
            next: 0,
            sources: BTreeMap::new(),
            events: VecDeque::new(),
            back_off: None,
            stats: ListenerStats::default(),
            log: LogLimit::new(Instant::now()),
        })
    }

    /// The address, with the port that the system chose if 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Whether small writes of connections that are accepted from now on go out at once (`TCP_NODELAY`).
    pub fn set_nodelay(&mut self, nodelay: bool) {
        self.terms.stream.nodelay = nodelay;
    }

    /// Counters since the start.
    #[must_use]
    pub fn stats(&self) -> ListenerStats {
        self.stats
    }

    /// Connections that are accepted and not ready.
    #[must_use]
    pub fn handshakes(&self) -> usize {
        self.pending.len()
    }

    /// The next connection or refusal. Never ends.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<ListenerEvent> {
        let mut budget = ACCEPTS_PER_POLL;
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(event);
            }
            if let Poll::Ready(Some(done)) = self.tasks.poll_join_next(cx) {
                self.finish(done);
                continue;
            }
            if budget == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            budget -= 1;
            // A new task must be polled for once, so that its end wakes us.
            if self.poll_one(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// [`Self::poll_accept`] as a future; dropping it loses nothing.
    pub async fn accept(&mut self) -> ListenerEvent {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// Accepts one connection, or reports why not.
    fn poll_one(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(pause) = &mut self.back_off {
            if pause.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.back_off = None;
        }
        match self.socket.poll_accept(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok((socket, peer))) => {
                self.stats.accepted += 1;
                self.admit(socket, peer);
                Poll::Ready(())
            }
            // The peer was gone before we came to it.
            Poll::Ready(Err(error)) if is_of_the_connection(&error) => {
                self.stats.failed += 1;
                Poll::Ready(())
            }
            Poll::Ready(Err(error)) => {
                self.stats.accept_errors += 1;
                self.back_off = Some(Box::pin(sleep(BACK_OFF)));
                if let Some(missed) = self.log.allow(Instant::now()) {
                    warn!(event = "accept-failed", local = %self.local, %error, missed);
                }
                self.events.push_back(ListenerEvent::AcceptFailed(error));
                Poll::Ready(())
            }
        }
    }

    fn admit(&mut self, socket: TcpStream, peer: SocketAddr) {
        if self.admission.as_mut().is_some_and(|a| !a.admits(peer)) {
            return self.refuse(peer, RefusalReason::NotAdmitted);
        }
        let source = SourcePrefix::of(peer.ip());
        if self.sources.get(&source).copied().unwrap_or(0) >= self.max_per_source {
            return self.refuse(peer, RefusalReason::SourceLimit);
        }
        if self.pending.len() >= self.max_handshakes
            && let Some((_, oldest)) = self.pending.pop_first()
        {
            oldest.task.abort();
            self.forget(oldest.peer);
            self.refuse(oldest.peer, RefusalReason::Evicted);
        }
        let number = self.next;
        self.next += 1;
        let terms = self.terms.clone();
        let task = self
            .tasks
            .spawn(async move { (number, establish(socket, terms).await) });
        self.pending.insert(number, Pending { task, peer });
        *self.sources.entry(source).or_insert(0) += 1;
    }

    /// A task has ended.
    fn finish(&mut self, done: Result<(u64, Result<StreamTransport, RefusalReason>), JoinError>) {
        match done {
            Ok((number, result)) => {
                // Evicted at the last moment: it was reported as such.
                let Some(pending) = self.pending.remove(&number) else {
                    return;
                };
                self.forget(pending.peer);
                match result {
                    Ok(stream) => {
                        if stream.tls_info().is_some() {
                            self.stats.tls += 1;
                        } else {
                            self.stats.plain += 1;
                        }
                        self.events.push_back(ListenerEvent::Ready(stream));
                    }
                    Err(reason) => self.refuse(pending.peer, reason),
                }
            }
            // Aborted tasks were evicted and reported; anything else must not leave its entry behind.
            Err(error) if error.is_cancelled() => {}
            Err(error) => {
                let id = error.id();
                let number = self
                    .pending
                    .iter()
                    .find_map(|(number, p)| (p.task.id() == id).then_some(*number));
                if let Some(pending) = number.and_then(|number| self.pending.remove(&number)) {
                    self.forget(pending.peer);
                    self.refuse(pending.peer, RefusalReason::Internal);
                }
            }
        }
    }

    fn forget(&mut self, peer: SocketAddr) {
        let source = SourcePrefix::of(peer.ip());
        if let Some(count) = self.sources.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.sources.remove(&source);
            }
        }
    }

    fn refuse(&mut self, peer: SocketAddr, reason: RefusalReason) {
        let stats = &mut self.stats;
        let counter = match &reason {
            RefusalReason::NotAdmitted => &mut stats.not_admitted,
            RefusalReason::SourceLimit => &mut stats.source_limit,
            RefusalReason::Evicted => &mut stats.evicted,
            RefusalReason::Timeout => &mut stats.timeout,
            RefusalReason::Silent => &mut stats.silent,
            RefusalReason::FirstByte(_)
            | RefusalReason::PlainDisabled
            | RefusalReason::TlsDisabled => &mut stats.wrong_protocol,
            RefusalReason::Tls(_) => &mut stats.tls_failed,
            RefusalReason::Io(_) | RefusalReason::Internal => &mut stats.failed,
        };
        *counter += 1;
        match self.log.allow(Instant::now()) {
            Some(missed) => {
                info!(event = "connection-refused", local = %self.local, %peer, %reason, missed);
            }
            None => debug!(event = "connection-refused", local = %self.local, %peer, %reason),
        }
        self.events
            .push_back(ListenerEvent::Refused(Refusal { peer, reason }));
    }
}

impl fmt::Debug for StreamListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamListener")
            .field("local", &self.local)
            .field("handshakes", &self.pending.len())
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

/// accept(2): errors of the new connection are passed on by `accept`; they say nothing about the listener.
fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::PermissionDenied
    )
}
