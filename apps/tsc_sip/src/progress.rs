//! The progress bars of files, for a terminal.

use std::{fmt, sync::Arc};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::client::{FileProgress, Progress};

/// A bar while the file is on its way, and what is left of it in the end.
const MOVING: &str =
    "{prefix:<9} [{bar:40}] {done:>3} % {bytes:>10} of {total_bytes:<10} {bytes_per_sec}";
const ENDED: &str = "{prefix:<9} [{bar:40}] {done:>3} % {bytes:>10} {msg}";

/// A bar for each of so many files, drawn where `target` says. A file that is sent ends at 100 % with its checksum, one that
/// is not says so where it was.
#[must_use]
pub fn bars(files: usize, target: ProgressDrawTarget) -> Progress {
    let all = MultiProgress::with_draw_target(target);
    let style = |template| {
        let style = ProgressStyle::with_template(template);
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        style.with_key("done", percent)
    };
    let (moving, ended) = (style(MOVING), style(ENDED));
    let bars: Vec<ProgressBar> = (0..files)
        .map(|number| {
            let bar = ProgressBar::new(1).with_style(moving.clone());
            all.add(bar.with_prefix(format!("file {}", number + 1)))
        })
        .collect();
    Progress(Arc::new(move |number, progress| {
        let Some(bar) = bars.get(number) else {
            return;
        };
        match progress {
            FileProgress::Accepted { bytes, total } => {
                bar.set_length(total);
                bar.set_position(bytes);
            }
            FileProgress::Sent { size, sha1 } => {
                bar.set_style(ended.clone());
                // The bar of nothing would be empty.
                bar.set_length(size.max(1));
                bar.set_position(size.max(1));
                bar.finish_with_message(format!("intact, sha1 {sha1}"));
            }
            FileProgress::Failed => {
                bar.set_style(ended.clone());
                bar.abandon_with_message("FAILED");
            }
        }
    }))
}

/// Rounded down, so that 100 is all. (`{percent}` is rounded to the nearest.)
fn percent(state: &ProgressState, out: &mut dyn fmt::Write) {
    let (done, total) = (
        u128::from(state.pos()),
        u128::from(state.len().unwrap_or(1)),
    );
    // A failure leaves a gap in a line on the terminal.
    let _ = write!(out, "{}", done * 100 / total.max(1));
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::InMemoryTerm;

    /// Draws without a limit of so many times a second.
    fn terminal(files: usize) -> (InMemoryTerm, Progress) {
        let terminal = InMemoryTerm::new(10, 120);
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(terminal.clone()), 255);
        (terminal, bars(files, target))
    }

    #[test]
    fn a_bar_shows_how_far_its_file_is() {
        for (bytes, percent, full) in [(0, 0, 0), (250, 25, 10), (500, 50, 20), (999, 99, 39)] {
            let (terminal, progress) = terminal(2);
            progress.0(1, FileProgress::Accepted { bytes, total: 1000 });
            let text = terminal.contents();
            let line = text
                .lines()
                .find(|line| line.starts_with("file 2"))
                .unwrap();
            assert!(line.contains(&format!(" {percent} % ")), "{line}");
            assert!(line.contains(&format!("{bytes} B of 1000 B")), "{line}");
            assert_eq!(line.matches('█').count(), full, "{line}");
            assert!(!line.contains("sha1"), "{line}");
        }
    }

    #[test]
    fn a_bar_ends_at_a_hundred_percent_with_the_checksum() {
        for size in [0, 1, 1000] {
            let (terminal, progress) = terminal(1);
            if size > 0 {
                let (bytes, total) = (size / 2, size);
                progress.0(0, FileProgress::Accepted { bytes, total });
            }
            progress.0(
                0,
                FileProgress::Sent {
                    size,
                    sha1: "c0ffee",
                },
            );
            let text = terminal.contents();
            assert!(text.contains("100 % "), "{text}");
            assert!(text.contains("intact, sha1 c0ffee"), "{text}");
            assert_eq!(text.matches('█').count(), 40, "{text}");
        }
    }

    #[test]
    fn a_file_that_fails_says_so_where_it_was() {
        let (terminal, progress) = terminal(1);
        let (bytes, total) = (250, 1000);
        progress.0(0, FileProgress::Accepted { bytes, total });
        progress.0(0, FileProgress::Failed);
        let text = terminal.contents();
        assert!(text.contains(" 25 % ") && text.contains("FAILED"), "{text}");
        assert!(!text.contains("sha1"), "{text}");
        // One that nobody knows is no reason to panic.
        progress.0(7, FileProgress::Failed);
    }
}
