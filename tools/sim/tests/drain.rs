//! A server that is drained: newcomers go elsewhere, tunnels stay.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm
)]

mod common;

use std::time::Duration;

use common::tunnel::SECOND;
use tsc_csm::client::{AttemptFailure, Event};
use tsc_csm::{Alternate, Transport};
use tsc_sim::{ClientId, PathConfig, World, client_config, server_config};
use tsc_tpl::ResponseCode;

fn busy(world: &World, client: ClientId) -> bool {
    world.events(client).iter().any(|(_, event)| {
        matches!(event, Event::AttemptFailed { failure: AttemptFailure::Refused(refusal), .. }
            if refusal.code == ResponseCode::BUSY && refusal.retry_after.is_some())
    })
}

#[test]
fn tunnels_are_resumed_and_released_while_newcomers_wait() {
    for transport in Transport::ALL {
        let mut world = World::new(7);
        let server = world.add_server(server_config(9));
        let [old, new] = [(); 2].map(|()| {
            let config = client_config(&[transport]);
            world.add_client(config, PathConfig::CLEAN)
        });
        world.start(old);
        world.run(SECOND);
        world.set_draining(server, true);
        world.start(new);
        world.break_transport(old);
        world.run(SECOND * 5);
        assert!(world.is_bound(old), "{transport}");
        assert_eq!(world.server_stats(server).resumed, 1, "{transport}");
        assert!(!world.is_bound(new) && busy(&world, new), "{transport}");
        assert_eq!(world.server_stats(server).draining, 1);
        world.release(old, SECOND);
        world.run(SECOND);
        assert_eq!(world.server_stats(server).sessions, 0, "{transport}");
        world.set_draining(server, false);
        world.run(Duration::from_secs(30));
        assert!(world.is_bound(new), "{transport}: it came again");
    }
}

#[test]
fn newcomers_go_to_the_alternates_whatever_the_policy() {
    let mut world = World::new(7);
    let mut config = server_config(9);
    config.interfaces[0].alternates = vec![Alternate {
        transport: Transport::Tls,
        address: ([203, 0, 113, 2], 5060).into(),
    }];
    let server = world.add_server(config);
    let second = world.add_server(server_config(9));
    world.set_draining(server, true);
    let client = world.add_client(client_config(&[Transport::Tls]), PathConfig::CLEAN);
    world.start(client);
    world.run(SECOND);
    assert!(world.is_bound(client));
    assert_eq!(world.server_stats(second).sessions, 1);
    assert_eq!(world.server_stats(server).turned_away, 1);
}
