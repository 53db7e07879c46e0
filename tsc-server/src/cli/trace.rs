//! `tsc-server trace`: captures of a running server.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Action, Cli, Exit, words};
use crate::config::{Environment, TraceRedaction};
use crate::control::{Answer, Request, StartRequest, StopRequest, TraceRecord, ask};

/// How a running server is asked.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = HELP)]
pub struct TraceArgs {
    /// The server's control socket. [default: `control-socket` of the configuration]
    #[arg(long, value_name = "PATH", env = "TSC_CONTROL_SOCKET", global = true)]
    pub control: Option<PathBuf>,

    /// Print the server's answer as JSON.
    #[arg(long, global = true)]
    pub json: bool,

    /// What to ask for.
    #[command(subcommand)]
    pub action: TraceAction,
}

/// What a server does about captures.
#[derive(Clone, Debug, Subcommand)]
pub enum TraceAction {
    /// Start a capture: of everything, unless one of --tunnel, --address, --identity and --interface is given.
    Start(TraceStart),
    /// Stop a capture and close its file.
    Stop {
        /// The name of its file, or "all".
        name: String,
    },
    /// List the captures that run.
    List,
}

/// A capture that is to be started.
#[derive(Clone, Debug, Args)]
pub struct TraceStart {
    /// Name of the pcapng file in the server's `trace-directory`; it must not exist.
    #[arg(short, long, value_name = "NAME")]
    pub file: String,

    /// Only the tunnel with this TSID, as logs and captures show it.
    #[arg(long, value_name = "TSID", group = "filter")]
    pub tunnel: Option<String>,

    /// Only tunnels with this inner address.
    #[arg(long, value_name = "ADDRESS", group = "filter")]
    pub address: Option<IpAddr>,

    /// Only tunnels of this user, by certificate or token.
    #[arg(long, value_name = "NAME", group = "filter")]
    pub identity: Option<String>,

    /// Only the interface with this `realm-id`.
    #[arg(long, value_name = "NAME", group = "filter")]
    pub interface: Option<String>,

    /// What is taken away of what is written; not less than the configuration's `trace-redaction`, which is the default.
    #[arg(long, value_name = "WHAT", value_parser = words(TraceRedaction::ALL, TraceRedaction::as_str))]
    pub redaction: Option<String>,

    /// How many files are kept, 1-1000. [default: `trace-files`]
    #[arg(long, value_name = "NUMBER")]
    pub files: Option<u16>,

    /// Megabytes of each, 1-1048576. [default: `trace-file-size`]
    #[arg(long, value_name = "MB")]
    pub file_size: Option<u32>,

    /// Seconds after which the next file is begun, 0-86400; 0 is never. [default: `trace-file-time`]
    #[arg(long, value_name = "SECONDS")]
    pub file_time: Option<u64>,

    /// Seconds after which the capture ends, 1-604800. [default: 3600]
    #[arg(long = "for", value_name = "SECONDS")]
    pub time: Option<u64>,

    /// Also what the ports send and receive, as it is on the wire: of everything or of an interface, as nobody knows whose it is.
    #[arg(long)]
    pub outer: bool,

    /// INSECURE: also the secrets of TLS and DTLS connections that begin meanwhile: whoever has the file can read all that
    /// they carry, wherever it was recorded. Of everything or of an interface, never with a redaction; of DTLS with the back end openssl.
    #[arg(long)]
    pub insecure_decryption_secrets: bool,
}

const HELP: &str = "\
Examples:
  tsc-server trace start --file call.pcapng --tunnel 00c0ffee00c0ffee --redaction sip
  tsc-server trace start --file ring.pcapng --interface access --files 10 --file-size 100 --for 86400
  tsc-server trace start --file wire.pcapng --interface access --outer --for 600
  tsc-server trace list
  tsc-server trace stop call.pcapng

The server writes the file, as its own user and into its `trace-directory`, for its owner only. It must have
a `control-socket`; its user and root may ask. A capture ends when it is stopped, when its time is over, when
the disk is full, and with the server. At most 8 run at a time.

Exit codes:
  0  done
  1  the server cannot be reached, or refuses
  2  wrong command line, or a configuration that cannot be read or has no control-socket";

/// What to ask a running server.
#[derive(Clone, Debug)]
pub struct Ask {
    socket: PathBuf,
    request: Request,
    json: bool,
}

