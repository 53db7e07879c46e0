//! Sockets of applications, which may be released by one thread while another waits for them.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::watch;

use crate::{
    engine::lock,
    error::{Result, TscError},
    tunnel::Core,
};

/// What all sockets have in common: something that can be released while it is waited for.
#[derive(Debug)]
pub(crate) struct Held<T> {
    pub(crate) core: Arc<Core>,
    held: Mutex<Option<Arc<T>>>,
    released: watch::Sender<bool>,
}

impl<T> Held<T> {
    pub(crate) fn new(core: Arc<Core>, held: T) -> Self {
        Self {
            core,
            held: Mutex::new(Some(Arc::new(held))),
            released: watch::Sender::new(false),
        }
    }

    pub(crate) fn get(&self) -> Result<Arc<T>> {
        if self.core.is_released() {
            return Err(TscError::Released);
        }
        lock(&self.held).clone().ok_or(TscError::Released)
    }

    /// Resolves when it is released.
    pub(crate) fn released(&self) -> impl Future<Output = ()> + Send + 'static + use<T> {
        is_true(self.released.subscribe())
    }

    /// Waits for something of it; given up when it is released.
    pub(crate) fn wait<O>(
        &self,
        limit: Option<Duration>,
        future: impl Future<Output = Result<O>>,
    ) -> Result<Option<O>> {
        let released = self.released();
        self.core.wait(limit, async {
            tokio::select! {
                biased;
                () = released => Err(TscError::Released),
                outcome = future => outcome,
            }
        })
    }

    pub(crate) fn release(&self) {
        self.released.send_replace(true);
        drop(lock(&self.held).take());
    }
}

/// Resolves when it is true, or nobody can say any more.
async fn is_true(mut flag: watch::Receiver<bool>) {
    let _ = flag.wait_for(|flag| *flag).await;
}
