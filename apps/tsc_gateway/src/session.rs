//! Tunnels, one after the other, and the prefixes granted to them.

use std::{
    fmt::Display,
    future::pending,
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    pin::pin,
    thread,
    time::Duration,
};

use ipnet::IpNet;
use tokio::net::lookup_host;
use tsc_cli::{is_usage_error, stop::Signals};
use tsc_tapi::{
    Coded as _, ConnectError, DEFAULT_PORT, Notification, Notifications, PacketSocket, Prefix,
    ResponseCode, Server, ServiceError, Tunnel,
    tun::{DropError, drop_capabilities},
};

use crate::{
    Bridge,
    bridge::BridgeError,
    cli::{Args, Require},
    device::forwarding_off,
};

/// How long the server may take to confirm a release.
const RELEASE: Duration = Duration::from_secs(2);

/// The longest wait before another tunnel is opened.
const LONGEST_REST: Duration = Duration::from_secs(30);

const CLIENT_INFO: &str = concat!("tsc-gateway/", env!("CARGO_PKG_VERSION"));

/// Why the program ends, other than by a signal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct Failure {
    /// The program's exit code.
    pub code: u8,
    /// For people.
    pub error: String,
}

impl Failure {
    /// A failure with this exit code.
    pub fn new(code: u8, error: &dyn Display) -> Self {
        let error = error.to_string();
        Self { code, error }
    }

    fn connect(error: &ConnectError) -> Self {
        tracing::error!(code = %error.code(), "no tunnel");
        Self::new(if is_usage_error(error) { 2 } else { 3 }, error)
    }

    fn device(error: &io::Error) -> Self {
        let error = format!("the TUN device is gone: {error}");
        Self { code: 4, error }
    }
}

/// What the program has to say meanwhile.
#[derive(Debug)]
#[non_exhaustive]
pub enum News<'a> {
    /// Packets pass.
    Ready {
        /// The tunnel.
        tunnel: &'a Tunnel,
        /// What the server routes to us.
        prefixes: &'a [Prefix],
    },
    /// They do no longer, and another tunnel will be opened.
    Lost {
        /// Why.
        reason: &'a str,
    },
}

/// How a tunnel's time was over.
enum End {
    Signal,
    /// There may be better times.
    Lost(Loss, Failure),
    /// There will not.
    Hopeless(Failure),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// Packets have passed until now.
    Ready,
    /// It did not come so far.
    Early,
    /// It did not come so far because another tunnel has the prefixes: perhaps our own, of a program that was killed, whose
    /// time is not over at the server; perhaps that of the gateway for which we stand by.
    Taken,
}

