//! Operating system adaptation: TCP, UDP, TLS and DTLS transports, certificates, clock, randomness, capture files.

pub mod cert;
pub mod client;
pub mod datagram;
pub mod dtls;
pub mod listener;
pub mod random;
pub mod socket;
pub mod stream;
pub mod tls;
pub mod trace;
