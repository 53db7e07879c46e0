//! What the callee is told to do.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use crate::{
    digest::{Authenticator, Users},
    endpoint,
    media::{Audio, Codec, MediaConfig, PlayoutDelay},
    registrar::RegistrarConfig,
    secret::Secret,
    transaction::Timers,
};

/// What happens to a call to one of the server's users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Answer and play the sample in a loop.
    Play,
    /// Answer and send back what is heard.
    Echo,
    /// Refuse with 486.
    Busy,
}

impl FromStr for Behaviour {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "play" => Ok(Self::Play),
            "echo" => Ok(Self::Echo),
            "busy" => Ok(Self::Busy),
            _ => Err("a callee plays, echoes or is busy: write NAME=play, NAME=echo or NAME=busy"),
        }
    }
}

/// Registration of a user of ours at somebody else's registrar, so that calls come by way of it.
#[derive(Clone, Debug)]
pub struct RegisterAt {
    /// The registrar, over UDP.
    pub registrar: SocketAddr,
    /// The user.
    pub user: String,
    /// Password, if the registrar asks for one.
    pub password: Option<Secret>,
    /// How long the registration shall last, in seconds. It is renewed in time, and removed at the end.
    pub expires: u32,
}

/// Options of [`SipServer::start`](super::SipServer::start).
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Port of the SIP socket; 0 lets the network choose.
    pub sip_port: u16,
    /// Realm that passwords are asked for.
    pub realm: String,
    /// Who may register. `None` registers anybody without a password.
    pub users: Option<Users>,
    /// How long a nonce is good.
    pub nonce_lifetime: Duration,
    /// Times and bounds of registrations.
    pub registrar: RegistrarConfig,
    /// A registration of our own.
    pub register_at: Option<RegisterAt>,
    /// Users that can be called, and what they do.
    pub callees: BTreeMap<String, Behaviour>,
    /// Codecs that are taken.
    pub codecs: Vec<Codec>,
    /// What is played.
    pub play: Audio,
    /// How long it rings before it is answered.
    pub ring: Duration,
    /// Calls at a time; further ones get 486.
    pub max_calls: usize,
    /// Calls at a time from one address; further ones get 486, so that others have room. As many as there may be at all
    /// where all calls come from a proxy.
    pub max_calls_per_source: usize,
    /// Directory for recordings.
    pub record: Option<PathBuf>,
    /// See [`MediaConfig::playout_delay`].
    pub playout_delay: PlayoutDelay,
    /// How long a call goes on without RTP and RTCP of the other side where media is expected; then it is ended with
    /// BYE. Zero is for ever.
    pub media_timeout: Duration,
    /// How long packets that are on their way at the end may still arrive.
    pub linger: Duration,
    /// Timers of SIP.
    pub timers: Timers,
    /// Port of the HTTP server; 0 lets the network choose, `None` is without.
    pub http_port: Option<u16>,
    /// Directory for files that come in; without it they are counted and hashed only.
    pub receive: Option<PathBuf>,
    /// Bytes of the largest file that is taken.
    pub max_file: u64,
}

impl Default for ServerOptions {
    /// The users `play`, `echo` and `busy`, registration without a password.
    fn default() -> Self {
        let callees = [
            ("play", Behaviour::Play),
            ("echo", Behaviour::Echo),
            ("busy", Behaviour::Busy),
        ];
        Self {
            sip_port: 5060,
            realm: "opentsc".to_owned(),
            users: None,
            nonce_lifetime: Authenticator::NONCE_LIFETIME,
            registrar: RegistrarConfig::default(),
            register_at: None,
            callees: callees.map(|(name, does)| (name.to_owned(), does)).into(),
            codecs: Codec::ALL.to_vec(),
            play: Audio::reply(),
            ring: Duration::ZERO,
            max_calls: 256,
            max_calls_per_source: 192,
            record: None,
            playout_delay: PlayoutDelay::default(),
            media_timeout: MediaConfig::MEDIA_TIMEOUT,
            linger: endpoint::LINGER,
            timers: Timers::default(),
            http_port: None,
            receive: None,
            max_file: 1 << 30,
        }
    }
}
