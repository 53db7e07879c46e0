//! What stands in for the TUN device where there is none: other systems than Linux.

use std::{convert::Infallible, io, task::Context};

use crate::{
    config::{Config, Egress},
    server::TunStartError,
};

/// Packets that would wait in it.
pub(super) const WAITING: usize = 0;

/// A device that cannot be.
#[derive(Debug)]
pub(super) struct Tun(Infallible);

impl Tun {
    pub(super) fn open(config: &Config, _workers: u8) -> Result<Vec<Self>, TunStartError> {
        if config.uses(Egress::Tun) {
            Err(TunStartError::NotSupported)
        } else {
            Ok(Vec::new())
        }
    }

    pub(super) const fn mtu(&self) -> u16 {
        match self.0 {}
    }

    pub(super) fn name(&self) -> &str {
        match self.0 {}
    }

    pub(super) const fn dropped(&self) -> u64 {
        match self.0 {}
    }

    pub(super) fn queue(&mut self, _slot: usize, _packet: &[u8]) {
        match self.0 {}
    }

    pub(super) fn flush(&mut self) {
        match self.0 {}
    }

    pub(super) fn receive(
        &mut self,
        _cx: &mut Context<'_>,
        _take: impl FnMut(&[u8]),
    ) -> io::Result<bool> {
        match self.0 {}
    }
}

pub(crate) fn give_up_capabilities() -> Result<(), TunStartError> {
    Ok(())
}
