//! A tunnel that another one can take the place of: when the server does not know it any more, or has released it.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use tsc_tapi::{
    CloseError, ConnectError, DownReason, TcpListener, TcpStream, Tunnel, TunnelBuilder, UdpSocket,
};

use super::{ConfigSummary, InnerNet, MediaServices, NotificationSummary, RenewError};
use crate::random::{OsRandom, Random};

/// Attempts to open another tunnel are so far apart at first: a random part of it, and of its doubles up to [`LONGEST`].
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(16);
/// A server that released a tunnel has most often released all of them: clients come back within this time, not at once.
const SPREAD: Duration = Duration::from_secs(2);
/// A tunnel in another's place that did not last for this long counts as a failed attempt.
const SHORT_LIFE: Duration = Duration::from_secs(60);

type OpenFn = Box<dyn Fn(u32) -> Result<TunnelBuilder, String> + Send + Sync>;

/// The tunnels of a program, one after the other. When this is dropped no other is opened.
pub struct Tunnels(Arc<Plan>);

struct Plan {
    open: OpenFn,
    patience: Duration,
    /// The one that there is, to be closed at the end.
    last: Mutex<Option<Arc<RenewableTunnel>>>,
}

impl fmt::Debug for Tunnels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnels")
            .field("patience", &self.0.patience)
            .finish_non_exhaustive()
    }
}

/// One of [`Tunnels`]: a network that another can take the place of.
pub struct RenewableTunnel {
    tunnel: Tunnel,
    plan: Weak<Plan>,
    /// How many there were before it.
    number: u32,
    opened: Instant,
    /// Attempts that came to nothing, and tunnels that did not last, one after the other up to this one.
    failures: u32,
}

impl fmt::Debug for RenewableTunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RenewableTunnel")
            .field("tunnel", &self.tunnel)
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl Tunnels {
    /// Begins with a tunnel that is up, and gives it as a network. `open` describes the tunnel number 1, 2, ... that takes
    /// its place; its error is for people. Opening one may take `patience` with all attempts and waits; zero opens no other.
    #[must_use]
    pub fn new(
        first: Tunnel,
        patience: Duration,
        open: impl Fn(u32) -> Result<TunnelBuilder, String> + Send + Sync + 'static,
    ) -> (Self, Arc<RenewableTunnel>) {
        let plan = Arc::new(Plan {
            open: Box::new(open),
            patience,
            last: Mutex::new(None),
        });
        let first = plan.install(first, 0, 0);
        (Self(plan), first)
    }

    /// The tunnel that there is now; `None` after [`close`](Self::close).
    #[must_use]
    pub fn current(&self) -> Option<Arc<RenewableTunnel>> {
        self.0.last().clone()
    }

    /// Releases the tunnel that there is, and waits for the server's answer, at most for `deadline`. If somebody still uses
    /// it, it is released when the last one lets go of it, in the background.
    ///
    /// # Errors
    ///
    /// As [`Tunnel::close`].
    pub async fn close(self, deadline: Duration) -> Result<(), CloseError> {
        let last = self.0.last().take();
        match last.and_then(Arc::into_inner) {
            Some(last) => last.tunnel.close(deadline).await,
            None => Ok(()),
        }
    }
}

impl Plan {
    fn last(&self) -> MutexGuard<'_, Option<Arc<RenewableTunnel>>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn install(
        self: &Arc<Self>,
        tunnel: Tunnel,
        number: u32,
        failures: u32,
    ) -> Arc<RenewableTunnel> {
        let mut notifications = tunnel.notifications();
        // Ends with the tunnel.
        tokio::spawn(async move {
            while let Some(notification) = notifications.recv().await {
                tracing::info!("tunnel {}", NotificationSummary(&notification));
            }
        });
        let tunnel = Arc::new(RenewableTunnel {
            tunnel,
            plan: Arc::downgrade(self),
            number,
            opened: Instant::now(),
            failures,
        });
        *self.last() = Some(Arc::clone(&tunnel));
        tunnel
    }
}

/// Whether the end of a tunnel says nothing against another one to the same server.
const fn is_curable(reason: &DownReason) -> bool {
    matches!(
        reason,
        DownReason::ResumeRejected { .. }
            | DownReason::ReleasedByServer { .. }
            | DownReason::Lost { .. }
    )
}

