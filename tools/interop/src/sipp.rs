//! What SIPp counted.

use std::{fs, path::Path};

/// The last record of SIPp's statistics file (`-trace_stat -stf FILE`). Its exit code tells less: it is 0 for a run
/// without calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// Calls that SIPp made or took.
    pub created: u64,
    /// Those that went through the whole scenario.
    pub successful: u64,
    /// The others that are over.
    pub failed: u64,
    /// SIP messages that were sent again.
    pub retransmissions: u64,
}

impl Statistics {
    /// Reads a statistics file; `None` if it holds no complete record.
    #[must_use]
    pub fn read(path: &Path) -> Option<Self> {
        Self::parse(&fs::read_to_string(path).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines().filter(|line| line.contains(';'));
        let names: Vec<&str> = lines.next()?.split(';').collect();
        let values: Vec<&str> = lines.next_back()?.split(';').collect();
        let value = |name: &str| -> Option<u64> {
            let at = names.iter().position(|found| *found == name)?;
            values.get(at)?.parse().ok()
        };
        Some(Self {
            created: value("TotalCallCreated")?,
            successful: value("SuccessfulCall(C)")?,
            failed: value("FailedCall(C)")?,
            retransmissions: value("Retransmissions(C)")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
StartTime;TotalCallCreated;SuccessfulCall(P);SuccessfulCall(C);FailedCall(P);FailedCall(C);Retransmissions(C);
t;3;3;3;0;0;0;
t;10;5;8;1;1;2;
";

    #[test]
    fn the_last_record_counts() {
        let expected = Statistics {
            created: 10,
            successful: 8,
            failed: 1,
            retransmissions: 2,
        };
        assert_eq!(Statistics::parse(FILE), Some(expected));
        assert_eq!(Statistics::parse("StartTime;TotalCallCreated;\n"), None);
        assert_eq!(Statistics::parse(""), None);
    }
}
