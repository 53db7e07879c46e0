//! Each mode of the program with a server that it starts itself. Nothing here depends on how fast the machine is.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::float_cmp
)]

mod support;

use support::{number, report, tsc_load};
use tsc_interop::program;

const MODEST: &str = "--windows 1 --window 0.3 --drain 20";

fn spawn() -> String {
    format!("--spawn-server={}", program("tsc-server").display())
}

#[test]
fn a_run_with_its_baselines() {
    let report = report(&format!(
        "run {} --tunnels 4 --transport udp,tls --baseline udp,gso,tcp,tls --rate 60,80 {MODEST}",
        spawn()
    ));
    let subjects = report["subjects"].as_array().unwrap();
    let names: Vec<_> = subjects
        .iter()
        .map(|subject| subject["subject"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "relay-udp",
            "relay-gso",
            "relay-tcp",
            "relay-tls",
            "tsc-server",
            "tsc-server"
        ]
    );
    for subject in subjects {
        let loads = subject["loads"].as_array().unwrap();
        assert_eq!(loads.len(), 2);
        for load in loads {
            assert_eq!(number(load, "/lost"), 0.0, "{subject:#}");
            assert!(number(load, "/per_cpu_second/median") > 0.0);
            assert!(number(load, "/ratio") > 0.0);
            assert!(number(load, "/server_busy") > 0.0);
            assert_eq!(load["loss_of_windows"].as_array().unwrap().len(), 1);
        }
    }
    for load in subjects[0]["loads"].as_array().unwrap() {
        assert_eq!(number(load, "/ratio"), 1.0, "the unit");
    }
}

#[test]
fn calls_into_the_core() {
    let report = report(&format!(
        "run {} --tunnels 3 --transport udp --egress user-space --rate 60 {MODEST}",
        spawn()
    ));
    let load = &report["subjects"][0]["loads"][0];
    assert_eq!(number(load, "/lost"), 0.0, "{load:#}");
    assert!(
        number(load, "/up_us/p50") > 0.0,
        "the reflector saw requests"
    );
}

#[test]
fn set_up_and_hold() {
    let spawn = spawn();
    let setup = report(&format!("setup {spawn} --tunnels 30 --transport udp,dtls"));
    for subject in setup["subjects"].as_array().unwrap() {
        assert_eq!(number(subject, "/set_up/clients"), 30.0);
        assert!(number(subject, "/set_up/per_cpu_second") > 0.0);
        assert!(subject.get("hold").is_none());
    }
    let hold = report(&format!(
        "hold {spawn} --tunnels 20 --transport tcp --time 1"
    ));
    let held = &hold["subjects"][0]["hold"];
    assert_eq!(number(held, "/alive"), 20.0);
    assert_eq!(number(held, "/suspended"), 0.0);
    assert!(number(held, "/server_memory_kib") > 0.0);
}

/// So modest an overload that any server keeps up: nothing is lost, newcomers come in.
#[test]
fn overload_is_reported() {
    let arguments = format!(
        "overload {} --tunnels 4 --transport udp --capacity 300 --time 2 --newcomers 3 --json --quiet --no-pin",
        spawn()
    );
    // Whether a busy machine keeps the limits decides the exit code only.
    let output = tsc_load(&arguments);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let overload = &report["subjects"][0]["overload"];
    assert_eq!(number(overload, "/capacity_per_second"), 300.0);
    assert_eq!(number(overload, "/alive"), 4.0);
    assert_eq!(number(overload, "/newcomers"), 3.0);
    assert!(number(overload, "/offered_per_second/median") > 300.0);
    assert!(number(overload, "/goodput_per_second/median") > 0.0);
}

#[test]
fn calls_beside_forged_traffic() {
    let arguments = format!(
        "hostile {} --tunnels 4 --rate 60 --attack-rate 100 {MODEST} --json --quiet --no-pin",
        spawn()
    );
    let output = tsc_load(&arguments);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let subject = &report["subjects"][0];
    assert_eq!(subject["loads"].as_array().unwrap().len(), 4);
    let attacks = subject["attacks"].as_array().unwrap();
    let names: Vec<_> = attacks.iter().map(|attack| &attack["attack"]).collect();
    assert_eq!(names, ["garbage", "hello", "request"]);
    for attack in attacks {
        assert!(number(attack, "/per_second") > 0.0);
        assert!(number(attack, "/amplification") < 1.0, "{attack:#}");
    }
    assert_eq!(number(&attacks[0], "/answers_per_second"), 0.0);
    assert!(number(&attacks[1], "/answers_per_second") > 0.0);
    assert!(number(&attacks[2], "/answers_per_second") > 0.0);
    for load in subject["loads"].as_array().unwrap() {
        assert_eq!(number(load, "/lost"), 0.0, "{load:#}");
    }
}

#[test]
fn the_table_is_for_people() {
    let output = tsc_load(&format!(
        "run {} --tunnels 2 --transport udp --rate 60 {MODEST} --no-pin",
        spawn()
    ));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("tsc-server over udp: 2 tunnels, 2 calls"),
        "{text}"
    );
    assert!(text.contains("k per CPU-s"), "{text}");
}

#[test]
fn exit_codes() {
    let usage = [
        "",
        "run",
        "run --spawn-server --rate fast",
        "hold --server x",
    ];
    for arguments in usage {
        assert_eq!(tsc_load(arguments).status.code(), Some(2), "{arguments}");
    }
    // A port that was just given back: nobody listens there.
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = socket.local_addr().unwrap();
    drop(socket);
    let output = tsc_load(&format!("setup --server {nobody} --transport tcp --no-pin"));
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("0 of 100 clients came up"), "{said}");
    // Not one packet may be lost, and all are: the limit of a rate cannot be kept.
    let output = tsc_load(&format!(
        "run {} --tunnels 2 --transport udp --rate 50 --reflector 127.0.0.1:9 {} --no-pin",
        spawn(),
        "--windows 1 --window 0.2 --drain 0.2"
    ));
    assert_eq!(output.status.code(), Some(1), "denied destinations");
}
