//! Statistics: sequences, latencies, windows.

mod sequence;
mod window;

pub use sequence::{Arrival, Sequences};
pub use window::{Latency, Window};
