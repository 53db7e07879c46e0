//! Checks see what they are to see.
#![allow(clippy::cast_possible_truncation, clippy::indexing_slicing)]

use tsc_quality::{
    checks,
    matrix::{Cell, Network, cells},
    results::{CellResult, Results, Side},
    router::{CLEAN, Passed},
    service::{Service, Transport},
};

/// As theory has it: a call of two minutes.
fn ideal(cell: &Cell) -> CellResult {
    let Network { loss_percent, .. } = cell.network;
    let is_stream = cell.column.transport.is_stream();
    let copies = cell.column.service.copies().unwrap_or(2);
    let packets = 6000u32;
    let share = if is_stream {
        0.0
    } else {
        cell.network.residual(copies)
    };
    let lost = (f64::from(packets) * share).round() as u64;
    let packets = u64::from(packets);
    let side = Side {
        sent: packets,
        received: packets - lost,
        lost,
        mos: Some(if is_stream && loss_percent > 0 {
            2.0
        } else {
            4.4 - share * 10.0
        }),
        ..Side::default()
    };
    let bytes = if copies == 0 || loss_percent == 0 {
        230
    } else {
        640
    };
    let passed = Passed {
        packets: packets + CLEAN,
        bytes: packets * bytes,
        lost: (packets as f64 * cell.network.loss()).round() as u64,
        ..Passed::default()
    };
    CellResult {
        cell: *cell,
        host: tsc_figures::host::HostInfo::default(),
        seconds: 120,
        seed: 1,
        error: None,
        tunnel_ms: Some(200.0),
        sides: vec![side.clone(), side],
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

    let failed = spoilt(Transport::Tcp, Service::Plain, 5, |result| {
        result
            .sides
            .iter_mut()
            .for_each(|side| side.mos = Some(3.9));
    });
    assert_eq!(
        failed,
        ["at 5 % loss and 50 ms udp-plain beats tcp-plain by 1 MOS"]
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
