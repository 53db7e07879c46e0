//! OpenTSC's programs: built, found, started, ended.

use std::{
    env,
    fs::File,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};

/// What is started.
const NAMES: [&str; 3] = ["tsc-server", "tsc_sip_server", "tsc_sip_client"];

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Programs(PathBuf);

impl Programs {
    /// Programs that somebody has built.
    ///
    /// # Errors
    ///
    /// One is missing.
    pub fn in_directory(directory: &Path) -> anyhow::Result<Self> {
        let programs = Self(
            directory
                .canonicalize()
                .with_context(|| directory.display().to_string())?,
        );
        for name in NAMES {
            ensure!(
                programs.path(name).is_file(),
                "there is no {}",
                programs.path(name).display()
            );
        }
        Ok(programs)
    }

    /// The programs beside this one, of this state of the sources: cargo builds what is not up to date.
    ///
    /// # Errors
    ///
    /// They cannot be built.
    pub fn build() -> anyhow::Result<Self> {
        let this = env::current_exe()?;
        // target/PROFILE/tsc-quality, or target/PROFILE/deps/test-HASH
        let mut directory = this.parent().context("no directory")?;
        if directory.ends_with("deps") {
            directory = directory.parent().context("no directory")?;
        }
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .args(["build", "--quiet", "--workspace"])
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        cargo.args(NAMES.iter().flat_map(|name| ["--bin", name]));
        cargo.env("CARGO_TARGET_DIR", directory.parent().unwrap_or(directory));
        if directory.ends_with("release") {
            cargo.arg("--release");
        }
        // What `cargo run` says of us is not for the programs: some build scripts look at it, and all that depends on them would be
        // built anew.
        let of_us = [
            "CARGO_PKG_",
            "CARGO_MANIFEST_",
            "CARGO_BIN_",
            "CARGO_CRATE_",
            "CARGO_PRIMARY_",
        ];
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            if of_us.iter().any(|prefix| text.starts_with(prefix)) {
                cargo.env_remove(&name);
            }
        }
        let status = cargo.status().context("cargo is needed, or --programs")?;
        ensure!(status.success(), "the programs cannot be built");
        Self::in_directory(directory)
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.0
    }

    /// One of them.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

/// A running program whose output goes to a receiver, and its standard error to a file. Killed when dropped.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    /// Until they are passed on.
    lines: Option<mpsc::Receiver<String>>,
}

impl Running {
    /// Starts `command`.
    ///
    /// # Errors
    ///
    /// It cannot be started, or the file not be made.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let log = File::create(log).with_context(|| log.display().to_string())?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("{command:?}"))?;
        let output = child.stdout.take().context("no output")?;
        let (said, lines) = mpsc::channel();
        thread::spawn(move || {
            // Ends with the program, or when nobody listens any more.
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if said.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            name: name.to_owned(),
            child,
            lines: Some(lines),
        })
    }

    fn lines(&self) -> anyhow::Result<&mpsc::Receiver<String>> {
        self.lines.as_ref().context("its output goes elsewhere")
    }

    /// Passes on every line from now on.
    pub fn forward(&mut self, mut to: impl FnMut(String) + Send + 'static) {
        if let Some(lines) = self.lines.take() {
            thread::spawn(move || lines.into_iter().for_each(&mut to));
        }
    }

    /// The next line of its output.
    ///
    /// # Errors
    ///
    /// None comes within `limit`, or it has ended.
    pub fn line(&self, limit: Duration) -> anyhow::Result<String> {
        match self.lines()?.recv_timeout(limit) {
            Ok(line) => Ok(line),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                bail!("{} says nothing for {limit:?}", self.name)
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => bail!("{} has ended", self.name),
        }
    }

    /// All that it says until it ends.
    ///
    /// # Errors
    ///
    /// It does not end within `limit`.
    pub fn output(&self, limit: Duration) -> anyhow::Result<String> {
        let end = Instant::now() + limit;
        let mut output = String::new();
        loop {
            match self
                .lines()?
                .recv_timeout(end.saturating_duration_since(Instant::now()))
            {
                Ok(line) => {
                    output.push_str(&line);
                    output.push('\n');
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(output),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    bail!("{} did not end within {limit:?}", self.name)
                }
            }
        }
    }

    /// Asks it to end by SIGTERM and waits for `limit` at most; then it is killed.
    pub fn stop(mut self, limit: Duration) {
        let pid = self.child.id();
        // Built into every shell; the program is not installed everywhere.
        let _asked = Command::new("sh")
            .args(["-c", &format!("kill -s TERM {pid}")])
            .status();
        let end = Instant::now() + limit;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}
