//! Names, by the DNS servers inside the tunnel.

mod exchange;
mod message;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{task::JoinSet, time::timeout};

use self::{
    exchange::exchange,
    message::{Question, Reply},
};
use crate::{
    TunnelConfig,
    error::{LookupError, SocketError},
    shared::Shared,
};

/// Most time that a look-up takes.
pub const LOOKUP_TIME: Duration = Duration::from_secs(15);
/// Most addresses of one family in an answer; more are ignored.
pub const MAX_ADDRESSES: usize = 32;

/// Servers that are asked, those assigned first.
const MAX_SERVERS: usize = 4;
/// How long one server is waited for in each round; the last wait ends with [`LOOKUP_TIME`] at the latest.
const WAITS: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];
const DNS_PORT: u16 = 53;

/// See [`Tunnel::lookup_host`](crate::Tunnel::lookup_host).
pub(crate) async fn lookup_host(
    shared: &Arc<Shared>,
    config: &TunnelConfig,
    host: &str,
    port: u16,
) -> Result<Vec<SocketAddr>, LookupError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    shared.lock().check_up().map_err(LookupError::Socket)?;
    let name = message::name(host).ok_or_else(|| LookupError::Name(host.to_owned()))?;
    let (v6, v4) = (config.ipv6().is_some(), config.ipv4().is_some());
    let servers: Vec<SocketAddr> = config
        .dns_servers
        .iter()
        .filter(|server| if server.is_ipv6() { v6 } else { v4 })
        .take(MAX_SERVERS)
        .map(|server| SocketAddr::new(*server, DNS_PORT))
        .collect();
    if servers.is_empty() {
        return Err(LookupError::NoServers);
    }
    let ask = async |wanted: bool, ipv6: bool| {
        if wanted {
            Some(ask_all(shared, &servers, Question::new(name.clone(), ipv6)).await)
        } else {
            None
        }
    };
    let (v6, v4) = tokio::join!(ask(v6, true), ask(v4, false));
    let addresses = joined([v6, v4])?;
    if addresses.is_empty() {
        return Err(LookupError::NotFound(host.to_owned()));
    }
    let addresses = addresses.into_iter();
    Ok(addresses
        .map(|address| SocketAddr::new(address, port))
        .collect())
}

/// Both families' addresses. One family is enough; that a name does not exist holds for both; and without addresses a
/// server that could not tell leaves the question open.
fn joined(families: [Option<Result<Reply, LookupError>>; 2]) -> Result<Vec<IpAddr>, LookupError> {
    let mut all = Vec::new();
    let mut no_name = false;
    let mut error = None;
    for family in families.into_iter().flatten() {
        match family {
            Ok(Reply::Addresses(addresses)) => all.extend(addresses),
            Ok(Reply::NoName) => no_name = true,
            Ok(Reply::Failed(why)) => error = Some(LookupError::Failed(why)),
            // Not given: it was asked again.
            Ok(Reply::Truncated) => {}
            Err(why) => error = Some(why),
        }
    }
    match error {
        Some(error) if all.is_empty() && !no_name => Err(error),
        _ => Ok(all),
    }
}

/// Asks the servers in turn until one answers. Earlier ones may still do so while a later one is asked.
async fn ask_all(
    shared: &Arc<Shared>,
    servers: &[SocketAddr],
    question: Question,
) -> Result<Reply, LookupError> {
    let rounds = Rounds {
        shared,
        running: JoinSet::new(),
        servers: servers.to_vec(),
        failure: None,
    };
    match timeout(LOOKUP_TIME, rounds.run(question)).await {
        Ok(result) => result,
        Err(_) => Err(LookupError::TimedOut),
    }
}

/// The exchanges of one question.
struct Rounds<'a> {
    shared: &'a Arc<Shared>,
    /// At most one for each server and round.
    running: JoinSet<(SocketAddr, Result<Reply, SocketError>)>,
    /// Those that have not failed. One that is silent is asked again, one that says no is not.
    servers: Vec<SocketAddr>,
    failure: Option<Result<Reply, LookupError>>,
}

impl Rounds<'_> {
    async fn run(mut self, question: Question) -> Result<Reply, LookupError> {
        for wait in WAITS {
            for server in self.servers.clone() {
                // It may have failed late.
                if !self.servers.contains(&server) {
                    continue;
                }
                let exchange = exchange(Arc::clone(self.shared), server, question.clone());
                self.running.spawn(async move { (server, exchange.await) });
                if let Ok(Some(reply)) = timeout(wait, self.settled()).await {
                    return Ok(reply);
                }
            }
        }
        self.failure.unwrap_or(Err(LookupError::TimedOut))
    }

    /// The first answer that settles the question, or `None` when all who were asked have failed.
    async fn settled(&mut self) -> Option<Reply> {
        while let Some(joined) = self.running.join_next().await {
            let Ok((server, result)) = joined else {
                continue;
            };
            match result {
                Ok(reply @ (Reply::Addresses(_) | Reply::NoName)) => return Some(reply),
                Ok(reply) => self.failure = Some(Ok(reply)),
                Err(error) => {
                    tracing::debug!(%server, %error, "DNS server");
                    self.failure = Some(Err(failure(error)));
                }
            }
            self.servers.retain(|other| *other != server);
        }
        None
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "only what networks do is told apart"
)]
fn failure(error: SocketError) -> LookupError {
    match error {
        SocketError::Refused => LookupError::Failed("nobody listens there"),
        SocketError::Unreachable | SocketError::Prohibited => {
            LookupError::Failed("they cannot be reached")
        }
        SocketError::Reset | SocketError::TimedOut => LookupError::Failed("the connection ended"),
        other => LookupError::Socket(other),
    }
}
