//! TCP inside a tunnel.

use std::{io, sync::Arc, time::Duration};

use tsc_tapi::TcpSocket;

use crate::{
    address::Address,
    error::{Result, TscError},
    held::Held,
    service::Encryption,
    tunnel::Core,
};

/// Bytes that one call reads, at most.
const LONGEST_READ: u32 = 1024 * 1024;

/// How a connection is made. All has defaults.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct TcpOptions {
    /// How long connecting may take. Default: 75 s.
    #[uniffi(default)]
    pub connect_timeout: Option<Duration>,
    /// The port of this end. Default: the library chooses.
    #[uniffi(default)]
    pub local_port: Option<u16>,
    /// After how much silence the peer is probed. Default: never.
    #[uniffi(default)]
    pub keepalive: Option<Duration>,
    /// Lets small segments wait for acknowledgements (Nagle's algorithm).
    #[uniffi(default = false)]
    pub delay: bool,
    /// Whether the connection is encrypted between this host and the server, beside a tunnel that is not (DTTE). Default: as the
    /// tunnel.
    #[uniffi(default)]
    pub encryption: Option<Encryption>,
}

impl TcpOptions {
    pub(crate) fn apply(&self, mut socket: TcpSocket) -> TcpSocket {
        socket = socket.nodelay(!self.delay).keepalive(self.keepalive);
        if let Some(limit) = self.connect_timeout {
            socket = socket.connect_timeout(limit);
        }
        match self.encryption {
            Some(level) => socket.encryption(level.into()),
            None => socket,
        }
    }
}

/// A TCP connection inside a tunnel. It survives a resume of the tunnel: what was lost meanwhile is sent again.
#[derive(Debug, uniffi::Object)]
pub struct TcpStream(Held<tsc_tapi::TcpStream>);

impl TcpStream {
    pub(crate) fn of(core: Arc<Core>, stream: tsc_tapi::TcpStream) -> Arc<Self> {
        Arc::new(Self(Held::new(core, stream)))
    }
}

#[uniffi::export]
impl TcpStream {
    /// The inner address of this end.
    pub fn local_address(&self) -> Result<Address> {
        Ok(self.0.get()?.local_addr()?.into())
    }

    /// The address of the peer.
    pub fn peer_address(&self) -> Result<Address> {
        Ok(self.0.get()?.peer_addr()?.into())
    }

    /// Reads what has come, at most so many bytes and at most a mebibyte; no bytes are the end of what the peer sends. Waits for it at most so
    /// long, and gives none if nothing has come.
    #[uniffi::method(default(timeout = None))]
    pub fn read(&self, longest: u32, timeout: Option<Duration>) -> Result<Option<Vec<u8>>> {
        let stream = self.0.get()?;
        if longest == 0 {
            return Err(TscError::invalid("nothing is to be read"));
        }
        let length = usize::try_from(longest.min(LONGEST_READ)).unwrap_or(usize::MAX);
        self.0.wait(timeout, async {
            loop {
                stream.readable().await?;
                let mut buffer = vec![0; length];
                match stream.try_read(&mut buffer) {
                    Ok(read) => {
                        buffer.truncate(read);
                        return Ok(buffer);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                }
            }
        })
    }

    /// Writes all of it: waits at most so long until there is room. When that is over, or it fails, some may have been written.
    #[uniffi::method(default(timeout = None))]
    pub fn write(&self, data: Vec<u8>, timeout: Option<Duration>) -> Result<()> {
        let stream = self.0.get()?;
        let written = self.0.wait(timeout, async {
            let mut rest = &data[..];
            while !rest.is_empty() {
                stream.writable().await?;
                match stream.try_write(rest) {
                    Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(())
        })?;
        written.ok_or_else(|| TscError::late("the peer does not take the data"))
    }

    /// Tells the peer that nothing more comes, after what was written. Reading goes on.
    pub fn shutdown_write(&self) -> Result<()> {
        Ok(self.0.get()?.shutdown_write()?)
    }

    /// Closes the connection: what was written is still delivered, in the background, as long as the tunnel lives. Calls that wait for
    /// it return at once.
    pub fn release(&self) {
        self.0.release();
    }

    /// Resets the connection: what was not sent is lost.
    pub fn abort(&self) {
        if let Ok(stream) = self.0.get() {
            // It fails only where there is no connection any more.
            let _ = stream.set_zero_linger();
        }
        self.0.release();
    }
}

/// Gets connections that come through the tunnel.
#[derive(Debug, uniffi::Object)]
pub struct TcpListener(Held<tsc_tapi::TcpListener>);

impl TcpListener {
    pub(crate) fn of(core: Arc<Core>, listener: tsc_tapi::TcpListener) -> Arc<Self> {
        Arc::new(Self(Held::new(core, listener)))
    }
}

#[uniffi::export]
impl TcpListener {
    /// Where it listens, with the port that was chosen.
    pub fn local_address(&self) -> Result<Address> {
        Ok(self.0.get()?.local_addr()?.into())
    }

    /// Waits for a connection at most so long, and gives none if none has come.
    #[uniffi::method(default(timeout = None))]
    pub fn accept(&self, timeout: Option<Duration>) -> Result<Option<Arc<TcpStream>>> {
        let listener = self.0.get()?;
        let accepted = self
            .0
            .wait(timeout, async { Ok(listener.accept().await?.0) })?;
        Ok(accepted.map(|stream| TcpStream::of(Arc::clone(&self.0.core), stream)))
    }

    /// Closes it: connections that were not accepted are reset, accepted ones stay. Calls that wait for it return at once.
    pub fn release(&self) {
        self.0.release();
    }
}
