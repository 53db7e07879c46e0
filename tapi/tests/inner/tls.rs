//! rustls runs over the tunnel as over tokio's sockets.

use std::{net::SocketAddr, sync::Arc};

use rustls::{ClientConfig, RootCertStore, ServerConfig, pki_types::PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tsc_tapi::TcpStream;

use crate::{
    soon,
    tcp::pattern,
    world::{World, v4},
};

fn configs() -> (ClientConfig, ServerConfig) {
    let made = rcgen::generate_simple_self_signed(["inner.example".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    (client, server)
}

#[tokio::test]
async fn tls_inside_the_tunnel() {
    let (world, a, b) = World::with_two().await;
    let (client, server) = configs();
    let listener = b.bind_tcp(SocketAddr::new(v4(1), 443)).unwrap();
    let address = listener.local_addr().unwrap();
    world.lose(500);
    let data = pattern(400_000);
    let echo = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = TlsAcceptor::from(Arc::new(server))
            .accept(stream)
            .await
            .unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.unwrap();
        stream.write_all(&received).await.unwrap();
        stream.shutdown().await.unwrap();
        // The client's end, so that nothing unread resets the connection.
        assert_eq!(stream.get_mut().0.read(&mut [0; 9]).await.unwrap(), 0);
    };
    let ask = async {
        let stream = TcpStream::connect(&a, address).await.unwrap();
        let name = "inner.example".try_into().unwrap();
        let mut stream = TlsConnector::from(Arc::new(client))
            .connect(name, stream)
            .await
            .unwrap();
        stream.write_all(&data).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.unwrap();
        received
    };
    let ((), received) = soon(async { tokio::join!(echo, ask) }).await;
    assert!(received == data);
}
