//! A callee on loopback, and callers for it.
#![allow(dead_code)] // not every test file uses all of it

pub(crate) mod fragile;
pub(crate) mod memory;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use tsc_sip::{
    client::{ClientError, ClientOptions, ClientReport, run_client},
    net::HostNet,
    report::CallReport,
    server::{ServerOptions, SipServer},
    stop::Stop,
};

/// Nothing in these tests takes longer, also on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

pub(crate) struct World {
    pub(crate) server: SipServer,
}

impl World {
    pub(crate) async fn start(mut options: ServerOptions) -> Self {
        options.sip_port = 0;
        let net = Arc::new(HostNet::new(LOOPBACK));
        let server = SipServer::start(net, options).await.unwrap();
        Self { server }
    }

    pub(crate) async fn stop(self) -> Vec<CallReport> {
        self.server.stop(PATIENCE).await.unwrap()
    }
}

/// Options of a caller that does not register.
pub(crate) fn client(world: &World, callee: &str) -> ClientOptions {
    let mut options = ClientOptions::new("alice", callee);
    options.sip_server = Some(world.server.address());
    options.register = false;
    options
}

pub(crate) async fn run(options: ClientOptions) -> Result<ClientReport, ClientError> {
    run_until(options, Stop::never()).await
}

pub(crate) async fn run_until(
    options: ClientOptions,
    stop: Stop,
) -> Result<ClientReport, ClientError> {
    let net = Arc::new(HostNet::new(LOOPBACK));
    let run = run_client(net, options, stop);
    tokio::time::timeout(PATIENCE, run).await.unwrap()
}

/// What one side played is what the other heard, byte by byte, and nothing was lost.
pub(crate) fn assert_both_directions(caller: &CallReport, callee: &CallReport) {
    assert_eq!(caller.call_id, callee.call_id);
    for (from, to) in [(caller, callee), (callee, caller)] {
        assert!(from.sent > 0);
        assert_eq!(from.sent, to.received, "{to:?}");
        assert_eq!((to.lost, to.duplicated, to.ignored), (0, 0, 0), "{to:?}");
        assert!(from.played == to.heard, "not bit-exact");
    }
}
