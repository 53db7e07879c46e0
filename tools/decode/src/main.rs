//! Shows TSCF units from hex or pcap as text or JSON.
fn main() {}
