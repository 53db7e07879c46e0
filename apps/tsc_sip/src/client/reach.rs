//! Being reached, as long as there are calls: the registration, and another network in place of one that is gone.

use std::{net::SocketAddr, sync::Arc};

use tokio::{sync::Mutex, task::JoinSet};

use super::{
    ClientError, ClientOptions, Shared,
    register::{self, Registration},
    requests::answer_requests,
};
use crate::{
    access::{Access, Renewal, Renewing},
    endpoint::{Endpoint, IncomingEvents},
    net::{self, InnerNet, Prober, RenewError},
    random::OsRandom,
    sip::Transport,
    stop::Stop,
    transaction::Limits,
};

/// Opens the SIP socket in a network.
pub(super) async fn open<N: InnerNet>(
    net: Arc<N>,
    options: &ClientOptions,
    number: u32,
) -> Result<(Access<N>, IncomingEvents), ClientError> {
    let server = options
        .sip_server
        .or_else(|| net.sip_servers().into_iter().next())
        .ok_or(ClientError::NoSipServer)?;
    let ip = net::address_for(&*net, Some(server)).ok_or(ClientError::NoAddress(server))?;
    let local = SocketAddr::new(ip, options.sip_port);
    let (timers, limits) = (options.timers, Limits::default());
    let random = Box::new(OsRandom);
    let (endpoint, incoming) = match options.transport {
        Transport::Udp => {
            let socket = net.bind_udp(local).await.map_err(ClientError::Socket)?;
            Endpoint::start(socket, timers, limits, random)
        }
        // TCP, and UDP with the same port number: the other side may use either.
        Transport::Tcp => {
            let sockets = net::bind_both(&*net, local).await;
            let sockets = sockets.map_err(ClientError::Socket)?;
            let net = Arc::clone(&net);
            Endpoint::start_with_streams(net, sockets, timers, limits, random)
        }
    }
    .map_err(ClientError::Socket)?;
    tracing::info!(local = %endpoint.local_addr(), %server, "SIP socket");
    let access = Access {
        number,
        net,
        ip,
        endpoint,
        server,
    };
    Ok((access, incoming))
}

/// Answers what comes to the SIP socket from outside.
pub(super) fn answers<N: InnerNet>(
    shared: &Shared<N>,
    access: &Access<N>,
    incoming: IncomingEvents,
) -> impl Future<Output = ()> + Send + use<N> {
    let prober = Prober::new(Arc::clone(&access.net), access.ip);
    let (endpoint, dialogs) = (access.endpoint.clone(), shared.dialogs.clone());
    answer_requests(incoming, endpoint, dialogs, prober)
}

/// Gets another network when there is none any more, and registers from there, until `over`. Gives the renewals.
pub(super) async fn stay_reachable<N: InnerNet>(
    shared: &Shared<N>,
    helpers: &mut JoinSet<()>,
    registration: Option<Arc<Mutex<Registration>>>,
    over: Stop,
) -> Vec<Renewal> {
    let mut access = shared.current.last();
    let mut renewals = Vec::new();
    loop {
        let reason = tokio::select! {
            reason = access.net.lost() => reason,
            () = over.stopped() => return renewals,
        };
        shared.current.set_renewing();
        let renewed = tokio::select! {
            renewed = renew(shared, &access, reason, helpers, registration.as_deref()) => renewed,
            () = over.stopped() => return renewals,
        };
        match renewed {
            Ok((next, renewal)) => {
                tracing::info!(?renewal, "reached again");
                renewals.push(renewal);
                access = Arc::new(next);
                shared.current.set(Arc::clone(&access));
            }
            Err(reason) => {
                shared.current.set_gone(reason);
                over.stopped().await;
                return renewals;
            }
        }
    }
}

/// Gets another network in place of one that is gone, and registers from there.
///
/// # Errors
///
/// Why there is none, for people.
async fn renew<N: InnerNet>(
    shared: &Shared<N>,
    old: &Access<N>,
    reason: String,
    helpers: &mut JoinSet<()>,
    registration: Option<&Mutex<Registration>>,
) -> Result<(Access<N>, Renewal), String> {
    let mut renewing = Renewing::begin(reason);
    let mut gone = Arc::clone(&old.net);
    loop {
        let net = gone.renew().await.map_err(|error| match error {
            RenewError::Final => renewing.reason().to_owned(),
            RenewError::Failed(_) => format!("{}; {error}", renewing.reason()),
        })?;
        renewing.note_up();
        let opened = open(Arc::clone(&net), &shared.options, old.number + 1).await;
        let (access, incoming) = match opened {
            Ok(opened) => opened,
            // This one did not last.
            Err(_) if net::is_gone(&*net).await => {
                gone = net;
                continue;
            }
            Err(error) => return Err(error.to_string()),
        };
        helpers.spawn(answers(shared, &access, incoming));
        if let Some(registration) = registration {
            let there = register::moved(registration, shared.registrant(&access), &*net).await;
            if !there.map_err(|error| ClientError::from(error).to_string())? {
                gone = net;
                continue;
            }
        }
        let renewal = renewing.done(access.ip);
        return Ok((access, renewal));
    }
}
