//! baresip in the core: calls with audio both ways. It sends media to where the other side's SDP says, an inner address, and
//! so this takes TUN.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use std::{fs, path::Path};

use tsc_interop::{BARESIP, ClientOptions, Egress, Lab, Process, baresip, isolated};

/// What baresip plays, in Hz.
const HIGH: f64 = 1000.0;
/// What our side plays, in Hz.
const LOW: f64 = 400.0;
const SAMPLE_RATE: u32 = 8000;
const HEADER: usize = 44;

/// A WAV file with so many seconds of a tone.
fn tone(path: &Path, hertz: f64, seconds: u32) {
    let samples = SAMPLE_RATE * seconds;
    let mut file = Vec::new();
    file.extend(b"RIFF");
    file.extend((36 + samples * 2).to_le_bytes());
    file.extend(b"WAVEfmt ");
    file.extend(16_u32.to_le_bytes());
    // PCM, one channel.
    file.extend([1, 0, 1, 0]);
    file.extend(SAMPLE_RATE.to_le_bytes());
    file.extend((SAMPLE_RATE * 2).to_le_bytes());
    file.extend([2, 0, 16, 0]);
    file.extend(b"data");
    file.extend((samples * 2).to_le_bytes());
    assert_eq!(file.len(), HEADER);
    for sample in 0..samples {
        let phase = f64::from(sample) * hertz * std::f64::consts::TAU / f64::from(SAMPLE_RATE);
        #[allow(clippy::cast_possible_truncation, reason = "within the range")]
        let value = (phase.sin() * 8000.0) as i16;
        file.extend(value.to_le_bytes());
    }
    fs::write(path, file).unwrap();
}

/// Seconds in which a recording holds mostly this tone, by Goertzel's algorithm.
fn seconds_of(path: &Path, hertz: f64) -> usize {
    let file = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let samples: Vec<f64> = file[HEADER.min(file.len())..]
        .chunks_exact(2)
        .map(|pair| f64::from(i16::from_le_bytes([pair[0], pair[1]])))
        .collect();
    let coefficient = 2.0 * (hertz * std::f64::consts::TAU / f64::from(SAMPLE_RATE)).cos();
    let mut holding = 0;
    // Tenths of a second: a lost packet spoils one.
    for part in samples.chunks_exact(800) {
        let (mut one, mut two) = (0.0, 0.0);
        for sample in part {
            (one, two) = (sample + coefficient * one - two, one);
        }
        let tone = (one * one + two * two - coefficient * one * two) * 2.0 / 800.0;
        let all: f64 = part.iter().map(|sample| sample * sample).sum();
        holding += usize::from(all > 1e6 && tone > 0.8 * all);
    }
    holding / 10
}

/// The recording in a directory, by how its name ends.
fn recording(directory: &Path, end: &str) -> std::path::PathBuf {
    let files = fs::read_dir(directory).unwrap();
    let mut files = files.map(|file| file.unwrap().path());
    let found = files.find(|path| path.to_string_lossy().ends_with(end));
    found.unwrap_or_else(|| panic!("no recording in {}", directory.display()))
}

#[test]
fn baresip_calls_into_a_tunnel() {
    isolated("baresip_calls_into_a_tunnel", || {
        let lab = Lab::new(Egress::Tun);
        let (high, low, heard) = (lab.path("high.wav"), lab.path("low.wav"), lab.path("heard"));
        tone(&high, HIGH, 20);
        tone(&low, LOW, 5);
        let mut callee = lab.client("tsc_sip_server", ClientOptions::default());
        callee
            .args(["--open-registration", "--json", "--exit-after", "1"])
            .arg("--play")
            .arg(&low)
            .arg("--record")
            .arg(&heard);
        let callee = Process::start("tsc_sip_server", callee);
        let ready = callee.wait_for("ready sip:");
        let uri = ready.replace("ready sip:", "sip:play@");
        let caller = baresip(&lab.path(""), &high, Some(&uri), 6);
        let report = callee.wait_for("{");
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        let ended = caller.wait();
        assert_eq!(report["outcome"], "ok", "{report}\n{}", ended.output);
        assert!(report["received"].as_u64().unwrap() >= 150, "{report}");
        assert!(callee.wait().status.success());
        assert!(
            seconds_of(&recording(&heard, ".wav"), HIGH) >= 3,
            "what our side heard"
        );
        assert!(
            seconds_of(&recording(&lab.path("baresip"), "-dec.wav"), LOW) >= 3,
            "what baresip heard"
        );
    });
}

#[test]
fn a_tunnelled_client_calls_baresip() {
    isolated("a_tunnelled_client_calls_baresip", || {
        let lab = Lab::new(Egress::Tun);
        let (high, low, heard) = (lab.path("high.wav"), lab.path("low.wav"), lab.path("heard"));
        tone(&high, HIGH, 20);
        tone(&low, LOW, 5);
        let callee = baresip(&lab.path(""), &high, None, 60);
        let mut caller = lab.client("tsc_sip_client", ClientOptions::default());
        caller
            .args(["--sip-server", &BARESIP.to_string(), "--no-register"])
            .args(["--call", "bob", "--duration", "5", "--json"])
            .arg("--play")
            .arg(&low)
            .arg("--record")
            .arg(&heard);
        let caller = Process::start("tsc_sip_client", caller).wait();
        let report: serde_json::Value = serde_json::from_str(&caller.output).unwrap();
        assert_eq!(report["outcome"], "ok", "{}", caller.output);
        assert!(report["calls"][0]["received"].as_u64().unwrap() >= 150);
        assert!(callee.stop().status.success());
        assert!(
            seconds_of(&recording(&heard, ".wav"), HIGH) >= 3,
            "what our side heard"
        );
        assert!(
            seconds_of(&recording(&lab.path("baresip"), "-dec.wav"), LOW) >= 3,
            "what baresip heard"
        );
    });
}

/// The tunnel server is restarted in the middle of the call: another tunnel, another inner address, and baresip follows.
#[test]
fn baresip_follows_a_call_to_another_tunnel() {
    isolated("baresip_follows_a_call_to_another_tunnel", || {
        let mut lab = Lab::new(Egress::Tun);
        let (high, low, heard) = (lab.path("high.wav"), lab.path("low.wav"), lab.path("heard"));
        tone(&high, HIGH, 20);
        tone(&low, LOW, 10);
        let callee = baresip(&lab.path(""), &high, None, 60);
        let mut caller = lab.client("tsc_sip_client", ClientOptions::default());
        caller
            .args(["--sip-server", &BARESIP.to_string(), "--no-register"])
            .args(["--call", "bob", "--duration", "10", "--json"])
            .args(["--log-level", "info"])
            .arg("--play")
            .arg(&low)
            .arg("--record")
            .arg(&heard);
        let caller = Process::start("tsc_sip_client", caller);
        let _ = caller.wait_for("media arrives");
        lab.restart_server();
        let ended = caller.wait();
        let report: serde_json::Value = serde_json::from_str(&ended.output).unwrap();
        assert_eq!(report["outcome"], "ok", "{}", ended.output);
        assert_eq!(report["calls"][0]["moves"], 1, "{}", ended.output);
        assert!(callee.stop().status.success());
        // Less would do before the restart alone.
        assert!(
            seconds_of(&recording(&heard, ".wav"), HIGH) >= 5,
            "what our side heard"
        );
        assert!(
            seconds_of(&recording(&lab.path("baresip"), "-dec.wav"), LOW) >= 5,
            "what baresip heard"
        );
    });
}
