//! What the caller is told to do.

use std::{fmt, net::SocketAddr, num::NonZeroU16, path::PathBuf, sync::Arc, time::Duration};

use crate::{
    endpoint,
    http::DownloadOptions,
    media::{Audio, Codec, MediaConfig, PlayoutDelay},
    net::MediaServices,
    secret::Secret,
    sip::{Host, Transport},
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
    /// Calls; all at the same time, unless there is a rate.
    pub calls: usize,
    /// Calls that begin in a second, evenly spread. All begin at once if absent.
    pub rate: Option<NonZeroU16>,
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
    pub playout_delay: PlayoutDelay,
    /// How long a call goes on without RTP and RTCP of the other side where media is expected; then it is ended with
    /// BYE. Zero is for ever.
    pub media_timeout: Duration,
    /// How long packets that are on their way at the end may still arrive.
    pub linger: Duration,
    /// Timers of SIP.
    pub timers: Timers,
    /// What is asked of the tunnel for RTP.
    pub services: MediaServices,
    /// How long a call waits, before its INVITE, until they are in force; zero does not wait.
    pub services_timeout: Duration,
    /// What carries SIP.
    pub transport: Transport,
    /// Chats and files.
    pub sessions: SessionOptions,
    /// Downloads.
    pub downloads: DownloadOptions,
}

/// A file to send.
#[derive(Clone, Debug)]
pub enum FileSource {
    /// So many bytes of test data ([`pattern`](crate::pattern)).
    Pattern(u64),
    /// This file.
    Path(PathBuf),
}

/// How far a file has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileProgress<'a> {
    /// Some of it has arrived.
    Accepted {
        /// Bytes that have arrived.
        bytes: u64,
        /// Bytes of the file.
        total: u64,
    },
    /// The other side has reported that it has all of it.
    Sent {
        /// Bytes of the file.
        size: u64,
        /// Its SHA-1 in hexadecimal, which the other side was offered.
        sha1: &'a str,
    },
    /// It does not arrive.
    Failed,
}

/// Told how far which file has come. The last word of each file is [`FileProgress::Sent`] or [`FileProgress::Failed`].
#[derive(Clone)]
pub struct Progress(pub ProgressFn);

/// What [`Progress`] calls.
pub type ProgressFn = Arc<dyn Fn(usize, FileProgress<'_>) + Send + Sync>;

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}

/// Chats and files, by MSRP.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// User to chat with and to send files to; it has to answer every message with the same one.
    pub callee: String,
    /// Chats at the same time.
    pub chats: usize,
    /// Messages of each chat.
    pub messages: usize,
    /// Bytes of each message.
    pub message_size: usize,
    /// Transfers at the same time.
    pub files: usize,
    /// The file that each one sends.
    pub file: FileSource,
    /// Who is told how far the files have come.
    pub progress: Option<Progress>,
}

impl Default for SessionOptions {
    /// No chat and no file. A chat has five messages, long enough for two chunks; a file is a megabyte of test data.
    fn default() -> Self {
        Self {
            callee: "echo".to_owned(),
            chats: 0,
            messages: 5,
            message_size: 3000,
            files: 0,
            file: FileSource::Pattern(1_000_000),
            progress: None,
        }
    }
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
            rate: None,
            duration: None,
            play: Audio::speech(),
            codecs: Codec::ALL.to_vec(),
            record: None,
            ring_timeout: Duration::from_secs(60),
            playout_delay: PlayoutDelay::default(),
            media_timeout: MediaConfig::MEDIA_TIMEOUT,
            linger: endpoint::LINGER,
            timers: Timers::default(),
            services: MediaServices::default(),
            services_timeout: Duration::ZERO,
            transport: Transport::default(),
            sessions: SessionOptions::default(),
            downloads: DownloadOptions::default(),
        }
    }
}
