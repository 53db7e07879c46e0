//! A ready proxy for programs that cannot be changed: local SOCKS5 and HTTP proxies and port forwards into a tunnel.
//!
//! ```text
//!   browser, curl, ssh ...                tsc-connect                         tunnel
//!   SOCKS5 CONNECT, UDP ASSOCIATE  -->  socks   --+
//!   HTTP CONNECT, GET http://...   -->  http    --+--> dial: names resolved --> inner TCP, inner UDP --> core
//!   -L PORT:HOST:PORT              -->  forward --+    inside the tunnel
//!   -R PORT:HOST:PORT   <--  host's sockets <-- forward  <------------------------ listens inside the tunnel
//! ```
//!
//! Everything is written against [`net::Net`], of which there are two: the host's network and the tunnel's. A forward
//! takes what comes in on one to the other, so `-L` and `-R` are the same code with the networks changed over, and all
//! of it is tested without a tunnel too.
//!
//! # Bounds
//!
//! | what | bound | beyond it |
//! | --- | --- | --- |
//! | connections and UDP associations of this host's listeners, and of those in the tunnel | `--max-connections` each, default 1024 | wait in the listener's backlog |
//! | those in the tunnel (`-R`) that one address has | `--max-connections-per-peer`, default 256 | reset at once |
//! | UDP peers of one forward | [`udp::PEERS`] | the one silent for longest gives way |
//! | those in the tunnel (`-R`) with one address | [`udp::PEERS_PER_HOST`] | of them the one silent for longest gives way |
//! | names looked up at a time for an association, names remembered | [`names::LOOKUPS`], [`names::NAMES`] | the oldest is given up, forgotten |
//! | datagrams that wait for a name or a socket | [`names::WAITING`], [`names::WAITING_BYTES`] for each association or forward | the oldest is dropped |
//! | silence of a UDP peer | [`udp::IDLE`] | forgotten |
//! | time for a proxy's handshake | [`accept::HANDSHAKE`] | closed |
//! | time to connect, for each address of a name | [`dial::CONNECT`] | the next address, at last an error |
//! | bytes in flight of a connection | 2 x 64 KiB, and the sockets' own buffers | the sender waits |

pub mod accept;
pub mod cli;
pub mod dial;
pub mod forward;
pub mod http;
pub mod names;
pub mod net;
pub mod report;
pub mod session;
pub mod socks;
pub mod streams;
pub mod target;
pub mod udp;
