//! A tunnel under TLS and under DTLS, with the key log that opens it: OpenSSL's, both ends in memory.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use openssl::asn1::Asn1Time;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{
    AlpnError, Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslStream, SslVerifyMode,
    select_next_proto,
};
use openssl::x509::X509;

const ALPN: &[u8] = b"\x04tscf";

/// What went over a connection, as it went: whether the client sent it, and the bytes of one write.
pub(crate) type Transcript = Vec<(bool, Vec<u8>)>;

type Queue = Rc<RefCell<VecDeque<Vec<u8>>>>;

/// One end of a connection.
struct End {
    client: bool,
    datagrams: bool,
    incoming: Queue,
    outgoing: Queue,
    transcript: Rc<RefCell<Transcript>>,
}

impl Read for End {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut incoming = self.incoming.borrow_mut();
        let Some(mut bytes) = incoming.pop_front() else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        let len = bytes.len().min(buffer.len());
        buffer[..len].copy_from_slice(&bytes[..len]);
        if len < bytes.len() && !self.datagrams {
            incoming.push_front(bytes.split_off(len));
        }
        Ok(len)
    }
}

impl Write for End {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outgoing.borrow_mut().push_back(bytes.to_vec());
        self.transcript
            .borrow_mut()
            .push((self.client, bytes.to_vec()));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Has the client send these pieces, each a record, and the server as many. Returns what an onlooker sees, and adds the keys.
pub(crate) fn exchange(datagrams: bool, pieces: &[&[u8]], keys: &Arc<Mutex<String>>) -> Transcript {
    let method = || {
        if datagrams {
            SslMethod::dtls()
        } else {
            SslMethod::tls()
        }
    };
    let (key, certificate) = identity();
    let mut server = SslContext::builder(method()).unwrap();
    server.set_private_key(&key).unwrap();
    server.set_certificate(&certificate).unwrap();
    server.set_alpn_select_callback(|_, offered| {
        select_next_proto(ALPN, offered).ok_or(AlpnError::ALERT_FATAL)
    });
    let mut client = SslContext::builder(method()).unwrap();
    client.set_verify(SslVerifyMode::NONE);
    client.set_alpn_protos(ALPN).unwrap();
    let keys = Arc::clone(keys);
    client.set_keylog_callback(move |_, line| {
        let mut keys = keys.lock().unwrap();
        keys.push_str(line);
        keys.push('\n');
    });

    let (up, down) = (Queue::default(), Queue::default());
    let transcript = Rc::new(RefCell::new(Transcript::new()));
    let end = |mut context: SslContextBuilder, client, incoming: &Queue, outgoing: &Queue| {
        // Of the MTU nobody can be asked.
        context.set_options(SslOptions::NO_QUERY_MTU);
        let mut ssl = Ssl::new(&context.build()).unwrap();
        if client {
            ssl.set_connect_state();
        } else {
            ssl.set_accept_state();
        }
        if datagrams {
            ssl.set_mtu(1200).unwrap();
        }
        let end = End {
            client,
            datagrams,
            incoming: Rc::clone(incoming),
            outgoing: Rc::clone(outgoing),
            transcript: Rc::clone(&transcript),
        };
        SslStream::new(ssl, end).unwrap()
    };
    let mut client = end(client, true, &down, &up);
    let mut server = end(server, false, &up, &down);
    // Either end goes on when the other has spoken; a handshake takes fewer turns.
    let done = (0..10).any(|_| client.do_handshake().is_ok() & server.do_handshake().is_ok());
    assert!(done, "the handshake does not end");
    for piece in pieces {
        pass(&mut client, &mut server, piece);
        pass(&mut server, &mut client, piece);
    }
    drop((client, server));
    Rc::try_unwrap(transcript).unwrap().into_inner()
}

fn pass(from: &mut SslStream<End>, to: &mut SslStream<End>, piece: &[u8]) {
    assert_eq!(from.ssl_write(piece).unwrap(), piece.len());
    let mut arrived = vec![0; piece.len()];
    assert_eq!(to.ssl_read(&mut arrived).unwrap(), piece.len());
    assert_eq!(arrived, piece);
}

fn identity() -> (PKey<Private>, X509) {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    let mut certificate = X509::builder().unwrap();
    certificate.set_pubkey(&key).unwrap();
    certificate
        .set_not_before(&Asn1Time::days_from_now(0).unwrap())
        .unwrap();
    certificate
        .set_not_after(&Asn1Time::days_from_now(1).unwrap())
        .unwrap();
    certificate.sign(&key, MessageDigest::sha256()).unwrap();
    (key, certificate.build())
}
