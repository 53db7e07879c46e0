//! Sessions against each other in memory, with bytes cut and changed in every way.

use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use super::*;
use crate::cert::{ClientAuth, ClientSecurity, Identity, Roots, ServerName, ServerSecurity, Trust};
use bytes::BytesMut;

fn securities() -> (ClientSecurity, ServerSecurity) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let root = params.self_signed(&key).unwrap().der().clone();
    let issuer = Issuer::new(params, key);
    let identity = || {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let key = rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
        Identity::new(vec![certificate.der().clone()], key.into()).unwrap()
    };
    let roots = Roots::from_der([root]).unwrap();
    (
        ClientSecurity::new(Trust::Roots(roots.clone()), Some(identity())).unwrap(),
        ServerSecurity::new(identity(), ClientAuth::Required(roots)).unwrap(),
    )
}

struct Pair {
    client: TlsSession,
    server: TlsSession,
}

impl Pair {
    fn new() -> Self {
        let (client, server) = securities();
        let name = ServerName::try_from("localhost").unwrap();
        Self {
            client: TlsSession::new(&Role::Client(&client, name), None).unwrap(),
            server: TlsSession::new(&Role::Server(&server), None).unwrap(),
        }
    }

    /// Runs the handshake with what each end sends passed through `network`, in its pieces.
    fn handshake(
        &mut self,
        mut network: impl FnMut(&[u8]) -> Vec<Vec<u8>>,
    ) -> Result<(), TlsError> {
        let (mut to_server, mut to_client) = (BytesMut::new(), BytesMut::new());
        let (mut client_done, mut server_done) =
            (self.client.handshake(&[], &mut to_server)?, false);
        while !to_server.is_empty() || !to_client.is_empty() {
            for piece in network(&to_server.split()) {
                server_done = self.server.handshake(&piece, &mut to_client)?;
            }
            for piece in network(&to_client.split()) {
                client_done = self.client.handshake(&piece, &mut to_server)?;
            }
        }
        if client_done && server_done {
            Ok(())
        } else {
            Err(TlsError::ClosedInHandshake)
        }
    }

    fn connected() -> Self {
        let mut pair = Self::new();
        pair.handshake(|bytes| vec![bytes.to_vec()]).unwrap();
        pair
    }
}

/// As a stream does it: the tail first, then what has been read.
fn open(session: &mut TlsSession, input: &[u8], wire: &mut BytesMut) -> Result<Vec<u8>, TlsError> {
    let mut buffer = vec![0; MIN_RECV_BUFFER];
    let mut plain = vec![0; MIN_RECV_BUFFER];
    let Some(kept) = session.load_tail(&mut buffer) else {
        session.open_more(input, wire)?;
        let len = session.take_early(&mut plain);
        plain.truncate(len);
        return Ok(plain);
    };
    buffer[kept..kept + input.len()].copy_from_slice(input);
    let len = session.open(&mut buffer[..kept + input.len()], &mut plain, wire)?;
    plain.truncate(len);
    Ok(plain)
}

fn cut(bytes: &[u8], sizes: &[usize]) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    let mut rest = bytes;
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at((*size).min(rest.len()));
        pieces.push(piece.to_vec());
        rest = after;
    }
    pieces
}

#[test]
fn a_session_at_rest_keeps_nothing() {
    let mut pair = Pair::connected();
    assert!(pair.client.kept() == 0 && pair.server.kept() == 0);
    let mut wire = BytesMut::new();
    pair.client.seal(&[1; 1000], &mut wire).unwrap();
    let mut answers = BytesMut::new();
    assert!(
        open(&mut pair.server, &wire[..500], &mut answers)
            .unwrap()
            .is_empty()
    );
    assert!(pair.server.kept() >= 500);
    let plain = open(&mut pair.server, &wire[500..], &mut answers).unwrap();
    assert_eq!(plain, [1; 1000]);
    assert_eq!(pair.server.kept(), 0);
    assert!(answers.is_empty());
}

#[test]
fn sealing_costs_what_the_protocol_costs() {
    let mut pair = Pair::connected();
    let mut wire = BytesMut::new();
    pair.client.seal(&[0; 200], &mut wire).unwrap();
    assert_eq!(wire.len(), 200 + 22);
    wire.clear();
    pair.client.seal(&vec![0; 3 << 14], &mut wire).unwrap();
    assert_eq!(wire.len(), (3 << 14) + 3 * 22);
}

#[test]
fn nothing_is_done_after_a_failure() {
    let mut pair = Pair::connected();
    let mut wire = BytesMut::new();
    assert!(open(&mut pair.server, &[0x17, 3, 3, 0, 20, 1], &mut wire).is_ok());
    assert!(open(&mut pair.server, &[0; 19], &mut wire).is_err());
    // The alert.
    assert!(!wire.is_empty());
    wire.clear();
    assert!(open(&mut pair.server, &[0; 10], &mut wire).is_err());
    assert!(pair.server.seal(b"x", &mut wire).is_err());
    assert!(pair.server.close(&mut wire).is_err());
    assert!(wire.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_handshake_survives_any_cuts(sizes in prop::collection::vec(1usize..700, 1..20)) {
        let mut pair = Pair::new();
        pair.handshake(|bytes| cut(bytes, &sizes)).unwrap();
        let mut wire = BytesMut::new();
        let data: Vec<u8> = (0..40_000u32).map(|n| (n % 251) as u8).collect();
        pair.server.seal(&data, &mut wire).unwrap();
        let mut heard = Vec::new();
        let mut answers = BytesMut::new();
        for piece in cut(&wire, &sizes) {
            heard.extend(open(&mut pair.client, &piece, &mut answers).unwrap());
        }
        prop_assert!(heard == data);
    }

    /// Whatever happens to one bit of a handshake, nothing panics, and if both ends still agree they can talk.
    #[test]
    fn a_changed_handshake_fails_without_a_panic(
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
        flight in 0usize..4,
    ) {
        let mut pair = Pair::new();
        let mut number = 0;
        let result = pair.handshake(|bytes| {
            let mut bytes = bytes.to_vec();
            if number == flight && !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
            }
            number += 1;
            vec![bytes]
        });
        // Only a record's legacy version may be changed unseen.
        if result.is_ok() {
            let mut wire = BytesMut::new();
            pair.client.seal(b"hello", &mut wire).unwrap();
            let heard = open(&mut pair.server, &wire, &mut BytesMut::new()).unwrap();
            prop_assert_eq!(heard, b"hello");
        }
    }

    #[test]
    fn arbitrary_bytes_end_a_session_without_a_panic(
        inputs in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..5),
        kind in prop::sample::select(vec![0x14u8, 0x15, 0x16, 0x17]),
    ) {
        let mut wire = BytesMut::new();
        let mut fresh = Pair::new();
        let mut connected = Pair::connected();
        for input in inputs {
            // Headers that fit, so that the inside is reached.
            let mut record = vec![kind, 3, 3, 0, u8::try_from(input.len()).unwrap()];
            record.extend(&input);
            let _refused = fresh.server.handshake(&record, &mut wire);
            let _refused = fresh.client.handshake(&record, &mut wire);
            let _refused = open(&mut connected.server, &record, &mut wire);
            let _refused = open(&mut connected.client, &input, &mut wire);
        }
    }
}
