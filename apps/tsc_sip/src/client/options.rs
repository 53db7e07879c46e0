//! What the caller is told to do.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use crate::{
    endpoint,
    media::{Audio, Codec, MediaConfig},
    secret::Secret,
    sip::Host,
    transaction::Timers,
};

/// Options of [`run_client`](super::run_client).
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Our user name.
    pub user: String,
    /// Password for the registrar.
    pub password: Option<Secret>,
    /// Domain of our address and of the callee's; the SIP server's address if absent.
    pub domain: Option<Host>,
    /// SIP server; the first that the network names if absent.
    pub sip_server: Option<SocketAddr>,
    /// Port of our SIP socket; 0 lets the network choose.
    pub sip_port: u16,
    /// Whether to register.
    pub register: bool,
    /// How long the registration shall last, in seconds. It is renewed while calls last.
    pub expires: u32,
    /// User to call.
    pub callee: String,
    /// Calls at the same time.
    pub calls: usize,
    /// Length of each call; as long as the sample if absent.
    pub duration: Option<Duration>,
    /// What to play, in a loop.
    pub play: Audio,
    /// Codecs to offer, best first.
    pub codecs: Vec<Codec>,
    /// Directory for recordings.
    pub record: Option<PathBuf>,
    /// How long the callee may ring until we cancel.
    pub ring_timeout: Duration,
    /// See [`MediaConfig::playout_delay`].
    pub playout_delay: Duration,
    /// How long a call goes on without RTP and RTCP of the other side where media is expected; then it is ended with
    /// BYE. Zero is for ever.
    pub media_timeout: Duration,
    /// How long packets that are on their way at the end may still arrive.
    pub linger: Duration,
    /// Timers of SIP.
    pub timers: Timers,
}

impl ClientOptions {
    /// One call from `user` to `callee` with the sample that comes with the program.
    #[must_use]
    pub fn new(user: impl Into<String>, callee: impl Into<String>) -> Self {
        Self {
            user: user.into(),
            password: None,
            domain: None,
            sip_server: None,
            sip_port: 0,
            register: true,
            expires: 3600,
            callee: callee.into(),
            calls: 1,
            duration: None,
            play: Audio::speech(),
            codecs: Codec::ALL.to_vec(),
            record: None,
            ring_timeout: Duration::from_secs(60),
            playout_delay: MediaConfig::PLAYOUT_DELAY,
            media_timeout: MediaConfig::MEDIA_TIMEOUT,
            linger: endpoint::LINGER,
            timers: Timers::default(),
        }
    }
}
