//! One leg: a SIP server and a caller, each in a tunnel of its own over the same transport, and a call between them.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde::Serialize;
use tsc_sip::{
    client::{ClientOptions, run_client},
    net::MediaServices,
    report::{CallReport, Outcome, millis},
    server::{ServerOptions, SipServer},
    stop::Stop,
};
use tsc_tapi::{CloseError, DtlsBackendKind, Server, Transport, Tunnel, TunnelBuilder};

use crate::{
    inner_tcp::Facts,
    lab::{Lab, SIP_SERVER, Side},
    relay::{BadNetwork, Relay},
};

/// How long tunnels and calls may take to end.
pub(crate) const GOODBYE: Duration = Duration::from_secs(5);

/// How long a service may take to be in force.
const SERVICES: Duration = Duration::from_secs(10);

/// What a leg is to be.
#[derive(Clone, Debug)]
pub struct LegOptions {
    /// Outer transport of both tunnels.
    pub transport: Transport,
    /// DTLS back end of both tunnels and of the server.
    pub backend: DtlsBackendKind,
    /// Calls at the same time.
    pub calls: usize,
    /// Length of each call; as long as the sample if absent.
    pub duration: Option<Duration>,
    /// Directory for recordings of both sides.
    pub record: Option<PathBuf>,
    /// Directory for capture files of both clients.
    pub trace: Option<PathBuf>,
    /// What the caller asks of its tunnel for its media; calls begin when it is in force.
    pub services: MediaServices,
    /// What the caller's tunnel goes over, if not loopback alone.
    pub network: Option<BadNetwork>,
}

/// How a leg went. The names are those of `--json`.
#[derive(Clone, Debug, Serialize)]
pub struct LegReport {
    /// `tcp`, `tls`, `udp` or `dtls`.
    pub transport: String,
    /// With DTLS, the back end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtls_backend: Option<String>,
    /// Both sides of all calls are content: every packet arrived, and what was heard is what was played, bit by bit. On the leg
    /// of [`inner_tcp`](crate::inner_tcp): all calls were heard, all chats, files and downloads are complete.
    pub ok: bool,
    /// What is wrong, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// From nothing to the caller's inner address, in milliseconds.
    pub tunnel_ms: Option<f64>,
    /// From INVITE to its 200, in milliseconds: the longest of all calls.
    pub setup_ms: Option<f64>,
    /// RTP packets sent by both sides.
    pub sent: u64,
    /// RTP packets received by both sides.
    pub received: u64,
    /// RTP packets that did not arrive.
    pub lost: u64,
    /// RTP packets that arrived after their playout time.
    pub late: u64,
    /// Interarrival jitter (RFC 3550) in milliseconds: the greatest of both sides.
    pub jitter_ms: f64,
    /// Mean round trip by RTCP, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Estimated mean opinion score (G.107): the least of both sides.
    pub mos: Option<f64>,
    /// Bytes of the caller's tunnels that a bad network was given, with headers from IP on.
    #[serde(skip)]
    pub wire_bytes: u64,
    /// Those of them that were datagrams'.
    #[serde(skip)]
    pub datagram_bytes: u64,
    /// What there was beside RTP, on the leg that has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inner_tcp: Option<Facts>,
    /// Calls as the caller saw them, then as the callee saw them.
    #[serde(skip)]
    pub calls: Vec<CallReport>,
}

impl LegReport {
    /// A leg of which nothing is known yet.
    pub(crate) fn new(options: &LegOptions) -> Self {
        let backend = options.backend;
        Self {
            transport: options.transport.to_string(),
            dtls_backend: (options.transport == Transport::Dtls).then(|| backend.to_string()),
            ok: false,
            error: None,
            tunnel_ms: None,
            setup_ms: None,
            sent: 0,
            received: 0,
            lost: 0,
            late: 0,
            jitter_ms: 0.0,
            rtt_ms: None,
            mos: None,
            wire_bytes: 0,
            datagram_bytes: 0,
            inner_tcp: None,
            calls: Vec::new(),
        }
    }

    /// Notes what all calls have together, the caller's reports and the callee's.
    pub(crate) fn sum_up(&mut self, calls: Vec<CallReport>) {
        let greatest = |values: &mut dyn Iterator<Item = f64>| values.reduce(f64::max);
        self.setup_ms = greatest(&mut calls.iter().filter_map(|call| call.setup_ms));
        self.sent = calls.iter().map(|call| call.sent).sum();
        self.received = calls.iter().map(|call| call.received).sum();
        self.lost = calls.iter().map(|call| call.lost).sum();
        self.late = calls.iter().map(|call| call.late).sum();
        self.jitter_ms = greatest(&mut calls.iter().map(|call| call.jitter_ms)).unwrap_or_default();
        self.rtt_ms = greatest(&mut calls.iter().filter_map(|call| call.rtt_ms));
        self.mos = calls.iter().filter_map(|call| call.mos).reduce(f64::min);
        self.calls = calls;
    }
}

/// Makes the calls of one leg.
pub async fn run(lab: &Lab, options: &LegOptions) -> LegReport {
    let mut report = LegReport::new(options);
    match calls(lab, options, &mut report).await {
        Ok(calls) => {
            report.error = problem(options.calls, &calls);
            report.ok = report.error.is_none();
            report.sum_up(calls);
        }
        Err(error) => report.error = Some(format!("{error:#}")),
    }
    report
}

