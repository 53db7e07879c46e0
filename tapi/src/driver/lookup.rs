//! Finding out where servers are.

use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use tsc_csm::client::{Target, TransportFailure};
use tsc_osaa::{
    client::{self as transport, Host},
    resolve::{ResolveError, resolve},
};

use super::{Driver, connect::kind};

type Found = Result<Vec<SocketAddr>, ResolveError>;

/// A lookup that is under way; one for each target at most.
pub(super) struct Lookup {
    target: Target,
    future: Pin<Box<dyn Future<Output = Found> + Send>>,
}

impl Driver {
    /// Looks a configured target up. What is reached through a proxy is looked up there.
    pub(super) fn look_up(&mut self, now: Instant, target: Target) {
        let Some(route) = self.routes.of(target) else {
            return self
                .client
                .not_resolved(now, target, TransportFailure::Unsupported);
        };
        if route.proxied {
            return self.client.resolved_by_name(now, target);
        }
        // Names were checked when the driver was made.
        let Ok(host) = route.server.host().parse::<Host>() else {
            return self
                .client
                .not_resolved(now, target, TransportFailure::Resolve);
        };
        let (port, kind) = (route.server.port(), kind(target.transport));
        let options = self.resolve.clone();
        let future = Box::pin(async move {
            let found = resolve(&host, port, kind, &options).await?;
            Ok(found.into_iter().map(|way| way.address).collect())
        });
        self.lookups.push(Lookup { target, future });
    }

    pub(super) fn poll_lookups(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let mut progress = false;
        let mut index = 0;
        while let Some(lookup) = self.lookups.get_mut(index) {
            let Poll::Ready(found) = lookup.future.as_mut().poll(cx) else {
                index += 1;
                continue;
            };
            progress = true;
            let Lookup { target, .. } = self.lookups.swap_remove(index);
            match found {
                Ok(mut addresses) => {
                    self.prefer_remembered(target, &mut addresses);
                    self.client.resolved(now, target, &addresses);
                }
                Err(error) => {
                    tracing::debug!(?target, %error, "server not found");
                    if let Some(server) = self.server(target) {
                        self.keep_failure(server, transport::ConnectError::from(error));
                    }
                    self.client
                        .not_resolved(now, target, TransportFailure::Resolve);
                }
            }
        }
        progress
    }
}
