//! State machines of both ends of a TSCF tunnel, sans-IO.
mod assignment;
pub mod client;
mod random;
mod resume;
mod secret;
pub mod server;
mod transaction;
mod transport;
mod wire;
pub use assignment::{Alternate, Assignment, InnerAddress};
pub use random::{BoxedRandom, Random};
pub use secret::{Key32, Secret};
pub use transaction::{ANSWER_MEMORY, MAX_ANSWERS, MAX_OUTSTANDING};
pub use transport::Transport;
