//! Checks see what they are to see.
#![allow(
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm
)]

use tsc_quality::{
    checks,
    matrix::{Cell, Network, cells},
    results::{CellResult, Results, Side},
    router::{CLEAN, Flow, Passed},
    service::{Service, Transport},
};

/// As theory has it: a call of two minutes.
fn ideal(cell: &Cell) -> CellResult {
    let Network { loss_percent, .. } = cell.network;
    let service = cell.column.service;
    let packets = 6000u32;
    let count = |share: f64| (f64::from(packets) * share).round() as u64;
    let (lost, late) = if cell.column.is_datagrams() {
        let copies = cell.column.copies().unwrap_or(2);
        (count(cell.network.residual(copies)), 0)
    } else {
        // What is sent again holds up some more, on each stream that a packet is on.
        let streams = match service {
            Service::Balanced => 1,
            _ => service.streams(),
        };
        let late = (cell.network.loss() * 4.0).min(1.0);
        (0, count(checks::independent_streams(late, streams)))
    };
    let packets = u64::from(packets);
    let score = (4.4 - (lost + late) as f64 / packets as f64 * 10.0).max(1.0);
    let side = Side {
        sent: packets,
        received: packets - lost,
        lost,
        late,
        mos: Some(score),
        pesq: Some(vec![Some(score), Some(score)]),
        ..Side::default()
    };
    let bytes = match service {
        Service::Plain | Service::Ddt | Service::Balanced => 230,
        _ if loss_percent == 0 => 230,
        _ => 640,
    };
    let flows = match (cell.column.is_datagrams(), service.streams()) {
        (true, _) => vec!["udp 1".to_owned()],
        (false, streams) => (1..=streams).map(|port| format!("tcp {port}")).collect(),
    };
    let flow = Flow {
        packets: packets / flows.len() as u64,
        bytes: packets * bytes / flows.len() as u64,
    };
    let passed = Passed {
        packets: packets + CLEAN,
        bytes: packets * bytes,
        lost: (packets as f64 * cell.network.loss()).round() as u64,
        flows: flows.into_iter().map(|name| (name, flow)).collect(),
        ..Passed::default()
    };
    let caller = Side {
        services_ms: (service != Service::Plain).then_some(300.0),
        ..side.clone()
    };
    CellResult {
        cell: *cell,
        host: tsc_figures::host::HostInfo::default(),
        seconds: 120,
        seed: 1,
        error: None,
        tunnel_ms: Some(200.0),
        sides: vec![caller, side],
        wire: [passed.clone(), passed],
    }
}

fn results() -> Results {
    Results(cells().iter().map(ideal).collect())
}

/// Spoils all cells of a column, and gives which checks fail then.
fn spoilt(
    transport: Transport,
    service: Service,
    loss: u32,
    spoil: fn(&mut CellResult),
) -> Vec<String> {
    let mut results = results();
    let column = |cell: &Cell| cell.column.transport == transport && cell.column.service == service;
    for result in &mut results.0 {
        if column(&result.cell) && result.cell.network.loss_percent == loss {
            spoil(result);
        }
    }
    let checks = checks::all(&results).into_iter();
    checks
        .filter(|check| check.holds == Some(false))
        .map(|check| check.what)
        .collect()
}

#[test]
fn what_is_as_it_should_be_passes_and_what_was_not_measured_is_told() {
    let checks = checks::all(&results());
    for check in &checks {
        assert_eq!(check.holds, Some(true), "{check:?}");
    }
    let none = checks::all(&Results::default());
    assert_eq!(none.len(), checks.len());
    assert!(none.iter().all(|check| check.holds.is_none()), "{none:?}");
    assert!(checks::are_good(&none));
}

