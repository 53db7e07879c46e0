//! Log records on standard error: one line each, for people or for machines.

use std::cell::RefCell;
use std::io::{self, IsTerminal as _, Write};

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{Environment, LogFormat, LogLevel};

/// What is written, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// The least severe records written, unless `filter` says otherwise.
    pub level: LogLevel,
    /// Text or JSON.
    pub format: LogFormat,
    /// Directives such as `info,tsc_csm=debug` (the syntax of `RUST_LOG`) in place of `level`.
    pub filter: Option<String>,
    /// Whether text is coloured.
    pub colour: bool,
}

impl LogOptions {
    /// Reads `RUST_LOG` and `NO_COLOR`. Colours are used on a terminal unless `NO_COLOR` is set.
    ///
    /// # Errors
    ///
    /// When `RUST_LOG` holds no filter.
    pub fn from_environment(
        level: LogLevel,
        format: LogFormat,
        environment: &Environment,
    ) -> Result<Self, LoggingError> {
        let filter = environment.value("RUST_LOG").map(str::to_owned);
        if let Some(filter) = &filter {
            EnvFilter::try_new(filter).map_err(|error| LoggingError::Filter(error.to_string()))?;
        }
        Ok(Self {
            level,
            format,
            filter,
            colour: environment.value("NO_COLOR").is_none() && io::stderr().is_terminal(),
        })
    }
}

/// Why logging could not be set up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoggingError {
    /// The filter cannot be parsed.
    #[error("RUST_LOG is no filter: {0}")]
    Filter(String),
    /// This process has a subscriber already.
    #[error("logging is set up already")]
    AlreadySet,
}

/// Makes standard error the process's log.
///
/// # Errors
///
/// When the filter cannot be parsed, or the process logs elsewhere already.
pub fn init(options: &LogOptions) -> Result<(), LoggingError> {
    let subscriber = subscriber(options, Stderr)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LoggingError::AlreadySet)
}

/// The subscriber that [`init`] installs, for any writer. Times are ISO 8601 in UTC.
///
/// # Errors
///
/// When the filter cannot be parsed.
pub fn subscriber<W>(
    options: &LogOptions,
    writer: W,
) -> Result<Box<dyn Subscriber + Send + Sync>, LoggingError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let directives = options.filter.as_deref();
    let filter = EnvFilter::try_new(directives.unwrap_or_else(|| options.level.as_str()))
        .map_err(|error| LoggingError::Filter(error.to_string()))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer);
    Ok(match options.format {
        LogFormat::Text => Box::new(builder.with_ansi(options.colour).finish()),
        LogFormat::Json => Box::new(builder.json().flatten_event(true).finish()),
    })
}

/// Standard error. A record that cannot be written is dropped: a closed pipe must not stop the server.
struct Stderr;

impl MakeWriter<'_> for Stderr {
    type Writer = Quiet;

    fn make_writer(&self) -> Quiet {
        Quiet
    }
}

struct Quiet;

impl Write for Quiet {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        HELD.with_borrow_mut(|held| held.put(record, &mut io::stderr()));
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = io::stderr().flush();
        Ok(())
    }
}

thread_local! {
    static HELD: RefCell<Held> = const { RefCell::new(Held::new()) };
}

/// Bytes of records that a thread keeps at most before it writes them.
const HELD_MOST: usize = 64 << 10;

/// Records of one thread, to be written by one system call.
struct Held {
    records: Vec<u8>,
    holds: bool,
}

impl Held {
    const fn new() -> Self {
        Self {
            records: Vec::new(),
            holds: false,
        }
    }

    fn put(&mut self, record: &[u8], to: &mut impl Write) {
        if !self.holds {
            let _ = to.write_all(record);
            return;
        }
        self.records.extend_from_slice(record);
        if self.records.len() > HELD_MOST {
            self.write(to);
        }
    }

    fn write(&mut self, to: &mut impl Write) {
        if !self.records.is_empty() {
            let _ = to.write_all(&self.records);
            self.records.clear();
        }
    }
}

