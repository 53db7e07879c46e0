//! What a peer tunnel does for a call: the caller's tunnel server is far away, and the callee is near.
//!
//! ```text
//!   caller ==== 40 ms each way ==== tunnel server ==== callee
//!      '================= next to nothing =================='
//! ```

use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use anyhow::Context as _;
use serde::Serialize;
use tsc_sip::{
    client::{ClientOptions, run_client},
    report::CallReport,
    server::{ServerOptions, SipServer},
    stop::Stop,
};
use tsc_tapi::{DtlsBackendKind, Notification, Server, Transport, Tunnel};

use crate::{
    alone,
    lab::{Lab, LabOptions},
    leg::{GOODBYE, close, problem},
    relay::{BadNetwork, Relay},
};

/// Of this host, in a network of its own.
const ADDRESS: &str = "192.0.2.1";
/// The interface that both are clients of.
const INTERFACE: &str = "peers";
/// Each way between the caller and the tunnel server.
pub const DELAY: Duration = Duration::from_millis(40);
/// Packets that the tunnel server passes on while there is a peer tunnel: what was on its way, and the end of the call by SIP.
const MOST_RELAYED: u64 = 30;

/// How a call went. The names are those of `--json`.
#[derive(Clone, Debug, Serialize)]
pub struct PeerReport {
    /// Of both tunnels.
    pub transport: String,
    /// `server` or `peer`: without the service, and with it.
    pub way: &'static str,
    /// The call was made and nothing is missing; and with the service the tunnel server passed on no media while there was a peer
    /// tunnel.
    pub ok: bool,
    /// What is wrong, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// RTP packets sent by both sides.
    pub sent: u64,
    /// Of these, those that went by a peer tunnel, as the applications counted them.
    pub directly: u64,
    /// Packets of all kinds that the tunnel server passed on from the call's beginning to its end, as it counted them.
    pub relayed: u64,
    /// Of these, those since the peer tunnel was up; absent if it never was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relayed_beside: Option<u64>,
    /// Shortest round trip by RTCP, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Estimated quality at the caller's end (G.107), 1 to 4.41.
    pub mos: Option<f64>,
}

/// A server for it. The process must be in a network of its own ([`alone`]).
///
/// # Errors
///
/// When the address cannot be set, or the server does not start.
pub fn lab() -> anyhow::Result<Lab> {
    alone::add_address(ADDRESS)?;
    let ports: String = DtlsBackendKind::ALL
        .into_iter()
        .filter(|backend| backend.is_available())
        .map(|backend| {
            format!(
                r#"
[[tscf-interface.tscf-port]]
address = "{ADDRESS}"
port = 0
transport-protocol = ["udp", "dtls"]
tls-profile = "demo"
dtls-backend = "{backend}"
"#
            )
        })
        .collect();
    let options = LabOptions {
        more: format!(
            r#"
[[tscf-address-pool]]
name = "peers"
address-range = ["10.66.0.0/24"]

[[tscf-interface]]
realm-id = "{INTERFACE}"
authentication = "none"
local-address-pools = ["peers"]
assigned-services = ["peer"]

[tscf-interface.limits]
requests-per-prefix = 10000
{ports}"#
        ),
        ..LabOptions::default()
    };
    Lab::start(&options)
}

/// Calls over one transport, without the service and with it, each of this length.
pub async fn calls(
    lab: &Lab,
    transport: Transport,
    backend: DtlsBackendKind,
    duration: Duration,
    mut done: impl FnMut(PeerReport),
) {
    for way in ["server", "peer"] {
        let mut report = PeerReport {
            transport: transport.to_string(),
            way,
            ok: false,
            error: None,
            sent: 0,
            directly: 0,
            relayed: 0,
            relayed_beside: None,
            rtt_ms: None,
            mos: None,
        };
        let made = call(lab, transport, backend, duration, &mut report).await;
        report.error = match made {
            Ok(calls) => problem(1, &calls).or_else(|| verdict(&report)),
            Err(error) => Some(format!("{error:#}")),
        };
        report.ok = report.error.is_none();
        done(report);
    }
}

