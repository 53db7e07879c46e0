//! The ways that an application names, and what the control plane calls them.

use tsc_csm::{
    Transport,
    client::{Endpoint, Target},
};

use tsc_osaa::{client::Host, proxy::ProxySettings, resolve::DEFAULT_PORT};

use crate::server::Server;

/// One way that the application named.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) server: Server,
    /// Through the proxy that is set for it.
    pub(crate) proxied: bool,
}

impl Route {
    /// By which it is remembered.
    pub(crate) fn name(&self) -> String {
        let way = if self.proxied { " through a proxy" } else { "" };
        format!("{}{way}", self.server)
    }
}

/// The ways to the servers, in order: where a proxy is set for one, through that; and directly too if `direct` says so.
pub(crate) fn ways(servers: Vec<Server>, proxy: &ProxySettings, direct: bool) -> Vec<Route> {
    let mut routes = Vec::new();
    for server in servers {
        let port = server.port().unwrap_or(DEFAULT_PORT);
        let host = server.host().parse::<Host>();
        let proxied = host.is_ok_and(|host| proxy.for_target(&host, port).is_some());
        let carries = matches!(server.transport(), Transport::Tcp | Transport::Tls);
        if !proxied || direct {
            let server = server.clone();
            routes.push(Route {
                server,
                proxied: false,
            });
        }
        // A proxy that does not carry it says so, if nobody else may.
        if proxied && (carries || !direct) {
            routes.push(Route {
                server,
                proxied: true,
            });
        }
    }
    routes
}

/// All of them, in order of preference.
#[derive(Clone, Debug, Default)]
pub(crate) struct Routes(Vec<(Target, Route)>);

impl Routes {
    /// The control plane lets a *host* rest that was busy, whatever the transport, so all ways to a host share an endpoint: the
    /// index of the first. A second way by the same transport stands for itself.
    pub(crate) fn new(routes: impl IntoIterator<Item = Route>) -> Self {
        let mut all: Vec<(Target, Route)> = Vec::new();
        for route in routes {
            let transport = route.server.transport();
            let same_host =
                |(_, other): &(Target, Route)| other.server.host() == route.server.host();
            let index = all.len();
            let shared = Target {
                transport,
                endpoint: Endpoint::Configured(all.iter().position(same_host).unwrap_or(index)),
            };
            let target = if all.iter().any(|(target, _)| *target == shared) {
                Target {
                    transport,
                    endpoint: Endpoint::Configured(index),
                }
            } else {
                shared
            };
            all.push((target, route));
        }
        Self(all)
    }

    pub(crate) fn targets(&self) -> Vec<Target> {
        self.0.iter().map(|(target, _)| *target).collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Route> {
        self.0.iter().map(|(_, route)| route)
    }

    /// The way that a configured target stands for.
    pub(crate) fn of(&self, target: Target) -> Option<&Route> {
        let found = self.0.iter().find(|(known, _)| *known == target);
        found.map(|(_, route)| route)
    }

    /// The way whose certificate name the targets of `origin` have.
    pub(crate) fn origin(&self, origin: usize) -> Option<&Route> {
        self.0.get(origin).map(|(_, route)| route)
    }

    /// The target with this name.
    pub(crate) fn named(&self, name: &str) -> Option<Target> {
        let found = self.0.iter().find(|(_, route)| route.name() == name);
        found.map(|(target, _)| *target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_to_one_host_share_an_endpoint_and_every_target_leads_back() {
        let servers: Vec<Server> = [
            "tls://a:1",
            "udp://a:2",
            "tls://b:1",
            "tls://a:3",
            "dtls://b:1",
            "udp://a:4",
        ]
        .map(|url| url.parse().unwrap())
        .into();
        let routes = Routes::new(ways(servers.clone(), &ProxySettings::direct(), false));
        let targets = routes.targets();
        let endpoints: Vec<usize> = targets
            .iter()
            .map(|target| target.endpoint.origin())
            .collect();
        assert_eq!(endpoints, [0, 0, 2, 3, 2, 5]);
        for (server, target) in servers.iter().zip(&targets) {
            let route = routes.of(*target).unwrap();
            assert_eq!(&route.server, server);
            assert_eq!(routes.named(&route.name()), Some(*target));
        }
    }

    #[test]
    fn a_proxy_is_another_way_for_streams_or_the_only_one() {
        let servers = ["tls://a:1", "udp://a:2", "tcp://inside:3"];
        let servers: Vec<Server> = servers.map(|url| url.parse().unwrap()).into();
        let proxy: tsc_osaa::proxy::Proxy = "http://proxy:3128".parse().unwrap();
        let settings =
            ProxySettings::from(proxy).with_exceptions(tsc_osaa::proxy::NoProxy::new("inside"));
        let names = |direct| -> Vec<String> {
            let routes = ways(servers.clone(), &settings, direct);
            routes.iter().map(Route::name).collect()
        };
        assert_eq!(
            names(false),
            [
                "tls://a:1 through a proxy",
                "udp://a:2 through a proxy",
                "tcp://inside:3"
            ]
        );
        assert_eq!(
            names(true),
            [
                "tls://a:1",
                "tls://a:1 through a proxy",
                "udp://a:2",
                "tcp://inside:3"
            ]
        );
    }
}
