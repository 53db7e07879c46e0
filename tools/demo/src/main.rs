//! Makes SIP calls with media through real tunnels over every transport, and reports.
fn main() {}
