//! What a server's certificate says, accepted or not.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use tsc_osaa::cert::PeerIdentity;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Names of a certificate that are shown.
const SHOWN_NAMES: usize = 10;

/// A certificate, as JSON and as lines.
#[derive(Debug, Default)]
pub(crate) struct Certificate {
    pub(crate) more: Map<String, Value>,
    pub(crate) lines: Vec<String>,
}

pub(crate) fn describe(peer: &PeerIdentity) -> Certificate {
    let names: Vec<String> = peer.names().iter().map(ToString::to_string).collect();
    let mut fields = Map::new();
    fields.insert("subject".to_owned(), peer.subject().into());
    fields.insert("names".to_owned(), json!(names));
    let shown = names.len().min(SHOWN_NAMES);
    let mut list = names.get(..shown).unwrap_or_default().join(", ");
    if names.len() > shown {
        list += &format!(" and {} more", names.len() - shown);
    }
    if list.is_empty() {
        "no names at all".clone_into(&mut list);
    }
    let mut lines = vec![format!("certificate of {}, for {list}", peer.identity())];
    let leaf = peer.chain().first().map(AsRef::as_ref).unwrap_or_default();
    if let Ok((_, certificate)) = X509Certificate::from_der(leaf) {
        let issuer = certificate.issuer().to_string();
        let not_after = certificate.validity().not_after;
        let days = days_left(not_after.timestamp());
        let validity = if days < 0 {
            format!("EXPIRED {} days ago", -days)
        } else {
            format!("{days} days left")
        };
        lines.push(format!(
            "issued by {issuer}, valid until {not_after} ({validity}), chain of {}",
            peer.chain().len()
        ));
        fields.insert("issuer".to_owned(), issuer.into());
        fields.insert("not_after".to_owned(), not_after.timestamp().into());
        fields.insert("days_left".to_owned(), days.into());
    }
    let mut more = Map::new();
    more.insert("certificate".to_owned(), fields.into());
    Certificate { more, lines }
}

/// Whole days from now, negative when it is past.
fn days_left(timestamp: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    timestamp.saturating_sub(now).div_euclid(86_400)
}
