//! What the tests of proxies and forwards share: targets, proxies on this host, and a limit of time.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    task::{AbortHandle, JoinHandle},
    time::timeout,
};
use tsc_connect::{
    accept::{Shared, serve},
    http,
    net::{HostNet, Net},
    socks,
};

/// Nothing here takes longer unless it hangs.
const LIMIT: Duration = Duration::from_secs(20);

pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(LIMIT, what).await.expect("in time")
}

/// Ends what it stands for.
pub struct Running(AbortHandle);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub fn running(task: JoinHandle<()>) -> Running {
    Running(task.abort_handle())
}

pub async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Sends back what comes, with `>` in front of each connection's answer.
pub async fn echo() -> (SocketAddr, Running) {
    let (listener, address) = listener().await;
    let task = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                write.write_all(b">").await.unwrap();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    (address, running(task))
}

pub async fn udp_echo() -> (SocketAddr, Running) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut buffer = [0; 2000];
        loop {
            let (len, from) = socket.recv_from(&mut buffer).await.unwrap();
            socket.send_to(&buffer[..len], from).await.unwrap();
        }
    });
    (address, running(task))
}

pub async fn socks_proxy(shared: &Shared) -> (SocketAddr, Running) {
    socks_proxy_into(HostNet, shared).await
}

pub async fn socks_proxy_into(net: impl Net, shared: &Shared) -> (SocketAddr, Running) {
    let (listener, address) = listener().await;
    let shared = shared.clone();
    let counters = Arc::clone(&shared.counters);
    let task = tokio::spawn(serve(listener, shared, "socks", move |stream, _| {
        socks::serve(stream, net.clone(), Arc::clone(&counters))
    }));
    (address, running(task))
}

pub async fn http_proxy(shared: &Shared) -> (SocketAddr, Running) {
    let (listener, address) = listener().await;
    let shared = shared.clone();
    let counters = Arc::clone(&shared.counters);
    let task = tokio::spawn(serve(listener, shared, "http", move |stream, _| {
        http::serve(stream, HostNet, Arc::clone(&counters))
    }));
    (address, running(task))
}

/// Reads up to the empty line, in lower case.
pub async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon(stream.read_u8()).await.unwrap());
    }
    String::from_utf8(head).unwrap().to_lowercase()
}

/// An address where nobody listens.
pub async fn nobody() -> SocketAddr {
    listener().await.1
}

/// Says something, ends the sending side, and reads all that comes back.
pub async fn exchange(
    stream: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin),
    text: &[u8],
) -> Vec<u8> {
    stream.write_all(text).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.unwrap();
    answer
}
