//! By DNS itself: SRV records, and addresses where the name servers are given.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use hickory_resolver::{
    Resolver, TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::{Name, RData, RecordType},
};

use super::{ResolveError, SrvRecord};
use crate::client::TransportKind;

/// Records of one answer that are looked at.
const MOST: usize = 64;

/// One question, asked this often.
const ATTEMPTS: u32 = 2;

/// The SRV records of a domain, perhaps none.
pub(super) async fn records(
    domain: &str,
    transport: TransportKind,
    name_servers: &[SocketAddr],
    limit: Duration,
) -> Result<Vec<SrvRecord>, ResolveError> {
    let service = match transport {
        TransportKind::Tcp => "_tscf._tcp",
        TransportKind::Tls => "_tscfs._tcp",
        TransportKind::Udp => "_tscf._udp",
        TransportKind::Dtls => "_tscfs._udp",
    };
    let fail = |error| no_answer(domain, error);
    let name = absolute(&format!("{service}.{domain}")).map_err(fail)?;
    let resolver = resolver(name_servers, limit).map_err(fail)?;
    let lookup = match resolver.lookup(name, RecordType::SRV).await {
        Ok(lookup) => lookup,
        Err(error) if error.is_no_records_found() => return Ok(Vec::new()),
        Err(error) => return Err(fail(error)),
    };
    let mut found = Vec::new();
    for record in lookup.answers().iter().take(MOST) {
        if let RData::SRV(srv) = &record.data {
            let target = srv.target.to_ascii();
            found.push(SrvRecord {
                priority: srv.priority,
                weight: srv.weight,
                port: srv.port,
                target: target.trim_end_matches('.').to_owned(),
            });
        }
    }
    Ok(found)
}

/// The addresses of a name, perhaps none, as these servers know them.
pub(super) async fn addresses(
    host: &str,
    name_servers: &[SocketAddr],
    limit: Duration,
) -> Result<Vec<IpAddr>, ResolveError> {
    let fail = |error| no_answer(host, error);
    let name = absolute(host).map_err(fail)?;
    let resolver = resolver(name_servers, limit).map_err(fail)?;
    let (six, four) = tokio::join!(
        resolver.lookup(name.clone(), RecordType::AAAA),
        resolver.lookup(name, RecordType::A)
    );
    let mut found = Vec::new();
    let mut failure = None;
    for result in [six, four] {
        match result {
            Ok(lookup) => {
                let answers = lookup.answers().iter().take(MOST);
                found.extend(answers.filter_map(|record| record.data.ip_addr()));
            }
            Err(error) if error.is_nx_domain() => {
                failure.get_or_insert_with(|| ResolveError::NoSuchName {
                    host: host.to_owned(),
                });
            }
            Err(error) if error.is_no_records_found() => {}
            Err(error) => failure = Some(fail(error)),
        }
    }
    match failure {
        Some(error) if found.is_empty() => Err(error),
        Some(_) | None => Ok(found),
    }
}

/// Without search lists.
fn absolute(name: &str) -> Result<Name, NetError> {
    let mut name = Name::from_str_relaxed(name)?;
    name.set_fqdn(true);
    Ok(name)
}

fn resolver(name_servers: &[SocketAddr], limit: Duration) -> Result<TokioResolver, NetError> {
    let mut builder = if name_servers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let servers = name_servers.iter().map(|server| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
            let connections = connections.map(|mut connection| {
                connection.port = server.port();
                connection
            });
            NameServerConfig::new(server.ip(), true, connections.to_vec())
        });
        let config = ResolverConfig::from_name_servers(servers.collect());
        Resolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let options: &mut ResolverOpts = builder.options_mut();
    // Not remembered, and in time for a second attempt.
    options.cache_size = 0;
    options.attempts = usize::try_from(ATTEMPTS - 1).unwrap_or(1);
    options.timeout = limit / ATTEMPTS;
    options.use_hosts_file = ResolveHosts::Never;
    builder.build()
}

fn no_answer(host: &str, error: NetError) -> ResolveError {
    ResolveError::NoAnswer {
        host: host.to_owned(),
        source: io::Error::other(error),
    }
}
