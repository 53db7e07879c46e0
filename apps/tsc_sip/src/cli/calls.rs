//! Which calls a caller makes.

use std::{num::NonZeroU16, time::Duration};

use clap::Args;

use crate::client::ClientOptions;

/// The calls.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Calls")]
pub struct CallArgs {
    /// User to call. tsc_sip_server has `play`, `echo` and `busy`.
    #[arg(short, long, value_name = "NAME", default_value = "play")]
    pub call: String,

    /// Calls, all at the same time unless there is a --rate; 0 makes none.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(0..=1000))]
    pub calls: u16,

    /// Calls that begin in a second. [default: all begin at once]
    #[arg(long, value_name = "N")]
    pub rate: Option<NonZeroU16>,

    /// Wait for so many seconds at most before each call until what is asked of the tunnel for its RTP (--redundancy, --ddt) is in
    /// force. Then the call is made with it or without; the report tells.
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=60))]
    pub services_timeout: u64,

    /// Length of each call in seconds, such as 2.5. [default: the length of the WAV file]
    #[arg(short, long, value_name = "SECONDS", value_parser = seconds)]
    pub duration: Option<Duration>,
}

impl CallArgs {
    pub(super) fn apply(&self, options: &mut ClientOptions) {
        options.callee.clone_from(&self.call);
        options.calls = self.calls.into();
        options.rate = self.rate;
        options.duration = self.duration;
        options.services_timeout = Duration::from_secs(self.services_timeout);
    }
}

/// The length of a call.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if !(0.02..=86_400.0).contains(&seconds) {
        return Err("a call lasts from 0.02 to 86400 seconds".to_owned());
    }
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}
