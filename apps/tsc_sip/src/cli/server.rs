//! The callee's command line.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{ArgGroup, Parser};
use tsc_cli::{OutputArgs, UsageError};

use super::{MediaArgs, NetworkArgs, PeerArgs, account::password, writable};
use crate::{
    digest::Users,
    media::Audio,
    server::{Behaviour, RegisterAt, ServerOptions},
};

/// SIP server inside a tunnel: a registrar, and users that answer calls, play or echo, record and report. All users but
/// busy ones answer chats with what they are told, and take files. It serves HTTP, too.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "tsc_sip_server",
    version,
    max_term_width = 100,
    group = ArgGroup::new("registration").required(true).args(["users", "open_registration"]),
    after_long_help = AFTER_HELP
)]
pub struct ServerArgs {
    /// The tunnel, or none.
    #[command(flatten)]
    pub network: NetworkArgs,

    /// Peer tunnels.
    #[command(flatten)]
    pub peer: PeerArgs,

    /// Port of SIP over UDP and TCP; 0 lets the network choose.
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 5060,
        help_heading = "SIP"
    )]
    pub sip_port: u16,

    /// Who may register: a file with a line NAME:PASSWORD for each user. Or --open-registration.
    #[arg(long, value_name = "FILE", help_heading = "SIP")]
    pub users: Option<PathBuf>,

    /// Let anybody register as anybody, without a password.
    #[arg(long, help_heading = "SIP")]
    pub open_registration: bool,

    /// Realm that passwords are asked for.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "opentsc",
        help_heading = "SIP"
    )]
    pub realm: String,

    /// A user that can be called, and what happens then; may be repeated. [default: play=play echo=echo busy=busy]
    #[arg(long, value_name = "NAME=play|echo|busy", value_parser = callee, help_heading = "SIP")]
    pub callee: Vec<(String, Behaviour)>,

    /// Register a user of ours at this registrar, so that calls come by way of it.
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        requires = "register_as",
        help_heading = "SIP"
    )]
    pub register_at: Option<SocketAddr>,

    /// User name for --register-at; --callee says what happens to calls.
    #[arg(
        long,
        value_name = "NAME",
        requires = "register_at",
        help_heading = "SIP"
    )]
    pub register_as: Option<String>,

    /// File whose first line is the password for --register-at. Or set TSC_SIP_PASSWORD.
    #[arg(
        long,
        value_name = "FILE",
        requires = "register_at",
        help_heading = "SIP"
    )]
    pub password_file: Option<PathBuf>,

    /// How long it rings before a call is answered, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 0, help_heading = "SIP")]
    pub ring: u64,

    /// Calls at a time; further ones are busy.
    #[arg(long, value_name = "N", default_value_t = 256, help_heading = "SIP",
          value_parser = clap::value_parser!(u16).range(1..))]
    pub max_calls: u16,

    /// Calls at a time from one address; further ones are busy. Where all come by way of one proxy, as many as --max-calls.
    /// [default: three quarters of --max-calls]
    #[arg(long, value_name = "N", help_heading = "SIP", value_parser = clap::value_parser!(u16).range(1..))]
    pub max_calls_per_source: Option<u16>,

    /// End after this many calls. [default: run until SIGINT or SIGTERM]
    #[arg(long, value_name = "N", help_heading = "SIP")]
    pub exit_after: Option<u64>,

    /// Port of the HTTP server, which gives test data at /bytes/N; 0 lets the network choose.
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = crate::http::DownloadOptions::PORT,
        help_heading = "HTTP"
    )]
    pub http_port: u16,

    /// Have no HTTP server.
    #[arg(long, conflicts_with = "http_port", help_heading = "HTTP")]
    pub no_http: bool,

    /// Directory for files that come in. [default: they are counted and hashed, and not kept]
    #[arg(long, value_name = "DIR", help_heading = "Messages")]
    pub receive: Option<PathBuf>,

    /// Bytes of the largest file that is taken.
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 30, help_heading = "Messages")]
    pub max_file: u64,

    /// The media.
    #[command(flatten)]
    pub media: MediaArgs,

    /// The output.
    #[command(flatten)]
    pub output: OutputArgs,
}

