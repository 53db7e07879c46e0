//! TCP between two stacks: opening, data, every order of closing.

use std::time::Instant;

use tsc_eip::{Event, TcpOptions, TcpState};
    Event, Stack, StackConfig, TcpError, TcpHandle, TcpListenHandle, TcpOptions, TcpState,
};

use crate::support::*;

#[test]
fn a_connection_carries_data_both_ways() {
    let now = Instant::now();
    for (server, any) in [
        (addr("10.0.0.2:80"), "0.0.0.0:0"),
        (addr("[2001:db8::2]:80"), "[::]:0"),
    ] {
        let (mut a, mut b) = (alice(), bob());
        let listener = b.tcp_listen(server, 8).unwrap();
        let client = a
            .tcp_connect(now, addr(any), server, TcpOptions::default())
            .unwrap();
        assert_eq!(a.tcp_state(client), Some(TcpState::SynSent));
        pump(now, &mut a, &mut b);
        assert_eq!(events(&mut a), [Event::TcpConnected(client)]);
        assert_eq!(events(&mut b), [Event::TcpAcceptable(listener)]);
        let (peer, from) = b.tcp_accept(listener).unwrap();
        assert_eq!(b.tcp_accept(listener), None);
        assert_eq!(Some(from), a.tcp_local_addr(client));
        assert_eq!(a.tcp_send(now, client, b"hello"), Ok(5));
        pump(now, &mut a, &mut b);
        assert_eq!(events(&mut b), [Event::TcpReadable(peer)]);
        let mut buffer = [0; 100];
        assert_eq!(b.tcp_recv(now, peer, &mut buffer), Ok(Some(5)));
        assert_eq!(&buffer[..5], b"hello");
        assert_eq!(b.tcp_recv(now, peer, &mut buffer), Ok(None));
        assert_eq!(b.tcp_send(now, peer, b"world!"), Ok(6));
        pump(now, &mut a, &mut b);
        assert_eq!(a.tcp_recv(now, client, &mut buffer), Ok(Some(6)));
        assert_eq!(&buffer[..6], b"world!");
    }
}
