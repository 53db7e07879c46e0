//! The bench of OpenTSC: all figures of `docs/performance.md`.
//!
//! ```text
//!   paths         pieces of the way of a packet in memory: timed by Criterion, counted by callgrind
//!   instructions  counts them and compares with the committed baseline
//! ```

pub mod instructions;
pub mod paths;