#[test]
fn each_check_fails_for_its_reason() {
    let lose = |result: &mut CellResult| {
        for side in &mut result.sides {
            side.lost += 20;
            side.received -= 20;
        }
    };
    let failed = spoilt(Transport::Udp, Service::TwoCopies, 10, lose);
    assert_eq!(failed.len(), 2, "{failed:?}");
    assert!(
        failed[0].contains("p^3") && failed[1].contains("two copies leave"),
        "{failed:?}"
    );

    let failed = spoilt(Transport::Dtls, Service::Adaptive, 10, |result| {
        result
            .sides
            .iter_mut()
            .for_each(|side| side.mos = Some(4.2));
    });
    assert_eq!(
        failed,
        ["dtls: at 10 % loss adaptive is within 0.1 MOS of two copies"]
    );

    let failed = spoilt(Transport::Udp, Service::Adaptive, 0, |result| {
        result
            .wire
            .iter_mut()
            .for_each(|passed| passed.bytes += 6000 * 12);
    });
    assert_eq!(
        failed,
        ["udp: where nothing is lost adaptive costs less than 5 % more"]
    );

    let failed = spoilt(Transport::Tcp, Service::Ddt, 5, |result| {
        result
            .sides
            .iter_mut()
            .for_each(|side| side.mos = Some(2.9));
    });
    assert_eq!(
        failed,
        ["at 5 % loss and 50 ms tcp-ddt beats tcp-plain by 1 MOS (G.107)"]
    );

    let failed = spoilt(Transport::Tls, Service::Ddt, 5, |result| {
        result
            .sides
            .iter_mut()
            .for_each(|side| side.pesq = Some(vec![Some(2.9), None]));
    });
    assert_eq!(
        failed,
        ["at 5 % loss and 50 ms tls-ddt beats tls-plain by 1 MOS (PESQ)"]
    );

    let failed = spoilt(Transport::Tls, Service::Ddt, 1, |result| {
        let [up, _] = &mut result.wire;
        let stream = Flow {
            packets: 600,
            bytes: up.bytes / 5,
        };
        up.bytes += stream.bytes;
        up.flows.insert("tcp 1".to_owned(), stream);
    });
    assert_eq!(
        failed,
        ["with DDT at least 95 % of all bytes go beside the stream"]
    );

    let failed = spoilt(Transport::Tcp, Service::Balanced, 10, |result| {
        result.sides[1].lost += 6000;
    });
    assert_eq!(
        failed,
        ["up to 10 % loss what is heard, late and lost is what was sent, and no more"]
    );

    let failed = spoilt(Transport::Tcp, Service::Balanced, 20, |result| {
        result.sides[0].services_ms = None;
    });
    assert_eq!(failed, ["services are in force when the calls begin"]);

    let failed = spoilt(Transport::Tcp, Service::OneStream, 5, |result| {
        result.sides.iter_mut().for_each(|side| side.late *= 2);
    });
    assert_eq!(
        failed,
        ["tcp-fan-out-1: what is not heard, in percent, is that of tcp-plain to the power of 2"]
    );

    let failed = spoilt(Transport::Tcp, Service::TwoStreams, 2, |result| {
        let [up, _] = &mut result.wire;
        up.flows.remove("tcp 3");
    });
    assert_eq!(
        failed,
        ["with fan-out each of the streams carries the media"]
    );

    let failed = spoilt(Transport::Tls, Service::Plain, 0, |result| {
        result.sides.iter_mut().for_each(|side| side.late = 50);
    });
    assert_eq!(failed, ["where nothing is lost at most 0.2 % is not heard"]);

    let failed = spoilt(Transport::Tls, Service::Plain, 10, |result| {
        result.wire.iter_mut().for_each(|passed| passed.lost /= 2);
    });
    assert_eq!(failed, ["the network loses what it was asked to"]);

    let failed = spoilt(Transport::Udp, Service::OneCopy, 2, |result| {
        result.sides.clear()
    });
    assert_eq!(
        failed,
        ["udp-1-copy: loss after recovery, in percent, is p^2"],
        "no call is no success"
    );
}
