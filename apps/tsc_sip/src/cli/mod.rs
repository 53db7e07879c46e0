//! Command lines of all programs: what they have in common, and what differs.
//!
//! Secrets come from files or the environment, never as arguments: other users of a machine can read arguments.

mod account;
mod calls;
mod client;
mod inner_tcp;
mod network;
mod server;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use tsc_cli::UsageError;
use tsc_tapi::{Encryption, MAX_COPIES, Redundancy, TunnelTransport};

pub use account::SipArgs;
pub use calls::CallArgs;
pub use client::ClientArgs;
pub use inner_tcp::InnerTcpArgs;
pub use network::{NetworkArgs, PeerArgs, connect_outcome};
pub use server::ServerArgs;

use crate::{
    client::ClientOptions,
    media::{Audio, PlayoutDelay},
    net::MediaServices,
};

/// What is played and recorded.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Media")]
pub struct MediaArgs {
    /// WAV file to play in a loop: 16-bit, mono, 8000 Hz. [default: a spoken sample that comes with the program]
    #[arg(long, value_name = "FILE")]
    pub play: Option<PathBuf>,

    /// Directory for recordings: for each call a WAV file of what the network delivered, its bare G.711 payload, and NAME-heard.wav, what
    /// the listener heard of it.
    #[arg(long, value_name = "DIR")]
    pub record: Option<PathBuf>,

    /// Codecs in order of preference.
    #[arg(
        long,
        value_name = "CODEC,...",
        value_delimiter = ',',
        default_value = "pcmu,pcma"
    )]
    pub codec: Vec<crate::media::Codec>,

    /// Have RTP repeated in both directions: `off`, once, twice, or (over udp and dtls) as the losses of the network make it necessary.
    /// Over udp and dtls in the datagrams that follow, over tcp and tls on further connections; `balanced` sends each packet over
    /// one of three connections. Where the tunnel's server assigns redundancy.
    #[arg(long, value_name = "off|1|2|adaptive|balanced", default_value = "off", value_parser = redundancy)]
    pub redundancy: Redundancy,

    /// Have RTP carried in a datagram tunnel beside a stream (DDT): over udp beside tcp, over dtls beside tls. Where the tunnel's
    /// server assigns DDT, and as long as datagrams pass; else on the stream. `automatic` leaves the stream when it is bad, and only
    /// for datagrams that turn out to be better.
    #[arg(
        long,
        value_name = "always|automatic",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "always",
        value_parser = ddt
    )]
    pub ddt: Option<TunnelTransport>,

    /// Have RTP encrypted between here and the tunnel's server, in an encrypted tunnel beside one over tcp or udp (DTTE): where that can be
    /// had, or only so. Over tls and dtls all is encrypted. Where the tunnel's server assigns DTTE.
    #[arg(long, value_name = "off|preferred|only", default_value = "off", value_parser = encryption)]
    pub encryption: Encryption,

    /// A packet counts as late, and is not heard, when it comes more than this many milliseconds after its schedule, which
    /// starts with the first packet. `adaptive` has the listener wait as the network makes it necessary, 60 to 200 ms.
    #[arg(long, value_name = "MS|adaptive", default_value = "60", value_parser = playout_delay)]
    pub playout_delay: PlayoutDelay,

    /// End a call when neither RTP nor RTCP has come from the other side for this many seconds; 0 never does.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    pub media_timeout: u64,
}

impl MediaArgs {
    /// The directory for recordings, made if need be. That it can be written to is found out now: at the end of a call
    /// it would be too late.
    fn record_directory(&self) -> Result<Option<PathBuf>, UsageError> {
        writable("--record", self.record.as_deref())
    }

    fn apply(&self, options: &mut ClientOptions) -> Result<(), UsageError> {
        options.play = self.audio(Audio::speech)?;
        options.codecs.clone_from(&self.codec);
        options.record = self.record_directory()?;
        options.media_timeout = Duration::from_secs(self.media_timeout);
        options.playout_delay = self.playout_delay;
        options.services = MediaServices {
            redundancy: self.redundancy,
            transport: self.ddt.unwrap_or_default(),
            encryption: self.encryption,
            ..options.services
        };
        Ok(())
    }

    fn audio(&self, default: fn() -> Audio) -> Result<Audio, UsageError> {
        match &self.play {
            Some(path) => Audio::read(path).map_err(|error| UsageError::value("--play", error)),
            None => Ok(default()),
        }
    }
}

fn redundancy(text: &str) -> Result<Redundancy, &'static str> {
    match text {
        "off" => Ok(Redundancy::Off),
        "1" => Ok(Redundancy::Copies(1)),
        "2" => Ok(Redundancy::Copies(2)),
        "adaptive" => Ok(Redundancy::Adaptive { most: MAX_COPIES }),
        "balanced" => Ok(Redundancy::Balanced(MAX_COPIES)),
        _ => Err("expected off, 1, 2, adaptive or balanced"),
    }
}

fn encryption(text: &str) -> Result<Encryption, &'static str> {
    match text {
        "off" => Ok(Encryption::Default),
        "preferred" => Ok(Encryption::Preferred),
        "only" => Ok(Encryption::Only),
        _ => Err("expected off, preferred or only"),
    }
}

fn ddt(text: &str) -> Result<TunnelTransport, &'static str> {
    match text {
        "always" => Ok(TunnelTransport::Datagram),
        "automatic" => Ok(TunnelTransport::Automatic),
        _ => Err("expected always or automatic"),
    }
}

fn playout_delay(text: &str) -> Result<PlayoutDelay, &'static str> {
    if text == "adaptive" {
        return Ok(PlayoutDelay::Adaptive);
    }
    let millis = text.parse().ok().filter(|millis| *millis <= 2000);
    let fixed = |millis| PlayoutDelay::Fixed(Duration::from_millis(millis));
    millis.map(fixed).ok_or("expected adaptive, or 0 to 2000")
}

/// A directory to write to, made if need be, and tried.
fn writable(option: &'static str, directory: Option<&Path>) -> Result<Option<PathBuf>, UsageError> {
    let Some(directory) = directory else {
        return Ok(None);
    };
    let probe = directory.join(format!(".tsc_sip-{}", std::process::id()));
    fs::create_dir_all(directory)
        .and_then(|()| fs::write(&probe, []))
        .and_then(|()| fs::remove_file(&probe))
        .map_err(|error| UsageError::file(option, directory, error))?;
    Ok(Some(directory.to_owned()))
}

/// What all callers are told: who they are, whom they call, what is played.
fn caller(sip: &SipArgs, calls: &CallArgs, media: &MediaArgs) -> Result<ClientOptions, UsageError> {
    let mut options = ClientOptions::new(&sip.user, &calls.call);
    sip.apply(&mut options)?;
    calls.apply(&mut options);
    media.apply(&mut options)?;
    Ok(options)
}

const EXIT_CODES: &str = "\
Exit codes:
  0  every call was made and heard; every chat, file and download is complete
  2  wrong command line, or a file or directory that it names cannot be used
  3  no tunnel, or the tunnel was lost
  4  the registrar refused or did not answer
  5  a call, chat, file or download was refused, not answered or broken off
  6  a call was made, but nothing was heard; or what arrived is not what was sent";
