//! What each inner packet is worth on its way: rates, policies, and what was rewritten.
//!
//! ```text
//!  from a tunnel --> upstream rate --> policy --> destination rewritten --> egress or tunnel
//!  to a tunnel  <-- downstream rate <-- source rewritten back <-- egress or tunnel
//! ```
//!
//! A packet from one tunnel to another goes both ways. Nothing here touches a packet: the worker applies the
//! [`Edits`] to its copy. The cost for a packet of a pool without policies and flows is one search of the few pool
//! ranges; with policies at most [`MAX_POLICIES`](crate::config::MAX_POLICIES) comparisons, and one hash lookup where
//! any of them rewrites.

use std::{net::IpAddr, time::Instant};

use tsc_csm::server::SessionId;

use super::{
    flows::{FlowKey, Flows, FragmentKey, Told},
    headers::{Headers, Part},
    policy::{Aim, Decision, Policies, PortElsewhere},
    pools::{Place, PoolTable},
    rates::AllRates,
    rewrite::{Edits, End, Side},
};
use crate::config::{Config, Egress};

/// Why a packet ends here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Faster than the data flow allows. Not told to anybody, as by a network.
    Rate,
    /// A policy says so.
    Policy,
    /// A fragment whose first was not seen, or a packet that cannot be read, where a policy depends on it; or more flows
    /// than are remembered.
    Unknown,
}

/// Where a packet of a tunnel goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outgoing {
    /// Its destination, rewritten.
    pub(crate) destination: IpAddr,
    /// The way to addresses that are not ours.
    pub(crate) egress: Egress,
    /// What is changed in it.
    pub(crate) edits: Edits,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Router {
    table: PoolTable,
    pools: Vec<Pool>,
    /// By pool; shared with the other workers.
    rates: AllRates,
    flows: Flows,
    /// Where the first address of each tunnel is, by the tunnel's slot: for packets of routed prefixes, which are in no
    /// pool.
    homes: Vec<Option<(SessionId, Place)>>,
}

#[derive(Debug)]
struct Pool {
    egress: Egress,
    policies: Policies,
}

impl Router {
    /// `rates` are those of `config`.
    pub(crate) fn new(config: &Config, rates: AllRates) -> Self {
        let pools = config.pools.iter().map(|pool| Pool {
            egress: pool.egress,
            policies: Policies::new(config, pool),
        });
        Self {
            table: PoolTable::new(&config.pools),
            pools: pools.collect(),
            rates,
            flows: Flows::new(),
            homes: Vec::new(),
        }
    }

    /// A tunnel has come up with these addresses.
    pub(crate) fn session_up(&mut self, session: SessionId, addresses: &[IpAddr]) {
        let Some(place) = addresses
            .iter()
            .find_map(|address| self.table.find(*address))
        else {
            return;
        };
        let index = session.index();
        if index >= self.homes.len() {
            self.homes.resize(index + 1, None);
        }
        if let Some(home) = self.homes.get_mut(index) {
            *home = Some((session, place));
        }
    }

    /// Whether tunnels have, or may have, this address.
    pub(crate) fn is_ours(&self, address: IpAddr) -> bool {
        self.table.find(address).is_some()
    }

    /// Where an address of the tunnel is.
    fn place(&self, session: SessionId, address: IpAddr) -> Option<Place> {
        self.table.find(address).or_else(|| {
            let (owner, place) = (*self.homes.get(session.index())?)?;
            (owner == session).then_some(place)
        })
    }

    /// Decides about a packet of the tunnel `from`, whose source was checked.
    ///
    /// # Errors
    ///
    /// [`Refusal`].
    pub(crate) fn outgoing(
        &mut self,
        now: Instant,
        from: SessionId,
        source: IpAddr,
        destination: IpAddr,
        packet: &[u8],
    ) -> Result<Outgoing, Refusal> {
        let mut outgoing = Outgoing {
            destination,
            egress: Egress::Switch,
            edits: Edits::default(),
        };
        let Some(place) = self.place(from, source) else {
            return Ok(outgoing);
        };
        let Some(pool) = self.pools.get_mut(place.pool) else {
            return Ok(outgoing);
        };
        if let Some(Some(rates)) = self.rates.get(place.pool)
            && !rates.upstream(now, place, packet.len())
        {
            return Err(Refusal::Rate);
        }
        outgoing.egress = pool.egress;
        if pool.policies.is_empty() {
            return Ok(outgoing);
        }
        let headers = Headers::of(packet).ok_or(Refusal::Unknown)?;
        let policies = &pool.policies;
        if let Some(at) = headers.quote(packet).filter(|_| policies.rewrite())
            && let Some(decision) = answered_by_error(policies, packet, at, &mut outgoing)
        {
            outgoing.egress = choice(decision, outgoing.egress)?;
            return Ok(outgoing);
        }
        let decision = decide(policies, &mut self.flows, now, from, &headers, packet)?;
        outgoing.egress = choice(decision, outgoing.egress)?;
        let Some(remote) = decision.rewrite else {
            return Ok(outgoing);
        };
        outgoing.destination = remote.address;
        outgoing.edits.destination = Some(remote);
        if headers.part != Part::Later {
            let (from_port, to_port) = headers.ports(packet).unwrap_or_default();
            let key = FlowKey {
                client: (source, from_port),
                remote: (remote.address, remote.port.unwrap_or(to_port)),
                protocol: headers.protocol,
            };
            let origin = End {
                address: destination,
                port: headers.has_ports().then_some(to_port),
            };
            if !self.flows.note(now, from.index(), key, origin) {
                return Err(Refusal::Unknown);
            }
        }
        Ok(outgoing)
    }

