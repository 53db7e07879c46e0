//! The bench of OpenTSC: all figures of `docs/performance.md`.
//!
//! ```text
//!   paths         pieces of the way of a packet in memory: timed by Criterion, counted by callgrind
//!   instructions  counts them and compares with the committed baseline
//!   suite         what tsc-load measures, in sections; results keeps what it said of each
//!   check         the short form of it for every change
//!   document      tables and plots made of results
//! ```

pub mod check;
pub mod document;
pub mod instructions;
pub mod paths;
pub mod results;
pub mod suite;
pub mod tables;
