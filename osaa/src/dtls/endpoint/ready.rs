//! Which associations were woken by their backend's background work.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

use super::AssociationKey;

/// Associations to look at, each at most once: bounded by their number.
#[derive(Default)]
pub(super) struct ReadyQueue {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    woken: Vec<Arc<AssociationWaker>>,
    driver: Option<Waker>,
}

struct AssociationWaker {
    key: AssociationKey,
    queued: AtomicBool,
    queue: Arc<ReadyQueue>,
}

impl ReadyQueue {
    pub(super) fn waker(self: &Arc<Self>, key: AssociationKey) -> Waker {
        Arc::new(AssociationWaker {
            key,
            queued: AtomicBool::new(false),
            queue: Arc::clone(self),
        })
        .into()
    }

    pub(super) fn set_driver(&self, waker: &Waker) {
        let mut state = self.lock();
        match &mut state.driver {
            Some(driver) => driver.clone_from(waker),
            None => state.driver = Some(waker.clone()),
        }
    }

    pub(super) fn pop(&self) -> Option<AssociationKey> {
        let woken = self.lock().woken.pop()?;
        // Cleared before the association is looked at, so that a later wake is not lost.
        woken.queued.store(false, Ordering::Release);
        Some(woken.key)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for AssociationWaker {
    fn wake(self: Arc<Self>) {
        Self::wake_by_ref(&self);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let driver = {
            let mut state = self.queue.lock();
            state.woken.push(Arc::clone(self));
            state.driver.clone()
        };
        if let Some(driver) = driver {
            driver.wake();
        }
    }
}
