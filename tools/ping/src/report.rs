//! What was found, told as it is found or as JSON at the end.

use std::{
    io::{self, Write as _},
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{
    diagnosis::{self, Finding},
    problem::Problem,
    target::Target,
};

/// Parts of the way, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StepName {
    Resolve,
    Tcp,
    Proxy,
    Tls,
    Dtls,
    Configure,
    Keepalive,
    Mtu,
    Release,
}

impl StepName {
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Tcp => "tcp",
            Self::Proxy => "proxy",
            Self::Tls => "tls",
            Self::Dtls => "dtls",
            Self::Configure => "configure",
            Self::Keepalive => "keepalive",
            Self::Mtu => "mtu",
            Self::Release => "release",
        }
    }
}

/// One step that was taken.
#[derive(Debug, Serialize)]
pub(crate) struct Step {
    pub(crate) step: StepName,
    /// The host, or the address.
    pub(crate) subject: String,
    /// `None` if it was skipped.
    pub(crate) ok: Option<bool>,
    pub(crate) seconds: f64,
    pub(crate) text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) problem: Option<Problem>,
    /// Findings, by name.
    #[serde(flatten)]
    pub(crate) more: Map<String, Value>,
    /// Further lines for people.
    #[serde(skip)]
    pub(crate) lines: Vec<String>,
}

/// What a step that went well has to say.
#[derive(Debug, Default)]
pub(crate) struct Good {
    pub(crate) text: String,
    pub(crate) more: Map<String, Value>,
    pub(crate) lines: Vec<String>,
}

impl Good {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            ..Self::default()
        }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }

    pub(crate) fn line(mut self, line: impl Into<String>) -> Self {
        self.lines.push(line.into());
        self
    }
}

/// Everything about one URL.
#[derive(Debug, Serialize)]
pub(crate) struct Patient {
    pub(crate) url: String,
    /// Whether a tunnel was there.
    pub(crate) possible: bool,
    pub(crate) steps: Vec<Step>,
    /// Steps of the transport that was tried besides.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) also: Vec<Step>,
    /// Which one that was.
    #[serde(skip)]
    pub(crate) besides: Option<tsc_osaa::client::TransportKind>,
    pub(crate) diagnosis: Vec<Finding>,
}

/// Collects, and tells.
#[derive(Debug)]
pub(crate) struct Report {
    json: bool,
    patients: Vec<Patient>,
}

impl Report {
    pub(crate) const fn new(json: bool) -> Self {
        Self {
            json,
            patients: Vec::new(),
        }
    }

    fn say(&self, line: &str) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        writeln!(out, "{line}")?;
        out.flush()
    }

    /// A new URL.
    pub(crate) fn begin(&mut self, target: &Target) -> io::Result<()> {
        if !self.patients.is_empty() {
            self.say("")?;
        }
        self.say(&target.to_string())?;
        self.patients.push(Patient {
            url: target.to_string(),
            possible: false,
            steps: Vec::new(),
            also: Vec::new(),
            besides: None,
            diagnosis: Vec::new(),
        });
        Ok(())
    }

    /// From here on steps belong to a transport that nobody asked for.
    pub(crate) fn besides(&mut self, kind: tsc_osaa::client::TransportKind) -> io::Result<()> {
        self.say(&format!("  besides, over {kind}:"))?;
        if let Some(patient) = self.patients.last_mut() {
            patient.besides = Some(kind);
        }
        Ok(())
    }

    /// The tunnel is there.
    pub(crate) fn set_possible(&mut self) {
        if let Some(patient) = self.patients.last_mut()
            && patient.besides.is_none()
        {
            patient.possible = true;
        }
    }

    pub(crate) fn possible(&self) -> usize {
        let possible = |patient: &&Patient| patient.possible;
        self.patients.iter().filter(possible).count()
    }

    /// A step that began at `start` and is over now.
    pub(crate) fn step(
        &mut self,
        step: StepName,
        subject: impl ToString,
        start: Instant,
        result: Result<Good, Problem>,
    ) -> io::Result<()> {
        let took = start.elapsed();
        let (ok, good, problem) = match result {
            Ok(good) => (true, good, None),
            Err(problem) => {
                let mut good = Good::new(problem.text.clone());
                good.lines.clone_from(&problem.lines);
                good.more.clone_from(&problem.more);
                (false, good, Some(problem))
            }
        };
        self.push(Step {
            step,
            subject: subject.to_string(),
            ok: Some(ok),
            seconds: took.as_secs_f64(),
            text: good.text,
            problem,
            more: good.more,
            lines: good.lines,
        })
    }

    /// A step that makes no sense here.
    pub(crate) fn skip(
        &mut self,
        step: StepName,
        subject: impl ToString,
        why: &str,
    ) -> io::Result<()> {
        self.push(Step {
            step,
            subject: subject.to_string(),
            ok: None,
            seconds: 0.0,
            text: why.to_owned(),
            problem: None,
            more: Map::new(),
            lines: Vec::new(),
        })
    }

    fn push(&mut self, step: Step) -> io::Result<()> {
        let (verdict, took) = match step.ok {
            Some(true) => ("ok", millis(step.seconds)),
            Some(false) => ("FAILED", millis(step.seconds)),
            None => ("-", String::new()),
        };
        let name = step.step.text();
        self.say(&format!(
            "  {verdict:<6}  {name:<9}  {took:>10}  {}: {}",
            step.subject, step.text
        ))?;
        for line in &step.lines {
            self.say(&format!("{:33}{line}", ""))?;
        }
        if let Some(patient) = self.patients.last_mut() {
            if patient.besides.is_some() {
                patient.also.push(step);
            } else {
                patient.steps.push(step);
            }
        }
        Ok(())
    }

    /// The URL is done: what does it all mean?
    pub(crate) fn end(&mut self) -> io::Result<()> {
        let Some(patient) = self.patients.last_mut() else {
            return Ok(());
        };
        patient.diagnosis = diagnosis::diagnose(patient);
        let lines: Vec<String> = patient.diagnosis.iter().map(Finding::to_string).collect();
        self.say("  Diagnosis:")?;
        lines
            .iter()
            .try_for_each(|line| self.say(&format!("    {line}")))
    }

    /// All is told.
    pub(crate) fn finish(&self, exit_code: u8) -> io::Result<()> {
        if !self.json {
            return Ok(());
        }
        let all = json!({ "targets": self.patients, "exit_code": exit_code });
        writeln!(io::stdout().lock(), "{all:#}")
    }
}

/// As people read it.
pub(crate) fn millis(seconds: f64) -> String {
    let millis = seconds * 1000.0;
    if millis < 10.0 {
        format!("{millis:.2} ms")
    } else if millis < 100.0 {
        format!("{millis:.1} ms")
    } else {
        format!("{millis:.0} ms")
    }
}

/// The same of a [`Duration`].
pub(crate) fn time(time: Duration) -> String {
    millis(time.as_secs_f64())
}
