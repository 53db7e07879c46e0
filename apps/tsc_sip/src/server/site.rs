//! Where the server is reached in one network, and how it gets to another.

use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError},
};

use tokio::sync::Mutex;

use super::{Place, ServerError, ServerOptions, Shared, registrant};
use crate::{
    access::{Access, Renewal, Renewing},
    client::register::{self, Registration},
    endpoint::{Endpoint, IncomingEvents},
    http::HttpServer,
    msrp::Switchboard,
    net::{self, InnerNet, RenewError},
    random::OsRandom,
    transaction::Limits,
};

/// All that is open in one network.
pub(super) struct Site<N: InnerNet> {
    pub(super) access: Arc<Access<N>>,
    pub(super) incoming: IncomingEvents,
    pub(super) switchboard: Switchboard,
    pub(super) http: Option<HttpServer>,
}

impl<N: InnerNet> Site<N> {
    /// Opens the ports of the server.
    pub(super) async fn open(
        net: Arc<N>,
        options: &ServerOptions,
        number: u32,
    ) -> Result<Self, ServerError> {
        let ip = net::address_for(&*net, None).ok_or(ServerError::NoAddress)?;

        // --- SIP SOCKET CREATION --------------------------------------------------------------------
        let local = SocketAddr::new(ip, options.sip_port);
        // UDP and TCP with the same port number.
        let sockets = net::bind_both(&*net, local).await;
        let (endpoint, incoming) = Endpoint::start_with_streams(
            Arc::clone(&net),
            sockets.map_err(ServerError::Socket)?,
            options.timers,
            Limits::default(),
            Box::new(OsRandom),
        )
        .map_err(ServerError::Socket)?;
        let server = endpoint.local_addr();
        tracing::info!(address = %server, callees = options.callees.len(), "SIP server ready");

        // Messages need one port for all their connections; each session has its name in its URI.
        let no_messages = |error| ServerError::Listener("messages", error);
        let listener = net.bind_tcp(SocketAddr::new(ip, 0)).await;
        let switchboard = Switchboard::start(listener.map_err(no_messages)?);
        let switchboard = switchboard.map_err(no_messages)?;
        let mut http = None;
        if let Some(port) = options.http_port {
            let no_http = |error| ServerError::Listener("HTTP", error);
            // At all of our addresses, so that it is reached by either family.
            let mut listeners = Vec::new();
            for ip in net.addresses() {
                let listener = net.bind_tcp(SocketAddr::new(ip, port)).await;
                listeners.push(listener.map_err(no_http)?);
            }
            let server = HttpServer::start(listeners).map_err(no_http)?;
            for address in server.addresses() {
                tracing::info!(%address, "HTTP server ready");
            }
            http = Some(server);
        }
        let access = Arc::new(Access {
            number,
            net,
            ip,
            endpoint,
            server,
        });
        Ok(Self {
            access,
            incoming,
            switchboard,
            http,
        })
    }

    /// Opens the ports in another network in place of one that is gone, and registers from there. `reason` is why it is gone,
    /// where that is known.
    ///
    /// # Errors
    ///
    /// Why there is no other network.
    pub(super) async fn renew(
        shared: Arc<Shared<N>>,
        old: Arc<Access<N>>,
        reason: Option<String>,
        registration: Option<Arc<Mutex<Registration>>>,
    ) -> Result<(Self, Renewal), ServerError> {
        let reason = match reason {
            Some(reason) => reason,
            None => net::why_gone(&*old.net).await.ok_or(ServerError::Closed)?,
        };
        let mut renewing = Renewing::begin(reason);
        let mut gone = Arc::clone(&old.net);
        loop {
            let net = gone.renew().await.map_err(|error| match error {
                RenewError::Final => ServerError::Lost(renewing.reason().to_owned()),
                RenewError::Failed(_) => {
                    ServerError::Lost(format!("{}; {error}", renewing.reason()))
                }
            })?;
            renewing.note_up();
            let site = match Self::open(Arc::clone(&net), &shared.options, old.number + 1).await {
                Ok(site) => site,
                // This one did not last.
                Err(_) if net::is_gone(&*net).await => {
                    gone = net;
                    continue;
                }
                Err(error) => return Err(error),
            };
            if let (Some(registration), Some(at)) = (&registration, &shared.options.register_at) {
                let to = registrant(at, &site.access.endpoint);
                if !register::moved(registration, to, &*net).await? {
                    gone = net;
                    continue;
                }
            }
            let renewal = renewing.done(site.access.ip);
            return Ok((site, renewal));
        }
    }

    /// From now on the server is reached here.
    pub(super) fn move_in(&mut self, shared: &Shared<N>) {
        let place = Place {
            endpoint: self.access.endpoint.clone(),
            http: self.http.take(),
        };
        *shared.place.lock().unwrap_or_else(PoisonError::into_inner) = place;
        shared.current.set(Arc::clone(&self.access));
    }
}
