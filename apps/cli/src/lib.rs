//! What the command lines of OpenTSC's applications have in common: how to reach the tunnel server, how to speak, how
//! to stop.
//!
//! Secrets come from files or the environment, never as arguments: other users of a machine can read arguments.

mod error;
mod output;
pub mod secret;
pub mod stop;
mod tunnel;

pub use error::UsageError;
pub use output::{LogLevel, OutputArgs, say};
pub use tunnel::{TunnelArgs, is_usage_error};
