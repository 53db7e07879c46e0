//! Waiting for a UDP socket.
//!
//! A UDP socket becomes writable again with each datagram that the system has sent. Whoever watches that is woken once for every
//! datagram, for nothing: a socket of tokio does. Here it is watched only while the system takes no more.

pub(super) use watched::Socket;

#[cfg(unix)]
mod watched {
    use std::{
        io,
        net::{SocketAddr, UdpSocket},
        os::fd::{AsFd, BorrowedFd},
        task::{Context, Poll, ready},
    };

    use tokio::io::{Interest, unix::AsyncFd};

    /// A socket within a tokio runtime, see the module above.
    #[derive(Debug)]
    pub(in crate::datagram) struct Socket {
        readable: AsyncFd<UdpSocket>,
        /// Another descriptor of the socket, from when it takes no more until it does.
        pub(super) writable: Option<AsyncFd<UdpSocket>>,
    }

    impl Socket {
        /// Takes over a socket that does not block.
        pub(in crate::datagram) fn new(socket: UdpSocket) -> io::Result<Self> {
            Ok(Self {
                readable: watch(socket, Interest::READABLE)?,
                writable: None,
            })
        }

        pub(in crate::datagram) fn local_addr(&self) -> io::Result<SocketAddr> {
            self.readable.get_ref().local_addr()
        }

        /// Ready when there may be something to receive.
        pub(in crate::datagram) fn poll_recv_ready(
            &self,
            cx: &mut Context<'_>,
        ) -> Poll<io::Result<()>> {
            ready!(self.readable.poll_read_ready(cx))?.retain_ready();
            Poll::Ready(Ok(()))
        }

        /// Receives by `receive`. "Would block" makes it unready.
        pub(in crate::datagram) fn try_recv<R>(
            &self,
            mut receive: impl FnMut(&Self) -> io::Result<R>,
        ) -> io::Result<R> {
            self.readable.try_io(Interest::READABLE, |_| receive(self))
        }

        /// Sends by `send`. "Would block" calls for [`Self::poll_send_ready`].
        pub(in crate::datagram) fn try_send<R>(
            &mut self,
            mut send: impl FnMut(&Self) -> io::Result<R>,
        ) -> io::Result<R> {
            let Some(writable) = &self.writable else {
                return send(self);
            };
            let sent = writable.try_io(Interest::WRITABLE, |_| send(self));
            let blocks = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
            if !sent.as_ref().is_err_and(blocks) {
                self.writable = None;
            }
            sent
        }

        /// Ready when something may be sent again, after "would block".
        pub(in crate::datagram) fn poll_send_ready(
            &mut self,
            cx: &mut Context<'_>,
        ) -> Poll<io::Result<()>> {
            if self.writable.is_none() {
                let other = self.readable.get_ref().try_clone()?;
                self.writable = Some(watch(other, Interest::WRITABLE)?);
            }
            if let Some(writable) = &self.writable {
                ready!(writable.poll_write_ready(cx))?.retain_ready();
            }
            Poll::Ready(Ok(()))
        }
    }

    impl AsFd for Socket {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.readable.get_ref().as_fd()
        }
    }

    #[allow(
        deprecated,
        reason = "what replaces it is unsafe, and asks that the descriptor is owned, as that of a socket is"
    )]
    fn watch(socket: UdpSocket, interest: Interest) -> io::Result<AsyncFd<UdpSocket>> {
        AsyncFd::with_interest(socket, interest)
    }
}

#[cfg(not(unix))]
mod watched {
    use std::{
        io,
        net::SocketAddr,
        task::{Context, Poll},
    };

    use tokio::{io::Interest, net::UdpSocket};

    /// A socket within a tokio runtime.
    #[derive(Debug)]
    pub(in crate::datagram) struct Socket(UdpSocket);

    impl Socket {
        /// Takes over a socket that does not block.
        pub(in crate::datagram) fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
            UdpSocket::from_std(socket).map(Self)
        }

        pub(in crate::datagram) fn local_addr(&self) -> io::Result<SocketAddr> {
            self.0.local_addr()
        }

        /// Ready when there may be something to receive.
        pub(in crate::datagram) fn poll_recv_ready(
            &self,
            cx: &mut Context<'_>,
        ) -> Poll<io::Result<()>> {
            self.0.poll_recv_ready(cx)
        }

        /// Receives by `receive`. "Would block" makes it unready.
        pub(in crate::datagram) fn try_recv<R>(
            &self,
            mut receive: impl FnMut(&Self) -> io::Result<R>,
        ) -> io::Result<R> {
            self.0.try_io(Interest::READABLE, || receive(self))
        }

        /// Sends by `send`. "Would block" calls for [`Self::poll_send_ready`].
        pub(in crate::datagram) fn try_send<R>(
            &mut self,
            mut send: impl FnMut(&Self) -> io::Result<R>,
        ) -> io::Result<R> {
            self.0.try_io(Interest::WRITABLE, || send(self))
        }

        /// Ready when something may be sent again, after "would block".
        pub(in crate::datagram) fn poll_send_ready(
            &mut self,
            cx: &mut Context<'_>,
        ) -> Poll<io::Result<()>> {
            self.0.poll_send_ready(cx)
        }
    }

    impl std::os::windows::io::AsSocket for Socket {
        fn as_socket(&self) -> std::os::windows::io::BorrowedSocket<'_> {
            self.0.as_socket()
        }
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::{future::poll_fn, io, time::Duration};

    use tokio::time::timeout;

    use super::Socket;

    fn socket() -> Socket {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        Socket::new(socket).unwrap()
    }

    #[tokio::test]
    async fn a_socket_that_takes_no_more_is_waited_for_until_it_does() {
        let mut socket = socket();
        let limit = Duration::from_secs(10);
        for _ in 0..2 {
            assert_eq!(socket.try_send(|_| Ok(1)).unwrap(), 1);
            let full = socket.try_send(|_| Err::<(), _>(io::ErrorKind::WouldBlock.into()));
            assert_eq!(full.unwrap_err().kind(), io::ErrorKind::WouldBlock);
            let ready = poll_fn(|cx| socket.poll_send_ready(cx));
            timeout(limit, ready).await.unwrap().unwrap();
            assert_eq!(socket.try_send(|_| Ok(2)).unwrap(), 2);
            assert!(socket.writable.is_none(), "no longer watched");
        }
    }

    #[tokio::test]
    async fn errors_of_a_datagram_are_no_reason_to_wait() {
        let mut socket = socket();
        let full = socket.try_send(|_| Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        full.unwrap_err();
        let ready = poll_fn(|cx| socket.poll_send_ready(cx));
        timeout(Duration::from_secs(10), ready)
            .await
            .unwrap()
            .unwrap();
        let refused = socket.try_send(|_| Err::<(), _>(io::ErrorKind::ConnectionRefused.into()));
        assert_eq!(
            refused.unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
        assert_eq!(socket.try_send(|_| Ok(3)).unwrap(), 3);
    }
}
