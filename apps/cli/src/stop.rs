//! Telling running calls to end in good order.

use std::io;

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

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

    /// Asked for by the first SIGINT or SIGTERM; the second one ends the program at once.
    ///
    /// # Errors
    ///
    /// The system does not let us listen.
    pub fn on_signal() -> io::Result<Self> {
        let (stopper, stop) = Stopper::new();
        let mut signals = Signals::listen()?;
        tokio::spawn(async move {
            signals.recv().await;
            stopper.stop();
            let code = signals.recv().await;
            std::process::exit(code.into());
        });
        Ok(stop)
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

/// SIGINT (Ctrl-C) and SIGTERM, which mean the same: end in good order.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// From here on the signals no longer end the program by themselves.
    ///
    /// # Errors
    ///
    /// The system does not let us listen.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next of either; the answer is the exit code of a program that it ends at once. Cancel-safe.
    pub async fn recv(&mut self) -> u8 {
        // 128 plus the signal's number, as shells have it.
        tokio::select! {
            _ = self.interrupt.recv() => 130,
            _ = self.terminate.recv() => 143,
        }
    }
}
