//! Names to addresses, for the network outside of tunnels.
//!
//! [`resolve`] gives the ways to a server in the order in which they should be tried:
//!
//! ```text
//!   port given:    A and AAAA by the system (hosts file, mDNS, DNS: what nsswitch says) -> families in turn
//!   port left out: SRV (feature `srv`)  -> targets by priority and weight, each as above, with its own port
//!                  no such record       -> as if DEFAULT_PORT were given
//! ```
//!
//! The SRV names are `_tscf._tcp` and `_tscf._udp` for clear transports, `_tscfs._tcp` and `_tscfs._udp` for TLS and DTLS. They
//! are asked for as they are, without search lists. What they say is not authenticated, so it leads elsewhere but proves
//! nothing: certificates are checked for the name that the application knows, never for an SRV target. On Android they are
//! asked for only where name servers are given.
//!
//! Nothing is remembered: who tries again asks again, and servers that moved are found. Bounds: [`MAX_ADDRESSES`] of each
//! name, [`MAX_TARGETS`], [`MAX_CANDIDATES`], and [`ResolveOptions::timeout`] for all of it. The system's resolver cannot be
//! interrupted: its thread may go on for some seconds after the time-out.

mod error;
mod order;
#[cfg(feature = "srv")]
mod srv;
mod system;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

pub use error::ResolveError;
pub use order::{Families, SrvRecord, interleave, order_srv};

use crate::client::{Host, MAX_ADDRESSES, TransportKind};

/// The port of servers that name none, neither in a URL nor by SRV. Ours: no public source gives one.
pub const DEFAULT_PORT: u16 = 4567;

/// Most SRV targets that are looked at, the best ones.
pub const MAX_TARGETS: usize = 8;

/// Most candidates that are given.
pub const MAX_CANDIDATES: usize = 16;

/// How [`resolve`] goes about it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ResolveOptions {
    /// For everything. Half of it at most is spent on SRV records. Default 5 s.
    pub timeout: Duration,
    /// Which address families, and which first. Default: both, IPv6 first.
    pub families: Families,
    /// Whether SRV records are asked for when the port is left out. Default true.
    #[cfg(feature = "srv")]
    pub srv: bool,
    /// Name servers to ask instead of the system, for addresses too. Default none.
    #[cfg(feature = "srv")]
    pub name_servers: Vec<SocketAddr>,
}

impl Default for ResolveOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            families: Families::default(),
            #[cfg(feature = "srv")]
            srv: true,
            #[cfg(feature = "srv")]
            name_servers: Vec::new(),
        }
    }
}

/// One way to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Candidate {
    /// Where.
    pub address: SocketAddr,
    /// How it was found.
    pub source: Source,
}

/// How a [`Candidate`] was found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// The host was an address.
    Literal,
    /// The host's own addresses.
    Address,
    /// By an SRV record.
    Srv(SrvRecord),
}

/// The ways to `host` in the order in which they should be tried, never none. The future may be dropped at any time.
///
/// # Errors
/// Why there is none.
pub async fn resolve(
    host: &Host,
    port: Option<u16>,
    transport: TransportKind,
    options: &ResolveOptions,
) -> Result<Vec<Candidate>, ResolveError> {
    let name = match host {
        Host::Address(ip) if options.families.allow(*ip) => {
            return Ok(vec![Candidate {
                address: SocketAddr::new(*ip, port.unwrap_or(DEFAULT_PORT)),
                source: Source::Literal,
            }]);
        }
        Host::Address(ip) => {
            return Err(ResolveError::NoAddress {
                host: ip.to_string(),
                families: options.families,
            });
        }
        Host::Name(name) => name.as_ref(),
    };
    let end = Instant::now() + options.timeout;
    if port.is_none()
        && let Some(found) = by_srv(name, transport, options, end).await?
    {
        return Ok(found);
    }
    let port = port.unwrap_or(DEFAULT_PORT);
    let addresses = timeout_at(end, addresses(name, options))
        .await
        .map_err(|_| ResolveError::Timeout {
            host: name.to_owned(),
            limit: options.timeout,
        })??;
    let candidate = |ip| Candidate {
        address: SocketAddr::new(ip, port),
        source: Source::Address,
    };
    Ok(addresses.into_iter().map(candidate).collect())
}