/// Opens tunnels and forwards, until a signal comes or there is no more hope.
///
/// # Errors
///
/// What the program ends with: before packets have passed for the first time nearly everything, afterwards only what
/// concerns this host; with `--once` everything.
pub async fn run(
    args: &Args,
    bridge: &mut Bridge,
    signals: &mut Signals,
    mut tell: impl FnMut(News<'_>),
) -> Result<(), Failure> {
    let mut rest = Duration::ZERO;
    let mut had_one = false;
    loop {
        match serve(args, bridge, signals, &mut tell).await {
            End::Signal => return Ok(()),
            End::Hopeless(failure) => return Err(failure),
            End::Lost(_, failure) if args.once => return Err(failure),
            End::Lost(Loss::Ready, failure) => {
                had_one = true;
                rest = Duration::ZERO;
                tell(News::Lost {
                    reason: &failure.error,
                });
            }
            // The first time has shown that the parameters are right.
            End::Lost(loss, failure) if had_one || loss == Loss::Taken => {
                tracing::warn!(event = "retry", error = failure.error, "no tunnel");
            }
            End::Lost(_, failure) => return Err(failure),
        }
        rest = (rest * 2).clamp(Duration::from_secs(1), LONGEST_REST);
        tokio::select! {
            () = tokio::time::sleep(rest) => {}
            error = bridge.discard() => return Err(Failure::device(&error)),
            _ = signals.recv() => return Ok(()),
        }
    }
}

/// One tunnel, from the first attempt to its end.
async fn serve(
    args: &Args,
    bridge: &mut Bridge,
    signals: &mut Signals,
    tell: &mut impl FnMut(News<'_>),
) -> End {
    let builder = match args.tunnel.builder(CLIENT_INFO) {
        Ok(builder) => builder.inner_mtu(bridge.mtu()),
        Err(error) => return End::Hopeless(Failure::new(2, &error)),
    };
    let checked = tokio::select! {
        // Names may mean something else than they did for the tunnel before.
        checked = check_server(args) => checked,
        error = bridge.discard() => Err(Failure::device(&error)),
        _ = signals.recv() => return End::Signal,
    };
    if let Err(failure) = checked {
        return End::Hopeless(failure);
    }
    let mut looped = pin!(looped(args, builder.notifications()));
    let tunnel = tokio::select! {
        connected = builder.connect() => match connected {
            Ok(tunnel) => tunnel,
            Err(error) => return End::Lost(Loss::Early, Failure::connect(&error)),
        },
        failure = &mut looped => return End::Hopeless(failure),
        error = bridge.discard() => return End::Hopeless(Failure::device(&error)),
        _ = signals.recv() => return End::Signal,
    };
    let asked = tokio::select! {
        asked = ask(args, &tunnel) => asked,
        failure = &mut looped => Err(End::Hopeless(failure)),
        error = bridge.discard() => Err(End::Hopeless(Failure::device(&error))),
        _ = signals.recv() => Err(End::Signal),
    };
    let end = match asked {
        Ok(socket) => {
            warn(bridge, &tunnel, socket.prefixes());
            tell(News::Ready {
                tunnel: &tunnel,
                prefixes: socket.prefixes(),
            });
            let end = tokio::select! {
                error = bridge.forward(&tunnel, &socket) => match error {
                    BridgeError::Device(error) => End::Hopeless(Failure::device(&error)),
                    BridgeError::Tunnel(error) => End::Lost(Loss::Ready, Failure::new(3, &error)),
                },
                failure = &mut looped => End::Hopeless(failure),
                _ = signals.recv() => End::Signal,
            };
            bridge.account(&socket.stats());
            end
        }
        Err(end) => end,
    };
    // It may be over already.
    if tunnel.down_reason().is_none()
        && let Err(error) = tunnel.close(RELEASE).await
    {
        tracing::warn!(%error, "tunnel not released in good order");
    }
    end
}

/// Asks for the prefixes of the command line.
async fn ask(args: &Args, tunnel: &Tunnel) -> Result<PacketSocket, End> {
    let socket = match tunnel.request_routed_prefixes(&args.prefixes).await {
        Ok(socket) => socket,
        Err(error) => {
            let (loss, code) = match &error {
                ServiceError::Refused(refusal) if refusal.code == ResponseCode::NO_ADDRESS => {
                    let error = "the prefixes are routed to another tunnel".to_owned();
                    return Err(End::Lost(Loss::Taken, Failure { code: 5, error }));
                }
                ServiceError::NoAnswer | ServiceError::Socket(_) => (Loss::Early, 3),
                ServiceError::Refused(_)
                | ServiceError::Prefixes
                | ServiceError::InUse
                | ServiceError::Unusable
                | _ => (Loss::Early, 5),
            };
            let error = format!("no prefixes: {error}");
            return Err(End::Lost(loss, Failure { code, error }));
        }
    };
    let granted = socket.prefixes();
    let missing = args.prefixes.iter();
    let missing: Vec<_> = missing
        .filter(|prefix| !granted.contains(prefix))
        .map(ToString::to_string)
        .collect();
    if missing.is_empty() {
        return Ok(socket);
    }
    let error = format!("not granted: {}", missing.join(", "));
    match args.require {
        Require::Any => {
            tracing::warn!(event = "not-granted", prefixes = missing.join(", "));
            Ok(socket)
        }
        // Not ours, or another tunnel's: that is not told apart.
        Require::All => Err(End::Lost(Loss::Taken, Failure { code: 5, error })),
    }
}

/// Says what will not work though the tunnel is up.
fn warn(bridge: &Bridge, tunnel: &Tunnel, prefixes: &[Prefix]) {
    let mtu = tunnel.config().inner_mtu;
    if mtu < bridge.mtu() {
        tracing::warn!(
            event = "mtu",
            device = bridge.mtu(),
            tunnel = mtu,
            "the tunnel takes shorter packets than the device: start with --mtu {mtu}"
        );
    }
    for v4 in [true, false] {
        let mut addresses = prefixes.iter().map(Prefix::address);
        let first = addresses.find(|address| address.is_ipv4() == v4);
        if let Some(switch) = first.and_then(forwarding_off) {
            tracing::warn!(
                event = "forwarding-off",
                switch,
                "the kernel forwards nothing between the LAN and the device"
            );
        }
    }
}

/// Ends when a server is tried whose address is routed into the tunnel, which could never come up: one that a redirect
/// names, as the first has been looked at before.
async fn looped(args: &Args, mut news: Notifications) -> Failure {
    while let Some(notification) = news.recv().await {
        if let Notification::Connecting(server) = notification
            && let Err(failure) = check(args, &server).await
        {
            return failure;
        }
    }
    pending().await
}

/// Looks whether a server of the command line is routed into the tunnel.
async fn check_server(args: &Args) -> Result<(), Failure> {
    let servers = args.servers().map_err(|error| Failure::new(2, &error))?;
    for server in servers {
        check(args, &server).await?;
    }
    Ok(())
}

async fn check(args: &Args, server: &Server) -> Result<(), Failure> {
    if args.core.is_empty() {
        return Ok(());
    }
    // Without an answer there is no connection either, whose error says more.
    let found = lookup_host((server.host(), server.port().unwrap_or(DEFAULT_PORT))).await;
    outside(args, found.into_iter().flatten())
}

/// Looks whether the server is routed into the tunnel before there is a device that would do so. To be called before any
/// thread is started that shall live longer.
///
/// # Errors
///
/// It is. Nothing is said of a name that nobody knows: connecting will.
pub fn check_server_first(args: &Args) -> Result<(), Failure> {
    let servers = args.servers().map_err(|error| Failure::new(2, &error))?;
    if args.core.is_empty() {
        return Ok(());
    }
    for server in servers {
        let to = (server.host(), server.port().unwrap_or(DEFAULT_PORT));
        if server.host().parse::<IpAddr>().is_ok() {
            outside(args, to.to_socket_addrs().into_iter().flatten())?;
            continue;
        }
        // What comes from the network is read without capabilities, which are a thread's own; this one needs its for the
        // device.
        let found = thread::scope(|scope| {
            let asking = scope.spawn(|| match drop_capabilities() {
                Ok(()) | Err(DropError::OtherThreads { .. }) => to.to_socket_addrs().ok(),
                Err(error) => {
                    tracing::warn!(%error, "the server's name is not looked up yet");
                    None
                }
            });
            asking.join().ok().flatten()
        });
        outside(args, found.into_iter().flatten())?;
    }
    Ok(())
}

fn outside(args: &Args, addresses: impl Iterator<Item = SocketAddr>) -> Result<(), Failure> {
    for address in addresses.map(|address| address.ip().to_canonical()) {
        if let Some(core) = args.core_with(address) {
            return Err(in_core(address, core));
        }
    }
    Ok(())
}

fn in_core(address: IpAddr, core: IpNet) -> Failure {
    let error = format!(
        "--core {core} holds the server's address {address}: the tunnel would be led into itself"
    );
    Failure { code: 2, error }
}
