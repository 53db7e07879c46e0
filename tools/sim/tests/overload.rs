//! More to do than can be done: newcomers are told so, tunnels that exist go on.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm
)]

mod common;

use std::time::Duration;

use common::tunnel::{SECOND, up};
use tsc_csm::client::{AttemptFailure, Event};
use tsc_csm::server::{BUSY_WINDOWS, LOAD_WINDOW, RedirectPolicy, Work};
use tsc_csm::{Alternate, Transport};
use tsc_sim::{ClientId, PathConfig, ServerId, World, client_config, server_config};
use tsc_tpl::ResponseCode;

/// A worker whose time is told.
struct Worker {
    server: ServerId,
    work: Work,
}

impl Worker {
    fn new(world: &mut World, server: ServerId) -> Self {
        let work = Work::default();
        world.note_work(server, work);
        Self { server, work }
    }

    /// Some time in which it rests or does not, and passes packets on all the while.
    fn run(&mut self, world: &mut World, time: Duration, rests: bool) {
        let end = world.elapsed() + time;
        while world.elapsed() < end {
            world.run(LOAD_WINDOW);
            self.work.packets += 50_000;
            if rests {
                self.work.rested += LOAD_WINDOW / 2;
            }
            world.note_work(self.server, self.work);
        }
    }

    fn overload(&mut self, world: &mut World) {
        self.run(world, LOAD_WINDOW * u32::from(BUSY_WINDOWS), false);
        assert_eq!(world.server_stats(self.server).overloaded, 1);
    }
}

/// How often a client was told that the server is busy.
fn told_busy(world: &World, client: ClientId) -> usize {
    let busy = |event: &&(Duration, Event)| match &event.1 {
        Event::AttemptFailed {
            failure: AttemptFailure::Refused(refusal),
            ..
        } => refusal.code == ResponseCode::BUSY,
        _ => false,
    };
    world.events(client).iter().filter(busy).count()
}

#[test]
fn newcomers_are_told_busy_and_come_when_there_is_room() {
    for transport in Transport::ALL {
        let (mut world, server, _) = up(transport);
        let mut worker = Worker::new(&mut world, server);
        worker.overload(&mut world);
        let newcomers: Vec<_> = (0..8)
            .map(|_| world.add_client(client_config(&[transport]), PathConfig::CLEAN))
            .collect();
        for newcomer in &newcomers {
            world.start(*newcomer);
        }
        worker.run(&mut world, SECOND / 2, false);
        let bound = |world: &World| {
            let up = newcomers.iter().filter(|one| world.is_bound(**one));
            up.count()
        };
        assert_eq!(bound(&world), 1, "{transport}: one in a second");
        let told = newcomers
            .iter()
            .filter(|one| told_busy(&world, **one) == 1)
            .count();
        assert_eq!(told, 7, "{transport}");
        assert_eq!(world.server_stats(server).turned_away, 7);
        worker.run(&mut world, LOAD_WINDOW, true);
        assert_eq!(world.server_stats(server).overloaded, 0);
        // Retry_After is 5 s; the clients add up to half of it.
        worker.run(&mut world, SECOND * 8, true);
        assert_eq!(bound(&world), 8, "{transport}");
    }
}

#[test]
fn tunnels_live_and_resume_meanwhile() {
    for transport in Transport::ALL {
        let (mut world, server, client) = up(transport);
        let mut worker = Worker::new(&mut world, server);
        worker.overload(&mut world);
        let before = world.client_stats(client).keepalives;
        worker.run(&mut world, SECOND * 400, false);
        assert!(world.client_stats(client).keepalives > before);
        assert!(world.is_bound(client), "{transport}");
        world.break_transport(client);
        worker.run(&mut world, SECOND * 2, false);
        assert!(world.is_bound(client), "{transport}");
        let events = world.events(client).iter();
        let resumed = events.filter(|(_, event)| matches!(event, Event::Resumed(_)));
        assert_eq!(resumed.count(), 1, "{transport}");
        assert_eq!(world.server_stats(server).turned_away, 0);
    }
}

#[test]
fn a_server_that_redirects_when_full_does_so_when_overloaded() {
    let mut world = World::new(3);
    let mut config = server_config(9);
    config.interfaces[0].redirect = RedirectPolicy::WhenFull;
    config.interfaces[0].alternates = vec![Alternate {
        transport: Transport::Tls,
        address: ([203, 0, 113, 2], 5060).into(),
    }];
    let first = world.add_server(config);
    let second = world.add_server(server_config(9));
    let mut worker = Worker::new(&mut world, first);
    worker.overload(&mut world);
    for _ in 0..3 {
        let client = world.add_client(client_config(&[Transport::Tls]), PathConfig::CLEAN);
        world.start(client);
        worker.run(&mut world, LOAD_WINDOW, false);
        assert!(world.is_bound(client));
        assert_eq!(told_busy(&world, client), 0);
    }
    assert_eq!(world.server_stats(first).sessions, 1, "one in a second");
    assert_eq!(world.server_stats(second).sessions, 2);
}
