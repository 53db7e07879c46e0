//! hyper runs over the tunnel as over tokio's sockets.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Bytes, client, server, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;
use tsc_tapi::{TcpListener, TcpStream};

use crate::{
    soon,
    tcp::pattern,
    world::{World, v4, v6},
};

/// Answers every request with its own body, and with its path.
async fn serve(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let echo = service_fn(async |request: Request<hyper::body::Incoming>| {
            let path = request.uri().path().to_owned();
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let response = Response::builder().header("path", path);
            Ok::<_, Infallible>(response.body(Full::new(body)).unwrap())
        });
        tokio::spawn(async move {
            let connection = server::conn::http1::Builder::new();
            // Its end is the client's affair.
            drop(
                connection
                    .serve_connection(TokioIo::new(stream), echo)
                    .await,
            );
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http_client_talks_with_an_http_server_on_many_connections() {
    let (world, a, b) = World::with_two().await;
    let mut addresses = Vec::new();
    for address in [v4(1), v6(1)] {
        let listener = b.bind_tcp(SocketAddr::new(address, 80)).unwrap();
        addresses.push(listener.local_addr().unwrap());
        tokio::spawn(serve(listener));
    }
    world.lose(500);
    let a = Arc::new(a);
    let mut clients = JoinSet::new();
    for number in 0..10_usize {
        let (a, address) = (Arc::clone(&a), addresses[number % 2]);
        clients.spawn(async move {
            let stream = TcpStream::connect(&a, address).await.unwrap();
            let (mut client, connection) = client::conn::http1::handshake(TokioIo::new(stream))
                .await
                .unwrap();
            let connection = tokio::spawn(connection);
            // One after another on one connection.
            for round in 0..5 {
                let body = pattern(20_000 * (number + round));
                let request = Request::post(format!("/{number}/{round}"))
                    .header("host", "inner")
                    .body(Full::new(Bytes::from(body.clone())))
                    .unwrap();
                client.ready().await.unwrap();
                let response = client.send_request(request).await.unwrap();
                assert_eq!(response.headers()["path"], format!("/{number}/{round}"));
                let echoed = response.into_body().collect().await.unwrap().to_bytes();
                assert!(echoed == body);
            }
            drop(client);
            connection.await.unwrap().unwrap();
        });
    }
    assert_eq!(soon(clients.join_all()).await.len(), 10);
}