/// The addresses of one name in order, never none.
async fn addresses(name: &str, options: &ResolveOptions) -> Result<Vec<IpAddr>, ResolveError> {
    #[cfg(feature = "srv")]
    let found = if options.name_servers.is_empty() {
        system::addresses(name).await?
    } else {
        srv::addresses(name, &options.name_servers, options.timeout).await?
    };
    #[cfg(not(feature = "srv"))]
    let found = system::addresses(name).await?;
    let found = interleave(found, options.families, MAX_ADDRESSES);
    if found.is_empty() {
        return Err(ResolveError::NoAddress {
            host: name.to_owned(),
            families: options.families,
        });
    }
    Ok(found)
}

#[cfg(not(feature = "srv"))]
#[allow(clippy::unused_async, reason = "it asks where the feature is on")]
async fn by_srv(
    _: &str,
    _: TransportKind,
    _: &ResolveOptions,
    _: Instant,
) -> Result<Option<Vec<Candidate>>, ResolveError> {
    Ok(None)
}

/// `None` if there are no such records, or nobody who tells: a server without them is found all the same.
#[cfg(feature = "srv")]
async fn by_srv(
    name: &str,
    transport: TransportKind,
    options: &ResolveOptions,
    end: Instant,
) -> Result<Option<Vec<Candidate>>, ResolveError> {
    use tokio::task::JoinSet;

    // RFC 6761, section 6.3: never asked for.
    let is_localhost = name.eq_ignore_ascii_case("localhost");
    // The name servers of Android are known to its virtual machine only, which a library may not have.
    let nobody_to_ask = cfg!(target_os = "android") && options.name_servers.is_empty();
    if !options.srv || is_localhost || nobody_to_ask {
        return Ok(None);
    }
    let half = Instant::now() + options.timeout / 2;
    let question = srv::records(name, transport, &options.name_servers, options.timeout / 2);
    let records = match timeout_at(half, question).await {
        Ok(Ok(records)) if !records.is_empty() => records,
        Ok(Ok(_)) => return Ok(None),
        Ok(Err(error)) => {
            tracing::debug!(name, %transport, %error, "no SRV records");
            return Ok(None);
        }
        Err(_) => {
            tracing::debug!(name, %transport, "no answer about SRV records in time");
            return Ok(None);
        }
    };
    let mut targets = order_srv(records, &mut draw);
    if targets.is_empty() {
        return Err(ResolveError::NotOffered {
            host: name.to_owned(),
            transport,
        });
    }
    targets.truncate(MAX_TARGETS);
    // All at once, so that one that is slow leaves the others their time. Dropping the set ends them.
    let mut lookups = JoinSet::new();
    for (index, target) in targets.iter().enumerate() {
        let (target, options) = (target.target.clone(), options.clone());
        lookups.spawn(async move { (index, addresses(&target, &options).await) });
    }
    let mut results: Vec<Option<Result<Vec<IpAddr>, ResolveError>>> = Vec::new();
    results.resize_with(targets.len(), || None);
    while let Ok(Some(joined)) = timeout_at(end, lookups.join_next()).await {
        if let Ok((index, result)) = joined
            && let Some(slot) = results.get_mut(index)
        {
            *slot = Some(result);
        }
    }
    let mut found: Vec<Candidate> = Vec::new();
    let mut failure = None;
    for (target, result) in targets.into_iter().zip(results) {
        match result {
            Some(Ok(ips)) => {
                for ip in ips {
                    let address = SocketAddr::new(ip, target.port);
                    if !found.iter().any(|known| known.address == address) {
                        found.push(Candidate {
                            address,
                            source: Source::Srv(target.clone()),
                        });
                    }
                }
            }
            Some(Err(error)) => failure = failure.or(Some(error)),
            None => {}
        }
    }
    found.truncate(MAX_CANDIDATES);
    if !found.is_empty() {
        return Ok(Some(found));
    }
    Err(failure.unwrap_or_else(|| ResolveError::Timeout {
        host: name.to_owned(),
        limit: options.timeout,
    }))
}

/// A number from 0 to `most`.
#[cfg(feature = "srv")]
fn draw(most: u32) -> u32 {
    let mut bytes = [0; 8];
    crate::random::OsRandom.fill(&mut bytes);
    // Of so many that the remainder favours none noticeably.
    u32::try_from(u64::from_be_bytes(bytes) % (u64::from(most) + 1)).unwrap_or(most)
}
