//! What must agree between the parts of a configuration.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use tsc_csm::CompanionRole;

use super::document::{Document, KeyPath};
use super::error::ConfigErrorKind;
use super::model::{
    Authentication, Config, DtlsBackend, InterfaceConfig, MAX_ADDRESSES, MAX_POOL_ADDRESSES,
    PoolConfig, TlsProfile, TraceRedaction,
};
use super::range::AddressRange;
use super::source::PemRef;
use super::value::suggestion;

/// Least inner MTU with IPv6 (RFC 8200, 5; spec 7).
pub(super) const IPV6_MIN_MTU: u16 = 1280;

/// Networks that no client can have an address of.
const UNUSABLE: &[&str] = &[
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/3",
    "::/96",
    "::ffff:0:0/96",
    "fe80::/10",
    "ff00::/8",
];

/// Checks a configuration whose single values are right.
pub(super) struct Checker<'a> {
    pub(super) config: &'a Config,
    /// Positions of the config's interfaces in the file, where disabled ones count too.
    pub(super) positions: &'a [usize],
    pub(super) document: &'a Document<'a>,
}

impl Checker<'_> {
    /// Notes everything that does not agree.
    pub(super) fn run(&self) {
        let config = self.config;
        self.unique_names(
            "tls-profile",
            config.tls_profiles.iter().map(|p| p.name.as_str()),
        );
        self.unique_names(
            "tscf-address-pool",
            config.pools.iter().map(|p| p.name.as_str()),
        );
        if config.pools.is_empty() {
            self.missing(
                &KeyPath::of("tscf-address-pool"),
                "[[tscf-address-pool]]",
                "add a pool of inner addresses for the clients",
            );
        }
        if config.interfaces.is_empty() {
            self.missing(
                &KeyPath::of("tscf-interface"),
                "an enabled [[tscf-interface]]",
                "add one, or set state = \"enabled\"",
            );
        }
        if config.system.trace_directory.is_some() && config.system.control_socket.is_none() {
            self.conflict(
                &KeyPath::of("tscf-config").key("trace-directory"),
                "has no effect without \"control-socket\", by which captures are started",
                "add control-socket, or leave it out; a capture from the start on is trace-file",
            );
        }
        let secrets = KeyPath::of("tscf-config").key("trace-insecure-decryption-secrets");
        if config.system.trace_insecure_decryption_secrets
            && config.system.trace_redaction != TraceRedaction::None
        {
            self.conflict(
                &secrets,
                "would undo \"trace-redaction\"",
                "leave out one of them",
            );
        }
        let system = &config.system;
        for (is_on, key) in [
            (system.trace_outer, "trace-outer"),
            (
                system.trace_insecure_decryption_secrets,
                "trace-insecure-decryption-secrets",
            ),
        ] {
            if is_on && system.trace_file.is_none() {
                self.conflict(
                    &KeyPath::of("tscf-config").key(key),
                    "has no effect without \"trace-file\"",
                    "add trace-file, or leave it out",
                );
            }
        }
        self.pools();
        self.egress();
        self.interface_names();
        self.sockets();
        for (interface, path) in self.interfaces() {
            self.interface(interface, &path);
        }
    }

    fn fail(&self, path: &KeyPath, kind: ConfigErrorKind, help: impl Into<String>) {
        self.document.consequence(path, kind, help.into());
    }

    pub(super) fn conflict(
        &self,
        path: &KeyPath,
        reason: impl Into<String>,
        help: impl Into<String>,
    ) {
        let reason = reason.into();
        self.fail(path, ConfigErrorKind::Conflict { reason }, help);
    }

    pub(super) fn missing(&self, path: &KeyPath, what: &str, help: &str) {
        let what = what.to_owned();
        self.fail(path, ConfigErrorKind::Missing { what }, help);
    }

    pub(super) fn duplicate(&self, path: &KeyPath, what: String, help: &str) {
        self.fail(path, ConfigErrorKind::Duplicate { what }, help);
    }

    fn interfaces(&self) -> impl Iterator<Item = (&InterfaceConfig, KeyPath)> {
        let path = |position: &usize| KeyPath::of("tscf-interface").index(*position);
        self.config
            .interfaces
            .iter()
            .zip(self.positions.iter().map(path))
    }

    /// Names of one kind of table must differ.
    pub(super) fn unique_names<'n>(&self, table: &str, names: impl Iterator<Item = &'n str>) {
        let mut seen = Vec::new();
        for (index, name) in names.enumerate() {
            if !name.is_empty() && seen.contains(&name) {
                let path = KeyPath::of(table).index(index).key("name");
                self.duplicate(
                    &path,
                    format!("the name \"{name}\""),
                    "give each its own name",
                );
            }
            seen.push(name);
        }
    }

    fn interface_names(&self) {
        let mut seen = Vec::new();
        for (interface, path) in self.interfaces() {
            let name = interface.name.as_str();
            if !name.is_empty() && seen.contains(&name) {
                let what = format!("the realm \"{name}\"");
                self.duplicate(&path.key("realm-id"), what, "give each interface its own");
            }
            seen.push(name);
        }
    }

    fn pools(&self) {
        let mut taken: Vec<(AddressRange, usize, usize)> = Vec::new();
        let mut total = 0_u128;
        for (position, pool) in self.config.pools.iter().enumerate() {
            let path = KeyPath::of("tscf-address-pool").index(position);
            for (index, range) in pool.ranges.iter().enumerate() {
                self.usable(range, &path.key("address-range").index(index));
                taken.push((*range, position, index));
            }
            total = total.saturating_add(self.pool(pool, &path));
        }
        self.overlaps(taken);
        if total > MAX_ADDRESSES {
            let path = KeyPath::of("tscf-address-pool");
            let reason = format!("all pools together hold more than {MAX_ADDRESSES} addresses");
            self.conflict(
                &path,
                reason,
                "make them smaller: each address costs memory",
            );
        }
    }

    fn usable(&self, range: &AddressRange, path: &KeyPath) {
        let networks = UNUSABLE
            .iter()
            .filter_map(|text| text.parse::<IpNet>().ok());
        for network in networks {
            let whole = AddressRange::new(network.network(), network.broadcast());
            if whole.is_ok_and(|whole| range.intersection(&whole).is_some()) {
                let reason =
                    format!("{range} reaches into {network}, which is no network of hosts");
                self.conflict(path, reason, "use addresses that clients can have");
            }
        }
    }

    /// Neighbours in address order are the only ones that need comparing with the highest end so far.
    fn overlaps(&self, mut taken: Vec<(AddressRange, usize, usize)>) {
        taken.sort_unstable();
        let mut highest: Option<(AddressRange, usize)> = None;
        for (range, pool, index) in taken {
            if let Some((other, other_pool)) = highest
                && let Some(shared) = other.intersection(&range)
            {
                let name = self.config.pools.get(other_pool).map_or("", |p| &p.name);
                let path = KeyPath::of("tscf-address-pool").index(pool);
                let reason = format!("{range} shares {shared} with pool \"{name}\"");
                self.conflict(
                    &path.key("address-range").index(index),
                    reason,
                    "let each address belong to one range only",
                );
            }
            if highest.is_none_or(|(other, _)| {
                other.is_ipv6() != range.is_ipv6() || other.last() < range.last()
            }) {
                highest = Some((range, pool));
            }
        }
    }

    /// Checks one pool by itself; gives the number of its addresses.
    fn pool(&self, pool: &PoolConfig, path: &KeyPath) -> u128 {
        let ranges = path.key("address-range");
        if pool.ranges.is_empty() {
            self.missing(
                &ranges,
                "an address",
                "add address-range = [\"10.0.0.0/24\"]",
            );
            return 0;
        }
        let sum = |all: &[AddressRange]| {
            all.iter()
                .fold(0_u128, |sum, range| sum.saturating_add(range.size()))
        };
        let size = sum(&pool.ranges);
        if size > MAX_POOL_ADDRESSES {
            let reason = format!("the pool holds more than {MAX_POOL_ADDRESSES} addresses");
            let help = "each address costs memory: use up to /12 of IPv4 or /108 of IPv6";
            self.conflict(&ranges, reason, help);
            return 0;
        }
        let mut excluded = Vec::new();
        for (index, exclusion) in pool.exclude.iter().enumerate() {
            let at = path.key("exclude").index(index);
            let shared = pool
                .ranges
                .iter()
                .filter_map(|range| range.intersection(exclusion));
            let before = excluded.len();
            excluded.extend(shared);
            if excluded.len() == before {
                let reason = format!("{exclusion} lies in no address-range of this pool");
                self.conflict(&at, reason, "correct or remove it");
            }
        }
        // Exclusions may overlap each other, so this never claims an empty pool that is not.
        excluded.sort_unstable();
        let mut left = size;
        let mut end: Option<IpAddr> = None;
        for range in excluded {
            let fresh = match end {
                Some(end) if end >= range.last() => continue,
                Some(end) if end >= range.first() => AddressRange::new(end, range.last())
                    .map_or(0, |rest| rest.size().saturating_sub(1)),
                Some(_) | None => range.size(),
            };
            left = left.saturating_sub(fresh);
            end = Some(range.last());
        }
        if left == 0 {
            let reason = "the exclusions leave no address".to_owned();
            self.conflict(&path.key("exclude"), reason, "exclude less");
        }
        size
    }

    /// No two sockets of one kind may want the same address and port.
    fn sockets(&self) {
        let mut taken: BTreeMap<(bool, bool, u16), Vec<(IpAddr, SocketAddr)>> = BTreeMap::new();
        for (interface, path) in self.interfaces() {
            for (index, port) in interface.ports.iter().enumerate() {
                let (address, number) = (port.listen.ip(), port.listen.port());
                if number == 0 {
                    continue;
                }
                let kinds = [
                    (port.transports.stream(), false),
                    (port.transports.datagram(), true),
                ];
                for datagram in kinds
                    .iter()
                    .filter(|(used, _)| *used)
                    .map(|(_, kind)| *kind)
                {
                    let others = taken
                        .entry((datagram, address.is_ipv6(), number))
                        .or_default();
                    let clash = others.iter().find(|(other, _)| {
                        *other == address || other.is_unspecified() || address.is_unspecified()
                    });
                    if let Some((_, other)) = clash {
                        let kind = if datagram { "UDP" } else { "TCP" };
                        let reason = format!(
                            "the {kind} port {} is taken by {other} already",
                            port.listen
                        );
                        self.conflict(
                            &path.key("tscf-port").index(index).key("port"),
                            reason,
                            "use another port, or list both transports in one tscf-port: \
                             tcp and tls share one, udp and dtls another",
                        );
                    }
                    others.push((address, port.listen));
                }
            }
        }
    }

    fn interface(&self, interface: &InterfaceConfig, path: &KeyPath) {
        if interface.ports.is_empty() {
            let what = "[[tscf-interface.tscf-port]]";
            self.missing(&path.key("tscf-port"), what, "add a port to listen on");
        }
        self.interface_pools(interface, path);
        self.interface_servers(interface, path);
        self.interface_ports(interface, path);
        self.interface_marks(interface, path);
        self.interface_encryption(interface, path);
        self.interface_routed(interface, path);
        self.interface_authentication(interface, path);
    }

    fn interface_pools(&self, interface: &InterfaceConfig, path: &KeyPath) {
        let pools = path.key("local-address-pools");
        if interface.pools.is_empty() {
            self.missing(&pools, "a pool", "name at least one [[tscf-address-pool]]");
            return;
        }
        let mut ipv6 = None;
        for (index, name) in interface.pools.iter().enumerate() {
            let at = pools.index(index);
            let earlier = interface.pools.iter().take(index);
            if earlier.into_iter().any(|other| other == name) {
                self.duplicate(&at, format!("the pool \"{name}\""), "name it once");
            }
            match self.config.pool(name) {
                Some(pool) if pool.has_family(true) => ipv6 = Some(name),
                Some(_) => {}
                None => self.unknown(
                    &at,
                    "tscf-address-pool",
                    name,
                    self.config.pools.iter().map(|p| p.name.as_str()),
                ),
            }
        }
        if let Some(pool) = ipv6
            && interface.inner_mtu < IPV6_MIN_MTU
        {
            let reason = format!(
                "{} is too small for the IPv6 addresses of pool \"{pool}\"",
                interface.inner_mtu
            );
            let help = format!("use {IPV6_MIN_MTU} or more, or only IPv4 pools");
            self.conflict(&path.key("inner-mtu"), reason, help);
        }
    }

    pub(super) fn unknown<'n>(
        &self,
        path: &KeyPath,
        what: &'static str,
        name: &str,
        known: impl Iterator<Item = &'n str>,
    ) {
        let kind = ConfigErrorKind::UnknownName {
            what,
            name: super::error::shown(name),
        };
        let known: Vec<&str> = known.filter(|known| !known.is_empty()).collect();
        let help = if known.is_empty() {
            format!("add [[{what}]] with this name")
        } else {
            suggestion(name, known.into_iter())
        };
        self.fail(path, kind, help);
    }

    fn interface_servers(&self, interface: &InterfaceConfig, path: &KeyPath) {
        let servers = path.key("sip-servers");
        match (interface.services.sip, interface.sip_servers.is_empty()) {
            (true, true) => self.missing(
                &servers,
                "\"sip-servers\", which the service SIP assigns,",
                "add sip-servers = [\"10.0.0.5:5060\"], or remove SIP from assigned-services",
            ),
            (false, false) => self.conflict(
                &servers,
                "has no effect without the service SIP",
                "add assigned-services = [\"SIP\"]",
            ),
            (true, false) | (false, true) => {}
        }
        for (index, server) in interface.sip_servers.iter().enumerate() {
            self.reachable_inside(&servers.index(index), *server);
        }
        for (index, server) in interface.dns_servers.iter().enumerate() {
            self.reachable_inside(
                &path.key("dns-servers").index(index),
                SocketAddr::new(*server, 53),
            );
        }
        let alternates = path.key("alternate-servers");
        for (index, alternate) in interface.alternates.iter().enumerate() {
            self.reachable(&alternates.index(index), alternate.address);
        }
        if interface.redirect && interface.alternates.is_empty() {
            self.missing(
                &path.key("redirect"),
                "\"alternate-servers\", to which clients are redirected,",
                "add alternate-servers = [\"tls://192.0.2.1:5061\"], or remove redirect",
            );
        }
    }

    /// What clients are told must be something they can send to.
    /// A server that clients reach through their tunnels: each would take a loopback address for itself.
    fn reachable_inside(&self, path: &KeyPath, server: SocketAddr) {
        if server.ip().is_loopback() {
            let reason = format!("{server} is every client itself, not a host behind the tunnel");
            self.conflict(path, reason, "write an address of this host's network");
        } else {
            self.reachable(path, server);
        }
    }

    fn reachable(&self, path: &KeyPath, server: SocketAddr) {
        let address = server.ip();
        if address.is_unspecified() || address.is_multicast() || server.port() == 0 {
            let reason = format!("{server} is nothing that a client can send to");
            self.conflict(path, reason, "write the address and port of one host");
        }
    }

    fn interface_ports(&self, interface: &InterfaceConfig, path: &KeyPath) {
        for (index, port) in interface.ports.iter().enumerate() {
            let at = path.key("tscf-port").index(index);
            let transports = &at.key("transport-protocol");
            if port.listen.ip().is_multicast() {
                let reason = format!("{} is no address to listen on", port.listen.ip());
                self.conflict(&at.key("address"), reason, "use an address of this host");
            }
            if port.transports.iter().next().is_none() {
                self.missing(transports, "a transport", "list tcp, tls, udp or dtls");
                continue;
            }
            if port.transports.dtls && DtlsBackend::preferred().is_none() {
                self.conflict(
                    transports,
                    "needs DTLS, and this build contains no DTLS backend",
                    "build with --features dtls-openssl, or remove \"dtls\"",
                );
            }
            let named = at.key("tls-profile");
            match (&port.tls_profile, port.transports.protected()) {
                (None, true) => self.missing(
                    &named,
                    "\"tls-profile\", which tls and dtls need,",
                    "add tls-profile = \"…\", the name of a [[tls-profile]]",
                ),
                (Some(_), false) => self.conflict(
                    &named,
                    "has no effect without tls or dtls: this port is not protected",
                    "remove it, or use transport-protocol = \"tls\" or \"dtls\"",
                ),
                (Some(name), true) => {
                    if self.config.tls_profile(name).is_none() {
                        let known = self.config.tls_profiles.iter().map(|p| p.name.as_str());
                        self.unknown(&named, "tls-profile", name, known);
                    }
                }
                (None, false) => {}
            }
        }
    }

    /// One connection has one mark.
    fn interface_marks(&self, interface: &InterfaceConfig, path: &KeyPath) {
        let datagrams = interface
            .ports
            .iter()
            .any(|port| port.transports.datagram());
        if interface.outer_dscp.is_copy() && !datagrams {
            self.conflict(
                &path.key("outer-dscp"),
                "has no effect on tcp and tls, where packets of all marks share a connection",
                "give a number, with which all outer packets are marked, or remove it",
            );
        }
    }

    /// What the service DTTE opens beside a clear transport has a port.
    fn interface_encryption(&self, interface: &InterfaceConfig, path: &KeyPath) {
        if !interface.services.dtte {
            return;
        }
        let role = CompanionRole::Dtte;
        for (index, port) in interface.ports.iter().enumerate() {
            let (from, at) = (port.listen.ip(), path.key("tscf-port").index(index));
            // A wildcard of the other IP version is nowhere that these clients could be told of.
            let is_beside = |to: IpAddr| !to.is_unspecified() || to.is_ipv4() == from.is_ipv4();
            for clear in port
                .transports
                .iter()
                .filter(|spoken| !spoken.is_protected())
            {
                let Some(wanted) = role.transport(clear) else {
                    continue;
                };
                let mut ports = interface.ports.iter();
                if ports.any(|p| p.transports.contains(wanted) && is_beside(p.listen.ip())) {
                    continue;
                }
                let number = role.default_port(port.listen.port());
                let number = number.filter(|_| port.listen.port() != 0);
                let place = number.map_or_else(String::new, |number| format!(" at port {number}"));
                let reason = format!(
                    "has {clear}, and nothing listens for {wanted}, over which DTTE encrypts beside it"
                );
                let help = format!(
                    "add a tscf-port with \"{wanted}\"{place} to the interface, or remove DTTE from assigned-services"
                );
                self.conflict(&at.key("transport-protocol"), reason, help);
            }
        }
    }

    fn interface_authentication(&self, interface: &InterfaceConfig, path: &KeyPath) {
        for (index, port) in interface.ports.iter().enumerate() {
            let at = path.key("tscf-port").index(index);
            let clear = port.transports.clear();
            match &interface.authentication {
                Authentication::Mtls if clear => self.conflict(
                    &at.key("transport-protocol"),
                    "has a clear transport, which cannot carry client certificates",
                    "use tls and dtls only, or another authentication",
                ),
                Authentication::Token(token) if clear && !token.allow_on_clear => self.conflict(
                    &at.key("transport-protocol"),
                    "has a clear transport, on which anyone on the path could read the token",
                    "use tls and dtls only, or set allow-token-on-clear = true",
                ),
                Authentication::None | Authentication::Mtls | Authentication::Token(_) => {}
            }
            let profile = port.tls_profile.as_ref();
            if let Some(name) = profile
                && matches!(interface.authentication, Authentication::Mtls)
                && port.transports.protected()
                && self
                    .config
                    .tls_profile(name)
                    .is_some_and(|p| p.client_ca.is_empty())
            {
                self.conflict(
                    &at.key("tls-profile"),
                    format!("authentication = \"mtls\" needs the client-ca of \"{name}\""),
                    "add client-ca = [\"ca.pem\"] to the profile",
                );
            }
        }
    }
}

/// Loads the certificates, keys and authorities of a profile; notes those that cannot be used.
pub(super) fn credentials(profile: &TlsProfile, path: &KeyPath, document: &Document<'_>) {
    let fail = |key: &str, reason: String, help: &str| {
        let kind = ConfigErrorKind::Credential { reason };
        document.consequence(&path.key(key), kind, help.to_owned());
    };
    let refused = |pem: &PemRef| pem.path.as_os_str().is_empty();
    if refused(&profile.certificate) || refused(&profile.private_key) {
        return;
    }
    if let Err(error) = profile.identity() {
        fail(
            "certificate",
            format!("cannot be used with its private-key: {error}"),
            "check both paths, that the server's user may read them, and that the key belongs to the first certificate",
        );
    }
    if let Err(error) = profile.client_roots() {
        fail(
            "client-ca",
            format!("cannot be used: {error}"),
            "name PEM files of the authorities that sign your clients' certificates",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A misspelt network would be skipped in silence.
    #[test]
    fn every_unusable_network_parses() {
        for text in UNUSABLE {
            let network: IpNet = text.parse().unwrap();
            assert_eq!(network, network.trunc(), "{text}");
        }
    }
}