impl Cli {
    /// What `args` ask for.
    pub(super) fn ask(&self, args: &TraceArgs, environment: &Environment) -> Action {
        let refuse = |report: String| Action::Refuse {
            report,
            exit: Exit::Configuration,
        };
        if self.check_config
            || self.print_config
            || self.print_default_config
            || self.trace.is_some()
        {
            return refuse(
                "error: a running server is asked for nothing but what stands behind \"trace\"\n  \
                 help: leave the flags before it out"
                    .to_owned(),
            );
        }
        let request = match &args.action {
            TraceAction::Start(start) => Request::TraceStart(start.request()),
            TraceAction::Stop { name } => Request::TraceStop(StopRequest {
                name: (name != "all").then(|| name.clone()),
            }),
            TraceAction::List => Request::trace_list(),
        };
        let socket = match &args.control {
            Some(path) => path.clone(),
            None => match self.load(environment) {
                Ok(config) => match config.system.control_socket {
                    Some(path) => path,
                    None => {
                        return refuse(format!(
                            "error: {} names no control-socket\n  \
                             help: add one and restart the server, or name it with --control",
                            self.path().display()
                        ));
                    }
                },
                Err(errors) => {
                    return refuse(format!(
                        "{errors}\n  help: or name the socket with --control"
                    ));
                }
            },
        };
        Action::Ask(Box::new(Ask {
            socket,
            request,
            json: args.json,
        }))
    }
}

impl TraceStart {
    fn request(&self) -> StartRequest {
        StartRequest {
            file: self.file.clone(),
            interface: self.interface.clone(),
            tunnel: self.tunnel.clone(),
            address: self.address,
            identity: self.identity.clone(),
            redaction: self.redaction.clone(),
            files: self.files,
            file_size: self.file_size,
            file_time: self.file_time,
            time: self.time,
            outer: self.outer,
            insecure_decryption_secrets: self.insecure_decryption_secrets,
        }
    }
}

impl Ask {
    /// Asks, and tells what there is to print.
    ///
    /// # Errors
    ///
    /// Why nothing was done, for people.
    pub fn ask(&self) -> Result<String, String> {
        let answer = ask(&self.socket, &self.request).map_err(|error| error.to_string())?;
        if self.json && matches!(answer, Answer::Traces(_)) {
            let line = serde_json::to_string(&answer).map_err(|error| error.to_string())?;
            return Ok(format!("{line}\n"));
        }
        match answer {
            Answer::Traces(traces) => Ok(self.table(&traces)),
            Answer::Error(failure) => Err(failure.text),
        }
    }

    fn table(&self, traces: &[TraceRecord]) -> String {
        let mut text = match (&self.request, traces) {
            (Request::TraceStart(_), [trace]) => format!("started {}\n", trace.file),
            (Request::TraceStop(_), []) => return "nothing to stop\n".to_owned(),
            (Request::TraceStop(_), _) => "stopped\n".to_owned(),
            (_, []) => return "no capture is running\n".to_owned(),
            (Request::TraceStart(_) | Request::TraceList(_), _) => String::new(),
        };
        let heads = [
            "NAME",
            "FILTER",
            "OUTSIDE",
            "REDACTION",
            "LEFT",
            "WRITTEN",
            "DROPPED",
        ]
        .map(str::to_owned);
        let columns = heads.len();
        let mut rows = vec![heads];
        rows.extend(traces.iter().map(row));
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                let cells = rows.iter().filter_map(|row| row.get(column));
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        for row in rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(line, "{cell:width$}  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        for trace in traces {
            let of_tunnels =
                !trace.filter.starts_with("all") && !trace.filter.starts_with("interface");
            if matches!(self.request, Request::TraceStart(_)) && of_tunnels && trace.tunnels == 0 {
                let _ = writeln!(text, "no tunnel of {} is up now", trace.filter);
            }
        }
        text
    }
}

fn row(trace: &TraceRecord) -> [String; 7] {
    let outside = match (trace.outer, trace.insecure_decryption_secrets) {
        (false, false) => "-",
        (true, false) => "outer",
        (false, true) => "SECRETS",
        (true, true) => "outer+SECRETS",
    };
    [
        trace.name.clone(),
        trace.filter.clone(),
        outside.to_owned(),
        trace.redaction.clone(),
        trace
            .left
            .map_or_else(|| "-".to_owned(), |left| format!("{left} s")),
        trace.written.to_string(),
        trace.dropped.to_string(),
    ]
}
