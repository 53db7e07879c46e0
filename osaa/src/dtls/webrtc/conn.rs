//! The "socket" of the library: a channel in and a queue out.

use std::any::Any;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{Mutex, mpsc};
use webrtc_util::{Conn, Error};

use crate::dtls::DtlsState;

use super::shared::Shared;

pub(super) struct ChannelConn {
    inbound: Mutex<mpsc::Receiver<Vec<u8>>>,
    shared: Arc<Shared>,
}

impl ChannelConn {
    pub(super) fn new(inbound: mpsc::Receiver<Vec<u8>>, shared: Arc<Shared>) -> Self {
        Self {
            inbound: Mutex::new(inbound),
            shared,
        }
    }
}

#[async_trait]
impl Conn for ChannelConn {
    async fn connect(&self, _: SocketAddr) -> Result<(), Error> {
        Err(unsupported())
    }

    async fn recv(&self, buf: &mut [u8]) -> Result<usize, Error> {
        let Some(datagram) = self.inbound.lock().await.recv().await else {
            // The session is gone. The library reads again at once after any error, so it must not get one; its
            // task ends with the connection.
            return std::future::pending().await;
        };
        let length = datagram.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..length), datagram.get(..length)) {
            to.copy_from_slice(from);
        }
        Ok(length)
    }

    async fn recv_from(&self, buf: &mut [u8]) -> Result<(usize, SocketAddr), Error> {
        let length = self.recv(buf).await?;
        Ok((length, self.local_addr()?))
    }

    /// Never waits: what does not fit is lost, as in a network.
    async fn send(&self, datagram: &[u8]) -> Result<usize, Error> {
        self.shared.change(|state| {
            if state.phase == DtlsState::Handshaking {
                state.last_flight = Some(datagram.to_vec());
            }
            let _ = state.outbound.push(datagram);
        });
        Ok(datagram.len())
    }

    async fn send_to(&self, datagram: &[u8], _: SocketAddr) -> Result<usize, Error> {
        self.send(datagram).await
    }

    fn local_addr(&self) -> Result<SocketAddr, Error> {
        Err(unsupported())
    }

    fn remote_addr(&self) -> Option<SocketAddr> {
        None
    }

    async fn close(&self) -> Result<(), Error> {
        Ok(())
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }
}

fn unsupported() -> Error {
    io::Error::from(io::ErrorKind::Unsupported).into()
}