pub(crate) async fn open(lab: &Lab, options: &LegOptions, side: Side) -> anyhow::Result<Tunnel> {
    open_by(
        lab.tunnel_to(side, options.transport, options.backend)?,
        options,
        side,
    )
    .await
}

/// The caller's tunnel by way of a bad network.
async fn open_over(lab: &Lab, options: &LegOptions, relay: &Relay) -> anyhow::Result<Tunnel> {
    let at = relay.address();
    let server = Server::new(options.transport, at.ip().to_string(), at.port());
    let builder = Tunnel::builder(server)
        .trust(lab.trust())
        .dtls_backend(options.backend);
    open_by(builder, options, Side::Access).await
}

async fn open_by(
    mut builder: TunnelBuilder,
    options: &LegOptions,
    side: Side,
) -> anyhow::Result<Tunnel> {
    if let Some(directory) = &options.trace {
        let name = format!(
            "{}-{}-{}.pcapng",
            options.transport,
            options.backend,
            if side == Side::Core {
                "server"
            } else {
                "client"
            }
        );
        builder = builder.trace(directory.join(name));
    }
    Ok(builder
        .connect_timeout(Duration::from_secs(10))
        .connect()
        .await?)
}

pub(crate) async fn close(tunnel: Arc<Tunnel>, whose: &str, is_lossy: bool) -> anyhow::Result<()> {
    // The applications have given up their handles when they end.
    let tunnel =
        Arc::into_inner(tunnel).with_context(|| format!("{whose} still uses its tunnel"))?;
    match tunnel.close(GOODBYE).await {
        // The answer may have been lost: the server does not repeat it (spec 5, "Release").
        Err(CloseError::NotConfirmed) if is_lossy => Ok(()),
        closed => closed.with_context(|| format!("closing the tunnel of {whose}")),
    }
}

async fn calls(
    lab: &Lab,
    options: &LegOptions,
    report: &mut LegReport,
) -> anyhow::Result<Vec<CallReport>> {
    let callee_net = Arc::new(
        open(lab, options, Side::Core)
            .await
            .context("the SIP server's tunnel")?,
    );
    let server = ServerOptions {
        record: options.record.clone(),
        ..ServerOptions::default()
    };
    let mut server = SipServer::start(Arc::clone(&callee_net), server).await?;
    anyhow::ensure!(
        server.address().to_string() == SIP_SERVER,
        "the SIP server got {} instead of {SIP_SERVER}",
        server.address()
    );

    let started = Instant::now();
    let relay = match options.network {
        None => None,
        Some(network) => {
            let server = lab.server_for(Side::Access, options.transport, options.backend);
            let server = server.context("not served")?;
            let port = server.port().context("no port")?;
            let address = SocketAddr::new(server.host().parse()?, port);
            Some(Relay::start_both(address, network).await?)
        }
    };
    let caller_net = match &relay {
        None => open(lab, options, Side::Access).await,
        Some(relay) => open_over(lab, options, relay).await,
    };
    let caller_net = Arc::new(caller_net.context("the caller's tunnel")?);
    report.tunnel_ms = Some(millis(started.elapsed()));
    let mut caller = ClientOptions::new("alice", "play");
    caller.calls = options.calls;
    caller.duration = options.duration;
    caller.record.clone_from(&options.record);
    caller.services = options.services;
    caller.services_timeout = SERVICES;
    let client = run_client(Arc::clone(&caller_net), caller, Stop::never()).await?;

    let mut calls = client.calls;
    for _ in 0..calls
        .iter()
        .filter(|call| call.outcome == Outcome::Ok)
        .count()
    {
        let report = tokio::time::timeout(GOODBYE, server.next_report()).await;
        calls.extend(report.context("the SIP server does not report")?);
    }
    if let Some(relay) = &relay {
        report.datagram_bytes = relay.passed().on_wire();
        report.wire_bytes = report.datagram_bytes + relay.stream_bytes();
    }
    server.stop(GOODBYE).await?;
    close(caller_net, "the caller", relay.is_some()).await?;
    close(callee_net, "the SIP server", false).await?;
    Ok(calls)
}

/// What is wrong with the calls.
pub(crate) fn problem(wanted: usize, calls: &[CallReport]) -> Option<String> {
    if let Some(failed) = calls.iter().find(|call| call.outcome != Outcome::Ok) {
        return Some(
            failed
                .error
                .clone()
                .unwrap_or_else(|| "a call failed".to_owned()),
        );
    }
    if calls.len() != 2 * wanted {
        return Some(format!("{} reports of {wanted} calls", calls.len()));
    }
    for call in calls {
        let Some(other) = calls
            .iter()
            .find(|other| other.call_id == call.call_id && other.role != call.role)
        else {
            return Some(format!("call {} has one side only", call.call_id));
        };
        if call.lost != 0 || call.received != other.sent {
            return Some(format!(
                "{} of {} packets arrived",
                call.received, other.sent
            ));
        }
        if call.heard != other.played || call.heard.is_empty() {
            return Some("what was heard is not what was played".to_owned());
        }
    }
    None
}
