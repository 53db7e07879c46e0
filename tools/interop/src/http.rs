//! nginx and curl.

use std::{fs, net::SocketAddr, path::Path, process::Command, time::Duration};

use crate::{
    foreign::wait_for_port,
    network::{Namespace, address},
    process::Process,
};

/// Port 80 of both addresses of the core.
pub const CORE: [SocketAddr; 2] = [
    SocketAddr::new(address::CORE_V4, 80),
    SocketAddr::new(address::CORE_V6, 80),
];

/// Starts nginx at `listen`, such as [`CORE`]; it serves the files of `root`, and keeps its own in `directory`.
///
/// # Panics
///
/// When it does not start.
#[must_use]
#[allow(clippy::panic, reason = "a test has no better way to fail")]
pub fn nginx(
    namespace: Namespace,
    listen: &[SocketAddr],
    directory: &Path,
    root: &Path,
) -> Process {
    let path = directory.join("nginx.conf");
    let lines = listen.iter().map(|at| format!("listen {at};"));
    let text = include_str!("nginx.conf")
        .replace("@DIRECTORY@", &directory.display().to_string())
        .replace("@ROOT@", &root.display().to_string())
        .replace("@LISTEN@", &lines.collect::<Vec<_>>().join("\n        "));
    if let Err(error) = fs::write(&path, text) {
        panic!("{}: {error}", path.display());
    }
    let mut command = namespace.command("nginx");
    command.arg("-e").arg("stderr").arg("-c").arg(&path);
    let mut process = Process::start("nginx", command);
    for at in listen {
        wait_for_port(&mut process, "tcp", at.port());
    }
    process
}

/// What curl says of a transfer.
#[derive(Clone, Copy, Debug)]
pub struct Download {
    /// HTTP status; 0 if there was no answer.
    pub status: u16,
    /// Length of the body in bytes.
    pub bytes: u64,
    /// From the start to the end, in seconds.
    pub seconds: f64,
}

impl Download {
    /// In MB/s.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "a rate to look at")]
    pub fn rate(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.seconds
    }
}

/// Fetches `url` into `output`, by a command that says where curl runs (see [`Namespace::command`]) and may have options
/// such as a proxy.
///
/// # Panics
///
/// When curl fails or takes longer than `limit`.
#[allow(clippy::panic, reason = "a test has no better way to fail")]
pub fn curl(mut command: Command, url: &str, output: &Path, limit: Duration) -> Download {
    command
        .args(["--silent", "--show-error", "--globoff", "--output"])
        .arg(output)
        .args(["--max-time", &limit.as_secs().to_string()])
        .args([
            "--write-out",
            "%{http_code} %{size_download} %{time_total}\\n",
        ])
        .arg(url);
    let outcome = Process::run(
        format!("curl {url}"),
        command,
        limit + Duration::from_secs(5),
    );
    let mut words = outcome.output.split_whitespace();
    let mut word = || words.next().unwrap_or_default();
    let download = (word().parse(), word().parse(), word().parse());
    match download {
        (Ok(status), Ok(bytes), Ok(seconds)) if outcome.status.success() => Download {
            status,
            bytes,
            seconds,
        },
        _ => panic!("curl {url}: {}: {}", outcome.status, outcome.output),
    }
}
