//! Inner sockets of two and more tunnels that talk with each other, through a server of a few lines.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    clippy::cast_possible_truncation,
    unreachable_pub
)]

mod http;
mod lookup;
mod resume;
mod routed;
mod tcp;
mod tls;
mod world;

use std::time::Duration;

/// Nothing here takes longer unless it hangs.
const LIMIT: Duration = Duration::from_secs(60);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, what).await.expect("in time")
}
