//! One tunnel, as its handle knows it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
    task::AbortHandle,
};
use tsc_tapi::{
    CloseError, Coded as _, ConnectError, ErrorCode, Notifications, Tunnel as Inner, TunnelBuilder,
    TunnelConfig,
};

use crate::{
    callbacks::{Callbacks, is_thread_of},
    errno::{Errno, Result},
    notify,
    sockets::Sockets,
};

/// How long a release may take.
pub(crate) const RELEASE: Duration = Duration::from_secs(2);

/// Why something was refused or has ended, for `tsc_last_error`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: ErrorCode,
    pub(crate) text: String,
}

impl Failure {
    pub(crate) fn new(code: ErrorCode, text: impl ToString) -> Self {
        Self {
            code,
            text: text.to_string(),
        }
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        Self::new(error.code(), error)
    }
}

/// How far the tunnel has come.
#[derive(Clone, Debug)]
pub(crate) enum Progress {
    Opening,
    /// It is up, or has been.
    Up,
    /// It was never up.
    Failed(Failure),
    Deleted,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Tunnel {
    id: u32,
    runtime: Handle,
    progress: watch::Sender<Progress>,
    inner: Mutex<Option<Inner>>,
    connecting: Mutex<Option<AbortHandle>>,
    pub(crate) callbacks: Arc<Callbacks>,
    pub(crate) stop: Notify,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Tunnel {
    /// Begins to open a tunnel.
    pub(crate) fn open(
        id: u32,
        runtime: &Handle,
        builder: TunnelBuilder,
        sockets: &Arc<Sockets>,
    ) -> Result<Arc<Self>> {
        let tunnel = Arc::new(Self {
            id,
            runtime: runtime.clone(),
            progress: watch::Sender::new(Progress::Opening),
            inner: Mutex::default(),
            connecting: Mutex::default(),
            callbacks: Callbacks::new(id),
            stop: Notify::new(),
            thread: Mutex::default(),
        });
        let notifications: Notifications = builder.notifications();
        let thread = notify::start(&tunnel, notifications, Arc::clone(sockets))?;
        *lock(&tunnel.thread) = Some(thread);
        let opening = Arc::clone(&tunnel);
        let task = runtime.spawn(async move {
            let connected = builder.connect().await;
            opening.connected(connected);
        });
        *lock(&tunnel.connecting) = Some(task.abort_handle());
        Ok(tunnel)
    }

    fn connected(&self, connected: std::result::Result<Inner, ConnectError>) {
        // Decided under the lock, so that one that is being deleted does not come back.
        let mut inner = lock(&self.inner);
        self.progress.send_if_modified(|progress| {
            if !matches!(progress, Progress::Opening) {
                return false;
            }
            *progress = match connected {
                Ok(tunnel) => {
                    *inner = Some(tunnel);
                    Progress::Up
                }
                Err(error) => Progress::Failed(error.into()),
            };
            true
        });
    }

    pub(crate) const fn id(&self) -> u32 {
        self.id
    }

    pub(crate) const fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Uses the tunnel; `ENETDOWN` before it is up and once it is deleted.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&Inner) -> T) -> Result<T> {
        lock(&self.inner).as_ref().map(work).ok_or(Errno::NET_DOWN)
    }

    /// Whether it has ended, or was deleted.
    pub(crate) fn is_over(&self) -> bool {
        self.with(|tunnel| tunnel.down_reason().is_some())
            .unwrap_or(true)
    }

    /// What was assigned, or why nothing is.
    pub(crate) fn config(&self) -> std::result::Result<Arc<TunnelConfig>, Failure> {
        match self.with(Inner::config) {
            Ok(config) => Ok(config),
            Err(_) => Err(self.missing()),
        }
    }

    /// Why there is no tunnel to use.
    pub(crate) fn missing(&self) -> Failure {
        match &*self.progress.borrow() {
            Progress::Opening => Failure::new(ErrorCode::NotLogged, "the tunnel is not up yet"),
            Progress::Failed(failure) => failure.clone(),
            Progress::Up | Progress::Deleted => {
                Failure::new(ErrorCode::Error, "the tunnel was deleted")
            }
        }
    }

    /// Why it was never up, once that is decided.
    pub(crate) fn failure(&self) -> Option<Failure> {
        let _ = self.wait(None);
        match &*self.progress.borrow() {
            Progress::Failed(failure) => Some(failure.clone()),
            Progress::Opening | Progress::Up | Progress::Deleted => None,
        }
    }

    /// Waits until the tunnel is up or over; `None` is for ever.
    pub(crate) fn wait(&self, limit: Option<Duration>) -> std::result::Result<(), Failure> {
        let mut progress = self.progress.subscribe();
        self.runtime.block_on(async {
            let decided = progress.wait_for(|progress| !matches!(progress, Progress::Opening));
            match limit {
                // Cut short it is `Opening` still.
                Some(limit) => drop(tokio::time::timeout(limit, decided).await),
                None => drop(decided.await),
            }
        });
        match self.with(Inner::down_reason) {
            Ok(None) => Ok(()),
            Ok(Some(reason)) => Err(Failure::new(reason.code(), reason)),
            Err(_) => Err(self.missing()),
        }
    }

    /// Releases it, and ends its thread; that one cannot be waited for by itself.
    pub(crate) fn delete(&self) -> std::result::Result<(), Failure> {
        let inner = {
            let mut inner = lock(&self.inner);
            self.progress.send_replace(Progress::Deleted);
            inner.take()
        };
        if let Some(connecting) = lock(&self.connecting).take() {
            connecting.abort();
        }
        let own_thread = is_thread_of(self.id);
        if own_thread {
            self.callbacks.close();
        }
        let released = match inner.map(|inner| self.runtime.block_on(inner.close(RELEASE))) {
            Some(Err(error @ CloseError::NotConfirmed)) => Err(Failure::new(error.code(), error)),
            // Over already is deleted as well.
            _ => Ok(()),
        };
        self.stop.notify_one();
        if !own_thread && let Some(thread) = self.take_thread() {
            // A panic of it was printed; nothing of ours is left to it.
            drop(thread.join());
            self.callbacks.close();
        }
        released
    }

    /// The thread of the callbacks, if nobody waits for its end yet.
    pub(crate) fn take_thread(&self) -> Option<JoinHandle<()>> {
        lock(&self.thread).take()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
