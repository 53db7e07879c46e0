//! PESQ of recordings, by the `pesq` package of PyPI in an environment of its own.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, ensure};
use serde::Serialize;

/// What calls the package.
const SCRIPT: &str = include_str!("pesq.py");
/// What it needs.
const PACKAGES: [&str; 2] = ["numpy>=1.26,<3", "pesq==0.0.4"];

/// A piece of a recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Piece {
    /// What was said.
    pub reference: PathBuf,
    /// What was heard.
    pub heard: PathBuf,
    /// Its first sample that is looked at.
    pub first: u64,
    /// How many.
    pub count: u64,
}

/// A Python with the package.
#[derive(Clone, Debug)]
pub struct Pesq {
    directory: PathBuf,
}

impl Pesq {
    /// Makes the environment in `directory`, or takes the one that is there.
    ///
    /// # Errors
    ///
    /// There is no Python with `venv`, no compiler, or no way to the package index. What to do stands in the error.
    pub fn prepare(directory: &Path) -> anyhow::Result<Self> {
        let pesq = Self {
            directory: directory.to_owned(),
        };
        if !pesq.works() {
            let mut venv = Command::new("python3");
            run(venv.args(["-m", "venv", "--clear"]).arg(directory))
                .context("no Python environment (Debian: python3-venv)")?;
            let mut install = Command::new(pesq.python());
            install.args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ]);
            run(install.args(PACKAGES))
                .context("the package pesq cannot be installed (Debian: gcc, python3-dev)")?;
            ensure!(pesq.works(), "the package pesq does not work");
        }
        fs::write(pesq.script(), SCRIPT)?;
        Ok(pesq)
    }

    fn python(&self) -> PathBuf {
        self.directory.join("bin/python")
    }

    fn script(&self) -> PathBuf {
        self.directory.join("tsc-pesq.py")
    }

    fn works(&self) -> bool {
        run(Command::new(self.python()).args(["-c", "import numpy, pesq"])).is_ok()
    }

    /// Scores of pieces, in their order; `None` where no speech is left.
    ///
    /// # Errors
    ///
    /// The script fails.
    pub fn scores(&self, pieces: &[Piece]) -> anyhow::Result<Vec<Option<f64>>> {
        let mut child = Command::new(self.python())
            .arg(self.script())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut input = child.stdin.take().context("no input")?;
        let lines = pieces
            .iter()
            .map(serde_json::to_string)
            .collect::<Result<Vec<_>, _>>()?;
        let writer = thread::spawn(move || {
            for line in lines {
                // The script's end is seen by its status.
                if writeln!(input, "{line}").is_err() {
                    return;
                }
            }
        });
        let output = BufReader::new(child.stdout.take().context("no output")?);
        let scores = output.lines().map(|line| Ok(serde_json::from_str(&line?)?));
        let scores: anyhow::Result<Vec<Option<f64>>> = scores.collect();
        let _written = writer.join();
        ensure!(child.wait()?.success(), "the script for PESQ failed");
        let scores = scores?;
        ensure!(
            scores.len() == pieces.len(),
            "{} scores of {} pieces",
            scores.len(),
            pieces.len()
        );
        Ok(scores)
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}", said.trim());
    Ok(())
}