const AFTER_HELP: &str = "\
It opens a tunnel as any client does, and is reached at the inner address that the tunnel server assigns to it:
make that address the assigned SIP server, so that clients find it. When it can be called it prints a line with
its address to standard output; after each call it prints the report (with --json one JSON object per line).
SIGINT or SIGTERM says BYE to all calls first, waits 2 seconds at most for the answers, and prints their reports; a
second signal ends at once. When the server has forgotten or released the tunnel another is opened (--renew-timeout),
the line with the address is printed again, and calls that are up go on there. If none comes up all calls end, and their
reports are printed.

Examples:
  tsc_sip_server --server sbc.example.com:443 --ca ca.pem --users users.txt --record heard/
  tsc_sip_server --server 127.0.0.1:4567 --transport udp --open-registration --callee bob=echo
  tsc_sip_server --server sbc.example.com --users users.txt --callee bob=play --peer
                 callers with --peer reach bob without the tunnel server
  tsc_sip_server --server sbc.example.com --users none --register-at 10.0.0.5:5060 --register-as bob --callee bob=play

Exit codes:
  0  stopped as asked
  2  wrong command line, or a file, directory or port that it names cannot be used
  3  no tunnel, or the tunnel was lost
  4  the registrar of --register-at refused or did not answer";

impl ServerArgs {
    /// Reads the files that the command line names.
    ///
    /// # Errors
    ///
    /// Which option cannot be carried out, and why.
    pub fn options(&self) -> Result<ServerOptions, UsageError> {
        let users = match &self.users {
            None => None,
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| UsageError::file("--users", path, error))?;
                let users = Users::parse(&text).map_err(|line| {
                    let error = format!("line {line} is not NAME:PASSWORD");
                    UsageError::file("--users", path, error)
                })?;
                Some(users)
            }
        };
        let mut options = ServerOptions {
            sip_port: self.sip_port,
            realm: self.realm.clone(),
            users,
            codecs: self.media.codec.clone(),
            play: self.media.audio(Audio::reply)?,
            ring: Duration::from_millis(self.ring),
            max_calls: self.max_calls.into(),
            max_calls_per_source: self.max_calls_per_source.map_or_else(
                || (usize::from(self.max_calls) * 3).div_ceil(4),
                usize::from,
            ),
            record: self.media.record_directory()?,
            media_timeout: Duration::from_secs(self.media.media_timeout),
            http_port: (!self.no_http).then_some(self.http_port),
            receive: writable("--receive", self.receive.as_deref())?,
            max_file: self.max_file,
            playout_delay: self.media.playout_delay,
            ..ServerOptions::default()
        };
        if let (Some(registrar), Some(user)) = (self.register_at, &self.register_as) {
            options.register_at = Some(RegisterAt {
                registrar,
                user: user.clone(),
                password: password(self.password_file.as_deref())?,
                expires: 3600,
            });
        }
        if !self.callee.is_empty() {
            options.callees = self.callee.iter().cloned().collect();
        }
        Ok(options)
    }
}

fn callee(text: &str) -> Result<(String, Behaviour), String> {
    let (name, behaviour) = text.split_once('=').unwrap_or((text, ""));
    if name.is_empty() {
        return Err("the name is missing".to_owned());
    }
    Ok((name.to_owned(), behaviour.parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        ServerArgs::command().debug_assert();
    }

    #[test]
    fn options_follow_the_command_line() {
        let directory = tempfile::tempdir().unwrap();
        let users = directory.path().join("users");
        std::fs::write(&users, "alice:secret\n").unwrap();
        let parse = |more: &str| {
            let line = format!("x --no-tunnel ::1 {more}");
            ServerArgs::try_parse_from(line.split_whitespace())
        };
        let error = parse("").unwrap_err().to_string();
        for way in ["--users", "--open-registration"] {
            assert!(
                error.contains(way),
                "registration is closed unless opened: {error}"
            );
        }
        assert!(parse("--open-registration --users u").is_err());
        let args = parse("--open-registration --callee bob=echo --callee eve=busy").unwrap();
        let options = args.options().unwrap();
        assert_eq!(options.callees.len(), 2);
        assert!(options.users.is_none());
        assert!(parse("--open-registration --callee bob").is_err());
        let file = format!("--users {}", users.display());
        let options = parse(&file).unwrap().options().unwrap();
        assert!(options.users.unwrap().contains("alice"));
        std::fs::write(&users, "alice\n").unwrap();
        let error = parse(&file).unwrap().options().unwrap_err();
        assert!(error.to_string().contains("line 1"), "{error}");
    }
}
