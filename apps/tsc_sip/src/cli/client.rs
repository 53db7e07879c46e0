//! The caller's command line.

use clap::Parser;
use tsc_cli::{OutputArgs, UsageError};

use super::{CallArgs, EXIT_CODES, MediaArgs, NetworkArgs, PeerArgs, SipArgs, caller};
use crate::client::ClientOptions;

/// SIP client inside a tunnel: opens a tunnel, registers, calls, plays, records, hangs up and reports.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "tsc_sip_client",
    version,
    max_term_width = 100,
    after_help = EXIT_CODES,
    after_long_help = format!("{AFTER_HELP}{EXIT_CODES}")
)]
pub struct ClientArgs {
    /// The tunnel, or none.
    #[command(flatten)]
    pub network: NetworkArgs,

    /// Peer tunnels.
    #[command(flatten)]
    pub peer: PeerArgs,

    /// The SIP account.
    #[command(flatten)]
    pub sip: SipArgs,

    /// The calls.
    #[command(flatten)]
    pub calls: CallArgs,

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
  2. opens inner UDP sockets, on which nothing shows that they are inside a tunnel
  3. REGISTER, with the password when the registrar asks; INVITE, ACK
  4. RTP every 20 ms and RTCP, both ways; what is heard is recorded with --record
  5. BYE, removes the registration, releases the tunnel, reports
SIGINT and SIGTERM lead to step 5 at once; a second one ends the program. When the server has forgotten or released the tunnel,
another is opened (--renew-timeout), we register from there, and calls that are up go on there. If none comes up the calls
end, and what there is of them is reported and recorded.

Examples:
  tsc_sip_client --server sbc.example.com:443 --ca ca.pem --password-file alice.pw
  tsc_sip_client --server 127.0.0.1:4567 --transport udp --call echo --duration 2 --json
  tsc_sip_client --server 127.0.0.1:4567 --transport dtls --ca ca.pem --calls 20 --record heard/
  tsc_sip_client --server sbc.example.com --password-file alice.pw --call bob --peer
                 media goes straight to bob, if he has --peer too; the last lines tell how much of it did

The report, for each call (names of --json in brackets):
  time until services were in force [services_ms]; from INVITE to 200 [setup_ms]; RTP packets [sent, received, lost, late, duplicated, reordered];
  jitter by RFC 3550 [jitter_ms]; round trip by RTCP [rtt_ms]; estimated quality by G.107, 1 to 4.41 [mos];
  with --peer how much went by a peer tunnel, and how much over the tunnel server [direct: sent, received]

";

impl ClientArgs {
    /// Reads the files that the command line names.
    ///
    /// # Errors
    ///
    /// Which option cannot be carried out, and why.
    pub fn options(&self) -> Result<ClientOptions, UsageError> {
        let mut options = caller(&self.sip, &self.calls, &self.media)?;
        options.services.peer = self.peer.peer;
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::PlayoutDelay;
    use clap::CommandFactory;
    use std::time::Duration;
    use tsc_tapi::TunnelTransport;

    #[test]
    fn the_command_line_is_consistent() {
        ClientArgs::command().debug_assert();
    }

    #[test]
    fn options_follow_the_command_line() {
        let line = "x --no-tunnel 127.0.0.1 --call echo -n 3 --duration 1.5 --codec pcma --playout-delay 80";
        let args = ClientArgs::try_parse_from(line.split(' ')).unwrap();
        let options = args.options().unwrap();
        assert_eq!((options.calls, options.callee.as_str()), (3, "echo"));
        assert_eq!(options.duration, Some(Duration::from_millis(1500)));
        assert_eq!(options.codecs, [crate::media::Codec::Pcma]);
        let fixed = PlayoutDelay::Fixed(Duration::from_millis(80));
        assert_eq!(options.playout_delay, fixed);
        assert!(!options.services.peer);
        let args = ClientArgs::try_parse_from("x -s a:1 --peer".split(' ')).unwrap();
        assert!(args.options().unwrap().services.peer);
        let line = "x --no-tunnel 127.0.0.1 --playout-delay adaptive";
        let args = ClientArgs::try_parse_from(line.split(' ')).unwrap();
        assert_eq!(
            args.options().unwrap().playout_delay,
            PlayoutDelay::Adaptive
        );
        assert!(options.password.is_none() && options.register);
    }

    #[test]
    fn datagrams_beside_a_stream_are_wanted_always_or_as_needed() {
        for (words, expected) in [
            ("", TunnelTransport::Main),
            (" --ddt", TunnelTransport::Datagram),
            (" --ddt=always", TunnelTransport::Datagram),
            (" --ddt=automatic --call echo", TunnelTransport::Automatic),
            // What follows is another argument.
            (" --ddt --call automatic", TunnelTransport::Datagram),
        ] {
            let line = format!("x --no-tunnel 127.0.0.1{words}");
            let args = ClientArgs::try_parse_from(line.split(' ')).unwrap();
            let services = args.options().unwrap().services;
            assert_eq!(services.transport, expected, "{words}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let parse = |line: &str| ClientArgs::try_parse_from(line.split(' '));
        assert!(parse("x").is_err(), "neither server nor --no-tunnel");
        assert!(parse("x -s a:1 -t sctp").is_err());
        assert!(
            parse("x -s a:1 --cert c").is_err(),
            "a certificate needs its key"
        );
        assert!(parse("x -s a:1 --duration 0").is_err());
        assert!(parse("x -s a:1 --no-tunnel ::1").is_err());
        assert!(
            parse("x --no-tunnel ::1 --peer").is_err(),
            "there are no peers"
        );
        assert!(parse("x -s a:1 --playout-delay 2001").is_err());
        assert!(parse("x -s a:1 --playout-delay soon").is_err());
        assert!(parse("x -s a:1 --ddt=never").is_err());
        let args = parse("x -s a:b").unwrap();
        let error = args.network.tunnel.builder("test").unwrap_err();
        assert!(error.to_string().starts_with("--server"), "{error}");
        let args = parse("x -s a:1 --ca /nonexistent/ca.pem").unwrap();
        let error = args.network.tunnel.builder("test").unwrap_err();
        assert!(error.to_string().contains("/nonexistent/ca.pem"), "{error}");
        let args = parse("x -s a:1 --play /nonexistent.wav").unwrap();
        let error = args.options().unwrap_err();
        assert!(
            error.to_string().contains("--play: /nonexistent.wav"),
            "{error}"
        );
    }
}
