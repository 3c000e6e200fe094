//! The progress of a run: a bar on a terminal, otherwise a line every two seconds.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::output;

/// The interval of progress lines when there is no bar.
const INTERVAL: Duration = Duration::from_secs(2);

/// The progress of one replay.
#[derive(Debug)]
pub(super) struct Progress {
    total: usize,
    bar: Option<ProgressBar>,
    last_line: Instant,
}

impl Progress {
    pub(super) fn new(total: usize) -> anyhow::Result<Self> {
        let bar = if std::io::stderr().is_terminal() {
            let style = ProgressStyle::with_template("{bar:40} {pos} of {len} answered, {per_sec}")?;
            Some(ProgressBar::new(total as u64).with_style(style))
        } else {
            None
        };
        Ok(Self { total, bar, last_line: Instant::now() })
    }

    /// Shows the number of settled requests.
    pub(super) fn at(&mut self, settled: usize) {
        match &self.bar {
            Some(bar) => bar.set_position(settled as u64),
            None if self.last_line.elapsed() >= INTERVAL => {
                self.last_line = Instant::now();
                output::note(format!("{settled} of {} answered", self.total));
            }
            None => {}
        }
    }

    /// Prints a line beside the bar.
    pub(super) fn say(&self, text: impl AsRef<str>) {
        match &self.bar {
            Some(bar) => bar.suspend(|| output::note(text)),
            None => output::note(text),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