/// Whether trying again is pointless.
const fn is_final(error: &ConnectError) -> bool {
    tsc_cli::is_usage_error(error)
        || error.is_certificate()
        || error.is_client_certificate()
        || error.is_proxy_authentication()
}

/// A random part of a time that doubles with each failure.
fn pause(failures: u32) -> Duration {
    let Some(doubled) = failures.checked_sub(1) else {
        return Duration::ZERO;
    };
    let longest = FIRST.saturating_mul(2_u32.saturating_pow(doubled));
    longest.min(LONGEST).mul_f64(OsRandom.fraction())
}

impl RenewableTunnel {
    /// The tunnel itself.
    #[must_use]
    pub const fn tunnel(&self) -> &Tunnel {
        &self.tunnel
    }

    async fn open_another(
        &self,
        plan: &Arc<Plan>,
        reason: &DownReason,
    ) -> Result<Arc<Self>, RenewError> {
        let end = Instant::now() + plan.patience;
        let number = self.number.saturating_add(1);
        let lasted = self.number == 0 || self.opened.elapsed() >= SHORT_LIFE;
        let mut failures = if lasted { 0 } else { self.failures + 1 };
        let mut wait = pause(failures);
        if let DownReason::ReleasedByServer { .. } = reason {
            wait = wait.max(SPREAD.mul_f64(OsRandom.fraction()));
        }
        loop {
            tokio::time::sleep(wait.min(end.saturating_duration_since(Instant::now()))).await;
            let left = end.saturating_duration_since(Instant::now());
            let builder = (plan.open)(number).map_err(RenewError::Failed)?;
            let error = match builder.connect_timeout(left).connect().await {
                Ok(tunnel) => {
                    tracing::warn!("a new tunnel is up: {}", ConfigSummary(&tunnel.config()));
                    return Ok(plan.install(tunnel, number, failures));
                }
                Err(error) => error,
            };
            tracing::info!(%error, "no new tunnel yet");
            failures = failures.saturating_add(1);
            wait = pause(failures);
            if is_final(&error) || Instant::now() + wait >= end {
                return Err(RenewError::Failed(error.to_string()));
            }
        }
    }
}

impl InnerNet for RenewableTunnel {
    type Socket = UdpSocket;
    type Stream = TcpStream;
    type Listener = TcpListener;

    async fn bind_udp(&self, local: SocketAddr) -> io::Result<UdpSocket> {
        InnerNet::bind_udp(&self.tunnel, local).await
    }

    async fn connect_tcp(&self, peer: SocketAddr) -> io::Result<TcpStream> {
        InnerNet::connect_tcp(&self.tunnel, peer).await
    }

    async fn bind_tcp(&self, local: SocketAddr) -> io::Result<TcpListener> {
        InnerNet::bind_tcp(&self.tunnel, local).await
    }

    async fn serve(
        &self,
        socket: &UdpSocket,
        services: MediaServices,
        patience: Duration,
    ) -> io::Result<bool> {
        InnerNet::serve(&self.tunnel, socket, services, patience).await
    }

    fn addresses(&self) -> Vec<IpAddr> {
        self.tunnel.addresses()
    }

    fn sip_servers(&self) -> Vec<SocketAddr> {
        self.tunnel.sip_servers()
    }

    async fn lost(&self) -> String {
        self.tunnel.lost().await
    }

    async fn renew(&self) -> Result<Arc<Self>, RenewError> {
        let reason = self.tunnel.closed().await;
        let plan = self.plan.upgrade();
        let plan = plan.filter(|plan| !plan.patience.is_zero() && is_curable(&reason));
        let plan = plan.ok_or(RenewError::Final)?;
        tracing::warn!("the tunnel is gone: {reason}; another one is opened");
        self.open_another(&plan, &reason).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_bound() {
        assert_eq!(pause(0), Duration::ZERO);
        for failures in 1..100 {
            let longest = FIRST * 2_u32.pow((failures - 1).min(4));
            assert!(pause(failures) <= longest, "{failures}");
        }
    }
}
