//! Which of a worker's many streams want attention.
//!
//! The worker is one future that owns thousands of streams. Polling all of them whenever one is ready would make
//! the cost of a packet grow with their number, and a task for each would cost memory and a wake-up per packet.
//! So each stream is polled with a waker of its own that puts it on a list and wakes the worker once.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
};

/// The list of ready streams. Bounded by their number: a stream is on it at most once.
#[derive(Debug, Default)]
pub(super) struct ReadyList {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    ready: Vec<Arc<Token>>,
    /// Set while the worker sleeps; taken by the first stream that becomes ready.
    worker: Option<Waker>,
}

impl ReadyList {
    /// The token of the stream at `index`, to be polled with [`Waker::from`] it. One small allocation for the
    /// stream's life.
    pub(super) fn token(self: &Arc<Self>, index: usize) -> Arc<Token> {
        Arc::new(Token {
            index,
            listed: AtomicBool::new(false),
            list: Arc::clone(self),
        })
    }

    /// Hands the ready streams to `each`, which must mark none and wake nobody, and arms `worker` for the next ones. Until
    /// [`Token::take`] they stay listed.
    ///
    /// A token may be stale (its stream is gone and another has the slot): polling a stream that is not ready is
    /// harmless.
    pub(super) fn take(&self, worker: &Waker, each: impl FnMut(Arc<Token>)) {
        let mut inner = self.lock();
        match &mut inner.worker {
            Some(armed) => armed.clone_from(worker),
            none => *none = Some(worker.clone()),
        }
        inner.ready.drain(..).for_each(each);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The list stays meaningful whatever happened to another holder.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names one stream to the [`ReadyList`].
#[derive(Debug)]
pub(super) struct Token {
    index: usize,
    listed: AtomicBool,
    list: Arc<ReadyList>,
}

impl Token {
    /// The stream's slot. To be called before the stream is polled: readiness that comes meanwhile lists it again.
    pub(super) fn take(&self) -> usize {
        self.listed.store(false, Ordering::Release);
        self.index
    }

    /// Puts the stream on the list, for work that its owner left undone.
    pub(super) fn mark(self: &Arc<Self>) {
        if self.listed.swap(true, Ordering::AcqRel) {
            return;
        }
        let worker = {
            let mut inner = self.list.lock();
            inner.ready.push(Arc::clone(self));
            inner.worker.take()
        };
        if let Some(worker) = worker {
            worker.wake();
        }
    }
}

impl Wake for Token {
    fn wake(self: Arc<Self>) {
        self.mark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.mark();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_burst_wakes_the_worker_once_and_lists_each_stream_once() {
        let list = Arc::new(ReadyList::default());
        let counter = Arc::new(Counter::default());
        let worker = Waker::from(Arc::clone(&counter));
        let mut out = Vec::new();
        list.take(&worker, |token| out.push(token));
        assert!(out.is_empty());

        let streams: Vec<Waker> = (0..3).map(|i| Waker::from(list.token(i))).collect();
        for waker in streams.iter().chain(&streams) {
            waker.wake_by_ref();
        }
        assert_eq!(counter.0.load(Ordering::Relaxed), 1);

        list.take(&worker, |token| out.push(token));
        // One that waits to be polled is listed still.
        streams[2].wake_by_ref();
        let polled: Vec<_> = out.drain(..).map(|token| token.take()).collect();
        assert_eq!(polled, [0, 1, 2]);
        assert_eq!(counter.0.load(Ordering::Relaxed), 1);
        streams[1].wake_by_ref();
        assert_eq!(counter.0.load(Ordering::Relaxed), 2, "armed again by take");
        list.take(&worker, |token| out.push(token));
        assert_eq!(out.len(), 1);
    }
}
