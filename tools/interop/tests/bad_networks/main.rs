//! Networks that block, change and fail: a tunnel comes up wherever there is a way, calls are made through it, and what is in it
//! survives.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::wildcard_enum_match_arm
)]

mod ddt;
mod dtte;
mod heard;
mod media;
mod mid_call;
mod paths;
mod sip;
mod sip_mid_call;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use tokio::time::timeout;
use tsc_interop::{Egress, Lab, Network, Wire, WireOptions};
use tsc_tapi::{PathMemory, PemSource, Roots, Server, Trust, Tunnel, TunnelBuilder};

const LIMIT: Duration = Duration::from_secs(90);
/// Of the access network; a good mobile one.
const ROUND_TRIP: Duration = Duration::from_millis(60);
/// Between two packets of media.
const FRAME: Duration = Duration::from_millis(20);

/// Where the server listens besides 4567.
const MORE_PORTS: &str = r#"
[[tscf-interface.tscf-port]]
address = "192.0.2.1"
port = 443
transport-protocol = ["tcp", "tls", "udp", "dtls"]
tls-profile = "default"

[[tscf-interface.tscf-port]]
address = "2001:db8:1::1"
port = 443
transport-protocol = ["tcp", "tls", "udp", "dtls"]
tls-profile = "default"

[[tscf-interface.tscf-port]]
address = "192.0.2.1"
port = 53
transport-protocol = ["dtls"]
tls-profile = "default"

[[tscf-interface.tscf-port]]
address = "2001:db8:1::1"
port = 53
transport-protocol = ["dtls"]
tls-profile = "default"
"#;

const TRANSPORTS: [&str; 4] = ["udp", "tcp", "tls", "dtls"];

fn lab(round_trip: Duration, egress: Egress) -> (Lab, Wire) {
    let (network, wire) = Network::with_wire(WireOptions::round_trip(round_trip));
    let interface = format!("assigned-services = [\"DDT\", \"redundancy\"]\n{MORE_PORTS}");
    let lab = Lab::on(network, egress, &interface, "");
    (lab, wire)
}

fn block_on<T>(what: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.unwrap().block_on(what)
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(LIMIT, what).await.expect("in time")
}

fn url(transport: &str, ip: IpAddr, port: u16) -> Server {
    let host = SocketAddr::new(ip, port);
    format!("{transport}://{host}").parse().unwrap()
}

fn builder(lab: &Lab, servers: &[Server]) -> TunnelBuilder {
    builder_by(lab.authority(), servers)
}

/// The same without the lab, which may be changed meanwhile.
fn builder_by(authority: PathBuf, servers: &[Server]) -> TunnelBuilder {
    let roots = Roots::from_pem(&PemSource::File(authority)).unwrap();
    let mut builder = Tunnel::builder(servers[0].clone());
    for server in &servers[1..] {
        builder = builder.server(server.clone());
    }
    builder
        .trust(Trust::Roots(roots))
        .server_name("localhost")
        .path_memory(PathMemory::new())
}

async fn close(tunnel: Tunnel) {
    soon(tunnel.close(Duration::from_secs(5))).await.unwrap();
}
