//! What is taken from the operating system: processors, limits, and what other processes cost.

mod host;
mod process;
mod rivals;
mod stop;
mod wire;

pub use host::{
    Cores, Priority, pin, raise_descriptors, receive_buffer_default, set_receive_buffer_default,
    start_on,
};
pub use process::{Children, CpuClock, memory, run};
pub use rivals::Rivals;
pub use stop::Stop;
pub use wire::{Added, Wire, WireCount};
