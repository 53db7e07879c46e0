//! Reference SIP applications that make calls through a tunnel.
