//! Telling running calls to end in good order.

use tokio::sync::watch;

/// Asks for the end. Asking twice is asking once; dropping it asks for nothing.
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

/// Waits for the request to end. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

impl Stopper {
    /// A stopper and what waits for it.
    #[must_use]
    pub fn new() -> (Self, Stop) {
        let (sender, receiver) = watch::channel(false);
        (Self(sender), Stop(receiver))
    }

    /// Asks for the end.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// One that never comes.
    #[must_use]
    pub fn never() -> Self {
        Stopper::new().1
    }

    /// Waits until the end is asked for. Cancel-safe.
    pub async fn stopped(&self) {
        let mut receiver = self.0.clone();
        if receiver.wait_for(|stop| *stop).await.is_err() {
            // The stopper is gone without having asked.
            std::future::pending().await
        }
    }
}
