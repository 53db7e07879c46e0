//! A datagram costs no memory on its way through the user-space egress, once its mapping is there.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod counting;
mod egress_support;

use std::{
    future::poll_fn,
    net::{SocketAddr, UdpSocket},
    task::Poll,
    time::{Duration, Instant},
};

use counting::allocations;
use egress_support::{HEAD, LIMIT, packet::udp};
use tsc_server::{
    config::{Config, Overrides},
    user_space::UserSpacePath,
};

const MAPPINGS: u16 = 20;

#[test]
fn datagrams_of_known_mappings_allocate_nothing() {
    let text = format!(
        "{HEAD}\n[[tscf-address-pool]]\nname = \"clients\"\naddress-range = [\"10.64.0.0/24\"]\n\
         [user-space-egress]\nallow-destinations = [\"127.0.0.1\", \"::1\"]\n"
    );
    let config = Config::parse_with(&text, "test", &Overrides::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut path = UserSpacePath::new(&config).unwrap();
        for (host, inner) in [("127.0.0.1:0", "10.64.0.9"), ("[::1]:0", "fd64::9")] {
            let host = UdpSocket::bind(host).unwrap();
            host.set_read_timeout(Some(LIMIT)).unwrap();
            let at_host = host.local_addr().unwrap();
            let packets: Vec<(usize, Vec<u8>)> = (0..MAPPINGS)
                .map(|number| {
                    let from = SocketAddr::new(inner.parse().unwrap(), 4000 + number);
                    (usize::from(number % 4), udp(from, at_host, &[7; 172]))
                })
                .collect();
            // Memory that is kept from then on.
            let mut spent = 0;
            for step in 0..10 {
                spent += turn(&mut path, &host, &packets, Duration::from_millis(step)).await;
            }
            assert!(
                spent >= u64::from(MAPPINGS),
                "mappings cost memory: {spent}"
            );
            let mut spent = 0;
            for step in 0..1000 {
                let ahead = Duration::from_millis(10 + 20 * step);
                spent += turn(&mut path, &host, &packets, ahead).await;
            }
            assert_eq!(spent, 0, "{at_host}");
        }
        let counters = path.counters();
        let passed = 2 * 1010 * u64::from(MAPPINGS);
        assert_eq!((counters.udp_sent, counters.udp_received), (passed, passed));
        assert_eq!(counters.udp_mappings, 2 * usize::from(MAPPINGS));
    });
}

/// Each packet goes out and is answered. Gives what that cost the egress.
async fn turn(
    path: &mut UserSpacePath,
    host: &UdpSocket,
    packets: &[(usize, Vec<u8>)],
    ahead: Duration,
) -> u64 {
    let now = Instant::now() + ahead;
    let before = allocations();
    for (tunnel, packet) in packets {
        path.tunnel_packet(now, *tunnel, packet);
    }
    let mut spent = allocations() - before;
    for _ in packets {
        let mut data = [0; 200];
        let (len, from) = host.recv_from(&mut data).unwrap();
        host.send_to(&data[..len], from).unwrap();
    }
    let mut answered = 0;
    let all = poll_fn(|cx| {
        let before = allocations();
        let again = path.poll(cx, now, &mut |_, _| answered += 1);
        spent += allocations() - before;
        if answered == packets.len() {
            return Poll::Ready(());
        }
        if again {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    });
    tokio::time::timeout(LIMIT, all).await.unwrap();
    spent
}
