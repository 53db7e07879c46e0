//! What drives the tunnels of one client: a runtime that goes with the last that uses it.

use std::{
    cell::Cell,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::Duration,
};

use tokio::runtime::{Builder, Handle, Runtime};

use crate::error::{Result, TscError};

/// Threads that drive all tunnels of a client.
const WORKERS: usize = 2;
/// Timeouts that are given are cut to this: longer ones mean "for ever", and must not overflow a clock.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

thread_local! {
    static LISTENS: Cell<bool> = const { Cell::new(false) };
}

/// Disconnected when the engine has ended.
pub(crate) type Ended = mpsc::Receiver<Infallible>;

/// See the module. Held by clients and tunnels until they are released, by each call, and by the threads that call listeners; by
/// nothing that the runtime runs, which could not end itself.
#[derive(Debug)]
pub(crate) struct Engine {
    /// There until it is dropped.
    runtime: Option<Runtime>,
    handle: Handle,
    _alive: mpsc::Sender<Infallible>,
}

impl Engine {
    pub(crate) fn start() -> Result<(Arc<Self>, Ended)> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .thread_name("tsc")
            .enable_all()
            .build()?;
        let (alive, ended) = mpsc::channel();
        let engine = Self {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
            _alive: alive,
        };
        Ok((Arc::new(engine), ended))
    }

    pub(crate) const fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Waits in the caller's thread; `None` when that takes longer than it may.
    pub(crate) fn wait<F: Future>(&self, limit: Option<Duration>, future: F) -> Option<F::Output> {
        self.handle.block_on(async {
            match limit {
                Some(limit) => tokio::time::timeout(limit.min(LONGEST), future).await.ok(),
                None => Some(future.await),
            }
        })
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Also right where one must not wait, such as a collector of garbage.
            runtime.shutdown_background();
        }
    }
}

/// Starts a thread for an application's listener, which may take its time. It ends by itself, with what it tells of.
pub(crate) fn listen<L: Send + 'static>(
    name: &str,
    engine: Arc<Engine>,
    listener: L,
    work: impl FnOnce(&Engine, &L) + Send + 'static,
) -> Result<()> {
    let thread = thread::Builder::new().name(name.to_owned());
    let started = thread.spawn(move || {
        LISTENS.set(true);
        work(&engine, &listener);
        // In this order: whoever waits for the engine's end may then do away with the language that the listener is written in.
        drop(listener);
        drop(engine);
    });
    match started {
        Ok(_) => Ok(()),
        Err(error) => Err(TscError::Exhausted(format!("no thread: {error}"))),
    }
}

/// Whether this thread calls listeners, and cannot wait for its own end.
pub(crate) fn is_listener_thread() -> bool {
    LISTENS.get()
}

/// Locks what no panic can leave half done.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
