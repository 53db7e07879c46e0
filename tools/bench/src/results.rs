//! Results of sections, each in a file of its own, so that a bench can be made in parts.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use tsc_figures::host::{HostInfo, say};
use tsc_load::report::{LoadReport, Report, SubjectReport};

use crate::suite::Section;

/// What a section gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SectionResult {
    /// Where and when.
    pub host: HostInfo,
    /// Command lines.
    pub runs: Vec<String>,
    /// What each said.
    pub reports: Vec<Report>,
}

/// All results that there are, by section.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Results(pub BTreeMap<String, SectionResult>);

/// Measures a section and keeps its result in `directory`.
///
/// # Errors
///
/// A run failed; what is measured by others stays.
pub fn measure(load: &Path, section: &Section, directory: &Path) -> anyhow::Result<()> {
    let mut reports = Vec::new();
    for run in &section.runs {
        reports.push(report(load, run, section.limit).with_context(|| run.join(" "))?);
    }
    let result = SectionResult {
        host: host(),
        runs: section.runs.iter().map(|run| run.join(" ")).collect(),
        reports,
    };
    fs::create_dir_all(directory)?;
    let text = serde_json::to_string_pretty(&result)?;
    fs::write(file(directory, &section.name), text)?;
    Ok(())
}

/// This host, with the versions of what we are compared with.
fn host() -> HostInfo {
    let mut host = HostInfo::read(&["coturn", "openvpn", "wireguard-go", "stunnel4", "libssl3"]);
    host.packages.extend(say("boringtun-cli", &["--version"]));
    host
}

fn file(directory: &Path, section: &str) -> PathBuf {
    directory.join(format!("{section}.json"))
}

/// Runs `tsc-load`, which ends with this process and after `limit` seconds at the latest.
pub(crate) fn report(load: &Path, run: &[String], limit: u32) -> anyhow::Result<Report> {
    let output = Command::new("setpriv")
        .args(["--pdeathsig", "TERM", "--", "timeout", "--kill-after=10"])
        .arg(limit.to_string())
        .arg(load)
        .args(run)
        .arg("--json")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start tsc-load")?;
    // Exit code 1 with a report: more was lost than allowed, which the report tells.
    match serde_json::from_slice(&output.stdout) {
        Ok(report) => Ok(report),
        Err(_) if output.stdout.is_empty() => bail!("{}", output.status),
        Err(error) => Err(error).context("its report"),
    }
}

impl Results {
    /// Reads all sections that are in `directory`.
    ///
    /// # Errors
    ///
    /// It cannot be read, or a file in it is none of ours.
    pub fn read(directory: &Path) -> anyhow::Result<Self> {
        let mut results = BTreeMap::new();
        let entries = fs::read_dir(directory);
        let entries = entries.with_context(|| format!("cannot read {}", directory.display()))?;
        for entry in entries {
            let path = entry?.path();
            let Some(name) = path.file_stem().and_then(|stem| stem.to_str()) else {
                continue;
            };
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let text = fs::read_to_string(&path)?;
            let result = serde_json::from_str(&text);
            let result = result.with_context(|| format!("{} is no result", path.display()))?;
            results.insert(name.to_owned(), result);
        }
        Ok(Self(results))
    }

    /// A subject of a section's last run.
    #[must_use]
    pub fn subject(&self, section: &str, name: &str) -> Option<&SubjectReport> {
        let reports = &self.0.get(section)?.reports;
        find(reports.last()?, name)
    }

    /// A subject of a section's first run.
    #[must_use]
    pub fn first(&self, section: &str, name: &str) -> Option<&SubjectReport> {
        find(self.0.get(section)?.reports.first()?, name)
    }

    /// A subject of each of a section's runs.
    pub fn all<'a>(
        &'a self,
        section: &str,
        name: &'a str,
    ) -> impl Iterator<Item = &'a SubjectReport> + use<'a> {
        let reports = self.0.get(section).map(|result| result.reports.iter());
        let reports = reports.into_iter().flatten();
        reports.filter_map(move |report| find(report, name))
    }

    /// A subject's figures at a load.
    #[must_use]
    pub fn load(&self, section: &str, name: &str, load: &str) -> Option<&LoadReport> {
        at(self.subject(section, name)?, load)
    }

    /// Packets per processor second at the limit, relative to the UDP relay of the same run.
    #[must_use]
    pub fn ratio(&self, section: &str, name: &str) -> Option<f64> {
        self.load(section, name, "max")?.ratio
    }
}

fn find<'a>(report: &'a Report, name: &str) -> Option<&'a SubjectReport> {
    let mut subjects = report.subjects.iter();
    subjects.find(|subject| subject.subject == name)
}

/// Figures at a load.
#[must_use]
pub fn at<'a>(subject: &'a SubjectReport, load: &str) -> Option<&'a LoadReport> {
    subject.loads.iter().find(|one| one.load == load)
}
