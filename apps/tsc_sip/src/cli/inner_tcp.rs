//! The command line of everything at once.

use std::{net::SocketAddr, path::PathBuf};

use clap::Parser;
use tsc_cli::{OutputArgs, UsageError};

use super::{CallArgs, EXIT_CODES, MediaArgs, NetworkArgs, SipArgs, caller};
use crate::{
    client::{ClientOptions, FileSource, SessionOptions},
    http::DownloadOptions,
    sip::Transport,
};

/// SIP, MSRP and HTTP over inner TCP, and RTP beside them, in one tunnel: calls, chats, files and downloads at the same time.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "tsc_sip_inner_tcp",
    version,
    max_term_width = 100,
    after_help = EXIT_CODES,
    after_long_help = format!("{AFTER_HELP}{EXIT_CODES}")
)]
pub struct InnerTcpArgs {
    /// The tunnel, or none.
    #[command(flatten)]
    pub network: NetworkArgs,

    /// The SIP account.
    #[command(flatten)]
    pub sip: SipArgs,

    /// The calls.
    #[command(flatten)]
    pub calls: CallArgs,

    /// User to chat with and to send files to; it has to answer each message with the same one, as those of tsc_sip_server do.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "echo",
        help_heading = "Messages"
    )]
    pub peer: String,

    /// Chats at the same time.
    #[arg(long, value_name = "N", default_value_t = 10, help_heading = "Messages",
          value_parser = clap::value_parser!(u16).range(0..=1000))]
    pub chats: u16,

    /// Messages of each chat.
    #[arg(long, value_name = "N", default_value_t = 5, help_heading = "Messages",
          value_parser = clap::value_parser!(u16).range(1..))]
    pub messages: u16,

    /// Bytes of each message; a chunk has 2048.
    #[arg(long, value_name = "BYTES", default_value_t = 3000, help_heading = "Messages",
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub message_size: u32,

    /// Transfers at the same time.
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Messages",
          value_parser = clap::value_parser!(u16).range(0..=1000))]
    pub files: u16,

    /// File that each transfer sends. [default: test data]
    #[arg(long, value_name = "FILE", help_heading = "Messages")]
    pub file: Option<PathBuf>,

    /// Bytes of test data, where no --file is given.
    #[arg(long, value_name = "BYTES", default_value_t = 1_000_000, conflicts_with = "file", help_heading = "Messages",
          value_parser = clap::value_parser!(u64).range(..=1 << 30))]
    pub file_size: u64,

    /// Downloads by HTTP at the same time.
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "HTTP",
          value_parser = clap::value_parser!(u16).range(0..=1000))]
    pub http: u16,

    /// HTTP server. [default: port 8080 of the SIP server's address]
    #[arg(long, value_name = "ADDRESS:PORT", help_heading = "HTTP")]
    pub http_server: Option<SocketAddr>,

    /// What to download; /bytes/N of tsc_sip_server is N bytes of test data.
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/bytes/1000000",
        help_heading = "HTTP"
    )]
    pub http_path: String,

    /// The media.
    #[command(flatten)]
    pub media: MediaArgs,

    /// The output.
    #[command(flatten)]
    pub output: OutputArgs,
}

const AFTER_HELP: &str = "\
What it does, step by step (the same steps stand as comments in the source):
  1. opens a tunnel to --server over --transport; the server assigns an inner address and a SIP server
  2. opens an inner TCP connection for SIP: REGISTER, INVITE, BYE go over it, and come back by it
  3. calls: RTP and RTCP over inner UDP, as tsc_sip_client has them
  4. chats and files: MSRP sessions set up by INVITE, each on an inner TCP connection of its own, messages in chunks
  5. downloads by HTTP, with hyper, on further inner TCP connections
  6. BYE, removes the registration, releases the tunnel, reports
All calls, chats, files and downloads run at the same time, in the one tunnel. On a terminal the files have progress bars.
SIGINT and SIGTERM lead to step 6 at once; a second one ends the program.

Examples:
  tsc_sip_inner_tcp --server sbc.example.com:443 --ca ca.pem --password-file alice.pw
  tsc_sip_inner_tcp --server 127.0.0.1:4567 --transport udp --calls 50 --chats 100 --files 10 --http 10
  tsc_sip_inner_tcp --server 127.0.0.1:4567 --transport tcp --calls 0 --chats 0 --file talk.pdf --json

";

impl InnerTcpArgs {
    /// Reads the files that the command line names.
    ///
    /// # Errors
    ///
    /// Which option cannot be carried out, and why.
    pub fn options(&self) -> Result<ClientOptions, UsageError> {
        let mut options = caller(&self.sip, &self.calls, &self.media)?;
        options.transport = Transport::Tcp;
        let file = match &self.file {
            None => FileSource::Pattern(self.file_size),
            Some(path) => {
                // That it can be read is found out now.
                std::fs::File::open(path)
                    .and_then(|file| match file.metadata()?.is_file() {
                        true => Ok(()),
                        false => Err(std::io::Error::other("not a regular file")),
                    })
                    .map_err(|error| UsageError::file("--file", path, error))?;
                FileSource::Path(path.clone())
            }
        };
        options.sessions = SessionOptions {
            callee: self.peer.clone(),
            chats: self.chats.into(),
            messages: self.messages.into(),
            message_size: usize::try_from(self.message_size).unwrap_or(usize::MAX),
            files: self.files.into(),
            file,
            progress: None,
        };
        if !self.http_path.starts_with('/') {
            return Err(UsageError::value(
                "--http-path",
                "a path begins with a slash",
            ));
        }
        options.downloads = DownloadOptions {
            count: self.http.into(),
            server: self.http_server,
            path: self.http_path.clone(),
        };
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<InnerTcpArgs, clap::Error> {
        InnerTcpArgs::try_parse_from(format!("x --no-tunnel ::1 {line}").split_whitespace())
    }

    #[test]
    fn the_command_line_is_consistent() {
        InnerTcpArgs::command().debug_assert();
    }

    #[test]
    fn options_follow_the_command_line() {
        let options = parse("").unwrap().options().unwrap();
        let sessions = &options.sessions;
        let counts = (options.calls, sessions.chats, sessions.files);
        assert_eq!((counts, options.downloads.count), ((1, 10, 1), 1));
        assert_eq!(options.transport, Transport::Tcp);
        let line = "--calls 50 --chats 100 --files 10 --http 7 --message-size 5";
        let options = parse(line).unwrap().options().unwrap();
        let sessions = &options.sessions;
        let counts = (options.calls, sessions.chats, sessions.files);
        assert_eq!((counts, options.downloads.count), ((50, 100, 10), 7));
        assert_eq!(sessions.message_size, 5);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for line in [
            "--message-size 0",
            "--messages 0",
            "--file x --file-size 1",
            "--chats 1001",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        for (line, option) in [
            ("--file /", "--file"),
            ("--file /none", "--file"),
            ("--http-path x", "--http-path"),
        ] {
            let error = parse(line).unwrap().options().unwrap_err();
            assert!(error.to_string().starts_with(option), "{error}");
        }
    }
}
