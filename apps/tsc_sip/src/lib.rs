//! Reference SIP applications that make calls through a tunnel.

pub mod cli;
pub mod client;
pub mod dialog;
pub mod digest;
pub mod endpoint;
pub mod media;
pub mod net;
pub mod random;
pub mod registrar;
pub mod report;
pub mod sdp;
pub mod secret;
pub mod server;
pub mod sip;
pub mod stop;
pub mod transaction;
pub mod ua;
