//! Where a program is reached, and what becomes of that when its network is gone and another takes its place.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::sync::watch;

use crate::{
    endpoint::Endpoint,
    net::{self, InnerNet},
    report::millis,
};

/// Another network took the place of one that was gone: the tunnel server had been restarted, for instance. The names of the
/// JSON fields are stable.
#[derive(Clone, Debug, Serialize)]
pub struct Renewal {
    /// Why the one before was gone.
    pub reason: String,
    /// Our address in the new one.
    pub address: IpAddr,
    /// From its loss to the new one, in milliseconds.
    pub tunnel_ms: f64,
    /// From its loss until we could be reached again, which is when we were registered if we register, in milliseconds.
    pub ready_ms: f64,
}

/// Watches how long a renewal takes.
#[derive(Debug)]
pub(crate) struct Renewing {
    begun: Instant,
    reason: String,
    tunnel: Option<Duration>,
}

impl Renewing {
    pub(crate) fn begin(reason: String) -> Self {
        Self {
            begun: Instant::now(),
            reason,
            tunnel: None,
        }
    }

    pub(crate) fn reason(&self) -> &str {
        &self.reason
    }

    /// There is a network again.
    pub(crate) fn note_up(&mut self) {
        self.tunnel = Some(self.begun.elapsed());
    }

    /// We can be reached again.
    pub(crate) fn done(self, address: IpAddr) -> Renewal {
        let ready = self.begun.elapsed();
        Renewal {
            reason: self.reason,
            address,
            tunnel_ms: millis(self.tunnel.unwrap_or(ready)),
            ready_ms: millis(ready),
        }
    }
}

/// A network, our address in it, and the SIP socket.
pub(crate) struct Access<N: InnerNet> {
    /// How many there were before it.
    pub(crate) number: u32,
    pub(crate) net: Arc<N>,
    pub(crate) ip: IpAddr,
    pub(crate) endpoint: Endpoint,
    /// The SIP server: the one that the program talks to, or the program itself.
    pub(crate) server: SocketAddr,
}

impl<N: InnerNet> Access<N> {
    /// Why the network is gone, whose socket was closed.
    pub(crate) async fn why_gone(&self) -> String {
        let reason = net::why_gone(&*self.net).await;
        reason.unwrap_or_else(|| "its socket was closed".to_owned())
    }
}

struct State<N: InnerNet> {
    /// The last one that there was.
    access: Arc<Access<N>>,
    /// Another one is being opened.
    renewing: bool,
    /// There will be no other, and why.
    gone: Option<String>,
}

/// The access that a program has now, for all that work by it.
pub(crate) struct Current<N: InnerNet>(watch::Sender<State<N>>);

impl<N: InnerNet> Current<N> {
    pub(crate) fn new(access: Arc<Access<N>>) -> Self {
        Self(watch::Sender::new(State {
            access,
            renewing: false,
            gone: None,
        }))
    }

    /// The last one that there was; it may be gone.
    pub(crate) fn last(&self) -> Arc<Access<N>> {
        Arc::clone(&self.0.borrow().access)
    }

    /// The next one is being opened: nobody gets the old one any more.
    pub(crate) fn set_renewing(&self) {
        self.0.send_modify(|state| state.renewing = true);
    }

    pub(crate) fn set(&self, access: Arc<Access<N>>) {
        self.0.send_modify(|state| {
            state.access = access;
            state.renewing = false;
        });
    }

    pub(crate) fn set_gone(&self, reason: impl Into<String>) {
        self.0.send_modify(|state| state.gone = Some(reason.into()));
    }

    /// Waits until there is one.
    ///
    /// # Errors
    ///
    /// Why there is none, and will be none.
    pub(crate) async fn access(&self) -> Result<Arc<Access<N>>, String> {
        self.wait(|state| !state.renewing).await
    }

    /// Waits until another one has taken the place of `old`, which is gone.
    ///
    /// # Errors
    ///
    /// Why there is none, and will be none.
    pub(crate) async fn after(&self, old: &Access<N>) -> Result<Arc<Access<N>>, String> {
        self.wait(|state| !state.renewing && state.access.number > old.number)
            .await
    }

    async fn wait(&self, is_there: impl Fn(&State<N>) -> bool) -> Result<Arc<Access<N>>, String> {
        let mut states = self.0.subscribe();
        let state = states.wait_for(|state| state.gone.is_some() || is_there(state));
        let found = state.await.map(|state| match &state.gone {
            Some(reason) => Err(reason.clone()),
            None => Ok(Arc::clone(&state.access)),
        });
        match found {
            Ok(found) => found,
            // The sender is `self`.
            Err(_) => std::future::pending().await,
        }
    }
}
