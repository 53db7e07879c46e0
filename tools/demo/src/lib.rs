//! wip
pub mod pki;
