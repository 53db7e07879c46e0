//! From the command line to the exit code.

use std::process::ExitCode;

use clap::Parser as _;
use sd_notify::NotifyState;
use serde::Serialize;
use tsc_cli::{say, stop::Signals};
use tsc_gateway::{
    Bridge,
    cli::Args,
    device::Device,
    report::Summary,
    session::{self, Failure, News},
};

pub(crate) fn main() -> ExitCode {
    let args = Args::parse();
    args.output.start_logging();
    let (summary, result) = match open(&args) {
        Ok(mut bridge) => {
            let result = forward(&args, &mut bridge);
            (bridge.summary(), result)
        }
        Err(failure) => (Summary::default(), Err(failure)),
    };
    if args.output.json {
        let error = result.as_ref().err().map(|failure| failure.error.as_str());
        line(&Event::Stopped { summary, error });
    } else {
        say(summary);
    }
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("tsc-gateway: {}", failure.error);
            ExitCode::from(failure.code)
        }
    }
}

/// Makes the device. No thread that lives on is started before it is there: capabilities belong to threads.
fn open(args: &Args) -> Result<Bridge, Failure> {
    args.check().map_err(|error| Failure::new(2, &error))?;
    // Files are read here for the first time, so that what is wrong with them is said before anything is touched.
    let builder = args.tunnel.builder("");
    drop(builder.map_err(|error| Failure::new(2, &error))?);
    session::check_server_first(args)?;
    let device = Device::open(args).map_err(|error| Failure::new(4, &error))?;
    Ok(Bridge::new(device))
}

fn forward(args: &Args, bridge: &mut Bridge) -> Result<(), Failure> {
    // One thread for the tunnel, one for the device.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::new(4, &error))?;
    let json = args.output.json;
    runtime.block_on(async {
        let mut signals = Signals::listen().map_err(|error| Failure::new(2, &error))?;
        let name = bridge.name().to_owned();
        session::run(args, bridge, &mut signals, |news| tell(json, &name, &news)).await
    })
}

/// A line of `--json`.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Event<'a> {
    Ready {
        tunnel: String,
        device: &'a str,
        mtu: u16,
        prefixes: Vec<String>,
    },
    Lost {
        reason: &'a str,
    },
    Stopped {
        #[serde(flatten)]
        summary: Summary,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<&'a str>,
    },
}

fn line(event: &Event<'_>) {
    match serde_json::to_string(event) {
        Ok(json) => say(json),
        Err(error) => tracing::error!(%error, "not printed"),
    }
}

fn tell(json: bool, device: &str, news: &News<'_>) {
    match news {
        News::Ready {
            tunnel, prefixes, ..
        } => {
            let config = tunnel.config();
            let id = format!("{:016x}", config.tunnel_id);
            let prefixes: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
            if json {
                line(&Event::Ready {
                    tunnel: id,
                    device,
                    mtu: config.inner_mtu,
                    prefixes,
                });
            } else {
                let prefixes = prefixes.join(" and ");
                say(format_args!(
                    "tunnel {id} is up, {prefixes} reach the core by {device}"
                ));
            }
            // Without a service manager nobody hears it.
            if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
                tracing::debug!(%error, "the service manager was not told");
            }
        }
        News::Lost { reason } if json => line(&Event::Lost { reason }),
        News::Lost { reason } => say(format_args!("the tunnel was lost: {reason}")),
        _ => {}
    }
}
