//! What decrypts a connection: lines of a key log, for as long as the connection lives.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::{self, Write},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use rustls::KeyLog;
use zeroize::Zeroizing;

use super::{Capture, Inner};

/// Connections whose secrets a new file of a [`Ring`](super::Ring) begins with, the newest.
pub const MAX_LIVE_CONNECTIONS: usize = 1024;

/// Lines of a connection. TLS 1.3 has four that are of use.
const MAX_LINES: usize = 8;

/// What a reader of outer packets makes use of: RFC 5246's master secret, RFC 8446's traffic secrets. Not those of exporters.
const LABELS: &[&str] = &[
    "CLIENT_RANDOM",
    "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
    "SERVER_HANDSHAKE_TRAFFIC_SECRET",
    "CLIENT_TRAFFIC_SECRET_0",
    "SERVER_TRAFFIC_SECRET_0",
];

type Line = Zeroizing<Vec<u8>>;

type Table = BTreeMap<u64, VecDeque<Line>>;

/// The lines of connections that live, by their order: for as long as another file may begin with them.
pub(super) struct Live {
    next: AtomicU64,
    table: Mutex<Option<Table>>,
}

impl Live {
    /// `is_ring`: there may be another file.
    pub(super) fn new(is_ring: bool) -> Self {
        Self {
            next: AtomicU64::new(0),
            table: Mutex::new(is_ring.then(Table::new)),
        }
    }

    /// There is no other file.
    pub(super) fn end(&self) {
        *self.table() = None;
    }

    fn table(&self) -> MutexGuard<'_, Option<Table>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, id: u64, line: &Line) {
        let mut table = self.table();
        let Some(table) = table.as_mut() else { return };
        let lines = table.entry(id).or_default();
        if lines.len() == MAX_LINES {
            lines.pop_front();
        }
        lines.push_back(line.clone());
        if table.len() > MAX_LIVE_CONNECTIONS {
            table.pop_first();
        }
    }

    /// The client's random numbers in them.
    pub(super) fn randoms(&self) -> BTreeSet<[u8; 32]> {
        let table = self.table();
        let lines = table.iter().flat_map(Table::values).flatten();
        lines.filter_map(|line| random(line)).collect()
    }

    /// All of them, those of older connections left out beyond `limit` bytes.
    pub(super) fn lines(&self, limit: u64) -> Line {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let table = self.table();
        let of_one = |lines: &VecDeque<Line>| lines.iter().map(|line| line.len()).sum::<usize>();
        let mut room = limit;
        let mut kept: Vec<_> = table
            .iter()
            .flat_map(|table| table.values().rev())
            .map_while(|lines| {
                room = room.checked_sub(of_one(lines))?;
                Some(lines)
            })
            .collect();
        kept.reverse();
        // Never grows, so that no copy is left behind.
        let mut all = Zeroizing::new(Vec::with_capacity(limit.saturating_sub(room)));
        for line in kept.into_iter().flatten() {
            all.extend_from_slice(line);
        }
        all
    }
}

/// The second word of a line, which is hexadecimal.
fn random(line: &[u8]) -> Option<[u8; 32]> {
    let text = line.split(|byte| *byte == b' ').nth(1)?;
    let mut random = [0; 32];
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let (pairs, []) = text.as_chunks::<2>() else {
        return None;
    };
    if pairs.len() != random.len() {
        return None;
    }
    for (to, [high, low]) in random.iter_mut().zip(pairs) {
        *to = u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()?;
    }
    Some(random)
}

/// Takes the secrets of one connection into the captures that want them; to be dropped with the connection. Made only where there are some.
pub(crate) struct ConnectionSecrets(Box<[Taker]>);

struct Taker {
    /// Not for longer than its writer has it, or whoever captures with it: a connection may live for days.
    capture: Weak<Inner>,
    /// The connection's, in this capture.
    id: u64,
}

impl ConnectionSecrets {
    pub(super) fn new(captures: &[Capture]) -> Option<Arc<Self>> {
        let takers = captures.iter().filter_map(|capture| {
            let live = capture.0.shared.live.as_ref()?;
            Some(Taker {
                capture: Arc::downgrade(&capture.0),
                id: live.next.fetch_add(1, Ordering::Relaxed),
            })
        });
        let takers: Box<[_]> = takers.collect();
        (!takers.is_empty()).then(|| Arc::new(Self(takers)))
    }

    /// A line as OpenSSL gives it, without its end.
    #[cfg(feature = "dtls-openssl")]
    pub(crate) fn take_line(&self, line: &str) {
        let is_known = |label: &&str| {
            line.strip_prefix(*label)
                .is_some_and(|rest| rest.starts_with(' '))
        };
        if LABELS.iter().any(is_known) {
            let mut whole = Zeroizing::new(Vec::with_capacity(line.len() + 1));
            whole.extend_from_slice(line.as_bytes());
            whole.push(b'\n');
            self.put(&whole);
        }
    }

    fn put(&self, line: &Line) {
        for Taker { capture, id } in &self.0 {
            let Some(capture) = capture.upgrade().map(Capture) else {
                continue;
            };
            if let Some(live) = &capture.0.shared.live {
                live.add(*id, line);
            }
            capture.put_secret(line.clone());
        }
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        if let Some(capture) = self.capture.upgrade()
            && let Some(live) = &capture.shared.live
            && let Some(table) = live.table().as_mut()
        {
            table.remove(&self.id);
        }
    }
}

impl KeyLog for ConnectionSecrets {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        if !self.will_log(label) {
            return;
        }
        let len = label.len() + 2 * (client_random.len() + secret.len()) + 3;
        // Never grows, so that no copy is left behind.
        let mut line = Zeroizing::new(String::with_capacity(len));
        line.push_str(label);
        for part in [client_random, secret] {
            line.push(' ');
            for byte in part {
                // Writing to memory does not fail.
                let _written = write!(line, "{byte:02x}");
            }
        }
        line.push('\n');
        self.put(&Zeroizing::new(std::mem::take(&mut *line).into_bytes()));
    }

    fn will_log(&self, label: &str) -> bool {
        LABELS.contains(&label)
    }
}

impl fmt::Debug for ConnectionSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionSecrets").finish_non_exhaustive()
    }
}
