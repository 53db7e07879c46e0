//! Reference SIP applications that make calls through a tunnel.

pub mod random;
pub mod sip;
pub mod transaction;
pub mod digest;
pub mod registrar;
pub mod secret;
