//! What the demo and the end-to-end tests stand on: a server with certificates of its own on this machine, and calls
//! through it.

pub mod alone;
pub mod inner_tcp;
pub mod lab;
pub mod leg;
pub mod peer;
pub mod pki;
pub mod relay;
pub mod service;
