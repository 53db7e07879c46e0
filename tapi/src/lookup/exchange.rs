//! One question to one server.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::message::{Question, Reply};
use crate::{error::SocketError, shared::Shared, tcp::TcpSocket, udp::UdpSocket};

/// Longest answer in a datagram that is read; longer ones than 512 bytes come from servers that go beyond RFC 1035
/// without being asked.
const LONGEST_DATAGRAM: usize = 4096;

/// Asks until an answer comes; whoever calls sets the time.
pub(super) async fn exchange(
    shared: Arc<Shared>,
    server: SocketAddr,
    question: Question,
) -> Result<Reply, SocketError> {
    match by_datagram(&shared, server, &question).await? {
        Reply::Truncated => by_stream(&shared, server, &question).await,
        reply @ (Reply::Addresses(_) | Reply::NoName | Reply::Failed(_)) => Ok(reply),
    }
}

/// From a port of its own, which the stack chooses at random (RFC 5452, RFC 6056). The socket is connected, so that
/// datagrams of others do not come, and ICMP errors do.
async fn by_datagram(
    shared: &Arc<Shared>,
    server: SocketAddr,
    question: &Question,
) -> Result<Reply, SocketError> {
    let any = if server.is_ipv4() {
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
    } else {
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))
    };
    let Some((asked, bytes)) = question.ask() else {
        return Ok(Reply::Failed("the query cannot be written"));
    };
    let socket = UdpSocket::bind(shared, any).map_err(socket_error)?;
    socket.connect(server).await.map_err(socket_error)?;
    socket.send(&bytes).await.map_err(socket_error)?;
    let mut buffer = vec![0; LONGEST_DATAGRAM];
    loop {
        let len = socket.recv(&mut buffer).await.map_err(socket_error)?;
        if let Some(reply) = asked.judge(buffer.get(..len).unwrap_or_default()) {
            return Ok(reply);
        }
        tracing::debug!(%server, "a datagram that does not answer the DNS query");
    }
}

/// RFC 7766: length and message, both ways.
async fn by_stream(
    shared: &Arc<Shared>,
    server: SocketAddr,
    question: &Question,
) -> Result<Reply, SocketError> {
    let Some((asked, bytes)) = question.ask() else {
        return Ok(Reply::Failed("the query cannot be written"));
    };
    let socket = TcpSocket::of(shared);
    let mut stream = socket.connect(server).await.map_err(socket_error)?;
    let mut message = u16::try_from(bytes.len())
        .unwrap_or(0)
        .to_be_bytes()
        .to_vec();
    message.extend_from_slice(&bytes);
    let answer = async {
        stream.write_all(&message).await?;
        let len = stream.read_u16().await?;
        let mut answer = vec![0; usize::from(len)];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    };
    let answer = answer.await.map_err(socket_error)?;
    Ok(match asked.judge(&answer) {
        None | Some(Reply::Truncated) => Reply::Failed("a wrong answer over TCP"),
        Some(reply) => reply,
    })
}

/// The end of a stream in the middle of an answer is an error without one of ours inside.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn socket_error(error: std::io::Error) -> SocketError {
    SocketError::of(&error)
        .cloned()
        .unwrap_or(SocketError::Reset)
}
