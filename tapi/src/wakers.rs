//! Who waits at a socket, and waking them.
//!
//! As with tokio's sockets, one task may wait by a `poll_` function in each direction (the last one to ask is the one
//! that is woken), and any number by async functions. Wakers run after the state is unlocked, since whoever is woken
//! wants the lock next.

use std::{
    sync::Arc,
    task::{Context, Waker},
};

use smallvec::SmallVec;
use tokio::sync::Notify;

/// Who waits for one thing at one socket.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    task: Option<Waker>,
    many: Arc<Notify>,
}

impl Waiters {
    /// The place for async functions: to be registered there before looking at the socket.
    pub(crate) fn many(&self) -> Arc<Notify> {
        Arc::clone(&self.many)
    }

    /// Makes this task the one that is woken; gives the one before. It must be dropped when the state is unlocked: with
    /// it may go a task, and with that a socket.
    #[must_use = "to be dropped without the lock"]
    pub(crate) fn register(&mut self, cx: &Context<'_>) -> Option<Waker> {
        match &self.task {
            Some(task) if task.will_wake(cx.waker()) => None,
            _ => self.task.replace(cx.waker().clone()),
        }
    }

    /// Moves all who wait to `wakes`.
    pub(crate) fn wake(&mut self, wakes: &mut Wakes) {
        wakes.tasks.extend(self.task.take());
        // The other reference is the socket's own. More of them may wait; one is enough to find out.
        wakes.many.push(Arc::clone(&self.many));
    }
}

/// Those to be woken once the state is unlocked.
#[derive(Debug, Default)]
#[must_use = "somebody waits"]
pub(crate) struct Wakes {
    tasks: SmallVec<[Waker; 2]>,
    /// A batch is mostly for few sockets.
    many: SmallVec<[Arc<Notify>; 8]>,
}

impl Wakes {
    pub(crate) fn push(&mut self, task: Waker) {
        self.tasks.push(task);
    }

    /// Wakes them. The state must not be locked.
    pub(crate) fn wake(self) {
        for task in self.tasks {
            task.wake();
        }
        for many in self.many {
            many.notify_waiters();
        }
    }
}