/// From now on the records of this thread are written together, when what is returned goes: a turn of a worker that sets up a
/// hundred tunnels is one write. They keep their order, though records of other threads may come before them.
pub(crate) fn hold() -> Holding {
    HELD.with_borrow_mut(|held| held.holds = true);
    Holding
}

/// See [`hold`].
pub(crate) struct Holding;

impl Drop for Holding {
    fn drop(&mut self) {
        HELD.with_borrow_mut(|held| {
            held.holds = false;
            held.write(&mut io::stderr());
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn options(level: LogLevel, format: LogFormat, filter: Option<&str>) -> LogOptions {
        LogOptions {
            level,
            format,
            filter: filter.map(str::to_owned),
            colour: false,
        }
    }

    fn logged(options: &LogOptions) -> String {
        let memory = Memory::default();
        let writer = memory.clone();
        let subscriber = subscriber(options, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(event = "listening", port = 5061, "ready");
            tracing::debug!("detail");
        });
        let bytes = memory.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    /// `2026-11-21T07:00:00.000000Z`.
    fn is_utc_time(text: &str) -> bool {
        let shape: String = text
            .chars()
            .map(|c| if c.is_ascii_digit() { '0' } else { c })
            .collect();
        shape == "0000-00-00T00:00:00.000000Z"
    }

    #[test]
    fn text_is_one_line_with_time_level_and_fields() {
        let log = logged(&options(LogLevel::Info, LogFormat::Text, None));
        assert_eq!(log.lines().count(), 1, "{log}");
        assert!(is_utc_time(log.split(' ').next().unwrap()), "{log}");
        for part in [" INFO ", "ready", "event=\"listening\"", "port=5061"] {
            assert!(log.contains(part), "{part} in {log}");
        }
        assert!(!log.contains('\u{1b}'), "no colours: {log}");
    }

    #[test]
    fn json_is_one_object_a_line() {
        let log = logged(&options(LogLevel::Debug, LogFormat::Json, None));
        let records: Vec<serde_json::Value> = log
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(records.len(), 2);
        assert_eq!(records[0]["event"], "listening");
        assert_eq!(records[0]["level"], "INFO");
        assert_eq!(records[0]["message"], "ready");
        assert!(is_utc_time(records[0]["timestamp"].as_str().unwrap()));
    }

    #[test]
    fn records_are_held_until_they_are_asked_for_or_too_many() {
        let mut held = Held::new();
        let mut written = Vec::new();
        held.put(b"one\n", &mut written);
        assert_eq!(written, b"one\n", "nobody holds");
        held.holds = true;
        held.put(b"two\n", &mut written);
        held.put(b"three\n", &mut written);
        assert_eq!(written, b"one\n");
        held.write(&mut written);
        assert_eq!(written, b"one\ntwo\nthree\n");
        held.put(&vec![b'x'; HELD_MOST + 1], &mut written);
        assert_eq!(held.records, b"");
        assert_eq!(written.len(), 14 + HELD_MOST + 1);
    }

    #[test]
    fn a_filter_takes_the_place_of_the_level() {
        let silent = logged(&options(LogLevel::Trace, LogFormat::Text, Some("off")));
        assert_eq!(silent, "");
        let loud = logged(&options(LogLevel::Off, LogFormat::Text, Some("debug")));
        assert_eq!(loud.lines().count(), 2);
    }

    #[test]
    fn the_environment_is_checked_before_use() {
        let read = |variables: &[(&str, &str)]| {
            let environment = variables.iter().copied().collect();
            LogOptions::from_environment(LogLevel::Info, LogFormat::Text, &environment)
        };
        assert!(matches!(
            read(&[("RUST_LOG", "tsc=nonsense=debug")]),
            Err(LoggingError::Filter(_))
        ));
        assert!(!read(&[("NO_COLOR", "1")]).unwrap().colour);
        let options = read(&[("RUST_LOG", "warn,tsc_csm=trace")]).unwrap();
        assert_eq!(options.filter.as_deref(), Some("warn,tsc_csm=trace"));
    }
}
