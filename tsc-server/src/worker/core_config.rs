//! The session core's view of a configuration.

use std::sync::Arc;

use tsc_csm::{
    self as csm, Prefix,
    server::{
        self as core, AuthPolicy, Identity, RedirectPolicy, TokenVerifier, TunnelTimers,
        pool::{self, PoolRange},
    },
};
use tsc_tpl::ServiceType;

use crate::config::{
    AddressRange, Authentication, Config, InterfaceConfig, PoolConfig, RoutedPrefixes, TokenTable,
};

impl TokenVerifier for TokenTable {
    fn verify(&self, token: &[u8]) -> Option<Identity> {
        self.identity(token).map(Identity::new)
    }
}

/// All of it.
pub(super) fn core_config(config: &Config) -> core::ServerConfig {
    let system = &config.system;
    let limits = core::Limits {
        tunnels: usize::try_from(system.max_tunnels).unwrap_or(usize::MAX),
        pending: usize::try_from(system.max_half_open).unwrap_or(usize::MAX),
        ..core::Limits::default()
    };
    core::ServerConfig {
        element_id: system.element_id,
        pools: config.pools.iter().map(core_pool).collect(),
        interfaces: config
            .interfaces
            .iter()
            .map(|interface| core_interface(config, interface))
            .collect(),
        quarantine: system.quarantine,
        limits,
        cookie: None,
    }
}

fn core_pool(pool: &PoolConfig) -> pool::PoolConfig {
    let range = |range: &AddressRange| pool::AddressRange {
        first: range.first(),
        last: range.last(),
    };
    pool::PoolConfig {
        name: pool.name.clone(),
        ranges: pool
            .ranges
            .iter()
            .map(|addresses| PoolRange {
                range: range(addresses),
                prefix_len: if addresses.is_ipv6() {
                    pool.prefix_len_v6
                } else {
                    pool.prefix_len_v4
                },
            })
            .collect(),
        exclusions: pool.exclude.iter().map(range).collect(),
        quarantine: Some(pool.quarantine),
    }
}

fn core_routed(routed: &RoutedPrefixes) -> (Identity, Vec<Prefix>) {
    let prefixes = routed.prefixes.iter();
    // Their lengths were checked by their type.
    let prefixes = prefixes.filter_map(|net| Prefix::new(net.addr(), net.prefix_len()).ok());
    (Identity::new(routed.identity.as_str()), prefixes.collect())
}

pub(super) fn core_interface(
    config: &Config,
    interface: &InterfaceConfig,
) -> core::InterfaceConfig {
    let pools = interface
        .pools
        .iter()
        .filter_map(|name| config.pools.iter().position(|pool| pool.name == *name))
        .collect();
    let timers = &interface.timers;
    let mut core = core::InterfaceConfig::new(interface.name.clone(), pools);
    core.stream_timers = TunnelTimers {
        keepalive: timers.keepalive_stream,
        persistence: timers.persistence,
    };
    core.datagram_timers = TunnelTimers {
        keepalive: timers.keepalive_datagram,
        persistence: timers.persistence,
    };
    if interface.services.sip {
        core.sip_servers.clone_from(&interface.sip_servers);
    }
    core.dns_servers.clone_from(&interface.dns_servers);
    core.alternates = interface
        .alternates
        .iter()
        .map(|alternate| csm::Alternate {
            transport: alternate.transport,
            address: alternate.address,
        })
        .collect();
    core.redirect = if interface.redirect {
        RedirectPolicy::Always
    } else {
        RedirectPolicy::Never
    };
    core.services = Vec::<ServiceType>::new();
    if interface.services.stg {
        core.services.push(ServiceType::ENABLE_STG);
        core.routed_prefixes = interface.routed.iter().map(core_routed).collect();
    }
    if interface.services.redundancy {
        core.services.push(ServiceType::ENABLE_REDUNDANCY);
    }
    if interface.services.ddt {
        core.services.push(ServiceType::ENABLE_DDT);
    }
    if interface.services.dtte {
        core.services.push(ServiceType::ENABLE_DTTE);
    }
    if interface.services.server_keepalive {
        core.services.push(ServiceType::ENABLE_SERVER_KEEPALIVE);
    }
    if interface.services.peer {
        core.services.push(ServiceType::ENABLE_PEER);
    }
    core.inter_client_block = interface.services.inter_client_block;
    core.inner_mtu = interface.inner_mtu;
    core.dscp = interface.dscp;
    core.auth = match &interface.authentication {
        Authentication::None => AuthPolicy::None,
        Authentication::Mtls => AuthPolicy::Mtls,
        Authentication::Token(token) => {
            core.token_in_clear = token.allow_on_clear;
            AuthPolicy::Token(Arc::clone(&token.tokens) as Arc<dyn TokenVerifier>)
        }
    };
    let limits = &interface.limits;
    core.tunnels_per_prefix = Some(limits.tunnels_per_prefix);
    core.tunnels_per_identity = Some(limits.tunnels_per_identity);
    core.requests_per_second = Some(limits.requests_per_prefix);
    core.configuration_time = limits.configuration_time;
    if limits.max_tunnels > 0 {
        core.max_tunnels = usize::try_from(limits.max_tunnels).unwrap_or(usize::MAX);
    }
    core
}
