//! HTTP over inner TCP: hyper on both ends, and nothing of the tunnel in between.
//!
//! hyper takes anything that reads and writes. On the host that is `TcpStream::connect(address)`, inside a tunnel it is
//! `tunnel.connect_tcp(address)`: that one line is the whole difference, see [`download`] and `serve` in `server.rs`.

mod client;
mod hashes;
mod range;
mod server;

pub use client::{DownloadOptions, HttpError, download};
pub use server::{HttpServer, MAX_BYTES};

use base64::{Engine, engine::general_purpose::STANDARD};

/// Says what the content's hash is (RFC 9530).
const REPR_DIGEST: &str = "repr-digest";

/// `sha-256=:BASE64:`.
fn digest_field(hash: &[u8]) -> String {
    format!("sha-256=:{}:", STANDARD.encode(hash))
}

/// The SHA-256 in a field with one or more hashes, if there is one.
fn read_digest(field: &str) -> Option<Vec<u8>> {
    let mut members = field.split(',').map(str::trim);
    let value = members.find_map(|member| member.strip_prefix("sha-256=:"))?;
    STANDARD.decode(value.strip_suffix(':')?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_round_trip() {
        let field = format!("sha-512=:AA==:, {}", digest_field(&[7; 32]));
        assert_eq!(read_digest(&field), Some(vec![7; 32]));
        assert_eq!(read_digest("sha-256=AA=="), None);
    }
}
