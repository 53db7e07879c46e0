//! What must agree between pools, policies, data flows and egress.

use ipnet::IpNet;
use tsc_csm::Prefix;

use super::check::Checker;
use super::document::KeyPath;
use super::egress::{Egress, PolicyConfig};
use super::model::{Authentication, InterfaceConfig, PoolConfig};
use super::range::AddressRange;

impl Checker<'_> {
    pub(super) fn egress(&self) {
        let config = self.config;
        self.unique_names(
            "tscf-protocol-policy",
            config.policies.iter().map(|policy| policy.name.as_str()),
        );
        self.unique_names(
            "tscf-data-flow",
            config.data_flows.iter().map(|flow| flow.name.as_str()),
        );
        for (index, policy) in config.policies.iter().enumerate() {
            self.policy(policy, &KeyPath::of("tscf-protocol-policy").index(index));
        }
        for (index, pool) in config.pools.iter().enumerate() {
            self.pool_egress(pool, &KeyPath::of("tscf-address-pool").index(index));
        }
        self.tun();
    }

    /// Gateways are known by identity, and what is behind them is nobody else's.
    pub(super) fn interface_routed(&self, interface: &InterfaceConfig, path: &KeyPath) {
        let table = path.key("routed-prefix");
        match (interface.services.stg, interface.routed.is_empty()) {
            (true, true) => self.missing(
                &path.key("assigned-services"),
                "[[tscf-interface.routed-prefix]], which the service STG grants,",
                "add one for each gateway, or remove STG from assigned-services",
            ),
            (false, false) => self.conflict(
                &table,
                "has no effect without the service STG",
                "add assigned-services = [\"STG\"]",
            ),
            (true, false) if matches!(interface.authentication, Authentication::None) => self
                .conflict(
                    &table,
                    "has no effect without authentication: no client has an identity",
                    "use authentication = \"mtls\" or \"token\"",
                ),
            (true, false) | (false, true) => {}
        }
        for (index, routed) in interface.routed.iter().enumerate() {
            let at = table.index(index);
            let earlier = interface.routed.iter().take(index);
            if earlier
                .into_iter()
                .any(|other| other.identity == routed.identity)
            {
                let what = format!("the identity \"{}\"", routed.identity);
                self.duplicate(
                    &at.key("identity"),
                    what,
                    "give each its prefixes in one table",
                );
            }
            for (number, net) in routed.prefixes.iter().enumerate() {
                let at = at.key("prefixes").index(number);
                self.routed(&routed.prefixes, number, *net, &at);
            }
        }
    }

    fn routed(&self, all: &[IpNet], number: usize, net: IpNet, at: &KeyPath) {
        let routable = Prefix::new(net.addr(), net.prefix_len()).is_ok_and(|p| p.is_routable());
        let whole = AddressRange::new(net.network(), net.broadcast());
        let mut pools = self.config.pools.iter();
        let pool = pools.find(|pool| {
            let mut ranges = pool.ranges.iter();
            ranges.any(|range| whole.is_ok_and(|whole| range.intersection(&whole).is_some()))
        });
        let mut before = all.iter().take(number);
        let overlap = before.find(|other| other.contains(&net) || net.contains(*other));
        if !routable {
            let reason = format!("{net} must not be routed to a client");
            self.conflict(at, reason, "name a network of hosts behind the gateway");
        } else if let Some(pool) = pool {
            let reason = format!("{net} overlaps pool \"{}\"", pool.name);
            self.conflict(
                at,
                reason,
                "pools are for clients, prefixes for what is behind them",
            );
        } else if let Some(other) = overlap {
            let reason = format!("{net} overlaps {other} of the same gateway");
            self.conflict(at, reason, "write the larger one only");
        }
    }

    fn policy(&self, policy: &PolicyConfig, path: &KeyPath) {
        if let Some(remote) = policy.remote_address {
            let at = path.key("remote-ip-address");
            match policy.destination {
                None => self.missing(
                    &at,
                    "\"ip-address\", the destinations that are rewritten,",
                    "add ip-address = \"10.0.0.5\", or a network",
                ),
                Some(net) if net.addr().is_ipv4() != remote.is_ipv4() => {
                    let reason = format!("{remote} is not of the family of {net}");
                    let help = "rewrite IPv4 to IPv4 and IPv6 to IPv6: packets are not translated";
                    self.conflict(&at, reason, help);
                }
                Some(_) if remote.is_unspecified() || remote.is_multicast() => {
                    let reason = format!("{remote} is no address of one host");
                    self.conflict(&at, reason, "write the address of one host");
                }
                Some(_) => {}
            }
        }
        if policy.remote_port.is_some() && policy.ports.is_none() {
            self.missing(
                &path.key("remote-port"),
                "\"port\", the ports that are rewritten,",
                "add port = 5060, or a range",
            );
        }
        let rewrites = policy.remote_address.is_some() || policy.remote_port.is_some();
        let drops = policy
            .egress
            .is_some_and(|egress| egress.egress().is_none());
        if rewrites && drops {
            self.conflict(
                &path.key("egress"),
                "drops packets, so there is nothing to rewrite",
                "remove remote-ip-address and remote-port, or use another egress",
            );
        }
        if !rewrites && policy.egress.is_none() {
            self.missing(
                path,
                "\"egress\" or \"remote-ip-address\"",
                "say what becomes of the packets, such as egress = \"drop\"",
            );
        }
    }

    fn pool_egress(&self, pool: &PoolConfig, path: &KeyPath) {
        let policies = path.key("protocol-policy");
        for (index, name) in pool.policies.iter().enumerate() {
            let at = policies.index(index);
            if pool.policies.iter().take(index).any(|other| other == name) {
                self.duplicate(&at, format!("the policy \"{name}\""), "name it once");
            }
            if self.config.policy(name).is_none() {
                let known = self
                    .config
                    .policies
                    .iter()
                    .map(|policy| policy.name.as_str());
                self.unknown(&at, "tscf-protocol-policy", name, known);
            }
        }
        if let Some(name) = &pool.data_flow
            && self.config.data_flow(name).is_none()
        {
            let known = self.config.data_flows.iter().map(|flow| flow.name.as_str());
            self.unknown(&path.key("data-flow"), "tscf-data-flow", name, known);
        }
    }

    fn tun(&self) {
        let tun = &self.config.tun;
        let path = KeyPath::of("tun-egress");
        let ipv6_pool = |pool: &&PoolConfig| pool.has_family(true);
        if let Some(mtu) = tun.mtu
            && mtu < super::check::IPV6_MIN_MTU
            && self.config.uses(Egress::Tun)
            && let Some(pool) = self.config.pools.iter().find(ipv6_pool)
        {
            let reason = format!(
                "{mtu} is too small for the IPv6 addresses of pool \"{}\"",
                pool.name
            );
            let help = format!("use {} or more", super::check::IPV6_MIN_MTU);
            self.conflict(&path.key("mtu"), reason, help);
        }
        for (index, address) in tun.addresses.iter().enumerate() {
            let host = address.addr();
            if host.is_unspecified() || host.is_multicast() || host.is_loopback() {
                let reason = format!("{host} is no address that a device can have");
                let at = path.key("addresses").index(index);
                self.conflict(
                    &at,
                    reason,
                    "write one address of this host with its prefix length",
                );
            }
            let ranges = self
                .config
                .pools
                .iter()
                .flat_map(|pool| pool.ranges.iter().map(move |range| (pool, range)));
            let leased = ranges.filter(|(pool, range)| {
                range.contains(host) && !pool.exclude.iter().any(|out| out.contains(host))
            });
            for (pool, _) in leased {
                let reason = format!("{host} is an address of pool \"{}\" too", pool.name);
                let at = path.key("addresses").index(index);
                self.conflict(&at, reason, "exclude it from the pool");
            }
        }
    }
}
