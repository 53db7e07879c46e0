//! Which transport a binding is.

use std::net::SocketAddr;

use tsc_csm::server::BindingId;
use tsc_osaa::dtls::AssociationKey;

/// A transport of this worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// The stream in this slot.
    Stream(usize),
    /// An address on a UDP port that speaks plain UDP.
    Udp {
        /// Index of the port.
        port: usize,
        /// The client.
        peer: SocketAddr,
    },
    /// An association of a UDP port.
    Dtls {
        /// Index of the port.
        port: usize,
        /// The association.
        key: AssociationKey,
    },
}

/// Ways by binding: an array access for each packet. As large as the most bindings there ever were at a time.
#[derive(Debug, Default)]
pub(super) struct Ways {
    slots: Vec<Option<(BindingId, Way)>>,
    /// Bindings that the session core has given up and whose slot it has given to another, before the event that
    /// closes their transports was drained. At most one for each event that waits; empty after a turn.
    ending: Vec<(BindingId, Way)>,
}

impl Ways {
    pub(super) fn insert(&mut self, binding: BindingId, way: Way) {
        let index = binding.index();
        if index >= self.slots.len() {
            self.slots.resize(index + 1, None);
        }
        if let Some(slot) = self.slots.get_mut(index)
            && let Some(before) = slot.replace((binding, way))
            && before.0 != binding
        {
            self.ending.push(before);
        }
    }

    pub(super) fn find(&self, binding: BindingId) -> Option<Way> {
        match self.slots.get(binding.index()) {
            Some(Some((owner, way))) if *owner == binding => Some(*way),
            _ if self.ending.is_empty() => None,
            _ => self
                .ending
                .iter()
                .find(|(owner, _)| *owner == binding)
                .map(|(_, way)| *way),
        }
    }

    pub(super) fn remove(&mut self, binding: BindingId) -> Option<Way> {
        let way = self.find(binding)?;
        match self.slots.get_mut(binding.index()) {
            Some(slot) if slot.is_some_and(|(owner, _)| owner == binding) => *slot = None,
            _ => self.ending.retain(|(owner, _)| *owner != binding),
        }
        Some(way)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Instant;

    use tsc_csm::{
        Random, Transport,
        server::{
            BindingInfo, BindingLoss, InterfaceConfig, Limits, Server, ServerConfig,
            pool::{AddressRange, PoolConfig, PoolRange},
        },
    };

    use super::*;

    struct Counting(u8);

    impl Random for Counting {
        fn fill(&mut self, buf: &mut [u8]) {
            for byte in buf {
                self.0 = self.0.wrapping_add(1);
                *byte = self.0;
            }
        }
    }

    /// Two bindings that have had the same slot, the earlier first.
    pub(in crate::worker) fn same_slot() -> (BindingId, BindingId) {
        let address = |last| format!("10.0.0.{last}").parse().unwrap();
        let pool = PoolConfig {
            name: "pool".to_owned(),
            ranges: vec![PoolRange {
                range: AddressRange {
                    first: address(1),
                    last: address(9),
                },
                prefix_len: 32,
            }],
            exclusions: Vec::new(),
            quarantine: None,
        };
        let config = ServerConfig {
            element_id: 1,
            pools: vec![pool],
            interfaces: vec![InterfaceConfig::new("access".to_owned(), vec![0])],
            quarantine: std::time::Duration::ZERO,
            limits: Limits::default(),
            cookie: None,
        };
        let now = Instant::now();
        let mut core = Server::new(config, now, Box::new(Counting(0))).unwrap();
        let mut open = |lost: Option<BindingId>| {
            if let Some(lost) = lost {
                core.binding_lost(now, lost, BindingLoss::Failed);
            }
            let info = BindingInfo {
                interface: 0,
                transport: Transport::Tcp,
                peer: "192.0.2.1:1000".parse().unwrap(),
                local: "192.0.2.2:5060".parse().unwrap(),
                identity: None,
            };
            core.open_binding(now, info).unwrap()
        };
        let first = open(None);
        (first, open(Some(first)))
    }

    #[test]
    fn a_transport_is_found_until_it_is_closed_though_its_slot_has_a_new_owner() {
        let (old, new) = same_slot();
        assert_eq!(old.index(), new.index());
        let mut ways = Ways::default();
        ways.insert(old, Way::Stream(1));
        ways.insert(new, Way::Stream(2));
        assert_eq!(ways.find(old), Some(Way::Stream(1)));
        assert_eq!(ways.find(new), Some(Way::Stream(2)));
        assert_eq!(ways.remove(old), Some(Way::Stream(1)));
        assert_eq!(ways.find(old), None);
        assert_eq!(ways.remove(new), Some(Way::Stream(2)));
        assert_eq!(ways.remove(new), None);
    }
}
