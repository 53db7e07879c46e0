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
}

impl Ways {
    pub(super) fn insert(&mut self, binding: BindingId, way: Way) {
        let index = binding.index();
        if index >= self.slots.len() {
            self.slots.resize(index + 1, None);
        }
        if let Some(slot) = self.slots.get_mut(index) {
            *slot = Some((binding, way));
        }
    }

    pub(super) fn find(&self, binding: BindingId) -> Option<Way> {
        match self.slots.get(binding.index()) {
            Some(Some((owner, way))) if *owner == binding => Some(*way),
            _ => None,
        }
    }

    pub(super) fn remove(&mut self, binding: BindingId) -> Option<Way> {
        let way = self.find(binding)?;
        if let Some(slot) = self.slots.get_mut(binding.index()) {
            *slot = None;
        }
        Some(way)
    }
}
