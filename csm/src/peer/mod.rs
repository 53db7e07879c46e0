//! Peer tunnels (spec 7, "Peer tunneling"): what both clients and the server between them have in common, and the direct tunnel
//! itself.
//!
//! ```text
//!   A ---- ask: addresses, candidates, fingerprint ----> server ----> B       csm::client::service::peer,
//!   A <--- answer: candidates, tag, fingerprint -------- server <---- B       csm::server::service::peer
//!
//!   A <======== Configuration_Request with the tag ==================> B      this: a Path at each end
//! ```
//!
//! A [`Path`] is one UDP socket of a client, and the streams beside it: it asks a STUN server how it is seen, finds the other end, and
//! carries the tunnel. It knows nothing of the main tunnel, and not how protection is done.

mod allowance;
mod candidate;
mod gather;
mod link;
mod listen;
mod message;
mod path;
mod search;
mod unproven;

pub(crate) use self::allowance::Allowance;
pub use self::candidate::{Candidate, MAX_CANDIDATES};
pub(crate) use self::candidate::{Reach, connection_info};
pub(crate) use self::message::{Granted, Invitation, answer, ask, refusal};
pub use self::path::PathEnd;
pub(crate) use self::path::{Action, Found, News, Path, Terms};
pub use self::unproven::MOST_UNANSWERED;
