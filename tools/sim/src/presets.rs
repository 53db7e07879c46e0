//! Configurations that most tests begin with.

use std::net::IpAddr;

use tsc_csm::Transport;
use tsc_csm::client::{ClientConfig, Endpoint, Target};
use tsc_csm::server::pool::{AddressRange, PoolConfig, PoolRange};
use tsc_csm::server::{InterfaceConfig, ServerConfig};

/// A server with one interface and one pool of `addresses` IPv4 addresses from 10.0.0.1 on.
#[must_use]
pub fn server_config(addresses: u8) -> ServerConfig {
    let range = AddressRange {
        first: IpAddr::from([10, 0, 0, 1]),
        last: IpAddr::from([10, 0, 0, addresses]),
    };
    let pool = PoolConfig {
        name: "inside".to_owned(),
        ranges: vec![PoolRange {
            range,
            prefix_len: 24,
        }],
        exclusions: Vec::new(),
        quarantine: None,
    };
    let interface = InterfaceConfig::new("outside", vec![0]);
    ServerConfig {
        element_id: 7,
        pools: vec![pool],
        interfaces: vec![interface],
        ..ServerConfig::new()
    }
}

/// A client that tries server 0 over these transports, in this order.
#[must_use]
pub fn client_config(transports: &[Transport]) -> ClientConfig {
    let target = |transport: &Transport| Target {
        transport: *transport,
        endpoint: Endpoint::Configured(0),
    };
    ClientConfig::new(transports.iter().map(target).collect())
}
