//! Protocol policies: which packets they match, and what then becomes of them.

use std::{net::IpAddr, ops::RangeInclusive};

use super::{
    headers::{Headers, Part, TCP, UDP},
    rewrite::End,
};
use crate::config::{Config, PolicyConfig, PolicyEgress, PoolConfig, TransportType};

/// Where a packet wants to go, as policies see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Aim {
    pub(crate) address: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) port: Port,
}

/// A port as far as it can be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    Known(u16),
    /// The protocol has no ports.
    None,
    /// It is in another fragment.
    Elsewhere,
}

impl Aim {
    /// What a packet is sent to.
    pub(crate) fn destination(headers: &Headers, packet: &[u8]) -> Self {
        Self {
            address: headers.destination,
            protocol: headers.protocol,
            port: port(headers, headers.ports(packet).map(|(_, to)| to)),
        }
    }

    /// What would be sent to, to answer a packet.
    pub(crate) fn source(headers: &Headers, packet: &[u8]) -> Self {
        Self {
            address: headers.source,
            protocol: headers.protocol,
            port: port(headers, headers.ports(packet).map(|(from, _)| from)),
        }
    }
}

fn port(headers: &Headers, seen: Option<u16>) -> Port {
    match seen {
        Some(port) => Port::Known(port),
        None if headers.part == Part::Later && headers.has_ports() => Port::Elsewhere,
        None => Port::None,
    }
}

/// What policies say of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decision {
    /// `None` leaves it to the pool.
    pub(crate) egress: Option<PolicyEgress>,
    /// The destination to be sent to instead.
    pub(crate) rewrite: Option<End>,
}

/// The policies of one pool in order. At most [`MAX_POLICIES`](crate::config::MAX_POLICIES).
#[derive(Debug, Default)]
pub(crate) struct Policies {
    rules: Vec<Rule>,
    rewrites: bool,
}

#[derive(Clone, Debug)]
struct Rule {
    network: Option<Network>,
    ports: Option<RangeInclusive<u16>>,
    protocol: Option<u8>,
    egress: Option<PolicyEgress>,
    remote_address: Option<IpAddr>,
    remote_port: Option<u16>,
    /// For a rewrite of one host, and of one port if that is rewritten: from and to, so that it can be undone.
    pair: Option<(End, End)>,
}

/// A network as numbers: one comparison for each packet.
#[derive(Clone, Copy, Debug)]
struct Network {
    bits: u128,
    mask: u128,
    ipv6: bool,
}

impl Policies {
    pub(crate) fn new(config: &Config, pool: &PoolConfig) -> Self {
        let named = pool.policies.iter().filter_map(|name| config.policy(name));
        let rules: Vec<_> = named.map(Rule::new).collect();
        Self {
            rewrites: rules.iter().any(Rule::rewrites),
            rules,
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether any of them rewrites.
    pub(crate) const fn rewrite(&self) -> bool {
        self.rewrites
    }

    /// What the first that matches says; `Err` if that depends on a port that cannot be seen.
    pub(crate) fn decide(&self, aim: Aim) -> Result<Decision, PortElsewhere> {
        for rule in &self.rules {
            if !rule.matches_address(aim) {
                continue;
            }
            match (&rule.ports, aim.port) {
                (None, _) => return Ok(rule.decision_for(aim)),
                (Some(ports), Port::Known(port)) if ports.contains(&port) => {
                    return Ok(rule.decision_for(aim));
                }
                (Some(_), Port::Elsewhere) => return Err(PortElsewhere),
                (Some(_), Port::Known(_) | Port::None) => {}
            }
        }
        Ok(Decision::default())
    }

    /// What the tunnels know a host as that answers from `aim`, where one policy stands for one host. For flows that
    /// the host begins, or that were forgotten.
    pub(crate) fn origin(&self, aim: Aim) -> Result<Option<End>, PortElsewhere> {
        for rule in &self.rules {
            let Some((origin, remote)) = rule.pair else {
                continue;
            };
            if remote.address != aim.address
                || rule
                    .protocol
                    .is_some_and(|protocol| protocol != aim.protocol)
            {
                continue;
            }
            // The port that the policy's packets have when they arrive there.
            let expected = remote
                .port
                .map(|port| port..=port)
                .or_else(|| rule.ports.clone());
            match (expected, aim.port) {
                (None, _) => return Ok(Some(origin)),
                (Some(ports), Port::Known(port)) if ports.contains(&port) => {
                    return Ok(Some(origin));
                }
                (Some(_), Port::Elsewhere) => return Err(PortElsewhere),
                (Some(_), Port::Known(_) | Port::None) => {}
            }
        }
        Ok(None)
    }
}

/// What becomes of a packet depends on a port that is in another fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortElsewhere;

impl Rule {
    fn new(policy: &PolicyConfig) -> Self {
        let network = policy.destination.map(|net| match net {
            ipnet::IpNet::V4(net) => Network {
                bits: net.network().to_bits().into(),
                mask: net.netmask().to_bits().into(),
                ipv6: false,
            },
            ipnet::IpNet::V6(net) => Network {
                bits: net.network().to_bits(),
                mask: net.netmask().to_bits(),
                ipv6: true,
            },
        });
        let (remote_address, remote_port) = (policy.remote_address, policy.remote_port);
        let host = policy
            .destination
            .filter(|net| net.prefix_len() == net.max_prefix_len());
        let single = |ports: &RangeInclusive<u16>| ports.start() == ports.end();
        let port = policy
            .ports
            .clone()
            .filter(single)
            .map(|ports| *ports.start());
        let rewrites = remote_address.is_some() || remote_port.is_some();
        let pair = host.map(|net| {
            let origin = End {
                address: net.addr(),
                port: port.filter(|_| remote_port.is_some()),
            };
            let remote = End {
                address: remote_address.unwrap_or(origin.address),
                port: remote_port,
            };
            (origin, remote)
        });
        // Of a range of ports that became one, nobody can tell which it was.
        let can_be_undone = rewrites && (remote_port.is_none() || port.is_some());
        Self {
            network,
            ports: policy.ports.clone(),
            protocol: match policy.transport {
                TransportType::Any => None,
                TransportType::Udp => Some(UDP),
                TransportType::Tcp => Some(TCP),
            },
            egress: policy.egress,
            remote_address,
            remote_port,
            pair: pair.filter(|_| can_be_undone),
        }
    }

    const fn rewrites(&self) -> bool {
        self.remote_address.is_some() || self.remote_port.is_some()
    }

    fn matches_address(&self, aim: Aim) -> bool {
        let network = self.network.is_none_or(|network| match aim.address {
            IpAddr::V4(address) => {
                !network.ipv6 && u128::from(address.to_bits()) & network.mask == network.bits
            }
            IpAddr::V6(address) => network.ipv6 && address.to_bits() & network.mask == network.bits,
        });
        network
            && self
                .protocol
                .is_none_or(|protocol| protocol == aim.protocol)
    }

    fn decision_for(&self, aim: Aim) -> Decision {
        Decision {
            egress: self.egress,
            rewrite: self.rewrites().then(|| End {
                address: self.remote_address.unwrap_or(aim.address),
                port: self.remote_port,
            }),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
