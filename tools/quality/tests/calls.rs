//! A few short calls by the whole bench: programs, namespaces, the bad network, results, document.
#![allow(clippy::unwrap_used)]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use tsc_quality::{
    matrix::Cell,
    results::{CellResult, Results},
};

/// Packets get lost on the way, TCP sends them again, copies make up for them; and the document tells.
#[test]
fn calls_over_a_bad_network_are_heard_and_counted() {
    let directory = tempfile::tempdir().unwrap();
    let (kept, document) = (
        directory.path().join("results"),
        directory.path().join("quality.md"),
    );
    let cells = [
        "udp-plain-loss10-burst1-50ms-fixed",
        "udp-2-copies-loss10-burst1-50ms-fixed",
        "tcp-plain-loss10-burst1-50ms-waiting",
        "tls-ddt-loss10-burst1-50ms-fixed",
        "tcp-fan-out-2-loss10-burst1-50ms-waiting",
    ];
    let cells = cells.join(",");
    let mut command = Command::new("timeout");
    command.args([
        "--kill-after=5",
        "180",
        env!("CARGO_BIN_EXE_tsc-quality"),
        "measure",
    ]);
    command.args(["--seconds", "8", "--no-pesq", "--only", &cells]);
    command.arg("--results").arg(&kept);
    // Those that somebody names, or else those that were built with this test.
    let built = Path::new(env!("CARGO_BIN_EXE_tsc-quality")).parent();
    let programs = env::var_os("TSC_INTEROP_PROGRAMS").map(PathBuf::from);
    let programs = programs.or_else(|| built.map(PathBuf::from)).unwrap();
    command.arg("--programs").arg(programs);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");

    let results = Results::read(&kept).unwrap();
    let find = |word: &str| -> CellResult {
        let mut found = results
            .0
            .iter()
            .filter(|result| Cell::is_meant_by(&result.cell, word));
        found.next().cloned().unwrap()
    };
    let [plain, copies, stream, ddt, streams] = [
        find("plain-loss10-burst1-50ms-fixed"),
        find("2-copies"),
        find("tcp-plain"),
        find("ddt"),
        find("fan-out-2"),
    ];
    for result in [&plain, &copies, &stream, &ddt, &streams] {
        assert_eq!(
            (&result.error, result.sides.len()),
            (&None, 2),
            "{result:?}"
        );
        let network = result.network_loss().unwrap();
        assert!((0.03..0.2).contains(&network), "{network} {result:?}");
        for side in &result.sides {
            // Whoever is called sends until it hears of the end, for which a stream may have to send again, and once more.
            assert!((380..=500).contains(&side.sent), "{side:?}");
            assert!(side.rtt_ms.is_some_and(|rtt| rtt >= 100.0), "{side:?}");
            assert!(
                side.heard.as_ref().is_some_and(|heard| heard.is_file()),
                "{side:?}"
            );
        }
    }
    let lost = |result: &CellResult| result.lost().unwrap();
    assert!(lost(&plain) > 0.02, "{plain:?}");
    assert!(lost(&copies) < lost(&plain) / 4.0, "{copies:?}");
    assert!(lost(&stream) < lost(&plain) / 4.0, "{stream:?}");
    let late: u64 = stream.sides.iter().map(|side| side.late).sum();
    assert!(late > 0, "what is sent again comes late: {stream:?}");
    assert!(copies.bytes_per_packet() > plain.bytes_per_packet().map(|bytes| bytes * 2.0));
    for served in [&copies, &ddt, &streams] {
        assert!(
            served.services_ms().is_some_and(|ms| ms > 100.0),
            "{served:?}"
        );
    }
    assert_eq!(plain.services_ms(), None);
    // Beside the stream packets are lost as they are; on three streams each of them travels.
    assert!(lost(&ddt) > 0.02, "{ddt:?}");
    assert!(ddt.datagrams().is_some_and(|share| share > 0.8), "{ddt:?}");
    assert!(lost(&streams) < lost(&plain) / 4.0, "{streams:?}");
    assert_eq!(streams.busy_flows(), 3, "{streams:?}");
    // The callers have one connection, and the two ways of it are counted as one flow each.
    assert!(
        plain.wire.iter().all(|passed| passed.flows.len() == 1),
        "{plain:?}"
    );

    let marks = "<!-- figures: made by tsc-quality document; do not edit from here -->\n<!-- end of figures -->\n";
    fs::write(&document, marks).unwrap();
    tsc_quality::document::write(&results, &document).unwrap();
    let text = fs::read_to_string(&document).unwrap();
    assert!(text.contains("5 calls of 8 s"), "{text}");
}
