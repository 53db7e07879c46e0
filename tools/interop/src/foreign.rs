//! Kamailio and baresip.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    network::{Namespace, address},
    process::Process,
};

/// How long a program may take until it listens.
const LIMIT: Duration = Duration::from_secs(60);
/// Pause between two looks at the kernel's tables, which tell nobody of changes.
const PAUSE: Duration = Duration::from_millis(20);

/// Waits until something in the process's network listens at `port`, by TCP or UDP.
///
/// # Panics
///
/// When nothing does within a minute.
pub fn wait_for_port(process: &mut Process, transport: &str, port: u16) {
    let end = Instant::now() + LIMIT;
    let wanted = format!(":{port:04X} ");
    loop {
        let listening = ["", "6"].iter().any(|family| {
            let path = format!("/proc/{}/net/{transport}{family}", process.id());
            let table = fs::read_to_string(path).unwrap_or_default();
            // "0: LOCAL:PORT REMOTE:PORT STATE"; 0A is LISTEN.
            table.lines().skip(1).any(|line| {
                let mut fields = line.split_whitespace();
                let local = fields.nth(1).unwrap_or_default();
                let state = fields.nth(1).unwrap_or_default();
                format!("{local} ").ends_with(&wanted) && (transport == "udp" || state == "0A")
            })
        });
        if listening {
            return;
        }
        assert!(
            process.is_running() && Instant::now() < end,
            "nothing listens at {transport} port {port}"
        );
        std::thread::sleep(PAUSE);
    }
}

/// Starts Kamailio at port 5060 of the core: a registrar that wants passwords for `realm`, and a proxy that stays in the
/// way of all requests of a call (Record-Route). The password of each user is `secret-NAME`.
///
/// # Panics
///
/// When it does not start.
#[must_use]
#[allow(clippy::panic, reason = "a test has no better way to fail")]
pub fn kamailio(directory: &Path, realm: &str) -> Process {
    let path = directory.join("kamailio.cfg");
    let text = include_str!("kamailio.cfg")
        .replace("@ADDRESS@", &address::CORE_V4.to_string())
        .replace("@REALM@", realm);
    if let Err(error) = fs::write(&path, text) {
        panic!("{}: {error}", path.display());
    }
    let mut command = Namespace::Core.command("kamailio");
    // Not in the background, log to standard error, memory for a few users.
    command
        .args(["-DD", "-E", "-m", "32", "-M", "8", "-Y"])
        .arg(directory)
        .arg("-f")
        .arg(&path);
    let mut process = Process::start("kamailio", command);
    wait_for_port(&mut process, "udp", 5060);
    wait_for_port(&mut process, "tcp", 5060);
    process
}

/// Where [`baresip`] can be called.
pub const BARESIP: SocketAddr = SocketAddr::new(address::CORE_V4, 5062);

/// Starts baresip in the core: user `bob`, who answers at once, plays `tone` (a WAV file of 8000 Hz) and records what he
/// hears in a file `*-dec.wav` of `directory`'s `baresip`. He may dial a SIP URI at the start, and ends by himself, hanging up, after
/// `seconds`.
///
/// # Panics
///
/// When it does not start.
#[must_use]
#[allow(clippy::panic, reason = "a test has no better way to fail")]
pub fn baresip(directory: &Path, tone: &Path, dial: Option<&str>, seconds: u32) -> Process {
    let home = directory.join("baresip");
    let config = include_str!("baresip.config")
        .replace("@ADDRESS@", &BARESIP.to_string())
        .replace("@TONE@", &tone.display().to_string())
        .replace("@HEARD@", &home.display().to_string());
    let account = format!(
        "<sip:bob@{}>;regint=0;answermode=auto;audio_codecs=PCMU/8000/1\n",
        BARESIP.ip()
    );
    let written = fs::create_dir_all(&home)
        .and_then(|()| fs::write(home.join("config"), config))
        .and_then(|()| fs::write(home.join("accounts"), account))
        .and_then(|()| fs::write(home.join("contacts"), ""));
    if let Err(error) = written {
        panic!("{}: {error}", home.display());
    }
    let mut command = Namespace::Core.command("baresip");
    command.arg("-f").arg(&home);
    command.args(["-t", &seconds.to_string()]);
    if let Some(uri) = dial {
        command.args(["-e", &format!("/dial {uri}")]);
    }
    let mut process = Process::start("baresip", command);
    wait_for_port(&mut process, "udp", BARESIP.port());
    process
}