    /// Decides about a packet for the tunnel `to`, and adds what is changed back in it to `edits`. `packet` has the
    /// source that it came with, and is for `destination`.
    ///
    /// # Errors
    ///
    /// [`Refusal`].
    pub(crate) fn incoming(
        &mut self,
        now: Instant,
        to: SessionId,
        destination: IpAddr,
        packet: &[u8],
        edits: &mut Edits,
    ) -> Result<(), Refusal> {
        let Some(place) = self.place(to, destination) else {
            return Ok(());
        };
        let Some(pool) = self.pools.get_mut(place.pool) else {
            return Ok(());
        };
        if let Some(Some(rates)) = self.rates.get(place.pool)
            && !rates.downstream(now, place, packet.len())
        {
            return Err(Refusal::Rate);
        }
        if !pool.policies.rewrite() {
            return Ok(());
        }
        let headers = Headers::of(packet).ok_or(Refusal::Unknown)?;
        // The tunnel's end of it, as it is after what was changed on the way out.
        let local_port = |port| edits.destination.and_then(|end| end.port).unwrap_or(port);
        if let Some(at) = headers.quote(packet) {
            let quoted = packet.get(at..).unwrap_or_default();
            let known = Headers::of(quoted).and_then(|inner| {
                let (client_port, port) = inner.ports(quoted).unwrap_or_default();
                let key = FlowKey {
                    client: (inner.source, client_port),
                    remote: (inner.destination, port),
                    protocol: inner.protocol,
                };
                let aim = Aim::destination(&inner, quoted);
                let origin = self.flows.origin(now, key);
                let origin = origin.or_else(|| pool.policies.origin(aim).ok().flatten());
                Some((inner.destination, origin?))
            });
            if let Some((remote, origin)) = known {
                edits.quoted = Some((Side::Destination, origin));
                if headers.source == remote {
                    edits.source = Some(End {
                        port: None,
                        ..origin
                    });
                }
            }
            return Ok(());
        }
        let key = fragment_key(&headers);
        if headers.part == Part::Later {
            edits.source = match self.flows.told_in(now, key) {
                Some(origin) => origin,
                None => {
                    let origin = pool.policies.origin(Aim::source(&headers, packet));
                    origin.map_err(|PortElsewhere| Refusal::Unknown)?
                }
            };
            return Ok(());
        }
        let (remote_port, client_port) = headers.ports(packet).unwrap_or_default();
        let flow = FlowKey {
            client: (destination, local_port(client_port)),
            remote: (headers.source, remote_port),
            protocol: headers.protocol,
        };
        let origin = match self.flows.origin(now, flow) {
            Some(origin) => Some(origin),
            None => pool
                .policies
                .origin(Aim::source(&headers, packet))
                .unwrap_or_default(),
        };
        edits.source = origin;
        if headers.part == Part::First && !self.flows.tell(now, to.index(), key, Told::In(origin)) {
            return Err(Refusal::Unknown);
        }
        Ok(())
    }
}

/// An ICMP error of a tunnel about an answer whose source was rewritten: it goes to where the answer came from.
fn answered_by_error(
    policies: &Policies,
    packet: &[u8],
    at: usize,
    outgoing: &mut Outgoing,
) -> Option<Decision> {
    let quoted = packet.get(at..)?;
    let inner = Headers::of(quoted)?;
    let decision = policies.decide(Aim::source(&inner, quoted)).ok()?;
    let remote = decision.rewrite?;
    outgoing.edits.quoted = Some((Side::Source, remote));
    if outgoing.destination == inner.source {
        outgoing.edits.destination = Some(End {
            port: None,
            ..remote
        });
        outgoing.destination = remote.address;
    }
    Some(decision)
}

/// What policies say of a packet; of a later fragment, what they said of the first.
fn decide(
    policies: &Policies,
    flows: &mut Flows,
    now: Instant,
    from: SessionId,
    headers: &Headers,
    packet: &[u8],
) -> Result<Decision, Refusal> {
    let key = fragment_key(headers);
    if headers.part == Part::Later
        && let Some(decision) = flows.told_out(now, key)
    {
        return Ok(decision);
    }
    let decision = policies
        .decide(Aim::destination(headers, packet))
        .map_err(|PortElsewhere| Refusal::Unknown)?;
    if headers.part == Part::First && !flows.tell(now, from.index(), key, Told::Out(decision)) {
        return Err(Refusal::Unknown);
    }
    Ok(decision)
}

/// The egress of a decision, or of the pool.
fn choice(decision: Decision, pool: Egress) -> Result<Egress, Refusal> {
    match decision.egress {
        None => Ok(pool),
        Some(egress) => egress.egress().ok_or(Refusal::Policy),
    }
}

const fn fragment_key(headers: &Headers) -> FragmentKey {
    FragmentKey {
        source: headers.source,
        destination: headers.destination,
        protocol: headers.protocol,
        identification: headers.identification,
    }
}

#[cfg(test)]
mod tests;
