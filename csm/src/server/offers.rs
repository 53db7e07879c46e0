//! What the clients of an interface are offered. The operator may change it at any time: a tunnel keeps what was offered when it was
//! configured, companions and resumes included, and new ones have the new.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use tsc_tpl::ServiceType;

use super::Server;
use super::config::{Identity, InterfaceConfig, ServerConfigError};
use crate::prefix::Prefix;

/// One edition. Shared by all tunnels that were configured under it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Offers {
    pub(crate) services: Vec<ServiceType>,
    pub(super) inter_client_block: bool,
    pub(crate) sip_servers: Vec<SocketAddr>,
    pub(crate) routed_prefixes: BTreeMap<Identity, Vec<Prefix>>,
}

impl Offers {
    fn of(interface: &InterfaceConfig) -> Self {
        // Who may not reach other clients has no peers, and need not find out.
        let is_had = |service: &&ServiceType| {
            **service != ServiceType::ENABLE_PEER || !interface.inter_client_block
        };
        Self {
            services: interface.services.iter().filter(is_had).copied().collect(),
            inter_client_block: interface.inter_client_block,
            sip_servers: interface.sip_servers.clone(),
            routed_prefixes: interface.routed_prefixes.clone(),
        }
    }

    /// Whether a service may be had; by either of its values.
    pub(crate) fn has(&self, service: ServiceType) -> bool {
        self.services.contains(&service.enable())
    }
}

/// Those of one interface.
#[derive(Debug)]
pub(super) struct Editions {
    current: Arc<Offers>,
    /// Of before, as far as there are tunnels that have them.
    past: Vec<Weak<Offers>>,
}

impl Editions {
    pub(super) fn of(interface: &InterfaceConfig) -> Self {
        Self {
            current: Arc::new(Offers::of(interface)),
            past: Vec::new(),
        }
    }

    /// For a new tunnel.
    pub(super) fn current(&self) -> Arc<Offers> {
        Arc::clone(&self.current)
    }

    /// Whether any tunnel has the service among its offers, or would get it.
    pub(super) fn any_has(&self, service: ServiceType) -> bool {
        let past = self.past.iter().filter_map(Weak::upgrade);
        self.current.has(service) || past.into_iter().any(|offers| offers.has(service))
    }

    fn change(&mut self, to: Offers) {
        if to == *self.current {
            return;
        }
        let before = std::mem::replace(&mut self.current, Arc::new(to));
        self.past.push(Arc::downgrade(&before));
        drop(before);
        self.past.retain(|offers| offers.strong_count() > 0);
    }
}

impl Server {
    /// Offers the clients of an interface from now on what `new` has as [`services`](InterfaceConfig::services),
    /// [`inter_client_block`](InterfaceConfig::inter_client_block), [`sip_servers`](InterfaceConfig::sip_servers) and
    /// [`routed_prefixes`](InterfaceConfig::routed_prefixes). Tunnels that exist keep what they were offered; nothing else of `new` is
    /// looked at. With several shards, each is to be told.
    ///
    /// # Errors
    ///
    /// What cannot be used, as in [`Self::new`]. Nothing has changed then. Without effect if there is no such interface.
    pub fn change_offers(
        &mut self,
        interface: usize,
        new: &InterfaceConfig,
    ) -> Result<(), ServerConfigError> {
        let Some(config) = self.config.interfaces.get_mut(interface) else {
            return Ok(());
        };
        let mut changed = config.clone();
        changed.services.clone_from(&new.services);
        changed.inter_client_block = new.inter_client_block;
        changed.sip_servers.clone_from(&new.sip_servers);
        changed.routed_prefixes.clone_from(&new.routed_prefixes);
        changed.check(&self.config.pools)?;
        self.common.check_routed_prefixes(&changed)?;
        if let Some(editions) = self.offers.get_mut(interface) {
            editions.change(Offers::of(&changed));
        }
        *config = changed;
        Ok(())
    }
}
