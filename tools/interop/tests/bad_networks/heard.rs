//! When something was heard.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::soon;

/// The moments at which packets came, for whoever waits for them.
#[derive(Clone, Default)]
pub(crate) struct Heard(Arc<watch::Sender<Vec<Instant>>>);

impl Heard {
    /// A packet has come.
    pub(crate) fn note(&self) {
        self.0.send_modify(|moments| moments.push(Instant::now()));
    }

    pub(crate) fn count(&self) -> usize {
        self.0.borrow().len()
    }

    /// Waits for what comes after a moment; when the first of that was.
    pub(crate) async fn since(&self, moment: Instant) -> Instant {
        self.wait(|moments| moments.last().is_some_and(|at| *at > moment))
            .await;
        let moments = self.0.borrow();
        moments[moments.partition_point(|at| *at <= moment)]
    }

    /// Waits for so many packets more.
    pub(crate) async fn more(&self, packets: usize) {
        let wanted = self.count() + packets;
        self.wait(|moments| moments.len() >= wanted).await;
    }

    async fn wait(&self, until: impl Fn(&Vec<Instant>) -> bool) {
        let mut moments = self.0.subscribe();
        let reached = async { moments.wait_for(until).await.map(drop) };
        // The sender is `self`.
        soon(reached).await.unwrap();
    }

    /// The longest time in which nothing was heard, from a moment on.
    pub(crate) fn gap(&self, since: Instant) -> Duration {
        let moments = self.0.borrow();
        let first = moments.partition_point(|at| *at <= since).saturating_sub(1);
        let gaps = moments[first..].windows(2).map(|pair| pair[1] - pair[0]);
        gaps.max().unwrap_or(Duration::MAX)
    }
}
