//! The object that everything belongs to.

use std::{
    sync::{Arc, Mutex, Weak, mpsc::RecvTimeoutError},
    time::{Duration, Instant},
};

use crate::{
    engine::{Ended, Engine, is_listener_thread, lock},
    error::{Result, TscError},
    event::TunnelListener,
    settings::TunnelSettings,
    tunnel::{Core, Tunnel},
};

/// Tunnels of a client that are not released, at most.
const MAX_TUNNELS: usize = 64;
/// How long releases take unless another time is given.
pub(crate) const RELEASE: Duration = Duration::from_secs(2);

/// Opens tunnels. An application has one, mostly: with it go two threads that drive its tunnels, and nothing of the library is left
/// once it and they are released.
///
/// All calls of all objects may be made by any thread at any time. Those that wait do so in the caller's thread, with a limit, and return
/// at once (`Released`) when what they wait for is released by another thread.
#[derive(Debug, uniffi::Object)]
pub struct Client {
    state: Mutex<Option<State>>,
    ended: Mutex<Ended>,
}

#[derive(Debug)]
struct State {
    engine: Arc<Engine>,
    tunnels: Vec<Weak<Core>>,
}

#[uniffi::export]
impl Client {
    /// Starts the threads.
    #[uniffi::constructor]
    pub fn new() -> Result<Arc<Self>> {
        let (engine, ended) = Engine::start()?;
        let state = State {
            engine,
            tunnels: Vec::new(),
        };
        Ok(Arc::new(Self {
            state: Mutex::new(Some(state)),
            ended: Mutex::new(ended),
        }))
    }

    /// Begins to open a tunnel, and returns at once: `Tunnel.wait_until_up` waits for it, and the listener is told. It fails at once where
    /// the settings cannot be used.
    #[uniffi::method(default(listener = None))]
    pub fn open(
        &self,
        settings: TunnelSettings,
        listener: Option<Arc<dyn TunnelListener>>,
    ) -> Result<Arc<Tunnel>> {
        let builder = settings.builder()?;
        let mut state = lock(&self.state);
        let state = state.as_mut().ok_or(TscError::Released)?;
        state
            .tunnels
            .retain(|tunnel| tunnel.upgrade().is_some_and(|tunnel| !tunnel.is_released()));
        if state.tunnels.len() >= MAX_TUNNELS {
            let text = format!("a client has {MAX_TUNNELS} tunnels at most");
            return Err(TscError::Exhausted(text));
        }
        let core = Core::open(&state.engine, builder, listener)?;
        state.tunnels.push(Arc::downgrade(&core));
        Ok(Tunnel::of(core))
    }

    /// Releases all tunnels, and ends the threads. Waits for that at most so long (two seconds unless given); it is done in any
    /// case. A listener that does not return keeps its thread. Releasing twice does no harm.
    #[uniffi::method(default(timeout = None))]
    pub fn release(&self, timeout: Option<Duration>) -> Result<()> {
        let limit = timeout.unwrap_or(RELEASE);
        let begun = Instant::now();
        let mut outcome = Ok(());
        // Whoever comes later waits as well.
        let state = lock(&self.state).take();
        if let Some(State { engine, tunnels }) = state {
            let tunnels: Vec<_> = tunnels.iter().filter_map(Weak::upgrade).collect();
            // All are told before any is waited for.
            let releases: Vec<_> = tunnels
                .iter()
                .map(|tunnel| tunnel.begin_release())
                .collect();
            for release in releases.into_iter().flatten() {
                let released = release.wait(limit.saturating_sub(begun.elapsed()));
                outcome = outcome.and(released);
            }
            drop(engine);
        }
        if is_listener_thread() {
            return outcome;
        }
        // Nothing is ever sent: it ends when the last thread has let go.
        let rest = limit.saturating_sub(begun.elapsed());
        match lock(&self.ended).recv_timeout(rest) {
            Err(RecvTimeoutError::Timeout) => {
                outcome.and_then(|()| Err(TscError::late("a listener has not returned")))
            }
            Ok(_) | Err(RecvTimeoutError::Disconnected) => outcome,
        }
    }
}