/// What is wrong with the way that a call took.
fn verdict(report: &PeerReport) -> Option<String> {
    let wanted = report.way == "peer";
    match report.relayed_beside {
        None if wanted => Some("there was no peer tunnel".to_owned()),
        Some(_) if !wanted => Some("there was a peer tunnel".to_owned()),
        Some(relayed) if relayed > MOST_RELAYED => Some(format!(
            "{relayed} packets went over the tunnel server beside the peer tunnel"
        )),
        Some(_) if report.directly == 0 => Some("no media went by the peer tunnel".to_owned()),
        None if report.relayed < report.sent => {
            Some(format!("the tunnel server passed on {}", report.relayed))
        }
        None | Some(_) => None,
    }
}

async fn call(
    lab: &Lab,
    transport: Transport,
    backend: DtlsBackendKind,
    duration: Duration,
    report: &mut PeerReport,
) -> anyhow::Result<Vec<CallReport>> {
    let wanted = report.way == "peer";
    let address = address(lab, transport, backend).with_context(|| format!("no {transport}"))?;
    let open = async |address: SocketAddr| {
        let server = Server::new(transport, address.ip().to_string(), address.port());
        let builder = Tunnel::builder(server)
            .trust(lab.trust())
            .server_name("localhost")
            .dtls_backend(backend)
            .peer_tunnels(wanted);
        anyhow::Ok(Arc::new(builder.connect().await?))
    };
    let callee_net = open(address).await.context("the callee's tunnel")?;
    let mut callee = SipServer::start(Arc::clone(&callee_net), ServerOptions::default()).await?;
    let network = BadNetwork {
        delay: DELAY,
        ..BadNetwork::default()
    };
    let relay = Relay::start(address, network).await?;
    let caller_net = open(relay.address()).await.context("the caller's tunnel")?;
    let mut notifications = caller_net.notifications();

    let mut options = ClientOptions::new("alice", "play");
    options.sip_server = Some(callee.address());
    options.duration = Some(duration);
    options.services.peer = wanted;
    let before = relayed(lab).await?;
    let mut before_up = None;
    let mut client = pin!(run_client(Arc::clone(&caller_net), options, Stop::never()));
    let client = loop {
        tokio::select! {
            client = &mut client => break client?,
            notification = notifications.recv(), if before_up.is_none() => {
                if let Some(Notification::PeerTunnel { outer: Ok(_), .. }) = notification {
                    before_up = Some(relayed(lab).await?);
                }
            }
        }
    };
    let after = relayed(lab).await?;
    report.relayed = after - before;
    report.relayed_beside = before_up.map(|before| after - before);

    let mut calls = client.calls;
    report.mos = calls.iter().find_map(|call| call.mos);
    report.rtt_ms = calls.iter().find_map(|call| call.shortest_rtt_ms);
    let called = tokio::time::timeout(GOODBYE, callee.next_report()).await;
    calls.extend(called.context("the callee does not report")?);
    report.sent = calls.iter().map(|call| call.sent).sum();
    let directly = calls.iter().filter_map(|call| call.direct);
    report.directly = directly.map(|direct| direct.sent).sum();
    callee.stop(GOODBYE).await?;
    close(caller_net, "the caller", false).await?;
    close(callee_net, "the callee", false).await?;
    Ok(calls)
}

/// Where that server speaks a transport.
#[must_use]
pub fn address(lab: &Lab, transport: Transport, backend: DtlsBackendKind) -> Option<SocketAddr> {
    let ports = lab.server.ports().iter();
    let mut ports = ports.filter(|port| port.interface == INTERFACE && port.transport == transport);
    // Each back end has a port of its own, in their order.
    let mut built = DtlsBackendKind::ALL
        .into_iter()
        .filter(|backend| backend.is_available());
    let place = built.position(|built| built == backend)?;
    ports.nth(place).map(|port| port.address)
}

/// Inner packets that the tunnel server has passed on so far.
///
/// # Errors
///
/// It has ended.
pub async fn relayed(lab: &Lab) -> anyhow::Result<u64> {
    let report = lab.server.report().await;
    Ok(report
        .context("the tunnel server has ended")?
        .sessions
        .forwarded)
}
