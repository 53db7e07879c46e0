//! Marks of outer packets, as a receiver sees them.
#![cfg(any(target_os = "linux", target_os = "android"))]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]

mod common;

use std::{
    future::poll_fn,
    io::{IoSlice, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    time::Duration,
};

use common::bounded;
use nix::{
    cmsg_space,
    sys::socket::{
        ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt,
        sockopt::{IpRecvTos, Ipv6RecvTClass},
    },
};
use tsc_osaa::{
    client::{ConnectOptions, Target, TransportKind, connect},
    datagram::{DatagramOptions, DatagramSocket, SendBatch},
    socket::{Dscp, OuterDscp},
};

const EF: u8 = 46;
const CS3: u8 = 24;

/// A socket that tells the traffic class of each datagram.
struct Reader(UdpSocket);

impl Reader {
    /// `None` where the host has no such address.
    fn new(address: &str) -> Option<Self> {
        let socket = UdpSocket::bind(address).ok()?;
        socket
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        if socket.local_addr().unwrap().is_ipv4() {
            setsockopt(&socket, IpRecvTos, &true).unwrap();
        } else {
            setsockopt(&socket, Ipv6RecvTClass, &true).unwrap();
        }
        Some(Self(socket))
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// The next datagram, and the whole octet of DSCP and ECN.
    fn receive(&self) -> (Vec<u8>, u8) {
        let mut bytes = [0; 2000];
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let mut space = cmsg_space!(i32, i32);
        let message = recvmsg::<SockaddrStorage>(
            self.0.as_raw_fd(),
            &mut slices,
            Some(&mut space),
            MsgFlags::empty(),
        )
        .unwrap();
        let mut class = None;
        for part in message.cmsgs().unwrap() {
            match part {
                ControlMessageOwned::Ipv4Tos(tos) => class = Some(tos),
                ControlMessageOwned::Ipv6TClass(tclass) => class = Some(tclass as u8),
                _ => {}
            }
        }
        let len = message.bytes;
        (bytes[..len].to_vec(), class.unwrap())
    }

    fn receive_all(&self, count: usize) -> Vec<(Vec<u8>, u8)> {
        (0..count).map(|_| self.receive()).collect()
    }
}

async fn send(socket: &mut DatagramSocket, batch: &mut SendBatch) {
    poll_fn(|cx| socket.poll_send(cx, batch)).await.unwrap();
}

#[tokio::test]
async fn each_run_has_its_mark() {
    bounded(async {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Some(reader) = Reader::new(address) else {
                continue;
            };
            let options = DatagramOptions::default();
            let sockets = [
                DatagramSocket::bind(address.parse().unwrap(), &options).unwrap(),
                DatagramSocket::connect(reader.address(), None, &options).unwrap(),
            ];
            for mut socket in sockets {
                let mut batch = SendBatch::new(10_000);
                let sent = [
                    (None, 100),
                    (Some(EF), 100),
                    (Some(EF), 100),
                    (Some(EF), 60),
                    (Some(CS3), 100),
                    (None, 100),
                    (Some(EF), 100),
                ];
                for (number, (mark, len)) in (0..).zip(sent) {
                    let mark = mark.and_then(Dscp::new);
                    let bytes = vec![number; len];
                    assert!(batch.push_marked(reader.address(), None, mark, &bytes));
                }
                send(&mut socket, &mut batch).await;
                assert_eq!(socket.stats().sent, 7);
                let mut heard = reader.receive_all(7);
                // Of one peer and mark they keep their order; runs are sent whole.
                heard.sort();
                for (number, (bytes, class)) in heard.into_iter().enumerate() {
                    let (mark, len) = sent[number];
                    assert_eq!(bytes, vec![number as u8; len], "{address}");
                    assert_eq!(class, mark.unwrap_or_default() << 2, "{address} {number}");
                }
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_mark_of_its_own_wins_over_the_mark_of_the_socket() {
    bounded(async {
        let reader = Reader::new("127.0.0.1:0").unwrap();
        let mut options = DatagramOptions::default();
        options.dscp = Dscp::new(CS3);
        let mut socket = DatagramSocket::bind("127.0.0.1:0".parse().unwrap(), &options).unwrap();
        let mut batch = SendBatch::new(10_000);
        for mark in [None, Dscp::new(EF)] {
            assert!(batch.push_marked(reader.address(), None, mark, b"x"));
            send(&mut socket, &mut batch).await;
        }
        assert_eq!(reader.receive().1, CS3 << 2);
        assert_eq!(reader.receive().1, EF << 2);
    })
    .await;
}

/// An inner packet with ECN bits: they stay inside, and the outer ones are 0.
fn inner(version: u8, dscp: u8, len: usize) -> Vec<u8> {
    let mut packet = vec![7; len];
    let class = dscp << 2 | 3;
    (packet[0], packet[1]) = match version {
        4 => (0x45, class),
        _ => (0x60 | class >> 4, class << 4),
    };
    packet
}

#[tokio::test]
async fn a_client_marks_as_it_was_told() {
    bounded(async {
        let reader = Reader::new("127.0.0.1:0").unwrap();
        let address = reader.address();
        let target = Target::new(TransportKind::Udp, address.ip(), address.port());
        let mut transport = connect(&target, None, &ConnectOptions::default())
            .await
            .unwrap();
        let control = vec![0x10; 40];
        let units = [
            inner(4, EF, 200),
            inner(4, EF, 200),
            control,
            inner(6, 34, 200),
            inner(4, 0, 200),
        ];
        let slices: Vec<_> = units.iter().map(|unit| IoSlice::new(unit)).collect();
        let expected = [
            (OuterDscp::Off, [0, 0, 0, 0, 0]),
            (OuterDscp::Copy, [EF, EF, 0, 34, 0]),
            (OuterDscp::Set(Dscp::new(CS3).unwrap()), [CS3; 5]),
            (OuterDscp::Off, [0, 0, 0, 0, 0]),
        ];
        for (marking, marks) in expected {
            transport.set_outer_dscp(marking).unwrap();
            transport.send(&slices).await.unwrap();
            let mut heard = reader.receive_all(units.len());
            let mut sent: Vec<_> = units.iter().cloned().zip(marks.map(|m| m << 2)).collect();
            heard.sort();
            sent.sort();
            assert_eq!(heard, sent, "{marking:?}");
        }
    })
    .await;
}
