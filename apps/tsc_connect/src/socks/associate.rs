//! UDP ASSOCIATE: datagrams with a header that says where they go, until the TCP connection ends.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use fast_socks5::{
    ReplyError, new_udp_header, parse_udp_request,
    server::{Socks5ServerProtocol, states::CommandRead},
};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpStream, UdpSocket},
};

use super::{protocol_error, reply, target};
use crate::{
    names::{Answer, Names, Waiting},
    net::{Datagrams, Net},
    report::{Counters, add},
    target::Host,
    udp::{LONGEST, any},
};

/// Serves the association that a client has asked for from `peer`.
pub(super) async fn serve<N: Net>(
    client: Socks5ServerProtocol<TcpStream, CommandRead>,
    local: IpAddr,
    peer: IpAddr,
    net: N,
    counters: Arc<Counters>,
) -> io::Result<()> {
    let opened = async {
        let near = UdpSocket::bind((local, 0)).await?;
        let address = near.local_addr()?;
        io::Result::Ok((near, address))
    };
    let (near, address) = match opened.await {
        Ok(opened) => opened,
        Err(error) => {
            client
                .reply_error(&reply(&error))
                .await
                .map_err(protocol_error)?;
            return Err(error);
        }
    };
    // A tunnel may have either version, or both.
    let sockets = Sockets {
        v4: net.bind(any(SocketAddr::from(([0; 4], 0)))).await.ok(),
        v6: net.bind(any(SocketAddr::from(([0; 16], 0)))).await.ok(),
    };
    if sockets.v4.is_none() && sockets.v6.is_none() {
        client
            .reply_error(&ReplyError::NetworkUnreachable)
            .await
            .map_err(protocol_error)?;
        return Err(io::ErrorKind::NetworkUnreachable.into());
    }
    let mut control = client
        .reply_success(address)
        .await
        .map_err(protocol_error)?;
    let association = Association {
        near,
        peer,
        client: Mutex::new(None),
        sockets,
        net,
        counters,
    };
    tokio::select! {
        result = association.out() => result,
        result = association.back(association.sockets.v4.as_ref()) => result,
        result = association.back(association.sockets.v6.as_ref()) => result,
        () = ended(&mut control) => Ok(()),
    }
}

/// Nothing is said on the TCP connection; its end is the association's.
async fn ended(control: &mut TcpStream) {
    let mut byte = [0; 64];
    while matches!(control.read(&mut byte).await, Ok(1..)) {}
}

#[derive(Debug)]
struct Sockets<D> {
    v4: Option<D>,
    v6: Option<D>,
}

#[derive(Debug)]
struct Association<N: Net> {
    /// Towards the client.
    near: UdpSocket,
    /// Where its datagrams may come from.
    peer: IpAddr,
    /// Where they came from last, and where answers go.
    client: Mutex<Option<SocketAddr>>,
    sockets: Sockets<N::Datagrams>,
    net: N,
    counters: Arc<Counters>,
}

impl<N: Net> Association<N> {
    async fn out(&self) -> io::Result<()> {
        let mut buffer = vec![0; LONGEST];
        let (v4, v6) = (self.sockets.v4.is_some(), self.sockets.v6.is_some());
        let mut names = Names::new(self.net.clone(), v4, v6);
        let mut waiting = Waiting::default();
        loop {
            let received = tokio::select! {
                received = self.near.recv_from(&mut buffer) => received,
                (target, found) = names.answered() => {
                    if let Err(error) = &found {
                        tracing::debug!(%target, %error, "socks: no address");
                    }
                    for (_, payload) in waiting.take(|wanted| *wanted == target) {
                        if let Ok(address) = found {
                            self.send(&payload, address).await;
                        }
                    }
                    continue;
                }
            };
            let (len, from) = match received {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(error) => return Err(error),
            };
            if from.ip() != self.peer {
                continue;
            }
            let request = buffer.get(..len).unwrap_or_default();
            // Fragments are optional, and nobody sends them (RFC 1928 7).
            let Ok((0, wanted, payload)) = parse_udp_request(request).await else {
                continue;
            };
            let Ok(wanted) = target(wanted) else {
                continue;
            };
            *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(from);
            if let Host::Address(address) = wanted.host {
                self.send(payload, SocketAddr::new(address, wanted.port))
                    .await;
                continue;
            }
            let (answer, given_up) = names.ask(&wanted);
            if let Some(given_up) = given_up {
                drop(waiting.take(|wanted| *wanted == given_up));
            }
            match answer {
                Answer::Address(address) => self.send(payload, address).await,
                Answer::Asked => waiting.push(wanted, payload),
                Answer::None => {}
            }
        }
    }

    /// A datagram may get lost, and this says no more than that.
    async fn send(&self, payload: &[u8], to: SocketAddr) {
        let socket = if to.is_ipv4() {
            &self.sockets.v4
        } else {
            &self.sockets.v6
        };
        let sent = match socket {
            Some(socket) => socket.send_to(payload, to).await,
            None => Err(io::ErrorKind::NetworkUnreachable.into()),
        };
        match sent {
            Ok(sent) => add(&self.counters.bytes_out, sent as u64),
            Err(error) => tracing::debug!(%error, "socks: datagram not sent"),
        }
    }

    async fn back(&self, socket: Option<&N::Datagrams>) -> io::Result<()> {
        let Some(socket) = socket else {
            return std::future::pending().await;
        };
        let mut buffer = vec![0; LONGEST];
        let mut answer = Vec::new();
        loop {
            let (len, from) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(error) => return Err(error),
            };
            let client = *self.client.lock().unwrap_or_else(PoisonError::into_inner);
            let (Some(client), Ok(header)) = (client, new_udp_header(from)) else {
                continue;
            };
            answer.clear();
            answer.extend_from_slice(&header);
            answer.extend_from_slice(buffer.get(..len).unwrap_or_default());
            match self.near.send_to(&answer, client).await {
                Ok(_) => add(&self.counters.bytes_in, len as u64),
                Err(error) => tracing::debug!(%error, "socks: answer not sent"),
            }
        }
    }
}
